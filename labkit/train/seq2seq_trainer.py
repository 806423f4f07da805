"""Transformers' `Trainer` with the meter in its loop, for models that write with a decoder."""

from typing import Any

from transformers import TrainingArguments

from labkit.runs.config import RunConfig
from labkit.train.trainer import Metered


class Seq2SeqTrainer(Metered):
    """Trainer of encoder-decoders: the decoder's targets are few, and each has a label."""

    Arguments = TrainingArguments

    @staticmethod
    def own_arguments(config: RunConfig) -> dict[str, Any]:
        """Return no arguments beyond those of all trainers."""
        return {}

    def use(self, *, meter: Any, labelled_logits: bool) -> None:
        """Attach the meter; call once after construction."""
        super().use(meter=meter, labelled_logits=labelled_logits)
        self.model_accepts_loss_kwargs = True  # so that the labels of a step are counted
        # The loss is divided by the labels of the whole step, so accumulation must not again.
        self.loss_is_scaled_for_ga = True

    def has_plain_logits(self) -> bool:
        """Say no: the loss is the model's own."""
        return False

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the batch's share of the step's mean loss per label."""
        self.see(inputs)
        outputs = model(**inputs)
        loss = outputs.loss  # the mean over this batch's labels
        if num_items_in_batch is not None:
            loss = loss * (inputs["labels"] != -100).sum() / num_items_in_batch
        self.remember(loss, inputs["labels"])
        return (loss, outputs) if return_outputs else loss
