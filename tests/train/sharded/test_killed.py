"""A run of two real processes, started by `train` itself: one is killed, all end, it goes on.

`LABKIT_KILLS=20 pytest tests/train/sharded/test_killed.py -k killed_anywhere` kills twenty runs of
each sharding, at other points each.
"""

import contextlib
import json
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import zero
from safetensors.torch import load_file

from labkit.errors import LabkitError
from labkit.runs import records, run_folder
from labkit.runs.config import RunConfig
from labkit.train import train
from labkit.train.sharded import launch

pytestmark = [
    pytest.mark.usefixtures("runs", "few_objects", "words"),
    pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning"),
]
Run = Callable[..., RunConfig]
STEPS, SAVED = 20, 2
LATEST = 14
"""The checkpoint after which a run is killed at once: what is left takes longer than a signal."""


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder in which launched processes leave word: a short path, as sockets need."""
    get_temp_dir()  # multiprocessing keeps the first one that it is given
    with tempfile.TemporaryDirectory(prefix="words-") as folder, monkeypatch.context() as patched:
        patched.setattr(tempfile, "tempdir", folder)
        patched.setenv("OMP_NUM_THREADS", "1")
        patched.setattr(launch, "run", with_zero)
        yield Path(folder)


def with_zero(*args: Any, run: Any = launch.run, **kwargs: Any) -> Any:
    """Launch processes, of which those that train by ZeRO find DeepSpeed."""
    by_zero = any(isinstance(each, dict) and str(each.get("sharding")).startswith("zero")
                  for each in args)  # fmt: skip
    with zero.within_reach() if by_zero else contextlib.nullcontext():
        return run(*args, **kwargs)


def pids(words: Path) -> dict[int, int]:
    """Return the process of each rank of the run that is going on."""
    return {int(file.stem): int(file.read_text()) for file in words.glob("labkit-*/*.pid")}


def listening() -> set[int]:
    """Return the ports that this process listens on."""
    found = psutil.Process().net_connections(kind="tcp")
    return {each.laddr.port for each in found if each.status == psutil.CONN_LISTEN}


def left_in(words: Path) -> list[Path]:
    """Return what a launch left behind; the folder of multiprocessing's server stays with it."""
    return [each for each in words.iterdir() if not each.name.startswith("pymp-")]


def weights(name: str) -> dict[str, torch.Tensor]:
    (file,) = records.load(name).model_path.glob("*.safetensors")
    return load_file(file)


def descendants() -> set[int]:
    """Return the processes below this one; the server that they are forked from is one."""
    return {each.pid for each in psutil.Process().children(recursive=True)
            if each.status() != psutil.STATUS_ZOMBIE}  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(
    tiny_llama: Path, few_reports: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[RunConfig, records.RunRecord, dict[str, torch.Tensor]]]:
    """Return a function from a sharding to a run's settings, its record and its weights."""
    made = {}
    file = tmp_path_factory.mktemp("settings") / "zero3.json"
    # DeepSpeed leaves weights below a threshold whole, all that a tiny model's layers have.
    file.write_text(json.dumps({"zero_optimization": {
        "stage": 3, "stage3_param_persistence_threshold": 0}}))  # fmt: skip

    def of(sharding: str) -> tuple[RunConfig, records.RunRecord, dict[str, torch.Tensor]]:
        if sharding not in made:
            config = RunConfig(
                model=str(tiny_llama), data=str(few_reports), max_steps=STEPS, save_steps=SAVED,
                per_device_train_batch_size=1, learning_rate=1e-2, dtype="float32",
                torch_compile="off", lora_dropout=0.2, nproc=2, sharding=sharding, name="mine",
                deepspeed=str(file) if sharding == "zero3" else "",
            )  # fmt: skip
            with pytest.MonkeyPatch.context() as patched:
                patched.setenv("LABKIT_RUNS", str(tmp_path_factory.mktemp("undisturbed")))
                record = train(config, quiet=True)
                made[sharding] = config, record, weights("mine")
        return made[sharding]

    return of


