"""What a training step takes on a device: whether it fits, what would, and how long it takes.

`estimate` answers for one model, method and device: by formula and by trace, both in seconds and
without the card. `measured` adds the third column where there is something to measure on. `table`
answers for all methods and common cards at once, by formula alone.

**Fits** means more than the allocator's peak. On CUDA the driver's context and the kernels take
about 0.6 GiB, and the caching allocator cannot use every gap between its blocks: the peak is raised
by 6 % for them. A trace knows nothing of gaps; that figure is from a card (`labkit bench gpu`, an
H200, `data/results/gpu.json`), where single steps ran in 1 to 4 % more than their allocated peak,
and a 3B LoRA step at batch 12 did not run where 4.2 % were left for gaps. On a
CPU it is interpreter and libraries that come on top.

**The largest batch** comes from the formula, corrected by the ratio of trace and formula at the
batch that was asked for: memory is affine in the batch between the places where the peak moves
from one phase to another, and the formula knows the phases.
"""

import dataclasses
import itertools
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from labkit.errors import LabkitError
from labkit.machine import links
from labkit.machine.arithmetic import device, of_step
from labkit.machine.datasheets import GIB, Device
from labkit.machine.hardware import gpus
from labkit.machine.links import Link
from labkit.memory.account import attention_of
from labkit.memory.architectures import shape_of
from labkit.memory.communication import told
from labkit.memory.formula import Analytic, analytic, evaluation_bytes, kv_cache_bytes
from labkit.memory.of_run import of_run
from labkit.memory.settings import StepSettings, given, on_quantised
from labkit.memory.step.imports import import_libraries
from labkit.memory.step_time import exchanged, step_seconds
from labkit.methods import names
from labkit.runs.config import RunConfig

CUDA_CONTEXT_BYTES = 6 * GIB // 10
CUDA_GAPS = 0.06
"""Above the 1 to 4 % that were measured, so that a largest batch is never too high."""
# A Python process with torch, transformers and PEFT imported, before any tensor of the run.
CPU_PROCESS_BYTES = 8 * GIB // 10
COMMON_GPUS = ("t4", "rtx-3090", "l4", "a10", "l40s", "a100-40gb", "a100-80gb", "h100")
LONGEST = 1 << 20

LABELS = {
    "weights": "weights",
    "added_weights": "adapters, prefix or prompt",
    "weight_copies": "16-bit copies of fp32 weights",
    "gradients": "gradients",
    "optimizer_state": "optimizer state",
    "activations": "activations kept for backward",
    "logits_and_loss": "logits and loss",
    "optimizer_temporary": "optimizer's temporary copies",
    "temporary": "temporaries and workspaces",
    "sharding_buffers": "gathered layers and buckets",
    "inputs": "token ids, labels, mask",
}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one training step takes on one device. Bytes and seconds; None is not known."""

    settings: StepSettings
    device: str
    device_bytes: int
    parts: dict[str, dict[str, int | None]]
    """each part's own highest value by column; they do not add up to the peak"""
    peak_bytes: dict[str, int | None]
    peak_phase: str
    peak_operation: str | None
    at_peak: dict[str, int]
    """what there is at the peak; adds up to it"""
    needed_bytes: int
    """the peak with what the process and the allocator need besides"""
    fits: bool
    largest_batch_size: int | None
    """0 when not even one sample fits"""
    largest_seq_len: int | None
    evaluation_bytes: int | None
    kv_cache_bytes: int | None
    """of generation with the same batch and length"""
    step_seconds: tuple[float, float] | None
    """with what several devices exchange, from hidden behind the rest to beside nothing"""
    total_parameters: int
    trainable_parameters: int
    wall_seconds: float
    """what this estimate took"""
    communication: dict[str, Any] | None = None
    """of several devices: link, bytes that each sends in a step, seconds beside nothing else"""
    timeline: tuple[tuple[str, dict[str, int]], ...] = field(default=(), repr=False)
    """phases of the step in order, each with its parts at its highest moment"""

    def to_json(self) -> dict[str, Any]:
        """Return what `labkit estimate --json` prints."""
        settings, seconds = self.settings, self.step_seconds
        return {
            "model": settings.model,
            "method": settings.method,
            "batch_size": settings.batch_size,
            "seq_len": settings.seq_len,
            "device": self.device,
            "parts": self.parts,
            "peak_bytes": self.peak_bytes,
            "device_bytes": self.device_bytes,
            "fits": self.fits,
            "step_seconds": {"low": seconds[0], "high": seconds[1]} if seconds else None,
            "wall_seconds": self.wall_seconds,
            "needed_bytes": self.needed_bytes,
            "peak_phase": self.peak_phase,
            "peak_operation": self.peak_operation,
            "at_peak": self.at_peak,
            "largest_batch_size": self.largest_batch_size,
            "largest_seq_len": self.largest_seq_len,
            "evaluation_bytes": self.evaluation_bytes,
            "kv_cache_bytes": self.kv_cache_bytes,
            "total_parameters": self.total_parameters,
            "trainable_parameters": self.trainable_parameters,
            "settings": dataclasses.asdict(settings),
            "assumed": assumed(settings),
            "communication": self.communication,
        }


