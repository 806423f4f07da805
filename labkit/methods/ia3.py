"""(IA)³: one trained number for each key, each value, and each inner unit of the MLP.

Liu et al. 2022 (arXiv:2205.05638, section 3.3): three vectors stretch what attention reads and what
the MLP's last layer reads,

    k' = l_k ⊙ W_k·x        v' = l_v ⊙ W_v·x        y = W₂·(l_f ⊙ f(W₁·x))

and start at one, so the first forward is the base model's. A layer trains keys + values + MLP
widths of numbers: the least of all methods here. A stretched output is a stretched row of the
weight, a stretched input a stretched column, so merging is exact.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labkit.errors import LabkitError, nearest
from labkit.methods.base import (
    LinearLike,
    Method,
    Settings,
    ShapeLike,
    attach_by_peft,
    task_type,
)
from labkit.models.layers import linear_names
from labkit.models.quantised import stretch_in_its_type

if TYPE_CHECKING:
    from torch import nn

DEFAULT = ("default",)
KEYS_AND_VALUES = ("k_proj", "v_proj", "k", "v", "query_key_value", "in_proj", "x_proj")
READS_THE_MLP = ("down_proj", "fc2", "dense_4h_to_h", "wo")
PAST_ADAPTERS = ("out_proj", "dt_proj")
"""Layers of Mamba whose weight its scan reads itself."""


@dataclass(frozen=True, kw_only=True)
class IA3Settings(Settings):
    """Settings of (IA)³."""

    ia3_modules: tuple[str, ...] = DEFAULT
    """layers that (IA)³ stretches: 'default' for keys, values and the MLP's last, or names"""

    def check(self) -> None:
        """Bring lists into one form. Raises `LabkitError` for an empty one."""
        object.__setattr__(self, "ia3_modules", tuple(self.ia3_modules))
        if not self.ia3_modules:
            raise LabkitError("ia3_modules is empty: use default or name linear layers")


class IA3(Method):
    """Train vectors that stretch keys, values and the MLP."""

    name = "ia3"
    Settings = IA3Settings
    mergeable = True
    peft_type = "IA3"
    launches = 170

    def attach(self, model: Any, settings: IA3Settings, *, on_meta: bool = False) -> "nn.Module":
        """Freeze the model and stretch its `ia3_modules`.

        Raises:
            LabkitError: a layer that the model does not have, or what PEFT refuses.
        """
        from peft import IA3Config

        names, architecture = [name for name, _ in linear_names(model)], model.config.model_type
        self.check_targets(names, architecture, settings)
        targets = {_leaf(n) for n in names if self.adapts(n, architecture, settings)}
        config = IA3Config(
            task_type=task_type(model), target_modules=sorted(targets),
            feedforward_modules=sorted(targets & set(READS_THE_MLP)),
        )  # fmt: skip
        attached: nn.Module = attach_by_peft(model, config, what="(IA)³", on_meta=on_meta)
        stretch_in_its_type(attached)
        return attached

    def adapts(self, linear: str, architecture: str, settings: IA3Settings) -> bool:
        """Return whether a layer's output, or the MLP's inner row, is stretched."""
        leaf = _leaf(linear)
        if settings.ia3_modules == DEFAULT:
            return leaf in KEYS_AND_VALUES + READS_THE_MLP
        return any(leaf == _leaf(target) for target in settings.ia3_modules)

    def check_targets(
        self, linears: Collection[str], architecture: str, settings: IA3Settings, *,
        key: str = "ia3_modules", model: str = "the model",
    ) -> None:  # fmt: skip
        """Raise `LabkitError` for a layer that the model does not have, or that never runs."""
        leaves = {_leaf(name) for name in linears}
        past = set(PAST_ADAPTERS) if "mamba" in architecture else set()
        wanted = [] if settings.ia3_modules == DEFAULT else settings.ia3_modules
        for target in map(_leaf, wanted):
            if target not in leaves or target in past:
                raise LabkitError(
                    f"ia3_modules: {model} has no linear layer {target!r} that can be stretched: "
                    f"{nearest(target, (leaves - past) | set(DEFAULT))}"
                )
        if not any(self.adapts(name, architecture, settings) for name in linears):
            raise LabkitError(f"ia3_modules: name linear layers of {model}, whose keys and values "
                              f"have other names: {', '.join(sorted(leaves - past))}")  # fmt: skip

    def added_matrices(
        self, shape: ShapeLike, linears: Sequence[LinearLike], settings: IA3Settings
    ) -> list[tuple[int, int]]:
        """Return one vector for each stretched layer."""
        return shape.layers * [(_stretched(each), 1) for each in linears]

    def kept_per_token(
        self, shape: ShapeLike, linears: Sequence[LinearLike], settings: IA3Settings, *,
        compute: int, added: int, length: int,
    ) -> float:  # fmt: skip
        """Return what is stretched, which the vector's gradient needs: an input in its own type.

        An input that is ReLU's result as it came is kept by ReLU already.
        """
        there = shape.activation == "relu" and not shape.dropout and added == compute
        read = 0 if there else added
        return sum(_stretched(each) * (read if each.name in READS_THE_MLP else compute)
                   for each in linears)  # fmt: skip

    def made_per_token(
        self, linears: Sequence[LinearLike], settings: IA3Settings, *, added: int
    ) -> float:
        """Return what is made of a stretched input: its gradient, and two products of that.

        All are in added's type.
        """
        return max((3 * added * each.inputs for each in linears if each.name in READS_THE_MLP),
                   default=0)  # fmt: skip


def _stretched(linear: LinearLike) -> int:
    return linear.inputs if linear.name in READS_THE_MLP else linear.outputs


def _leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1]
