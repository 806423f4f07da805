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
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit import fast, hardware, methods, results
from labkit.config import RunConfig
from labkit.datasets import prompts, tatqa
from labkit.errors import LabkitError
from labkit.measure import Meter
from labkit.models import load, registry
from labkit.models.files import fingerprint, say
from labkit.models.quiet import quiet as quietly
from labkit.models.quiet import quiet_bitsandbytes
from labkit.progress import Progress

if TYPE_CHECKING:
    from trl import SFTConfig

COMPLETE = "labkit_steps.json"
"""Marks a checkpoint as complete and holds the steps measured up to it."""


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
            other settings, a folder that cannot be written, or a run that is being trained now.
    """
    prepared = prepare(config)
    if not fresh and (done := results.find(prepared.sha256)) is not None:
        if not quiet:
            say(f"{done.name}: already trained, here is its record (--fresh trains it again)")
        return done
    with _locked(prepared.folder):
        _clear_for(prepared, fresh=fresh)
        return _run(prepared, quiet=quiet)


def prepare(config: RunConfig) -> Prepared:
    """Find model and data and compute the run's content hash; nothing is written."""
    model_path = registry.resolve(config.model)
    model = {"name": registry.name_of(model_path), "sha256": fingerprint(model_path)}
    data = {"name": config.data, "sha256": tatqa.data_sha256(config.data, "train")}
    sha256 = results.content_sha256(config.to_dict(), model=model, data=data)
    short = Path(config.model).name.removesuffix("-instruct")
    name = config.name or f"{short}-{config.method}-{sha256[:8]}"
    return Prepared(config=config, sha256=sha256, folder=results.runs_dir() / name,
                    model_path=model_path, model=model, data=data)  # fmt: skip


def _run(prepared: Prepared, *, quiet: bool) -> results.RunRecord:
    config, folder = prepared.config, prepared.folder
    tokenizer = load.load_tokenizer(prepared.model_path)
    train_set = encode_split(tokenizer, config, "train")
    quiet_bitsandbytes()
    import torch
    import transformers

    cuda = torch.cuda.is_available()
    steps = total_steps(config, len(train_set))
    longest = max(len(sample["input_ids"]) for sample in train_set)
    plan = fast.plan(config, steps=steps, longest=longest, cuda=cuda)
    if plan.keep_heap:
        fast.keep_heap()
    transformers.set_seed(config.seed)
    model = load.load_model(prepared.model_path, dtype=methods.weights_dtype(config),
                            attn_implementation=plan.attn_implementation)  # fmt: skip
    base_name = prepared.model["name"]
    model.config._name_or_path = base_name
    with quietly():
        model = methods.METHODS[config.method].attach(model, config)
    trainable, total = methods.count_parameters(model)

    checkpoint, steps_before = _checkpoint(folder)
    meter = Meter(steps_before)
    record = results.RunRecord(
        id=results.new_id(), sha256=prepared.sha256, name=folder.name, status="running",
        started_at=results.now(), config=config.to_dict(), seed=config.seed,
        versions=results.versions(), hardware=hardware.describe(), model=prepared.model,
        data={**prepared.data, "samples": len(train_set)},
    ).save()  # fmt: skip

    progress = Progress(total=steps, label=folder.name, quiet=quiet)
    for note in plan.notes:
        progress.say(note)
    from labkit.trainer import LabTrainer, MeterCallback

    callback = MeterCallback(meter, progress, marker=COMPLETE)
    trainer = LabTrainer(
        model=model,
        args=_trainer_arguments(config, folder, plan, cuda=cuda),
        train_dataset=_as_dataset(train_set),
        eval_dataset=_as_dataset(encode_split(tokenizer, config, "dev"))
        if config.eval_steps
        else None,
        processing_class=tokenizer,
        callbacks=[callback],
    )
    callback.trainer = trainer
    trainer.use(meter=meter, labelled_logits=plan.labelled_logits)
    if plan.compile_layers:
        fast.compile_layers(model)
        progress.say("compiling the decoder layers: the first step takes longer")
    if checkpoint:
        progress.say(f"going on from step {len(steps_before)}")

    def finish(status: results.Status) -> results.RunRecord:
        summary = {"trainable_parameters": trainable, "total_parameters": total,
                   **meter.summary(), "wall_seconds": progress.elapsed(),
                   "attn_implementation": plan.attn_implementation,
                   "compiled": plan.compile_layers,
                   "eval_losses": callback.eval_losses}  # fmt: skip
        return record.replace(status=status, steps=meter.steps, summary=summary).save()

    try:
        with _saving_errors(folder), _graceful_interrupt(callback):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except KeyboardInterrupt:
        meter.abandon_step()
        finish("cancelled")
        raise
    except BaseException:
        meter.abandon_step()
        with contextlib.suppress(LabkitError):
            finish("failed")
        raise
    if callback.interrupted:
        progress.say(f"cancelled after step {len(meter.steps)}: run it again to go on")
        return finish("cancelled")
    with _saving_errors(folder), quietly():
        save_model(model, tokenizer, folder / "model", base_name=base_name)
    done = finish("done")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    progress.done(done.summary)
    return done


