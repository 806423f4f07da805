"""One real training step of the real model class, on tensors of any kind."""
