"""TRL's `SFTTrainer` with the meter in its loop.

Three things differ from the stock trainer: the loss needs logits only at labelled positions
(see `fast.labelled_loss`; switched off, the stock loss runs), each batch is shown to the meter,
and a checkpoint counts as complete only when a marker with the measured steps lies in it.

This module imports torch and TRL when it is imported; only `train` and `bench` do that.
"""

import shutil
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback
from trl import SFTTrainer

from labkit import fast
from labkit.measure import Meter
from labkit.progress import Progress
from labkit.results import write_json


class LabTrainer(SFTTrainer):
    """SFTTrainer that shows its batches to a meter and may use the labelled-positions loss."""

    meter: Meter | None = None
    labelled_logits = False

    def use(self, *, meter: Meter | None, labelled_logits: bool) -> None:
        """Attach the meter and choose the loss; call once after construction."""
        self.meter = meter
        self.labelled_logits = labelled_logits
        # The loss is divided by the labels of the whole step, so accumulation must not again.
        self.loss_is_scaled_for_ga = True
        self.remove_callback(PrinterCallback)
        self.step_loss = 0.0

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the batch's share of the step's mean loss per label."""
        training = self.model.training
        if training and self.meter is not None:
            mask = inputs["attention_mask"]
            self.meter.see_batch(tokens=int(mask.sum()), padded=mask.numel())
        if self.labelled_logits and not return_outputs:
            with self.accelerator.autocast():
                loss = fast.labelled_loss(
                    self.accelerator.unwrap_model(model), inputs, num_items_in_batch
                )
        else:
            loss = super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        if training:
            self.step_loss += float((loss[0] if return_outputs else loss).detach())
        return loss

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no model card: a checkpoint here is not for publishing."""


class MeterCallback(TrainerCallback):
    """Opens and closes the meter's window around each step, and reports progress."""

    def __init__(self, meter: Meter, progress: Progress, *, marker: str) -> None:
        self.marker = marker
        self.meter = meter
        self.progress = progress
        self.interrupted = False
        self.eval_losses: list[dict[str, Any]] = []
        self.trainer: Any = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.meter.begin_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock, report, and stop the run when Ctrl-C was pressed."""
        loss, self.trainer.step_loss = self.trainer.step_loss, 0.0
        self.meter.end_step(state.global_step, loss)
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
        """Keep the loss on the development split."""
        if metrics and "eval_loss" in metrics:
            self.eval_losses.append({"step": state.global_step, "loss": metrics["eval_loss"]})
            self.progress.say(
                f"step {state.global_step}: development loss {metrics['eval_loss']:.3f}"
            )

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the new checkpoint complete, then remove the older ones."""
        folder = Path(args.output_dir)
        newest = folder / f"checkpoint-{state.global_step}"
        write_json(newest / self.marker, self.meter.steps)
        for old in folder.glob("checkpoint-*"):
            if old != newest:
                shutil.rmtree(old, ignore_errors=True)
