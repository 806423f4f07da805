"""What the hub's tests share: one hub, one browser, and a login for each student."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from lab import Lab
from playwright.sync_api import Browser, sync_playwright
from running import (
    CONFIG,
    EXAMPLE,
    PROMISED,
    ROOT_CAN_SEPARATE,
    SCREENSHOTS,
    STUDENTS,
    Hub,
    end,
    free_ports,
    prepare,
    tool,
    wait_for,
)  # fmt: skip


@pytest.fixture(scope="session")
def hub() -> Iterator[Hub]:
    """Start the hub with its proxy, the released lessons, and models nobody may write to."""
    proxy = tool("configurable-http-proxy")
    # Not below pytest's own folder: that one is closed to every other user.
    folder = Path(tempfile.mkdtemp(prefix="labkit-hub-", dir="/tmp"))
    process = None
    try:
        folder.chmod(0o755)
        prepare(folder)
        ports = free_ports(3)
        environment = {
            "LABKIT_MODELS": str(folder / "public"),
            "LABKIT_COURSE": str(folder / "gradebook/release/lessons"),
            "LABKIT_PROFILE": "smoke",
            "OMP_NUM_THREADS": "1",
            "JUPYTER_CONFIG_PATH": f"{EXAMPLE / 'jupyter'}{os.pathsep}{folder / 'jupyter'}",
        }
        (folder / "jupyterhub_config.py").write_text(
            CONFIG.format(
                example=str(EXAMPLE / "jupyterhub_config.py"), students=STUDENTS,
                promised=PROMISED, separate=ROOT_CAN_SEPARATE, homes=str(folder / "home"),
                start=str(EXAMPLE / "start"), python=sys.executable, ports=ports, proxy=proxy,
                folder=folder, environment=environment,
            )
        )  # fmt: skip
        with (folder / "hub.log").open("w") as log:
            process = subprocess.Popen(
                # Should this process die, the hub is told to end, and ends its servers.
                ["setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "jupyterhub"],
                cwd=folder, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            )  # fmt: skip
        running = Hub(url=f"http://127.0.0.1:{ports[0]}", folder=folder, process=process)
        wait_for(running)
        yield running
        for started in psutil.Process(process.pid).children(recursive=True):
            for connection in started.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    assert connection.laddr.ip in ("127.0.0.1", "::1"), (started, connection)
    finally:
        left = end(process)
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        if (folder / "hub.log").exists():
            shutil.copy(folder / "hub.log", SCREENSHOTS / "hub.log")
        shutil.rmtree(folder, ignore_errors=True)
        assert not left, f"still running after the hub was ended: {left}"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start Chromium without a window; it talks to nobody but the hub."""
    path = os.environ.get("LABKIT_CHROMIUM") or tool(
        "chromium", "chromium-browser", "google-chrome"
    )
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
             "--disable-component-update", "--disable-dev-shm-usage"]  # fmt: skip
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=quiet)
        yield started
        started.close()


@pytest.fixture
def lab(hub: Hub, browser: Browser) -> Iterator[Callable[[str], Lab]]:
    """Return a function that logs a student in and gives their JupyterLab."""
    labs: list[Lab] = []

    def log_in(student: str) -> Lab:
        labs.append(Lab(browser, url=hub.url, student=student, screenshots=SCREENSHOTS))
        return labs[-1]

    yield log_in
    for each in labs:
        each.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Any:
    """Keep a picture of every open page when a test fails."""
    report = yield
    if report.when == "call" and report.failed:
        for context in getattr(item.funcargs.get("browser"), "contexts", []):
            for number, page in enumerate(context.pages):
                SCREENSHOTS.mkdir(parents=True, exist_ok=True)
                page.screenshot(path=SCREENSHOTS / f"failed-{item.name}-{number}.png")
    return report
