"""A real hub on loopback, its proxy, and a browser that drives JupyterLab.

The hub reads the sample configuration that the course ships and changes what a test needs: where
the ports are, who may log in, and the spawner, because there are no containers here.

Each student is kept apart by the kernel of the operating system. Started by root, a student's
server runs in a group of its own and without any capability, so it has lost root's right to read
everything: another's home, which belongs to another group, is closed to it. (Another user id
would do the same, but could not reach a Python that is installed below /root.)

Everything runs as long as the fixtures live. At the end every process that the hub started is
looked for by its id and has to be gone.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from labkit.course import release
from labkit.models import registry, tiny

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "lessons/hub-example"
SCREENSHOTS = ROOT / "build/hub-screenshots"
STUDENTS = {"ana": 61001, "ben": 61002, "cara": 61003}
PROMISED = {"cara": "3G"}
ROOT_CAN_SEPARATE = os.geteuid() == 0 and shutil.which("setpriv") is not None


def missing(what: str) -> None:
    """Skip where somebody works without the hub's tools; fail where nobody would see a skip."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}, and in CI a skip is a failure", pytrace=False)
    pytest.skip(what)


def tool(*names: str) -> str:
    """Return a program of the hub: from the project's own folder, or from the path."""
    ours = ROOT / "build/hub/node_modules/.bin"
    for name in names:
        if found := shutil.which(name, path=f"{ours}{os.pathsep}{os.environ['PATH']}"):
            return found
    missing(f"{names[0]} is not here: `make test-hub` says how to install it")
    raise AssertionError


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A running hub: its address, the students' homes, the shared models, its log."""

    url: str
    folder: Path
    process: subprocess.Popen

    @property
    def models(self) -> Path:
        return self.folder / "public"

    @property
    def course(self) -> Path:
        return self.folder / "gradebook/release/lessons"

    def home(self, student: str) -> Path:
        return self.folder / "home" / student

    def log(self) -> str:
        return (self.folder / "hub.log").read_text(errors="replace")[-6000:]


CONFIG = """\
load_subconfig({example!r}, path="")
from jupyterhub.spawner import SimpleLocalProcessSpawner

STUDENTS, PROMISED, SEPARATE = {students!r}, {promised!r}, {separate!r}
HOMES = {homes!r}


class Apart(SimpleLocalProcessSpawner):
    home_dir_template = HOMES + "/{{username}}"

    async def start(self):
        number = STUDENTS[self.user.name]
        alone = ["setpriv", "--regid", str(number), "--clear-groups", "--bounding-set=-all",
                 "--inh-caps=-all"]
        promised = PROMISED.get(self.user.name)
        self.mem_limit = promised or self.mem_limit
        # What a container's memory limit does is done by a limit on the data of a process.
        limit = ["prlimit", f"--data={{int(self.mem_limit)}}"] if promised else []
        self.cmd = [*(alone if SEPARATE else []), *limit, {start!r},
                    {python!r}, "-m", "jupyterhub.singleuser"]
        return await super().start()


c.JupyterHub.spawner_class = Apart
c.Spawner.args = ["--allow-root"] if SEPARATE else []
c.JupyterHub.authenticator_class = "dummy"
c.JupyterHub.bind_url = "http://127.0.0.1:{ports[0]}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{ports[1]}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{ports[2]}"
c.ConfigurableHTTPProxy.command = [{proxy!r}]
c.JupyterHub.db_url = "sqlite:///{folder}/hub.sqlite"
c.JupyterHub.cookie_secret_file = "{folder}/cookie_secret"
c.ConfigurableHTTPProxy.pid_file = "{folder}/proxy.pid"
c.Spawner.environment.update({environment!r})
"""


def prepare(folder: Path) -> None:
    """Make the homes, the shared folder of models, and the students' copies of the lessons."""
    release.release(ROOT / "lessons", folder / "gradebook")
    embedded = registry.resolve("smollm2-135m-instruct")
    shutil.copytree(embedded, folder / "public/smollm2-135m-instruct")
    tiny.build_tiny("tiny-llama", folder / "public/tiny-llama")
    for path in [folder / "public", *(folder / "public").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
        if ROOT_CAN_SEPARATE:
            os.chown(path, 61000, 61000)
    # Every cell of a notebook is on the page, not only those in view.
    settings = {"@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}}
    (folder / "jupyter/labconfig").mkdir(parents=True)
    overrides = folder / "jupyter/labconfig/default_setting_overrides.json"
    overrides.write_text(json.dumps(settings))
    for student, number in STUDENTS.items():
        home = folder / "home" / student
        home.mkdir(parents=True)
        give(home, number)


def give(path: Path, number: int) -> None:
    """Make a file or folder a student's own: for that student's group, and for nobody else."""
    if ROOT_CAN_SEPARATE:
        os.chown(path, number, number)
    path.chmod(0o2770 if path.is_dir() else 0o660)


def wait_for(hub: Hub, seconds: float = 60) -> None:
    """Return when the hub answers through its proxy."""
    end_at = time.monotonic() + seconds
    while time.monotonic() < end_at:
        assert hub.process.poll() is None, hub.log()
        try:
            with urllib.request.urlopen(f"{hub.url}/hub/api/", timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"the hub does not answer:\n{hub.log()}")


def end(process: subprocess.Popen | None, seconds: float = 40) -> list[str]:
    """End the hub and everything it started; return what had to be killed."""
    if process is None:
        return []
    try:
        tree = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        return []
    process.send_signal(signal.SIGTERM)
    alive = psutil.wait_procs(tree, timeout=seconds)[1]
    names = []
    for each in alive:
        try:
            names.append(" ".join(each.cmdline())[:120])
            each.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=10)
    process.poll()
    return [name for name in names if name]
