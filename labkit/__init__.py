"""labkit: the training and measuring behind a course on efficient fine-tuning.

Importing the package is cheap on purpose: torch is imported where it is used,
so that `labkit --help` answers in well under half a second.
"""

__version__ = "0.1.0"
