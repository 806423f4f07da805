"""Students on a hub: two at once, apart from each other, after a killed kernel, under a limit."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import nbformat
from lab import SPAWN_SECONDS
from running import EXAMPLE, ROOT, ROOT_CAN_SEPARATE, STUDENTS, Hub, give, missing

from labkit.course import release

LESSON_SECONDS = 420
PICTURE = ".jp-RenderedImage img"


def notebook(hub: Hub, student: str, name: str, cells: list[str]) -> None:
    """Put a notebook into a student's home, as if it had been written there."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in cells])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = hub.home(student) / name
    nbformat.write(book, path)
    give(path, STUDENTS[student])


def solved(hub: Hub, student: str, name: str) -> Path:
    """Let a student have done a lesson's exercises on an earlier day; return the notebook."""
    home = hub.home(student)
    environment = {**os.environ, "HOME": str(home), "LABKIT_COURSE": str(hub.course)}
    subprocess.run([EXAMPLE / "start", "true"], env=environment, check=True)
    for path in home.rglob("*"):
        give(path, STUDENTS[student])
    path = home / f"lessons/{name}.ipynb"
    nbformat.write(release.assignment(ROOT / f"lessons/{name}.py"), path)
    give(path, STUDENTS[student])
    return path


def wait_for_lessons(labs: dict, seconds: float = LESSON_SECONDS) -> None:
    """Wait until every cell has run, for each student above the cell with a text."""
    end = time.monotonic() + seconds
    while any(each.unfinished(above) for each, above in labs.items()):
        for each in labs:
            assert not each.errors(), each.errors()
        left = {each.student: len(each.unfinished(above)) for each, above in labs.items()}
        assert time.monotonic() < end, left
        next(iter(labs)).page.wait_for_timeout(500)


def test_two_students_work_through_a_lesson_at_once(hub, lab):
    work = solved(hub, "ben", "02_lora_vs_full")
    # One step more than smoke's three, which all warm up: a step's time is measured.
    text = work.read_text()
    for method in ("lora", "full"):
        plain = f'profiles.run_config(\\"{method}\\")'
        assert text.count(plain) == 1
        text = text.replace(plain, f'profiles.run_config(\\"{method}\\", max_steps=4)')
    work.write_text(text)
    before = work.read_bytes()
    ana, ben = lab("ana"), lab("ben")
    ana.open("lessons/00_setup.ipynb")
    ana.picture("ana-1-the-lesson-opens")
    ben.open("lessons/02_lora_vs_full.ipynb")
    assert work.read_bytes() == before, "starting a server changed what the student had written"
    given = {path.name for path in hub.course.iterdir()}
    for student in ("ana", "ben"):
        assert given == {p.name for p in (hub.home(student) / "lessons").glob("*.ipynb")}

    ana.run_all()
    curves = ben.cell("plots.loss_curves")
    ben.run_above(curves)
    training = ben.cell("full = train(full_config)")
    end = time.monotonic() + LESSON_SECONDS
    while not re.search(r"step +\d+/\d+ ", ben.text(training)):
        assert time.monotonic() < end, ben.text(training)
        ben.page.wait_for_timeout(100)
    ben.picture("ben-1-training-shows-its-progress", training)
    wait_for_lessons({ana: "", ben: "plots.loss_curves"})
    assert re.search(r"step +4/4  loss \d", ben.text(training))
    ben.run(curves)
    ben.run(ben.cell("time_ratio = full"))
    for student in (ana, ben):
        assert student.errors() == []
    figure = curves.locator(PICTURE)
    assert figure.evaluate("image => image.naturalWidth") > 300
    ben.picture("ben-2-the-loss-curves", figure)
    ana.picture("ana-2-what-doctor-says", ana.cell("doctor.report()"))
    answers_stay_away = ana.text(ana.cell('check.exercise("exact_match"'))
    assert "not answered yet" in answers_stay_away

    question = ana.cell('check("00.1"')
    assert "not answered yet" in ana.text(question)
    ana.picture("ana-3-not-answered-yet", question)
    said = ana.run(question, answer("parameters"))
    assert "something does not fit" in said and "contradicts" in said
    ana.picture("ana-4-a-wrong-answer", question)
    said = ana.run(question, answer("weights_bytes"))
    assert "everything fits" in said and "contradicts" not in said
    ana.picture("ana-5-a-right-answer", question)

    question = ben.cell('check("02.2"')
    assert "something does not fit" in ben.run(question, ratio("3 * time_ratio"))
    ben.picture("ben-3-a-wrong-answer", question)
    assert "everything fits" in ben.run(question, ratio("time_ratio"))
    ben.picture("ben-4-a-right-answer", question)
    for student in (ana, ben):
        assert student.errors() == []

    recorded = json.loads((hub.home("ana") / "lessons/answers.json").read_text())["answers"]
    assert set(recorded) == {"00.1"} and recorded["00.1"]["attempts"] == 2
    recorded = json.loads((hub.home("ben") / "lessons/answers.json").read_text())["answers"]
    assert set(recorded) == {"02.2"} and recorded["02.2"]["state"] == "consistent"


def answer(weights: str) -> str:
    return f"""\
check(
    "00.1",
    model=model_name,
    weights_bytes={weights},
    float32_bytes=4 * parameters,
    explanation="Activations, the tokenizer, Python and its libraries all need memory too.",
)"""


def ratio(time_ratio: str) -> str:
    return f"""\
check(
    "02.2",
    lora_run=lora,
    full_run=full,
    time_ratio={time_ratio},
    memory_ratio=memory_ratio,
    explanation="Full fine-tuning computes the gradient of every weight and keeps AdamW's means.",
)"""