def assumed(settings: StepSettings) -> dict[str, Any]:
    """Return what a figure must state to be reproduced, with nothing left to a default.

    None is for what the step does not have: masters without full fine-tuning in 16 bit, added
    weights with it, attention in a state-space model, and a limit of the labelled tokens.
    Preference tuning states its reference too.
    """
    shape = shape_of(settings)
    compared = {} if settings.reference == "none" else {"reference": settings.reference}
    return {
        **compared,
        "dtype": settings.dtype,
        "master_weights": settings.keeps_masters,
        "adapter_dtype": None if settings.tuner.trains_base else settings.added_dtype,
        "attention": attention_of(shape, settings) if shape else settings.attention,
        "padding": settings.padding,
        "labelled_tokens": settings.labelled_tokens,
    }


def estimate(
    model: str, *, device: str = "a100-80gb", link: str | None = None, **choices: Any
) -> Estimate:
    """Return the memory and time of one training step of `model` on `device`, allocating nothing.

    `choices` are fields of `StepSettings`: method, batch_size, seq_len, dtype, optim, lora_r,
    lora_target_modules, gradient_checkpointing, loss, sharding, num_gpus … `link` joins several
    devices, by a name of `links.LINKS`; None: what such cards come with. Raises `LabkitError`
    for an unknown model, device or field, and for combinations that exclude each other.
    """
    return estimate_on(find_device(device), model, link=link, **choices)


def estimate_on(card: Device, model: str, *, link: str | None = None, **choices: Any) -> Estimate:
    """Return what `estimate` does, on a device that need not be in the table."""
    return estimate_step(settings_for(card, model, **choices), card, link=link)


def estimate_run(
    config: RunConfig, *, device: str = "a100-80gb", link: str | None = None, **choices: Any
) -> Estimate:
    """Return the memory and time of a step that `labkit train` would make of `config`.

    `link` is as in `estimate`, `choices` are fields of `StepSettings` that replace what follows
    from the configuration. Raises `LabkitError` as `estimate` does, and as `of_run`.
    """
    card = find_device(device)
    choices.setdefault("compute_capability", card.compute_capability)
    return estimate_step(of_run(config, target=target_of(card), **choices), card, link=link)


def estimate_step(settings: StepSettings, card: Device, *, link: str | None = None) -> Estimate:
    """Return the memory and time of the step of `settings` on `card`."""
    began = time.perf_counter()
    joined = links.between(card, settings.num_gpus, link)
    formula = analytic(settings)
    traced = _traced(settings)
    result = _combine(settings, card, formula, traced, joined)
    return dataclasses.replace(result, wall_seconds=round(time.perf_counter() - began, 3))


def find_device(name: str) -> Device:
    """Return the device called `name`; `cpu` is this machine."""
    return device(name)


def this_device() -> str:
    """Return the name of this machine's GPU where the datasheet table has it, else `cpu`."""
    for gpu in gpus():
        try:
            return device(gpu["name"]).name
        except LabkitError:
            continue
    return "cpu"


def target_of(card: Device) -> Literal["cuda", "cpu"]:
    """Return whose code paths a step on `card` takes."""
    return "cpu" if card.compute_capability is None else "cuda"


def settings_for(card: Device, model: str, **choices: Any) -> StepSettings:
    """Return the settings of a step of `model` on `card`; None leaves a field at its default."""
    chosen = given(choices)
    chosen.setdefault("target", target_of(card))
    chosen.setdefault("compute_capability", card.compute_capability)
    quantised = on_quantised(chosen)
    chosen["dtype"] = of_step(chosen.get("dtype"), target=chosen["target"], quantised=quantised)
    return StepSettings(model=model, **chosen)


def _traced(settings: StepSettings) -> Any:
    import_libraries()
    from labkit.memory.trace.tracing import trace

    return trace(settings)


def needed(peak_bytes: int, settings: StepSettings) -> int:
    """Return what a device must have for a step of this peak: context and gaps included."""
    if settings.target == "cpu":
        return peak_bytes + CPU_PROCESS_BYTES
    return round(peak_bytes * (1 + CUDA_GAPS)) + CUDA_CONTEXT_BYTES


