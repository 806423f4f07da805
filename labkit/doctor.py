"""What this machine can run, what it cannot, and what to do about it.

Most help requests of a course are not about its subject: the disk is full, somebody else holds
the GPU, the kernel is another Python, a version drifted. Each check here answers one of these
from the machine itself and says in a sentence what to do. Nothing is changed, and a check that
fails to work says so instead of hiding the others.

A finding has `what` was looked at, `status` (ok, warn: slower or later trouble, fail: this has
to be mended first), `detail` and `advice`.

The memory that training needs is the sum of what lesson 01 takes apart; for N parameters and
t tokens in a batch about

    full, fp32 with AdamW:  16·N      (weights 4, gradients 4, two moments 8)
    LoRA on bf16 weights:    2·N      (what is trained is below one per cent)
    both:                   56·t·h·L  (activations of L layers of width h) + the process itself
"""

import importlib.metadata
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, TypedDict

import psutil

from labkit import hardware, results
from labkit.errors import LabkitError
from labkit.hardware import GIB
from labkit.models import fetch, registry

EMBEDDED = "smollm2-135m-instruct"
Status = Literal["ok", "warn", "fail"]


class Finding(TypedDict):
    """One line of the report."""

    what: str
    status: Status
    detail: str
    advice: str


def _finding(what: str, status: Status, detail: str, advice: str = "") -> Finding:
    return {"what": what, "status": status, "detail": detail, "advice": advice}


def _gib(count: float) -> str:
    return f"{count / GIB:.1f} GiB"


# --- the processor and memory --------------------------------------------------------------


def check_cores() -> Finding:
    """Cores that may be used, whether they multiply bf16, and threads that fit them."""
    machine = hardware.describe()
    fast = {"amx_bf16", "avx512_bf16"} & set(machine["flags"])
    detail = f"{machine['cores']} × {machine['cpu']}, bf16 in hardware: {'yes' if fast else 'no'}"
    threads = int(os.environ.get("OMP_NUM_THREADS") or machine["cores"])
    if threads > machine["cores"]:
        advice = f"{threads} threads on {machine['cores']} cores slow each other: "
        return _finding("cores", "warn", detail, advice + "unset OMP_NUM_THREADS")
    if machine["cores"] < 2 or not fast:
        reason = "one core" if machine["cores"] < 2 else "no bf16 units"
        return _finding("cores", "warn", detail, f"{reason}: allow two to four times the time")
    return _finding("cores", "ok", detail)


def check_memory() -> Finding:
    """Memory of the machine, the limit of this process and what is left of both."""
    total, limit = psutil.virtual_memory().total, hardware.memory_limit_bytes()
    available = hardware.memory_available_bytes()
    detail = f"{_gib(available)} left of {_gib(min(total, limit or total))}"
    detail += f" (control group; the machine has {_gib(total)})" if limit else ", no limit set"
    said = os.environ.get("MEM_LIMIT", "")
    if said.isdigit() and (limit is None or int(said) < limit):
        detail += f"; the hub promises {_gib(int(said))} but does not enforce it"
        available = min(available, int(said))
    if available < training_bytes("lora"):
        return _finding(
            "memory", "warn", detail, "close other notebooks or ask for a larger server"
        )
    return _finding("memory", "ok", detail)


def check_shared_memory(path: Path = Path("/dev/shm")) -> Finding:
    """Room in /dev/shm, through which processes of one training run pass tensors."""
    if not path.is_dir():
        return _finding("shared memory", "ok", f"{path} is not used on this system")
    size = shutil.disk_usage(path).total
    if size < GIB // 4:
        advice = "several processes need more: start the container with --shm-size=1g"
        return _finding("shared memory", "warn", f"{path} holds {size // 2**20} MiB", advice)
    return _finding("shared memory", "ok", f"{path} holds {_gib(size)}")