LOOK = """\
import os
import pathlib


def tried(work):
    try:
        return work()
    except OSError as error:
        return error.strerror


home = pathlib.Path.home()
other = home.parent / "{other}"
model = pathlib.Path(os.environ["LABKIT_MODELS"]) / "tiny-llama"
print("own home   ", sorted(p.name for p in home.iterdir() if p.name == "lessons"))
print("other home ", tried(lambda: os.listdir(other)))
print("other file ", tried(lambda: (other / "private.txt").read_text()))
print("by its name", tried(lambda: os.chmod(other, 0o777)))
print("model reads", len((model / "config.json").read_bytes()) > 0)
print("model write", tried(lambda: (model / "config.json").write_text("x")))
print("model add  ", tried(lambda: (model / "new").write_text("x")))"""


def test_a_home_is_closed_to_the_others_and_models_to_everybody(hub, lab):
    if not ROOT_CAN_SEPARATE:
        missing("only root can start each student's server in a group of its own")
    private = hub.home("ben") / "private.txt"
    private.write_text("ben's own words")
    give(private, STUDENTS["ben"])
    notebook(hub, "ana", "look.ipynb", [LOOK.format(other="ben")])
    ana, ben = lab("ana"), lab("ben")
    ben.page.wait_for_url("**/lab/tree/**", timeout=SPAWN_SECONDS * 1000)
    ana.open("look.ipynb")
    cell = ana.cell("other home")
    lines = dict(re.findall(r"^(.{11}) (.+)$", ana.run(cell), re.MULTILINE))
    ana.picture("ana-6-another-home-is-closed", cell)
    assert lines["own home   "] == "['lessons']"
    assert lines["other home "] == lines["other file "] == "Permission denied"
    assert lines["by its name"] == "Operation not permitted"
    assert lines["model reads"] == "True"
    assert lines["model write"] == lines["model add  "] == "Permission denied"
    # And through the hub: ben's server does not let ana in.
    reply = ana.context.request.get(f"{hub.url}/user/ben/api/contents/private.txt")
    assert reply.status == 403 and "own words" not in reply.text()
    mine = ana.context.request.get(f"{hub.url}/user/ana/api/contents/look.ipynb")
    assert mine.status == 200


TRAIN = """\
import os
from labkit.runs.config import RunConfig
from labkit.train import train

print("kernel", os.getpid())
config = RunConfig(model="tiny-llama", data="tables", max_train_samples=16, max_steps=400,
                   per_device_train_batch_size=1, dtype="float32", torch_compile="off",
                   save_steps=10, name="long-run")
record = train(config)
print(record.status, "after", len(record.steps), "steps")"""


def test_training_goes_on_after_its_kernel_was_killed(hub, lab):
    notebook(hub, "ben", "training.ipynb", [TRAIN])
    ben = lab("ben")
    ben.open("training.ipynb")
    cell = ben.cell("config = RunConfig(")
    ben.start(cell)
    run = hub.home("ben") / "lessons/runs/long-run"
    end = time.monotonic() + 120
    while not list(run.glob("checkpoints/checkpoint-*/labkit_steps.json")):
        assert time.monotonic() < end and not ben.errors(), ben.text(cell)
        ben.page.wait_for_timeout(50)
    kernel = int(re.search(r"kernel (\d+)", ben.text(cell))[1])
    os.kill(kernel, signal.SIGKILL)
    dialog = ben.page.locator(".jp-Dialog", has_text="Kernel Restarting")
    dialog.wait_for(timeout=60_000)
    ben.picture("ben-5-the-kernel-was-killed")
    dialog.get_by_role("button", name="Ok").click()
    ben.wait_until_idle()
    assert json.loads((run / "record.json").read_text())["status"] == "running"

    said = ben.run(cell, wait=150)
    ben.picture("ben-6-training-went-on", cell)
    assert re.search(r"going on from step \d+0\b", said), said
    assert "done after 400 steps" in said
    assert ben.errors() == []
    record = json.loads((run / "record.json").read_text())
    assert [step["step"] for step in record["steps"]] == list(range(1, 401))
    assert int(re.search(r"kernel (\d+)", said)[1]) != kernel


DOCTOR = """\
from labkit import doctor

print(doctor.render(doctor.report(), width=96))"""
FULL = """\
from labkit.runs import profiles, records
from labkit.train import train

train(profiles.run_config("full", name="too-large", per_device_train_batch_size=8,
                          max_train_samples=None))"""
ALIVE = """\
record = records.load("too-large")
print("the kernel lives;", record.status, "after", len(record.steps), "steps")"""


def test_a_memory_limit_is_said_beforehand_and_does_not_kill_the_kernel(hub, lab):
    notebook(hub, "cara", "memory.ipynb", [DOCTOR, FULL, ALIVE])
    cara = lab("cara")
    cara.open("memory.ipynb")
    cell = cara.cell("doctor.report()")
    said = cara.run(cell)
    cara.picture("cara-1-doctor-knows-the-limit", cell)
    assert "the hub promises 3.0 GiB" in " ".join(said.split())
    assert re.search(r"warn +full fine-tuning[^→]+→", said)

    cell = cara.cell("train(profiles")
    said = cara.run(cell, wait=150)
    cara.picture("cara-2-training-beyond-the-limit", cell)
    assert "memory" in said.lower() and "Traceback" not in said
    assert "the kernel lives; failed" in cara.run(cara.cell("the kernel lives"))
    cara.picture("cara-3-the-kernel-lives", cara.cell("the kernel lives"))
