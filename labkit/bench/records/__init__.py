"""Long measurements whose records are committed under `data/results/`: each is a command."""
