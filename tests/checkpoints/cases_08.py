"""Lesson 08: answers that fit the fixture's runs and answers that do not."""

# 8 billion parameters on four devices: 2, 2 and 12 bytes each, the last two shared by stage 2.
HELD = {"parameters": 8_000_000_000, "ranks": 4, "sharding": "zero2", "weights_gb": 16.0}
HELD |= {"gradients_gb": 4.0, "optimizer_gb": 24.0}

SHARED = {"plain_run": "plain", "shared_run": "fsdp", "weights_ratio": 0.5}
SHARED |= {"optimizer_ratio": 0.5, "sent_ratio": 1.5, "time_ratio": 1.4}

FOUR = {"sharding": "fsdp2", "batch_size": 1, "seq_len": 1024, "checkpointing": "on"}
FOUR |= {"full_gib": 33.1, "lora_gib": 17.2, "fits": "fits"}

# Three times the weights in 16 bit, of which three of four pieces leave a device; 300 GB/s.
SENT = {"parameters": 8_000_000_000, "ranks": 4, "sharding": "zero3", "link": "nvlink-3"}
SENT |= {"sent_gb": 36.0, "seconds": 0.12}

TABLE = {
    "08.1": (
        HELD,
        [
            ({"weights_gb": 4.0}, "weights_gb is below what this sharding leaves"),
            ({"gradients_gb": 16.0}, "gradients_gb is above what this sharding leaves"),
            ({"optimizer_gb": 16.0}, "optimizer_gb is below what this sharding leaves"),
            ({"optimizer_gb": 96.0}, "optimizer_gb is above what this sharding leaves"),
            ({"sharding": "zero3"}, "weights_gb is above what this sharding leaves"),
            ({"ranks": 8}, "gradients_gb is above what this sharding leaves"),
            ({"ranks": 1}, "ranks is one device"),
            ({"ranks": 2**21, "weights_gb": 77.0}, "ranks is more devices than anybody has"),
            ({"parameters": -1}, "parameters is not above zero"),
        ],
    ),
    "08.2": (
        SHARED,
        [
            ({"weights_ratio": 2.0}, "weights_ratio is above the ratio of the weights"),
            ({"optimizer_ratio": 1.0}, "optimizer_ratio is above the ratio of the optimizer"),
            ({"sent_ratio": 0.667}, "sent_ratio is below the ratio of the bytes sent"),
            ({"time_ratio": 0.5}, "time_ratio is below the ratio of the median"),
            ({"plain_run": "alone"}, "plain_run ran in one process"),
            ({"shared_run": "pretends"}, "shared_run shared nothing"),
            ({"plain_run": "fsdp", "shared_run": "plain"}, "plain_run shared more than the batch"),
            ({"shared_run": "longer"}, "differ in more than sharding: max_length"),
            ({"shared_run": "unfinished"}, "shared_run is not finished"),
            ({"shared_run": "elsewhere"}, "the runs are of different models"),
        ],
    ),
    "08.3": (
        FOUR,
        [
            ({"full_gib": 149.6}, "full_gib is above the peak of these settings"),
            ({"full_gib": 8.3}, "full_gib is below the peak of these settings"),
            ({"lora_gib": 4.4}, "lora_gib is below the peak of these settings"),
            ({"fits": "does not fit"}, "fits is not what the peak"),
            ({"sharding": "zero1"}, "full_gib is below the peak of these settings"),
            ({"batch_size": 16, "checkpointing": "off"}, "is below the peak of these settings"),
            ({"seq_len": 0}, "seq_len is not above zero"),
        ],
    ),
    "08.4": (
        SENT,
        [
            ({"sent_gb": 48.0}, "sent_gb is above what a ring sends"),
            ({"sent_gb": 24.0}, "sent_gb is below what a ring sends"),
            ({"seconds": 0.06}, "seconds is below what sent_gb takes"),
            ({"link": "pcie-4"}, "seconds is below what sent_gb takes"),
            ({"ranks": 8}, "sent_gb is below what a ring sends"),
            ({"sharding": "zero2"}, "sent_gb is above what a ring sends"),
            ({"ranks": 1}, "ranks is one device"),
            ({"ranks": 2**21, "sent_gb": 1.0, "seconds": 0.0033}, "ranks is more devices than"),
        ],
    ),
}  # fmt: skip

HONEST = {
    "08.1": [
        {"sharding": "fsdp2", "weights_gb": 8.0, "gradients_gb": 8.0, "optimizer_gb": 16.0},
        {"sharding": "zero1", "gradients_gb": 16.0},
        # So many devices that hardly anything is left on one.
        {"sharding": "zero3", "ranks": 1024, "weights_gb": 0.0156, "gradients_gb": 0.0156,
         "optimizer_gb": 0.0938},
    ],
    "08.2": [
        {"shared_run": "zero2", "weights_ratio": 1.0, "sent_ratio": 1.0, "time_ratio": 1.2},
        # Memory was short without sharding, and the run with it was the faster one.
        {"shared_run": "quick", "time_ratio": 0.8},
        {"weights_ratio": 0.51, "optimizer_ratio": 0.49, "time_ratio": 1.41},
    ],
    "08.3": [
        {"sharding": "zero1", "full_gib": 53.3, "fits": "does not fit"},
        {"full_gib": 33.4, "lora_gib": 17.5},
        {"sharding": "zero3", "checkpointing": "off", "full_gib": 37.0, "lora_gib": 23.6,
         "fits": "does not fit"},
    ],
    "08.4": [
        {"sharding": "zero2", "sent_gb": 24.0, "seconds": 0.08},
        {"sharding": "zero1", "link": "pcie-4", "sent_gb": 24.0, "seconds": 0.762},
        {"ranks": 2, "sent_gb": 24.0, "seconds": 0.08},
    ],
}  # fmt: skip


def _found(ran, *, weights=1000, gradients=1000, optimizer=2000, sent=2000):
    each = {"weights": weights, "gradients": gradients, "optimizer_state": optimizer}
    return {"sharding": {"ran": ran, "processes": 2, "held_bytes": [each, each],
                         "sent_bytes": {"step": sent}, "peak_bytes": [5000, 5000]}}  # fmt: skip


def records(a_record):
    """Save runs over two processes: without sharding, with, and some that only seem to be."""
    half = _found("fsdp2", weights=500, gradients=500, optimizer=1000, sent=3000)
    a_record("plain", peak=5000, summary=_found("none"), nproc=2)
    a_record("fsdp", peak=3000, step=1.4, summary=half, nproc=2, sharding="fsdp2")
    a_record("quick", peak=3000, step=0.8, summary=half, nproc=2, sharding="fsdp2")
    a_record("zero2", peak=4000, step=1.2, nproc=2, sharding="zero2",
             summary=_found("zero2", gradients=500, optimizer=1000))  # fmt: skip
    a_record("pretends", peak=5000, step=1.4, summary=_found("none"), nproc=2, sharding="fsdp2")
    a_record("alone", peak=5000)
    a_record("longer", peak=3000, step=1.4, summary=half, nproc=2, sharding="fsdp2", max_length=512)
    a_record("unfinished", peak=3000, step=1.4, summary=half, nproc=2, sharding="fsdp2",
             status="cancelled")  # fmt: skip
    a_record("elsewhere", peak=3000, step=1.4, summary=half, nproc=2, sharding="fsdp2",
             model="tiny-llama")  # fmt: skip
