"""Benchmark two ways to do one thing side by side, in a way that cannot flatter either.

paired       runs in alternating order, the control, what is concluded
step/        a whole fine-tuning step, stock TRL against labkit
switchback/  int8 against the fastest way to compute a linear layer here
records/     long measurements whose records are committed
gpu/         what the course says of GPUs, held against the card that is here
"""
