"""Put a sharded checkpoint together: one model, in safetensors files that any program loads.

Every rank of a sharded run saves its part. `torch.distributed.checkpoint` (`dcp_folder`) and
DeepSpeed (`deepspeed_folder`) say in files of their own what the parts are; here they are read as
places in files, checked, and written tensor by tensor, so the memory this takes is that of the
largest tensor, whatever the model has.

* Before anything is written every part is read once and held against the checksum beside it.
* A name for the same weights (a tied head) is written once, as transformers writes models.
* Where adapters were trained, the adapter is written and not its base, in PEFT's names.
* Configuration and tokenizer are copied from beside the checkpoint, or from the model that the
  run's record or `like` names, so that the result loads by `from_pretrained`.
"""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from labkit.errors import LabkitError, nearest, read_json
from labkit.files import appearing, expanded, free_folder
from labkit.models import load, quantised, registry
from labkit.runs import records
from labkit.runs.run_folder import COMPLETE
from labkit.train.sharded import dcp_folder, deepspeed_folder, naming, torch_files
from labkit.train.sharded.pieces import Whole, refuse_copies, type_of, write

DTYPES = {name: getattr(torch, name) for name in load.DTYPES}
BESIDE = ("config.json", "generation_config.json", "chat_template.jinja", "vocab.json",
          "merges.txt", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
          "special_tokens_map.json", "added_tokens.json", "spiece.model")  # fmt: skip
"""Files that make weights a model."""
OF_ADAPTER = ("adapter_config.json", quantised.FILE, *BESIDE[2:])


@dataclass(frozen=True, kw_only=True)
class Consolidated:
    """A checkpoint that was put together."""

    checkpoint: str
    out: str
    format: Literal["dcp", "deepspeed"]
    kind: Literal["model", "adapter"]
    tensors: int
    parameters: int
    bytes: int
    dtype: str
    """of most of the weights"""
    files: tuple[str, ...]
    left_out: tuple[str, ...]
    """names of weights that are written under another"""
    configured: bool
    """whether the configuration lies beside the weights"""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON of `labkit consolidate`."""
        return dataclasses.asdict(self)


def consolidate(
    checkpoint: str | Path, out: str | Path, *, tag: str | None = None, dtype: str = "auto",
    max_shard_size: str = "5GB", exclude_frozen: bool = False, like: str | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> Consolidated:  # fmt: skip
    """Write the model or adapter of a sharded checkpoint to the folder `out`.

    `checkpoint` is a folder that DCP or DeepSpeed wrote, one with it inside, or a run, whose newest
    checkpoint is taken. `tag` is DeepSpeed's, `dtype` auto (as stored; DeepSpeed's fp32 weights),
    bfloat16, float16 or float32. `like` is a model or adapter whose configuration goes beside the
    weights. `told` gets a line for each tensor. `out` is new or empty, and appears whole or not.

    Raises:
        LabkitError: a shard is missing, damaged or of another checkpoint; there is no checkpoint;
            `out` holds something; choices that are wrong.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise LabkitError(f"dtype {dtype!r} is not known: {nearest(dtype, ['auto', *DTYPES])}")
    target = free_folder(out)
    folder = _newest(expanded(checkpoint))
    place, form = _found(folder, tag)
    shared: Mapping[str, str] = {}
    if form == "deepspeed":
        saved = deepspeed_folder.read(place, tag=tag, frozen=not exclude_frozen)
        tensors, shared = saved.tensors, saved.shared
        stored_as = "float32" if dtype == "auto" else dtype
    elif tag is not None:
        raise LabkitError(f"{place} is a checkpoint of torch.distributed, which has no tags: leave "
                          "--tag out")  # fmt: skip
    else:
        tensors, stored_as = dcp_folder.read(place), dtype
    of = DTYPES.get(stored_as)
    refuse_copies(tensors.values())
    named = naming.adapter(tensors)
    kind: Literal["model", "adapter"] = "adapter" if named else "model"
    config = _beside(folder, like, kind=kind)
    everything = named or naming.unwrapped(tensors)
    tensors = named or naming.once(everything, shared, config)
    for stored in {(each.file, each.entry, each.archive): each
                   for whole in tensors.values() for each in _parts(whole)}.values():  # fmt: skip
        torch_files.verify(stored)
    name = "adapter_model" if kind == "adapter" else "model"
    with appearing(target) as partial:
        partial.mkdir()
        files = write(partial, tensors, name=name, dtype=of, max_shard_size=max_shard_size,
                      told=lambda each: told(_line(each, tensors[each], of)))  # fmt: skip
        configured = _copy(config, partial, kind, str(of or _most(tensors)).removeprefix("torch."))
        for file in partial.iterdir():
            file.chmod(0o644)
    return Consolidated(
        checkpoint=str(place if tag is None else place / tag), out=str(target), format=form,
        kind=kind, tensors=len(tensors), parameters=sum(each.count for each in tensors.values()),
        bytes=sum(each.count * type_of(each, of).itemsize for each in tensors.values()),
        dtype=str(of or _most(tensors)).removeprefix("torch."), files=tuple(files),
        left_out=tuple(sorted(set(everything) - set(tensors))),
        configured=configured,
    )  # fmt: skip


