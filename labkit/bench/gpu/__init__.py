"""`labkit bench gpu`: test the course's claims about GPUs on the one that is here.

run      the parts in order, each in a process with a deadline; what is done is kept
card     the GPU that is measured, and its stand-in for a rehearsal without one
memory   traced against allocated and reserved bytes; the largest batch; step times
kernels  SwitchBack's kernels: exact, then timed against 16 bit, whole layers and parts
training TinyLlama-1.1B, full fine-tuning, with and without SwitchBack
report   what the record says of each claim
reading  a kept record, as the lessons show it
"""
