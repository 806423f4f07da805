"""Check the folders of models and runs: readable, writable, with space left.

Space is the least of three: bytes free on the disk, bytes of this user's quota, and files, which a
file system can run out of while it has bytes to spare.
"""

import os
import shutil
from pathlib import Path

from labkit.doctor.finding import EMBEDDED, Finding, gib
from labkit.errors import LabkitError
from labkit.files import cache_dir, expanded
from labkit.machine import hardware
from labkit.machine.datasheets import GIB
from labkit.models import registry
from labkit.runs import profiles, records

FEWEST_FILES = 1000


def check_models_folder() -> Finding:
    """Check the shared folder of models, $LABKIT_MODELS."""
    setting = os.environ.get("LABKIT_MODELS")
    if not setting:
        return Finding("model folder", "ok", "LABKIT_MODELS is not set: models come from the cache")
    try:
        folder = expanded(setting)
        found = sorted(p.name for p in folder.iterdir() if registry.model_folder(p))
    except (OSError, LabkitError) as error:
        detail = f"LABKIT_MODELS={setting} cannot be read ({getattr(error, 'strerror', error)})"
        return Finding("model folder", "fail", detail, "unset it or set it to a folder of models")
    if not found:
        detail = f"{folder} holds no model"
        return Finding("model folder", "warn", detail, "each model is a folder in it")
    return Finding("model folder", "ok", f"{folder}: {', '.join(found)}")


def check_profile() -> Finding:
    """Check the profile of the lessons, and whether this machine has what it asks for."""
    try:
        profile, model = profiles.current().name, profiles.model()
    except LabkitError as error:
        return Finding("profile", "fail", str(error), "unset LABKIT_PROFILE for the default, cpu")
    detail = f"{profile}: lessons use {model}"
    if profile == "gpu" and not hardware.gpus():
        return Finding("profile", "warn", f"{detail}, and there is no GPU", "unset LABKIT_PROFILE")
    if model != EMBEDDED:
        try:
            registry.resolve(model, fetch=False)
        except LabkitError as error:
            return Finding("profile", "warn", f"{detail}, which is not here", str(error))
    return Finding("profile", "ok", detail)


def check_embedded_model() -> Finding:
    """Check whether the model of the lessons is here."""
    try:
        folder = registry.resolve(EMBEDDED, fetch=False)
    except LabkitError:
        return Finding("embedded model", "warn", f"{EMBEDDED} is not here yet", "run labkit fetch")
    return Finding("embedded model", "ok", str(folder))


def check_cache() -> Finding:
    """Check whether the cache can be written, and the space on its disk."""
    return _writable("cache", cache_dir(), "set LABKIT_CACHE to a folder of yours")


def check_runs() -> Finding:
    """Check whether runs can be written where they go, and the space there."""
    return _writable("runs", records.runs_dir(), "set LABKIT_RUNS to a folder of yours")


def check_home() -> Finding:
    """Check whether notebooks and settings can be saved in the home folder."""
    return _writable("home", Path.home(), "JupyterLab cannot save there: ask who runs the server")


def _writable(what: str, folder: Path, advice: str) -> Finding:
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding(what, "fail", f"{existing} cannot be written to", advice)
    free, quota = shutil.disk_usage(existing).free, hardware.quota_left_bytes(existing)
    left = f"{gib(free)} left" + (f", {gib(quota)} of your quota" if quota is not None else "")
    advice = "labkit runs rm removes old runs; the embedded model needs 0.6 GiB, a run 0.1 to 2"
    files = os.statvfs(existing)
    if files.f_files and files.f_favail < FEWEST_FILES:  # some file systems do not count them
        detail = f"{folder}, {left}, but room for {files.f_favail} more files only"
        return Finding(what, "warn", detail, "delete folders of many small files, as of old venvs")
    if min(free, free if quota is None else quota) < GIB:
        return Finding(what, "warn", f"{folder}, {left}", advice)
    return Finding(what, "ok", f"{folder}, {left}")
