"""Fine-tuning methods: what each trains, and how it is attached to a model."""

from labkit.methods.base import Method, Settings
from labkit.methods.bases import BASES, SHORTHANDS, Base
from labkit.methods.registry import (
    METHODS,
    check_architecture,
    check_base,
    check_run,
    in_training,
    joined,
    load_options,
    merge,
    names,
    of_adapter,
    settings_of_training,
    spelt_out,
    split,
    trained_on,
    weights_dtype,
    without_checkpoints,
)

__all__ = [
    "BASES", "METHODS", "SHORTHANDS", "Base", "Method", "Settings", "check_architecture",
    "check_base", "check_run", "in_training", "joined", "load_options", "merge", "names",
    "of_adapter", "settings_of_training", "spelt_out", "split", "trained_on",
    "weights_dtype", "without_checkpoints",
]  # fmt: skip
