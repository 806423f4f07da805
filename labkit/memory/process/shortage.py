"""A run that does not get the memory it asks for is a sentence, and the kernel can go on.

Where a limit refuses an allocation, PyTorch raises an error that names bytes and an allocator. What
a student needs is what to change. And the next, smaller try has to find the memory free again: an
exception keeps the frames that it came through, their variables, and so the whole model. They are
cleared here.

Where the limit kills instead (a control group's), nothing can be said afterwards. `labkit doctor`
and `labkit estimate` say it before, and `labkit sweep` tries each point in a process of its own.

Source: Python's `traceback.clear_frames`; `isolated` knows how a failed allocation reads.
"""

import gc
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from labkit.errors import LabkitError
from labkit.machine.datasheets import GIB
from labkit.memory.process.isolated import mentions_memory


def is_shortage(error: BaseException) -> bool:
    """Return whether an exception says that an allocation failed, on the CPU or on a GPU."""
    if isinstance(error, LabkitError):
        return False
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or mentions_memory(str(error))


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn a failed allocation within the block into a LabkitError about `what`."""
    try:
        yield
    except Exception as error:
        if not is_shortage(error):
            raise
        asked = re.search(r"(\d+) bytes|allocate ([\d.]+ [KMG]iB)", str(error))
        size = (asked[2] or f"{int(asked[1]) / GIB:.2f} GiB") if asked else "more"
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        raise LabkitError(
            f"{what} ran out of memory when it asked for {size}: lower "
            "per_device_train_batch_size or max_length, switch on gradient_checkpointing, or close "
            "other notebooks; labkit doctor shows the limit"
        ) from None
