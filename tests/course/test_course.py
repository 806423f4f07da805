"""The course machinery on small lessons made here: one-way pairing, visible runs, offline pages."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest

from labkit import files
from labkit.course import build, execution, pairing, run_course, site
from labkit.course.build import lesson_paths
from labkit.errors import LabkitError

ROOT = Path(__file__).parents[2]
HEADER = """\
# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

"""
LESSON = (
    HEADER
    + """\
# %% [markdown]
# # 00 · Sums & differences
#
# - **Goal:** see that $1 + 1 = 2$ and that `$HOME` stays code
# - **Minutes:** 3
# - **Hardware:** any
#
# Next: [the other one](01_more.ipynb#why).


# %% tags=["parameters"]
import os

profile = os.environ["LABKIT_PROFILE"]

# %% tags=["nbval-check-output"]
for step in range(2):
    print("step", step, flush=True)
1 + 1

# %% tags=["result"]
import base64
from IPython.display import Image, display

dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
display(Image(base64.b64decode(dot), alt="one dot"))

# %%
### BEGIN SOLUTION
answer = 42
### END SOLUTION
print("folder", os.environ["LABKIT_RUNS"])
"""
)


@pytest.fixture
def lessons(tmp_path: Path) -> Path:
    folder = tmp_path / "lessons"
    folder.mkdir()
    shutil.copy(ROOT / "lessons/jupytext.toml", folder)
    (folder / "00_sums.py").write_text(LESSON)
    return folder


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_building_twice_gives_the_same_bytes_and_never_touches_the_source(lessons):
    source = lessons / "00_sums.py"
    assert pairing.sync(source)
    first = source.with_suffix(".ipynb").read_bytes()
    assert not pairing.sync(source)
    source.with_suffix(".ipynb").unlink()
    pairing.sync(source)
    assert source.with_suffix(".ipynb").read_bytes() == first
    assert source.read_text() == LESSON
    assert b"lines_to_next_cell" not in first
    nbformat.validate(nbformat.reads(first.decode(), as_version=4))


def test_a_newer_notebook_never_overwrites_the_source(lessons):
    source = lessons / "00_sums.py"
    pairing.sync(source)
    target = source.with_suffix(".ipynb")
    edit(source, "1 + 1\n", "2 + 2\n")
    later = time.time() + 1000
    os.utime(target, (later, later))
    pairing.sync(source)
    assert "2 + 2" in source.read_text() and "2 + 2" in target.read_text()


def test_saving_in_jupyterlab_would_leave_the_source_as_it_is(lessons):
    assert pairing.saved_source(lessons / "00_sums.py") == LESSON


def test_ids_follow_the_text_of_a_cell_not_its_place(lessons):
    source = lessons / "00_sums.py"
    before = [cell.id for cell in pairing.build(source).cells]
    edit(source, '# %% tags=["nbval', '# %% [markdown]\n# New prose.\n\n# %% tags=["nbval')
    after = [cell.id for cell in pairing.build(source).cells]
    assert len(after) == len(before) + 1
    assert [i for i in after if i in before] == before
    edit(source, "answer = 42", "answer = 43")
    changed = [cell.id for cell in pairing.build(source).cells]
    assert sum(a != b for a, b in zip(after, changed, strict=True)) == 1


def test_equal_cells_have_different_ids(lessons):
    source = lessons / "00_sums.py"
    source.write_text(HEADER + "# %%\nx = 1\n\n# %%\nx = 1\n")
    ids = [cell.id for cell in pairing.build(source).cells]
    assert len(set(ids)) == 2


def test_a_kernel_without_display_name_is_refused(lessons):
    edit(lessons / "00_sums.py", "#     display_name: Python 3\n", "")
    with pytest.raises(LabkitError, match="00_sums.py: the header needs a kernelspec"):
        pairing.build(lessons / "00_sums.py")


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> Path:
    """A synced lesson whose checked cells hold the outputs of a real run."""
    folder = tmp_path_factory.mktemp("lessons")
    shutil.copy(ROOT / "lessons/jupytext.toml", folder)
    (folder / "00_sums.py").write_text(LESSON)
    pairing.sync(folder / "00_sums.py", execute=True)
    return folder


def stored(folder: Path) -> list:
    notebook = nbformat.read(folder / "00_sums.ipynb", as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_only_checked_cells_keep_outputs(executed):
    parameters, checked, figure, solution = stored(executed)
    assert checked.execution_count == 2
    assert [o.output_type for o in checked.outputs] == ["stream", "execute_result"]
    assert checked.outputs[0].text == "step 0\nstep 1\n"
    for cell in [parameters, figure, solution]:
        assert cell.outputs == [] and cell.execution_count is None


def test_outputs_stay_with_unchanged_cells_and_go_with_changed_ones(executed, tmp_path):
    folder = shutil.copytree(executed, tmp_path / "copy")
    edit(folder / "00_sums.py", "answer = 42", "answer = 43")
    pairing.sync(folder / "00_sums.py")
    assert stored(folder)[1].outputs == stored(executed)[1].outputs
    edit(folder / "00_sums.py", "1 + 1\n\n", "1 + 2\n\n")
    pairing.sync(folder / "00_sums.py")
    assert stored(folder)[1].outputs == [] and stored(folder)[1].execution_count is None


def test_a_cell_that_is_no_longer_checked_loses_its_output(executed, tmp_path):
    folder = shutil.copytree(executed, tmp_path / "copy")
    edit(folder / "00_sums.py", '# %% tags=["nbval-check-output"]', "# %%")
    pairing.sync(folder / "00_sums.py")
    assert all(cell.outputs == [] for cell in stored(folder))


def test_sync_from_the_command_line(lessons, capsys):
    assert pairing.main([str(lessons)]) == 0
    assert pairing.main([str(lessons)]) == 0
    written, unchanged = capsys.readouterr().out.splitlines()
    assert written.endswith("00_sums.ipynb: written")
    assert unchanged.endswith("00_sums.ipynb: up to date")
    edit(lessons / "00_sums.py", "#     name: python3\n", "")
    assert pairing.main([str(lessons)]) == 2
    assert "kernelspec" in capsys.readouterr().err


class Links(HTMLParser):
    """Collect what a page refers to, and the texts that stand for its pictures."""

    def __init__(self):
        super().__init__()
        self.references, self.alts, self.tags = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        values = dict(attributes)
        self.references += [values[k] for k in ("href", "src") if k in values]
        if tag == "img":
            self.alts.append(values.get("alt"))


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course")
    lessons = folder / "lessons"
    lessons.mkdir()
    shutil.copy(ROOT / "lessons/jupytext.toml", lessons)
    (lessons / "00_sums.py").write_text(LESSON)
    more = LESSON.replace("00 · Sums", "01 · More").replace("01_more.ipynb", "00_sums.ipynb")
    (lessons / "01_more.py").write_text(more)
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_RUNS", str(folder / "elsewhere"))
        patch.setenv("LABKIT_PROFILE", "smoke")
        result = run_course(lessons_dir=lessons, out_dir=folder / "site", say=said.append)
    return folder / "site", result, said


def pages(out: Path) -> dict[str, Links]:
    parsed = {}
    for path in out.glob("*.html"):
        parsed[path.name] = Links()
        parsed[path.name].feed(path.read_text())
    return parsed


def test_a_run_says_where_it_is_and_passes_on_what_cells_print(course):
    _, result, said = course
    assert result["profile"] == "smoke"
    assert [lesson["name"] for lesson in result["lessons"]] == ["00_sums", "01_more"]
    starts = [line for line in said if re.match(r"\[1/2\] 00_sums · cell \d of 4 · ", line)]
    assert len(starts) == 4
    assert said.index("    step 0") < said.index("    step 1") < said.index(starts[2])


def test_a_course_says_how_long_it_takes_and_how_far_off_it_was(tmp_path, monkeypatch):
    (tmp_path / "00_setup.py").write_text(LESSON)
    shutil.copy(ROOT / "lessons/jupytext.toml", tmp_path)
    monkeypatch.setattr(build.hardware, "gpus", list)
    monkeypatch.setattr(build.minutes, "lesson_seconds", lambda profile: {"00": 4800.0})
    said: list[str] = []
    result = run_course(lessons_dir=tmp_path, out_dir=tmp_path / "site", say=said.append)
    assert "about 80 min 00 s on this machine" in said[0]
    (line,) = [line for line in said if "done in" in line]
    assert re.search(r"done in \d+ s, \d+% less than the 80 min 00 s predicted", line)
    (lesson,) = result["lessons"]
    assert lesson["predicted_seconds"] == 4800.0 and 0 < lesson["seconds"] < 4800
    # A lesson of somebody's own is not predicted.
    assert build.expected_seconds([tmp_path / "00_mine.py"], "cpu") == {}


def test_kernels_share_one_run_folder_and_the_profile(course):
    out, _, said = course
    assert f"    folder {out.parent / 'elsewhere'}" in said
    notebook = nbformat.read(out / "notebooks/01_more.ipynb", as_version=4)
    assert all("execution" not in cell.metadata for cell in notebook.cells)


def test_the_site_needs_no_network_and_every_link_leads_somewhere(course):
    out, _, _ = course
    assert set(pages(out)) == {"index.html", "00_sums.html", "01_more.html"}
    for name, parsed in pages(out).items():
        assert "script" not in parsed.tags and "link" not in parsed.tags, name
        for reference in parsed.references:
            if reference.startswith("data:") or reference.startswith("#"):
                continue
            assert not re.match(r"[a-z]+:|//", reference), f"{name} refers to {reference}"
            assert (out / reference.split("#")[0]).is_file(), f"{name} refers to {reference}"
        text = re.sub(r'"data:[^"]*"', "", (out / name).read_text())
        assert "@import" not in text and "url(" not in text


def test_pages_link_to_each_other_and_show_pictures_with_their_text(course):
    parsed = pages(course[0])
    assert "01_more.html#why" in parsed["00_sums.html"].references
    assert {"00_sums.html", "01_more.html"} <= set(parsed["index.html"].references)
    assert parsed["00_sums.html"].alts == ["1 + 1 = 2", "one dot"]
    assert parsed["index.html"].alts.count("one dot") == 2
    text = (course[0] / "00_sums.html").read_text()
    assert "<code>$HOME</code>" in text
    assert "<title>00 · Sums &amp; differences</title>" in text
    assert text.index("<summary>One solution</summary>") < text.index("BEGIN SOLUTION")


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        ("It costs $5 and $6.", []),
        ("`$x$` and ```\n$y$\n``` and $z$", ["z"]),
        (r"\$5$ is not a formula", []),
        ("$a$, $b_1$", ["a", "b_1"]),
        ("$$\\frac{1}{2}$$", [r"\frac{1}{2}"]),
        ("from $2 to 3$ and", ["2 to 3"]),
    ],
)
def test_formulas_are_told_from_dollars(text, formulas):
    assert re.findall(r'class="math" alt="([^"]*)"', site.draw_formulas(text)) == formulas


def test_a_formula_that_cannot_be_drawn_is_named():
    with pytest.raises(LabkitError, match=r"the formula \$\\nonsense\{2\}\$ can't be drawn"):
        site.formula(r"\nonsense{2}")


def test_a_failing_cell_is_named_and_what_ran_is_kept(lessons, tmp_path):
    edit(lessons / "00_sums.py", "answer = 42", "answer = 1 / 0")
    said: list[str] = []
    sentence = r"00_sums, cell 4 of 4 \(answer = 1 / 0\) fails with ZeroDivisionError: division"
    with pytest.raises(LabkitError, match=sentence):
        run_course(lessons_dir=lessons, out_dir=tmp_path / "site", say=said.append)
    notebooks = tmp_path / "site/notebooks"
    assert [p.name for p in notebooks.iterdir()] == ["00_sums.failed.ipynb"]
    kept = nbformat.read(notebooks / "00_sums.failed.ipynb", as_version=4)
    assert kept.cells[2].outputs and kept.cells[-1].outputs[0].ename == "ZeroDivisionError"
    edit(lessons / "00_sums.py", "answer = 1 / 0", "answer = 42")
    run_course(lessons_dir=lessons, out_dir=tmp_path / "site", say=said.append)
    assert [p.name for p in notebooks.iterdir()] == ["00_sums.ipynb"]


def test_a_dead_kernel_is_a_sentence(lessons, tmp_path):
    edit(lessons / "00_sums.py", "answer = 42", "os.kill(os.getpid(), 9)")
    with pytest.raises(LabkitError, match=r"cell 4 of 4 .* the kernel died, most often for want"):
        run_course(lessons_dir=lessons, out_dir=tmp_path / "site", say=lambda line: None)


DIES = """\
try:
    print("training", flush=True)
    time.sleep(60)
