"""`labkit bench gpu` without a card: every line of every part, deadlines, deaths, what is kept."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coverage
import psutil
import pytest
import torch

from labkit.bench import gpu
from labkit.bench.gpu import card, kernels, memory, report, run, training
from labkit.bench.gpu.card import Card
from labkit.bench.gpu.run import Part
from labkit.cli import program
from labkit.errors import LabkitError
from labkit.files import write_json
from labkit.memory.settings import StepSettings
from labkit.switchback import backends, reference, triton_kernels

REHEARSAL = Card(rehearsal=True)
ONLY_ON_A_CARD = "# only on a card"
FULL = torch.OutOfMemoryError("the card is full")


@pytest.fixture(scope="module", autouse=True)
def visited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Note which lines of labkit.bench.gpu the tests of this file visit; yield the folder."""
    folder = tmp_path_factory.mktemp("visited")
    (folder / "rc").write_text(
        "[run]\nparallel = true\nconcurrency = multiprocessing\n"
        f"include = {Path(gpu.__file__).parent}/*\ndata_file = {folder / 'data'}\n"
        f"[report]\nexclude_also = {ONLY_ON_A_CARD}\n"
    )
    here = coverage.Coverage(config_file=str(folder / "rc"), data_suffix="here")
    here.start()
    yield folder
    here.stop()


