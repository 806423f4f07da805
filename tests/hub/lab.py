"""JupyterLab as a student sees and uses it: log in, open a notebook, run it, write in it."""

import re
import time
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page

CELL = ".jp-Notebook .jp-CodeCell"
OUTPUT = ".jp-OutputArea-output"
SPAWN_SECONDS = 150
DONE = r"\[\d+\]:"


class Lab:
    """One student's browser: a context of its own, so cookies are not shared."""

    def __init__(self, browser: Browser, *, url: str, student: str, screenshots: Path):
        self.url, self.student, self.screenshots = url, student, screenshots
        self.context = browser.new_context(viewport={"width": 1280, "height": 900})
        self.context.set_default_timeout(60_000)
        self.page: Page = self.context.new_page()
        self.page.goto(f"{url}/hub/login")
        self.page.fill("#username_input", student)
        self.page.fill("#password_input", "any")
        # The server starts while the page waits: two students' servers start at once.
        self.page.click("#login_submit", no_wait_after=True)

    def open(self, notebook: str) -> None:
        """Open a notebook of the student's home, and wait until its kernel is ready."""
        self.page.wait_for_url("**/lab/tree/**", timeout=SPAWN_SECONDS * 1000)
        self.page.goto(f"{self.url}/user/{self.student}/lab/tree/{notebook}?reset")
        self.page.wait_for_selector(CELL, timeout=90_000)
        self.wait_until_idle()

    def wait_until_idle(self, seconds: float = 90) -> None:
        """Wait until the kernel is ready and runs nothing."""
        self.page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=seconds * 1000)

    def cell(self, text: str) -> Locator:
        """Return the code cell that holds a text; it has to be one."""
        pattern = re.compile(re.escape(text))
        found = self.page.locator(CELL).filter(
            has=self.page.locator(".jp-InputArea-editor", has_text=pattern)
        )
        found.first.wait_for()
        assert found.count() == 1, f"{found.count()} cells hold {text!r}"
        # By its place from now on: its text may be replaced.
        place = found.evaluate(
            "(cell, all) => [...document.querySelectorAll(all)].indexOf(cell)", CELL
        )
        return self.page.locator(CELL).nth(place)

    def run_all(self) -> None:
        """Use the menu, as a student does."""
        self.choose("Run", "Run All Cells")

    def run_above(self, cell: Locator) -> None:
        """Run every cell above one, with the menu."""
        cell.scroll_into_view_if_needed()
        cell.locator(".jp-InputArea-editor .cm-content").click()
        self.choose("Run", "Run All Above Selected Cell")

    def choose(self, menu: str, item: str) -> None:
        self.page.get_by_role("menuitem", name=menu, exact=True).click()
        self.page.get_by_role("menuitem", name=item, exact=True).click()

    def prompts(self, above: str = "") -> list[str]:
        """Return the prompts of the code cells, or of those above the first with a text."""
        cells = self.page.locator(CELL)
        texts = cells.locator(".jp-InputArea-editor").all_inner_texts()
        number = next((n for n, text in enumerate(texts) if above and above in text), len(texts))
        return cells.locator(".jp-InputArea-prompt").all_inner_texts()[:number]

    def unfinished(self, above: str = "") -> list[str]:
        """Return those of the prompts that belong to cells which have not run yet."""
        return [text for text in self.prompts(above) if not re.fullmatch(DONE, text.strip())]

    def start(self, cell: Locator, code: str | None = None) -> str:
        """Run a cell, with other code in it when given; return its prompt from before."""
        cell.scroll_into_view_if_needed()
        editor = cell.locator(".jp-InputArea-editor .cm-content")
        before = self.prompt(cell)
        for _ in range(5):
            editor.click()
            if code is not None:
                self.page.keyboard.press("Control+A")
                self.page.keyboard.insert_text(code)
            self.page.keyboard.press("Control+Enter")
            # The prompt changes at once. If not, the page was not listening yet.
            for _ in range(40):
                if self.prompt(cell) != before:
                    return before
                self.page.wait_for_timeout(100)
        raise AssertionError(f"the cell does not start: {before}")

    def run(self, cell: Locator, code: str | None = None, *, wait: float = 90) -> str:
        """Run a cell, with other code in it when given; return what it shows."""
        self.start(cell, code)
        end = time.monotonic() + wait
        while time.monotonic() < end:
            if re.fullmatch(DONE, self.prompt(cell)):
                self.page.wait_for_timeout(200)  # the last of what it printed may be on its way
                return self.text(cell)
            self.page.wait_for_timeout(100)
        raise AssertionError(f"the cell is not done after {wait} s: {self.text(cell)}")

    @staticmethod
    def prompt(cell: Locator) -> str:
        return cell.locator(".jp-InputArea-prompt").inner_text().strip()

    @staticmethod
    def text(cell: Locator) -> str:
        """Return everything below a cell as text."""
        return "\n".join(cell.locator(OUTPUT).all_inner_texts())

    def errors(self) -> list[str]:
        """Return every traceback and everything on the error stream that the page shows."""
        kinds = ("application/vnd.jupyter.error", "application/vnd.jupyter.stderr")
        wanted = ", ".join(f'{OUTPUT}[data-mime-type="{kind}"]' for kind in kinds)
        return self.page.locator(wanted).all_inner_texts()

    def picture(self, name: str, at: Locator | None = None) -> Path:
        """Keep a picture of the page, scrolled to an element; return its path."""
        if at is not None:
            at.evaluate("element => element.scrollIntoView({block: 'center'})")
        self.page.wait_for_timeout(400)
        self.screenshots.mkdir(parents=True, exist_ok=True)
        path = self.screenshots / f"{name}.png"
        self.page.screenshot(path=path)
        return path

    def close(self) -> None:
        self.context.close()
