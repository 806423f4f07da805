"""One real training step of the real model class, on tensors of any kind.

`trace` runs this step on fake tensors, which have a shape, a type and no storage; `measured` runs
it on real ones. Neither knows about the other, and neither has a model of its own: whatever
transformers, PEFT and PyTorch do is what is counted.

A step is: forward, loss, backward, optimizer step, gradients released. Its phases are announced
through `mark`, which the caller supplies, so that a tracer can say where in the step and in the
model each byte belongs:

    forward · forward.<stack>.<layer> · loss · reference · backward.head ·
    backward.<stack>.<layer> · backward.embedding · optimizer · end

of which `reference` is there in preference tuning alone.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from labkit.errors import LabkitError
from labkit.memory.settings import StepSettings
from labkit.methods import virtual_tokens

Mark = Callable[[str], None]

TILE = 32_768  # vocabulary entries in one tile of TRL's loss
BETA = 0.1  # of DPO: no size depends on it


@dataclass(frozen=True, kw_only=True)
class Step:
    """A built model with its optimizer and batch, ready to `run`."""

    settings: StepSettings
    model: Any
    optimizer: torch.optim.Optimizer
    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    reference: Any = None
    """a frozen copy of the model that preference tuning compares it with, where there is one"""

    def run(self, mark: Mark = lambda name: None, *, accumulated: int | None = None) -> None:
        """Run one optimizer step, announcing its phases; gradients are released at its end.

        `accumulated` is the number of micro-batches before the one that is announced, by default
        all of them. One is enough to see memory: from the second on they are alike.
        """
        before = self.settings.gradient_accumulation_steps - 1
        for _ in range(before if accumulated is None else min(accumulated, before)):
            mark("accumulate")
            self._compared(self._forward(), lambda name: None).backward()
        mark("forward")
        held: list[torch.Tensor] = []
        with layer_marks(self.model, mark):
            found = self._forward(held)
        loss = self._compared(found, mark)
        del found
        mark("backward.head")
        loss.backward()
        del loss
        mark("optimizer")
        self.optimizer.step()
        mark("end")
        self.optimizer.zero_grad(set_to_none=True)

    def make_optimizer_state(self) -> None:
        """Make the state that the first step leaves behind, without a forward pass."""
        for parameter in self.trainable():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def trainable(self) -> list[torch.nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def of_reference(self) -> list[torch.Tensor]:
        """Return the weights and buffers of a reference that has its own."""
        copied = self.reference
        return [] if copied is None else [*copied.parameters(), *copied.buffers()]

    def _forward(self, held: list[torch.Tensor] | None = None) -> torch.Tensor:
        """Return the loss, or for preference tuning what it is made of; `held` gets the logits."""
        with self._autocast():
            if self.settings.reference == "none":
                return compute_loss(self.model, self.inputs, self.labels, self.settings, held)
            return self._log_probabilities(self.model)

    def _compared(self, found: torch.Tensor, mark: Mark) -> torch.Tensor:
        """Return the loss: for preference tuning that of DPO, against the reference."""
        kind = self.settings.reference
        if kind == "none":
            return found
        mark("reference")
        off = self.model.disable_adapter() if kind == "adapter_off" else contextlib.nullcontext()
        with torch.no_grad(), self._autocast(), off:
            if kind == "precomputed":
                other = torch.zeros_like(found)
            else:
                other = self._log_probabilities(self.reference or self.model)
        chosen, rejected = (found - other).chunk(2)
        return -torch.nn.functional.logsigmoid(BETA * (chosen - rejected)).mean()

    def _log_probabilities(self, model: Any) -> torch.Tensor:
        """Return log-probabilities of the answers, (sequences,)."""
        per_token = log_probabilities(model, self.inputs, self.labels, self.settings)
        return per_token.view(self.settings.sequences, -1).sum(1)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        dtype = getattr(torch, self.settings.dtype)
        device = self.labels.device.type
        return torch.autocast(device, dtype=dtype, enabled=self.settings.autocast)


def layer_stacks(model: torch.nn.Module) -> list[torch.nn.ModuleList]:
    """Return the model's stacks of alike layers: one for a decoder, two for an encoder-decoder."""
    depth = model.config.num_hidden_layers
    return [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.ModuleList)
        and len(module) == depth
        and len({type(layer) for layer in module}) == 1
        and type(module[0]).__name__.endswith(("Layer", "Block"))
    ]


