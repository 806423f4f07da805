"""Diagnose what this machine can run, what it cannot, and what to do about it.

checks     all of them, one after another, and the table they make
machine    cores, fast type, memory, GPU, which runs fit
minutes    how long each lesson takes here
places     models, cache, runs, home: whether they can be read and written
software   Python, versions, compiler, notebook kernel
"""

from labkit.doctor.checks import render, report

__all__ = ["render", "report"]
