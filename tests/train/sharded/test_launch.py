"""Who starts processes, and what ends them; nothing is started here."""

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from labkit.errors import LabkitError
from labkit.runs.config import RunConfig
from labkit.train.sharded import group, launch

LAUNCHED = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "1"}  # fmt: skip


def test_one_process_asks_nobody() -> None:
    assert not group.inside() and group.first() and (group.rank(), group.size()) == (0, 1)
    group.join()
    group.wait()
    assert group.totals([1.0, 2.0]) == [1.0, 2.0] and group.of_all("a") == ["a"]
    assert group.as_first(lambda: 7) == 7


def test_processes_are_started_when_there_are_to_be_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not launch.needed(RunConfig())
    assert launch.needed(RunConfig(nproc=2)) and launch.needed(RunConfig(sharding="fsdp2"))
    with launch.over(launch.Nodes(nnodes=2, node_rank=1, rdzv_endpoint="there:29500")):
        assert launch.needed(RunConfig())
    assert not launch.needed(RunConfig())
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    assert not launch.needed(RunConfig(nproc=2)), "a launcher has started them"
    assert (group.rank(), group.size(), group.first()) == (1, 4, False)


def test_a_launcher_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    assert launch.as_asked(RunConfig()).nproc == 4
    assert launch.as_asked(RunConfig(nproc=4)).nproc == 4
    with pytest.raises(LabkitError, match="nproc is 2, and the launcher started 4"):
        launch.as_asked(RunConfig(nproc=2))


@pytest.mark.parametrize(
    ("nodes", "words"),
    [({"nnodes": 0}, "above 0"), ({"nnodes": 2, "node_rank": 2}, "from 0 to 1"),
     ({"nnodes": 2}, "set --rdzv-endpoint")],
)  # fmt: skip
def test_machines_that_cannot_meet_are_refused(nodes: dict[str, int], words: str) -> None:
    with pytest.raises(LabkitError, match=words):
        launch.Nodes(**nodes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"use_switchback": True, "sharding": "fsdp2"}, "use_switchback"),
     ({"base": "8bit", "sharding": "fsdp2"}, "use sharding none, or another base"),
     ({"base": "nf4", "sharding": "zero3"}, "use sharding none or fsdp2"),
     ({"task": "dpo", "sharding": "fsdp2"}, "set reference to precomputed, or use sharding none")],
)  # fmt: skip
def test_what_cannot_be_shared_is_refused_before_anything_starts(
    changes: dict[str, object], words: str
) -> None:
    with pytest.raises(LabkitError, match=words):
        launch.as_asked(RunConfig(**changes))


def test_what_works_another_way_is_let_by() -> None:
    precomputed = {"task": "dpo", "reference": "precomputed"}
    for changes in ({"base": "nf4", "sharding": "fsdp2"}, {**precomputed, "sharding": "fsdp2"}):
        assert launch.as_asked(RunConfig(**changes)).sharding == "fsdp2"


def why(folder: Path, codes: dict[int, int], words: dict[int, tuple[str, str]]) -> BaseException:
    for rank, each in words.items():
        (folder / f"{rank}.json").write_text(json.dumps(each))
    return launch._why({k: SimpleNamespace(exitcode=code) for k, code in codes.items()}, folder)


def test_a_killed_process_is_named_with_its_signal(tmp_path: Path) -> None:
    error = why(tmp_path, {1: -signal.SIGKILL}, {0: ("lost", "process 0 of 2 lost another one")})
    assert isinstance(error, LabkitError) and "process 1 was killed by SIGKILL" in str(error)


def test_the_mistake_is_said_and_not_that_others_lost_who_made_it(tmp_path: Path) -> None:
    error = why(tmp_path, {0: 2}, {0: ("lost", "lost one"), 1: ("mistake", "no such file")})
    assert isinstance(error, LabkitError) and str(error) == "no such file"


def test_a_crash_keeps_its_traceback_and_an_interruption_is_one(tmp_path: Path) -> None:
    error = why(tmp_path, {1: 2}, {1: ("crash", "Traceback …"), 0: ("lost", "lost one")})
    assert isinstance(error, RuntimeError) and "process 1 failed:\nTraceback" in str(error)
    (tmp_path / "1.json").unlink()
    assert isinstance(why(tmp_path, {0: 2}, {0: ("interrupted", "")}), KeyboardInterrupt)


def test_a_script_is_not_run_again_by_the_processes_it_starts(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""\
        import os, tempfile
        from pathlib import Path
        from labkit.train.sharded import launch
        said = Path(tempfile.mkdtemp(dir="."))
        print(launch.run(os.getpid, said=said, nproc=1, nodes=launch.Nodes()) != os.getpid())
        print(Path(__file__).name)
    """)
    )
    ended = subprocess.run([sys.executable, str(script)], cwd=tmp_path, text=True,
                           capture_output=True)  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["True", "script.py"]


def test_one_that_said_nothing_is_named(tmp_path: Path) -> None:
    assert "process 3 ended with exit code 9" in str(why(tmp_path, {3: 9}, {}))
