"""Settings of tasks other than supervised fine-tuning, and what they say about a step.

They are here, below the tasks themselves (`train.tasks`), because a run's configuration holds them
and the memory estimate depends on them.
"""

from dataclasses import dataclass
from typing import Any, Literal

from labkit.errors import LabkitError, nearest
from labkit.methods import METHODS, Settings

PREFERENCES = "dpo"
LOSSES = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
    "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
)  # fmt: skip
"""What TRL's DPOTrainer can minimise."""
Reference = Literal["none", "adapter_off", "copy", "precomputed"]


@dataclass(frozen=True, kw_only=True)
class TextSettings(Settings):
    """Settings of continued pretraining."""

    packing: bool = True
    """task pretrain: several texts in one sequence, none of which sees another; false: one each"""


@dataclass(frozen=True, kw_only=True)
class PreferenceSettings(Settings):
    """Settings of preference tuning, under the names of TRL's DPOConfig where it has one."""

    beta: float = 0.1
    """task dpo: how dear it is to leave the reference; higher stays closer to it"""
    loss_type: tuple[str, ...] = ("sigmoid",)
    """task dpo: the loss, or several, added up: sigmoid (DPO's own), ipo, hinge, robust …"""
    label_smoothing: float = 0.0
    """task dpo: share of preferences taken to be the wrong way round, for robust and exo_pair"""
    reference: Literal["auto", "adapter_off", "copy", "precomputed"] = "auto"
    """task dpo: the untrained model, by adapter_off, a copy, or precomputed; auto: copy for full"""

    def check(self) -> None:
        """Raise `LabkitError` for a value out of range."""
        object.__setattr__(self, "loss_type", tuple(self.loss_type))
        if not self.beta > 0:
            raise LabkitError(f"beta must be above 0, got {self.beta!r}")
        if not self.loss_type:
            raise LabkitError("loss_type is empty: name one, such as sigmoid")
        for name in self.loss_type:
            if name not in LOSSES:
                raise LabkitError(f"loss_type {name!r} is unknown: {nearest(name, LOSSES)}")
        if not 0 <= self.label_smoothing < 0.5:
            raise LabkitError(f"label_smoothing must be in [0, 0.5), got {self.label_smoothing!r}")
        if "exo_pair" in self.loss_type and not self.label_smoothing:
            raise LabkitError("loss_type exo_pair takes a logarithm of label_smoothing: set it "
                              "above 0, to 1e-3 for example")  # fmt: skip


OF_TASKS: tuple[type[Settings], ...] = (TextSettings, PreferenceSettings)


def reference_of(config: Any) -> Reference:
    """Return the reference of a `RunConfig`'s steps; "none" where the task has none."""
    if config.task != PREFERENCES:
        return "none"
    if config.reference == "auto":
        tuner = METHODS.get(config.method)
        return "copy" if tuner is not None and tuner.trains_base else "adapter_off"
    found: Reference = config.reference
    return found


def check_run(config: Any) -> None:
    """Raise `LabkitError` for settings of a `RunConfig` that its task does not go with."""
    reference = reference_of(config)
    check_reference(reference, method=config.method, base=config.base, settings=config)


def check_reference(reference: Reference, *, method: str, base: str, settings: Any) -> None:
    """Raise `LabkitError` for a reference that would not be the model that training starts from.

    DPO's first loss is ln 2 only if it is. `settings` are those of the method.
    """
    tuner = METHODS.get(method)
    if reference == "none" or tuner is None:
        return
    others = [
        name
        for name, other in METHODS.items()
        if not other.trains_base and not other.begins_elsewhere(other.Settings())
    ]
    if reason := tuner.begins_elsewhere(settings):
        raise LabkitError(
            f"task {PREFERENCES} starts from the reference, and {reason}: use method "
            f"{', '.join(others)} as they are by default, or full"
        )
    if reference == "copy" and base != "plain":
        raise LabkitError(
            f"reference copy would hold base {base} twice: adapter_off is the same reference and "
            "costs nothing, so set it, or precomputed"
        )
    if reference == "copy":
        return
    if tuner.trains_base and reference == "adapter_off":
        raise LabkitError(
            f"method {method} has no adapter to switch off: set reference to copy, which holds the "
            f"weights twice, or to precomputed, or use method {' or '.join(others)}"
        )
    if reason := tuner.changes_base(settings):
        raise LabkitError(
            f"reference {reference} switches the adapter off, and {reason}: set reference to copy"
        )