def check_gpu() -> Finding:
    """GPUs, their free memory and who else uses them."""
    cards = hardware.gpus()
    if not cards:
        return _finding("GPU", "ok", "none: the profile cpu runs the whole course without one")
    parts, busy = [], []
    for card in cards:
        parts.append(
            f"{card['name']}: {_gib(card['free_bytes'])} free of {_gib(card['memory_bytes'])}"
        )
        others = [user for user in card["users"] if user["pid"] != os.getpid()]
        names = sorted({user["user"] or f"process {user['pid']}" for user in others})
        if names:
            parts[-1] += f", used by {', '.join(names)}"
        if card["free_bytes"] < 0.9 * card["memory_bytes"]:
            busy.append(card)
    if busy:
        advice = "wait, talk to them, or choose a free card with CUDA_VISIBLE_DEVICES"
        return _finding("GPU", "warn", "; ".join(parts), advice)
    return _finding("GPU", "ok", "; ".join(parts), "LABKIT_PROFILE=gpu uses it")


# --- models and disk -----------------------------------------------------------------------


def check_models_folder() -> Finding:
    """The shared folder of models, $LABKIT_MODELS."""
    setting = os.environ.get("LABKIT_MODELS")
    if not setting:
        return _finding(
            "model folder", "ok", "LABKIT_MODELS is not set: models come from the cache"
        )
    folder = Path(setting).expanduser()
    try:
        found = sorted(p.name for p in folder.iterdir() if registry.model_folder(p))
    except OSError as error:
        detail = f"LABKIT_MODELS={setting} cannot be read ({error.strerror})"
        return _finding("model folder", "fail", detail, "unset it or set it to a folder of models")
    if not found:
        detail = f"{folder} holds no model"
        return _finding("model folder", "warn", detail, "each model is a folder in it")
    return _finding("model folder", "ok", f"{folder}: {', '.join(found)}")


def check_embedded_model() -> Finding:
    """Whether the model of the lessons is here."""
    try:
        folder = registry.resolve(EMBEDDED, fetch=False)
    except LabkitError:
        return _finding("embedded model", "warn", f"{EMBEDDED} is not here yet", "run labkit fetch")
    return _finding("embedded model", "ok", str(folder))


def check_cache() -> Finding:
    """Whether the cache can be written, and the space on its disk."""
    return _writable("cache", fetch.cache_dir(), "LABKIT_CACHE")


def check_runs() -> Finding:
    """Whether runs can be written where they go, and the space there."""
    return _writable("runs", results.runs_dir(), "LABKIT_RUNS")


def _writable(what: str, folder: Path, setting: str) -> Finding:
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        advice = f"set {setting} to a folder of yours"
        return _finding(what, "fail", f"{existing} cannot be written to", advice)
    free = shutil.disk_usage(existing).free
    if free < GIB:
        advice = "labkit runs rm removes old runs; the embedded model needs 0.6 GiB, a run 0.1 to 2"
        return _finding(what, "warn", f"{folder}, {_gib(free)} left", advice)
    return _finding(what, "ok", f"{folder}, {_gib(free)} left")


# --- software ------------------------------------------------------------------------------


def find_lock(start: Path | None = None) -> Path | None:
    """Return the requirements.lock of the checkout we are in or were installed from."""
    for folder in [start or Path.cwd(), *(start or Path.cwd()).parents, Path(__file__).parents[1]]:
        if (folder / "requirements.lock").is_file() and (folder / "labkit").is_dir():
            return folder / "requirements.lock"
    return None


def check_versions(lock: Path | None = None) -> Finding:
    """Installed packages against requirements.lock; extras that are absent do not matter."""
    lock = lock or find_lock()
    if lock is None:
        return _finding("versions", "ok", "no requirements.lock here to compare with")
    wrong, missing, right = [], [], 0
    for name, version in re.findall(r"^([\w.\-]+)==([\w.!+\-]+)", lock.read_text(), re.MULTILINE):
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
        return _finding("versions", "warn", detail, f"pip install -r {lock.name}")
    return _finding("versions", "ok", detail)


def check_python() -> Finding:
    """The Python that runs this."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] != (3, 11):
        return _finding("Python", "fail", f"{version}, {sys.executable}", "the course needs 3.11")
    return _finding("Python", "ok", f"{version}, {sys.executable}")


def check_compiler() -> Finding:
    """A C++ compiler, which torch.compile and SwitchBack's CPU kernel call."""
    names = [os.environ.get("CXX", ""), "g++", "c++", "clang++"]
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        advice = "install one (Debian: g++, conda: cxx-compiler); lesson 04 needs it"
        return _finding("C++ compiler", "warn", "none found", advice)
    return _finding("C++ compiler", "ok", found)