finally:
    open("saved", "w").write("state")
"""
RETURNS = """\
try:
    print("training", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    open("saved", "w").write("state")
"""


@pytest.mark.parametrize("training", [DIES, RETURNS], ids=["raises", "returns"])
def test_ctrl_c_reaches_the_cell_so_that_it_can_save_its_work(training, lessons, tmp_path):
    later = '\n# %%\nopen("too far", "w")\n'
    edit(lessons / "00_sums.py", "answer = 42\n", f"import time\n{training}")
    (lessons / "00_sums.py").write_text((lessons / "00_sums.py").read_text() + later)
    program = "from labkit.course import run_course; run_course(lessons_dir='lessons')"
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    seen = ""
    while "    training" not in seen:
        line = process.stderr.readline()
        assert line, seen
        seen += line
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode != 0
    assert re.search("stopped (in|after) 00_sums, cell 4 of 5", rest), rest
    assert (lessons / "saved").read_text() == "state"
    assert not (lessons / "too far").exists()


def test_a_quiet_cell_is_not_silence(lessons, monkeypatch):
    monkeypatch.setattr(execution, "HEARTBEAT_SECONDS", 0.5)
    (lessons / "00_sums.py").write_text(HEADER + "# %%\nimport time\n\ntime.sleep(4)\n")
    notebook = pairing.build(lessons / "00_sums.py")
    said: list[str] = []
    execution.execute(notebook, name="00_sums", cwd=lessons, environment={}, say=said.append)
    assert len([line for line in said if line.startswith("00_sums · cell 1 of 1")]) >= 3


def test_of_a_line_rewritten_in_place_the_last_version_is_shown():
    said: list[str] = []
    client = execution.LessonClient(nbformat.v4.new_notebook(), say=said.append)
    client.pass_on("10 %\r50 %\r")
    client.pass_on("100 %\nnext ")
    client.pass_on("line\n\n")
    assert said == ["    100 %", "    next line"]


def test_lessons_are_chosen_by_number_or_name(lessons):
    (lessons / "02_other.ipynb").write_text("{}")
    names = [path.name for path in lesson_paths(lessons)]
    assert names == ["00_sums.py", "02_other.ipynb"]
    assert [p.name for p in lesson_paths(lessons, ["02"])] == ["02_other.ipynb"]
    assert [p.name for p in lesson_paths(lessons, ["lessons/00_sums.py"])] == ["00_sums.py"]
    with pytest.raises(LabkitError, match=r"no lesson '01_sums' .* did you mean '00_sums'\?"):
        lesson_paths(lessons, ["01_sums"])
    with pytest.raises(LabkitError, match="no lesson .* in "):
        lesson_paths(lessons / "nowhere")


def test_a_site_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "site").write_text("a file where the folder should be")
    with pytest.raises(LabkitError, match=".*index.html cannot be written: "):
        files.write_text(tmp_path / "site" / "index.html", "text")
