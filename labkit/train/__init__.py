"""Fine-tune a model: one run from its configuration to its record.

run         the run as a whole, resumable
trainer     what labkit changes in transformers' Trainer
fast_step   what makes a step fast on the processor that is here
"""

from labkit.train.run import train, train_repeatedly

__all__ = ["train", "train_repeatedly"]
