"""`labkit bench step`: compare a whole fine-tuning step of stock TRL with labkit's default.

Stock is `SFTTrainer(model=PATH, args=SFTConfig(use_cpu=True, activation_checkpointing=False, …))`
with PEFT's default LoRA or none (`stock_arm.py`); labkit is what `labkit train` does with the same
model, method, batches and seed (`labkit_arm.py`). Every run is a process, stock takes part twice
(A/A), and the first steps of each run are dropped: they compile, allocate and choose kernels.

TRL trains under bfloat16 autocast unless it is told otherwise. Where this machine multiplies
float32 faster, stock is told to use float32 as labkit does: that is the honest opponent. TRL *as it
comes* takes part beside it there, one step a run, since a step of it takes minutes.

Every sample has `seq_len` random tokens and a loss on the last 12, as an answer to a question has.
How far the hardware would go is measured in the same call: the best rate at which this machine
multiplies matrices of the type that is fast here.
`fraction_of_matmul_peak` is the matmuls that a step cannot do without (`step_time.step_flops`,
logits only where there is a label) at that rate, over the step's time.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from labkit import stats
from labkit.bench import paired
from labkit.bench.paired import BASELINE, CONTROL, Ledger, Plan, Run, Say, interval
from labkit.bench.step.labkit_arm import run_config
from labkit.bench.step.spec import (
    EMBEDDED,
    LABELLED,
    peft_settings,
    tricks_of,
    write_samples,
)
from labkit.bench.switchback.model_step import TINY, TINYLLAMA
from labkit.errors import LabkitError
from labkit.files import appearing, write_json
from labkit.machine import arithmetic

SHAPED = "tinyllama-shaped"
MODELS = (EMBEDDED, SHAPED)
METHODS = ("lora", "full")
HEADLINE = ("lora", 160)
AS_IT_COMES = "stock as it comes"
OURS = {"OMP_WAIT_POLICY": "passive", "TRANSFORMERS_SDPA_FORCE_GQA": "1"}
"""What labkit sets for itself, and stock must not inherit."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What is measured, and how often."""

    models: tuple[str, ...] = (EMBEDDED,)
    """of `MODELS`; tinyllama-shaped has its widths, random weights and `layers` layers"""
    methods: tuple[str, ...] = METHODS
    lengths: tuple[int, ...] = (160, 512, 1024)
    batch_size: int = 8
    layers: int = 2
    ablate: bool = False
    """also run the first case with each trick left off"""
    tiny: bool = False
    """toy models, float32: to see that everything runs, and that losses agree"""
    plan: Plan = field(
        default_factory=lambda: Plan(warmup=2, steps=4, run_seconds=0.0, max_steps=4)
    )

    def __post_init__(self) -> None:
        for key, known in (("models", MODELS), ("methods", METHODS)):
            strange = [name for name in getattr(self, key) if name not in known]
            if strange or not getattr(self, key):
                raise LabkitError(f"{key}={getattr(self, key)}: choose from {', '.join(known)}")
        if not self.lengths or min(self.lengths) <= LABELLED:
            raise LabkitError(f"lengths={self.lengths}: give numbers above {LABELLED}, the labels")
        if self.batch_size < 1 or self.layers < 1:
            raise LabkitError("batch_size and layers must be 1 or more")


QUICK: dict[str, Any] = {
    "lengths": (24,),
    "batch_size": 2,
    "tiny": True,
    "plan": Plan(pairs=4, warmup=1, steps=1, run_seconds=0.0, max_steps=1),
}


