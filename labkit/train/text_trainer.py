"""The trainer of continued pretraining: that of supervised fine-tuning, and bits per byte."""

import math
from typing import Any

from labkit.train.sharded import group
from labkit.train.trainer import LabTrainer


class TextTrainer(LabTrainer):
    """LabTrainer that adds up nats and bytes, of a step and of the development split."""

    def use(self, **choices: Any) -> None:
        """Attach the meter and choose the loss; call once after construction."""
        super().use(**choices)
        self.seen = {True: [0.0, 0], False: [0.0, 0]}  # nats and bytes, in training and outside

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns += ["text_bytes"]

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the batch's share of the step's mean loss per label."""
        text_bytes = int(inputs.pop("text_bytes").sum())
        # Outside training a batch's loss is the mean over its own labels.
        items = num_items_in_batch
        if items is None:
            items = (inputs["labels"][:, 1:] != -100).sum()
        training = self.model.training
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        mean = (loss[0] if return_outputs else loss).detach()
        self.seen[training][0] += float(mean * items) if items else 0.0
        self.seen[training][1] += text_bytes
        return loss

    def step_metrics(self) -> dict[str, Any]:
        """Return the bits per byte of the step's text."""
        return {"bits_per_byte": self._bits_per_byte(True)}

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Return the metrics of the development split, bits per byte among them."""
        self.seen[False] = [0.0, 0]
        return super().evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the bits per byte of an evaluation."""
        if "eval_loss" in logs:
            logs["eval_bits_per_byte"] = self._bits_per_byte(False)
        super().log(logs, *args, **kwargs)

    def _bits_per_byte(self, training: bool) -> float:
        """Return what was seen since it was asked for last, in bits per byte."""
        nats, text_bytes = group.totals(self.seen[training])
        self.seen[training] = [0.0, 0]
        return nats / math.log(2) / max(text_bytes, 1)
