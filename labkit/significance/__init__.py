"""`labkit stats A B`: is B faster than A, or better, or the same, and how sure is that?

Read in this order: `read.py` (what the files say, and what cannot be compared), `compare.py` (the
tests, the sentence and the figure). The statistics are those of `labkit.stats`.
"""
