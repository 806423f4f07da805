"""Train stock TRL on the batches of a labkit run, to compare what both learn.

    labkit train --config lora --max-steps 150 --repeat 2 --name fast
    python -m labkit.bench.records.stock_run --config lora --max-steps 150 \
        --seeds 42 43 --name stock
    python -m labkit.bench.records.equal_quality stock fast --seeds 42 43 --output fast_quality.json

`labkit train` puts the questions on a report into one sequence. Stock TRL (`stock_arm.py`) gets
each of them as a sample of its own, with the whole report before it, and the same ones in each
step; learning rate, schedule, adapters and optimizer are those of the configuration. What differs
is what `fast_step.py` does, the rounding that comes of it, and the adapters' random start.
"""

import argparse
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from labkit.bench.step import compare
from labkit.console import quiet_bitsandbytes, run_tool, say
from labkit.datasets import encode, tatqa
from labkit.errors import LabkitError
from labkit.machine import hardware
from labkit.methods import METHODS
from labkit.models import load
from labkit.runs import records, run_folder
from labkit.runs.config import RunConfig, load_config
from labkit.train.prepare import prepare
from labkit.train.rows import encode_split


def batches(config: RunConfig, model_path: Path) -> list[list[dict[str, Any]]]:
    """Return, for each step of the labkit run, its samples as input_ids and labels.

    Raises:
        LabkitError: steps that would differ in their number of samples, which TRL's cannot.
    """
    from labkit.train.trainer import EpochSampler

    tokenizer = load.load_tokenizer(model_path)
    rows = encode_split(tokenizer, config, "train", shared=True)
    samples = tatqa.samples(tatqa.load(config.data, "train"))[: config.max_train_samples]
    by_report: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        encoded = encode.encode(tokenizer, sample, max_length=config.max_length)
        by_report.setdefault(sample.report.uid, []).append(
            {key: encoded[key] for key in ("input_ids", "labels")}
        )
    groups = list(by_report.values())
    size = config.per_device_train_batch_size * config.gradient_accumulation_steps
    if len(groups) != len(rows) or len({len(g) for g in groups}) > 1 or len(groups) % size:
        raise LabkitError("stock TRL needs as many samples in every step: use the data set tables")
    sampler = EpochSampler(
        lengths=[len(row["input_ids"]) for row in rows], group=size, seed=config.seed
    )
    found: list[list[dict[str, Any]]] = []
    epoch = 0
    while len(found) < config.max_steps:
        sampler.set_epoch(epoch)
        order = list(sampler)
        found += [
            [sample for index in order[at : at + size] for sample in groups[index]]
            for at in range(0, len(order), size)
        ]
        epoch += 1
    return found[: config.max_steps]


def stock_run(config: RunConfig) -> records.RunRecord:
    """Train `config` with stock TRL and keep it as the run config.name.

    Raises:
        LabkitError: no number of steps, a run of that name, or data that does not fit.
    """
    if config.max_steps < 1 or not config.name:
        raise LabkitError("a stock run needs max_steps and a name")
    prepared = prepare(config)
    steps = batches(config, prepared.model_path)
    with run_folder.locked(prepared.folder), tempfile.TemporaryDirectory() as folder:
        if (prepared.folder / "record.json").exists():
            raise LabkitError(f"there is a run {config.name} already: choose another name")
        data = Path(folder) / "samples.jsonl"
        text = "".join(json.dumps(s) + "\n" for batch in steps for s in batch)
        data.write_text(text, encoding="utf-8")
        targets: str | list[str] = list(config.target_modules)
        lora = {
            "r": config.r, "lora_alpha": config.lora_alpha, "task_type": "CAUSAL_LM",
            "target_modules": "all-linear" if targets == ["all-linear"] else targets,
        }  # fmt: skip
        spec = {
            "model": str(prepared.model_path), "data": str(data), "seed": config.seed,
            "lora": None if METHODS[config.method].trains_base else lora,
            "bf16": config.dtype == "bfloat16",
            "batch_size": len(steps[0]), "steps": len(steps),
            "learning_rate": config.learning_rate, "save": str(prepared.folder / "model"),
            "arguments": {key: getattr(config, key) for key in
                          ("warmup_steps", "lr_scheduler_type", "max_grad_norm", "weight_decay")},
        }  # fmt: skip
        started = records.now()
        say(f"{config.name}: {len(steps)} steps of {len(steps[0])} samples")
        made = compare.train_stock(spec, say)
        taught = zip(steps, made["seconds"], made["losses"], strict=True)
        return records.RunRecord(
            id=records.new_id(), name=config.name, status="done", started_at=started,
            # Not the hash of the labkit run, which would be taken for this one.
            sha256=hashlib.sha256(f"stock TRL {prepared.sha256}".encode()).hexdigest(),
            config=config.to_dict(), seed=config.seed, versions=records.versions(),
            hardware=hardware.describe(), model=prepared.model, data=prepared.data,
            steps=[
                {"step": number, "seconds": seconds, "loss": loss, "samples": len(batch),
                 "tokens": sum(len(sample["input_ids"]) for sample in batch)}
                for number, (batch, seconds, loss) in enumerate(taught, start=1)
            ],
            summary={"trained_by": "stock TRL", "switchback_layers": 0,
                     "peak_bytes": {"rss": made["peak_rss_bytes"]}},
        ).save()  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Train one stock run a seed."""
    parser = argparse.ArgumentParser(prog="python -m labkit.bench.records.stock_run")
    parser.add_argument("--config", default="lora")
    parser.add_argument("--max-steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, nargs="+", default=(42, 43))
    parser.add_argument("--name", default="stock")
    options = parser.parse_args(arguments)
    quiet_bitsandbytes()
    for seed in options.seeds:
        config = load_config(options.config).replace(
            max_steps=options.max_steps, seed=seed, name=f"{options.name}-seed{seed}"
        )
        record = stock_run(config)
        say(f"{record.name}: done, last loss {record.losses[-1]:.3f}")


if __name__ == "__main__":
    run_tool(main)
