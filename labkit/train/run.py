"""One `train()` for every method: settings in, record out.

    prepare     find model and data, hash the run
    _read       tokenise
    _plan       choose what makes a step fast here
    _arguments  put the settings into the trainer's words
    _attach     load the model, attach the method
    _open       build TRL's trainer of the task with the meter in its loop, at the last checkpoint
    _train      take the steps, save adapter or model, close the record

A trainer of TRL's does the work; which one, and what it reads, is the task's affair (`tasks`).
It shows each batch to the meter, and takes its loss where there is a label (`fast_step`).
`by_hand.py` is the same idea without any of this, in a page.

A run can die at any moment. Every `save_steps` steps a checkpoint is written with everything
the next step depends on: weights, optimizer, schedule, random state, position in the data and
the steps measured so far. It counts only once it is complete, and the one before it is removed
only then; so a killed run, started again, goes on and ends with the weights of an undisturbed
one. Ctrl-C finishes the step, saves, and marks the record cancelled.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit import methods
from labkit.console import quiet as quietly
from labkit.console import quiet_bitsandbytes, say
from labkit.datasets import templates
from labkit.errors import LabkitError
from labkit.machine import hardware
from labkit.machine.heap import keep_heap
from labkit.machine.meter import Meter
from labkit.memory.predicted import predict
from labkit.memory.process import shortage
from labkit.models import load
from labkit.models.layers import count_parameters
from labkit.models.quantised import refuse_odd_widths
from labkit.runs import records, run_folder
from labkit.runs.config import RunConfig
from labkit.runs.progress import Progress
from labkit.train import fast_step
from labkit.train.artifacts import clear, newest_checkpoint, save_model
from labkit.train.prepare import Prepared, prepare, refuse_other
from labkit.train.rows import encode_split, fit_model, total_steps
from labkit.train.sharded import group, launch
from labkit.train.tasks import Task, check_model, task_of


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the model is shown: both splits as the task's rows of token ids, in `steps` steps."""

    task: Task
    tokenizer: Any
    train_set: list[dict[str, Any]]
    dev_set: list[dict[str, Any]] | None
    steps: int
    shared: bool
    model_type: str


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """A model with its method attached, and what training compares it with."""

    model: Any
    reference: Any
    trainable_parameters: int
    total_parameters: int
    switchback_layers: int


@dataclass(frozen=True, kw_only=True)
class Session:
    """A trainer before its next step, and the record that it fills."""

    prepared: Prepared
    inputs: Inputs
    plan: fast_step.Plan
    trainable: Trainable
    trainer: Any
    callback: Any
    labelled_logits: bool
    checkpoint: Path | None
    steps_before: int
    record: records.RunRecord


def train(config: RunConfig, *, fresh: bool = False, quiet: bool = False) -> records.RunRecord:
    """Fine-tune as `config` says and return the record, with the trained weights on disk.

    The same run asked for again returns its finished record at once; `fresh` trains again. An
    interrupted run goes on from its checkpoint. `quiet` prints no progress.

    Raises:
        LabkitError: missing model or data, a sample that does not fit, a run of that name with
            other settings, a folder that cannot be written, a run that is being trained now, or
            not enough memory.
    """
    config = launch.as_asked(config)
    group.join()
    prepared = group.as_first(lambda: prepare(config))
    done = None if fresh else group.as_first(lambda: records.find(prepared.sha256))
    if done is not None:
        if not quiet:
            say(f"{done.name}: already trained, here is its record (--fresh trains it again)")
        return done
    if launch.needed(config):
        with run_folder.given_out(prepared.folder):
            return launch.launch(train, prepared.config, fresh=fresh, quiet=quiet)
    locked = run_folder.locked(prepared.folder) if group.first() else contextlib.nullcontext()
    with locked, shortage.explained(prepared.folder.name), group.explained():
        group.as_first(lambda: refuse_other(prepared, fresh=fresh))
        return _run(prepared, fresh=fresh, quiet=quiet or not group.first())


def train_repeatedly(
    config: RunConfig,
    *,
    repeat: int,
    after: Callable[[records.RunRecord], object] | None = None,
    fresh: bool = False,
) -> list[records.RunRecord]:
    """Train `repeat` times with seeds one apart; a cancelled run ends the row.

    `after` is called with each finished run, to score it for example.
    """
    repeats: list[records.RunRecord] = []
    for index in range(repeat):
        seed = config.seed + index
        name = f"{config.name}-seed{seed}" if config.name and repeat > 1 else config.name
        record = train(config.replace(seed=seed, name=name), fresh=fresh)
        if after is not None and record.status == "done":
            after(record)
            record = records.load(record.path)
        repeats.append(record)
        if record.status == "cancelled":
            break
    return repeats