def step(
    steps: Steps, *, output_dir: Path, fresh: bool = False, say: Say = lambda line: None
) -> dict[str, Any]:
    """Measure every case; return the JSON of `labkit bench step`.

    cases: [{name, model, method, seq_len, arm, tokens_per_second, peak_bytes}], peak_bytes the
    largest resident set of a training process; comparisons: [{name, ratio, p_value, a_a, …}], each
    with vs_stock_as_it_comes, a ratio, or null where bfloat16 is the fast type;
    ratio {vs_stock_trl: {value, low, high}} and fraction_of_matmul_peak of LoRA on the embedded
    model at 160 tokens (or of the first case measured). Kept in output_dir/step.json as it comes.
    """
    ledger = Ledger(output_dir / "step.json", settings=asdict(steps), fresh=fresh)
    peak = ledger.get("matmul")
    if peak is None:
        peak = paired.in_fresh_process(
            "labkit.bench.step.compare:matmul_peak", say=say, tiny=steps.tiny
        )
        ledger.put("matmul", peak)
    rows: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for model in steps.models:
        folder = _model_folder(model, steps, output_dir)
        for method in steps.methods:
            for length in steps.lengths:
                name = f"{method} {model} {length}"
                runs = _measure(name, steps, folder, method, length, ledger, output_dir, say)
                flops = _step_flops(folder, method, steps.batch_size, length)
                facts = {"model": model, "method": method, "seq_len": length}
                tokens = steps.batch_size * length
                for arm in dict.fromkeys(run["arm"] for run in runs):
                    seconds = median(paired.times(runs, arm))
                    peaks = [run["peak_rss_bytes"] for run in runs if run["arm"] == arm]
                    rows.append({"name": f"{name} {_ARMS.get(arm, arm)}", **facts, "arm": arm,
                                 "tokens_per_second": tokens / seconds,
                                 "peak_bytes": max(peaks)})  # fmt: skip
                compared = paired.conclude(runs, "labkit")
                share = flops / peak["flops_per_second"] / compared["seconds"]["candidate"]
                found.append({"name": name, **facts, **compared, "fraction_of_matmul_peak": share,
                              "warmup_seconds": _warmup(runs),
                              "vs_stock_as_it_comes": _against(AS_IT_COMES, runs),
                              "without": _without(runs)})  # fmt: skip
    head = next((f for f in found if (f["method"], f["seq_len"]) == HEADLINE), found[0])
    outcome = {
        "cases": rows,
        "comparisons": found,
        "ratio": {"vs_stock_trl": head["ratio"]},
        "fraction_of_matmul_peak": head["fraction_of_matmul_peak"],
        "matmul": peak,
        "facts": ledger.values["facts"],
        "settings": ledger.values["key"]["settings"],
    }
    write_json(output_dir / "step.result.json", outcome)
    return outcome


_ARMS = {BASELINE: "stock TRL", CONTROL: "stock TRL again"}


def _measure(
    name: str, steps: Steps, folder: Path, method: str, length: int, ledger: Ledger,
    output_dir: Path, say: Say,
) -> list[Run]:  # fmt: skip
    plan, known = steps.plan, ledger.get(name) or []
    data = output_dir / f"step-{length}.jsonl"
    count = plan.warmup + plan.steps
    write_samples(data, folder, length, steps.batch_size * count)
    spec = {
        "model": str(folder), "data": str(data), "lora": peft_settings(method),
        "bf16": not steps.tiny and arithmetic.fastest() == "bfloat16", "seed": 42,
        "batch_size": steps.batch_size, "steps": count, "learning_rate": 2e-5,
    }  # fmt: skip

    def runner(
        train: Callable[[dict[str, Any], Say], Run], dropped: int = plan.warmup, **more: Any
    ) -> Callable[[], Run]:
        def run() -> Run:
            made = train({**spec, **more}, say)
            made["warmup_seconds"] = made["seconds"][:dropped]
            made["seconds"] = made["seconds"][dropped:]
            return made

        return run

    runners = {
        BASELINE: runner(train_stock),
        "labkit": runner(train_ours),
        CONTROL: runner(train_stock),
    }
    if not spec["bf16"] and not steps.tiny:
        runners[AS_IT_COMES] = runner(train_stock, dropped=0, bf16=True, steps=1)
    if steps.ablate and (method, length) == (steps.methods[0], steps.lengths[0]):
        for trick in tricks_of(spec):
            if spec["lora"] is None and trick == "casts":
                continue
            runners[f"labkit without {trick}"] = runner(train_ours, without=[trick])
    total = len(runners) * plan.pairs
    if len(known) < total:
        say(f"{name}: {total} training runs, a process each")

    def keep(runs: list[Run]) -> None:
        ledger.put(name, runs)
        last = runs[-1]
        rate = steps.batch_size * length / last["median"]
        arm = _ARMS.get(last["arm"], last["arm"])
        say(f"[run {len(runs)}/{total}] {arm}: {last['median']:.3f} s a step, "
            f"{rate:,.0f} tokens/s")  # fmt: skip

    return paired.alternate(runners, plan.pairs, kept=known, on_run=keep)


