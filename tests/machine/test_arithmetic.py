"""Which type is fast here: measured once, kept, read by the others, and never a reason to stop."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit import console
from labkit.errors import LabkitError
from labkit.machine import arithmetic
from labkit.runs.config import RunConfig
from labkit.train import run

AVX512_BF16 = {"float32": 100e9, "bfloat16": 210e9, "float16": 5e9, "bandwidth": 25e9, "int8": 3e11}
AVX2 = {"float32": 80e9, "bfloat16": 9e9, "float16": 11e9, "bandwidth": 20e9, "int8": 1e11}


@pytest.fixture
def machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[dict[str, float]], list[str]]]:
    """Return a function that makes this a machine of given rates; it returns what is measured."""
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(arithmetic, "_known", {})
    console.say_once.cache_clear()

    def play(rates: dict[str, float]) -> list[str]:
        measured: list[str] = []

        def measure(name: str) -> float:
            measured.append(name)
            return rates[name]

        measures = {name: lambda name=name: measure(name) for name in rates}
        monkeypatch.setattr(arithmetic, "_MEASURES", measures)
        monkeypatch.setattr(arithmetic, "_known", {})
        return measured

    yield play
    console.say_once.cache_clear()


def kept() -> Path:
    """Return the one file of kept rates."""
    (file,) = (arithmetic.cache_dir() / "arithmetic").glob("*.json")
    return file


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (AVX512_BF16, "bfloat16"),
        (AVX2, "float32"),
        ({**AVX2, "bfloat16": 1.19 * 80e9}, "float32"),  # no gain once casts are counted
        ({**AVX2, "bfloat16": 1.21 * 80e9}, "bfloat16"),
    ],
)
def test_auto_is_what_is_clearly_faster(machine: Any, rates: Any, expected: str) -> None:
    machine(rates)
    assert arithmetic.resolve("auto", "cpu") == expected
    assert arithmetic.resolve("auto", "cuda") == "bfloat16"
    for dtype in arithmetic.TYPES:  # what is asked for is obeyed
        assert arithmetic.resolve(dtype, "cpu") == dtype


def test_products_are_counted_as_torch_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    monkeypatch.setattr(arithmetic, "SECONDS", 1e6)
    done = []

    def once(work: Callable[[], object], seconds: float) -> float:
        with FlopCounterMode(display=False) as counter:
            work()
        done.append(counter.get_total_flops())
        return 0.5

    monkeypatch.setattr(arithmetic, "best_seconds", once)
    assert arithmetic._products("float32") == pytest.approx(sum(done) / (0.5 * len(done)))
    assert len(done) == 3


def test_a_slow_type_gets_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    clock = iter([0.0, 30.0, 30.0, 30.0])
    monkeypatch.setattr(arithmetic.time, "perf_counter", lambda: next(clock))
    assert arithmetic.best_seconds(lambda: calls.append(1), 0.1) == 30.0
    assert len(calls) == 1


def test_a_type_without_products_is_refused_in_a_sentence(machine: Any) -> None:
    machine({**AVX2, "float16": 0.0})
    with pytest.raises(LabkitError, match="float16 cannot be multiplied on this processor"):
        arithmetic.resolve("float16", "cpu")
    with pytest.raises(LabkitError, match="'bf16' is not known: did you mean 'bfloat16'"):
        arithmetic.resolve("bf16", "cpu")


def test_a_slow_type_is_remarked_upon_once(machine: Any, capsys: Any) -> None:
    machine(AVX2)
    for _ in range(3):
        assert arithmetic.resolve("bfloat16", "cpu") == "bfloat16"
    arithmetic.resolve("float32", "cpu")
    arithmetic.resolve("auto", "cpu")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "bfloat16" in said[0] and "8.9 times" in said[0]
    machine(AVX512_BF16)
    kept().unlink()
    assert "2.1 times" in (arithmetic.remark("float32") or "")
    assert arithmetic.remark("bfloat16") is None


def test_rates_are_measured_once_and_read_afterwards(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sorted(machine(AVX2)) == [] and arithmetic.fastest() == "float32"
    first = kept().read_text()
    again = machine(AVX512_BF16)  # another process of the same machine
    assert arithmetic.fastest() == "float32" and again == []
    assert arithmetic._rates(("float16",)) == {"float16": AVX512_BF16["float16"]}
    assert again == ["float16"] and set(json.loads(first)["rates"]) < set(
        json.loads(kept().read_text())["rates"]
    )
    # Another instruction set is another machine.
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2_PLAYED")
    assert arithmetic.fastest() == "bfloat16"


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", '{"schema": 1}', '{"schema": 1, "about": {}, "rates": {}}', "rates", "nan"],
)
def test_a_damaged_file_is_measured_anew(machine: Any, damage: str) -> None:
    machine(AVX2)
    arithmetic.rates()
    values = json.loads(kept().read_text())
    if damage == "rates":
        damage = json.dumps({**values, "rates": {"float32": "fast"}})
    if damage == "nan":
        damage = json.dumps({**values, "rates": {**values["rates"], "float32": float("nan")}})
    kept().write_text(damage)
    measured = machine(AVX512_BF16)
    assert arithmetic.fastest() == "bfloat16"
    assert sorted(measured) == ["bandwidth", "bfloat16", "float32"]
    assert json.loads(kept().read_text())["rates"]["float32"] == AVX512_BF16["float32"]


def test_an_unwritable_cache_costs_a_sentence(
    machine: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "file" / "cache"))
    measured = machine(AVX2)
    for _ in range(3):
        assert arithmetic.fastest() == "float32"
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "LABKIT_CACHE" in said[0]
    assert len(measured) == 3


def test_thirty_that_start_at_once_measure_once(tmp_path: Path) -> None:
    code = """