def render(made: Consolidated) -> str:
    """Return what was made as text."""
    lines = [f"{made.out}: {made.kind} of {made.parameters:,} parameters in {made.dtype}, "
             f"{made.bytes / 2**20:,.0f} MiB in {len(made.files)} "
             f"file{'s' * (len(made.files) > 1)}"]  # fmt: skip
    if made.left_out:
        lines.append(
            f"the same weights as others, so not written twice: {', '.join(made.left_out)}"
        )
    if not made.configured:
        wanted = "adapter_config.json" if made.kind == "adapter" else "config.json"
        lines.append(f"no {wanted} lies around the checkpoint: name the model by --like, or put "
                     "one beside the weights")  # fmt: skip
    return "\n".join(lines)


def _parts(whole: Whole) -> list[torch_files.Stored]:
    return [piece.stored for piece in whole.pieces]


def _line(name: str, whole: Whole, dtype: torch.dtype | None) -> str:
    shape = " × ".join(map(str, whole.shape)) or "one number"
    return f"{name}: {shape} in {str(type_of(whole, dtype)).removeprefix('torch.')}, " \
           f"from {len(whole.pieces)} pieces"  # fmt: skip


def _most(tensors: Mapping[str, Whole]) -> torch.dtype:
    """Return the type that most elements have."""
    counts: dict[torch.dtype, int] = {}
    for whole in tensors.values():
        counts[whole.dtype] = counts.get(whole.dtype, 0) + whole.count
    return max(counts, key=lambda dtype: counts[dtype])


def _newest(given: Path) -> Path:
    """Return the folder of the newest checkpoint of a run, or `given` itself."""
    folder = given if given.is_dir() else records.runs_dir() / given
    if not folder.is_dir():
        raise LabkitError(f"{given} is neither a folder nor a run: name a checkpoint")
    numbers = {int(match[1]): each for each in (folder / "checkpoints").glob("checkpoint-*")
               if (match := re.fullmatch(r"checkpoint-(\d+)", each.name))}  # fmt: skip
    # One that was cut off while it was written has no marker yet.
    whole = [number for number, each in numbers.items() if (each / COMPLETE).is_file()]
    return numbers[max(whole or numbers)] if numbers else folder


def _found(folder: Path, tag: str | None) -> tuple[Path, Literal["dcp", "deepspeed"]]:
    """Return the folder with a checkpoint, `folder` or one inside it, and who wrote it."""
    for place in (folder, *sorted(each for each in folder.iterdir() if each.is_dir())):
        if place != folder and "optim" in place.name:  # accelerate keeps the optimizer apart
            continue
        if dcp_folder.is_checkpoint(place):
            return place, "dcp"
        if deepspeed_folder.is_checkpoint(place, tag):
            return place, "deepspeed"
    raise LabkitError(
        f"{folder} holds no sharded checkpoint: neither .metadata of torch.distributed.checkpoint "
        "nor *_optim_states.pt of DeepSpeed"
    )


def _beside(folder: Path, like: str | None, *, kind: str) -> Path | None:
    """Return the folder of the configuration: that of `like`, or the nearest around `folder`."""
    wanted = "adapter_config.json" if kind == "adapter" else "config.json"
    if like is not None:
        place = registry.resolve(like)
        if not (place / wanted).is_file():
            raise LabkitError(f"{place} has no {wanted}: name a model like that of the checkpoint")
        return place
    around = [folder, *list(folder.absolute().parents)[:3]]
    for place in around:
        for inside in (place, place / "model"):
            if (inside / wanted).is_file():
                return inside
    for place in around:
        if (place / "record.json").is_file() and kind == "model":
            record = read_json(place / "record.json")
            model = record.get("config", {}).get("model") if isinstance(record, dict) else None
            if isinstance(model, str):
                return registry.resolve(model)
    return None


def _copy(config: Path | None, target: Path, kind: str, dtype: str) -> bool:
    """Copy what makes weights a model from `config`; say whether there was something."""
    if config is None:
        return False
    for name in OF_ADAPTER if kind == "adapter" else BESIDE:
        if (config / name).is_file():
            shutil.copyfile(config / name, target / name)
    if kind == "model":  # the type is of the weights that the configuration came with
        settings = read_json(target / "config.json")
        settings.pop("torch_dtype", None)
        settings["dtype"] = dtype
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        (target / "config.json").write_text(text, encoding="utf-8")
    return True
