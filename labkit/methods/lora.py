"""LoRA: a frozen weight, and a low-rank update beside it.

LoRA (Hu et al. 2021, arXiv:2106.09685) leaves a weight W₀ of shape (out, in) as it is and learns

    y = W₀·x + (α/r)·B·A·x        A: (r, in), random      B: (out, r), zero

so the first forward equals the base model's, and r·(in + out) numbers train instead of in·out.
The frozen base is held in bfloat16; the adapters stay in float32, since they are what changes.

Variants are settings:

    use_rslora         α/√r in place of α/r, so that an update's size does not shrink with the rank
                       (Kalajdzievski 2023, arXiv:2312.03732)
    use_dora           y = m ⊙ (W₀ + (α/r)·B·A)·x / ‖W₀ + (α/r)·B·A‖, a trained length m for each
                       row, which starts at W₀'s, and the low rank for directions alone; the norm
                       counts as a constant in backward (Liu et al. 2024, arXiv:2402.09353)
    init_lora_weights  pissa: A and B are the r largest singular parts of W₀, which the base loses,
                       so that the first forward is the base's (Meng et al. 2024, arXiv:2404.02948)
                       loftq: the base is quantised, Q(W₀ − B·A), and B·A starts at what that lost
                       (Li et al. 2023, arXiv:2310.08659; `models.quantised` has the algorithm)

All of them merge: what is added up is one matrix. DoRA pays for its norm: in each forward B·A is
written out in full beside W₀. PiSSA and LoftQ change the base, so an adapter of theirs repeats its
start when it is loaded, and begins from weights that stand in the type it was trained in.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from labkit.errors import LabkitError, brief, nearest
from labkit.methods.base import (
    LinearLike,
    Method,
    Settings,
    ShapeLike,
    attach_by_peft,
    task_type,
)
from labkit.models.layers import linear_names
from labkit.models.quantised import CHANGED_BY_START, loftq_on_any_device

if TYPE_CHECKING:
    from torch import nn

LOFTQ_KEYS = ("loftq_bits", "loftq_iter")
ALL = ("all-linear",)
PAST_ADAPTERS = ("out_proj", "dt_proj")
"""Layers of Mamba whose weight the scan reads itself, so that an adapter beside it never runs:
`cuda_kernels_forward` both, `slow_forward` of transformers 5 dt_proj. PEFT refuses out_proj."""


@dataclass(frozen=True, kw_only=True)
class LoraSettings(Settings):
    """Settings of LoRA and its variants, under PEFT's names."""

    r: int = 16
    """LoRA rank: the update of a weight is the product of two matrices with this inner size"""
    lora_alpha: int = 32
    """LoRA scale: the update is multiplied by lora_alpha / r (or / sqrt(r) with use_rslora)"""
    lora_dropout: float = 0.0
    """probability of dropping an input of an adapter while training"""
    target_modules: tuple[str, ...] = ALL
    """linear layers that get an adapter: 'all-linear' or names such as q_proj,v_proj"""
    bias: Literal["none", "all", "lora_only"] = "none"
    """which bias vectors are trained beside the adapters"""
    use_rslora: bool = False
    """scale by lora_alpha / sqrt(r), which keeps large ranks from being scaled away"""
    use_dora: bool = False
    """train the length of each weight row apart from its direction (DoRA)"""
    init_lora_weights: Literal["default", "gaussian", "pissa", "olora", "loftq"] = "default"
    """how the adapters start; 'default' makes the first forward equal to the base model"""
    loftq_config: Mapping[str, int] | None = None
    """LoftQ settings such as {loftq_bits: 4}; only with init_lora_weights: loftq"""

    def check(self) -> None:
        """Bring lists into one form. Raises `LabkitError` for a value out of range."""
        object.__setattr__(self, "target_modules", tuple(self.target_modules))
        if isinstance(self.loftq_config, Mapping):
            object.__setattr__(self, "loftq_config", dict(self.loftq_config))
            for key, value in self.loftq_config.items():
                if key not in LOFTQ_KEYS:
                    raise LabkitError(
                        f"loftq_config: unknown key {key!r}: {nearest(str(key), LOFTQ_KEYS)}"
                    )
                if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                    raise LabkitError(f"loftq_config: {key} must be 1 or more, got {brief(value)}")
        for key in ("r", "lora_alpha"):
            if not getattr(self, key) > 0:
                raise LabkitError(f"{key} must be above 0, got {getattr(self, key)!r}")
        if not 0 <= self.lora_dropout < 1:
            raise LabkitError(f"lora_dropout must be in [0, 1), got {self.lora_dropout!r}")
        if (self.loftq_config is not None) != (self.init_lora_weights == "loftq"):
            raise LabkitError(
                "loftq_config and init_lora_weights: loftq go together: set both or neither"
            )
        if not self.target_modules:
            raise LabkitError("target_modules is empty: use all-linear or name linear layers")


