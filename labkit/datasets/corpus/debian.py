"""Fetch Russian documentation from Debian's packages, to build a data set from: `ru-docs`.

    debian-faq-ru             questions and answers, with English paragraphs left in
    developers-reference-ru   a manual
    maint-guide-ru            a guide
    aptitude-doc-ru           a manual

They are fetched by apt, which verifies them by Debian's signed lists, and unpacked without being
installed. Only texts are kept, with each package's statement of licence beside it, which a
build names in its card. Nothing of it comes with labkit: the licences are the packages' own.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from labkit.console import say
from labkit.datasets.corpus.sources import KINDS
from labkit.errors import LabkitError
from labkit.files import appearing, cache_dir

NAME = "ru-docs"
PACKAGES = ("debian-faq-ru", "developers-reference-ru", "maint-guide-ru", "aptitude-doc-ru")
TOOLS = ("apt-get", "dpkg-deb")
SECONDS = 300.0
LICENCE_LINES = 2


def fetch() -> Path:
    """Return the folder of the documents, a folder a package; fetched where it is not there yet.

    Raises:
        LabkitError: this is no Debian, apt's lists are not there, or the network is not.
    """
    target = cache_dir() / NAME
    if target.is_dir():
        say(f"{NAME} is there: {target}")
        return target
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        tools = " and no ".join(missing)
        raise LabkitError(f"{NAME} are packages of Debian, and there is no {tools} here: build "
                          "from a folder of your own instead")  # fmt: skip
    with appearing(target) as partial, tempfile.TemporaryDirectory() as scratch:
        partial.mkdir()
        for package in PACKAGES:
            _unpack(package, Path(scratch), partial / package)
    return target


def _unpack(package: str, scratch: Path, target: Path) -> None:
    """Download a package and keep its documentation and its statement of licence."""
    place = scratch / package
    place.mkdir()
    _run(["apt-get", "download", package], place, package)
    archives = sorted(place.glob("*.deb"))
    if not archives:
        raise LabkitError(f"apt-get gave no file for {package}: run `apt-get update` first")
    _run(["dpkg-deb", "-x", archives[0].name, "content"], place, package)
    shutil.copytree(place / "content" / "usr" / "share", target, ignore=_left_out)
    statements = sorted(target.rglob("copyright"))
    if not statements:
        raise LabkitError(f"{package} states no licence, so it is not kept")
    lines = statements[0].read_text(encoding="utf-8", errors="replace").splitlines()
    stated = [" ".join(line.split()) for line in lines if line.lower().startswith("license:")]
    say(f"{package}: {', '.join(dict.fromkeys(stated[:LICENCE_LINES])) or 'licence'}, "
        f"see {package}/{statements[0].relative_to(target)}")  # fmt: skip


def _left_out(folder: str, names: list[str]) -> list[str]:
    """Return what is no text, what is a link to one, and what Sphinx made its pages from."""
    return [name for name in names if not _kept(Path(folder) / name)]


def _kept(path: Path) -> bool:
    if path.is_symlink() or path.name.startswith("_"):
        return False
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    return path.is_dir() or path.name == "copyright" or suffix in KINDS


def _run(command: Sequence[str], folder: Path, package: str) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise LabkitError(f"{command[0]} took more than {SECONDS:.0f} s for {package}: "
                          "start it again where the network is faster") from None  # fmt: skip
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        raise LabkitError(f"{package} was not fetched: {command[0]} says {said[:160]!r}; "
                          "`apt-get update` gets the lists it needs")  # fmt: skip
