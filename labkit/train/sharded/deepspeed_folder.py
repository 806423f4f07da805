"""The tensors of a checkpoint that DeepSpeed's ZeRO wrote; DeepSpeed itself is not needed.

    latest                                          the tag, such as global_step10
    TAG/mp_rank_00_model_states.pt                  stages 1 and 2: shapes, buffers, frozen weights
    TAG/zero_pp_rank_R_mp_rank_00_model_states.pt   stage 3: the same of each rank
    TAG/[bf16_]zero_pp_rank_R_mp_rank_00_optim_states.pt    fp32 weights of rank R, and moments

In stages 1 and 2 the trained weights of a group lie one behind another in one vector, which is cut
into equal parts, one a rank. In stage 3 each weight is cut by itself, its end filled up, and a rank
has its part of each in one vector. `deepspeed/utils/zero_to_fp32.py`, which DeepSpeed puts into
every checkpoint, is what this follows; that script loads all ranks at once, and writes tied weights
to safetensors only where they are dropped first.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.train.sharded import torch_files
from labkit.train.sharded.pieces import Piece, Whole, stored_whole
from labkit.train.sharded.torch_files import Stored

OPTIM = re.compile(r"(?:.*_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
MODEL = re.compile(r"(?:zero_pp_rank_(\d+)_)?mp_rank_(\d+)_model_states\.pt")


@dataclass(frozen=True, kw_only=True)
class Saved:
    """Tensors by name, and the names that are the same tensor as another."""

    tensors: dict[str, Whole]
    shared: dict[str, str]


def is_checkpoint(folder: Path, tag: str | None = None) -> bool:
    """Say whether DeepSpeed wrote this folder."""
    return (folder / "latest").is_file() or any((folder / (tag or "")).glob("*_optim_states.pt"))


def read(folder: Path, *, tag: str | None = None, frozen: bool = True) -> Saved:
    """Return the weights by name: fp32 ones that are stepped, buffers and, with `frozen`, the rest.

    `tag` is the folder inside; None: what the file `latest` names, or `folder` itself.

    Raises:
        LabkitError: a file is missing, truncated or of another checkpoint, or model parallel.
    """
    place = _tagged(folder, tag)
    optim = {rank: torch_files.read(file) for rank, file in _ranks(place, OPTIM).items()}
    if not optim:
        raise LabkitError(f"{place} holds no *_optim_states.pt, in which ZeRO keeps the weights")
    states = {rank: _optimizer(each, place) for rank, each in optim.items()}
    stage, count = _agreed(states, place)
    files = _ranks(place, MODEL)
    _complete(states, count, place, "optim_states")
    if stage == 3:
        _complete(files, count, place, "model_states")
    elif not files:
        raise LabkitError(f"{place / 'mp_rank_00_model_states.pt'} is missing: copy all files of "
                          "the checkpoint")  # fmt: skip
    models = [torch_files.read(file) for _, file in sorted(files.items())]
    for file, model in zip((file for _, file in sorted(files.items())), models, strict=True):
        if not isinstance(model, Mapping) or "param_shapes" not in model:
            raise LabkitError(f"{file} is not a model state of DeepSpeed's ZeRO")
        if model["param_shapes"] != models[0]["param_shapes"]:
            raise LabkitError(f"{file} is of another checkpoint: its weights are not those of the "
                              "first rank's")  # fmt: skip
    first = models[0]
    buffers = set(first.get("buffer_names") or ())
    tensors = {name: stored_whole(each) for name, each in first["module"].items()
               if name in buffers and isinstance(each, Stored)}  # fmt: skip
    if frozen:
        tensors |= _frozen(models, stage, place)
    ordered = [states[rank] for rank in range(count)]
    tensors |= _stage_3(first, ordered) if stage == 3 else _stage_1_and_2(first, ordered, place)
    for name, whole in tensors.items():
        whole.check(name, place)
    return Saved(tensors=tensors, shared=dict(first.get("shared_params") or {}))


def _tagged(folder: Path, tag: str | None) -> Path:
    latest = folder / "latest"
    if tag is None and latest.is_file():
        tag = latest.read_text(encoding="utf-8", errors="replace").strip()
    place = folder / (tag or "")
    if not place.is_dir() or Path(tag or "").name != (tag or ""):
        there = sorted(each.name for each in folder.iterdir() if each.is_dir())
        raise LabkitError(f"{folder} has no checkpoint {tag!r}: choose one of "
                          f"{', '.join(there) or 'none'} by --tag")  # fmt: skip
    return place


def _ranks(place: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for file in sorted(place.iterdir()):
        if match := pattern.fullmatch(file.name):
            if int(match[2]):
                raise LabkitError(f"{file} is of a model that is cut into parts (tensor or "
                                  "pipeline parallel), which is not put together here")  # fmt: skip
            rank = int(match[1] or 0)
            if rank in found:
                raise LabkitError(f"{file} and {found[rank].name} are of the same rank: the folder "
                                  "holds two checkpoints, move one away")  # fmt: skip
            found[rank] = file
    return found


def _optimizer(saved: Any, place: Path) -> Mapping[str, Any]:
    state = saved.get("optimizer_state_dict") if isinstance(saved, Mapping) else None
    if not isinstance(state, Mapping) or "zero_stage" not in state:
        raise LabkitError(f"{place} holds *_optim_states.pt that are not of DeepSpeed's ZeRO")
    return state


def _number(value: Any) -> int:
    """Return a number that may be an enumeration's, or the largest of several."""
    if isinstance(value, torch_files.Foreign):
        value = value.arguments[0]
    return max(map(int, value)) if isinstance(value, Sequence) else int(value)


