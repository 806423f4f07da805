"""Show a verdict as a small card in a notebook and as plain text everywhere else.

The text form of an unanswered question repeats it; the card does not, since the lesson has just
asked it. Where a notebook is all that is handed in, the card is: its output also carries the answer
and the records it rests on, under a type of its own that no page shows.

The card uses inherited colours and a border only, so that it reads on JupyterLab's light and
dark themes; what colour says is also said by a word.
"""

import html
from dataclasses import dataclass, field
from typing import Any

MIME = "application/vnd.labkit.answer+json"

KINDS = {
    "consistent": ("agrees", "#1a7f37"),
    "contradicts": ("contradicts", "#b42318"),
    "missing": ("missing", "#9a6700"),
}


@dataclass(kw_only=True)
class Verdict:
    """What was found out about one answer or one function. True when nothing is wrong."""

    title: str
    text: str = ""
    about: str = ""
    consistent: list[str] = field(default_factory=list)
    contradicts: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unanswered: bool = False
    recorded: bool = False
    carries: dict[str, Any] | None = field(default=None, repr=False)
    """the recorded answer with its records, for a notebook that is handed in"""

    @property
    def state(self) -> str:
        """unanswered, contradicts, incomplete or consistent."""
        if self.unanswered:
            return "unanswered"
        if self.contradicts:
            return "contradicts"
        return "incomplete" if self.missing else "consistent"

    def __bool__(self) -> bool:
        return self.state == "consistent"

    @property
    def headline(self) -> str:
        """One line: what this is about and where it stands."""
        words = {
            "unanswered": "not answered yet",
            "contradicts": "something does not fit",
            "incomplete": "something is missing",
            "consistent": "everything fits",
        }
        return f"{self.title}: {words[self.state]}" + (" (recorded)" if self.recorded else "")

    def rows(self) -> list[tuple[str, str, str]]:
        """Return (word, colour, sentence) for everything found."""
        return [(*KINDS[kind], line) for kind in KINDS for line in getattr(self, kind)]

    def __str__(self) -> str:
        lines = [self.headline]
        if self.unanswered and self.text:
            lines.append(f"  {self.text}")
        return "\n".join([*lines, *(f"  {word}: {line}" for word, _, line in self.rows())])

    __repr__ = __str__

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        found = {kind: getattr(self, kind) for kind in KINDS}
        return {"title": self.title, "state": self.state, "recorded": self.recorded, **found}

    def _repr_mimebundle_(self, **choices: Any) -> dict[str, Any]:
        shown: dict[str, Any] = {"text/plain": str(self), "text/html": self._repr_html_()}
        return shown | ({MIME: self.carries} if self.carries else {})

    def _repr_html_(self) -> str:
        items = "".join(
            f'<li style="margin:.15em 0"><b style="color:{colour}">{word}</b> '
            f"{html.escape(line)}</li>"
            for word, colour, line in self.rows()
        )
        return (
            '<div style="border:1px solid #8c959f;border-radius:6px;padding:.6em .9em;'
            'max-width:46em;line-height:1.45">'
            f"<b>{html.escape(self.headline)}</b>"
            f'<ul style="margin:.3em 0 0;padding-left:1.2em">{items}</ul></div>'
        )
