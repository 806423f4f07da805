"""Benchmarks by lm-eval, and three tasks of labkit's own that need no network."""
