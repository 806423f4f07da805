"""Compare fine-tuning methods on one model: quality, forgetting, memory, time and size.

arms.yaml   which methods, with which settings and learning rates
plan        how much of each is run
grid        search a rate, train, score: the measurements
conclude    what the measurements say, with intervals
report      table and figure
"""
