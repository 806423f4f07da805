"""A run that is killed, interrupted or damaged: what it leaves, and how it goes on.

Processes are real and so are the signals. They are forked from a server that has imported the
libraries once, so that a process costs a moment and not ten seconds.
"""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from labkit.errors import LabkitError
from labkit.runs import records, run_folder
from labkit.runs.config import RunConfig
from labkit.train import run, trainer

pytestmark = pytest.mark.usefixtures("runs", "few_objects")
Run = Callable[..., RunConfig]

CHILD = """
import os
os.environ["LABKIT_RUNS"] = runs
from labkit.runs.config import from_mapping
from labkit.train import trainer
from labkit.train.run import train
exec(before)
train(from_mapping(config, where="child"), quiet=True)
"""
KILL_ITSELF = """
import signal
def killed(self, args, state, control, original=trainer.MeterCallback.{method}, **kwargs):
    if state.global_step == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, args, state, control, **kwargs)
trainer.MeterCallback.{method} = killed
"""
SLOW = """
import time
trainer.MeterCallback.on_step_begin = lambda *_, **__: time.sleep(600)
"""


@pytest.fixture(scope="module")
def server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["labkit.train.run", "labkit.train.trainer"])
    return context


@pytest.fixture
def start(server: Any, runs: Path) -> Iterator[Callable[..., BaseProcess]]:
    """Return a function that trains in a process of its own; what still runs is killed after."""
    started: list[BaseProcess] = []

    def begin(config: RunConfig, before: str = "") -> BaseProcess:
        values = {"config": config.to_dict(), "runs": str(runs), "before": before}
        process: BaseProcess = server.Process(target=exec, args=(CHILD, values))
        process.start()
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.is_alive():
            process.kill()
        process.join()


def wait_for(condition: Callable[[], object], process: BaseProcess) -> None:
    limit = time.monotonic() + 120
    while not condition():
        assert process.is_alive(), "the process ended before it came that far"
        assert time.monotonic() < limit, "the process did not come that far"
        time.sleep(0.002)


def weights(record: records.RunRecord) -> dict[str, torch.Tensor]:
    (file,) = record.model_path.glob("*.safetensors")
    return load_file(file)


def trained(config: RunConfig, **changes: Any) -> records.RunRecord:
    return run.train(config, quiet=True, **changes)


def assert_same_run(one: records.RunRecord, other: records.RunRecord) -> None:
    assert one.losses == other.losses
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def checkpoints(runs: Path) -> list[str]:
    return sorted(path.name for path in runs.glob("*/checkpoints/checkpoint-*"))