def encode_split(tokenizer: Any, config: RunConfig, split: str) -> list[dict[str, Any]]:
    """Return the split's samples as token ids and labels, each at most max_length long."""
    samples = tatqa.samples(tatqa.load(config.data, split))
    if split == "train" and config.max_train_samples:
        samples = samples[: config.max_train_samples]
    encoded = [prompts.encode(tokenizer, s, max_length=config.max_length) for s in samples]
    return [{k: e[k] for k in ("input_ids", "labels")} for e in encoded]


def total_steps(config: RunConfig, samples: int) -> int:
    """Return how many optimizer steps the run takes."""
    if config.max_steps > 0:
        return config.max_steps
    batches = -(-samples // config.per_device_train_batch_size)
    per_epoch = max(1, -(-batches // config.gradient_accumulation_steps))
    return max(1, round(per_epoch * config.num_train_epochs))


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


def _trainer_arguments(
    config: RunConfig, folder: Path, plan: fast.Plan, *, cuda: bool
) -> "SFTConfig":
    from trl import SFTConfig

    return SFTConfig(
        output_dir=str(folder / "checkpoints"),
        use_cpu=not cuda,
        bf16=config.dtype == "bfloat16",
        max_steps=config.max_steps,
        num_train_epochs=config.num_train_epochs,
        per_device_train_batch_size=config.per_device_train_batch_size,
        per_device_eval_batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=config.warmup_steps,
        lr_scheduler_type=config.lr_scheduler_type,
        optim=config.optim,
        max_grad_norm=config.max_grad_norm,
        max_length=None,
        activation_checkpointing=config.gradient_checkpointing,
        train_sampling_strategy="group_by_length" if plan.group_by_length else "random",
        seed=config.seed,
        data_seed=config.seed,
        eval_strategy="steps" if config.eval_steps else "no",
        eval_steps=config.eval_steps or None,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=None,  # the callback removes the old one once the new one is complete
        logging_strategy="steps" if config.report_to == "tensorboard" else "no",
        logging_steps=1,
        report_to=[config.report_to] if config.report_to != "none" else [],
        disable_tqdm=True,
        dataloader_pin_memory=cuda,
    )


def _as_dataset(encoded: list[dict[str, Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(encoded)


def _checkpoint(folder: Path) -> tuple[Path | None, list[dict[str, Any]]]:
    """Return the newest complete checkpoint and the steps measured up to it."""
    found = sorted(
        (folder / "checkpoints").glob(f"checkpoint-*/{COMPLETE}"),
        key=lambda file: int(file.parent.name.rsplit("-", 1)[1]),
    )
    if not found:
        return None, []
    return found[-1].parent, json.loads(found[-1].read_text())


def _clear_for(prepared: Prepared, *, fresh: bool) -> None:
    """Make the run's folder fit for this run: keep a checkpoint of the same run, nothing else.

    Raises:
        LabkitError: the folder holds a run with other settings and `fresh` was not asked for.
    """
    folder = prepared.folder
    if (folder / "record.json").exists() and not fresh:
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
    for path in folder.iterdir():
        if path.name != ".lock":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the run's folder, created if need be, for this process alone."""
    import filelock

    existed = folder.exists()
    lock = filelock.FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise LabkitError(
            f"{folder.name} is being trained by another process: wait for it, or choose another "
            "name"
        ) from None
    except OSError as error:
        raise LabkitError(f"{folder} cannot be written: {error.strerror or error}") from None
    try:
        yield
    finally:
        lock.release()
        if not existed and not (folder / "record.json").exists():
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _saving_errors(folder: Path) -> Iterator[None]:
    """Turn what libraries raise on a full or read-only disk into one sentence."""
    try:
        yield
    except Exception as error:
        text = str(error)
        signs = ("No space left", "os error 28", "file write failed", "unexpected pos",
                 "Read-only file system", "Permission denied", "Disk quota exceeded")  # fmt: skip
        if isinstance(error, LabkitError) or not any(sign in text for sign in signs):
            raise
        for partial in (folder / ".model.partial", *(folder / "checkpoints").glob("checkpoint-*")):
            if not (partial / COMPLETE).exists():
                shutil.rmtree(partial, ignore_errors=True)
        raise LabkitError(
            f"{folder} cannot be written ({text.splitlines()[0][:120]}): free disk space "
            "(labkit runs list shows what runs take) and start it again"
        ) from error


@contextlib.contextmanager
def _graceful_interrupt(callback: Any) -> Iterator[None]:
    """Let a first Ctrl-C finish the step and save; a second one stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(signum: int, frame: Any) -> None:
        if callback.interrupted:
            raise KeyboardInterrupt
        callback.interrupted = True
        print("stopping after this step …", file=sys.stderr, flush=True)

    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
