"""TRL's `DPOTrainer` with the meter in its loop, and the reference where the run wants it.

The loss of a step is the mean over all its pairs, however they are cut into batches and processes:
each batch's mean counts by its pairs, of which the last ones of an epoch may have fewer.

For a `PeftModel` TRL's trainer copies the adapter as a second one, "ref", frozen; it then lies in
every checkpoint and is saved beside what was trained. An adapter that was attached a moment ago
needs no copy: the model with it switched off is the reference (`AdapterOff`).
"""

import contextlib
import warnings
from collections.abc import Iterator
from statistics import fmean
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch.utils.data import DataLoader
from trl import DPOConfig, DPOTrainer

from labkit.runs.config import RunConfig
from labkit.runs.task_settings import reference_of
from labkit.train import fast_step
from labkit.train.sharded import group
from labkit.train.trainer import Metered

REWARDS = ("chosen", "rejected", "margins", "accuracies")


class AdapterOff(torch.nn.Module):
    """The model with its adapter switched off, in the form of a reference model: no weights."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.switched = (model,)  # in a tuple, or its weights would be this module's
        self.config = model.config

    def base_model(self, **inputs: Any) -> Any:
        """Return what the layers below the head make of the inputs."""
        (model,) = self.switched
        with model.disable_adapter():
            return model.get_base_model().base_model(**inputs)

    def get_output_embeddings(self) -> Any:
        """Return the head, which has no adapter."""
        return self.switched[0].get_output_embeddings()

    def forward(self, **inputs: Any) -> Any:
        """Raise: TRL puts a forward that ends in log-probabilities in its place."""
        raise NotImplementedError


class PreferenceTrainer(Metered, DPOTrainer):
    """DPOTrainer that shows its batches to a meter and scores the answers' positions alone.

    Rows are token ids already: prompt_ids, chosen_ids, rejected_ids.
    """

    Arguments = DPOConfig
    labelled_logits = True
    has_labels = False

    def __init__(self, model: Any, *, ref_model: Any = None, **kwargs: Any) -> None:
        if ref_model is None and is_peft_model(model):
            ref_model = AdapterOff(model)
        super().__init__(model=model, ref_model=ref_model, **kwargs)
        if is_peft_model(model) and "forward" in vars(model.base_model):
            # A tuner that kept the base's forward calls the one from before TRL's.
            model.base_model.forward = model.get_base_model().forward
        plainly: Any = self.data_collator  # type: ignore[has-type]
        self.data_collator = lambda rows: (
            plainly(rows) | ({"blank": True} if "blank" in rows[0] else {})
        )
        self._pairs: list[list[int]] = []
        self._batch = 0
        self._evaluated: list[int] = []
        """pairs of each batch of the development split"""

    @staticmethod
    def own_arguments(config: RunConfig) -> dict[str, Any]:
        """Return what DPO takes beyond the arguments of all trainers."""
        return {
            "max_length": None, "beta": config.beta, "loss_type": list(config.loss_type),
            "label_smoothing": config.label_smoothing,
            "precompute_ref_log_probs": reference_of(config) == "precomputed",
        }  # fmt: skip

    def lengths(self, rows: Any) -> list[int]:
        """Return the tokens of the longer sequence of each pair."""
        columns = (rows[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids"))
        return [len(p) + max(len(c), len(r)) for p, c, r in zip(*columns, strict=True)]

    def step_metrics(self) -> dict[str, Any]:
        """Return rewards, margin, share of pairs that are told apart, and log-probabilities."""
        pairs = [sum(each) for each in self._pairs]
        found = {
            name: fmean(each, pairs)
            for name, each in self._metrics["train"].items() if len(each) == len(pairs)
        }  # fmt: skip
        if self.args.logging_strategy == "no":  # else `log` needs them, and clears them
            self._metrics["train"].clear()
        return {
            "rewards": {name: found[f"rewards/{name}"] for name in REWARDS},
            "logps": {name: found[f"logps/{name}"] for name in REWARDS[:2]},
        }

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the mean loss of the batch's pairs; in training, their share of the step's."""
        inputs = dict(inputs)
        blank, mask = inputs.pop("blank", False), inputs["attention_mask"]
        if not self.model.training:
            own = 0 if blank else len(mask) // 2
            pairs = [int(each) for (each,) in group.rows([own])]
            self._evaluated.append(sum(pairs))
            with self._scoring(), self._gathering(blank=blank, even=len(set(pairs)) == 1):
                loss = super().compute_loss(model, inputs, *args, **kwargs)
            self.developed[0] += float(loss) * own
            self.developed[1] += own
            return loss
        if self._batch == len(self._pairs):  # of no step that the trainer began: one by itself
            self._get_num_items_in_batch([inputs], mask.device)
        pairs = self._pairs[self._batch]
        own, total = pairs[group.rank()], sum(map(sum, self._pairs))
        self._batch += 1
        if self.meter is not None:
            tokens, padded = (0, 0) if blank else (int(mask.sum()), mask.numel())
            self.meter.see_batch(tokens, padded=padded, samples=own)
        with self._scoring(), self._gathering(blank=blank, even=len(set(pairs)) == 1):
            loss = super().compute_loss(model, inputs, *args, **kwargs)
        batches = self.current_gradient_accumulation_steps  # by which the trainer divides
        loss = loss * (own * batches / total)
        self.step_loss += float(loss.detach()) / batches
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with metrics of pairs where TRL has those of batches."""
        training = self.model.training
        pairs = [sum(each) for each in self._pairs] if training else self._evaluated
        metrics = self._metrics["train" if training else "eval"]
        for name, each in metrics.items():
            if len(each) == len(pairs):
                metrics[name] = [fmean(each, pairs)]
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Return the metrics of the development split."""
        self._evaluated = []
        return super().evaluate(*args, **kwargs)

    def _get_num_items_in_batch(self, batch_samples: Any, device: Any) -> None:
        """Count the pairs that each process has in each batch of the step that begins."""
        own = [0.0 if "blank" in each else len(each["attention_mask"]) // 2
               for each in batch_samples]  # fmt: skip
        found = zip(*group.rows(own), strict=True)
        self._pairs = [[int(each) for each in batch] for batch in found]
        self._batch = 0

    @contextlib.contextmanager
    def _gathering(self, *, blank: bool, even: bool) -> Iterator[None]:
        """Let TRL average over the pairs of all processes where they are not as many in each."""
        if even:
            yield
            return

        def gather(own: torch.Tensor) -> torch.Tensor:
            parts = group.of_all([] if blank else own.detach().reshape(-1).tolist())
            return torch.tensor([value for part in parts for value in part], device=own.device)

        self.accelerator.gather = gather
        try:
            yield
        finally:
            del self.accelerator.gather

    def compute_ref_log_probs(self, model: Any, inputs: Any) -> Any:
        """Return the reference's log-probabilities of chosen and rejected answers, (pairs,)."""
        with self._scoring():
            return super().compute_ref_log_probs(model, inputs)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return torch.utils.data.SequentialSampler(eval_dataset)

    @contextlib.contextmanager
    def _scoring(self) -> Iterator[None]:
        scored = fast_step.scored_positions if self.labelled_logits else contextlib.nullcontext
        with warnings.catch_warnings(), scored():
            # TRL asks for checkpoints by a name that transformers is about to drop.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
            yield

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """Return the data with the reference's log-probabilities, kept in memory alone.

        TRL keeps them in a file, by a hash of the reference's weights. Several processes each take
        their part of the pairs, before they share the model.
        """
        model, size = self.ref_model or self.model, group.size()
        own = dataset.select(range(group.rank(), len(dataset), size))
        batches = DataLoader(own, batch_size=batch_size, collate_fn=self.data_collator)
        found = [self.compute_ref_log_probs(model, self._prepare_inputs(each)) for each in batches]
        parts = group.of_all([torch.cat(each).tolist() for each in zip(*found, strict=True)])
        for index, kind in enumerate(("chosen", "rejected")):
            column = [0.0] * len(dataset)
            for rank, part in enumerate(parts):
                column[rank::size] = part[index] if part else []
            dataset = dataset.add_column(f"ref_{kind}_logps", column)
        return dataset
