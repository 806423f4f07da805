"""Check Python, packages, compiler and notebook kernel against those the course was tested with."""

import importlib.metadata
import re
import sys
from pathlib import Path

from labkit.doctor.finding import Finding


def find_lock(start: Path | None = None) -> Path | None:
    """Return the requirements.lock of the checkout we are in or were installed from."""
    for folder in [start or Path.cwd(), *(start or Path.cwd()).parents, Path(__file__).parents[2]]:
        if (folder / "requirements.lock").is_file() and (folder / "labkit").is_dir():
            return folder / "requirements.lock"
    return None


def check_versions(lock: Path | None = None) -> Finding:
    """Compare installed packages with requirements.lock; extras that are absent do not matter."""
    lock = lock or find_lock()
    if lock is None:
        return Finding("versions", "ok", "no requirements.lock here to compare with")
    wrong, missing, right = [], [], 0
    text = lock.read_text(encoding="utf-8")
    for name, version in re.findall(r"^([\w.\-]+)==([\w.!+\-]+)", text, re.MULTILINE):
        try:
            # A build for the CPU says so after a plus sign: 2.13.0+cpu.
            installed = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        right += installed == version
        if installed != version:
            wrong.append(f"{name} {installed} instead of {version}")
    detail = f"{right} packages as in {lock.name}"
    if missing:
        detail += f", {len(missing)} not installed ({', '.join(missing[:3])}…)"
    if wrong:
        detail += f"; {', '.join(wrong[:5])}" + (f" and {len(wrong) - 5} more" if wrong[5:] else "")
        return Finding("versions", "warn", detail, f"pip install -r {lock.name}")
    return Finding("versions", "ok", detail)


def check_python() -> Finding:
    """Check the Python that runs this."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] != (3, 11):
        return Finding("Python", "fail", f"{version}, {sys.executable}", "the course needs 3.11")
    return Finding("Python", "ok", f"{version}, {sys.executable}")


def check_compiler() -> Finding:
    """Check for a C++ compiler, which torch.compile and SwitchBack's CPU kernels call."""
    from labkit.switchback import levels  # which imports torch

    found = levels.compiler()
    if found is None:
        advice = "install one (Debian: g++, conda: cxx-compiler); lesson 04 needs it"
        return Finding("C++ compiler", "warn", "none found", advice)
    return Finding("C++ compiler", "ok", found)


def check_kernel() -> Finding:
    """Check whether a notebook that asks for `python3` gets this Python."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        advice = "python -m ipykernel install --sys-prefix"
        return Finding("notebook kernel", "fail", "no kernel is called python3", advice)
    interpreter = spec.argv[0]
    if re.fullmatch(r"python[\d.]*", interpreter):
        interpreter = sys.executable  # Jupyter puts the Python it runs in itself for a bare name
    # Compared as they stand: a virtual environment's python is a link to the one it came from.
    if Path(interpreter).parent != Path(sys.executable).parent:
        advice = "with the Python of the course: python -m ipykernel install --sys-prefix"
        detail = f"python3 starts {interpreter}, this is {sys.executable}"
        return Finding("notebook kernel", "warn", detail, advice)
    return Finding("notebook kernel", "ok", f"python3 starts {interpreter}")
