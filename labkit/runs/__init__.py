"""A run: what is asked for, what came out, and the folder that keeps both.

config       the settings of a run, and the files that ship some
profiles     which model and how much of it a machine can do
records      what came out, as JSON
run_folder   one writer at a time, full disks, Ctrl-C
progress     a line now and then
"""
