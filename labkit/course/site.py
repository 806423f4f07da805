"""Render executed notebooks as linked pages that need no network.

nbconvert's own page loads MathJax and a module loader from a content network, so on a machine
without one formulas stay raw. Here a formula becomes a small picture with its source as the
alternative text, drawn by matplotlib, which knows the TeX subset that lessons use; styles and
figures are inside the page. Nothing in it is a script.

The contents page shows for each lesson what its first cell says (goal, minutes, hardware) and
the figure of the cell tagged `result`.

Source: nbconvert's template blocks; matplotlib's mathtext.
"""

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import Environment, FileSystemLoader, pass_context
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from labkit.course.preview import FOLDER
from labkit.errors import LabkitError
from labkit.files import write_text

TEMPLATES = Path(__file__).parent / "templates"

# Code is matched first, so that a dollar sign in it stays one.
MATH = re.compile(
    r"(?P<code>```.*?```|`[^`\n]*`)|\$\$(?P<display>.+?)\$\$|(?<![\\\w$])\$(?P<inline>[^\s$][^$\n]*?)(?<!\s)\$(?!\w)",
    re.DOTALL,
)
FACT = re.compile(r"^- \*\*(?P<name>[^*:]+):?\*\*:? *(?P<text>.+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What the site says about one lesson."""

    name: str
    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    figure: str | None = None  # base64 of a PNG
    figure_alt: str = ""
    folder: str = "notebooks"
    """of the site, where the notebook is; that of lessons that were not run is another"""


def describe(name: str, notebook: NotebookNode, folder: str = "notebooks") -> Lesson:
    """Return a lesson's title, the facts of its first cell, and its result figure."""
    first = notebook.cells[0].source if notebook.cells else ""
    heading = re.search(r"^# (.+)$", first, re.MULTILINE)
    figure, alt = result_figure(notebook.cells)
    return Lesson(
        name=name,
        title=heading[1] if heading else name,
        facts={m["name"].lower(): m["text"] for m in FACT.finditer(first)},
        figure=figure,
        figure_alt=alt,
        folder=folder,
    )


def result_figure(cells: Sequence[NotebookNode]) -> tuple[str | None, str]:
    """Return the first picture of the cell tagged `result`, base64, and its alternative text."""
    for cell in cells:
        if cell.cell_type == "code" and "result" in cell.metadata.get("tags", []):
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    alt = output.metadata.get("image/png", {}).get("alt", "")
                    return output.data["image/png"].replace("\n", ""), alt
    return None, ""


def formula(tex: str, *, display: bool = False) -> str:
    """Return a formula as an `<img>` with its TeX source as alternative text.

    Raises LabkitError for TeX that mathtext does not know, naming the formula.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import math_to_image

    tex = " ".join(tex.split())
    picture = io.BytesIO()
    try:
        depth = math_to_image(
            f"${tex}$", picture, FontProperties(size=14 if display else 12), 72, "svg"
        )
    except ValueError as error:
        raise LabkitError(f"the formula ${tex}$ can't be drawn: {str(error).strip()}") from None
    data = base64.b64encode(picture.getvalue()).decode()
    style = f"vertical-align:-{float(depth):.1f}pt"
    image = (
        f'<img class="math" alt="{html.escape(tex)}" style="{style}" '
        f'src="data:image/svg+xml;base64,{data}">'
    )
    return f'<span class="display">{image}</span>' if display else image


def draw_formulas(markdown: str) -> str:
    """Return the text with $…$ and $$…$$ replaced by pictures, code left alone."""

    def draw(match: re.Match[str]) -> str:
        if match["code"]:
            return match["code"]
        if match["display"]:
            return formula(match["display"], display=True)
        return formula(match["inline"])

    return MATH.sub(draw, markdown)


def page(lesson: Lesson, notebook: NotebookNode, lessons: Sequence[Lesson]) -> str:
    """Return one lesson's page, linked to its neighbours and to the contents."""
    exporter = HTMLExporter(
        template_name="lesson",
        extra_template_basedirs=[str(TEMPLATES)],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )

    @pass_context
    def with_formulas(context: Any, source: str) -> str:
        return exporter.markdown2html(context, draw_formulas(source))

    exporter.register_filter("markdown2html", with_formulas)
    place = [other.name for other in lessons].index(lesson.name)
    resources = {
        "lesson": lesson,
        "lessons": lessons,
        "before": lessons[place - 1] if place else None,
        "after": lessons[place + 1] if place + 1 < len(lessons) else None,
        "style": style_sheet(),
    }
    body, _ = exporter.from_notebook_node(notebook, resources)
    names = {other.name for other in lessons}

    def to_page(match: re.Match[str]) -> str:
        return f'href="{match[1]}.html' if match[1] in names else match[0]

    return re.sub(r'href="([\dA]\d_\w+)\.(?:ipynb|py)', to_page, body)


def style_sheet() -> str:
    """Return the styles of the site, those of highlighted code included."""
    own = (TEMPLATES / "site" / "style.css").read_text(encoding="utf-8")
    return own + HtmlFormatter(style="default").get_style_defs(".highlight")


def build(out_dir: Path) -> Path:
    """Write a page for each notebook and the contents page; return the latter.

    Notebooks that were run are in `out_dir`/notebooks, the others in `out_dir`/preview.
    """
    found: dict[str, Path] = {}
    for folder in (FOLDER, "notebooks"):
        paths = (out_dir / folder).glob("*.ipynb")
        found |= {path.stem: path for path in paths if ".failed" not in path.name}
    notebooks = {name: nbformat.read(found[name], as_version=4) for name in sorted(found)}
    lessons = [describe(name, notebook, found[name].parent.name)
               for name, notebook in notebooks.items()]  # fmt: skip
    for lesson in lessons:
        text = page(lesson, notebooks[lesson.name], lessons)
        write_text(out_dir / f"{lesson.name}.html", text)
    environment = Environment(loader=FileSystemLoader(TEMPLATES / "site"), autoescape=True)
    environment.filters["markdown"] = lambda text: Markup(markdown2html(draw_formulas(text)))
    contents = environment.get_template("index.html.j2")
    write_text(out_dir / "index.html", contents.render(lessons=lessons, style=style_sheet()))
    return out_dir / "index.html"


WIDGET = "application/vnd.jupyter.widget-view+json"


def write_notebook(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook without its widgets, which show nothing without a kernel.

    An output that has another form of itself, such as a table, keeps that one.
    """
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/html" in data:
                data.pop(WIDGET, None)
    write_text(path, nbformat.writes(notebook) + "\n")
