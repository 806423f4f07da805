"""SwitchBack: int8 training of linear layers, from absmax quantisation to a layer.

Read in this order: `reference.py` (the arithmetic), `layer.py` (the three products and which of
them are int8), `noise.py` (what quantising costs, measured), `triton_kernels.py` (the same
arithmetic for NVIDIA GPUs), `kernel_check.py` (how a kernel is checked without one), `defects.py`
(how the original went wrong).
"""

from labkit.switchback.layer import SwitchBackLinear, convert

__all__ = ["SwitchBackLinear", "convert"]
