"""Estimate how long each lesson runs on this machine, from the rates measured on it.

A lesson is counted in what it does, as its profile says: tokens that are trained on, questions that
are answered, processes that are started. The time of each comes from what a processor reaches:

    a token of training    2·P·k / rate of its type  +  its bytes / bandwidth   k = 2 LoRA, 3 full
    a question             23 GFLOP / rate of float32, in which scores are computed
    the rest               seconds that hardly depend on the processor: kernels, imports, traces

P = 106.2 million weights lie in the embedded model's blocks. The bytes stand for everything that is
not a matmul (norms, casts, copies, the optimizer, Python). Two quiet runs of lesson 02
(`tests/runs/before`) left 2.0 ms a token beside their matmuls for LoRA and 2.2 for full on two AMX
cores, in bfloat16: 56 MB at 28 GB/s. Six steps of each in float32, AVX2 played by a busy Zen 4,
left 2.6 ms of processor time on two threads: 75 MB at 29 GB/s.

The fixed seconds of lesson 04's first two sittings are what they took beside other work on two
cores of a Zen 4 (88 and 24 s); those of 03 and 05 have a minute in them by which runs from nothing
took longer than their parts add up to. What is said of the third sitting comes to 33 minutes where
it took 34 beside other work, with AVX2 played by two AMX cores. The appendix is an estimate.

The 23 GFLOP are 0.27 s a question on one AMX thread with 85 GFLOP/s in float32
(`data/results/answering.json`).

Times are for a run from nothing on the embedded model. Records that are there already take seconds.
"""

from dataclasses import dataclass

from labkit.machine import arithmetic
from labkit.runs import profiles

