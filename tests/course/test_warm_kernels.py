"""A forked kernel is as fresh as one that was started, and dies as one does."""

import os
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from labkit.course import warm_kernels

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="kernels fork on Linux only")


@pytest.fixture(scope="module", autouse=True)
def installed():
    """Fork kernels while this file is tested."""
    factory = warm_kernels.KernelProvisionerFactory.instance()
    before = factory.default_provisioner_name
    warm_kernels.install()
    yield
    factory.default_provisioner_name = before
    warm_kernels.WAITING.stop()


def run(*cells: str, cwd: Path | None = None, **options) -> list[str]:
    """Run cells in a kernel of their own; return what they printed."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "x", "language": "python"}
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", **options)
    client.execute(cwd=str(cwd) if cwd else None)
    return ["".join(out.get("text", "") for out in cell.outputs).strip() for cell in notebook.cells]


PARENT = (
    "import os, sys\n"
    "print(os.getppid(), {'torch', 'trl'} <= set(sys.modules), os.getcwd(), os.getsid(0))"
)


def test_a_kernel_is_a_child_of_the_waiting_process_in_its_own_folder_and_session(tmp_path):
    parent, warm, cwd, session = run(PARENT, cwd=tmp_path)[0].split()
    assert int(parent) == warm_kernels.WAITING.process.pid
    assert warm == "True" and cwd == str(tmp_path)
    assert int(session) not in (os.getsid(0), int(parent))


def test_nothing_goes_from_one_kernel_to_the_next():
    spoil = ("import builtins, labkit.checkpoints as c, os, random\n"
             "builtins.leaked = 1; c.check = None; os.environ['LEAKED'] = '1'\n"
             "os.chdir('/'); print(random.random())")  # fmt: skip
    look = (
        "import builtins, labkit.checkpoints as c, os\n"
        "print([hasattr(builtins, 'leaked'), c.check is None, 'LEAKED' in os.environ])"
    )
    run(spoil)
    assert run(look) == ["[False, False, False]"]


def test_a_kernel_that_ends_is_noticed_and_the_next_one_starts():
    with pytest.raises(DeadKernelError):
        run("import os; os._exit(3)")
    assert run("print(1 + 1)") == ["2"]


def test_an_error_and_an_interrupt_are_what_they_are_elsewhere():
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        run("1 / 0")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("while True: pass")])
    client = NotebookClient(notebook, timeout=5, kernel_name="python3", interrupt_on_timeout=True)
    with pytest.raises(CellExecutionError, match="KeyboardInterrupt"):
        client.execute()


def test_subprocesses_of_a_student_s_code_can_be_waited_for():
    command = [sys.executable, "-c", "exit(7)"]
    text = f"import subprocess\nprint(subprocess.run({command!r}).returncode)"
    assert run(text) == ["7"]


def test_kernels_are_gone_afterwards():
    (pid,) = run("import os; print(os.getpid())")
    for _ in range(100):
        if not psutil.pid_exists(int(pid)):
            return
        time.sleep(0.1)
    raise AssertionError("the kernel is still there")


def test_where_nothing_can_be_forked_a_kernel_starts_as_usual(monkeypatch):
    def broken(*args):
        raise OSError("no fork")

    monkeypatch.setattr(warm_kernels.WAITING, "fork", broken)
    parent = run(PARENT)[0].split()[0]
    assert int(parent) == os.getpid()


def test_a_waiting_process_that_was_ended_is_started_again():
    run("1")
    before = warm_kernels.WAITING.process.pid
    psutil.Process(before).kill()
    run("1")  # in the ordinary way
    run("1")
    assert warm_kernels.WAITING.process.pid != before
