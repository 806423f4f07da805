"""Lesson 07: answers that fit the fixture's runs and answers that do not."""

from labkit.runs import measurements

# The last ten of these steps have the mean of the second half.
LOSSES = [0.6931] * 10 + [0.42] * 10

MOVED = {"run": "dpo", "first_loss": 0.693, "margin": 1.2, "odds_factor": 162_755.0}
MOVED |= {"moved_further": "rejected"}

BETTER = {"first_run": "chosen-alone", "second_run": "dpo", "difference": 5.4}
BETTER |= {"difference_low": 0.8, "difference_high": 10.0, "verdict": "second is better"}

# 100 million weights in float32 are 381.47 MiB; a model of 20 billion in 8 bits takes 20 GB.
COST = {"off_run": "dpo", "copy_run": "copied", "copy_mib": 381.5, "share_of_weights": 1.0}
COST |= {"large_parameters": 20, "large_bits": "8 bits", "large_copy_gb": 20.0}

HELD = {"low_run": "loose", "high_run": "dpo", "low_nats": 40.0, "high_nats": 9.0}
HELD |= {"low_words": 9.5, "high_words": 4.2, "went_further": "lower beta"}

TABLE = {
    "07.1": (
        MOVED,
        [
            ({"first_loss": 0.42}, "first_loss is below that of the record"),
            ({"first_loss": 0.0}, "first_loss is below that of the record"),
            ({"margin": 0.6}, "margin is below the mean margin"),
            ({"margin": 12.0}, "margin is above the mean margin"),
            ({"odds_factor": 3.32}, "odds_factor is below what margin and beta give"),
            ({"odds_factor": 1.2}, "odds_factor is below what margin and beta give"),
            ({"moved_further": "chosen"}, "moved_further has the smaller mean reward"),
            ({"run": "chosen-alone"}, "run is not a run with task: dpo"),
            ({"run": "unfinished"}, "run is not finished"),
        ],
    ),
    "07.2": (
        BETTER,
        [
            ({"difference": -5.4}, "the difference does not lie within its interval"),
            ({"difference": 0.054}, "the difference does not lie within its interval"),
            ({"verdict": "not told apart"}, "verdict is not what the interval says"),
            ({"first_run": "dpo", "second_run": "chosen-alone"},
             "difference_low is not that of your comparison"),
            ({"difference_low": -0.8, "verdict": "not told apart"},
             "difference_low is not that of your comparison"),
            ({"second_run": "chosen-alone"}, "first_run and second_run are the same run"),
            ({"difference_high": 0.8, "difference_low": 10.0}, "is above difference_high"),
        ],
    ),
    "07.3": (
        COST,
        [
            ({"copy_mib": 1000.0}, "copy_mib is above the difference of the two peaks"),
            ({"copy_mib": 400e6}, "copy_mib is above the difference of the two peaks"),
            ({"copy_mib": 400.0}, "copy_mib is above the difference of the two peaks"),  # MB
            ({"share_of_weights": 2.0}, "share_of_weights is above copy_mib over the weights"),
            ({"share_of_weights": 0.5}, "share_of_weights is below copy_mib over the weights"),
            ({"large_copy_gb": 40.0}, "large_copy_gb is above large_parameters times"),
            ({"large_bits": "16 bits"}, "large_copy_gb is below large_parameters times"),
            ({"off_run": "before"}, "off_run has not reference: adapter_off"),
            ({"off_run": "copied", "copy_run": "dpo"}, "off_run has not reference: adapter_off"),
            ({"copy_run": "copied-large"}, "differ in more than their reference"),
            ({"copy_run": "chosen-alone"}, "copy_run is not a run with task: dpo"),
        ],
    ),
    "07.4": (
        HELD,
        [
            ({"low_nats": 0.8}, "low_nats is below minus the mean reward"),
            ({"high_nats": 0.9}, "high_nats is below minus the mean reward"),
            ({"low_nats": -40.0, "went_further": "higher beta"}, "low_nats is below minus"),
            ({"went_further": "higher beta"}, "went_further is the run with fewer nats"),
            ({"low_words": 4.2}, "low_words is below your measurement"),
            ({"high_words": 25.0}, "high_words is above your measurement"),
            ({"low_run": "dpo", "high_run": "loose"}, "low_run has not the lower beta"),
            ({"high_run": "copied"}, "differ in more than beta: reference"),
            ({"low_run": "faster"}, "differ in more than beta: learning_rate"),
        ],
    ),
}  # fmt: skip

