"""Read what `torch.save` wrote a tensor at a time, without running what its pickle asks for.

Such a file is a zip archive without compression: `NAME/data.pkl` says what there is, and each
storage is an entry of its own, `NAME/data/0`, `NAME/data/1` … So the pickle is read alone, and its
tensors become `Stored`: a place in a file, of which any piece can be read on its own. torch's
own readers take whole tensors, and its unpickler runs whatever a file names; here a class that is
neither torch's data nor Python's is replaced by an empty one (`Foreign`), so a checkpoint of
DeepSpeed's needs no DeepSpeed to be read, and one of a stranger can do no harm.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from labkit.errors import LabkitError, said

PIECE = 2**24
"""Bytes that are read at once."""
BYTES_TYPES = {"Char": torch.int8, "Byte": torch.uint8, "Untyped": torch.uint8}
"""Types of storages that are not called as tensors' types are, as FloatStorage is."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A tensor in a file that has not been read."""

    file: Path
    entry: str
    """the storage's name in the archive"""
    archive: tuple[int, int]
    """where in the file the archive begins, and its bytes"""
    position: int
    """of the first element, in the file"""
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    checksum: int
    """of the storage, as the archive has it"""

    @property
    def count(self) -> int:
        """Elements."""
        return torch.Size(self.shape).numel()

    def pieces(self, start: int, count: int, *, multiple: int = 1) -> Iterator[torch.Tensor]:
        """Yield `count` elements from element `start` on, flat, in pieces of about `PIECE` bytes.

        A piece holds a multiple of `multiple` elements. What was yielded is overwritten.

        Raises:
            LabkitError: the file ends before, or the elements do not lie one after another.
        """
        if not torch.empty(self.shape, device="meta").stride() == self.stride:
            raise LabkitError(f"{self.file}: a tensor is stored with gaps or transposed, which is "
                              "not read here: save contiguous tensors")  # fmt: skip
        size = self.dtype.itemsize
        most = max(multiple, PIECE // size // multiple * multiple)
        buffer = torch.empty(min(most, count), dtype=self.dtype)
        with open(self.file, "rb", buffering=0) as file:
            file.seek(self.position + start * size)
            while count > 0:
                piece = buffer[: min(most, count)]
                _fill(file, memoryview(piece.view(torch.uint8).numpy()), self.file)
                count -= len(piece)
                yield piece


def _fill(file: Any, place: memoryview, name: Path) -> None:
    while place:
        if not (got := file.readinto(place)):
            raise truncated(name)
        place = place[got:]


def truncated(file: Path) -> LabkitError:
    """Return what to say of a file that ends too early."""
    return LabkitError(f"{file} is truncated: take this shard from the run's machine again, or "
                       "consolidate an earlier checkpoint")  # fmt: skip


def read(file: Path, *, archive: tuple[int, int] | None = None) -> Any:
    """Return what `torch.save` put into a file, or into a part of one, with tensors as `Stored`.

    `archive` is where the part begins and its bytes.

    Raises:
        LabkitError: there is no such file, it is damaged, or no file of `torch.save`'s.
    """
    with _opened(file, archive) as (zipped, part):
        names = [name for name in zipped.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise LabkitError(f"{file} was not written by torch.save")
        (pickled,) = names
        with zipped.open(pickled) as stream:
            return _Reader(stream, zipped, pickled.removesuffix("data.pkl"), file, part).load()


def unpickle(file: Path) -> Any:
    """Return what is pickled in a file by itself. Raises `LabkitError` as `read`."""
    try:
        with open(file, "rb") as stream:
            return _Unpickler(stream).load()
    except OSError as error:
        raise LabkitError(f"{file} cannot be read: {error.strerror}") from None
    except Exception as error:  # pickles raise anything
        raise LabkitError(f"{file} is damaged ({said(error)})") from error


def verify(stored: Stored) -> None:
    """Read the storage of a tensor through and compare it with the checksum beside it.

    Raises:
        LabkitError: it is damaged.
    """
    with _opened(stored.file, stored.archive) as (zipped, _), zipped.open(stored.entry) as stream:
        while stream.read(PIECE):
            pass


@contextmanager
def _opened(
    file: Path, archive: tuple[int, int] | None
) -> Iterator[tuple[zipfile.ZipFile, tuple[int, int]]]:
    try:
        with open(file, "rb") as handle:
            size = file.stat().st_size
            start, count = archive or (0, size)
            if start + count > size:
                raise truncated(file)
            part: Any = (
                handle if archive is None else io.BufferedReader(_Part(handle, start, count))
            )
            with zipfile.ZipFile(part) as zipped:
                yield zipped, (start, count)
    except FileNotFoundError:
        raise LabkitError(f"{file} is missing: copy all files of the checkpoint") from None
    except OSError as error:
        raise LabkitError(f"{file} cannot be read: {error.strerror or error}") from None
    except LabkitError:
        raise
    except zipfile.BadZipFile as error:
        if "CRC" in str(error):
            raise LabkitError(f"{file} is corrupt: its contents are not those of the checksum "
                              "beside them") from None  # fmt: skip
        raise LabkitError(f"{file} is truncated, or was not written by torch.save") from None
    except Exception as error:  # a damaged pickle raises anything
        raise LabkitError(f"{file} is damaged ({said(error)})") from error


class _Part(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, handle: IO[bytes], start: int, count: int) -> None:
        self.handle, self.start, self.count, self.at = handle, start, count, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = max(0, offset + (0, self.at, self.count)[whence])
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        self.handle.seek(self.start + self.at)
        got = self.handle.read(max(0, min(len(buffer), self.count - self.at)))
        buffer[: len(got)] = got
        self.at += len(got)
        return len(got)


class Foreign:
    """What stands for a class that is not known here; `arguments` are what it was made with."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None:
        """Take nothing."""

    def extend(self, values: Any) -> None:
        """Take nothing."""


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows data, and makes `Foreign` of anything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a known class, or `Foreign`."""
        if module == "torch" and isinstance(
            found := getattr(torch, name, None), torch.dtype | torch.layout
        ):
            return found
        if module.startswith("torch.distributed.checkpoint."):
            from torch.distributed.checkpoint import filesystem, metadata

            if name == "_StorageInfo":
                return filesystem._StorageInfo
            found = getattr(metadata, name, None)
            return found if isinstance(found, type) else Foreign
        known = {
            ("torch", "Size"): torch.Size, ("collections", "OrderedDict"): OrderedDict,
            ("torch.serialization", "_get_layout"): lambda name: torch.strided,
        }  # fmt: skip
        return known.get((module, name), Foreign)


class _Reader(_Unpickler):
    """An unpickler of `data.pkl`, which makes `Stored` of tensors."""

    def __init__(
        self, stream: IO[bytes], zipped: zipfile.ZipFile, prefix: str, file: Path,
        part: tuple[int, int],
    ) -> None:  # fmt: skip
        super().__init__(stream)
        self.zipped, self.prefix, self.file, self.part = zipped, prefix, file, part

    def find_class(self, module: str, name: str) -> Any:
        """Return what makes a tensor, or what `_Unpickler` does."""
        if module == "torch._utils" and name.startswith("_rebuild_tensor"):
            return self._tensor
        if module == "torch._utils" and name.startswith("_rebuild_parameter"):
            return lambda data, *_: data
        if name == "_rebuild_from_type_v2":  # a tensor that somebody gave attributes
            return lambda function, kind, arguments, state: function(*arguments)
        if module in ("torch", "torch.storage") and name.endswith("Storage"):
            word = name.removesuffix("Storage")
            return BYTES_TYPES.get(word) or getattr(torch, word.lower())
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> tuple[zipfile.ZipInfo, int, torch.dtype]:
        """Return a storage's entry, where its first byte is in the file, and its type."""
        _, dtype, key, *_ = pid
        info = self.zipped.getinfo(f"{self.prefix}data/{key}")
        with open(self.file, "rb") as handle:  # an entry has a header of its own
            handle.seek(self.part[0] + info.header_offset)
            header = handle.read(30)
        name, more = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        return info, self.part[0] + info.header_offset + 30 + name + more, dtype

    def _tensor(
        self, storage: tuple[zipfile.ZipInfo, int, torch.dtype], offset: int, shape: Any,
        stride: Any, *_: Any,
    ) -> Stored:  # fmt: skip
        entry, position, dtype = storage
        return Stored(
            file=self.file, entry=entry.filename, archive=self.part, checksum=entry.CRC,
            position=position + offset * dtype.itemsize, dtype=dtype,
            shape=tuple(shape), stride=tuple(stride),
        )  # fmt: skip
