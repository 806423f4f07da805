"""Build the course's notebooks, execute them, and publish their output as a site.

A lesson is one file a person edits, `lessons/NN_name.py`, in the percent format that jupytext
defines: comments for prose, code for code, so that reviews, linters and merges see text.

    NN_name.py --pairing--> NN_name.ipynb --execution--> executed notebook --site--> NN_name.html

`pairing` builds the notebook a student opens, `execution` runs it in a kernel of its own and
passes on what it prints, `site` turns the executed one into a page that needs no network.
`run_course` below does the last two for every lesson.

Source: jupytext's percent format; nbclient and nbconvert, which do the executing and converting.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from labkit.console import say
from labkit.course import execution, pairing, preview, site
from labkit.doctor import minutes
from labkit.errors import LabkitError, nearest
from labkit.machine import hardware
from labkit.runs import profiles

LESSONS = (
    "00_setup", "01_memory_maths", "02_lora_vs_full", "03_batch_size_sweep", "04_1_numbers",
    "04_2_kernels", "04_3_speed", "05_inference_comparison", "06_methods",
    "07_preferences", "08_scaling_out", "09_build_a_data_set", "A1_step_time",
)  # fmt: skip


def lesson_paths(lessons_dir: Path, names: Sequence[str] = ()) -> list[Path]:
    """Return the lessons to run, in order: the percent sources, or notebooks that have none.

    A name is a file's stem or its number: "02", and "04" for all its sittings. Raises LabkitError
    for a name nobody has.
    """
    found: dict[str, Path] = {}
    for pattern in [pairing.SOURCES.replace(".py", ".ipynb"), pairing.SOURCES]:
        found |= {path.stem: path for path in lessons_dir.glob(pattern)}
    if not found:
        raise LabkitError(f"no lesson (NN_name.py or NN_name.ipynb) in {lessons_dir}")
    chosen = set()
    for name in names:
        stem = Path(name).name.removesuffix(".py").removesuffix(".ipynb")
        match = [s for s in found if stem in (s, s[:2])]
        if not match:
            raise LabkitError(f"no lesson '{name}' in {lessons_dir}: {nearest(stem, found)}")
        chosen.update(match)
    return [found[stem] for stem in sorted(chosen or found)]


def expected_seconds(paths: Sequence[Path], profile: str) -> dict[str, float]:
    """Return the seconds that lessons of the course take here from nothing, by file stem.

    Empty on a GPU, whose lessons use another model.
    """
    own = {path.stem: minutes.number(path.stem) for path in paths if path.stem in LESSONS}
    if not own or profile not in profiles.PROFILES or hardware.gpus():
        return {}
    times = minutes.lesson_seconds(profiles.PROFILES[profile])
    return {stem: times[number] for stem, number in own.items()}


def _off(seconds: float, expected: float | None) -> str:
    if expected is None:
        return ""
    side = "more" if seconds > expected else "less"
    return (
        f", {abs(seconds / expected - 1):.0%} {side} than the {execution.clock(expected)} predicted"
    )


def write_previews(lessons_dir: Path, out_dir: Path) -> None:
    """Write a notebook for each lesson that was not run into `out_dir`, with figures of records."""
    results = lessons_dir.absolute().parent / "data" / "results"
    for path in lesson_paths(lessons_dir):
        if path.suffix == ".py" and not (out_dir / "notebooks" / f"{path.stem}.ipynb").exists():
            place = out_dir / preview.FOLDER / f"{path.stem}.ipynb"
            site.write_notebook(preview.notebook(path, results), place)


def preview_course(
    *,
    lessons_dir: str | Path = "lessons",
    out_dir: str | Path = "site",
    say: Callable[[str], None] = say,
) -> dict:
    """Write a page for every lesson without running any; return {"site": path of the index, …}.

    Lessons that were run into `out_dir` before keep their pages. Raises LabkitError where there is
    no lesson.
    """
    write_previews(Path(lessons_dir), Path(out_dir))
    index = site.build(Path(out_dir))
    say(f"The course is in {index}")
    return {"site": str(index), "profile": None, "lessons": []}


def run_course(
    lessons: Sequence[str] = (),
    *,
    lessons_dir: str | Path = "lessons",
    out_dir: str | Path = "site",
    profile: str | None = None,
    say: Callable[[str], None] = say,
) -> dict:
    """Execute the lessons and write `out_dir`/index.html, a page and a notebook for each.

    Lessons that are not among them get a page without outputs, with figures of committed records.

    Every page is complete the moment it exists, and lessons that are already finished stay when
    a later one fails. Running again is quick: finished training runs are found in their records.
    Returns {"site": path of the index, "lessons": [{"name", "seconds", "page",
    "predicted_seconds"}], "profile"}; the prediction is null for a lesson that is not the course's.
    Raises LabkitError, naming lesson and cell, when a cell fails; what ran is then kept as
    `out_dir`/notebooks/NN_name.failed.ipynb.
    """
    lessons_dir, out_dir = Path(lessons_dir), Path(out_dir)
    profile = profile or os.environ.get("LABKIT_PROFILE", "cpu")
    paths = lesson_paths(lessons_dir, lessons)
    # One place for records, wherever a kernel starts: `labkit runs list` then finds them here.
    runs = os.environ.get("LABKIT_RUNS") or str(Path("runs").resolve())
    environment = {"LABKIT_PROFILE": profile, "LABKIT_RUNS": runs}
    notebooks = out_dir / "notebooks"
    expected = expected_seconds(paths, profile)
    if expected:
        total = sum(expected.values())
        say(
            f"{len(expected)} lessons take about {execution.clock(total)} on this machine from "
            "nothing; what is kept of earlier runs is not run again"
        )
    write_previews(lessons_dir, out_dir)
    done = []
    for number, path in enumerate(paths, start=1):
        started = time.monotonic()
        notebook = pairing.read(path)
        try:
            execution.execute(
                notebook,
                name=path.stem,
                cwd=lessons_dir,
                environment=environment,
                label=f"[{number}/{len(paths)}] {path.stem}",
                say=say,
            )
        except BaseException:
            site.write_notebook(notebook, notebooks / f"{path.stem}.failed.ipynb")
            raise
        (notebooks / f"{path.stem}.failed.ipynb").unlink(missing_ok=True)
        (out_dir / preview.FOLDER / f"{path.stem}.ipynb").unlink(missing_ok=True)
        site.write_notebook(notebook, notebooks / f"{path.stem}.ipynb")
        seconds = time.monotonic() - started
        done.append({"name": path.stem, "seconds": seconds, "page": f"{path.stem}.html",
                     "predicted_seconds": expected.get(path.stem)})  # fmt: skip
        # Built again from all notebooks there are, so that every page links to its neighbours.
        index = site.build(out_dir)
        say(
            f"[{number}/{len(paths)}] {path.stem} · done in {execution.clock(seconds)}"
            f"{_off(seconds, expected.get(path.stem))}"
        )
    say(f"The course is in {index}")
    return {"site": str(index), "profile": profile, "lessons": done}
