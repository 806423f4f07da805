"""Diagnose what this machine can run, what it cannot, and what to do about it.

checks     all of them, one after another, and the table they make
machine    cores, fast type, memory, GPU, which runs fit
minutes    how long each lesson takes here
places     models, cache, runs, home: whether they can be read and written
software   Python, versions, compiler, notebook kernel
"""

from labkit.doctor.checks import CHECKS, render, report
from labkit.doctor.finding import Finding
from labkit.doctor.machine import training_bytes
from labkit.doctor.software import find_lock

__all__ = ["CHECKS", "Finding", "find_lock", "render", "report", "training_bytes"]
