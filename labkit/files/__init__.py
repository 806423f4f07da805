"""Files: written whole, locked, verified, downloaded once."""

from labkit.files.downloads import download, hub_errors, pip_download
from labkit.files.local import (
    appearing,
    cache_dir,
    expanded,
    fingerprint,
    free_folder,
    lock_folder,
    locked,
    name_user,
    picture_file,
    progress_bar,
    refuse_unless,
    sha256_file,
    take_lock,
    write_json,
    write_text,
    writing,
)

__all__ = [
    "appearing", "cache_dir", "download", "expanded", "fingerprint", "free_folder", "hub_errors",
    "lock_folder", "locked", "name_user", "picture_file", "pip_download", "progress_bar",
    "refuse_unless", "sha256_file", "take_lock", "write_json", "write_text", "writing",
]  # fmt: skip
