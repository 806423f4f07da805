"""labkit: the training and measuring behind a course on efficient fine-tuning.

Importing the package is cheap on purpose: torch is imported where it is used,
so that `labkit --help` answers in well under half a second.
"""

import os

# Read once, when torch loads its OpenMP runtime, hence here. By default a thread that waits for
# the others spins; on a machine shared with other users it then burns the very time the others
# need, and a training step can become several times slower. Waiting threads sleep instead.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Also read once: torch's C++ side warns of memory the profiler did not see being allocated, which
# `labkit.machine.cpu_allocator` counts by other means.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

__version__ = "0.1.0"