HONEST = {
    "07.1": [
        # Both rounded as a table shows them; both answers fell; a run whose margin is below zero.
        {"first_loss": 0.6931, "margin": 1.20, "odds_factor": 163_000},
        {"run": "loose", "margin": 0.7, "odds_factor": 1.586e15, "moved_further": "rejected"},
        {"run": "worse", "margin": -0.1, "odds_factor": 0.368, "moved_further": "chosen"},
    ],
    "07.2": [
        {"first_run": "start", "difference": -2.0, "difference_low": -6.0, "difference_high": 2.0,
         "verdict": "not told apart"},
        {"difference": 5.42, "difference_low": 0.83, "difference_high": 9.96},
        {"first_run": "dpo", "second_run": "loose", "difference": -20.0, "difference_low": -27.0,
         "difference_high": -13.0, "verdict": "first is better"},
    ],
    "07.3": [
        {"copy_mib": 380.0, "share_of_weights": 0.996},
        # bits alone, and bits with the scales of blocks
        {"large_parameters": 70, "large_bits": "4 bits", "large_copy_gb": 35.0},
        {"large_parameters": 70, "large_bits": "4 bits", "large_copy_gb": 38.5},
        {"large_parameters": 8.03, "large_bits": "16 bits", "large_copy_gb": 16.06},
    ],
    "07.4": [
        {"low_nats": 40.4, "high_nats": 8.9, "low_words": 9.52},
        # More freedom, and no use was made of it; a rejected answer that became likelier.
        {"low_run": "dpo", "high_run": "stiff", "low_nats": 9.0, "high_nats": 9.0,
         "low_words": 4.2, "high_words": 4.2, "went_further": "higher beta"},
        {"low_run": "dpo", "high_run": "worse", "low_nats": 9.0, "high_nats": -0.4,
         "low_words": 4.2, "high_words": 4.0, "went_further": "lower beta"},
    ],
}  # fmt: skip

RUNS = {
    # run: beta, and the mean rewards of chosen and rejected answers at the end
    "dpo": (0.1, 0.3, -0.9), "loose": (0.02, -0.1, -0.8), "stiff": (0.5, 0.2, -4.5),
    "worse": (0.1001, -0.06, 0.04),
}  # fmt: skip
WORDS = {"dpo": 4.2, "loose": 9.5, "stiff": 4.2, "worse": 4.0}
DIFFERENCES = [
    ("chosen-alone", "dpo", (5.4, 0.8, 10.0)), ("dpo", "chosen-alone", (-5.4, -10.0, -0.8)),
    ("start", "dpo", (-2.0, -6.0, 2.0)), ("dpo", "loose", (-20.0, -27.0, -13.0)),
]  # fmt: skip


def records(a_record):
    """Save runs with several betas and references, their answers, and how they compare."""

    def tuned(name, *, beta=0.1, chosen=0.3, rejected=-0.9, peak=1_000_000_000, **settings):
        made = a_record(
            name, peak=peak, losses=LOSSES, trainable=500, task="dpo", beta=beta,
            data="jsonl:pairs", **settings,
            summary={"total_parameters": 100_000_500, "arithmetic": "float32"},
        )  # fmt: skip
        rewards = {"chosen": chosen, "rejected": rejected, "margins": chosen - rejected}
        none = dict.fromkeys(rewards, 0.0)
        steps = [{**step, "rewards": none if step["step"] <= 10 else rewards}
                 for step in made.steps]  # fmt: skip
        made.replace(steps=steps).save()

    for name, (beta, chosen, rejected) in RUNS.items():
        tuned(name, beta=beta, chosen=chosen, rejected=rejected)
        measurements.keep("answers_of", {"words": WORDS[name], "well_formed": 0.9, "n": 60},
                          run=name, data="tables")  # fmt: skip
    tuned("faster", beta=0.02, learning_rate=4e-4)
    tuned("copied", reference="copy", peak=1_400_000_000)
    tuned("copied-large", reference="copy", peak=1_400_000_000, max_length=512)
    tuned("before", reference="precomputed")
    tuned("unfinished", status="cancelled")
    a_record("chosen-alone", peak=900, data="jsonl:pairs")
    a_record("start", peak=900, model="tiny-llama")  # what the others began from
    for first, second, (value, low, high) in DIFFERENCES:
        measurements.keep("difference", {"value": value, "low": low, "high": high, "n": 240},
                          first=first, second=second, data="tables")  # fmt: skip
