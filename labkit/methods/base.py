"""What a fine-tuning method is: the questions that everyone else asks it instead of its name.

A method is one file: a `Settings` dataclass that needs no torch, whose fields `RunConfig` collects,
and a subclass of `Method` that answers

    attach                        what it does to a model
    trains_base, weights_dtype    whether the pretrained weights change, and the type they need
    adapts, added_matrices        which linear layers it touches, and what it adds
    virtual_tokens                where positions are that no text has
    mergeable, check              whether plain weights can hold it, and which models cannot

Trainer, memory formula, trace and merge ask these, so that a new method needs no line in them: only
its file, and one line in `registry.METHODS`.
"""

import abc
import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from labkit.errors import LabkitError
from labkit.models.quantised import keep_unpacked

if TYPE_CHECKING:
    from torch import nn


class LinearLike(Protocol):
    """A linear layer of a block, as far as a method's arithmetic needs it."""

    @property
    def name(self) -> str: ...
    @property
    def inputs(self) -> int: ...
    @property
    def outputs(self) -> int: ...


class ShapeLike(Protocol):
    """A model's numbers, as far as a method's arithmetic needs them."""

    @property
    def layers(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def queries(self) -> int: ...
    @property
    def keys(self) -> int: ...
    @property
    def activation(self) -> str: ...
    @property
    def dropout(self) -> float: ...
    @property
    def decoder_linears(self) -> "Sequence[LinearLike]": ...


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one method; a docstring line under each field says what it does."""

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Bring values into one form. Raises `LabkitError` for what the method cannot do.

        `RunConfig` calls it as well, on itself: it holds the fields of all methods.
        """

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the settings."""
        return tuple(each.name for each in dataclasses.fields(cls))


class Method(abc.ABC):
    """A fine-tuning method. Attributes are the answers of one that adds weights to a frozen base.

    `settings` of every question are the method's own `Settings`, or a `RunConfig`.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[Settings]] = Settings
    in_training: ClassVar[bool] = True
    """whether `labkit train` does it; others are known to the memory estimate only"""
    trains_base: ClassVar[bool] = False
    """whether the pretrained weights themselves change"""
    weights_dtype: ClassVar[str] = "bfloat16"
    """type the pretrained weights are held in where 16 bit is the fast type"""
    virtual_tokens: ClassVar[Literal["", "input", "cache"]] = ""
    """where its trained positions stand: before the input, or in the key-value cache"""
    checkpoints: ClassVar[bool] = True
    """whether it goes with gradient checkpointing"""
    mergeable: ClassVar[bool] = False
    """whether plain weights can hold what was trained"""
    peft_type: ClassVar[str] = ""
    """what PEFT calls it in `adapter_config.json`"""
    keeps_inputs: ClassVar[bool] = False
    """whether an adapted layer's input is kept for backward: a trained matrix multiplies it"""
    launches: ClassVar[int] = 200
    """kernels a layer launches in forward and backward on a GPU, with two layers adapted"""

    @abc.abstractmethod
    def attach(self, model: Any, settings: Any, *, on_meta: bool = False) -> "nn.Module":
        """Return the model ready to train: what is trained requires a gradient, nothing else does.

        `on_meta`: the model has no storage, and added weights get none either and keep its type.

        Raises:
            LabkitError: settings that do not fit the model.
        """

    def adapts(self, linear: str, architecture: str, settings: Any) -> bool:
        """Return whether a linear layer, by its name, gets added weights of its own."""
        return False

    def check_targets(  # noqa: B027 (most methods adapt no layers, so nothing can be wrong)
        self, linears: Collection[str], architecture: str, settings: Any, *,
        key: str = "target_modules", model: str = "the model",
    ) -> None:  # fmt: skip
        """Raise `LabkitError` when layers are asked for that the model cannot have adapted.

        `linears` are the names of its linear layers; `key` and `model` are what the message says.
        """

    def added_matrices(
        self, shape: ShapeLike, linears: "Sequence[LinearLike]", settings: Any
    ) -> list[tuple[int, int]]:
        """Return the (rows, columns) of every weight that is added to the whole model.

        `linears` are the layers of one block that it adapts.
        """
        return []

    def kept_per_token(
        self, shape: ShapeLike, linears: "Sequence[LinearLike]", settings: Any, *,
        compute: int, added: int, length: int,
    ) -> float:  # fmt: skip
        """Return the bytes a block keeps for backward per token beyond inputs of adapted layers.

        `compute` and `added` are the bytes of a number in the compute type and of an added weight,
        `length` is the tokens of a sample.
        """
        return 0

    def made_per_token(
        self, linears: "Sequence[LinearLike]", settings: Any, *, added: int
    ) -> float:
        """Return the bytes per token that the MLP's last layer makes in its backward pass."""
        return 0

    def made(self, linear: LinearLike, settings: Any, *, compute: int) -> float:
        """Return the bytes that an adapted layer makes in its forward, whatever the batch."""
        return 0

    def begins_elsewhere(self, settings: Any) -> str:
        """Return why its first forward is not the base model's, as a clause; empty if it is."""
        return ""

    def changes_base(self, settings: Any) -> str:
        """Return why switching it off does not give the base model back, as a clause; or empty."""
        return ""

    def check_base(self, base: str, settings: Any) -> None:  # noqa: B027 (most stand on any base)
        """Raise `LabkitError` for settings that do not go with a quantised base of this name."""

    def check(self, architecture: str) -> str:
        """Return why the method cannot work on an architecture, as a clause; empty if it can."""
        return ""


def attach_by_peft(model: Any, config: Any, *, what: str, on_meta: bool = False, **kw: Any) -> Any:
    """Return `model` with PEFT's adapter of a configuration; `what` names it in errors.

    Added weights are float32, and copy no input into it: under autocast they compute in 16 bit.

    Raises:
        LabkitError: anything that PEFT refuses.
    """
    import peft

    if on_meta:
        kw["autocast_adapter_dtype"] = False
    keep_unpacked(model)
    try:
        peft_model: Any = peft.get_peft_model(model, config, **kw)
    except (ValueError, TypeError, ImportError) as error:
        raise LabkitError(f"{what} cannot be attached: {str(error).splitlines()[0]}") from error
    cast_inputs(peft_model, False)
    return peft_model


def cast_inputs(model: "nn.Module", on: bool) -> None:
    """Set whether adapters copy their input to their own type first, PEFT's default."""
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = on


def task_type(model: Any) -> str:
    """Return what PEFT calls the model's task."""
    return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
