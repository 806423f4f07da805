"""Keep freed memory in the process, so that the next step need not ask the kernel for it."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def keeps_heap() -> bool:
    """Say whether `keep_heap` can do anything here: whether this is glibc."""
    return platform.libc_ver()[0] == "glibc"


def keep_heap() -> None:
    """Tell glibc to keep freed memory for this process instead of returning it to the kernel.

    Blocks above 32 MiB still go back at once: kept, they would leave holes that nothing else fits.
    Source: mallopt(3). Resident memory then stays near its peak until the process ends.
    """
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 64 * 2**20)
