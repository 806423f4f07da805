"""Fine-tuning methods: what each trains, and how it is attached to a model."""

from labkit.methods.attach import METHODS, Method, attach_full, attach_lora, merge, weights_dtype

__all__ = ["METHODS", "Method", "attach_full", "attach_lora", "merge", "weights_dtype"]