def _combine(
    settings: StepSettings, card: Device, formula: Analytic | None, traced: Any, link: Link | None
) -> Estimate:
    if formula and formula.total_parameters != traced.total_parameters:
        formula = None  # a variant that the formulas do not describe: its weights are not theirs
    names = [name for name in LABELS if name in traced.parts or (formula and name in formula.parts)]
    parts: dict[str, dict[str, int | None]] = {
        name: {
            "analytic_bytes": formula.parts.get(name, 0) if formula else None,
            "traced_bytes": traced.parts.get(name, 0),
        }
        for name in names
    }
    shape = shape_of(settings) if formula else None
    need = needed(traced.peak_bytes, settings)
    ratio = traced.peak_bytes / formula.peak_bytes if formula else None
    return Estimate(
        settings=settings,
        device=card.name,
        device_bytes=card.usable_bytes,
        parts=parts,
        peak_bytes={
            "analytic": formula.peak_bytes if formula else None,
            "traced": traced.peak_bytes,
        },
        peak_phase=traced.peak.name,
        peak_operation=traced.peak.operation,
        at_peak={name: value for name, value in traced.peak.parts.items() if value},
        needed_bytes=need,
        fits=need <= card.usable_bytes,
        largest_batch_size=largest(settings, card, ratio, "batch_size"),
        largest_seq_len=largest(settings, card, ratio, "seq_len"),
        evaluation_bytes=evaluation_bytes(settings, batch_size=settings.batch_size),
        kv_cache_bytes=kv_cache_bytes(
            settings, batch_size=settings.batch_size, tokens=settings.seq_len
        ),
        step_seconds=step_seconds(shape, settings, card, link) if shape else None,
        communication=told(exchanged(shape, settings), link) if shape and link else None,
        total_parameters=traced.total_parameters,
        trainable_parameters=traced.trainable_parameters,
        wall_seconds=0.0,
        timeline=traced.timeline(),
    )


def largest(settings: StepSettings, card: Device, ratio: float | None, name: str) -> int | None:
    """Return the largest value of a field that fits, by bisection over the corrected formula."""
    if ratio is None:
        return None

    def fits(value: int) -> bool:
        change: dict[str, Any] = {name: value}
        changed = dataclasses.replace(settings, **change)
        result = analytic(changed)
        assert result is not None
        return needed(round(result.peak_bytes * ratio), changed) <= card.usable_bytes

    least = 1 if name == "batch_size" else (settings.labelled_tokens or 0) + 1
    if not fits(least):
        return 0
    most = least
    while most < LONGEST and fits(2 * most):
        most *= 2
    beyond = 2 * most
    while beyond - most > 1:
        middle = (most + beyond) // 2
        most, beyond = (middle, beyond) if fits(middle) else (most, middle)
    return most


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One method of a model's table: its peak by formula, and the largest batch on each card."""

    method: str
    gradient_checkpointing: bool
    peak_bytes: int
    largest_batch_size: dict[str, int]
    assumed: dict[str, Any]


def table(
    model: str, *, devices: tuple[str, ...] = COMMON_GPUS, batch_size: int = 1,
    seq_len: int = 1024, checkpointing: tuple[bool, ...] | None = None, **choices: Any,
) -> list[TableRow]:  # fmt: skip
    """Return all methods × `devices` for a model, by formula: peaks and largest batches.

    `checkpointing` limits the rows to those with, or to those without. Methods that the model or
    the other choices exclude are left out.

    Raises `LabkitError` for an unknown model or device, choices that are wrong for every method,
    or an architecture without formulas.
    """
    cards = {card.name: card for card in map(find_device, devices)}
    first = next(iter(cards.values()))
    choices = {**choices, "batch_size": batch_size, "seq_len": seq_len}
    # What is wrong here is wrong for all methods; masters are wrong for all but one.
    if analytic(settings_for(first, model, **{**choices, "master_weights": None})) is None:
        raise LabkitError(
            f"{model} has an architecture without formulas: give a method and a device, and its "
            "step is traced"
        )
    rows = []
    for method, again in itertools.product(names(), checkpointing or (False, True)):
        try:
            settings = settings_for(
                first, model, method=method, gradient_checkpointing=again, **choices
            )
            formula = analytic(settings)
        except LabkitError:  # a prefix with checkpointing, a method this architecture cannot do
            continue
        if settings.method != method:  # on the base that is asked for it has a name of its own
            continue
        assert formula is not None
        rows.append(
            TableRow(
                method=method,
                gradient_checkpointing=again,
                peak_bytes=formula.peak_bytes,
                largest_batch_size={
                    name: largest(settings, card, 1.0, "batch_size") or 0
                    for name, card in cards.items()
                },
                assumed=assumed(settings),
            )
        )
    return rows


def measured_column(result: Estimate) -> Estimate:
    """Return the estimate with a third column, from a real step on this machine.

    On a CPU target the step runs here; on CUDA it needs the device. Raises `LabkitError` without.
    """
    from labkit.memory.measured import measure

    real = measure(result.settings)
    parts = {name: {**columns} for name, columns in result.parts.items()}
    for name, value in real.parts.items():
        parts[name]["measured_bytes"] = value
    peak = {**result.peak_bytes, "measured": real.peak_bytes}
    return dataclasses.replace(result, parts=parts, peak_bytes=peak)
