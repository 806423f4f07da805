"""The tensors of a checkpoint that `torch.distributed.checkpoint` (DCP) wrote.

Each rank writes its pieces into `__RANK_N.distcp`, one `torch.save` behind the other. `.metadata`,
written last, says of each tensor its shape, the boxes it was cut into, and the file, place and
length of each. FSDP2 cuts the first dimension, tensor parallelism any.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from labkit.errors import LabkitError
from labkit.train.sharded import torch_files
from labkit.train.sharded.pieces import Piece, Whole

METADATA = ".metadata"


def is_checkpoint(folder: Path) -> bool:
    """Say whether DCP wrote this folder: whole, or cut off before its last file."""
    return (folder / METADATA).is_file() or any(folder.glob("__*_*.distcp"))


def read(folder: Path) -> dict[str, Whole]:
    """Return the model's tensors by name; the optimizer's and what else there is are left out.

    Raises:
        LabkitError: a file is missing, truncated or of another checkpoint, or there is no model.
    """
    if not (folder / METADATA).is_file():
        raise LabkitError(f"{folder / METADATA} is missing: it is written last, so the checkpoint "
                          "is not whole; take an earlier one")  # fmt: skip
    metadata = torch_files.unpickle(folder / METADATA)
    described = getattr(metadata, "state_dict_metadata", None)
    places = getattr(metadata, "storage_data", None)
    if not isinstance(described, dict) or not isinstance(places, dict):
        raise LabkitError(f"{folder / METADATA} is not one of torch.distributed.checkpoint")
    for place in places.values():
        file = _file(folder, place)
        if not file.is_file():
            raise LabkitError(f"{file} is missing: copy all files of the checkpoint")
        if file.stat().st_size < int(place.offset) + int(place.length):
            raise torch_files.truncated(file)
    paths = getattr(metadata, "planner_data", None)
    names = _of_model(described, paths if isinstance(paths, dict) else {}, folder)
    located = {(index.fqn, tuple(index.offset or ())): at for index, at in places.items()
               if index.fqn in names}  # fmt: skip
    return {
        name: _whole(key, described[key], located, folder)
        for key, name in names.items()
    }  # fmt: skip


def _of_model(
    described: Mapping[str, Any], paths: Mapping[str, Any], folder: Path
) -> dict[str, str]:
    """Return the model's tensors: key in the checkpoint → name in the model.

    A key is the path of a tensor through nested dicts, joined by dots: ("model", "lm_head.weight").
    The model is below a key `model`, or is all there is.
    """
    tensors = {
        key: tuple(map(str, paths.get(key) or (key,)))
        for key, each in described.items() if hasattr(each, "chunks")
    }  # fmt: skip
    below = {key: ".".join(path[path.index("model") + 1 :])
             for key, path in tensors.items() if "model" in path[:-1]}  # fmt: skip
    alone = {key: path[0] for key, path in tensors.items() if len(path) == 1}
    found = below or alone
    if not found:
        tops = sorted({path[0] for path in tensors.values()})
        raise LabkitError(
            f"{folder} holds no tensors below a key 'model', only below "
            f"{', '.join(tops) or 'none'}: save the model's state as 'model'"
        )
    return found


def _whole(
    key: str, described: Any, located: Mapping[tuple[str, tuple[int, ...]], Any], folder: Path
) -> Whole:
    dtype = described.properties.dtype
    pieces = []
    for chunk in described.chunks:
        offsets, sizes = tuple(chunk.offsets), tuple(chunk.sizes)
        place = located.get((key, offsets)) or located.get((key, ()))
        if place is None:
            raise LabkitError(f"{folder / METADATA} does not say where a piece of {key} is")
        pieces.append(_piece(key, offsets, sizes, dtype, place, folder))
    whole = Whole(shape=tuple(described.size), dtype=dtype, pieces=tuple(pieces))
    whole.check(key, folder)
    return whole


def _file(folder: Path, place: Any) -> Path:
    return folder / Path(str(place.relative_path)).name


def _piece(
    key: str, offsets: tuple[int, ...], sizes: tuple[int, ...], dtype: torch.dtype, place: Any,
    folder: Path,
) -> Piece:  # fmt: skip
    file = _file(folder, place)
    if getattr(place, "transform_descriptors", None):
        raise LabkitError(f"{file} was compressed or encrypted by an extension, which is not read")
    stored = torch_files.read(file, archive=(int(place.offset), int(place.length)))
    if not isinstance(stored, torch_files.Stored) or (stored.shape, stored.dtype) != (sizes, dtype):
        raise LabkitError(f"{file} is of another checkpoint than {METADATA}: where {key} should be "
                          "it holds something else")  # fmt: skip
    return Piece(offsets=offsets, sizes=sizes, stored=stored)
