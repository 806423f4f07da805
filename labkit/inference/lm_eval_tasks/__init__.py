"""Run lm-eval's benchmarks, and three tasks of labkit's own that need no network."""
