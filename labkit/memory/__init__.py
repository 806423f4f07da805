"""How much memory a training step takes: by formula, by tracing, by measuring."""
