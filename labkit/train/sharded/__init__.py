"""Train in several processes that share a batch, and with it weights, gradients, optimizer state.

launch    start the processes on this machine, and end them together
group     what a process knows of the others, and says to them
shares    the part of each batch that is this process's
engines, deepspeed_engine    who shares what; without them each process has everything
held      what a process was found to hold
trainer   what these change in transformers' Trainer
traffic   count what is sent
consolidate    put a checkpoint's parts together; from dcp_folder or deepspeed_folder, whose
          torch_files are read piece by piece and named as naming says
"""
