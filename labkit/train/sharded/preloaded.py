"""Import what training needs, as the server does that processes are forked from, and say nothing.

bitsandbytes prints at its first import, which would stand in red in a notebook.
"""

import importlib

from labkit.console import quiet_bitsandbytes

quiet_bitsandbytes()
for name in ("labkit.train.run", "labkit.train.trainer"):
    importlib.import_module(name)
