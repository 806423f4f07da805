"""Training spread over processes: its checkpoints, and what puts them together."""
