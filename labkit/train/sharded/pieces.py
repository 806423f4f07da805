"""Tensors that lie in pieces in several files, and the safetensors files they are written to.

A safetensors file is the length of a header in 8 bytes, the header in JSON (type, shape and place
of each tensor) and the tensors one after another
(https://github.com/huggingface/safetensors#format). The library writes a file from tensors that are
all in memory; here the header is written first and then each tensor as it is put together, so that
the most there is at once is the largest of them.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from labkit.errors import LabkitError
from labkit.train.sharded.torch_files import Stored

TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""torch's types in the words of safetensors."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A box of a tensor and the stored elements that fill it, row by row."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    stored: Stored
    start: int = 0
    """the first of the stored elements"""


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A tensor in pieces. `laid` is the shape that their boxes lie in, if it is not `shape`."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: tuple[Piece, ...]
    laid: tuple[int, ...] | None = None

    @property
    def count(self) -> int:
        """Elements."""
        return torch.Size(self.shape).numel()

    def check(self, name: str, where: Path) -> None:
        """Raise `LabkitError` unless the pieces are the whole tensor and nothing twice."""
        shape = self.shape if self.laid is None else self.laid
        covered = 0
        for number, piece in enumerate(self.pieces):
            ends = [at + size for at, size in zip(piece.offsets, piece.sizes, strict=True)]
            if any(end > most for end, most in zip(ends, shape, strict=True)):
                raise LabkitError(f"{where}: a piece of {name} lies outside of it: the shards are "
                                  "not of one checkpoint")  # fmt: skip
            covered += torch.Size(piece.sizes).numel()
            if any(_overlap(piece, other) for other in self.pieces[:number]):
                raise LabkitError(f"{where}: two pieces of {name} are of the same elements: the "
                                  "shards are not of one checkpoint")  # fmt: skip
        if covered != self.count:
            raise LabkitError(f"{where}: {covered:,} of the {self.count:,} elements of {name} are "
                              "there: shards are missing or not of one checkpoint")  # fmt: skip

    def put_together(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the tensor in `dtype`, read piece by piece. Raises `LabkitError` as reading."""
        whole = torch.empty(self.shape, dtype=dtype)
        laid = whole if self.laid is None else whole.view(self.laid)
        for piece in self.pieces:
            box = laid
            for dimension, (at, size) in enumerate(zip(piece.offsets, piece.sizes, strict=True)):
                box = box.narrow(dimension, at, size)
            rows = box if box.dim() else box.reshape(1)
            row = max(1, rows[:1].numel())
            done = 0
            for read in piece.stored.pieces(piece.start, rows.numel(), multiple=row):
                count = len(read) // row
                rows[done : done + count].copy_(read.view(count, *rows.shape[1:]))
                done += count
        return whole


def _overlap(one: Piece, other: Piece) -> bool:
    return all(
        a < b + size_b and b < a + size_a
        for a, size_a, b, size_b in zip(
            one.offsets, one.sizes, other.offsets, other.sizes, strict=True
        )
    )


def stored_whole(stored: Stored) -> Whole:
    """Return a tensor that lies in one piece."""
    at = (0,) * len(stored.shape)
    return Whole(shape=stored.shape, dtype=stored.dtype,
                 pieces=(Piece(offsets=at, sizes=stored.shape, stored=stored),))  # fmt: skip


def refuse_copies(tensors: Iterable[Whole]) -> None:
    """Raise `LabkitError` where two files hold the same: one is a copy, put in another's place."""
    held: dict[Path, set[tuple[int, ...]]] = {}
    for stored in (piece.stored for whole in tensors for piece in whole.pieces):
        held.setdefault(stored.file, set()).add((stored.checksum, stored.position, stored.count))
    first: dict[frozenset[tuple[int, ...]], Path] = {}
    for file, contents in sorted(held.items()):
        other = first.setdefault(frozenset(contents), file)
        if other != file:
            raise LabkitError(f"{file} holds the same as {other.name}: the shards are not of one "
                              "checkpoint")  # fmt: skip


def same(one: Whole, other: Whole) -> bool:
    """Say whether two tensors are equal, cut into the same boxes; they are read piece by piece."""
    if (one.shape, one.dtype, one.laid) != (other.shape, other.dtype, other.laid):
        return False
    for a, b in itertools.zip_longest(one.pieces, other.pieces):
        if a is None or b is None or (a.offsets, a.sizes) != (b.offsets, b.sizes):
            return False
        count = torch.Size(a.sizes).numel()
        if not all(map(torch.equal, a.stored.pieces(a.start, count),
                       b.stored.pieces(b.start, count))):  # fmt: skip
            return False
    return True


def type_of(whole: Whole, dtype: torch.dtype | None) -> torch.dtype:
    """Return the type that a tensor is written in: `dtype` for numbers with a point, or its own."""
    return dtype if dtype is not None and whole.dtype.is_floating_point else whole.dtype


def write(
    folder: Path, tensors: Mapping[str, Whole], *, name: str, dtype: torch.dtype | None,
    max_shard_size: str, told: Callable[[str], None],
) -> Sequence[str]:  # fmt: skip
    """Write tensors into safetensors files below `folder`; return the names of the files.

    `name` is the file's without its ending; above `max_shard_size` (such as 5GB) there are several
    and an index. `told` is called with each tensor's name when it is written.
    """
    from huggingface_hub import split_state_dict_into_shards_factory

    def size_of(whole: Whole) -> int:
        return whole.count * type_of(whole, dtype).itemsize

    try:
        split = split_state_dict_into_shards_factory(
            dict(tensors), get_storage_size=size_of, max_shard_size=max_shard_size,
            filename_pattern=f"{name}{{suffix}}.safetensors",
        )  # fmt: skip
    except ValueError as error:
        raise LabkitError(f"max-shard-size {max_shard_size!r}: {error}") from None
    for file, names in split.filename_to_tensors.items():
        _write_file(folder / file, {each: tensors[each] for each in names}, dtype, told)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / f"{name}.safetensors.index.json").write_text(text, encoding="utf-8")
    return list(split.filename_to_tensors)


def _write_file(
    file: Path, tensors: Mapping[str, Whole], dtype: torch.dtype | None,
    told: Callable[[str], None],
) -> None:  # fmt: skip
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, whole in tensors.items():
        of = type_of(whole, dtype)
        if of not in TYPES:
            raise LabkitError(f"{name} is of the type {of}, which safetensors does not hold")
        begin, end = end, end + whole.count * of.itemsize
        header[name] = {"dtype": TYPES[of], "shape": list(whole.shape),
                        "data_offsets": [begin, end]}  # fmt: skip
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as handle:
        handle.write(len(text).to_bytes(8, "little") + text)
        for name, whole in tensors.items():
            tensor = whole.put_together(type_of(whole, dtype))
            handle.write(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
            del tensor
            told(name)
