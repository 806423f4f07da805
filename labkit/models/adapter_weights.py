"""Read the weights of an adapter that somebody else wrote, before PEFT does.

PEFT reads `adapter_model.safetensors`, or where there is none `adapter_model.bin`, a pickle from
which only tensors are taken. It makes room for what the configuration says before it looks at
what is stored, takes whole numbers for weights, and asks the Hub for a file that is not there.

Under ZeRO-3 a process holds a part of each tensor, and saving without gathering them writes tensors
of size 0.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from labkit.console import quiet
from labkit.errors import LabkitError, brief, said

FILES = ("adapter_model.safetensors", "adapter_model.bin")
_ROOM = ("LORA", "ADALORA", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")
"""Kinds of adapters whose stored tensors have a dimension of the size that is asked for."""


def shapes(folder: Path, settings: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of the adapter in a folder; `settings` is its configuration.

    Raises:
        LabkitError: no file, a damaged one, no tensors, some that are no weights or not all
            numbers, or a configuration that asks for more than is stored.
    """
    found: dict[str, tuple[int, ...]] = {}
    for name, tensor in _tensors(folder):
        found[name] = tuple(tensor.shape)
        if not tensor.is_floating_point() and "indices" not in name:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise LabkitError(f"the adapter in {folder} holds {kind} in {brief(name)}, where "
                              "weights are float: save it with PEFT again")  # fmt: skip
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise LabkitError(f"the adapter in {folder} holds NaN or infinity in {brief(name)}: "
                              "use a checkpoint from before its training diverged")  # fmt: skip
    if not found:
        raise LabkitError(f"the adapter in {folder} holds no tensors: save it again")
    _refuse_empty(folder, found)
    _refuse_numbers(folder, settings, most=max(map(max, filter(None, found.values())), default=1))
    return found


def refuse_ungathered(folder: Path) -> None:
    """Raise LabkitError when weights of the full model in a folder have no elements."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as held:
                _refuse_empty(folder, {k: tuple(held.get_slice(k).get_shape())
                                       for k in held.keys()})  # noqa: SIM118  # fmt: skip
        except (SafetensorError, OSError) as error:
            raise _damaged(file, error) from None


def _tensors(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield the name and the tensor of everything stored, one at a time."""
    import torch
    from safetensors import safe_open

    file = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if file is None:
        raise LabkitError(f"{folder} has adapter_config.json and no {FILES[0]}: copy it, too")
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as held:
                for name in held.keys():  # noqa: SIM118
                    yield name, held.get_tensor(name)
            return
        with quiet():
            pickled = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(pickled, dict):
            raise TypeError(f"it holds {type(pickled).__name__}")
        for name, tensor in pickled.items():
            # A view may claim more than there is to it.
            if tensor.numel() * tensor.element_size() > file.stat().st_size:
                raise ValueError(f"{brief(name)} is larger than the file")
            yield str(name), tensor
    except (LabkitError, MemoryError, GeneratorExit):
        raise
    except Exception as error:  # what a damaged file raises depends on who stumbled over it
        raise _damaged(file, error) from None


def _damaged(file: Path, error: Exception) -> LabkitError:
    return LabkitError(f"no model can be loaded from {file.parent} ({file.name} is damaged: "
                       f"{brief(said(error))[1:-1]}): fetch or train it again")  # fmt: skip


def _refuse_empty(folder: Path, found: Mapping[str, tuple[int, ...]]) -> None:
    empty = [key for key, shape in found.items() if 0 in shape]
    if empty:
        raise LabkitError(
            f"{folder} has {len(empty)} tensors of size 0 ({brief(empty[0])}): it was saved under "
            "DeepSpeed ZeRO-3 without gathering the parts, so turn on "
            "stage3_gather_16bit_weights_on_model_save, or run zero_to_fp32.py on the checkpoint"
        )


def _refuse_numbers(folder: Path, settings: Mapping[str, Any], *, most: int) -> None:
    """Refuse settings that are no finite numbers, or ask for tensors larger than those stored."""
    sizes = ("r", "rank_pattern", "num_virtual_tokens")
    for key, value in settings.items():
        for number in value.values() if isinstance(value, dict) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise LabkitError(f"{folder / 'adapter_config.json'} has {key} {number}, "
                                  "which is no number")  # fmt: skip
            too_large = isinstance(number, int) and number > most
            if key in sizes and settings.get("peft_type") in _ROOM and too_large:
                raise LabkitError(
                    f"{folder / 'adapter_config.json'} has {key} {brief(number)}, and no stored "
                    f"tensor has more than {most} rows or columns: it belongs to another adapter"
                )