class Lora(Method):
    """Train low-rank updates beside frozen linear layers."""

    name = "lora"
    Settings = LoraSettings
    mergeable = True
    peft_type = "LORA"
    keeps_inputs = True
    launches = 260

    def attach(self, model: Any, settings: LoraSettings, *, on_meta: bool = False) -> "nn.Module":
        """Freeze the model and put LoRA adapters on its `target_modules`.

        Raises:
            LabkitError: a target module that the model does not have, or whose adapter would never
                run; anything else that PEFT refuses.
        """
        from peft import LoftQConfig, LoraConfig

        names = [name for name, _ in linear_names(model)]
        architecture = model.config.model_type
        self.check_targets(names, architecture, settings)
        targets: str | list[str] = list(settings.target_modules)
        if settings.target_modules == ALL:
            targets = ALL[0]
            adapted = {n for n in names if self.adapts(n, architecture, settings)}
            if len(adapted) < len(names):
                targets = sorted({_leaf(name) for name in adapted})
        start: dict[str, Any] = {}
        if settings.init_lora_weights != "default":
            start["init_lora_weights"] = settings.init_lora_weights
        if settings.loftq_config is not None:
            start["loftq_config"] = LoftQConfig(**settings.loftq_config)
        config = LoraConfig(
            task_type=task_type(model),
            r=settings.r,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules=targets,
            bias=settings.bias,
            use_rslora=settings.use_rslora,
            use_dora=settings.use_dora,
            **start,
        )
        options = {"low_cpu_mem_usage": True} if on_meta else {}
        with loftq_on_any_device():
            attached: nn.Module = attach_by_peft(
                model, config, what="LoRA", on_meta=on_meta, **options
            )
        if settings.init_lora_weights == "loftq":
            _undo_scale(attached)
        return attached

    def adapts(self, linear: str, architecture: str, settings: LoraSettings) -> bool:
        """Return whether a linear layer gets an adapter: the one rule for training and memory."""
        if "mamba" in architecture and _leaf(linear) in PAST_ADAPTERS:
            return False
        return settings.target_modules == ALL or any(
            _is(linear, target) for target in settings.target_modules
        )

    def check_targets(
        self, linears: Collection[str], architecture: str, settings: LoraSettings, *,
        key: str = "target_modules", model: str = "the model",
    ) -> None:  # fmt: skip
        """Raise `LabkitError` for a target that the model does not have, or that never runs."""
        leaves = {_leaf(name) for name in linears}
        for target in settings.target_modules:
            if target in ALL:
                continue
            if not any(_is(name, target) for name in linears):
                raise LabkitError(
                    f"{key}: {model} has no linear layer {target!r}: "
                    f"{nearest(target, leaves | set(ALL))}"
                )
            if "mamba" in architecture and _leaf(target) in PAST_ADAPTERS:
                others = ", ".join(sorted(leaves - set(PAST_ADAPTERS)))
                raise LabkitError(
                    f"{key}: LoRA cannot be attached to {target}: the scan of {model} reads its "
                    f"weight past any adapter: choose from {others}"
                )

    def added_matrices(
        self, shape: ShapeLike, linears: Sequence[LinearLike], settings: LoraSettings
    ) -> list[tuple[int, int]]:
        """Return A (r, in) and B (out, r) of every adapted layer, and DoRA's lengths (out, 1)."""
        r = settings.r
        block = [pair for each in linears for pair in ((r, each.inputs), (each.outputs, r))]
        if settings.use_dora:
            block += [(each.outputs, 1) for each in linears]
        return shape.layers * block

    def kept_per_token(
        self, shape: ShapeLike, linears: Sequence[LinearLike], settings: LoraSettings, *,
        compute: int, added: int, length: int,
    ) -> float:  # fmt: skip
        """Return A's result, which B's gradient needs; DoRA's lengths need both results too."""
        rank = 2 * compute * settings.r * len(linears)
        results = 2 * compute * sum(each.outputs for each in linears)
        return rank + (results if settings.use_dora else 0)

    def begins_elsewhere(self, settings: LoraSettings) -> str:
        """Return why not as the base: LoftQ's start makes up for a quantised base, not wholly."""
        if settings.init_lora_weights != "loftq":
            return ""
        return "init_lora_weights loftq begins beside weights that it has quantised"

    def changes_base(self, settings: LoraSettings) -> str:
        """Return which start takes its part out of the base, and which bias is the base's own."""
        start = settings.init_lora_weights
        if start.lower() in CHANGED_BY_START:
            return f"init_lora_weights {start}, unlike default, takes its start out of the base"
        return f"bias {settings.bias} trains the base's own" if settings.bias != "none" else ""

    def check_base(self, base: str, settings: LoraSettings) -> None:
        """Raise `LabkitError` for a start that changes plain weights, and for DoRA on 8 bits.

        PEFT needs the whole weight at each step for DoRA's norm, and on a CPU loses the scales of
        8-bit weights when it dequantises them.
        """
        if settings.use_dora and base == "8bit":
            raise LabkitError(
                "use_dora needs whole weights at each step, which PEFT does not get from base 8bit:"
                " set base to nf4 or plain, or use_dora to false"
            )
        if settings.init_lora_weights.lower() in CHANGED_BY_START:
            raise LabkitError(
                f"init_lora_weights {settings.init_lora_weights} changes plain weights, and base "
                f"{base} holds none: set base to plain, or init_lora_weights to default"
            )

    def made(self, linear: LinearLike, settings: LoraSettings, *, compute: int) -> float:
        """Return what DoRA's norm makes: B·A and its sum with the weight, written out in full."""
        return 4 * compute * linear.inputs * linear.outputs if settings.use_dora else 0


def _undo_scale(model: Any) -> None:
    """Divide B by what the layer multiplies B·A with: LoftQ's start makes up for the base once."""
    import torch

    with torch.no_grad():
        for module in model.modules():
            for name, adapter in getattr(module, "lora_B", {}).items():
                adapter.weight.div_(module.scaling[name])


def _leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _is(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