def train_stock(spec: dict[str, Any], say: Say) -> Run:
    """Train with stock TRL in a process of its own, as `stock_arm.main` says."""
    clean = {k: v for k, v in os.environ.items() if OURS.get(k) != v}
    command = [sys.executable, "-P", str(Path(__file__).with_name("stock_arm.py"))]
    return _run([*command, json.dumps(spec)], clean, say)


def train_ours(spec: dict[str, Any], say: Say) -> Run:
    """Train labkit's way in a process of its own, as `labkit_arm.main` says."""
    command = [sys.executable, "-m", "labkit.bench.step.labkit_arm"]
    return _run([*command, json.dumps(spec)], dict(os.environ), say)


def _run(command: Sequence[str], env: dict[str, str], say: Say) -> Run:
    """Run one training process; return what its last line says."""
    started = time.monotonic()
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        while True:
            try:
                out, err = process.communicate(timeout=paired.SAY_EVERY_SECONDS)
                break
            except subprocess.TimeoutExpired:
                say(f"  still measuring ({time.monotonic() - started:.0f} s)")
    except BaseException:
        process.kill()
        process.communicate()
        raise
    if process.returncode < 0:
        raise LabkitError(
            f"a training process was killed by signal {-process.returncode}, most likely for want "
            "of memory: make the step smaller"
        )
    if process.returncode:
        raise RuntimeError(f"a training process failed:\n{err}")
    run: Run = json.loads(out.splitlines()[-1])
    return run


def matmul_peak(*, tiny: bool = False) -> dict[str, float]:
    """Return the best rate of the fast type's matmuls, flops_per_second, and its m, k, n."""
    import torch

    dtype = getattr(torch, "bfloat16" if tiny else arithmetic.fastest())

    sizes = [(1280, 576, 1536), (1024, 2048, 2048), (2048, 2048, 2048), (4096, 2048, 5632)]
    best: dict[str, float] = {"flops_per_second": 0.0, "m": 0, "k": 0, "n": 0}
    for m, k, n in [(64, 64, 64)] if tiny else sizes:
        a, b = torch.randn(m, k, dtype=dtype), torch.randn(n, k, dtype=dtype)
        out = torch.empty(m, n, dtype=dtype)
        product = lambda a=a, b=b, out=out: torch.mm(a, b.t(), out=out)  # noqa: E731
        timed = paired.time_run(product, Plan(warmup=3, steps=5, run_seconds=0.5, max_steps=400))
        rate = 2 * m * k * n / median(timed["seconds"])
        if rate > best["flops_per_second"]:
            best = {"flops_per_second": rate, "m": m, "k": k, "n": n}
    return best


def _step_flops(folder: Path, method: str, batch_size: int, length: int) -> float:
    """Return the operations a step can't do without: logits only where there is a label."""
    from labkit.memory.architectures import shape_of
    from labkit.memory.of_run import of_run
    from labkit.memory.step_time import step_flops

    config = run_config({
        "model": str(folder), "lora": peft_settings(method), "bf16": True,
        "batch_size": batch_size, "steps": 1, "learning_rate": 2e-5, "seed": 42,
    })  # fmt: skip
    settings = of_run(config, seq_len=length, labelled_tokens=LABELLED)
    shape = shape_of(settings)
    assert shape is not None, "every model here is a Llama"
    return step_flops(shape, settings)


