"""Where inductor keeps the code that it compiles: one folder for each kind of processor."""

import os
from pathlib import Path

from labkit.files import cache_dir
from labkit.machine import arithmetic

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def keep_apart() -> None:
    """Give the code that inductor compiles a folder for this kind of processor alone.

    Call it before anything is compiled. A folder that the user chose stays. inductor's own is one
    for all kinds, named in the environment as soon as TRL is imported, and its keys don't tell
    their instructions apart: code made for vectors of another width writes past its buffers, which
    gave NaN and killed processes. A home can be shared by machines of several kinds.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    folders = cache_dir() / "inductor"
    chosen = os.environ.get(VARIABLE)
    if chosen is None or chosen == default_cache_dir() or Path(chosen).parent == folders:
        os.environ[VARIABLE] = str(folders / arithmetic.kept_file().stem)
