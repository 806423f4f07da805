"""Run the fine-tuning of `stock_arm.py` the way `labkit train` does it by default.

Run as a module in a process of its own, with the same JSON object as its argument and one more
key, `without`: tricks of `fast_step.py` to leave off, which is how each is measured on its own.

    compile     decoder layers run eagerly
    attention   PyTorch's fused attention at every length
    logits      the output head at every position
    heap        glibc returns freed memory to the kernel
    casts       PEFT copies each adapter's input to float32, the type of its weights

With `profile` true the last step runs under torch's profiler and `costs` says where its time went.
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from labkit.runs.config import RunConfig

LONG_RUN = 300
"""Steps of the run that a few steps stand for: what only a long run earns back is on."""


def run_config(spec: dict[str, Any]) -> RunConfig:
    """Return labkit's configuration of what `spec` asks TRL for."""
    lora = spec["lora"] or {"r": 8, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    return RunConfig(
        model=spec["model"], method="lora" if spec["lora"] else "full", r=lora["r"],
        lora_alpha=lora["lora_alpha"], target_modules=tuple(lora["target_modules"]),
        dtype="bfloat16" if spec["bf16"] else "float32", learning_rate=spec["learning_rate"],
        per_device_train_batch_size=spec["batch_size"], max_steps=spec["steps"], warmup_steps=0.0,
        seed=spec["seed"], keep_weights=False,
    )  # fmt: skip


def main(spec: dict[str, Any]) -> dict[str, Any]:
    """Train for `steps` steps; return seconds, losses and peak_rss_bytes, and the plan."""
    from labkit.console import quiet, quiet_bitsandbytes

    quiet_bitsandbytes()  # before TRL, which imports it
    import transformers
    from datasets import Dataset

    from labkit import methods
    from labkit.bench.step.profile import Profiled
    from labkit.machine.heap import keep_heap
    from labkit.machine.meter import Meter
    from labkit.methods.base import cast_inputs
    from labkit.models import load
    from labkit.runs.progress import Progress
    from labkit.train import fast_step
    from labkit.train.trainer import LabTrainer, MeterCallback, trainer_arguments

    text = Path(spec["data"]).read_text(encoding="utf-8")
    samples = [json.loads(line) for line in text.splitlines()]
    config, without = run_config(spec), set(spec.get("without", ()))
    longest = max(len(sample["input_ids"]) for sample in samples)
    plan = fast_step.plan(config, steps=LONG_RUN, longest=longest, cuda=False)
    plan = replace(
        plan,
        compile_layers=plan.compile_layers and "compile" not in without,
        attn_implementation="sdpa" if "attention" in without else plan.attn_implementation,
        labelled_logits=plan.labelled_logits and "logits" not in without,
        keep_heap=plan.keep_heap and "heap" not in without,
    )
    if plan.keep_heap:
        keep_heap()
    transformers.set_seed(config.seed)
    model = load.load_model(
        Path(spec["model"]), dtype=methods.weights_dtype(config),
        attn_implementation=plan.attn_implementation,
    )  # fmt: skip
    with quiet():
        model = methods.METHODS[config.method].attach(model, config)
    if "casts" in without:
        cast_inputs(model, True)
    meter = Meter([])
    watched = [Profiled(config.max_steps)] if spec.get("profile") else []
    callback = MeterCallback(meter, Progress(total=config.max_steps, label="", quiet=True),
                             marker="")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        arguments = trainer_arguments(config, Path(folder), plan, cuda=False)
        arguments.train_sampling_strategy = "sequential"
        trainer = LabTrainer(
            model=model, args=arguments, train_dataset=Dataset.from_list(samples),
            processing_class=load.load_tokenizer(Path(spec["model"])),
            callbacks=[callback, *watched],
        )  # fmt: skip
        callback.trainer = trainer
        trainer.use(
            meter=meter, labelled_logits=plan.labelled_logits and trainer.has_plain_logits()
        )
        if plan.compile_layers:
            fast_step.compile_layers(model)
        trainer.train()
    return {
        "seconds": [step["seconds"] for step in meter.steps],
        "losses": [step["loss"] for step in meter.steps],
        "peak_rss_bytes": meter.summary()["peak_bytes"]["rss"],
        "attn_implementation": plan.attn_implementation,
        "compiled": plan.compile_layers,
        "costs": watched[0].costs if watched else None,
    }


if __name__ == "__main__":
    result, stdout = main(json.loads(sys.argv[1])), sys.__stdout__
    print("\n" + json.dumps(result), file=stdout, flush=True)
