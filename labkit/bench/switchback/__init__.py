"""`labkit bench switchback`: compare int8 with the fastest floating-point way on this machine.

Read in this order: `ways.py` (all ways to compute a linear layer, of which the fastest is the
opponent), `layers.py` (its step and its parts), `model_step.py` (a whole fine-tuning step),
`grid.py` (the grid of `labkit bench switchback` and `kernels`), `report.py` (tables and figures).
"""
