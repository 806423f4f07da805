"""TRL's trainers with the meter in their loop.

Four things differ from the stock trainers: the loss needs logits only at labelled positions
(see `fast_step.labelled_loss`; switched off, the stock loss runs), each batch is shown to the
meter, the order of the data depends on seed and epoch alone, and a checkpoint counts as complete
only when a marker with the measured steps lies in it. `Metered` is what all tasks' trainers share;
`LabTrainer` is `SFTTrainer` with it, and other tasks' stand in files of their own.

This module imports torch and TRL when it is imported; only `train` and `bench` do that.
"""

import contextlib
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import (
    PrinterCallback,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)  # fmt: skip
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames
from trl import SFTConfig, SFTTrainer

from labkit.console import quiet
from labkit.errors import LabkitError, nearest
from labkit.files import write_json
from labkit.machine import arithmetic
from labkit.machine.meter import Meter
from labkit.runs.config import RunConfig
from labkit.runs.progress import Progress
from labkit.train import fast_step
from labkit.train.sharded import group
from labkit.train.sharded.shares import IGNORED
from labkit.train.sharded.trainer import Sharded

ENOUGH_POSITIONS = 64
ON_DEVELOPMENT = {
    "eval_bits_per_byte": "bits_per_byte", "eval_rewards/accuracies": "preference_accuracy",
    "eval_rewards/margins": "reward_margin", "eval_rewards/chosen": "reward_chosen",
    "eval_rewards/rejected": "reward_rejected",
}  # fmt: skip
"""What trainers of some tasks find out on the development split, and what a record calls it."""


class EpochSampler(LengthGroupedSampler):
    """Batches of like length, in an order that depends on seed and epoch alone.

    The stock sampler draws from the global random state, which dropout moves on: a run that is
    resumed in a later epoch would see its data in another order.
    """

    def __init__(self, *, lengths: list[int], group: int, seed: int) -> None:
        super().__init__(group, lengths=lengths, generator=torch.Generator())
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(self.seed + self.epoch)
        return super().__iter__()


def refuse_diverged(what: str, loss: float, step: int, *, learning_rate: float) -> None:
    """Raise LabkitError when a loss is no number any more."""
    if not math.isfinite(loss):
        raise LabkitError(
            f"the {what} is {loss} at step {step}: the run has diverged, so lower learning_rate, "
            f"which is {learning_rate}"
        )


