"""Downloads against a real server on loopback: whole, resumed, cut off, wrong, unreachable."""

import errno
import hashlib
import io
import multiprocessing
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from labkit import files
from labkit.errors import LabkitError

CONTENT = bytes(range(256)) * 4000  # 1 MB in which a shifted byte shows
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT; `cut_at` ends answers early, `ranges` says whether it can resume."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str | None] = []
        self.cut_at: int | None = None
        self.ranges = True
        self.url = f"http://127.0.0.1:{self.server_port}/file.bin"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.requests.append(wanted)
        if self.path != "/file.bin":
            return self.send_error(404)
        start = 0
        if wanted and self.server.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(CONTENT):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : self.server.cut_at])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def hidden(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.endswith(".part")]


def test_downloads_once(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.bin"
    assert files.download(server.url, path, SHA256) == path
    assert path.read_bytes() == CONTENT
    files.download(server.url, path, SHA256)
    assert server.requests == [None]


def test_continues_where_it_stopped(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    server.cut_at = 300_000
    with pytest.raises(LabkitError, match="closed after 300,000 of 1,024,000 bytes"):
        files.download(server.url, path, SHA256, attempts=1)
    assert not path.exists()
    server.cut_at = None
    files.download(server.url, path, SHA256)
    assert path.read_bytes() == CONTENT
    assert server.requests == [None, "bytes=300000-"]
    assert hidden(tmp_path) == []


def test_retries_by_itself(server: Server, tmp_path: Path) -> None:
    server.cut_at = 500_000
    answered = server.requests

    class Mending(list):
        def append(self, item: str | None) -> None:
            super().append(item)
            if len(self) == 2:
                server.cut_at = None

    server.requests = Mending(answered)
    files.download(server.url, tmp_path / "file.bin", SHA256)
    assert server.requests == [None, "bytes=500000-"]


def test_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / ".file.bin.part").write_bytes(CONTENT[:1000])
    files.download(server.url, tmp_path / "file.bin", SHA256)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-"]


def test_rest_of_an_older_version_is_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".file.bin.part").write_bytes(b"x" * 1000)
    files.download(server.url, tmp_path / "file.bin", SHA256)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-", None]


def test_complete_rest_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".file.bin.part").write_bytes(CONTENT)
    files.download(server.url, tmp_path / "file.bin", SHA256)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_wrong_content_is_refused_and_removed(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"what was here before")
    with pytest.raises(LabkitError, match="corrupt"):
        files.download(server.url, path, "0" * 64)
    assert path.read_bytes() == b"what was here before"
    assert hidden(tmp_path) == []


def test_missing_address_is_not_asked_twice(server: Server, tmp_path: Path) -> None:
    with pytest.raises(LabkitError, match="Not Found"):
        files.download(server.url + "x", tmp_path / "file.bin", SHA256)
    assert len(server.requests) == 1


def test_unreachable(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/file.bin"
        with pytest.raises(LabkitError, match="put the file at .*file.bin"):
            files.download(url, tmp_path / "file.bin", SHA256, attempts=1)


def test_unwritable_folder_is_one_sentence(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("")
    with pytest.raises(LabkitError, match="LABKIT_CACHE"):
        files.download(server.url, tmp_path / "a-file" / "file.bin", SHA256)


class FullDisk(io.BytesIO):
    def write(self, _: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_is_one_sentence(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.downloads, "open", lambda *_: FullDisk(), raising=False)
    with pytest.raises(LabkitError, match="No space left on device.*free some space"):
        files.download(server.url, tmp_path / "file.bin", SHA256)
    assert len(server.requests) == 1


def test_many_at_once_download_once(server: Server, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    jobs = [
        spawn.Process(target=files.download, args=(server.url, tmp_path / "file.bin", SHA256))
        for _ in range(3)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    assert server.requests == [None]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_what_appears_is_whole_or_not_there(tmp_path: Path) -> None:
    place = tmp_path / "new" / "deep" / "thing"
    refused = pytest.raises(LabkitError, match="thing cannot be written: No space left")
    with refused, files.appearing(place) as partial:
        partial.write_text("half")
        raise OSError(28, "No space left on device")
    with pytest.raises(ZeroDivisionError), files.appearing(place):
        raise ZeroDivisionError
    # Nothing is left, not even the folders that were made for it.
    assert list(tmp_path.iterdir()) == []
    files.write_text(place, "whole")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [place]
    assert place.read_text() == "whole" and list(place.parent.iterdir()) == [place]


def test_a_folder_that_appears_takes_the_place_of_the_old_one_or_is_too_late(
    tmp_path: Path,
) -> None:
    place = tmp_path / "folder"
    for name in ("first", "second"):
        with files.appearing(place) as partial:
            partial.mkdir()
            (partial / name).touch()
    assert [p.name for p in place.iterdir()] == ["second"]
    with files.appearing(place, keep_first=True) as partial:
        partial.mkdir()
        (partial / "third").touch()
    assert [p.name for p in place.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [place]
    # Others may read what appeared.
    assert place.stat().st_mode & 0o777 == 0o777 & ~_umask()


def test_a_home_that_is_nobody_s_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert files.expanded("~/x") == Path("/home/me/x") and files.expanded("a/~b") == Path("a/~b")
    for take in (files.expanded, files.free_folder):
        with pytest.raises(LabkitError, match="~no-such-user/x names a home .* write the folder"):
            take("~no-such-user/x")


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_an_empty_folder_is_filled_where_it_leads(tmp_path: Path, there: bool) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    if there:
        real.mkdir()
    link.symlink_to("real")
    with files.appearing(files.free_folder(link)) as partial:
        partial.mkdir()
        (partial / "weights").touch()
    assert link.is_symlink() and [p.name for p in real.iterdir()] == ["weights"]
    with pytest.raises(LabkitError, match="is not empty"):
        files.free_folder(link)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
