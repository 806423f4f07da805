"""One `train()` for every method: settings in, record out.

    resolve model and data → tokenise → attach the method → TRL's SFTTrainer, with the meter
    attached → save adapter or model → record

TRL's trainer does the work. `LabTrainer` replaces its loss by one that computes logits only
where there is a label (`fast.labelled_loss`, the same sum), and shows each batch to the meter.

A run can die at any moment. Every `save_steps` steps a checkpoint is written with everything
the next step depends on: weights, optimizer, schedule, random state, position in the data and
the steps measured so far. It counts only once it is complete, and the one before it is removed
only then; so a killed run, started again, goes on and ends with the weights of an undisturbed
one. Ctrl-C finishes the step, saves, and marks the record cancelled.
"""

import contextlib
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit import methods
from labkit.console import say
from labkit.datasets import encode, sharing, tatqa
from labkit.datasets.sharing import SharedPromptCollator
from labkit.errors import LabkitError
from labkit.files import fingerprint
from labkit.machine import arithmetic, hardware
from labkit.machine.heap import keep_heap
from labkit.machine.meter import Meter
from labkit.memory.predicted import predict
from labkit.memory.process import shortage
from labkit.models import load, registry
from labkit.models.layers import count_parameters
from labkit.quiet import quiet as quietly
from labkit.quiet import quiet_bitsandbytes
from labkit.runs import records as results
from labkit.runs import run_folder
from labkit.runs.config import RunConfig
from labkit.runs.progress import Progress
from labkit.train import fast_step

PARTS = (".lock", "record.json", "model", ".model.partial", "checkpoints", "tensorboard")
"""What a run's folder holds."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run that is ready to start: its identity, and where its parts are."""

    config: RunConfig
    sha256: str
    folder: Path
    model_path: Path
    model: dict[str, Any]
    data: dict[str, Any]


def train(config: RunConfig, *, fresh: bool = False, quiet: bool = False) -> results.RunRecord:
    """Fine-tune as `config` says and return the record, with the trained weights on disk.

    The same run asked for again returns its finished record at once; `fresh` trains again. An
    interrupted run goes on from its checkpoint. `quiet` prints no progress.

    Raises:
        LabkitError: missing model or data, a sample that does not fit, a run of that name with
            other settings, a folder that cannot be written, a run that is being trained now, or
            not enough memory.
    """
    prepared = prepare(config)
    if not fresh and (done := results.find(prepared.sha256)) is not None:
        if not quiet:
            say(f"{done.name}: already trained, here is its record (--fresh trains it again)")
        return done
    with run_folder.locked(prepared.folder), shortage.explained(prepared.folder.name):
        _refuse_other(prepared, fresh=fresh)
        return _run(prepared, fresh=fresh, quiet=quiet)


def train_repeatedly(
    config: RunConfig,
    *,
    repeat: int,
    after: Callable[[results.RunRecord], object] | None = None,
    fresh: bool = False,
) -> list[results.RunRecord]:
    """Train `repeat` times with seeds one apart; a cancelled run ends the row.

    `after` is called with each finished run, to score it for example.
    """
    records: list[results.RunRecord] = []
    for index in range(repeat):
        seed = config.seed + index
        name = f"{config.name}-seed{seed}" if config.name and repeat > 1 else config.name
        record = train(config.replace(seed=seed, name=name), fresh=fresh)
        if after is not None and record.status == "done":
            after(record)
            record = results.load(record.path)
        records.append(record)
        if record.status == "cancelled":
            break
    return records


def prepare(config: RunConfig) -> Prepared:
    """Find model and data and compute the run's content hash; nothing is written.

    The type is resolved here: a run that chose float32 by itself and one that was told to are the
    same run, and the records of both say float32.
    """
    data = {"name": config.data, "sha256": tatqa.data_sha256(config.data, "train")}
    model_path = registry.resolve(config.model)  # may download, so not before the data is there
    config = config.replace(dtype=arithmetic.resolve(config.dtype))
    model = {"name": registry.name_of(model_path), "sha256": fingerprint(model_path)}
    sha256 = results.content_sha256(config.to_dict(), model=model, data=data)
    short = Path(config.model).name.removesuffix("-instruct")
    name = config.name or f"{short}-{config.method}-{sha256[:8]}"
    return Prepared(config=config, sha256=sha256, folder=results.runs_dir() / name,
                    model_path=model_path, model=model, data=data)  # fmt: skip