BLOCK_WEIGHTS = 106.2e6
ADAPTERS = 4.9e6
TOKENS_A_STEP = 754
"""of the course's run: 226,173 tokens in 300 steps of two reports with their questions"""
TOKENS_A_SAMPLE = 240
"""of a question with a report of its own"""
STEPS = 300
QUESTIONS = 720
PREFERENCE_BETAS = (0.1, 0.02)
"""of lesson 07, a run for each"""
TRAFFIC_A_TOKEN = {"bfloat16": 56e6, "float32": 75e6}
FLOPS_A_QUESTION = 23e9
TEXT_TOKENS = 24_576
"""of a run of lesson 09"""
ALL_LEARNED = 1.3
"""a token with a label takes the head's 28 million weights three times more"""
TEXT_FLOPS = 2 * (BLOCK_WEIGHTS + 28.3e6)
"""a token that is read"""
TRAIN_START = 8.0
"""seconds until a training run's first step: tokenising, loading, the trainer"""
PROCESS_START = 12.0
COMPILING = 50.0
KERNELS = 14.0
"""seconds to compile the int8 kernels, once on a machine, which lesson 00 is the first to need"""


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work of one lesson."""

    fixed: float
    """seconds"""
    lora_tokens: float = 0.0
    full_tokens: float = 0.0
    other_tokens: float = 0.0
    """trained on in the type that is not the fast one"""
    products: float = 0.0
    """floating-point operations of benchmarks, in the fast type"""
    questions: float = 0.0
    """scored, those of an untouched model counted double: it writes whole sentences"""
    processes: int = 0
    runs: int = 0
    compiled_runs: int = 0


def number(lesson: str) -> str:
    """Return the number in the name of a lesson's file, with that of its sitting if it has one.

    >>> number("02_lora_vs_full"), number("04_3_speed")
    ('02', '04_3')
    """
    return lesson[: 4 if lesson[3:4].isdigit() else 2]


def work(profile: profiles.Profile) -> dict[str, Work]:
    """Return what each lesson does under a profile, by its number."""
    smoke = profile.name == "smoke"
    steps = profile.train.get("max_steps", STEPS)
    share = profile.train.get("per_device_train_batch_size", 2) / 2
    trained = steps * TOKENS_A_STEP * share
    measured = 0.02 if smoke else 1.0  # of a tiny model
    probed = profile.probe_steps * TOKENS_A_STEP * measured
    scored = profile.eval_samples or QUESTIONS
    stage = profile.stages["length"] * profile.stages["batch_size"] * profile.stages["steps"]
    rated = 3 * profile.rate_steps * TOKENS_A_STEP * measured
    by_hand = 3 * 3 * profile.hand_samples * TOKENS_A_SAMPLE
    # A forward pass alone is half of LoRA's products.
    evaluations = steps // profile.train["eval_steps"]
    looked_at = evaluations * profile.train["max_eval_samples"] / 6 * TOKENS_A_STEP / 2 / 2
    # Stages without the later tricks take longer; the first is stock TRL's loop, four times.
    stages = stage * (2 * len(profile.stage_order) + 1)
    sweep = 5 * 256 * (31 + 3 * 8) * 1.5
    # A step of the layers of TinyLlama by the tokens of lesson 04, with dW and without, and of a
    # model of one such layer; how often each is taken, calibrations included.
    layer_step = (6 + 4) * 1280 * (2048 * (2048 + 256) + 2 * 2048 * 5632)
    model_step = 6 * 2048 * 50e6
    products = 240 * layer_step + 30 * 5 * model_step
    return {
        "00": Work(fixed=20 + KERNELS, questions=2 * (profile.eval_samples or 40)),
        "01": Work(fixed=60 if smoke else 180, full_tokens=4 * (64 if smoke else 1024)),
        "02": Work(
            fixed=25, lora_tokens=trained + 7 * probed + rated + looked_at,
            full_tokens=trained + 4 * probed + looked_at * 2 / 3,
            other_tokens=500 + by_hand, questions=4 * scored, runs=20,
            compiled_runs=0 if smoke else 2,
        ),
        "03": Work(
            fixed=40 if smoke else 240, lora_tokens=0.02 * sweep if smoke else sweep,
            processes=4 if smoke else 20,
        ),
        "04_1": Work(fixed=20 if smoke else 90),
        "04_2": Work(fixed=20 if smoke else 30),
        "04_3": Work(fixed=40 if smoke else 600, products=0.0 if smoke else products),
        "05": Work(
            fixed=60 if smoke else 300, questions=4 * min(scored, QUESTIONS) if not smoke else 20,
            lora_tokens=0.0 if not smoke else 300, full_tokens=0.0 if not smoke else 300,
        ),
        # Four methods of 60 steps of one report; choices of lm-eval read a report four times each.
        "06": Work(
            fixed=40 if smoke else 120, runs=4,
            lora_tokens=measured * 4 * (5 if smoke else 60) * TOKENS_A_STEP / 2,
            questions=4 * (1 if smoke else 240 + 8),
        ),
        # Three kinds of steps: the start's, on reports; pairs, which the reference reads as well;
        # the chosen answers alone. A look at the development pairs is half of two such readings.
        "07": Work(
            fixed=40 if smoke else 120, runs=4 + len(PREFERENCE_BETAS),
            lora_tokens=measured * (
                60 * TOKENS_A_STEP / 2
                + (40 * len(PREFERENCE_BETAS) + 3 * 4) * 2 * 2 * TOKENS_A_SAMPLE * 1.5
                + 40 * 2 * TOKENS_A_SAMPLE
                + 40 * 2 * TOKENS_A_SAMPLE * (len(PREFERENCE_BETAS) + 1 / 4)
            ),
            # Of a drawn answer the report is read once for all of a question's, in the fast type.
            questions=4 if smoke else 3 * 240 + 3 * 60 / 2 + 4 * (240 + 90) / 2,
        ),
        # Traces of large models; three runs in float32, which is half as fast where bfloat16 is
        # fast, three of a tiny model, and one server that all processes are forked from.
        "08": Work(
            fixed=20 if smoke else 40, runs=6, processes=1,
            full_tokens=measured * 2 * 3 * (4 if smoke else 8) * TOKENS_A_STEP,
        ),
        # Four runs that learn every token; five models read 48 paragraphs and 192 short choices.
        "09": Work(
            fixed=40 if smoke else 150, runs=4,
            lora_tokens=0.0 if smoke else 4 * TEXT_TOKENS * ALL_LEARNED,
            questions=0 if smoke else 5 * (48 * 150 + 192 * 30) * TEXT_FLOPS / FLOPS_A_QUESTION,
        ),
        "A1": Work(fixed=10, lora_tokens=stages, processes=1,
                   compiled_runs=0 if smoke else 1),
    }  # fmt: skip


def seconds(done: Work, rates: arithmetic.Rates) -> float:
    """Return how long `done` takes at these rates."""
    fast = rates.fastest
    slow = "float32" if fast == "bfloat16" else "bfloat16"

    def training(tokens: float, products: int, dtype: str) -> float:
        flops = 2 * BLOCK_WEIGHTS * products + 6 * ADAPTERS * (products == 2)
        each = flops / getattr(rates, dtype)
        return tokens * (each + TRAFFIC_A_TOKEN[dtype] / rates.bandwidth_bytes_per_second)

    return (
        done.fixed
        + training(done.lora_tokens, 2, fast)
        + training(done.full_tokens, 3, fast)
        + training(done.other_tokens, 2, slow)
        + done.products / getattr(rates, fast)
        + done.questions * FLOPS_A_QUESTION / rates.float32
        + done.processes * PROCESS_START
        + done.runs * TRAIN_START
        + done.compiled_runs * COMPILING
    )


def lesson_seconds(
    profile: profiles.Profile | None = None, rates: arithmetic.Rates | None = None
) -> dict[str, float]:
    """Return the seconds of each lesson on this machine, by its number such as "02".

    Without `rates` the processor is measured again, when nothing else of ours runs, and the best
    that was ever seen counts: other work on the machine only makes a measurement slower.
    """
    rates = rates or arithmetic.rates(fresh=True)
    lessons = work(profile or profiles.current())
    return {number: seconds(done, rates) for number, done in lessons.items()}
