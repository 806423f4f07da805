"""Lesson 02: answers that fit the fixture's runs and answers that do not."""

MEMORY = dict.fromkeys(["r", "max_length"], "no change")
MEMORY |= {"per_device_train_batch_size": "grows", "dtype": "grows"}
MEMORY |= {"gradient_checkpointing": "shrinks"}

TABLE = {
    "02.1": (
        {"run": "lora", "first_loss": 2.0, "last_loss": 1.0, "behaviour": "falls"},
        [
            ({"first_loss": 1.0, "last_loss": 2.0}, "first_loss is below the mean of the run's"),
            ({"last_loss": 1.2}, "last_loss is above the mean of the run's last 10"),
            ({"behaviour": "rises"}, "behaviour is not what the run's losses show"),
            ({"behaviour": "stays"}, "behaviour is not what the run's losses show"),
            ({"run": "full"}, "run is not a run with method: lora"),
            ({"run": "unfinished"}, "run is not finished: its record says cancelled"),
        ],
    ),
    "02.2": (
        {"lora_run": "lora", "full_run": "full", "time_ratio": 1.5, "memory_ratio": 2.5},
        [
            ({"time_ratio": 1 / 1.5}, "time_ratio is below the ratio of the median step times"),
            ({"memory_ratio": 0.4}, "memory_ratio is below the ratio of the peak allocated"),
            ({"lora_run": "full", "full_run": "lora"}, "lora_run is not a run with method: lora"),
            ({"full_run": "full-large"}, "also differ in per_device_train_batch_size"),
            ({"full_run": "lora"}, "full_run is not a run with method: full"),
            ({"lora_run": "unfinished"}, "also differ in max_length"),
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
        ],
    ),
    "02.4": (
        {"run": "lora", "trainable_parameters": 500, "total_parameters": 10_500}
        | {"share_percent": 100 / 21},
        [
            ({"trainable_parameters": 10_500}, "trainable_parameters is above the count"),
            ({"total_parameters": 500}, "total_parameters is below the count in the record"),
            ({"share_percent": 1 / 21}, "share_percent is below what trainable_parameters and"),
            ({"run": "full"}, "run is not a run with method: lora"),
            ({"share_percent": 95.2}, "share_percent is above what"),
        ],
    ),
}


def records(a_record):
    """Save pairs of runs that differ in one setting, one unfinished, one on another batch."""
    a_record("lora", peak=1000)
    a_record("full", peak=2500, step=1.5, method="full", trainable=10_000, learning_rate=5e-5)
    a_record("full-large", peak=9000, step=3.0, method="full", per_device_train_batch_size=16)
    a_record("unfinished", peak=1000, max_length=99, status="cancelled")
    a_record("short", peak=1000, losses=[2.0] * 5, max_length=98)
    a_record("no-memory", peak=None, dtype="float32", lora_dropout=0.1)
    a_record("rank", peak=1010, r=64)
    a_record("batch", peak=1900, per_device_train_batch_size=16)
    a_record("checkpointing", peak=600, gradient_checkpointing=True)
    a_record("length", peak=1000, max_length=256)
    a_record("type", peak=1800, dtype="float32")
