"""The chat page in a real browser, alone and behind jupyter-server-proxy, without network.

The embedded model answers in one column, a tiny random one in the other. The browser may talk
to this machine only, and its speech synthesis is replaced by one that notes what it is to say.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect
from running import SCREENSHOTS, end, free_ports

MODELS = ["smollm2-135m-instruct", "tiny-llama"]
SPY = """
window.spoken = []; window.hushed = 0;
window.speechSynthesis.speak = (utterance) => window.spoken.push(utterance.text);
window.speechSynthesis.cancel = () => { window.hushed += 1; };
"""
ANSWER_SECONDS = 180


@pytest.fixture(scope="module")
def chat() -> Iterator[str]:
    """Start `labkit chat` as a user does; give its address; end it with Ctrl-C."""
    process = subprocess.Popen(
        [sys.executable, "-m", "labkit", "chat", *MODELS, "--port", "0", "--json",
         "--idle-minutes", "15"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        ready = json.loads(line)
        assert ready["models"] == MODELS
        yield ready["url"]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0 and "Traceback" not in err, err
    finally:
        process.kill()
        process.wait()


@contextmanager
def opened(browser: Browser, url: str) -> Iterator[Page]:
    """Open the page with the spy; afterwards nothing may have gone to another machine."""
    elsewhere: list[str] = []
    errors: list[str] = []
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.add_init_script(SPY)
    page.on("pageerror", lambda error: errors.append(str(error)))

    def only_here(route):
        address = urlsplit(route.request.url)
        if address.scheme in ("http", "https", "ws") and address.hostname != "127.0.0.1":
            elsewhere.append(route.request.url)
            route.abort()
        else:
            route.continue_()

    page.route("**/*", only_here)
    page.goto(url)
    page.wait_for_selector("#question textarea")
    yield page
    assert not elsewhere and not errors
    context.close()


def ask(page: Page, question: str) -> None:
    page.fill("#question textarea", question)
    page.press("#question textarea", "Enter")


def answers(page: Page, column: int):
    return page.locator(f"#bot-{column} [data-testid='bot']")


def wait_for_answers(page: Page, column: int, count: int) -> str:
    """Wait until a column has its answer and nothing is added to it any more."""
    expect(answers(page, column)).to_have_count(count, timeout=ANSWER_SECONDS * 1000)
    last, before, deadline = answers(page, column).last, None, time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        text = last.inner_text()
        if text and text == before:
            return text
        before = text
        page.wait_for_timeout(2500)
    raise AssertionError(f"the answer never ends: {before!r}")


def choose(page: Page, name: str, on: bool) -> None:
    page.locator("#models").get_by_label(name, exact=True).set_checked(on)


def test_type_get_a_streamed_answer_switch_models_and_hear_it(chat, browser):
    with opened(browser, chat) as page:
        choose(page, "tiny-llama", False)
        expect(page.locator("#bot-1")).to_be_hidden()
        ask(page, "Count from one to twenty in words, each on a new line.")
        # Streamed: a part of the answer is there before the whole.
        expect(answers(page, 0)).to_have_count(1, timeout=ANSWER_SECONDS * 1000)
        part = answers(page, 0).inner_text()
        whole = wait_for_answers(page, 0, 1)
        assert whole.startswith(part[:1]) and len(whole) > len(part)
        assert page.evaluate("window.spoken") == [], "it spoke with the switch off"

        page.get_by_label("Read answers aloud").check()
        ask(page, "What is the capital of France?")
        whole = wait_for_answers(page, 0, 2)
        page.wait_for_function("window.spoken.length > 0")
        said = "".join("".join(page.evaluate("window.spoken")).split())
        assert said == "".join(whole.split())

        hushed = page.evaluate("window.hushed")
        page.get_by_label("Read answers aloud").uncheck()
        page.wait_for_function(f"window.hushed > {hushed}")
        choose(page, "smollm2-135m-instruct", False)
        choose(page, "tiny-llama", True)
        expect(page.locator("#bot-0")).to_be_hidden()
        expect(page.locator("#bot-1")).to_be_visible()
        spoken = page.evaluate("window.spoken.length")
        ask(page, "And of Spain?")
        expect(answers(page, 1)).to_have_count(1, timeout=ANSWER_SECONDS * 1000)
        choose(page, "smollm2-135m-instruct", True)
        expect(page.locator("#bot-0")).to_be_visible()
        assert answers(page, 0).count() == 2, "the model that was not chosen answered"
        assert page.evaluate("window.spoken.length") == spoken
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / "chat.png")


def test_a_system_prompt_changes_the_answer_and_a_mistake_is_shown(chat, browser):
    with opened(browser, chat) as page:
        choose(page, "tiny-llama", False)
        page.get_by_text("Settings", exact=True).click()
        ask(page, "Who are you?")
        plain = wait_for_answers(page, 0, 1)
        page.click("#clear")
        expect(answers(page, 0)).to_have_count(0)
        page.fill("#system textarea", "You are a pirate called Captain Hook. Say your name.")
        ask(page, "Who are you?")
        assert wait_for_answers(page, 0, 1) != plain
        ask(page, "   ")
        expect(page.get_by_text("Write something first.")).to_be_visible()
        ask(page, "word " * 30_000)
        expect(page.get_by_text("but the model reads")).to_be_visible(timeout=60_000)


@pytest.fixture(scope="module")
def notebook_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a Jupyter server under a prefix, as a hub's user server lies, with its proxy."""
    port = free_ports(1)[0]
    home = tmp_path_factory.mktemp("home")
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyter_server", "--ServerApp.ip=127.0.0.1", "--allow-root",
         f"--ServerApp.port={port}", "--ServerApp.base_url=/user/ana/", "--no-browser",
         "--IdentityProvider.token=", f"--ServerApp.root_dir={home}",
         "--ServerApp.jpserver_extensions=jupyter_server_proxy=True"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=home,
        env={**os.environ, "HOME": str(home)},
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}/user/ana"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{url}/api", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.3)
        yield url
    finally:
        end(process)


def test_behind_the_proxy_of_a_hub_every_part_is_found_under_its_prefix(
    chat, notebook_server, browser
):
    page_url = f"{notebook_server}/proxy/{urlsplit(chat).port}/"
    with opened(browser, page_url) as page:
        outside: list[str] = []
        page.on("request", lambda request: outside.append(request.url)
                if request.url.startswith("http") and not request.url.startswith(page_url)
                else None)  # fmt: skip
        choose(page, "tiny-llama", False)
        page.get_by_label("Read answers aloud").check()
        ask(page, "Name a colour.")
        assert wait_for_answers(page, 0, 1)
        page.wait_for_function("window.spoken.length > 0")
        assert not outside