def _run(prepared: Prepared, *, fresh: bool, quiet: bool) -> records.RunRecord:
    """Take a prepared run through its steps; an error in the first four leaves nothing behind."""
    inputs = _read(prepared)
    plan = _plan(prepared, inputs)
    arguments = _arguments(prepared, plan, inputs.task)
    trainable = _attach(prepared, plan, inputs.task)
    fit_model(trainable.model, inputs.tokenizer, [*inputs.train_set, *(inputs.dev_set or [])],
              task=inputs.task, name=prepared.config.model)  # fmt: skip
    # Not before here: a mistake in the settings must not cost a run that is already there.
    if fresh and group.first():
        clear(prepared.folder)
    session = _open(prepared, inputs, plan, arguments, trainable, quiet=quiet)
    return _train(session)


def _read(prepared: Prepared) -> Inputs:
    """Tokenise the splits that the run reads."""
    config = prepared.config
    tokenizer = templates.use(load.load_tokenizer(prepared.model_path), config.template_name)
    model_config = load.config_of(str(prepared.model_path))
    model_type = model_config.model_type
    methods.check_architecture(config.method, model_type, model=config.model,
                               names=methods.in_training(),
                               base=methods.BASES[config.base])  # fmt: skip
    task = task_of(config.data, config.task)
    check_model(task, config.model, encoder_decoder=model_config.is_encoder_decoder)
    shared = task.shares_prompts and fast_step.shares_prompts(config, model_type)
    train_set = encode_split(tokenizer, config, "train", shared=shared)
    dev_set = encode_split(tokenizer, config, "dev", shared=shared) if config.eval_steps else None
    return Inputs(task=task, tokenizer=tokenizer, train_set=train_set, dev_set=dev_set,
                  steps=total_steps(config, len(train_set)), shared=shared,
                  model_type=model_type)  # fmt: skip


def _plan(prepared: Prepared, inputs: Inputs) -> fast_step.Plan:
    """Choose what makes the step fast here; the allocator is told at once."""
    quiet_bitsandbytes()
    import torch

    longest = max(len(inputs.task.sequence(row)["input_ids"]) for row in inputs.train_set)
    plan = fast_step.plan(prepared.config, steps=inputs.steps, longest=longest,
                          cuda=torch.cuda.is_available(), model_type=inputs.model_type,
                          encoder_decoder=inputs.task.encoder_decoder)  # fmt: skip
    plain = inputs.task.compiles and not group.inside()  # several processes have yet to be tried
    if not plain and prepared.config.torch_compile == "auto":
        plan = dataclasses.replace(plan, compile_layers=False)
    if plan.keep_heap:
        keep_heap()
    return plan


def _arguments(prepared: Prepared, plan: fast_step.Plan, task: Task) -> Any:
    """Return the settings in the trainer's words, which it may refuse."""
    import torch

    from labkit.train.trainer import trainer_arguments

    return trainer_arguments(prepared.config, prepared.folder, plan, kind=task.trainer(),
                             cuda=torch.cuda.is_available())  # fmt: skip


def _attach(prepared: Prepared, plan: fast_step.Plan, task: Task) -> Trainable:
    """Load the base model, convert layers to int8 if asked to, and attach the method."""
    import transformers

    from labkit.switchback import convert, freeze_base

    config = prepared.config
    transformers.set_seed(config.seed)
    try:
        model = load.load_model(prepared.model_path, dtype=methods.weights_dtype(config),
                                attn_implementation=plan.attn_implementation,
                                **methods.load_options(config))  # fmt: skip
    except ImportError as error:
        reason = str(error).splitlines()[0]
        raise LabkitError(
            f"attn_implementation {plan.attn_implementation!r} cannot be used here: {reason}"
        ) from error
    refuse_odd_widths(model, config.model)
    converted: list[str] = []
    if config.use_switchback:
        converted = convert(model, min_features=config.switchback_min_features,
                            weight_scale=config.switchback_weight_scale,
                            weight_gradient=config.switchback_weight_gradient)  # fmt: skip
    model.config._name_or_path = prepared.model["name"]
    reference = task.reference(model, config)
    with quietly():
        model = methods.METHODS[config.method].attach(model, config)
    if converted and not methods.METHODS[config.method].trains_base:
        freeze_base(model)
    trainable, total = count_parameters(model)
    return Trainable(model=model, reference=reference, trainable_parameters=trainable,
                     total_parameters=total, switchback_layers=len(converted))  # fmt: skip


