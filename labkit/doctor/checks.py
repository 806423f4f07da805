"""Diagnose what this machine can run, what it cannot, and what to do about it.

Most help requests of a course are not about its subject: the disk is full, somebody else holds
the GPU, the kernel is another Python, a version drifted. Each check here answers one of these
from the machine itself and says in a sentence what to do. Nothing is changed but the kept rates of
the processor, and a check that fails to work says so instead of hiding the others.

A finding has `what` was looked at, `status` (ok, warn: slower or later trouble, fail: this has
to be mended first), `detail` and `advice`.
"""

import shutil
from collections.abc import Callable, Iterable

from labkit.doctor.finding import Finding
from labkit.doctor.machine import (
    check_arithmetic,
    check_cores,
    check_gpu,
    check_memory,
    check_minutes,
    check_shared_memory,
    check_training,
)
from labkit.doctor.places import (
    check_cache,
    check_embedded_model,
    check_home,
    check_models_folder,
    check_profile,
    check_runs,
)
from labkit.doctor.software import (
    check_compiler,
    check_kernel,
    check_python,
    check_versions,
)

CHECKS: dict[str, Callable[[], Finding]] = {
    "Python": check_python,
    "versions": check_versions,
    "notebook kernel": check_kernel,
    "C++ compiler": check_compiler,
    "cores": check_cores,
    "arithmetic": check_arithmetic,
    "memory": check_memory,
    "shared memory": check_shared_memory,
    "GPU": check_gpu,
    "profile": check_profile,
    "lessons": check_minutes,
    "model folder": check_models_folder,
    "embedded model": check_embedded_model,
    "cache": check_cache,
    "runs": check_runs,
    "home": check_home,
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
            findings.append(Finding(what, "warn", detail, "report this with labkit doctor --json"))
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
    for line in findings:
        advice = f"\n→ {line.advice}" if line.advice else ""
        table.add_row(line.status, line.what, line.detail + advice)
    width = width or shutil.get_terminal_size((100, 24)).columns
    console = Console(
        width=width, force_jupyter=False, color_system=None, highlight=False, markup=False
    )
    with console.capture() as captured:
        console.print(table)
    counts = {s: sum(f.status == s for f in findings) for s in ("ok", "warn", "fail")}
    verdict = "the course runs here"
    if counts["fail"]:
        verdict = "mend what failed first"
    elif counts["warn"]:
        verdict += ", within what the warnings say"
    summary = f"{counts['ok']} ok, {counts['warn']} warn, {counts['fail']} fail: {verdict}"
    return f"{captured.get()}\n{summary}"