import os, time
from labkit.machine import arithmetic
arithmetic.identity = lambda: {"cpu": "one of thirty"}  # torch takes a second of each to import
def measure(rate):
    os.write(log, b"measured\\n")
    time.sleep(0.05)
    return rate
log = os.open(os.environ["LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
arithmetic._MEASURES = {name: lambda rate=rate: measure(rate) for name, rate in
                        {"float32": 3.0, "bfloat16": 2.0, "bandwidth": 1.0}.items()}
print(arithmetic.fastest())
"""
    environment = {**os.environ, "LABKIT_CACHE": str(tmp_path), "LOG": str(tmp_path / "log")}
    command = [sys.executable, "-c", code]
    students = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(30)
    ]
    answers = [student.communicate()[0].strip() for student in students]
    assert answers == ["float32"] * 30
    assert (tmp_path / "log").read_text().count("measured") == 3


def test_the_measurement_takes_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of a type whose product takes half a second, one product is timed.
    calls = []

    def slow(work: Callable[[], object], seconds: float) -> float:
        calls.append(seconds)
        clock[0] += 0.5
        return 0.5

    clock = [0.0]
    monkeypatch.setattr(arithmetic.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(arithmetic, "best_seconds", slow)
    rate = arithmetic._products("bfloat16")
    assert len(calls) == 1
    assert rate == 2 * arithmetic.ROWS * arithmetic.IN * arithmetic.OUT / 0.5


def test_real_rates_of_this_machine(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "SECONDS", 0.05)
    found = arithmetic.rates()
    assert min(found.float32, found.bfloat16, found.bandwidth_bytes_per_second) > 0
    cpu = arithmetic.device("CPU")
    assert cpu.flops == {"bfloat16": found.bfloat16, "float32": found.float32}
    assert cpu.peak_flops("float16") == found.float32
    assert cpu.bandwidth_bytes_per_second == found.bandwidth_bytes_per_second
    assert cpu.usable_bytes <= cpu.memory_bytes
    assert json.loads(kept().read_text())["about"]["threads"] > 0


def test_devices_by_name() -> None:
    assert arithmetic.device("a100-40gb").bandwidth_bytes_per_second == 1555e9
    with pytest.raises(LabkitError, match="did you mean 'l40s'"):
        arithmetic.device("l40x")


def test_a_run_is_known_by_the_type_it_resolves_to(
    machine: Any, tiny_run: Callable[..., RunConfig]
) -> None:
    for rates, dtype in ((AVX2, "float32"), (AVX512_BF16, "bfloat16")):
        machine(rates)
        arithmetic.kept_file().unlink(missing_ok=True)
        auto = run.prepare(tiny_run(dtype="auto"))
        assert auto.sha256 == run.prepare(tiny_run(dtype=dtype)).sha256
        assert auto.config.dtype == dtype


def test_the_record_says_the_type(
    machine: Any, runs: Path, tiny_run: Callable[..., RunConfig]
) -> None:
    machine(AVX2)
    record = run.train(tiny_run(dtype="auto"), quiet=True)
    assert record.summary["arithmetic"] == record.config["dtype"] == "float32"
    again = run.train(tiny_run(dtype="float32"), quiet=True)
    assert again.id == record.id


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["train", "--dtype", "bf16"], "dtype must be one of auto, bfloat16, float32, got 'bf16'"),
        (["infer", "MODEL", "--sid", "0", "--dtype", "float8"], "'float8' is not known"),
        (["eval", "MODEL", "--dtype", "bf16"], "did you mean 'bfloat16'"),
        (["estimate", "MODEL", "--method", "lora", "--device", "cpu", "--dtype", "f64"], "'f64'"),
    ],
)
def test_a_wrong_type_is_one_sentence(
    command: list[str], said: str, runs: Path, tiny_llama: Path, capsys: Any
) -> None:
    from labkit.cli.program import main

    with pytest.raises(SystemExit) as ended:
        main([str(tiny_llama) if word == "MODEL" else word for word in command])
    error = capsys.readouterr().err.strip()
    assert ended.value.code == 2
    assert said in error and len(error.splitlines()) == 1
    assert not runs.exists()


def test_a_step_on_a_quantised_base_stays_in_16_bit(machine: Any) -> None:
    machine(AVX2)
    assert arithmetic.of_step(None, target="cpu") == "float32"
    assert arithmetic.of_step("auto", target="cuda") == "bfloat16"
    assert arithmetic.of_step(None, target="cpu", quantised=True) == "bfloat16"
    assert arithmetic.of_step("fp32", target="cpu") == "fp32"


def test_the_better_of_two_measurements_is_kept(machine: Any) -> None:
    machine({**AVX2, "float32": 30e9})  # while something else ran
    assert arithmetic.rates().float32 == 30e9
    machine(AVX2)
    assert arithmetic.rates().float32 == 30e9
    assert arithmetic.rates(fresh=True).float32 == AVX2["float32"]
    machine({**AVX2, "float32": 30e9})
    assert arithmetic.rates(fresh=True).float32 == AVX2["float32"]
