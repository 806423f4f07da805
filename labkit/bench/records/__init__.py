"""Make the records that are committed under `data/results/`: one command for each."""
