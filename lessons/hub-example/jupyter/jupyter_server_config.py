"""Every student's server: what is culled and what is shown. In the image it is in /etc/jupyter.

A kernel holds its model in memory until it ends, so idle ones are ended. Busy means running a
cell: a lesson that trains prints a line at least once a minute, so even a culler that looks at
output alone sees that it works. A culled kernel costs no training: the next run goes on from its
last checkpoint.
"""

c = get_config()  # noqa: F821

c.MappingKernelManager.cull_idle_timeout = 60 * 60  # seconds
c.MappingKernelManager.cull_interval = 5 * 60
c.MappingKernelManager.cull_connected = True  # a browser tab left open keeps no memory
c.MappingKernelManager.cull_busy = False
c.ServerApp.shutdown_no_activity_timeout = 3 * 60 * 60

# On a machine that several share, what a kernel and its server tell each other is encrypted.
c.KernelManager.transport_encryption = "auto"

# The memory that the hub allows is shown in the status bar, from MEM_LIMIT.
c.ResourceUseDisplay.mem_warning_threshold = 0.15
