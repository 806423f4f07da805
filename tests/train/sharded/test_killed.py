"""A run of two real processes, started by `train` itself: one is killed, all end, it goes on."""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.util import get_temp_dir
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from labkit.errors import LabkitError
from labkit.runs import records, run_folder
from labkit.runs.config import RunConfig
from labkit.train import train

pytestmark = pytest.mark.usefixtures("runs", "few_objects")
Run = Callable[..., RunConfig]


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder in which launched processes leave word: a short path, as sockets need."""
    get_temp_dir()  # multiprocessing keeps the first one that it is given
    with tempfile.TemporaryDirectory(prefix="words-") as folder, monkeypatch.context() as patched:
        patched.setattr(tempfile, "tempdir", folder)
        patched.setenv("OMP_NUM_THREADS", "1")
        yield Path(folder)


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


@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
def test_killed_and_started_again_ends_with_the_same_weights(
    tiny_run: Run, runs: Path, words: Path, sharding: str
) -> None:
    config = tiny_run(name="mine", nproc=2, sharding=sharding, per_device_train_batch_size=1,
                      max_steps=24, save_steps=4, lora_dropout=0.2)  # fmt: skip
    before, killed = listening(), {}

    def kill() -> None:
        limit = time.monotonic() + 120
        marker = runs / "mine" / "checkpoints" / "checkpoint-8" / run_folder.COMPLETE
        while not marker.exists() and time.monotonic() < limit:
            time.sleep(0.002)
        killed.update(pids(words))
        os.kill(killed[1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(LabkitError, match="killed by SIGKILL|lost another one") as caught:
        train(config, quiet=True)
    killer.join()
    assert "\n" not in str(caught.value) and "run it again" in str(caught.value)
    assert sorted(killed) == [0, 1] and not any(map(psutil.pid_exists, killed.values()))
    assert listening() <= before and not left_in(words)
    assert records.load("mine").status in ("failed", "running")
    assert not (runs / "mine" / "model").exists()
    resumed = train(config, quiet=True)
    assert resumed.status == "done" and len(resumed.steps) == 24
    assert resumed.steps[:8] == records.load("mine").steps[:8]
    undisturbed = train(config.replace(name="other"), fresh=True, quiet=True)
    assert undisturbed.losses == resumed.losses
    found, expected = weights("mine"), weights("other")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


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
