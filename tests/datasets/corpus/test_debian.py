"""Documents from Debian's packages, by an apt-get and a dpkg-deb that are played."""

from pathlib import Path

import pytest

from labkit.datasets.corpus import debian, sources
from labkit.errors import LabkitError

APT = """#!/bin/sh
[ "$1" = download ] || exit 1
[ -n "$BROKEN" ] && { echo "E: Unable to locate package $2" >&2; exit 100; }
echo "$2" > "$2_1_all.deb"
"""
DPKG = """#!/bin/sh
name=$(cat "$2")
mkdir -p "$3/usr/share/doc/$name" "$3/usr/bin"
echo "Вопрос о $name?" > "$3/usr/share/doc/$name/faq.txt"
ln -s /etc/passwd "$3/usr/share/doc/$name/link.txt"
echo program > "$3/usr/bin/run"
mkdir "$3/usr/share/doc/$name/_static"
echo style > "$3/usr/share/doc/$name/_static/page.txt"
echo picture > "$3/usr/share/doc/$name/note.png"
[ -n "$UNSTATED" ] || printf 'Files: *\\nLicense: GPL-2+\\n' > "$3/usr/share/doc/$name/copyright"
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch) -> Path:
    """Put the two programs on PATH, and the cache into a folder of its own; return that."""
    for name, text in (("apt-get", APT), ("dpkg-deb", DPKG)):
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_documents_are_kept_with_their_licences_and_nothing_else(tools, capsys):
    place = debian.fetch()
    assert place == tools / "ru-docs"
    names = sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())
    assert names == sorted(f"{package}/doc/{package}/{name}" for package in debian.PACKAGES
                           for name in ("copyright", "faq.txt"))  # fmt: skip
    assert capsys.readouterr().err.count("License: GPL-2+") == len(debian.PACKAGES)
    found = sources.find([place])
    assert len(found.files) == len(found.licences) == len(debian.PACKAGES)


def test_what_is_there_is_not_fetched_again(tools, monkeypatch):
    first = debian.fetch()
    monkeypatch.setenv("PATH", "/nowhere")
    assert debian.fetch() == first


@pytest.mark.parametrize(
    ("variable", "says"),
    [("BROKEN", r"debian-faq-ru was not fetched: apt-get says 'E: Unable to locate"),
     ("UNSTATED", r"debian-faq-ru states no licence")],
)  # fmt: skip
def test_what_fails_is_a_sentence_and_leaves_nothing(variable, says, tools, monkeypatch):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(LabkitError, match=says):
        debian.fetch()
    assert not (tools / "ru-docs").exists()


def test_elsewhere_it_is_refused_in_a_sentence(tools, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        LabkitError, match=r"packages of Debian, and there is no apt-get and no dpkg-deb here"
    ):
        debian.fetch()
