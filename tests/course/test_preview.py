"""Lessons that nobody ran have a page, with figures of the committed records."""

import re
from pathlib import Path

import pytest

from labkit.cli.program import main
from labkit.course import build, pairing, preview, site
from labkit.errors import LabkitError

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "data" / "results"
SOURCES = sorted((ROOT / "lessons").glob("[0-9][0-9]*_*.py"))


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build.preview_course(lessons_dir=ROOT / "lessons", out_dir=folder, say=lambda line: None)
    return folder


def test_every_lesson_has_a_page_that_says_it_was_not_run_and_a_figure(out):
    names = {source.stem for source in SOURCES}
    appendices = {source.stem for source in (ROOT / "lessons").glob("A[0-9]_*.py")}
    assert {page.stem for page in out.glob("*.html")} == names | appendices | {"index"}
    for name in names:
        text = (out / f"{name}.html").read_text()
        assert "This page was not run here" in text
        assert text.count("data:image/png;base64,") >= len(preview.FIGURES[name[:2]]) > 0
        assert "measured on" in text or "nothing was measured" in text
    pages = len(names | appendices)
    assert (out / "index.html").read_text().count("<span>not run here</span>") == pages


def test_every_record_that_is_named_is_there_and_every_figure_has_words(out):
    for draw in {draw for group in preview.FIGURES.values() for draw in group}:
        shown = draw(RESULTS)
        assert len(shown.alt) > 30
        if not shown.record:
            assert "measured on" not in shown.caption
            continue
        assert "cores" in shown.made_on
        first, *more = re.findall(r"[\w.]+\.json", shown.record)
        files = [first, *(first.replace(".lora.json", part) for part in more)]
        assert all((RESULTS / name).is_file() for name in files), shown.record


def test_links_to_the_notebook_and_to_neighbours_lead_somewhere(out):
    for page in out.glob("*.html"):
        for reference in re.findall(r'href="([^"#:]+)"', page.read_text()):
            if not reference.startswith(".."):
                assert (out / reference).is_file(), f"{page.name}: {reference}"


def test_a_lesson_that_was_run_keeps_its_own_page(tmp_path):
    source = SOURCES[0]
    ran = pairing.build(source)
    ran.cells[0].source += "\n\nrun by somebody"
    site.write_notebook(ran, tmp_path / "notebooks" / f"{source.stem}.ipynb")
    build.preview_course(lessons_dir=ROOT / "lessons", out_dir=tmp_path, say=lambda line: None)
    text = (tmp_path / f"{source.stem}.html").read_text()
    assert "run by somebody" in text and "not run here" not in text
    assert not (tmp_path / preview.FOLDER / f"{source.stem}.ipynb").exists()


def test_without_records_a_lesson_has_its_text(tmp_path):
    made = preview.notebook(SOURCES[0], tmp_path)
    assert made.cells[1].source.endswith("Below are its text and code.")
    assert not any("image/png" in str(cell.get("outputs")) for cell in made.cells)


def test_the_figure_of_traces_shows_the_largest_error_of_the_record():
    """The alternative text is computed from the rows, and by hand here."""
    import json

    rows = json.loads((RESULTS / "memory_validation.json").read_text())["rows"]["measured"]
    worst = max(abs(row["traced_bytes"] / row["measured_bytes"] - 1) for row in rows)
    found = re.search(r"error is ([\d.]+) percent", preview.traced_against_measured(RESULTS).alt)
    assert float(found[1]) == pytest.approx(100 * worst, abs=0.06)


def test_what_is_computed_is_what_the_lessons_say_of_it():
    """By hand: a prompt has 20 tokens of width 4,096; a copy is 2 bytes for each weight."""
    share = 100 * 20 * 4096 / 6_738_415_616
    assert f"prompt {share:.4f}" in preview.trained_numbers(RESULTS).alt
    peaks = dict(re.findall(r"(\w+) ([\d.]+) GiB", preview.references(RESULTS).alt))
    copy = 2 * 8_030_261_248 / 2**30
    assert float(peaks["copy"]) - float(peaks["adapter_off"]) == pytest.approx(copy, abs=0.11)


def test_names_beside_the_switch_and_no_lessons_are_a_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["course", "--preview", "02"])
    assert left.value.code == 2 and "leave the names out" in capsys.readouterr().err
    with pytest.raises(LabkitError, match="no lesson"):
        build.preview_course(lessons_dir=tmp_path, out_dir=tmp_path / "site", say=lambda line: None)
