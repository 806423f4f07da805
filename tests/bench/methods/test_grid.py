"""A grid of methods on a toy model: every arm runs or says why not, and nothing runs twice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from labkit.bench.methods import grid as bench
from labkit.bench.methods import plan, report
from labkit.bench.methods.conclude import conclude
from labkit.bench.methods.plan import SMOKE, Grid
from labkit.cli.program import app
from labkit.errors import LabkitError
from labkit.files import write_json
from labkit.runs import records

pytestmark = pytest.mark.usefixtures("runs", "few_objects")
Toy = Callable[..., Grid]


@pytest.fixture
def toy(tiny_llama: Path, few_reports: Path) -> Toy:
    """Return a function that makes a grid of seconds."""

    def make(*arms: str, **changes: Any) -> Grid:
        settings = {**SMOKE, "model": str(tiny_llama), "data": str(few_reports), "seeds": 1,
                    "rates": {"lora": 1e-3, "ia3": 1e-2}}  # fmt: skip
        return Grid(arms=arms, **{**settings, **changes})

    return make


def names() -> set[str]:
    return {record.name for record in records.records()}


def test_arms_train_on_the_same_tokens_once_and_more_seeds_add(toy: Toy, tmp_path: Path) -> None:
    first = bench.measure(toy("lora", "ia3"))
    before = {name: records.load(name).started_at for name in names()}
    said: list[str] = []
    found = bench.measure(toy("lora", "ia3", seeds=2), say=said.append)
    lora, ia3 = found["arms"]
    assert [len(arm["runs"]) for arm in (lora, ia3)] == [2, 1], "one has several seeds"
    assert lora["runs"][0] == first["arms"][0]["runs"][0] and ia3 == first["arms"][1]
    started = {name: records.load(name).started_at for name in names()}
    assert len(started.keys() - before) == 1 and before.items() <= started.items()
    assert lora["runs"][0]["tokens"] == ia3["runs"][0]["tokens"] > 0
    assert [records.load(run["run"]).seed for run in lora["runs"]] == [42, 43]
    for run in (*lora["runs"], *ia3["runs"]):
        assert len(run["em"]) == len(run["f1"]) == len(found["reports"]) == SMOKE["questions"]
        record = records.load(run["run"])
        assert run["peak_bytes"] == record.summary["peak_bytes"]["allocated"] > 0
        size = sum(f.stat().st_size for f in record.model_path.glob("*.safetensors"))
        assert run["saved_bytes"] == size > 0
    assert len(lora["runs"][0]["tables_choice"]) == SMOKE["choices"]
    assert lora["runs"][1]["tables_choice"] == "", "asked of the first seed alone"
    assert any("2 of 3: ia3, seed 42" in line for line in said)
    write_json(tmp_path / "methods.json", found)
    kept = report.read(tmp_path / "methods.json")
    assert kept["rows"] == json.loads(json.dumps(conclude(found)))
    text = report.render(kept)
    assert "lora: " in text and "the reference" in text and "ia3: " in text
    figure, alt = report.draw(kept["rows"])
    assert "ia3" in alt and len(figure.axes) == 2


def test_a_search_takes_the_lowest_loss_and_goes_on_past_an_end(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {1e-3: 2.0, 3e-3: 1.5, 1e-2: 1.2, 3e-2: 1.1, 9e-2: None}

    def tried(grid: Grid, arm: plan.Arm, rate: float, *, say: Any) -> dict[str, Any]:
        return {"rate": rate, "loss": losses[rate], "seconds": 1.0, "reason": "it diverged"}

    monkeypatch.setattr(bench, "_tried", tried)
    arm = plan.arms()["prefix"]
    assert arm.rates == (1e-3, 3e-3, 1e-2)
    found = bench.search(toy(extended=2), arm)
    assert found["chosen"] == 3e-2 and not found["at_end"]
    assert [row["rate"] for row in found["tried"]] == [1e-3, 3e-3, 1e-2, 3e-2, 9e-2]
    once = bench.search(toy(extended=1), arm)
    assert once["chosen"] == 3e-2 and once["at_end"], "it is not known where the best lies"
    losses.update(dict.fromkeys(losses))
    with pytest.raises(LabkitError, match="it diverged"):
        bench.search(toy(), arm)


def test_a_single_rate_is_not_searched(toy: Toy) -> None:
    found = bench.search(toy(), plan.arms()["rank-4"])
    assert found == {"chosen": 1e-3, "at_end": False, "tried": []}
    before = bench.search(toy(rates={"lora": 2e-3}), plan.arms()["lora"])
    assert before == {"chosen": 2e-3, "at_end": False, "tried": []}


def test_the_command_searches_trains_and_keeps_record_and_figure(
    tiny_llama: Path, few_reports: Path, tmp_path: Path
) -> None:
    words = ["bench", "methods", "--smoke", "--arms", "lora", "--seeds", "1"]
    words += ["--model", str(tiny_llama), "--data", str(few_reports)]
    ran = CliRunner().invoke(app, [*words, "--output-dir", str(tmp_path), "--json"])
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    (arm,) = found["arms"]
    tried = arm["search"]["tried"]
    assert [row["rate"] for row in tried] == list(plan.arms()["lora"].rates)
    assert arm["search"]["chosen"] == min(tried, key=lambda row: row["loss"])["rate"]
    assert all(row["tokens"] > 0 and row["seconds"] > 0 for row in tried)
    assert found["rows"][0]["search_seconds"] == sum(row["seconds"] for row in tried)
    assert (tmp_path / "methods.png").is_file()
    assert report.read(tmp_path / "methods.json")["rows"] == found["rows"]


def test_an_arm_that_cannot_be_had_says_why_and_others_run(
    tiny_model: Callable[[str], Path], few_reports: Path
) -> None:
    mamba = Grid(arms=("lora", "prefix", "qlora"), model=str(tiny_model("tiny-mamba")),
                 data=str(few_reports), **{k: v for k, v in SMOKE.items() if k != "model"}
                 | {"seeds": 1})  # fmt: skip
    for name, says in (("prefix", "no key-value cache"), ("qlora", "reads weights past")):
        assert says in str(bench.impossible(mamba, plan.arms()[name]))
    assert bench.impossible(mamba, plan.arms()["lora"]) is None


def test_a_run_that_fails_leaves_its_reason_in_the_cell(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(grid: Grid, arm: plan.Arm, seed: int, *, rate: float) -> dict[str, Any]:
        if arm.name == "ia3":
            raise LabkitError("no memory for this")
        return {
            "seed": seed, "em": "10" * 4, "f1": [1.0, 0.0] * 4, "general_text": [[-9, 4], [-8, 6]],
            "tables_choice": "", "tokens": 9, "step_seconds": None, "peak_bytes": 8,
            "trained_parameters": 7, "saved_bytes": 6,
        }  # fmt: skip

    texts = {"general_text": [[-9.5, 4], [-8.5, 6]], "tables_choice": "10"}
    monkeypatch.setattr(bench, "_run", run)
    monkeypatch.setattr(bench, "_texts", lambda model, grid, *, choices: texts)
    rows = conclude(bench.measure(toy("lora", "ia3")))
    assert rows[0]["em"]["value"] == 0.5 and rows[1]["reason"] == "no memory for this"
    assert "not possible: no memory for this" in report.table(rows).to_string()


def test_arms_are_named_by_name_or_group() -> None:
    several = [arm.name for arm in plan.chosen(())]
    assert len(several) >= 9 and plan.reference() == several[0]
    groups = {arm.group for arm in plan.arms().values()}
    assert {"main", "others", "more", "ranks"} == groups
    assert sum(arm.group == "main" for arm in plan.arms().values()) == 5
    assert [arm.name for arm in plan.chosen(["ia3"])] == ["ia3"]
    assert [arm.name for arm in Grid(arms=("ia3",)).chosen] == [plan.reference(), "ia3"]


@pytest.mark.parametrize("name", plan.arms())
def test_every_arm_is_a_run_that_can_be(name: str) -> None:
    arm = plan.arms()[name]
    config = Grid().config(arm, seed=1, rate=arm.rates[0], steps=3)
    assert config.learning_rate == arm.rates[0] and config.max_steps == 3
    for key, value in arm.settings.items():
        assert getattr(config, key) == value
    assert list(arm.rates) == sorted(arm.rates)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"arms": ("lorra",)}, "--arms 'lorra' is not known: did you mean 'lora'"),
        ({"against": "lorra"}, "--against 'lorra': did you mean 'lora'"),
        ({"seeds": 0}, "seeds must be 1 or more"),
        ({"questions": 1}, "questions must be 2 or more"),
        ({"steps": 0}, "steps must be 1 or more"),
    ],
)
def test_mistakes_are_a_sentence(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(LabkitError, match=says):
        _ = Grid(**settings).chosen


def test_another_file_is_no_record(tmp_path: Path) -> None:
    write_json(tmp_path / "other.json", {"rows": []})
    with pytest.raises(LabkitError, match="is no record of labkit bench methods"):
        report.read(tmp_path / "other.json")