def _run(prepared: Prepared, *, fresh: bool, quiet: bool) -> results.RunRecord:
    config, folder = prepared.config, prepared.folder
    tokenizer = load.load_tokenizer(prepared.model_path)
    model_type = load.config_of(str(prepared.model_path)).model_type
    shared = fast_step.shares_prompts(config, model_type)
    train_set = encode_split(tokenizer, config, "train", shared=shared)
    dev_set = encode_split(tokenizer, config, "dev", shared=shared) if config.eval_steps else None
    quiet_bitsandbytes()
    import torch
    import transformers

    from labkit.switchback import convert, freeze_base
    from labkit.train.trainer import LabTrainer, MeterCallback, loggers, trainer_arguments

    cuda = torch.cuda.is_available()
    steps = total_steps(config, len(train_set))
    longest = max(len(sample["input_ids"]) for sample in train_set)
    plan = fast_step.plan(config, steps=steps, longest=longest, cuda=cuda, model_type=model_type)
    if plan.keep_heap:
        keep_heap()
    arguments = trainer_arguments(config, folder, plan, cuda=cuda)
    transformers.set_seed(config.seed)
    try:
        model = load.load_model(prepared.model_path, dtype=methods.weights_dtype(config),
                                attn_implementation=plan.attn_implementation)  # fmt: skip
    except ImportError as error:
        reason = str(error).splitlines()[0]
        raise LabkitError(
            f"attn_implementation {plan.attn_implementation!r} cannot be used here: {reason}"
        ) from error
    if model.config.is_encoder_decoder:
        raise LabkitError(
            f"{config.model} reads with an encoder and writes with a decoder: labkit train works "
            "on models that only write on, such as smollm2-135m-instruct"
        )
    converted: list[str] = []
    if config.use_switchback:
        converted = convert(model, min_features=config.switchback_min_features,
                            weight_scale=config.switchback_weight_scale,
                            weight_gradient=config.switchback_weight_gradient)  # fmt: skip
    base_name = prepared.model["name"]
    model.config._name_or_path = base_name
    with quietly():
        model = methods.METHODS[config.method].attach(model, config)
    if converted and config.method != "full":
        freeze_base(model)
    trainable, total = count_parameters(model)

    # Not before here: a mistake in the settings must not cost a run that is already there.
    if fresh:
        _clear(folder)
    checkpoint, steps_before = _checkpoint(folder)
    meter = Meter(steps_before)
    progress = Progress(total=steps, label=folder.name, quiet=quiet)
    for note in plan.notes:
        progress.say(note)
    callback = MeterCallback(meter, progress, marker=run_folder.COMPLETE)
    trainer = LabTrainer(
        model=model,
        args=arguments,
        train_dataset=_as_dataset(train_set),
        eval_dataset=_as_dataset(dev_set) if dev_set else None,
        data_collator=SharedPromptCollator(tokenizer.pad_token_id) if shared else None,
        processing_class=tokenizer,
        callbacks=[callback, *loggers(config, folder)],
    )
    callback.trainer = trainer
    labelled_logits = plan.labelled_logits and trainer.has_plain_logits()
    if plan.labelled_logits and not labelled_logits:
        progress.say("this model changes its logits, so they are computed at every position")
    trainer.use(meter=meter, labelled_logits=labelled_logits)
    if plan.compile_layers:
        fast_step.compile_layers(model)
        progress.say("compiling the decoder layers: the first step takes longer")
    if checkpoint:
        progress.say(f"going on from step {len(steps_before)}")

    record = results.RunRecord(
        id=results.new_id(), sha256=prepared.sha256, name=folder.name, status="running",
        started_at=results.now(), config=config.to_dict(), seed=config.seed,
        versions=results.versions(), hardware=hardware.describe(), model=prepared.model,
        data={**prepared.data, "samples": len(train_set)},
        predicted=predict(config, train_set, attention=plan.attn_implementation,
                          labelled_logits=labelled_logits, grouped=plan.group_by_length, cuda=cuda),
    ).save()  # fmt: skip

    def finish(status: results.Status) -> results.RunRecord:
        summary = {"trainable_parameters": trainable, "total_parameters": total,
                   **meter.summary(), "wall_seconds": progress.elapsed(),
                   "arithmetic": config.dtype,
                   "attn_implementation": plan.attn_implementation,
                   "compiled": plan.compile_layers,
                   "switchback_layers": len(converted),
                   "labelled_logits": labelled_logits,
                   "eval_losses": [{"step": entry["step"], "loss": entry["eval_loss"]}
                                   for entry in trainer.state.log_history
                                   if "eval_loss" in entry]}  # fmt: skip
        return record.replace(status=status, steps=meter.steps, summary=summary).save()

    try:
        with run_folder.saving_errors(folder):
            with run_folder.graceful_interrupt(callback):
                if len(steps_before) < steps:
                    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
                else:  # only the trained weights were not saved any more
                    trainer.restore(str(checkpoint))
            if callback.interrupted and len(meter.steps) < steps:
                progress.say(f"cancelled after step {len(meter.steps)}: run it again to go on")
                return finish("cancelled")
            if config.keep_weights:
                with quietly():
                    save_model(model, tokenizer, folder / "model", base_name=base_name)
    except KeyboardInterrupt:
        meter.abandon_step()
        finish("cancelled")
        raise
    except BaseException as error:
        meter.abandon_step()
        with contextlib.suppress(LabkitError):
            finish("failed")
        if callback.began or not isinstance(error, Exception) or isinstance(error, LabkitError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        if checkpoint:
            raise LabkitError(
                f"{checkpoint} is damaged ({reason}): use --fresh to train from the start"
            ) from error
        _clear(folder)
        raise LabkitError(f"training cannot start with these settings: {reason}") from error
    done = finish("done")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    progress.done(done.summary)
    return done


def encode_split(
    tokenizer: Any, config: RunConfig, split: str, *, shared: bool
) -> list[dict[str, Any]]:
    """Return the split's samples as token ids and labels, each at most max_length long.

    With `shared`, samples on one report share sequences, of up to twice that length.
    """
    samples = tatqa.samples(tatqa.load(config.data, split))
    if split == "train" and config.max_train_samples:
        samples = samples[: config.max_train_samples]
    encoded = [encode.encode(tokenizer, s, max_length=config.max_length) for s in samples]
    if not shared:
        return [{k: e[k] for k in ("input_ids", "labels")} for e in encoded]
    groups: dict[str, list[dict[str, Any]]] = {}
    for sample, item in zip(samples, encoded, strict=True):
        groups.setdefault(sample.report.uid, []).append(item)
    return sharing.share_all(list(groups.values()), max_length=2 * config.max_length)


def total_steps(config: RunConfig, samples: int) -> int:
    """Return how many optimizer steps the run takes."""
    if config.max_steps > 0:
        return config.max_steps
    batches = -(-samples // config.per_device_train_batch_size)
    per_epoch = max(1, -(-batches // config.gradient_accumulation_steps))
    return max(1, math.ceil(per_epoch * config.num_train_epochs))


def save_model(model: Any, tokenizer: Any, target: Path, *, base_name: str) -> None:
    """Write the adapter, or the full model in bfloat16, with its tokenizer, whole or not at all."""
    import torch

    temporary = target.with_name(f".{target.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    if hasattr(model, "peft_config"):
        for peft_config in model.peft_config.values():
            peft_config.base_model_name_or_path = base_name
        model.save_pretrained(temporary)
    else:
        state = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
        model.config.dtype = torch.bfloat16
        model.save_pretrained(temporary, state_dict=state)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)


def _as_dataset(encoded: list[dict[str, Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(encoded)


def _checkpoint(folder: Path) -> tuple[Path | None, list[dict[str, Any]]]:
    """Return the newest complete checkpoint and the steps measured up to it."""
    complete = {}
    for file in (folder / "checkpoints").glob(f"checkpoint-*/{run_folder.COMPLETE}"):
        number = int(file.parent.name.rsplit("-", 1)[1])
        with contextlib.suppress(ValueError, KeyError, TypeError):  # damaged: not complete
            steps = json.loads(file.read_text())
            if [step["step"] for step in steps] == list(range(1, number + 1)):
                complete[number] = file.parent, steps
    return complete[max(complete)] if complete else (None, [])


def _refuse_other(prepared: Prepared, *, fresh: bool) -> None:
    """Raise a LabkitError when the folder holds something this run must not replace."""
    folder = prepared.folder
    strange = sorted(path.name for path in folder.iterdir() if path.name not in PARTS)
    if strange and not (folder / "record.json").exists():
        raise LabkitError(f"{folder} is not a run, it holds {strange[0]!r}: choose another name")
    if fresh or not (folder / "record.json").exists():
        return
    old = results.load(folder)
    if old.sha256 == prepared.sha256:
        return
    new = prepared.config.to_dict()
    changed = [k for k in new if k != "name" and old.config.get(k) != new[k]]
    what = ", ".join(f"{k} {old.config.get(k)} → {new[k]}" for k in changed[:3])
    raise LabkitError(
        f"{folder.name} holds another run ({what or 'other data, model or versions'}): "
        "choose another name, or use --fresh to replace it"
    )


def _clear(folder: Path) -> None:
    """Remove what an earlier run of this name left; the lock stays."""
    for name in PARTS[1:]:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
