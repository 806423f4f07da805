"""SwitchBack: int8 training of linear layers, from absmax quantisation to a layer.

Read in this order: `reference.py` (the arithmetic), `layer.py` (the three products and which of
them are int8), `triton_kernels.py` (the same arithmetic for NVIDIA GPUs), `defects.py` (how the
original went wrong), `noise.py` (what quantising costs, measured).
"""

from labkit.switchback.layer import SwitchBackLinear, convert

__all__ = ["SwitchBackLinear", "convert"]