def _open(
    prepared: Prepared, inputs: Inputs, plan: fast_step.Plan, arguments: Any, trainable: Trainable,
    *, quiet: bool,
) -> Session:  # fmt: skip
    """Build the trainer with its meter, at the last checkpoint if there is one; save the record."""
    import torch

    from labkit.train.trainer import MeterCallback, loggers, precision_kept

    config, folder = prepared.config, prepared.folder
    checkpoint, steps_before = group.as_first(lambda: newest_checkpoint(folder))
    meter = Meter(steps_before)
    progress = Progress(total=inputs.steps, label=folder.name, quiet=quiet)
    for note in (*plan.notes, *inputs.task.notes(trainable.reference, config)):
        progress.say(note)
    callback = MeterCallback(meter, progress, marker=run_folder.COMPLETE)
    compared = {} if trainable.reference is None else {"ref_model": trainable.reference}
    with precision_kept(trainable.model):
        trainer = inputs.task.trainer()(
            **compared,
            model=trainable.model,
            args=arguments,
            train_dataset=_as_dataset(inputs.train_set),
            eval_dataset=_as_dataset(inputs.dev_set) if inputs.dev_set else None,
            data_collator=inputs.task.collator(inputs.tokenizer, inputs.shared),
            processing_class=inputs.tokenizer,
            callbacks=[callback, *loggers(config, folder)],
        )
    callback.trainer = trainer
    labelled_logits = plan.labelled_logits and trainer.has_plain_logits()
    if plan.labelled_logits and not labelled_logits:
        progress.say("this model changes its logits, so they are computed at every position")
    trainer.use(meter=meter, labelled_logits=labelled_logits)
    trainer.share(config, counted=not plan.compile_layers)
    if plan.compile_layers:
        fast_step.compile_layers(trainable.model)
        progress.say("compiling the decoder layers: the first step takes longer")
    if checkpoint:
        progress.say(f"going on from step {len(steps_before)}")
    record = _saved(records.RunRecord(
        id=records.new_id(), sha256=prepared.sha256, name=folder.name, status="running",
        started_at=records.now(), config=config.to_dict(), seed=config.seed,
        versions=records.versions(), hardware=hardware.describe(), model=prepared.model,
        data={**prepared.data, "samples": len(inputs.train_set)},
        predicted=predict(config, [inputs.task.sequence(row) for row in inputs.train_set],
                          attention=plan.attn_implementation, labelled_logits=labelled_logits,
                          grouped=plan.group_by_length, cuda=torch.cuda.is_available(),
                          encoder_decoder=inputs.task.encoder_decoder),
    ))  # fmt: skip
    return Session(prepared=prepared, inputs=inputs, plan=plan, trainable=trainable,
                   trainer=trainer, callback=callback, labelled_logits=labelled_logits,
                   checkpoint=checkpoint, steps_before=len(steps_before),
                   record=record)  # fmt: skip


def _train(session: Session) -> records.RunRecord:
    """Train to the end, save the weights, and close the record, whatever ends the run."""
    folder, callback, steps = session.prepared.folder, session.callback, session.inputs.steps
    meter, progress = callback.meter, callback.progress
    try:
        with run_folder.saving_errors(folder), group.explained():
            with run_folder.graceful_interrupt(callback):
                _take_steps(session)
            if callback.interrupted and len(meter.steps) < steps:
                progress.say(f"cancelled after step {len(meter.steps)}: run it again to go on")
                return _close(session, "cancelled")
            if session.prepared.config.keep_weights and session.trainer.gathered():
                with quietly():
                    save_model(session.trainable.model, session.inputs.tokenizer,
                               folder / "model",
                               base_name=session.prepared.model["name"],
                               trained_on=methods.trained_on(session.prepared.config))  # fmt: skip
    except KeyboardInterrupt:
        meter.abandon_step()
        _close(session, "cancelled")
        raise
    except BaseException as error:
        meter.abandon_step()
        with contextlib.suppress(LabkitError):
            _close(session, "failed")
        if callback.began or not isinstance(error, Exception) or isinstance(error, LabkitError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        if session.checkpoint:
            raise LabkitError(
                f"{session.checkpoint} is damaged ({reason}): use --fresh to train from the start"
            ) from error
        if group.first():
            clear(folder)
        raise LabkitError(f"training cannot start with these settings: {reason}") from error
    done = _close(session, "done")
    if group.first():
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    progress.done(done.summary)
    return done


def _take_steps(session: Session) -> None:
    """Take the steps that are left after the checkpoint."""
    checkpoint = str(session.checkpoint) if session.checkpoint else None
    if session.steps_before < session.inputs.steps:
        session.trainer.train(resume_from_checkpoint=checkpoint)
    else:  # only the trained weights were not saved any more
        session.trainer.restore(checkpoint)


def _close(session: Session, status: records.Status) -> records.RunRecord:
    """Save the record with what was measured so far."""
    from labkit.train.trainer import on_development

    meter, trainable = session.callback.meter, session.trainable
    summary = {"trainable_parameters": trainable.trainable_parameters,
               "total_parameters": trainable.total_parameters,
               **meter.summary(), "wall_seconds": session.callback.progress.elapsed(),
               "arithmetic": session.prepared.config.dtype,
               "attn_implementation": session.plan.attn_implementation,
               "compiled": session.plan.compile_layers,
               "switchback_layers": trainable.switchback_layers,
               "labelled_logits": session.labelled_logits,
               "eval_losses": on_development(session.trainer.state.log_history),
               **session.trainer.summary_of_sharing()}  # fmt: skip
    return _saved(session.record.replace(status=status, steps=meter.steps, summary=summary))


def _saved(record: records.RunRecord) -> records.RunRecord:
    """Return a record, saved if this process is the one that writes."""
    return record.save() if group.first() else record


def _as_dataset(encoded: list[dict[str, Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(encoded)
