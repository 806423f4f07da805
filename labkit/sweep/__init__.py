"""Sweep batch sizes: memory and throughput of each, and the largest that fits."""

from labkit.sweep.batch_sizes import (
    here,
    largest_batch,
    parse_bytes,
    parse_sizes,
    parse_variants,
    point_of,
    sweep,
)
from labkit.sweep.left_out import leave_one_out
from labkit.sweep.points import Largest, Point, render, say, say_largest

__all__ = [
    "Largest", "Point", "here", "largest_batch", "leave_one_out", "parse_bytes", "parse_sizes",
    "parse_variants", "point_of", "render", "say", "say_largest", "sweep",
]  # fmt: skip
