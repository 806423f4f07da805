"""Execute a notebook cell by cell and report its progress.

A notebook run from the command line is silent by default: nbclient collects the outputs and
shows nothing until the end. A lesson trains for minutes, so here every cell announces itself,
what it prints comes through as it is printed, and a line appears at least every half minute.

An error becomes one sentence with lesson, cell and cause. Ctrl-C is passed to the kernel, not
taken for it: a training run in the cell then saves its state before it stops, and running again
goes on from there.

Source: nbclient's `NotebookClient`, driven one cell at a time.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from labkit.console import say
from labkit.errors import LabkitError

HEARTBEAT_SECONDS = 30.0


def clock(seconds: float) -> str:
    """Format a duration for people.

    >>> clock(7.4), clock(187)
    ('7 s', '3 min 07 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class LessonClient(NotebookClient):
    """A notebook client that passes on what cells print, whole lines at a time."""

    def __init__(self, notebook: NotebookNode, *, say: Callable[[str], None], **options: Any):
        super().__init__(
            notebook, record_timing=False, coalesce_streams=True, timeout=None, **options
        )
        self.say = say
        self.last_words = time.monotonic()
        self.pending = ""
        self.interrupted = False

    def tell(self, line: str) -> None:
        self.last_words = time.monotonic()
        self.say(line)

    def process_message(
        self, msg: dict[str, Any], cell: NotebookNode, cell_index: int
    ) -> NotebookNode | None:
        content = msg["content"]
        if msg["msg_type"] == "stream" and content["name"] == "stdout":
            self.pass_on(content["text"])
        elif msg["msg_type"] == "update_display_data":
            # A display that is updated in place is a progress line; its text form is one line.
            self.pass_on(content["data"].get("text/plain", "") + "\n")
        return super().process_message(msg, cell, cell_index)

    def pass_on(self, text: str) -> None:
        *lines, self.pending = (self.pending + text).split("\n")
        for line in lines:
            # Of a line rewritten in place, the last version is the one that counts.
            shown = line.rstrip("\r").rsplit("\r", 1)[-1]
            if shown.strip():
                self.tell(f"    {shown}")


def headline(cell: NotebookNode) -> str:
    """Return a cell's first line of code, short enough for a terminal."""
    lines = [line.strip() for line in cell.source.splitlines()]
    first = next((line for line in lines if line and not line.startswith("#")), "")
    return first if len(first) <= 60 else first[:59] + "…"


@contextmanager
def heartbeat(client: LessonClient, where: Callable[[], str]) -> Iterator[None]:
    """Report where the run is whenever there was no output for half a minute."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(1.0):
            if time.monotonic() - client.last_words >= HEARTBEAT_SECONDS:
                client.tell(where())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def interrupts_go_to(client: LessonClient) -> Iterator[None]:
    """Pass a first Ctrl-C to the kernel; a second one stops this process."""

    def pass_on(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, before)
        client.interrupted = True
        client.tell("    stopping: the kernel saves its work (Ctrl-C again to leave at once)")
        pid = getattr(getattr(client.km, "provisioner", None), "pid", None)
        if pid:
            os.kill(pid, signal.SIGINT)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def execute(
    notebook: NotebookNode,
    *,
    name: str,
    cwd: Path,
    environment: Mapping[str, str],
    label: str | None = None,
    say: Callable[[str], None] = say,
) -> NotebookNode:
    """Execute a notebook in place, in a kernel of this environment started in `cwd`.

    `environment` is added to this process's. Raises LabkitError naming lesson and cell when a
    cell fails or the kernel dies, KeyboardInterrupt when the person waiting pressed Ctrl-C.
    """
    label = label or name
    code = [i for i, c in enumerate(notebook.cells) if c.cell_type == "code" and c.source.strip()]
    client = LessonClient(notebook, say=say, kernel_name="python3")
    started = time.monotonic()
    place = 0

    def where() -> str:
        elapsed = clock(time.monotonic() - started)
        return f"{label} · cell {place} of {len(code)} · {elapsed}"

    def culprit() -> str:
        cell = notebook.cells[code[place - 1]]
        return f"{name}, cell {place} of {len(code)} ({headline(cell)})"

    # The machine may be shared: what passes between kernel and client is encrypted.
    kernel = {"cwd": str(cwd), "env": {**os.environ, **environment}, "transport_encryption": "auto"}
    try:
        with client.setup_kernel(**kernel), interrupts_go_to(client), heartbeat(client, where):
            for place, index in enumerate(code, start=1):
                cell = notebook.cells[index]
                client.tell(f"{where()} · {headline(cell)}")
                client.execute_cell(cell, index, execution_count=place)
                client.pass_on("\n")
                if client.interrupted:
                    # The cell finished what it was saving; the ones after it are not wanted.
                    raise KeyboardInterrupt(f"stopped after {culprit()}")
    except CellExecutionError as error:
        if error.ename == "KeyboardInterrupt":
            raise KeyboardInterrupt(f"stopped in {culprit()}") from None
        raise LabkitError(f"{culprit()} fails with {error.ename}: {error.evalue}") from error
    except DeadKernelError as error:
        raise LabkitError(
            f"{culprit()}: the kernel died, most often for want of memory; `labkit doctor` shows "
            "the limit, and running again goes on from the last saved state"
        ) from error
    return notebook
