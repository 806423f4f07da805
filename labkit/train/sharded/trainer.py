"""What several processes change in transformers' `Trainer`; with one, nothing.

The loss of a step is the sum over all labels of the step, whoever has them, divided by their
number: tokens weigh the same, not sequences and not processes. Each process adds its share, and
gradients are averaged by who exchanges them, so a share is multiplied by the number of processes
before the backward pass.

Every process takes its share of each batch (`shares`), steps, and writes its part of a checkpoint.
Process 0 alone marks it complete, once all have written.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler
from transformers import Trainer
from transformers.trainer import SCHEDULER_NAME

from labkit import methods
from labkit.console import say
from labkit.train.sharded import group
from labkit.train.sharded.held import Held, held_plainly, ran
from labkit.train.sharded.shares import EqualShares, SharedLoader, Shares, Unlabelled
from labkit.train.sharded.traffic import Traffic

COUNTED_STEP = 2
"""Of a process's steps: in the first one libraries still arrange what they send."""
ADDED_UP = ("loss", "tokens", "padded_tokens", "samples")
"""What a step's entry has of all processes together."""


class Sharded(Trainer):
    """A trainer that is one of several; `share` says that it is, and who shares what."""

    engine: Any = None
    """who shares the state (`engines`); without one each process has all of it"""
    together = False
    found: dict[str, Any] | None = None
    peaks: list[int | None]
    elements = (0, 0)
    """of all weights and of those that are trained"""
    _traffic: Traffic | None = None
    _held: Held | None = None
    _steps_taken = 0
    has_labels = True
    """whether a sample without its labels counts for nothing"""
    _evaluates = False
    _looks = False
    _counts = True
    _asked = "none"

    def share(self, config: Any, *, counted: bool = True) -> None:
        """Train with the other processes of the group, if there are any, as `config` says.

        What they send is not `counted` where layers are compiled, which the counting undoes.
        """
        self.together, self._counts, self._asked = group.inside(), counted, config.sharding
        if not self.together:
            return
        self._trained_on = methods.trained_on(config)
        from labkit.train.sharded import engines

        self.engine = engines.engine_of(config.sharding, config)
        weights = list(self.model.parameters())
        for each in weights:  # LoftQ's are transposed views, which no engine cuts up
            each.data = each.data.contiguous()
        self.elements = (sum(each.numel() for each in weights),
                         sum(each.numel() for each in weights if each.requires_grad))  # fmt: skip
        self.args.average_tokens_across_devices = False  # counted here, and once
        plainly = self.accelerator.backward

        def backward(loss: torch.Tensor, **kwargs: Any) -> None:
            loss = loss * group.size()
            if self.engine is None:
                plainly(loss, **kwargs)
            else:
                last = self.accelerator.gradient_state.sync_gradients
                self.engine.backward(loss, last=last)

        self.accelerator.backward = backward
        if self.engine is not None:  # each engine knows by itself what to send when
            self.accelerator.no_sync = lambda model=None: contextlib.nullcontext()

    def through(self, model: Any, function: Callable[[], Any]) -> Any:
        """Return what `function` computes with the model's parts, in a forward pass of the whole.

        Who shares weights or gradients has to see the model called, and not its parts alone.
        """
        if not self.together:
            return function()
        module = self.accelerator.unwrap_model(model)
        before = vars(module).get("forward")
        module.forward = function
        try:
            return model()
        finally:
            if before is None:
                del module.forward
            else:
                module.forward = before

    def get_train_dataloader(self) -> Any:
        """Return a loader of this process's share of each batch."""
        if not self.together:
            return super().get_train_dataloader()
        rows = self._remove_unused_columns(self.train_dataset, description="training")
        sampler = self._get_train_sampler(rows)
        if isinstance(sampler, RandomSampler):  # as accelerate replaces it
            sampler = SeedableRandomSampler(rows, data_seed=self.args.data_seed)
        shares = Shares(sampler, batch_size=self.args.train_batch_size, rank=group.rank(),
                        size=group.size())  # fmt: skip
        return SharedLoader(Unlabelled(rows), batch_sampler=shares,
                            collate_fn=self.data_collator,
                            pin_memory=self.args.dataloader_pin_memory)  # fmt: skip

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return a loader of this process's share of each batch, in which no sample counts twice.

        transformers' own fills up the last batches by samples of the first.
        """
        if not self.together:
            return super().get_eval_dataloader(eval_dataset)
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        rows = self._remove_unused_columns(rows, description="evaluation")
        cut = EqualShares if self.has_labels else Shares
        shares = cut(SequentialSampler(rows), batch_size=self.args.eval_batch_size,
                     rank=group.rank(), size=group.size())  # fmt: skip
        return DataLoader(Unlabelled(rows), batch_sampler=shares, collate_fn=self.data_collator,
                          pin_memory=self.args.dataloader_pin_memory)  # fmt: skip

    def _get_num_items_in_batch(self, batch_samples: Any, device: Any) -> Any:
        items = super()._get_num_items_in_batch(batch_samples, device)
        if not self.together or items is None or self._evaluates:
            return items
        return torch.tensor(int(group.totals([float(items)])[0]), device=device)

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate a batch, whose loss is the mean over its own labels."""
        self._evaluates = True
        try:
            return super().prediction_step(*args, **kwargs)
        finally:
            self._evaluates = False

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume: Any) -> Any:
        if self.engine is None:
            return super()._prepare_for_training(max_steps, train_dataloader, resume)
        model = self.engine.prepare(self)
        self.model_wrapped = model
        self.create_scheduler(num_training_steps=max_steps)
        if resume is not None:
            self.engine.load(Path(resume))
            state = torch.load(Path(resume) / SCHEDULER_NAME, weights_only=True)
            self.lr_scheduler.load_state_dict(state)
        for name in ("model", "optimizer", "lr_scheduler"):
            setattr(self.callback_handler, name, getattr(self, name))
        self.callback_handler.train_dataloader = train_dataloader
        return model, train_dataloader

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        if self.engine is None:  # else once it is prepared
            super()._load_from_checkpoint(*args, **kwargs)

    def _clip_grad_norm(self, model: Any) -> Any:
        if self.engine is None:
            return super()._clip_grad_norm(model)
        return self.engine.clip(model, self.args.max_grad_norm)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        if self.engine is None:
            return super()._get_grad_norm(model, grad_norm=grad_norm)
        return grad_norm

    def save_model(self, output_dir: Any = None, _internal_call: bool = False) -> None:
        """Save the model in a checkpoint; with an engine `_save_optimizer_and_scheduler` does."""
        if self.engine is None:
            super().save_model(output_dir, _internal_call=_internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.engine is None:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.engine.save(folder)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), folder / SCHEDULER_NAME)
            self._describe_adapter(folder)

    def _describe_adapter(self, folder: Path) -> None:
        """Write beside shards what makes an adapter of them, for who puts them together."""
        for each in getattr(self.model, "peft_config", {}).values():
            each.save_pretrained(folder)
            self._trained_on.save(folder)

    def step_begins(self) -> None:
        """Count what is sent, in a process's first steps."""
        self._steps_taken += 1
        self._looks = self.together and self._steps_taken <= COUNTED_STEP
        if self.together and self.engine is None and self._steps_taken == COUNTED_STEP:
            # DistributedDataParallel arranges its buckets anew before its second step. Done inside
            # that, new ones would be measured beside old ones, whose release is not seen.
            self.model_wrapped.reducer._rebuild_buckets()
        if self._looks and self._counts:
            self._traffic = Traffic()
            self._traffic.__enter__()

    def gradients_are_there(self) -> None:
        """Look at what this process holds before the optimizer steps and drops gradients."""
        if self._looks:
            self._look()

    def step_ends(self, entry: dict[str, Any], peak: int | None, stop: bool) -> bool:
        """Add up a step's entry over all processes, and return whether one of them wants to stop.

        `peak` is the highest this process has allocated so far.
        """
        if not self.together:
            return stop
        if self._traffic is not None:
            self._traffic.__exit__(None, None, None)
        if self._looks:
            self.found = self._say(self._look())
        self._traffic = None
        found = group.rows([*(entry[name] for name in ADDED_UP), peak or 0, stop])
        for name, values in zip(ADDED_UP, zip(*found, strict=True), strict=False):
            entry[name] = type(entry[name])(sum(values))
        self.peaks = [int(each[-2]) or None for each in found]
        return any(each[-1] for each in found)

    def _look(self) -> Held:
        """Return the most that this process was found to hold of each, now or before."""
        now = (held_plainly(self.model.parameters(), self.optimizer)
               if self.engine is None else self.engine.held())  # fmt: skip
        self._held = now if self._held is None else now.larger(self._held)
        return self._held

    def _say(self, held: Held) -> dict[str, Any]:
        """Return what processes hold and send, for the record; all of them have to ask."""
        held_by = group.of_all(held)
        total, trained = self.elements
        local = [hasattr(each, "to_local") for each in self.model.parameters()]
        found = ran(held_by, total=total, trained=trained, by_dtensor=any(local),
                    parts_gradients=getattr(self.engine, "parts_gradients", False))  # fmt: skip
        if found != self._asked and self._steps_taken == COUNTED_STEP and held_by[0].moment:
            say(f"sharding {self._asked} was asked for, and the tensors show {found}")
        return {
            "ran": found,
            "processes": group.size(),
            "held_bytes": [
                {"weights": each.weights_bytes, "gradients": each.gradients_bytes,
                 "optimizer_state": each.optimizer_state_bytes} for each in held_by
            ],
            "sent_bytes": None if self._traffic is None
            else {"step": self._traffic.volume, **self._traffic.bytes},
        }  # fmt: skip

    def gathered(self) -> bool:
        """Return whether this process saves the model, which it then has as a whole."""
        if self.engine is not None:
            self.engine.gather()
        return group.first()

    def summary_of_sharing(self) -> dict[str, Any]:
        """Return what the record says of sharing: what ran, was held, sent, allocated at most."""
        if self.found is None:
            return {}
        return {"sharding": {**self.found, "peak_bytes": self.peaks}}
