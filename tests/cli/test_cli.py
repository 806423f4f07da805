"""The command line: mistakes in one line, results as one object, and nothing heavy at the start."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, PrefixTuningConfig, get_peft_model

from labkit import __version__
from labkit.cli import program
from labkit.datasets import tatqa
from labkit.datasets.registry import DATASETS
from labkit.errors import LabkitError
from labkit.inference import generate
from labkit.machine import arithmetic
from labkit.models.load import load_model
from labkit.runs import records
from labkit.runs.config import FIELDS, RunConfig
from labkit.train import trainer

pytestmark = pytest.mark.usefixtures("runs", "few_objects")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Start in an empty folder, with a cache that knows this processor's rates, without a Hub."""
    from huggingface_hub import constants

    arithmetic.rates()
    measured = arithmetic.kept_file().read_text()
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    arithmetic.kept_file().parent.mkdir(parents=True)
    arithmetic.kept_file().write_text(measured)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("LABKIT_MODELS", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        program.main(list(arguments))
    code = caught.value.code
    assert isinstance(code, int)
    return code


def one_object(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """Run a command that succeeds with --json; return the one object on its stdout."""
    capsys.readouterr()
    assert run(*arguments, "--json") == 0
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# Words that are replaced by paths the test makes.
MODEL, T5, DATA, GOLD = "{model}", "{t5}", "{data}", "{gold}"
PREDICTIONS, EMPTY, TEXT, BINARY, LIST = "{predictions}", "{empty}", "{text}", "{binary}", "{list}"
BAD_SHAPE, OTHERS, FOLDER, LONG_NAME = "{bad_shape}", "{others}", "{folder}", "{long_name}"
ADAPTER, PREFIX = "{adapter}", "{prefix}"
NOBODY = "~no-such-user/x"
TINY = ["--model", MODEL, "--data", DATA]

MISTAKES: dict[str, list[list[str]]] = {
    "train": [
        ["--config", "missing.yaml"], ["--config", "lorra"], ["--config", FOLDER],
        ["--config", BINARY], ["--config", LIST], ["--lerning-rate", "1"], ["--r", "x"], ["--r"],
        ["--method", "galore"], ["--data", "no/such"], ["--model", "smollm3"], ["stray"], ["-x"],
        ["--r", "4", "--r", "8"], ["--r", "4", "--lora-rank", "8"], ["--max-steps", "0"],
        ["--name", "../x"], ["--repeat", "0"], ["--repeat", "x"], ["--evaluate=yes"],
        ["--seed", "-1"], [*TINY, "--max-length", "9"], [*TINY, "--target-modules", "q_prj"],
        [*TINY, "--optim", "adam"], ["--model", T5, "--data", DATA], ["--data", EMPTY, *TINY[:2]],
        [*TINY, "--name", LONG_NAME],
    ],
    "infer": [
        [], [MODEL], [MODEL, "--sid", "x"], [MODEL, "--sid", "99999", "--data", DATA],
        [MODEL, "--sid", "-1", "--data", DATA], [MODEL, "--sid", ""], [MODEL, "--sid"],
        ["smollm3", "--sid", "0"], [T5, "--sid", "0", "--data", DATA], ["--sid", "0"],
        [MODEL, "--sid", "0", "--split", "tset"], [MODEL, "--sid", "0", "--data", "no/such"],
        [MODEL, "--sid", "0", "--bogus"], ["", "--sid", "0"], [FOLDER, "--sid", "0"],
        [MODEL, "nothing", "--sid", "0", "--data", DATA],
    ],
    "eval": [
        [], ["smollm3"], [MODEL, "--task", "tatq"], [MODEL, "--task", "mmlu"],
        [MODEL, "--data", "no/such"], [MODEL, "--data", EMPTY], [MODEL, "--split", "tset"],
        [MODEL, "--examples", "-1"], [MODEL, "--examples", "x"], [MODEL, "--examples", "99"],
        [MODEL, "--max-samples", "0"], [MODEL, "--bogus"], [MODEL, "stray"], [FOLDER], [""],
        [T5, "--data", DATA], [MODEL, "--data", TEXT], [NOBODY], [MODEL, "--data", NOBODY],
    ],
    "score": [
        [], [PREDICTIONS], [PREDICTIONS, GOLD, "stray"], ["missing.json", GOLD],
        [PREDICTIONS, "missing.json"], [TEXT, GOLD], [PREDICTIONS, TEXT], [LIST, GOLD],
        [PREDICTIONS, LIST], [BAD_SHAPE, GOLD], [OTHERS, GOLD], [FOLDER, GOLD],
        [PREDICTIONS, FOLDER], [BINARY, GOLD], [PREDICTIONS, BINARY], [PREDICTIONS, EMPTY],
        [PREDICTIONS, GOLD, "--bogus"], [GOLD, PREDICTIONS],
    ],
    "merge": [
        [], [MODEL], [MODEL, "o"], ["nothing", "o"], ["", "o"], [FOLDER, "o"], [TEXT, "o"],
        [ADAPTER, DATA], [ADAPTER, TEXT], [ADAPTER, "o", "--dtype", "int8"], [ADAPTER, LONG_NAME],
        [ADAPTER, "o", "stray"], [ADAPTER, "o", "--bogus"], [ADAPTER, "o", "--dtype"],
        [PREFIX, "o"], [ADAPTER, "/dev/null/o"], [NOBODY, "o"], [ADAPTER, NOBODY],
    ],
    "quantize": [
        [], [MODEL], [MODEL, "o"], [MODEL, "o", "--to"], [MODEL, "o", "--to", "nf5"],
        [MODEL, "o", "--to", "nf4", "--data", DATA], ["nothing", "o", "--to", "8bit"],
        [FOLDER, "o", "--to", "8bit"], [MODEL, DATA, "--to", "8bit"], [MODEL, TEXT, "--to", "8bit"],
        [PREFIX, "o", "--to", "8bit"], [MODEL, "o", "--to", "8bit", "--data", "no/such"],
        [MODEL, "o", "--to", "8bit", "--split", "tset"], [MODEL, "o", "--to", "8bit", "stray"],
        [MODEL, "o", "--to", "8bit", "--max-samples", "-1"], [T5, "o", "--to", "8bit"],
    ],
    "fetch": [
        ["smollm3"], ["tiny-lama"], [""], ["./nowhere"], ["/no/where"], ["owner/model"],
        ["a/b/c"], ["llama-3-8b"], ["gemma-2b"], ["--bogus"], ["--verify", "smollm3"], [FOLDER],
        ["runs/old"],
    ],
    "runs": [
        ["lst"], ["list", "stray"], ["list", "--bogus"], ["rm"], ["rm", "nope"], ["rm", "../here"],
        ["rm", ""], ["rm", "."], ["rm", ".."], ["rm", "/"], ["rm", "--bogus"], ["rm", "a", "b"],
    ],
    "check": [
        ["99"], ["02.99"], [""], ["abc"], ["02.1", "02.2"], ["--bogus"], ["2.7"], ["-1"], ["02,1"],
        ["lesson_02"], ["02.1.1"], ["--rate", "3"], ["04.4", "--rate", "x"], ["04.4", "--rat", "3"],
        ["04.4", "--rate", "inf"], ["02.1", "--run", "nope"], ["02.1", "--run"], ["--hand-in"],
        ["--hand-in", "x.txt"], ["--hand-in", "x.zip"], ["02.1", "--hand-in", "x.zip"],
    ],
    "grade": [
        [], ["missing"], [FOLDER], [TEXT], [FOLDER, "stray"], [FOLDER, "--bogus"], [""], ["", "-o"],
        [FOLDER, "-o", "g.xlsx"], [FOLDER, "-o", "no/such/g.csv"], [FOLDER, "-o", FOLDER],
        ["/dev/null"], ["missing", "--json"], [FOLDER, "--out"], [DATA, "-o", "g.csv"],
    ],
    "doctor": [
        ["stray"], ["--bogus"], ["--jsn"], ["-j"], ["--json=yes"], ["--json", "stray"], ["help"],
        ["--fix"], ["-h"], ["a", "b"], ["--json", "--verbose"],
    ],
    "course": [
        [], ["02"], ["99"], ["02_lora"], ["--out"], ["--bogus"], ["--out", "x", "--nope"],
        ["-o", "x"], ["02", "99"], [""], ["--out", "x", "99"],
    ],
}  # fmt: skip
CASES = [(command, arguments) for command, rows in MISTAKES.items() for arguments in rows]


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Callable[[str], Path],
    few_reports: Path,
) -> dict[str, str]:
    root = tmp_path_factory.mktemp("places")
    questions = tatqa.samples(tatqa.load(str(few_reports), "test"))
    uids = [sample.question.uid for sample in questions]
    content: dict[str, Any] = {
        "predictions": {uid: ["1", ""] for uid in uids},
        "bad_shape": {uids[0]: "1"},
        "others": {"no-such-uid": ["1", ""]},
        "list": [1, 2],
        "empty": [],
    }
    for name, value in content.items():
        (root / f"{name}.json").write_text(json.dumps(value))
    (root / "text.json").write_text("plain words")
    (root / "binary.json").write_bytes(b"\xff\xfe\x80\x00")
    (root / "folder").mkdir()
    made = {name: str(root / f"{name}.json") for name in [*content, "text", "binary"]}
    for name, settings in {
        "adapter": LoraConfig(task_type="CAUSAL_LM", r=2),
        "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
    }.items():
        base = load_model(tiny_model("tiny-llama"))
        get_peft_model(base, settings).save_pretrained(root / name)
        made[name] = str(root / name)
    return {
        **made, "folder": str(root / "folder"), "model": str(tiny_model("tiny-llama")),
        "t5": str(tiny_model("tiny-t5")), "data": str(few_reports),
        "gold": str(few_reports / "test.json"), "long_name": "n" * 300,
    }  # fmt: skip


def test_every_command_has_ten_mistakes() -> None:
    names = {c.name or c.callback.__name__ for c in program.app.registered_commands if c.callback}
    groups = {group.name for group in program.app.registered_groups}
    tried = {"eval" if name == "eval_" else name for name in names} | groups
    assert set(MISTAKES) <= tried
    assert all(len(rows) >= 10 for rows in MISTAKES.values())


@pytest.mark.parametrize(
    ("command", "arguments"), CASES, ids=[" ".join([c, *a])[:60] for c, a in CASES]
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    here: Path,
    tmp_path: Path,
    places: dict[str, str],
    capfd: pytest.CaptureFixture[str],
    command: str,
    arguments: list[str],
) -> None:
    words = [word.format(**places) if "{" in word else word for word in arguments]
    before = files(tmp_path)
    code = run(command, *words)
    out, err = capfd.readouterr()
    assert (code, out) == (2, ""), err
    (line,) = err.splitlines()
    assert line.startswith("labkit: ") and 20 < len(line) < 600
    assert files(tmp_path) == before


def test_an_unknown_command_is_one_line(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("trian") == 2
    out, err = capfd.readouterr()
    assert out == "" and "trian" in err and len(err.splitlines()) == 1


def test_debug_shows_where_it_happened(here: Path) -> None:
    with pytest.raises(LabkitError, match="no run 'nope'"):
        program.main(["runs", "rm", "nope", "--debug"])
    command = [sys.executable, "-m", "labkit", "runs", "rm", "nope"]
    shown = subprocess.run([*command, "--debug"], capture_output=True, text=True)
    assert shown.returncode != 0 and "Traceback" in shown.stderr and "records.py" in shown.stderr
    plain = subprocess.run(command, capture_output=True, text=True)
    assert plain.returncode == 2 and plain.stderr.startswith("labkit: no run 'nope'")
    assert "Traceback" not in plain.stderr and plain.stdout == ""


def test_help_and_version_go_to_stdout(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capfd.readouterr().out == f"labkit {__version__}\n"
    assert run("--help") == 0
    shown = capfd.readouterr().out
    assert all(f"  {command} " in shown for command in MISTAKES)
    for command in MISTAKES:
        assert run(command, "--help") == 0
        out, err = capfd.readouterr()
        assert "Usage: labkit" in out and err == ""


def test_settings_are_all_listed(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--settings") == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(FIELDS)


def test_data_sets_are_listed_with_licence_and_source(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("data", "list", "--json") == 0
    found = {data["name"]: data for data in json.loads(capfd.readouterr().out)["data"]}
    assert set(found) == set(DATASETS)
    assert all(data["licence"] and data["source"] for data in found.values())
    assert found["instructions"]["tasks"] == ["sft", "dpo"]
    assert run("data", "list") == 0
    assert "dolly  (sft; CC BY-SA 3.0)" in capfd.readouterr().out


def test_an_older_file_s_keys_are_explained_in_a_line_each(here: Path) -> None:
    old = {"logging_steps": 5, "optim": "adamw_hf", "lora_rank": "many"}
    (here / "seed.json").write_text(json.dumps(old))
    found = subprocess.run(
        [sys.executable, "-m", "labkit", "train", "--config", "seed.json"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (found.returncode, found.stdout) == (2, "")
    lines = found.stderr.splitlines()
    assert len(lines) == 3 and all(line.startswith("labkit: seed.json: ") for line in lines)
    assert "logging_steps is ignored" in lines[0] and "adamw_hf is gone" in lines[1]
    assert "lora_rank must be a whole number" in lines[2]


# --- results -------------------------------------------------------------------------------


def train_words(config: RunConfig) -> list[str]:
    changed = {key: value for key, value in config.to_dict().items()
               if value != RunConfig().to_dict()[key]}  # fmt: skip
    return [w for key, value in changed.items() for w in (f"--{key.replace('_', '-')}", str(value))]


def test_train_prints_its_record_and_progress_apart(
    here: Path, tiny_run: Callable[..., RunConfig], capfd: pytest.CaptureFixture[str]
) -> None:
    words = train_words(tiny_run(name="mine", max_steps=2))
    assert run("train", *words, "--json") == 0
    out, err = capfd.readouterr()
    record = json.loads(out)
    assert record == json.loads((records.runs_dir() / "mine" / "record.json").read_text())
    assert set(record) == {
        "schema", "id", "sha256", "started_at", "name", "status", "config", "seed", "versions",
        "hardware", "model", "data", "steps", "summary", "predicted", "scores",
    }  # fmt: skip
    assert "step 1/2" in err and "loss" in err
    # The same again is the same record, and a word about it.
    assert run("train", *words, "--json") == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == record and "already trained" in err
    assert run("train", *words) == 0
    assert "mine: done after 2 steps" in capfd.readouterr().out


def test_a_cancelled_run_exits_with_130(
    here: Path,
    tiny_run: Callable[..., RunConfig],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = trainer.LabTrainer.training_step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 1:
            signal.raise_signal(signal.SIGINT)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(trainer.LabTrainer, "training_step", step)
    assert run("train", *train_words(tiny_run(name="mine")), "--json") == 130
    out, err = capfd.readouterr()
    assert json.loads(out)["status"] == "cancelled" and "run it again to go on" in err
    monkeypatch.setattr(trainer.LabTrainer, "training_step", original)

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(records, "records", interrupted)
    assert run("runs", "list") == 130
    assert capfd.readouterr().out == ""


def test_infer_prints_samples(
    here: Path,
    places: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        generate.Generator, "_complete_groups",
        lambda self, groups, max_new_tokens: [["7 # million"] * len(g) for g in groups],
    )  # fmt: skip
    words = ["infer", places["model"], "--sid", "0-1,3", "--data", places["data"]]
    found = one_object(capsys, *words)
    assert [row["sid"] for row in found["samples"]] == [0, 1, 3]
    assert found["samples"][0]["answers"][0]["values"] == ["7"]
    assert run(*words) == 0
    shown = capsys.readouterr().out
    assert shown.count("Question: ") == 3 and places["model"] in shown


def test_eval_and_score_have_the_stated_keys_and_agree(
    here: Path,
    places: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = one_object(capsys, "eval", "majority", "--data", places["data"])
    assert {"task", "n", "metrics", "predictions"} <= set(found)
    assert found["task"] == "tatqa" and set(found["metrics"]) == {"em", "f1"}
    for metric in found["metrics"].values():
        assert set(metric) == {"value", "low", "high"}
    scored = one_object(capsys, "score", found["predictions"], places["gold"])
    assert set(scored) == {"n", "em", "f1", "per_question"}
    assert scored["n"] == found["n"] == len(scored["per_question"])
    assert all(set(row) == {"em", "f1", "report_uid"} for row in scored["per_question"].values())
    assert scored["em"] == pytest.approx(found["metrics"]["em"]["value"])
    assert scored["f1"] == pytest.approx(found["metrics"]["f1"]["value"])
    assert run("score", found["predictions"], places["gold"]) == 0
    assert f"{scored['n']} questions: exact match" in capsys.readouterr().out


def test_runs_are_listed_and_removed(
    here: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert one_object(capsys, "runs", "list") == {"runs": [], "damaged": []}
    assert run("runs", "list") == 0
    assert str(runs) in capsys.readouterr().out
    records.RunRecord(
        id="1", sha256="0" * 64, name="mine", status="cancelled", started_at=records.now(),
        config=RunConfig().to_dict(), seed=1, versions={}, hardware={},
        model={"name": "m", "sha256": "1"}, data={"name": "d", "sha256": "2"},
    ).save()  # fmt: skip
    (runs / "broken").mkdir()
    (runs / "broken" / "record.json").write_text("{")
    size = (runs / "mine" / "record.json").stat().st_size
    found = one_object(capsys, "runs", "list")
    assert found["damaged"] == ["broken"]
    (row,) = found["runs"]
    assert (row["name"], row["status"], row["disk_bytes"]) == ("mine", "cancelled", size)
    assert row["tokens_per_second"] is None
    assert run("runs", "list") == 0
    shown = capsys.readouterr().out
    assert "mine" in shown and "labkit runs rm broken" in shown
    assert one_object(capsys, "runs", "rm", "mine", "broken") == {
        "removed": ["mine", "broken"], "freed_bytes": size + 1,
    }  # fmt: skip
    assert list(runs.iterdir()) == []


def test_doctor_and_check_print_one_object(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    findings = one_object(capsys, "doctor")["findings"]
    assert all(set(finding) == {"what", "status", "detail", "advice"} for finding in findings)
    questions = one_object(capsys, "check")["questions"]
    assert {row["state"] for row in questions} == {"unanswered"}
    (one,) = one_object(capsys, "check", questions[0]["id"])["questions"]
    assert one == questions[0]


def test_fetch_says_where_a_model_is(
    here: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = one_object(capsys, "fetch", "tiny-llama")
    assert found == {"tiny-llama": str(tmp_path / "cache" / "models" / "tiny-llama")}
    assert Path(found["tiny-llama"], "config.json").is_file()


def test_damaged_answers_are_one_line(
    here: Path, runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (runs.parent / "answers.json").write_text("{")
    assert run("check") == 2
    out, err = capfd.readouterr()
    assert out == "" and "answers.json is damaged" in err and len(err.splitlines()) == 1


WORDS = [
    ([], {}), (["--r", "4"], {"r": "4"}), (["--r=4"], {"r": "4"}), (["--name="], {"name": ""}),
    (["--max-steps", "-1"], {"max_steps": "-1"}),
    (["--a-b", "c d", "--e=f=g"], {"a_b": "c d", "e": "f=g"}),
]  # fmt: skip


@pytest.mark.parametrize(("words", "pairs"), WORDS)
def test_settings_are_read_from_words(words: list[str], pairs: dict[str, str]) -> None:
    assert program._key_values(words) == pairs


LIGHT = [
    "labkit", "labkit.errors", "labkit.runs.config", "labkit.runs.profiles", "labkit.runs.records",
    "labkit.machine.hardware", "labkit.models.registry", "labkit.models.embedded",
    "labkit.models.load", "labkit.datasets.tatqa", "labkit.datasets.answers",
    "labkit.datasets.score", "labkit.datasets.encode", "labkit.datasets.tables.generate",
    "labkit.datasets.sharing", "labkit.stats", "labkit.machine.meter", "labkit.runs.progress",
    "labkit.train.fast_step", "labkit.methods", "labkit.inference.generate",
    "labkit.inference.evaluate", "labkit.train.run", "labkit.checkpoints", "labkit.memory.formula",
    "labkit.cli",
]  # fmt: skip


def test_importing_labkit_imports_no_torch() -> None:
    code = (
        "import importlib, sys\n"
        f"for name in {LIGHT!r}:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'transformers', 'peft', 'trl', 'pandas', 'matplotlib'}\n"
        "    assert not heavy & set(sys.modules), (name, heavy & set(sys.modules))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize(
    "words", [["--help"], ["runs", "list"], ["train", "--settings"], ["check"]]
)
def test_quick_commands_import_no_torch(here: Path, words: list[str]) -> None:
    code = (
        "import sys\nfrom labkit import cli\n"
        f"try:\n    cli.main({words!r})\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}
    )
    assert found.returncode == 0, found.stderr