def _model_folder(model: str, steps: Steps, output_dir: Path) -> Path:
    """Return the folder of a model; a TinyLlama-shaped one is made of random weights."""
    from labkit.models import registry

    if model == EMBEDDED:
        return registry.resolve("tiny-llama" if steps.tiny else EMBEDDED)
    folder = output_dir / f"{SHAPED}-{'tiny' if steps.tiny else steps.layers}"
    if not (folder / "config.json").is_file():
        paired.in_fresh_process(
            "labkit.bench.step.compare:make_shaped", say=lambda line: None, folder=folder,
            widths=TINY if steps.tiny else TINYLLAMA, layers=steps.layers,
            tokenizer=registry.resolve("tiny-llama" if steps.tiny else EMBEDDED),
        )  # fmt: skip
    return folder


def make_shaped(folder: Path, widths: dict[str, int], layers: int, tokenizer: Path) -> None:
    """Write a Llama of these widths with random bfloat16 weights and a tokenizer's files."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(num_hidden_layers=layers, tie_word_embeddings=True, **widths)
    with appearing(folder) as partial:
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(partial)
        for file in tokenizer.iterdir():
            if "token" in file.name or file.name.startswith(("chat_template", "vocab", "merges")):
                shutil.copy(file, partial)


def _warmup(runs: Sequence[Run]) -> dict[str, float]:
    """Return the time of the steps that are dropped, by arm: what compiling costs."""
    arms = dict.fromkeys(run["arm"] for run in runs)
    return {a: median(sum(r["warmup_seconds"]) for r in runs if r["arm"] == a) for a in arms}


def _against(arm: str, runs: Sequence[Run]) -> dict[str, float] | None:
    """Return an arm's time over labkit's, with its interval; None where it took no part."""
    theirs = paired.times(runs, arm)
    if not theirs:
        return None
    ratio: dict[str, float] = stats.paired_ratio(theirs, paired.times(runs, "labkit"))["ratio"]
    return ratio


def _without(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Return, for every trick, the time without it over the time with it."""
    prefix = "labkit without "
    arms = [a for a in dict.fromkeys(r["arm"] for r in runs) if a.startswith(prefix)]
    ours = paired.times(runs, "labkit")
    return {
        arm.removeprefix(prefix): stats.paired_ratio(paired.times(runs, arm), ours)["ratio"]
        for arm in arms
    }


def render(outcome: dict[str, Any]) -> str:
    """Return the outcome as text."""
    lines = ["tokens per second of stock TRL and of labkit, ratio with 95 % interval", ""]
    peaks = {row["name"]: row for row in outcome["cases"]}
    lines.append(
        f"{'case':<38} {'stock':>7} {'labkit':>7}  {'ratio':<22} {'A/A':<22} {'of peak':>7}  memory"
    )
    for found in outcome["comparisons"]:
        stock, ours = peaks[f"{found['name']} stock TRL"], peaks[f"{found['name']} labkit"]
        lines.append(
            f"{found['name']:<38} {stock['tokens_per_second']:>7,.0f} "
            f"{ours['tokens_per_second']:>7,.0f}  {interval(found['ratio']):<22} "
            f"{interval(found['a_a']):<22} {found['fraction_of_matmul_peak']:>7.0%}  "
            f"{ours['peak_bytes'] / stock['peak_bytes']:.2f}×"
        )
        if found["vs_stock_as_it_comes"]:
            lines.append(f"    {interval(found['vs_stock_as_it_comes'])} of TRL as it comes")
        for trick, ratio in found["without"].items():
            lines.append(f"    {trick}: {interval(ratio)} faster with it than without")
    rate = outcome["matmul"]["flops_per_second"]
    lines += ["", f"matrix products reach {rate / 1e9:,.0f} GFLOP/s here, measured in this call"]
    return "\n".join(lines)