def _agreed(states: Mapping[int, Mapping[str, Any]], place: Path) -> tuple[int, int]:
    """Return the stage and the number of ranks, which all ranks have to agree on."""
    said = {rank: (_number(each["zero_stage"]), _number(each["partition_count"]), _steps(each))
            for rank, each in states.items()}  # fmt: skip
    first = said[min(said)]
    for rank, each in said.items():
        if each != first:
            stage, count, steps = each
            raise LabkitError(
                f"{place}: the shard of rank {rank} is of another checkpoint than that of rank "
                f"{min(said)}: it says stage {stage}, {count} ranks and step {steps}, not stage "
                f"{first[0]}, {first[1]} ranks and step {first[2]}"
            )
    return first[:2]


def _steps(state: Mapping[str, Any]) -> int | None:
    """Return how many steps the optimizer took, where its state says so."""
    kept = state.get("base_optimizer_state", state.get("optimizer_state_dict"))
    if not isinstance(kept, Mapping):
        return None
    of_weights = kept.get("state")
    places = [*(of_weights.values() if isinstance(of_weights, Mapping) else ()),
              *(kept.get("param_groups") or ())]  # fmt: skip
    for place in places:
        step = place.get("step") if isinstance(place, Mapping) else None
        if isinstance(step, Stored) and step.count == 1:
            (value,) = (float(piece[0]) for piece in step.pieces(0, 1))
            return int(value)
        if isinstance(step, int):
            return step
    return None


def _complete(ranks: Mapping[int, Any], count: int, place: Path, kind: str) -> None:
    missing = [f"zero_pp_rank_{rank}_mp_rank_00_{kind}.pt" for rank in range(count)
               if rank not in ranks]  # fmt: skip
    if missing:
        raise LabkitError(f"{place} lacks {', '.join(missing[:3])}{' …' * (len(missing) > 3)}: the "
                          f"checkpoint is of {count} ranks, copy the files of all")  # fmt: skip
    if len(ranks) > count:
        raise LabkitError(f"{place} holds shards of {len(ranks)} ranks and is a checkpoint of "
                          f"{count}: files of another run lie among them")  # fmt: skip


def _frozen(models: Sequence[Mapping[str, Any]], stage: int, place: Path) -> dict[str, Whole]:
    shapes = models[0].get("frozen_param_shapes") or {}
    found = {}
    for name, shape in shapes.items():
        kept = [(model.get("frozen_param_fragments") or {}).get(name) for model in models]
        parts = [part for part in kept if isinstance(part, Stored)]
        if len(parts) < len(models):
            raise LabkitError(f"{place}: the frozen weight {name} is not there on every rank")
        cut = [(part, 0, part.count) for part in parts]
        found[name] = _row(tuple(shape), cut) if stage == 3 else stored_whole(parts[0])
    return found


def _row(shape: tuple[int, ...], parts: Sequence[tuple[Stored, int, int]]) -> Whole:
    """Return a tensor whose elements lie one behind another in parts (stored, start, count)."""
    total, at, pieces = math.prod(shape), 0, []
    for stored, start, count in parts:
        count = min(count, total - at, stored.count - start)
        if count > 0:
            pieces.append(Piece(offsets=(at,), sizes=(count,), stored=stored, start=start))
            at += count
    return Whole(shape=shape, dtype=parts[0][0].dtype, pieces=tuple(pieces), laid=(total,))


def _stage_1_and_2(
    first: Mapping[str, Any], states: Sequence[Mapping[str, Any]], place: Path
) -> dict[str, Whole]:
    found = {}
    paddings = states[0].get("param_alignment_paddings")
    for group, shapes in enumerate(first["param_shapes"]):
        parts = [state["single_partition_of_fp32_groups"][group] for state in states]
        ends = list(accumulate(part.count for part in parts))
        gaps = paddings[group] if paddings else [0] * len(shapes)
        at = 0
        for (name, shape), gap in zip(shapes.items(), gaps, strict=True):
            count = math.prod(shape)
            inside = []
            for part, end in zip(parts, ends, strict=True):
                begin = max(at, end - part.count)
                if (last := min(at + count, end)) > begin:
                    inside.append((part, begin - (end - part.count), last - begin))
            found[name] = _row(tuple(shape), inside or [(parts[0], 0, 0)])
            at += count + gap
        align = 2 * len(states)
        if math.ceil(at / align) != math.ceil(ends[-1] / align):
            raise LabkitError(
                f"{place}: the shards hold {ends[-1]:,} elements of group {group} "
                f"and its weights have {at:,}: a shard is of another model"
            )
    return found


def _stage_3(first: Mapping[str, Any], states: Sequence[Mapping[str, Any]]) -> dict[str, Whole]:
    shapes = {name: shape for group in first["param_shapes"] for name, shape in group.items()}
    groups = [state["fp32_flat_groups"] for state in states]
    found, at = {}, 0
    for name, shape in shapes.items():
        each = math.ceil(math.prod(shape) / len(states))
        parts = [part for flat in groups for part in _within(flat, at, each)]
        found[name] = _row(tuple(shape), parts or [(groups[0][0], 0, 0)])
        at += each
    return found


def _within(flat: Sequence[Stored], at: int, count: int) -> list[tuple[Stored, int, int]]:
    """Return where `count` elements from `at` on lie in a rank's vectors."""
    parts, begin = [], 0
    for vector in flat:
        low, high = max(at, begin), min(at + count, begin + vector.count)
        if high > low:
            parts.append((vector, low - begin, high - low))
        begin += vector.count
    return parts
