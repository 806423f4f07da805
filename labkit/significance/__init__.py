"""`labkit stats A B`: test whether B is faster than A, or better, or equivalent.

Read in this order: `read.py` (what the files say, and what cannot be compared), `compare.py` (the
tests, the sentence and the figure). The statistics are those of `labkit.stats`.
"""
