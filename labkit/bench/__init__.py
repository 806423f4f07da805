"""Benchmarks that can't flatter themselves: two ways to do one thing, side by side.

Read in this order: `harness.py` (runs in alternating order, the control, what is concluded),
`ways.py` (all ways to compute a linear layer, of which the fastest is the opponent), `layers.py`
(its step and its parts), `training.py` (a whole fine-tuning step),
`switchback.py` (the grid of `labkit bench switchback` and `kernels`), `report.py` (tables and
figures). `step.py` compares whole fine-tuning with stock TRL: `stock_trl.py` and `finetuning.py`
are what its processes run. `gpu/` holds what the course says of GPUs against the card that is here.
"""
