"""Lesson 02: answers that fit the fixture's runs and answers that do not."""

MEMORY = dict.fromkeys(["r", "max_length"], "no change")
MEMORY |= {"per_device_train_batch_size": "grows", "dtype": "grows"}
MEMORY |= {"gradient_checkpointing": "shrinks", "target_modules": "grows", "optim": "grows"}

NOISY = [2.1, 1.9] * 5 + [1.5, 1.2] + [1.3, 0.7] * 5
"""Means 2.0 and 1.0, first loss 2.1, last 0.7."""
FULL = [2.4] * 10 + [1.5] + [0.8] * 10

TABLE = {
    "02.1": (
        {"run": "lora", "full_run": "full", "first_loss": 2.0, "last_loss": 1.0}
        | {"full_last_loss": 0.8, "dev_loss": 1.45, "full_dev_loss": 1.1}
        | {"behaviour": "falls", "dev_behaviour": "rises before the end"},
        [
            ({"first_loss": 1.0, "last_loss": 2.0}, "first_loss is below the mean of the run's"),
            ({"last_loss": 0.7}, "last_loss is below the mean of the run's last 10"),
            ({"first_loss": 2.4}, "first_loss is above the mean of the run's first 10"),
            ({"full_last_loss": 1.0}, "full_last_loss is above the mean of the full_run's last"),
            ({"dev_loss": 1.0}, "dev_loss is below the development loss at the run's last"),
            ({"dev_loss": 1.3}, "dev_loss is below the development loss at the run's last"),
            ({"full_dev_loss": 1.45}, "full_dev_loss is above the development loss at the full_"),
            ({"behaviour": "rises"}, "behaviour is not what the run's losses show"),
            ({"behaviour": "stays"}, "behaviour is not what the run's losses show"),
            ({"dev_behaviour": "lowest at the end"}, "dev_behaviour is not what the run's eval"),
            ({"run": "full", "full_run": "lora"}, "run is not a run with method: lora"),
            ({"run": "unfinished"}, "run is not finished: its record says cancelled"),
        ],
    ),
    "02.2": (
        {"lora_run": "lora", "full_run": "full", "time_ratio": 1.5, "memory_ratio": 2.5},
        [
            ({"time_ratio": 1 / 1.5}, "time_ratio is below the ratio of the median step times"),
            ({"time_ratio": 150}, "time_ratio is above the ratio of the median step times"),
            ({"memory_ratio": 0.4}, "memory_ratio is below the ratio of the peak allocated"),
            ({"memory_ratio": 1.0}, "memory_ratio is below the ratio of the peak allocated"),
            ({"lora_run": "full", "full_run": "lora"}, "lora_run is not a run with method: lora"),
            ({"full_run": "full-large"}, "also differ in per_device_train_batch_size"),
            ({"full_run": "lora"}, "full_run is not a run with method: full"),
            ({"lora_run": "unfinished"}, "also differ in max_length"),
            ({"full_run": "full-elsewhere"}, "made on different machines: other cores"),
        ],
    ),
    "02.3": (
        MEMORY,
        [
            ({"r": "grows"}, "r: your runs that differ in it alone show otherwise"),
            ({"per_device_train_batch_size": "no change"}, "per_device_train_batch_size: your"),
            ({"gradient_checkpointing": "grows"}, "gradient_checkpointing: your runs"),
            ({"dtype": "shrinks"}, "dtype: your runs"),
            ({"max_length": "grows"}, "max_length: your runs"),
            ({"target_modules": "shrinks"}, "target_modules: your runs"),
            ({"optim": "no change"}, "optim: your runs"),
            ({"optim": "shrinks"}, "optim: your runs"),
        ],
    ),
    "02.4": (
        {"run": "lora", "trainable_parameters": 500, "total_parameters": 10_500}
        | {"share_percent": 100 / 21, "optimizer_bytes": 4000},
        [
            ({"trainable_parameters": 10_500}, "trainable_parameters is above the count"),
            ({"total_parameters": 500}, "total_parameters is below the count in the record"),
            # The base model's, without the adapters.
            ({"total_parameters": 10_000}, "total_parameters is below the count in the record"),
            ({"share_percent": 1 / 21}, "share_percent is below what trainable_parameters and"),
            ({"run": "full"}, "run is not a run with method: lora"),
            ({"share_percent": 95.2}, "share_percent is above what"),
            ({"optimizer_bytes": 8000}, "optimizer_bytes is above what two float32 means"),
            ({"optimizer_bytes": 2000}, "optimizer_bytes is below what two float32 means"),
            ({"optimizer_bytes": 84_000}, "optimizer_bytes is above what two float32 means"),
        ],
    ),
}


