"""Start the kernels of a grading from one process that has imported everything already.

A class of eighty hands in hundreds of notebooks, and most of the time of grading one goes into
importing torch and labkit. Here that is done once, by a process that imports and then waits; each
notebook's kernel is a fork of it, as a fresh one in every other way:

    nbgrader ──request: command, folder, environment──▶ waiting process ──fork──▶ kernel

The waiting process never runs a line of a student's, and a kernel is not used twice, so nothing
goes from one student to the next. Where forking does not work (no Linux, a kernel of another
Python), a kernel starts in the ordinary way.

Sources: jupyter_client's kernel provisioners; `fork(2)`, `pidfd_open(2)`.
"""

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner
from nbformat import NotebookNode
from nbgrader.preprocessors import NbGraderPreprocessor

from labkit.console import quiet_bitsandbytes

NAME = "labkit-warm"
LAUNCHER = ["-m", "ipykernel_launcher"]
LONGEST_REQUEST = 2**20
START_SECONDS = 600.0
"""for the first kernel, which waits for the imports; minutes on a machine that is busy elsewhere"""
MOST_FAILURES = 3
"""after which every kernel starts in the ordinary way"""


class Forked:
    """A kernel that is not our child, with as much of `Popen` as a provisioner needs."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int) -> None:
        """Hold on to the process, so that its number is not another's later."""
        self.pid = pid
        try:
            self.handle: int | None = os.pidfd_open(pid)
        except ProcessLookupError:
            self.handle = None  # it has ended already

    def poll(self, timeout: float | None = 0) -> int | None:
        """Return 0 once the process has ended, else None; how it ended nobody can know."""
        if self.handle is not None and select.select([self.handle], [], [], timeout)[0]:
            os.close(self.handle)
            self.handle = None
        return 0 if self.handle is None else None

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until the process has ended."""
        return self.poll(timeout)

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.handle, number)

    def kill(self) -> None:
        """End the process at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask the process to end."""
        self.send_signal(signal.SIGTERM)


class Waiting:
    """The process that waits with everything imported; started when first asked."""

    def __init__(self) -> None:
        """Start none yet."""
        self.process: subprocess.Popen[bytes] | None = None
        self.channel: socket.socket | None = None
        self.failures = 0

    def fork(self, arguments: list[str], cwd: str, environment: dict[str, str]) -> Forked:
        """Return a new kernel. Raises OSError where there cannot be one."""
        if self.failures >= MOST_FAILURES:
            raise OSError("no kernel could be forked so far")
        if self.channel is None:
            self._start()
        assert self.channel is not None
        request = {"arguments": arguments, "cwd": cwd, "environment": environment}
        try:
            self.channel.send(json.dumps(request).encode())
            answer = self.channel.recv(LONGEST_REQUEST)
            if not answer:
                raise OSError("the process that kernels are forked from has ended")
        except OSError:  # it was killed, or takes far too long: the next kernel gets another
            self.failures += 1
            self.stop()
            raise
        return Forked(int(answer))

    def _start(self) -> None:
        # Messages keep their bounds on this kind of socket.
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(START_SECONDS)
        with theirs:
            self.process = subprocess.Popen(
                # -P: the folder of the grading is no place to import from.
                [sys.executable, "-P", "-m", "labkit.course.warm_kernels", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self.stop)

    def stop(self) -> None:
        """End the waiting process; kernels that run go on."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        if self.process is not None:
            self.process.kill()  # it holds nothing that has to be kept
            self.process.wait()
            self.process = None


WAITING = Waiting()


class WarmProvisioner(LocalProvisioner):
    """Fork a kernel of this Python from the waiting process; start any other as usual."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Start the kernel; return what its clients connect to."""
        own = cmd[0] == sys.executable and cmd[1:3] == LAUNCHER and hasattr(os, "pidfd_open")
        if not own:
            return await super().launch_kernel(cmd, **kwargs)
        try:
            cwd = str(kwargs.get("cwd") or os.getcwd())
            process = WAITING.fork(cmd[3:], cwd, dict(kwargs.get("env") or os.environ))
        except (OSError, ValueError):
            return await super().launch_kernel(cmd, **kwargs)
        self.process = process  # type: ignore[assignment]  # what is used of a Popen, it has
        self.pid = self.pgid = process.pid  # of a session of its own
        self.cwd = kwargs.get("cwd", os.getcwd())
        return self.connection_info


def install() -> None:
    """Let kernels that this process starts be forked."""
    factory = KernelProvisionerFactory.instance()
    factory.provisioners[NAME] = EntryPoint(
        name=NAME, value=f"{__name__}:WarmProvisioner", group=factory.GROUP_NAME
    )
    factory.default_provisioner_name = NAME


class WarmKernels(NbGraderPreprocessor):
    """Let the kernel of this notebook, and those after it, be forked."""

    def preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        install()
        return nb, resources


def _wait(channel: socket.socket) -> None:
    """Import what lessons import, then fork a kernel for each request until nobody asks."""
    # Some of it is imported by exercises only in the middle of a check. Nothing is computed here:
    # autograd and OpenMP do not survive a fork.
    quiet_bitsandbytes()  # TRL imports it
    import scipy.stats  # noqa: F401
    import torch  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401
    from ipykernel import kernelapp  # noqa: F401
    from trl import DPOTrainer  # noqa: F401

    from labkit.checkpoints import check  # noqa: F401
    from labkit.checkpoints.collecting import collect
    from labkit.memory.trace import tracing  # noqa: F401

    collect("exercises")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a kernel ended
    waiting = os.getpid()
    while request := channel.recv(LONGEST_REQUEST):
        pid = os.fork()
        if pid == 0:
            channel.close()
            _be_kernel(json.loads(request), waiting)
        channel.send(str(pid).encode())


def _be_kernel(request: dict[str, Any], parent: int) -> None:
    """Be the kernel that was asked for, and never return."""
    from ipykernel import kernelapp

    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.clear()
        # A kernel ends itself when its parent is gone, and that is not who asked for it.
        os.environ.update(request["environment"], JPY_PARENT_PID=str(parent))
        os.chdir(request["cwd"])
        sys.argv = ["ipykernel_launcher", *request["arguments"]]
        kernelapp.launch_new_instance()
    finally:
        os._exit(0)


if __name__ == "__main__":
    _wait(socket.socket(fileno=int(sys.argv[1])))