def check_kernel() -> Finding:
    """Whether a notebook that asks for `python3` gets this Python."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        advice = "python -m ipykernel install --sys-prefix"
        return _finding("notebook kernel", "fail", "no kernel is called python3", advice)
    interpreter = spec.argv[0]
    if re.fullmatch(r"python[\d.]*", interpreter):
        interpreter = sys.executable  # Jupyter puts the Python it runs in itself for a bare name
    # Compared as they stand: a virtual environment's python is a link to the one it came from.
    if Path(interpreter).parent != Path(sys.executable).parent:
        advice = "with the Python of the course: python -m ipykernel install --sys-prefix"
        detail = f"python3 starts {interpreter}, this is {sys.executable}"
        return _finding("notebook kernel", "warn", detail, advice)
    return _finding("notebook kernel", "ok", f"python3 starts {interpreter}")


# --- what follows from it ------------------------------------------------------------------


def training_bytes(method: Literal["lora", "full"], tokens: int = 8 * 200) -> int:
    """Return about how many bytes a run on the embedded model takes in all, by the rule above."""
    config = registry.spec(EMBEDDED).config
    hidden, mlp = config["hidden_size"], config["intermediate_size"]
    layers, vocabulary = config["num_hidden_layers"], config["vocab_size"]
    kv = hidden * config["num_key_value_heads"] // config["num_attention_heads"]
    layer = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * mlp + 2 * hidden
    parameters = vocabulary * hidden + layers * layer + hidden
    states = {"lora": 2, "full": 16}[method] * parameters
    process = int(0.8 * GIB)  # Python with torch, transformers and trl imported
    return states + 56 * tokens * hidden * layers + process


def check_training(method: Literal["lora", "full"]) -> Finding:
    """Whether a run of this method on the embedded model fits into the memory that is left."""
    title = {"lora": "LoRA", "full": "full fine-tuning"}[method]
    need, available = training_bytes(method), hardware.memory_available_bytes()
    detail = f"{title} of the embedded model needs about {_gib(need)}"
    if need > available:
        advice = "a smaller per_device_train_batch_size or gradient_checkpointing lowers it"
        return _finding(title, "warn", f"{detail}: no, {_gib(available)} are left", advice)
    return _finding(title, "ok", f"{detail}: yes")


CHECKS: dict[str, Callable[[], Finding]] = {
    "Python": check_python,
    "versions": check_versions,
    "notebook kernel": check_kernel,
    "C++ compiler": check_compiler,
    "cores": check_cores,
    "memory": check_memory,
    "shared memory": check_shared_memory,
    "GPU": check_gpu,
    "model folder": check_models_folder,
    "embedded model": check_embedded_model,
    "cache": check_cache,
    "runs": check_runs,
    "LoRA": lambda: check_training("lora"),
    "full fine-tuning": lambda: check_training("full"),
}


def report() -> list[Finding]:
    """Run every check and return the findings in order; no check can stop the others."""
    findings = []
    for what, check in CHECKS.items():
        try:
            findings.append(check())
        except Exception as error:
            # The doctor is called when something is broken, so it must survive what is.
            detail = f"could not be checked ({type(error).__name__}: {error})"
            findings.append(_finding(what, "warn", detail, "report this with labkit doctor --json"))
    return findings


def render(findings: Iterable[Finding], width: int | None = None) -> str:
    """Return the findings as a table for people, `width` columns wide (the terminal's)."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    findings = list(findings)
    for finding in findings:
        advice = f"\n→ {finding['advice']}" if finding["advice"] else ""
        table.add_row(finding["status"], finding["what"], finding["detail"] + advice)
    width = width or shutil.get_terminal_size((100, 24)).columns
    console = Console(
        width=width, force_jupyter=False, color_system=None, highlight=False, markup=False
    )
    with console.capture() as captured:
        console.print(table)
    counts = {s: sum(f["status"] == s for f in findings) for s in ("ok", "warn", "fail")}
    verdict = "the course runs here"
    if counts["fail"]:
        verdict = "mend what failed first"
    elif counts["warn"]:
        verdict += ", within what the warnings say"
    summary = f"{counts['ok']} ok, {counts['warn']} warn, {counts['fail']} fail: {verdict}"
    return f"{captured.get()}\n{summary}"