def slow(a_record):
    """Save two runs of a machine without bfloat16 units."""
    a_record("slow", peak=1300, step=272.0, losses=NOISY, max_steps=22)
    a_record("slow-full", peak=2600, step=260.0, method="full", max_steps=22)


def evaluated(name, losses, training=NOISY, **settings):
    """Return what saves a run with these development losses."""

    def save(a_record):
        entries = [{"step": 5 * i, "loss": loss} for i, loss in enumerate(losses, start=1)]
        a_record(name, peak=1000, losses=training, summary={"eval_losses": entries}, **settings)

    return save


def no_change(a_record):
    """Save a pair whose peaks are equal to the byte, and one at the border of a change."""
    a_record("equal", peak=1000, max_grad_norm=2.0)
    a_record("equal-r", peak=1000, max_grad_norm=2.0, r=128)
    a_record("border", peak=1030, max_grad_norm=2.0, max_length=2048)


HONEST = {
    "02.1": [
        (
            {"run": "zero", "first_loss": 0, "last_loss": 0, "dev_loss": 0}
            | {"behaviour": "stays", "dev_behaviour": "lowest at the end"},
            evaluated("zero", [0.0, 0.0], [0.0] * 20, r=2),
        ),
        (
            {"run": "tie", "first_loss": 1.0, "last_loss": 1.0, "dev_loss": 1.0}
            | {"behaviour": "stays", "dev_behaviour": "rises before the end"},
            evaluated("tie", [0.99, 1.0], [1.0] * 20, r=3),
        ),
        (
            {"run": "border", "first_loss": 1.0, "last_loss": 0.95, "dev_loss": 1.0}
            | {"behaviour": "stays", "dev_behaviour": "lowest at the end"},
            evaluated("border", [0.99, 1.0], [1.0] * 10 + [0.95] * 10, r=3),
        ),
        ({"first_loss": 2.04, "last_loss": 0.98, "dev_loss": 1.5}, None),
    ],
    "02.2": [
        (
            {"lora_run": "slow", "full_run": "slow-full", "time_ratio": 0.956, "memory_ratio": 2},
            slow,
        ),
        ({"time_ratio": 1.45, "memory_ratio": 2.6}, None),
        (
            {"full_run": "tie", "time_ratio": 1.0, "memory_ratio": 1.0},
            lambda a_record: a_record("tie", peak=1000, method="full", seed=3),
        ),
    ],
    "02.3": [
        ({"r": "no change"}, no_change),
        ({"max_length": "grows"}, no_change),
        ({"max_length": "no change"}, no_change),
    ],
    "02.4": [
        ({"share_percent": 4.8}, None),
        ({"total_parameters": 10_450, "trainable_parameters": 498}, None),
        ({"share_percent": 5.0, "optimizer_bytes": 4096}, None),
        (
            {"run": "all", "trainable_parameters": 10_500, "share_percent": 100}
            | {"optimizer_bytes": 84_000},
            lambda a_record: a_record("all", peak=1000, trainable=10_500, bias="all"),
        ),
    ],
}


def records(a_record):
    """Save pairs of runs that differ in one setting, one unfinished, one on another batch."""
    development = {
        name: {"eval_losses": [{"step": 10, "loss": first}, {"step": 20, "loss": last}]}
        for name, first, last in [("lora", 1.3, 1.45), ("full", 1.2, 1.1)]
    }
    a_record("lora", peak=1000, losses=NOISY, summary=development["lora"])
    full = a_record(
        "full", peak=2500, step=1.5, losses=FULL, method="full", trainable=10_000,
        learning_rate=5e-5, summary=development["full"],
    )  # fmt: skip
    full.replace(name="full-elsewhere", id="id-elsewhere", hardware={"cores": 64}).save()
    a_record("full-sgd", peak=1700, method="full", trainable=10_000, optim="sgd")
    a_record("full-adafactor", peak=1800, method="full", trainable=10_000, optim="adafactor")
    a_record("full-large", peak=9000, step=3.0, method="full", per_device_train_batch_size=16)
    a_record("unfinished", peak=1000, max_length=99, status="cancelled")
    a_record("short", peak=1000, losses=[2.0] * 5, max_length=98)
    a_record("no-memory", peak=None, dtype="float32", lora_dropout=0.1)
    a_record("rank", peak=1010, r=64)
    a_record("batch", peak=1900, per_device_train_batch_size=16)
    a_record("checkpointing", peak=600, gradient_checkpointing=True)
    a_record("length", peak=1000, max_length=256)
    a_record("type", peak=1800, dtype="float32")
    a_record("half", peak=1000, dtype="bfloat16")
    a_record("two-layers", peak=900, target_modules=("q_proj", "v_proj"))