@pytest.mark.parametrize("number", range(int(os.environ.get("LABKIT_KILLS", 1))))
@pytest.mark.parametrize("sharding", ["none", "fsdp2", pytest.param("zero3", marks=zero.needed)])
def test_killed_anywhere_and_started_again_ends_with_the_same_weights(
    undisturbed: Any, runs: Path, words: Path, sharding: str, number: int
) -> None:
    config, expected, its_weights = undisturbed(sharding)
    chance = random.Random(f"{sharding} {number}")
    victim, reached = chance.randrange(2), chance.randrange(LATEST // SAVED)
    saving = sum(each["seconds"] for each in expected.steps[1:]) / STEPS * SAVED
    later = chance.uniform(0, 2 * saving)
    folder = runs / "mine" / "checkpoints"
    ports, processes, killed = listening(), descendants(), {}

    def kill() -> None:
        limit = time.monotonic() + 120
        marker, last = (folder / f"checkpoint-{step}" / run_folder.COMPLETE
                        for step in (reached * SAVED, STEPS - SAVED))  # fmt: skip
        while time.monotonic() < limit:
            if marker.exists() if reached else len(pids(words)) == 2:
                break
            time.sleep(0.002)
        limit = time.monotonic() + later
        while time.monotonic() < limit and not last.exists():
            time.sleep(0.002)
        killed.update(pids(words))
        os.kill(killed[victim], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(LabkitError, match="killed by SIGKILL|lost another one") as caught:
        train(config, quiet=True)
    killer.join()
    assert "\n" not in str(caught.value) and "run it again" in str(caught.value)
    assert sorted(killed) == [0, 1] and not any(map(psutil.pid_exists, killed.values()))
    assert descendants() <= processes and listening() <= ports and not left_in(words)
    assert not (runs / "mine" / "model").exists()
    whole = sorted(int(each.parent.name.rpartition("-")[2])
                   for each in folder.glob(f"*/{run_folder.COMPLETE}"))  # fmt: skip
    half = len(list(folder.glob("checkpoint-*"))) - len(whole)
    print(f"{sharding}: process {victim} was killed; whole are checkpoints {whole}, half {half}")
    assert not reached or whole[-1] >= reached * SAVED
    measured = json.loads((folder / f"checkpoint-{whole[-1]}" / run_folder.COMPLETE).read_text()) \
        if whole else []  # fmt: skip
    resumed = train(config, quiet=True)
    assert resumed.status == "done" and len(resumed.steps) == STEPS
    assert resumed.steps[: len(measured)] == measured, "it did not go on from the newest whole one"
    assert resumed.losses == expected.losses
    found = weights("mine")
    assert found.keys() == its_weights.keys()
    assert all(torch.equal(found[name], each) for name, each in its_weights.items())


def test_a_mistake_in_the_processes_is_one_sentence_and_leaves_nothing(
    tiny_run: Run, runs: Path, words: Path
) -> None:
    config = tiny_run(name="mine", nproc=2, attn_implementation="flash_attention_2",
                      share_prompts=False)  # fmt: skip
    with pytest.raises(LabkitError, match="'flash_attention_2' cannot be used here") as caught:
        train(config, quiet=True)
    assert "\n" not in str(caught.value)
    assert not (runs / "mine").exists() and not left_in(words)


def test_the_launcher_that_is_told_to_end_ends_all_in_a_sentence(
    tiny_run: Run, runs: Path, words: Path
) -> None:
    config = tiny_run(name="mine", nproc=2, per_device_train_batch_size=1, max_steps=4000)

    def end() -> None:
        limit = time.monotonic() + 120
        while len(pids(words)) < 2 and time.monotonic() < limit:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end).start()
    with pytest.raises(LabkitError, match="ended by SIGTERM") as caught:
        train(config, quiet=True)
    assert "\n" not in str(caught.value) and not left_in(words)
