"""The machine that is here, and those that only their datasheets tell of.

hardware       cores, memory and its limit, processor, GPUs
datasheets     what devices have by their makers' word
arithmetic     which type is fast here, measured
meter          times and memory of training steps
cpu_allocator  what the CPU's tensors asked for, to the byte
heap           freed memory stays with the process
processes      children that end with their parent
"""
