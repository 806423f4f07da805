"""Train linear layers in int8 with SwitchBack, from absmax quantisation to a layer.

Read in this order: `reference.py` (the arithmetic), `layer.py` (the three matmuls and which of
them are int8), `triton_kernels.py` (the same arithmetic for NVIDIA GPUs), `cpu.py` and
`cpu_kernels.cpp` (for processors), and in `teaching/`: `noise.py` (what quantising costs,
measured), `kernel_check.py` (how a kernel is checked without a GPU), `defects.py` (how the original
went wrong). `backends.py` says who computes what, `conversion.py` changes a whole model.
"""

from labkit.switchback.conversion import convert, freeze_base
from labkit.switchback.layer import SwitchBackLinear

__all__ = ["SwitchBackLinear", "convert", "freeze_base"]