class Metered(Sharded):
    """What labkit changes in a trainer of TRL's, whatever the task; goes before it in the bases."""

    Arguments: ClassVar[type[TrainingArguments]]
    """what the trainer is configured by"""
    meter: Meter | None = None
    labelled_logits = False

    @staticmethod
    def own_arguments(config: RunConfig) -> dict[str, Any]:
        """Return what `Arguments` takes beyond the arguments of all trainers."""
        return {"max_length": None}

    def use(self, *, meter: Meter | None, labelled_logits: bool) -> None:
        """Attach the meter and choose the loss; call once after construction."""
        self.meter = meter
        self.labelled_logits = labelled_logits
        self.remove_callback(PrinterCallback)
        self.step_loss = 0.0
        self.developed = [0.0, 0.0]  # nats and labels of the development split

    def has_plain_logits(self) -> bool:
        """Whether labelled positions alone give this model's loss."""
        return True

    def step_metrics(self) -> dict[str, Any]:
        """Return what the step that ended goes into the record with, beside loss and time."""
        return {}

    def lengths(self, rows: Any) -> list[int]:
        """Return the tokens of each row, by which batches are put together."""
        return [len(ids) for ids in rows["input_ids"]]

    def see(self, inputs: Any) -> None:
        """Show a batch of training to the meter."""
        if not self.model.training or self.meter is None:
            return
        if group.size() > 1 and (inputs["labels"] == IGNORED).all():
            return self.meter.see_batch(0, padded=0, samples=0)  # there to take part alone
        if (segments := inputs.get("segment_ids")) is not None:
            real, samples = segments >= 0, int(segments.amax(1).sum())
        else:
            real, samples = inputs["attention_mask"], len(inputs["input_ids"])
        self.meter.see_batch(int(real.sum()), padded=real.numel(), samples=samples)

    def remember(self, loss: Any, labels: Any) -> None:
        """Add a batch's share to the step's loss, or outside training its nats to a sum.

        There the loss is the mean over the batch's own `labels`, as the loss takes them.
        """
        if self.model.training:
            self.step_loss += float(loss.detach())
            return
        if count := int((labels != IGNORED).sum()):
            self.developed[0] += float(loss.detach()) * count
            self.developed[1] += count

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        data = self.train_dataset if train_dataset is None else train_dataset
        return EpochSampler(
            lengths=self.lengths(data),
            group=self.args.train_batch_size * self.args.gradient_accumulation_steps * group.size(),
            seed=self.args.data_seed,
        )

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with quiet():  # a bar for every checkpoint
            super()._save_checkpoint(*args, **kwargs)

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with quiet():  # a warning that tied weights are stored once
            super()._load_from_checkpoint(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Return the metrics of the development split, computed without compiled layers.

        Compiled, the first pass without gradients would compile every layer once more, for longer
        than an evaluation takes.
        """
        self.developed = [0.0, 0.0]
        with torch.compiler.set_stance("force_eager"):
            return super().evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log; the loss of the development split is a label's, however labels lie in batches.

        Raises:
            LabkitError: that loss is no number any more.
        """
        if "eval_loss" in logs:
            nats, labels = group.totals(self.developed)
            logs["eval_loss"] = nats / labels if labels else logs["eval_loss"]
            refuse_diverged("development loss", logs["eval_loss"], self.state.global_step,
                            learning_rate=self.args.learning_rate)  # fmt: skip
        super().log(logs, *args, **kwargs)

    def restore(self, checkpoint: str) -> None:
        """Load weights and history of a checkpoint without training on."""
        if self.engine is not None:
            self._prepare_for_training(self.args.max_steps, None, checkpoint)
        self._load_from_checkpoint(checkpoint)
        self.state = TrainerState.load_from_json(f"{checkpoint}/trainer_state.json")

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no model card: a checkpoint here is not for publishing."""


class LabTrainer(Metered, SFTTrainer):
    """SFTTrainer that shows its batches to a meter and may use the labelled-positions loss."""

    Arguments = SFTConfig

    def use(self, *, meter: Meter | None, labelled_logits: bool) -> None:
        """Attach the meter and choose the loss; call once after construction."""
        super().use(meter=meter, labelled_logits=labelled_logits)
        # The loss is divided by the labels of the whole step, so accumulation must not again.
        self.loss_is_scaled_for_ga = True

    def has_plain_logits(self) -> bool:
        """Whether labelled positions alone give this model's loss, tried on the first sample."""
        sample = self.data_collator([self.train_dataset[0]])
        # The last positions have the labels; the whole sample would take as long as half a step.
        inputs = {
            k: sample[k][:, -ENOUGH_POSITIONS:].to(self.args.device)
            for k in ("input_ids", "labels")
        }
        with self.accelerator.autocast():
            return fast_step.has_plain_logits(self.model.eval(), inputs)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns += ["position_ids", "segment_ids"]

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the batch's share of the step's mean loss per label."""
        self.see(inputs)
        labels = inputs["labels"][:, 1:]
        if self.labelled_logits and not return_outputs:
            with self.accelerator.autocast():
                base = self.accelerator.unwrap_model(model)
                loss = self.through(
                    model, lambda: fast_step.labelled_loss(base, inputs, num_items_in_batch)
                )
        else:
            loss = super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        self.remember(loss[0] if return_outputs else loss, labels)
        return loss


class MeterCallback(TrainerCallback):
    """Opens and closes the meter's window around each step, and reports progress."""

    def __init__(self, meter: Meter, progress: Progress, *, marker: str) -> None:
        self.marker = marker
        self.meter = meter
        self.progress = progress
        self.interrupted = False
        self.began = False
        self.trainer: Any = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.began = True
        self.trainer.step_begins()
        self.meter.begin_step()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at what is held while gradients are there."""
        self.trainer.gradients_are_there()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock, report, and stop the run when Ctrl-C was pressed."""
        loss, self.trainer.step_loss = self.trainer.step_loss, 0.0
        entry = self.meter.end_step(state.global_step, loss)
        self.interrupted = self.trainer.step_ends(entry, self.meter.peak_allocated,
                                                  self.interrupted)  # fmt: skip
        if not math.isfinite(entry["loss"]):
            self.meter.steps.pop()
        refuse_diverged("loss", entry["loss"], state.global_step, learning_rate=args.learning_rate)
        entry.update(self.trainer.step_metrics())
        self.progress.step(self.meter)
        if self.interrupted:
            control.should_save = True
            control.should_training_stop = True

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make sure no evaluation is timed as training."""
        self.meter.evaluation_begins()

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Show the loss on the development split; the trainer's state keeps it."""
        if metrics and "eval_loss" in metrics:
            more = [f", {name.replace('_', ' ')} {metrics[key]:.3f}"
                    for key, name in ON_DEVELOPMENT.items() if key in metrics]  # fmt: skip
            self.progress.say(f"step {state.global_step}: development loss "
                              f"{metrics['eval_loss']:.3f}{''.join(more)}")  # fmt: skip

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the new checkpoint complete, then remove the older ones."""
        folder = Path(args.output_dir)
        newest = folder / f"checkpoint-{state.global_step}"
        group.wait()  # all have written their part
        if not group.first():
            return
        write_json(newest / self.marker, self.meter.steps)
        for old in folder.glob("checkpoint-*"):
            if old != newest:
                shutil.rmtree(old, ignore_errors=True)


def on_development(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what a trainer's history says of the development split, an entry for each time."""
    return [
        {"step": entry["step"], "loss": entry["eval_loss"],
         **{name: entry[key] for key, name in ON_DEVELOPMENT.items() if key in entry}}
        for entry in history if "eval_loss" in entry
    ]  # fmt: skip


@contextlib.contextmanager
def precision_kept(model: torch.nn.Module) -> Iterator[None]:
    """Keep what trains as it is while TRL makes a trainer, which rounds it on a quantised base.

    In bfloat16 a step of less than 1/256 of a weight would be lost.
    """
    kept = [(p, p.data) for p in model.parameters() if p.requires_grad]
    yield
    for parameter, data in kept:
        parameter.data = data


def trainer_arguments(
    config: RunConfig, folder: Path, plan: fast_step.Plan, *, cuda: bool,
    kind: type[Metered] = LabTrainer,
) -> TrainingArguments:  # fmt: skip
    """Return a run's settings in the words of a `kind` of trainer.

    Raises:
        LabkitError: an optimizer or a schedule that transformers does not know.
    """
    for key, known in (("optim", OptimizerNames), ("lr_scheduler_type", SchedulerType)):
        names = [member.value for member in known]
        if getattr(config, key) not in names:
            hint = nearest(getattr(config, key), names)
            raise LabkitError(f"{key} {getattr(config, key)!r} is not known: {hint}")
    return kind.Arguments(
        output_dir=str(folder / "checkpoints"),
        use_cpu=not cuda,
        bf16=arithmetic.resolve(config.dtype) == "bfloat16",
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
        activation_checkpointing=config.gradient_checkpointing,
        train_sampling_strategy="group_by_length" if plan.group_by_length else "random",
        seed=config.seed,
        data_seed=config.seed,
        eval_strategy="steps" if config.eval_steps else "no",
        eval_steps=config.eval_steps or None,
        save_strategy="steps" if config.keep_weights else "no",
        save_steps=config.save_steps,
        save_total_limit=None,  # the callback removes the old one once the new one is complete
        logging_strategy="steps" if config.report_to == "tensorboard" else "no",
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=cuda,
        ddp_find_unused_parameters=False,
        **kind.own_arguments(config),
    )


def loggers(config: RunConfig, folder: Path) -> list[Any]:
    """Return the callback that writes TensorBoard logs, if they are asked for."""
    if config.report_to != "tensorboard":
        return []
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return [TensorBoardCallback(SummaryWriter(str(folder / "tensorboard")))]