def count_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with every optimizer step that is really taken."""
    taken: list[int] = []
    original = trainer.MeterCallback.on_step_begin

    def step(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        taken.append(state.global_step + 1)
        original(self, args, state, control, **kwargs)

    monkeypatch.setattr(trainer.MeterCallback, "on_step_begin", step)
    return taken


@pytest.fixture
def long_run(tiny_run: Run) -> Run:
    """A run over several epochs of few samples, whose last steps still change the weights."""

    def config(**changes: Any) -> RunConfig:
        settings: dict[str, Any] = {
            "name": "mine", "max_steps": 12, "save_steps": 2, "max_train_samples": 10,
            "share_prompts": False, "lr_scheduler_type": "constant", "warmup_steps": 0,
        }  # fmt: skip
        return tiny_run(**{**settings, **changes})

    return config


WAYS = {
    "lora with dropout": {"method": "lora", "lora_dropout": 0.3},
    "full": {"method": "full"},
    "accumulation": {"gradient_accumulation_steps": 2, "lora_dropout": 0.1},
    "stock order of the data": {"fast": False, "lora_dropout": 0.3},
    "shared prompts, cosine": {"share_prompts": True, "max_train_samples": 24,
                               "lr_scheduler_type": "cosine"},
    "preferences": {"task": "dpo", "data": "pairs.jsonl", "beta": 0.5},
    "texts, packed": {"task": "pretrain", "data": "texts.jsonl", "share_prompts": True,
                      "max_length": 48},
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with made-up pairs of answers, and with texts of unlike length."""
    folder = tmp_path_factory.mktemp("files")
    things = [f"{word} {number}" for word in ("costs", "net sales") for number in range(10)]
    pairs = [{"prompt": f"What of {thing}?", "chosen": f"{thing} rose", "rejected": "nobody knows"}
             for thing in things]  # fmt: skip
    texts = [{"text": f"In the year {thing} rose. " * (1 + place % 3)}
             for place, thing in enumerate(things)]  # fmt: skip
    for name, rows in (("pairs", pairs), ("texts", texts)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.mark.parametrize("changes", WAYS.values(), ids=WAYS.keys())
def test_killed_and_started_again_ends_with_the_same_weights(
    long_run: Run,
    start: Callable[..., BaseProcess],
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: Path,
    changes: dict[str, Any],
) -> None:
    """Killed from outside in the second epoch, once a checkpoint of it is there."""
    named = {"data": f"jsonl:{files / changes['data']}"} if "data" in changes else {}
    config = long_run(**{**changes, **named})
    process = start(config)
    wait_for(
        lambda: list(runs.glob(f"mine/checkpoints/checkpoint-8/{run_folder.COMPLETE}")), process
    )
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert records.load("mine").status == "running"
    assert not (runs / "mine" / "model").exists()
    with monkeypatch.context() as patched:
        taken = count_steps(patched)
        resumed = trained(config)
    assert 1 <= len(taken) <= 4, "it did not go on from its checkpoint"
    assert resumed.status == "done"
    assert [step["step"] for step in resumed.steps] == list(range(1, 13))
    assert checkpoints(runs) == []
    with monkeypatch.context() as patched:
        patched.setenv("LABKIT_RUNS", str(tmp_path / "undisturbed"))
        undisturbed = trained(config)
        assert undisturbed.id != resumed.id
        assert_same_run(resumed, undisturbed)


def test_killed_while_a_checkpoint_is_written_falls_back_to_the_one_before(
    long_run: Run, start: Callable[..., BaseProcess], runs: Path
) -> None:
    config = long_run()
    process = start(config, KILL_ITSELF.format(method="on_save", step=6))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert checkpoints(runs) == ["checkpoint-4", "checkpoint-6"]
    assert not (runs / "mine" / "checkpoints" / "checkpoint-6" / run_folder.COMPLETE).exists()
    # What was not completed may be rubbish; it is not looked at.
    for file in (runs / "mine" / "checkpoints" / "checkpoint-6").iterdir():
        file.write_bytes(b"")
    resumed = trained(config)
    assert resumed.status == "done" and len(resumed.steps) == 12
    again = trained(config.replace(name="again"), fresh=True)
    assert_same_run(resumed, again)


def test_killed_before_the_first_checkpoint_starts_over(
    long_run: Run, start: Callable[..., BaseProcess], runs: Path
) -> None:
    config = long_run(save_steps=100)
    process = start(config, KILL_ITSELF.format(method="on_step_end", step=3))
    process.join()
    assert checkpoints(runs) == []
    record = trained(config)
    assert [step["step"] for step in record.steps] == list(range(1, 13))


def test_one_checkpoint_is_kept(long_run: Run, monkeypatch: pytest.MonkeyPatch, runs: Path) -> None:
    seen: list[list[str]] = []
    original = trainer.MeterCallback.on_step_begin

    def look(self: Any, *args: Any, **kwargs: Any) -> None:
        seen.append(checkpoints(runs))
        original(self, *args, **kwargs)

    monkeypatch.setattr(trainer.MeterCallback, "on_step_begin", look)
    trained(long_run(max_steps=6))
    assert seen == [[], [], ["checkpoint-2"], ["checkpoint-2"], ["checkpoint-4"], ["checkpoint-4"]]


def test_two_processes_at_once_one_trains_and_the_other_is_told(
    long_run: Run, start: Callable[..., BaseProcess], runs: Path
) -> None:
    config = long_run()
    process = start(config, SLOW)
    wait_for(lambda: (runs / "mine" / "record.json").exists(), process)
    with pytest.raises(LabkitError, match="mine is being trained by another process") as caught:
        trained(config)
    assert "\n" not in str(caught.value)
    with pytest.raises(LabkitError, match="being trained by another process"):
        trained(config, fresh=True)
    assert process.is_alive() and records.load("mine").status == "running"
    # Another run is not in its way, and a lock does not outlive its process.
    assert trained(long_run(name="other", max_steps=1)).status == "done"
    process.kill()
    process.join()
    assert trained(config).status == "done"


def interrupt_at(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    original = trainer.LabTrainer.training_step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        for _ in range(steps.count(self.state.global_step + 1)):
            signal.raise_signal(signal.SIGINT)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(trainer.LabTrainer, "training_step", step)


def test_ctrl_c_finishes_the_step_saves_and_marks_the_record_cancelled(
    long_run: Run, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = long_run(save_steps=100, lora_dropout=0.2)
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        interrupt_at(patched, 7)
        record = trained(config)
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopping after this step" in capsys.readouterr().err
    assert record.status == records.load("mine").status == "cancelled"
    assert len(record.steps) == 7 and checkpoints(runs) == ["checkpoint-7"]
    assert not record.model_path.exists()
    resumed = trained(config)
    assert resumed.status == "done"
    assert_same_run(resumed, trained(config.replace(name="again"), fresh=True))


def test_ctrl_c_twice_stops_at_once(long_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    config = long_run()
    with monkeypatch.context() as patched:
        interrupt_at(patched, 5, 5)
        with pytest.raises(KeyboardInterrupt):
            trained(config)
    record = records.load("mine")
    assert record.status == "cancelled" and len(record.steps) == 4
    assert not torch.autograd._profiler_enabled()
    assert trained(config).status == "done"


def test_ctrl_c_in_the_last_step_is_too_late(
    long_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        interrupt_at(patched, 12)
        record = trained(long_run())
    assert record.status == "done" and record.model_path.is_dir()


def test_a_real_ctrl_c_reaches_a_real_process(
    long_run: Run, start: Callable[..., BaseProcess], runs: Path
) -> None:
    config = long_run(max_steps=10_000)
    process = start(config)
    wait_for(lambda: checkpoints(runs), process)
    os.kill(process.pid or 0, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 0
    record = records.load("mine")
    assert record.status == "cancelled"
    assert checkpoints(runs) == [f"checkpoint-{len(record.steps)}"]


def test_what_was_measured_before_the_interruption_stays(
    long_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = long_run(eval_steps=2)
    with monkeypatch.context() as patched:
        interrupt_at(patched, 5)
        first = trained(config)
    peaks = [step["peak_bytes"] for step in first.steps if "peak_bytes" in step]
    assert first.summary["peak_bytes"]["allocated"] == max(peaks)
    resumed = trained(config)
    assert resumed.steps[:5] == first.steps
    assert [entry["step"] for entry in resumed.summary["eval_losses"]] == [2, 4, 6, 8, 10, 12]
    assert resumed.summary["eval_losses"][:2] == first.summary["eval_losses"]
    assert resumed.summary["peak_bytes"]["allocated"] >= max(peaks)
    assert resumed.summary["train_seconds"] > first.summary["train_seconds"]


@pytest.fixture
def interrupted(long_run: Run, monkeypatch: pytest.MonkeyPatch, runs: Path) -> Path:
    """The checkpoint of a run that was interrupted."""
    with monkeypatch.context() as patched:
        interrupt_at(patched, 4)
        trained(long_run())
    return runs / "mine" / "checkpoints" / "checkpoint-4"


@pytest.mark.parametrize(
    "name",
    ["adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json",
     "rng_state.pth"],
)  # fmt: skip
@pytest.mark.parametrize("damage", ["empty", "half"])
def test_a_damaged_checkpoint_is_one_sentence_and_fresh_starts_over(
    long_run: Run, interrupted: Path, name: str, damage: str
) -> None:
    file = interrupted / name
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] if damage == "half" else b"")
    with pytest.raises(LabkitError, match="checkpoint-4 is damaged .*--fresh") as caught:
        trained(long_run())
    assert "\n" not in str(caught.value)
    if (name, damage) == ("optimizer.pt", "half"):
        assert trained(long_run(), fresh=True).status == "done"


@pytest.mark.parametrize("text", ["", "[{", "{}", "7", '[{"step": 1}]'])
def test_a_damaged_marker_means_the_checkpoint_is_not_complete(
    long_run: Run, interrupted: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (interrupted / run_folder.COMPLETE).write_text(text)
    taken = count_steps(monkeypatch)
    record = trained(long_run())
    assert record.status == "done"
    assert taken == [step["step"] for step in record.steps] == list(range(1, 13))