def rehearse(folder: Path, **environment: str) -> str:
    """Run the whole rehearsal in a process as a user does; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "labkit.bench.gpu", "--rehearse", "--output-dir", str(folder)],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    logs = [log.read_text() for log in sorted((folder / "gpu").glob("*.log"))]
    assert done.returncode == 0, done.stderr + "".join(logs)
    return done.stdout


# The process: deadlines, deaths, what is kept


@pytest.fixture
def only_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "BACKGROUND", ())


@pytest.mark.usefixtures("only_faults")
def test_a_part_that_hangs_or_dies_costs_only_itself(tmp_path: Path) -> None:
    said: list[str] = []
    record = run.gpu(output_dir=tmp_path, rehearsal=True, parts=(), say=said.append)
    assert record["parts"]["hangs"]["outcome"] == "killed at its deadline"
    assert record["parts"]["dies"]["outcome"] == "died with code -9"
    assert record["parts"]["dies"]["results"] == {"before it dies": {}}
    assert [line.split(":")[0] for line in said] == ["hangs", "dies"]
    assert json.loads((tmp_path / "gpu.json").read_text()) == record
    assert "not complete   dies: died with code -9" in report.render(record)
    assert not [p for p in psutil.Process().children(recursive=True) if "gpu.run" in str(p)]


@pytest.mark.usefixtures("only_faults")
def test_what_is_done_is_kept_and_another_cards_leftovers_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "FAULTS", ())
    part = Part(name="8b", measure=lambda card, known: iter(()), share=1.0, needs=("no_such",))
    done = Part(name="training", measure=lambda card, known: iter(()), share=1.0)
    said: list[str] = []
    facts = {"card": REHEARSAL.describe(), "versions": run.versions(), "rehearsal": True}
    write_json(tmp_path / "gpu" / "facts.json", facts)
    kept = {"outcome": "done", "results": {"it": {"ratio": 1}}}
    write_json(tmp_path / "gpu" / "training.json", kept)
    monkeypatch.setattr(run.report, "claims", lambda record: [])

    def call() -> dict[str, Any]:
        return run.gpu(output_dir=tmp_path, rehearsal=True, parts=(part, done), say=said.append)

    record = call()
    assert said == ["8b: left out: no_such not installed", "training: kept from an earlier call"]
    assert record["parts"]["training"] == kept
    monkeypatch.setattr(Card, "describe", lambda self: {"name": "another card"})
    monkeypatch.setattr(run, "REHEARSAL_SECONDS", 0.0)
    record = call()
    assert said[-1] == "training: not begun, the time was over"
    assert record["parts"]["training"] == {"outcome": "not begun: the time was over", "results": {}}


def test_a_background_part_is_ended_with_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "BACKGROUND", (run.FAULTS[0],))
    monkeypatch.setattr(run, "_join", lambda *_: None)
    run.gpu(output_dir=tmp_path, rehearsal=True, parts=())
    assert not [p for p in psutil.Process().children(recursive=True) if "gpu.run" in str(p)]


def test_failed_cases_are_tried_again_and_done_ones_are_not(tmp_path: Path) -> None:
    seen: list[set[str]] = []

    def measure(card: Card, known: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        seen.append(known)
        yield "bad", {"error": "ValueError: once"} if len(seen) == 1 else {"seconds": 1.0}

    part = Part(name="8b", measure=measure, share=1.0)
    file = tmp_path / "8b.json"
    write_json(file, {"outcome": "done", "results": {"good": {"seconds": 2.0}}})
    run.measure(part, tmp_path, REHEARSAL)
    run._note("8b", tmp_path, "done")
    assert not run._is_done("8b", tmp_path)
    run.measure(part, tmp_path, REHEARSAL)
    run._note("8b", tmp_path, "done")
    assert run._is_done("8b", tmp_path) and seen == [{"good"}, {"good"}]
    assert run._results("8b", tmp_path) == {"good": {"seconds": 2.0}, "bad": {"seconds": 1.0}}
    file.write_text("{")
    assert run._read(file) is None and not run._is_done("8b", tmp_path)


@pytest.mark.parametrize("words", [["--minutes", "0", "--rehearse"], ["--minutes", "nan"], []])
def test_mistakes_are_one_sentence(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SystemExit) as caught:
        program.main(["bench", "gpu", *words, "--output-dir", str(tmp_path / "out")])
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and not out and len(err.splitlines()) == 1
    assert ("too short" if words else "no CUDA device here (CUDA_VISIBLE_DEVICES='')") in err
    assert not (tmp_path / "out").exists()


def test_a_hang_is_an_hour_and_a_death_is_sudden(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(run.time, "sleep", slept.append)
    monkeypatch.setattr(run.os, "kill", lambda *call: killed.append(call))
    assert [name for name, _ in run._hang(REHEARSAL, set())] == ["before it hangs"]
    assert [name for name, _ in run._die(REHEARSAL, set())] == ["before it dies"]
    assert slept == [3600] and killed == [(os.getpid(), signal.SIGKILL)]


def test_versions_leave_out_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    def version(name: str) -> str:
        if name == "bitsandbytes":
            raise metadata.PackageNotFoundError(name)
        return "1.2"

    monkeypatch.setattr(metadata, "version", version)
    found = run.versions()
    assert found["triton"] == "1.2" and "bitsandbytes" not in found


# Searches, and what goes wrong on a card


@pytest.mark.parametrize("largest", [0, 1, 2, 5, 11, 44])
@pytest.mark.parametrize("start", [0, 1, 4, 11, 60])
def test_search_finds_the_largest_batch_from_any_guess(start: int, largest: int) -> None:
    tried: list[int] = []

    def fits(batch: int) -> bool:
        tried.append(batch)
        return batch <= largest

    assert memory.search(start, fits) == largest
    assert min(tried) >= 1 and len(tried) == len(set(tried))
    if start == largest > 0:
        assert len(tried) == 2  # a right guess costs one step that fits and one that does not


@pytest.mark.parametrize("needed", [1.0, 1.004, 1.03, 1.09, 1.159, 1.2])
def test_the_least_gap_is_found_to_a_sixteenth_of_the_range(needed: float) -> None:
    gap = memory.least_gap(10**9, lambda limit: limit >= needed * 10**9)
    if needed > 1 + memory.MOST_GAP:
        assert gap is None
    else:
        assert gap is not None
        assert -1e-9 <= gap - (needed - 1) <= memory.MOST_GAP / 2**memory.GAP_PROBES


def settings(**changes: Any) -> dict[str, Any]:
    return {"model": "tiny-llama", "method": "full", "batch_size": 1, "seq_len": 8, **changes}


def raising(error: Exception) -> Any:
    def call(*_: Any, **__: Any) -> None:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "written"),
    [(FULL, {"out_of_memory": True}), (ValueError("no\nmore"), {"error": "ValueError: no"})],
)
def test_an_error_of_a_case_is_written_down(
    error: Exception, written: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_step", raising(error))
    monkeypatch.setattr(kernels, "_race", raising(error))
    assert memory._measure(settings(), REHEARSAL) == written
    ((_, first), *_) = kernels.speed(REHEARSAL, set())
    assert written.items() <= first.items()


def test_an_error_of_a_trace_is_written_down() -> None:
    assert "error" in memory._trace(settings(model="no-such-model"), REHEARSAL.describe())


def test_missing_libraries_skip_their_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.importlib.util, "find_spec", lambda name: None)
    assert memory.missing(settings(method="qlora")) == "bitsandbytes"
    assert memory.missing(settings()) is None
    skipped = {"skipped": "peft is not installed"}
    assert memory._measure(settings(method="lora"), REHEARSAL) == skipped
    monkeypatch.setattr(memory, "LARGEST", memory.LARGEST[:1])
    names = [name for name, row in memory.largest_batches(REHEARSAL, set()) if row == skipped]
    assert len(names) == len(memory.LIMITS)
    assert list(memory.largest_batches(REHEARSAL, set(names))) == []


@pytest.mark.parametrize(("gib", "sizes"), [(80, [24, 40, 80]), (39, [24, 39]), (16, [16])])
def test_no_card_is_asked_for_more_than_it_has(
    gib: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Card, "describe", lambda self: {"memory_bytes": gib * 2**30})
    monkeypatch.setattr(memory, "predict_largest", lambda settings, size: 7)
    monkeypatch.setattr(memory, "_fits", lambda settings, card, tried, batch: batch <= 7)
    rows = [row for _, row in memory.largest_batches(REHEARSAL, set())]
    found = [row["limit_bytes"] / 2**30 for row in rows if "measured" in row]
    assert found == sizes * len(memory.LARGEST)
    assert len(rows) == len(memory.LIMITS) * len(memory.LARGEST)
    skipped = {row["skipped"] for row in rows if "measured" not in row}
    assert skipped == ({f"this card has {gib} GiB"} if gib < 40 else set())


def test_a_step_that_runs_out_of_memory_is_a_result_and_other_errors_are_not() -> None:
    from labkit.memory.measured import real_step

    step = real_step(StepSettings(**settings(), target="cpu"))
    assert memory._runs_in(step, 10**9, REHEARSAL)
    object.__setattr__(step, "run", raising(FULL))
    assert not memory._runs_in(step, 10**9, REHEARSAL)
    object.__setattr__(step, "run", raising(ValueError("no")))
    with pytest.raises(ValueError, match="no"):
        memory._runs_in(step, 10**9, REHEARSAL)
    assert memory._fits({}, REHEARSAL, {3: True}, 3)
    with pytest.raises(TypeError):
        memory._fits({"no_such": 1}, REHEARSAL, {}, 3)


@pytest.mark.parametrize("sound", [True, False])
def test_a_fault_of_a_kernel_is_found(sound: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference in the kernels' place has no faults; with one number changed it has."""

    def spoil(function: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            found = function(*given, **named)
            first = found[0] if isinstance(found, tuple) else found
            if not sound:
                first.view(-1)[-1] += 1
            return found

        return call

    for name in (*kernels.QUANTIZERS, "scaled_int8_mm"):
        monkeypatch.setattr(triton_kernels, name, spoil(getattr(reference, name)))
    monkeypatch.setattr(triton_kernels, "serves", lambda device, dtype: True)
    monkeypatch.setitem(backends.LOADED, "triton", triton_kernels)
    found = [
        kernels._check_quantizer("quantize_rowwise", "float32", REHEARSAL),
        kernels._check_products("float32", REHEARSAL),
        kernels._check_layers("float32", REHEARSAL),
    ]
    assert [bool(each["faults"]) for each in found] == [not sound] * 3
    json.dumps(found, allow_nan=False)


def test_the_card_times_the_published_sizes_with_the_claims_own_first() -> None:
    found = kernels.sizes(Card())
    assert found[:2] == [(32768, 2048, 8192), (32768, 8192, 2048)] and len(found) == 12
    assert {(t, min(a, b), max(a, b) // min(a, b)) for t, a, b in found} == {
        (t, dim, 4) for t in kernels.TOKENS for dim in kernels.DIMS
    }


def test_the_tile_that_was_chosen_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels._tile() is None
    tuned = triton_kernels.scaled_int8_mm_tuned
    monkeypatch.setattr(tuned, "best_config", "64 × 64", raising=False)
    assert kernels._tile() == "scaled_int8_mm_kernel: 64 × 64"


def test_training_halves_its_batch_until_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def make(model: Any, batch: int, card: Card) -> Any:
        tried.append(batch)
        return raising(FULL) if batch > 8 else lambda: None

    monkeypatch.setattr(training, "_model", lambda card: None)
    monkeypatch.setattr(training, "_make_step", make)
    monkeypatch.setattr(training, "_race", lambda model, batch, scale, card: {"batch": batch})
    monkeypatch.setattr(Card, "empty_cache", lambda self: None)
    found = dict(training.end_to_end(Card(), set()))
    assert tried == [64, 32, 16, 8] and [row["batch"] for row in found.values()] == [8, 8]
    assert list(training.end_to_end(Card(), set(found))) == []
    monkeypatch.setattr(training, "_make_step", lambda *_: raising(FULL))
    found = dict(training.end_to_end(Card(), set()))
    assert list(found.values()) == [{"out_of_memory": True}] * 2
    assert report.claims({"parts": {"training": {"outcome": "done", "results": found}}}) == []
    monkeypatch.setattr(training, "_make_step", raising(ValueError("no")))
    with pytest.raises(ValueError, match="no"):
        list(training.end_to_end(Card(), set()))


def test_the_model_on_a_card_is_tinyllama(monkeypatch: pytest.MonkeyPatch) -> None:
    assert training.sizes(Card())["num_hidden_layers"] == 22
    assert training.sizes(Card())["hidden_size"] == 2048


def test_without_a_card_require_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    card.require()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(LabkitError, match="no CUDA device here: run this"):
        card.require()


# Last, for it counts what all of the above visited


def test_the_rehearsal_goes_through_every_line_of_every_part(tmp_path: Path, visited: Path) -> None:
    text = rehearse(tmp_path, COVERAGE_PROCESS_START=str(visited / "rc"))
    record = json.loads((tmp_path / "gpu.json").read_text())
    outcomes = {name: part["outcome"] for name, part in record["parts"].items()}
    assert outcomes.pop("hangs") == "killed at its deadline"
    assert outcomes.pop("dies") == "died with code -9"
    assert set(outcomes) == {part.name for part in (*run.PARTS, *run.BACKGROUND)}
    assert set(outcomes.values()) == {"done"}
    assert "kernels equal the reference" in text
    assert not any(
        "error" in row or "faults" in row and row["faults"]
        for part in record["parts"].values() for row in part["results"].values()
    )  # fmt: skip
    found = coverage.Coverage(config_file=str(visited / "rc"))
    found.combine([str(visited)], keep=True)
    here = coverage.Coverage.current()
    assert here is not None
    found.get_data().update(here.get_data())
    excluded, missed = 0, {}
    for file in sorted(Path(gpu.__file__).parent.glob("*.py")):
        if file.stem in ("report", "reading"):  # measure nothing, and have tests of their own
            continue
        _, _, left_out, unvisited, _ = found.analysis2(str(file))
        excluded += len(left_out)
        missed |= {file.name: unvisited} if unvisited else {}
    assert missed == {}
    assert 0 < excluded <= 45


def test_a_job_that_raises_leaves_the_results_of_the_others() -> None:
    found = dict(memory.in_processes({"sum": (sum, [1, 2]), "wrong": (int, "no number")}))
    assert found["sum"] == 3
    assert found["wrong"]["error"].startswith("ValueError: invalid literal")
