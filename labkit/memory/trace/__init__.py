"""That step on tensors without storage: what a GPU that is not here would hold."""