@contextlib.contextmanager
def layer_marks(model: torch.nn.Module, mark: Mark) -> Iterator[None]:
    """Announce each layer during a forward pass, and again in the backward pass of its outputs.

    Only the forward pass belongs inside: a checkpointed layer runs its forward again in backward,
    and what it does then is part of its backward.
    """
    handles = []
    stacks = layer_stacks(model)
    for number, layers in enumerate(stacks):
        for index, layer in enumerate(layers):
            ends = "loss" if layer is stacks[-1][-1] else ""
            before, after = _layer_hooks(f"{number}.{index}", mark, ends)
            handles += [
                layer.register_forward_pre_hook(before, with_kwargs=True),
                layer.register_forward_hook(after),
            ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _layer_hooks(place: str, mark: Mark, ends: str) -> tuple[Callable, Callable]:
    def before(layer: object, args: tuple, kwargs: dict) -> None:
        mark(f"forward.{place}")
        hidden = args[0] if args else kwargs["hidden_states"]
        if place.endswith(".0") and hidden.requires_grad:
            hidden.register_hook(lambda gradient: mark(f"backward.embedding.{place}"))

    def after(layer: object, args: tuple, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            hidden.register_hook(lambda gradient: mark(f"backward.{place}"))
        if ends:
            mark(ends)

    return before, after


def compute_loss(
    model: Any,
    inputs: dict[str, torch.Tensor],
    labels: torch.Tensor,
    settings: StepSettings,
    held: list[torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return the mean cross-entropy of `labels` (batch, tokens) under the settings' loss.

    `held` gets the logits, where the settings hold them.
    """
    plain = settings.loss == "full" and settings.upcast_logits and settings.labelled_tokens is None
    if plain and not settings.hold_logits:
        return model(**inputs, labels=labels).loss
    kept, head, targets = _scored(model, inputs, labels, settings)
    if settings.loss == "chunked":
        return -_tiled_log_probabilities(kept, head, targets).mean()
    logits = head(kept)
    if settings.upcast_logits:
        logits = logits.float()
    if settings.hold_logits and held is not None:
        held.append(logits)
    return torch.nn.functional.cross_entropy(logits, targets)


def log_probabilities(
    model: Any, inputs: dict[str, torch.Tensor], labels: torch.Tensor, settings: StepSettings
) -> torch.Tensor:
    """Return the log-probabilities of labelled tokens, (sequences × labelled,), as DPO has them."""
    kept, head, targets = _scored(model, inputs, labels, settings)
    return _tiled_log_probabilities(kept, head, targets, "mean_logits")


def _scored(
    model: Any, inputs: dict[str, torch.Tensor], labels: torch.Tensor, settings: StepSettings
) -> tuple[torch.Tensor, Any, torch.Tensor]:
    """Return the hidden states (tokens, width) that get logits, the head, and their targets."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    if causal.config.is_encoder_decoder:
        raise LabkitError(
            f"{settings.model} is an encoder-decoder: its loss is computed by the model itself, "
            "so use loss full with upcast_logits and without labelled_tokens"
        )
    backbone, extra = virtual_tokens.put_before(model, inputs)
    hidden = causal.base_model(**backbone).last_hidden_state[:, extra:]
    # The last position predicts nothing. Which ones have labels does not matter for memory.
    last = settings.seq_len - 1
    count = min(settings.labelled_tokens or last, last)
    kept = hidden.narrow(1, last - count, count).reshape(-1, hidden.shape[-1])
    targets = labels.narrow(1, 0, count).reshape(-1)
    return kept, causal.get_output_embeddings(), targets


def _tiled_log_probabilities(
    hidden: torch.Tensor, head: Any, targets: torch.Tensor, *more: str
) -> torch.Tensor:
    """Return TRL's log-probabilities (tokens,) over hidden (tokens, width), as its trainers do.

    `more` are outputs besides those of its SFTTrainer.
    """
    from trl.kernels import ChunkedLogProbFunction

    outputs = ("log_probs", "entropy", "is_top1", *more)
    per_token = ChunkedLogProbFunction.apply(
        hidden, head.weight, getattr(head, "bias", None), targets, 1.0, TILE, None, 1.0, outputs
    )
    found: torch.Tensor = per_token[0]
    return found
