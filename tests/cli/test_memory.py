"""`labkit estimate`: of a run's configuration, and with what a published figure states."""

import json
from pathlib import Path
from typing import Any

import pytest

from labkit.bench.records.memory_validation import DATA
from labkit.cli import program
from labkit.machine.datasheets import GIB
from labkit.memory.estimates import estimate_run
from labkit.memory.of_run import of_methods
from labkit.runs.config import load_config


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """Return the object that `labkit estimate … --json` prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        program.main(["estimate", *words, "--json"])
    out, err = capsys.readouterr()
    assert not stop.value.code, err
    return json.loads(out)


def test_a_pure_bf16_run_of_torchtune_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Its published peak, with the words its recipe needs; with fp32 masters it is another step."""
    rows = json.loads((DATA / "memory_published.json").read_text())["rows"]
    (row,) = [row for row in rows if row["source"] == "torchtune" and row["peak"] == 60.0]
    words = [row["model"], "--method", row["method"], "--device", "a100-80gb",
             "--batch-size", str(row["batch_size"]), "--seq-len", str(row["seq_len"]),
             "--repeat-kv"]  # fmt: skip
    assert row["choices"]["master_weights"] is False and row["choices"]["repeat_kv"] is True
    pure = printed(capsys, *words, "--no-master-weights")
    assert pure["peak_bytes"]["traced"] / GIB == pytest.approx(row["peak"], rel=0.08)
    assert pure["assumed"]["master_weights"] is False
    mixed = printed(capsys, *words)
    assert mixed["peak_bytes"]["traced"] / GIB > 1.08 * row["peak"]
    assert mixed["assumed"]["master_weights"] is True


STATED: list[tuple[list[str], list[str], str, list[Any], int]] = [
    # The step, the option, the key it sets, before and after, and which way the peak moves.
    (["--method", "full"], ["--no-master-weights"], "master_weights", [True, False], -1),
    (["--method", "full"], ["--master-weights"], "master_weights", [True, True], 0),
    (["--method", "lora"], ["--adapter-dtype", "bf16"], "adapter_dtype",
     ["float32", "bfloat16"], -1),
    (["--method", "lora"], ["--attention", "eager"], "attention", ["sdpa", "eager"], 1),
    (["--method", "lora"], ["--padding"], "padding", [False, True], 1),
    (["--method", "lora"], ["--no-padding"], "padding", [False, False], 0),
    (["--method", "lora"], ["--labelled-tokens", "9"], "labelled_tokens", [None, 9], -1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("step", "option", "key", "values", "change"), STATED, ids=[" ".join(o) for _, o, *_ in STATED]
)
def test_what_a_figure_must_state_can_be_said_and_is_shown(
    capsys: pytest.CaptureFixture[str],
    step: list[str],
    option: list[str],
    key: str,
    values: list[Any],
    change: int,
) -> None:
    words = ["tiny-llama", "--device", "t4", "--batch-size", "4", "--seq-len", "256", *step]
    before, after = printed(capsys, *words), printed(capsys, *words, *option)
    assert [before["assumed"][key], after["assumed"][key]] == values
    for column in ("analytic", "traced"):
        moved = after["peak_bytes"][column] - before["peak_bytes"][column]
        assert (moved > 0) - (moved < 0) == change, column


def test_what_a_step_does_not_have_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    full = printed(capsys, "tiny-bloom", "--method", "full", "--seq-len", "8", "--dtype", "fp32")
    assert full["assumed"] == {
        "dtype": "float32", "master_weights": None, "adapter_dtype": None, "attention": "eager",
        "padding": False, "labelled_tokens": None,
    }  # fmt: skip
    mamba = printed(capsys, "tiny-mamba", "--method", "lora", "--seq-len", "8")
    assert mamba["assumed"]["attention"] is None


def test_the_table_says_what_each_row_assumes(capsys: pytest.CaptureFixture[str]) -> None:
    rows = printed(capsys, "phi-1.5", "--no-master-weights", "--device", "t4")["rows"]
    assumed = {row["method"]: row["assumed"] for row in rows}
    assert assumed["full"]["master_weights"] is False and assumed["full"]["adapter_dtype"] is None
    assert assumed["lora"]["master_weights"] is None
    assert [assumed[name]["adapter_dtype"] for name in ("lora", "qlora")] == ["float32", "bfloat16"]
    masters = printed(capsys, "phi-1.5", "--master-weights", "--device", "t4")["rows"]
    assert {row["method"] for row in masters} == {"full"}
    apart = printed(capsys, "phi-1.5", "--device", "t4", "--no-gradient-checkpointing")["rows"]
    assert {row["gradient_checkpointing"] for row in apart} == {False}


def test_a_run_s_configuration_is_estimated_as_it_is_trained(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    short = ["--max-length", "64", "--model", "tiny-llama"]
    run = load_config("lora", {"max_length": "64", "model": "tiny-llama"})
    expected = estimate_run(run, device="t4").to_json()
    found = printed(capsys, "--config", "lora", "--device", "t4", *short)
    different = {"wall_seconds"}
    assert {k: v for k, v in found.items() if k not in different} == json.loads(
        json.dumps({k: v for k, v in expected.items() if k not in different})
    )
    assert (found["method"], found["batch_size"], found["seq_len"]) == ("lora", 2, 64)
    # Keys of the run, options of the estimate, and MODEL, which stands above both.
    changed = printed(capsys, "tiny-gemma", "--config", "lora", "--device", "t4", "--r=5",
                      "--max-length", "64", "--seq-len", "32", "--method", "full",
                      "--per-device-train-batch-size", "3")  # fmt: skip
    assert [changed[key] for key in ("model", "method", "batch_size", "seq_len")] == [
        "tiny-gemma", "full", 3, 32,
    ]  # fmt: skip
    assert changed["settings"]["lora_r"] == 5
    # A file of one's own, and a flag that it sets and the command takes back.
    file = tmp_path / "mine.yaml"
    file.write_text("model: tiny-llama\nmax_length: 48\ngradient_checkpointing: true\n")
    mine = printed(capsys, "--config", str(file), "--device", "t4")
    assert mine["settings"]["gradient_checkpointing"] is True and mine["seq_len"] == 48
    words = ["--config", str(file), "--device", "t4", "--no-gradient-checkpointing"]
    assert printed(capsys, *words)["settings"]["gradient_checkpointing"] is False


SETTINGS: dict[str, tuple[str, str, str, Any]] = {
    "r": ("lora", "8", "lora_r", 8),
    "target_modules": ("lora", "q_proj,v_proj", "lora_target_modules", ["q_proj", "v_proj"]),
    "lora_dropout": ("lora", "0.1", "lora_dropout", 0.1),
    "use_dora": ("lora", "true", "use_dora", True),
    "num_virtual_tokens": ("prefix", "50", "num_virtual_tokens", 50),
    "ia3_modules": ("ia3", "k_proj", "ia3_modules", ["k_proj"]),
    "adapter_len": ("llama-adapter", "30", "adapter_len", 30),
    "adapter_layers": ("llama-adapter", "1", "adapter_layers", 1),
    "bottleneck_size": ("bottleneck", "32", "bottleneck_size", 32),
    "bottleneck_after": ("bottleneck", "mlp", "bottleneck_after", ["mlp"]),
    "base": ("ia3", "8bit", "base", "8bit"),
    "double_quant": ("qlora", "false", "double_quant", False),
}
NO_MATTER = {"lora_alpha": "7", "bias": "all", "use_rslora": "true", "init_lora_weights": "pissa"}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_a_method_is_an_option(capsys: pytest.CaptureFixture[str], name: str) -> None:
    method, value, field, expected = SETTINGS[name]
    words = ["tiny-llama", "--method", method, "--device", "t4"]
    before = printed(capsys, *words)
    after = printed(capsys, *words, f"--{name.replace('_', '-')}", value)
    assert after["settings"][field] == expected
    assert {k for k, v in after["settings"].items() if v != before["settings"][k]} == {field}
    assert after["peak_bytes"] != before["peak_bytes"]


def test_every_setting_of_every_method_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tiny-llama", "--method", "lora", "--device", "t4"]
    before = printed(capsys, *words)
    for name, value in NO_MATTER.items():
        found = printed(capsys, *words, f"--{name.replace('_', '-')}", value)
        assert found["peak_bytes"] == before["peak_bytes"]
    needs_another = {"loftq_config"}
    assert {*SETTINGS, *NO_MATTER, *needs_another} == set(of_methods())


def test_the_table_is_of_the_base_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    plain = printed(capsys, "llama-3-8b", "--device", "t4", "--no-gradient-checkpointing")["rows"]
    words = ["llama-3-8b", "--device", "t4", "--base", "nf4", "--no-gradient-checkpointing"]
    found = printed(capsys, *words)["rows"]
    peaks = {row["method"]: row["peak_bytes"] for row in plain}
    assert len(found) == len({row["method"] for row in found})
    assert {row["method"] for row in found} == {*peaks} - {"full", "lora", "8bit"}
    for row in found:
        assert row["peak_bytes"] < peaks[row["method"]] or row["method"] == "qlora"


def test_an_encoder_decoder_writes_less_than_it_reads(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["t5-large", "--method", "full", "--device", "t4", "--batch-size", "8"]
    whole, short = printed(capsys, *words), printed(capsys, *words, "--target-len", "3")
    assert short["settings"]["target_len"] == 3
    for column in ("analytic", "traced"):
        assert short["peak_bytes"][column] < 0.9 * whole["peak_bytes"][column]
    assert short["step_seconds"]["low"] < 0.7 * whole["step_seconds"]["low"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "nothing to estimate: name a MODEL"),
        ("--config lorra", "configuration 'lorra' cannot be read"),
        ("--config lora --lerning-rate 1", "did you mean 'learning_rate'"),
        ("--config lora --max-length", "--max-length needs a value"),
        ("--config lora --max-length x", "max_length must be a whole number"),
        ("--config lora tiny-llama tiny-gemma", "unexpected 'tiny-gemma'"),
        ("tiny-llama --config lora --model tiny-gemma", "keep one of them"),
        ("--config lora --use-switchback true", "int8 products"),
        ("--config lora --optim lion_32bit", "optim 'lion_32bit' is unknown"),
        ("--config lora --master-weights", "master_weights are for full fine-tuning"),
        ("tiny-llama --max-length 9", "no option --max-length, and settings of a run need"),
        ("tiny-llama --metod lora", "did you mean '--method'"),
        ("tiny-llama --method bottleneck --botleneck-size 8", "did you mean '--bottleneck-size'"),
        ("tiny-llama --method bottleneck --bottleneck-size x", "bottleneck_size must be a whole"),
        ("tiny-llama --method bottleneck --bottleneck-size 0", "bottleneck_size must be above 0"),
        ("tiny-llama --method ia3 --base nf4 --max-length 9", "no option --max-length"),
        ("tiny-llama --method full --base nf4", "use base plain, or method"),
        ("tiny-llama --use-dora true --base 8bit --method lora", "set base to nf4 or plain"),
        ("tiny-llama --method lora --lora-r 4 --r 8", "lora_r is set twice"),
        ("tiny-llama --method lora --target-len 3", "target_len is for models with an encoder"),
        ("tiny-t5 --method lora --target-len 0", "target_len must be 1 or more"),
        ("tiny-llama tiny-gemma", "unexpected 'tiny-gemma'"),
        ("tiny-llama --attention flash", "attention 'flash' is unknown"),
        ("tiny-llama --method lora --attention flash", "attention 'flash' is unknown"),
        ("tiny-llama --adapter-dtype bf8", "adapter_dtype 'bf8' is unknown"),
        ("tiny-llama --labelled-tokens 0", "labelled_tokens must be between 1 and"),
        ("tiny-llama --method full --no-master-weights --sharding zero2 --num-gpus 2", "fsdp2"),
    ],
)
def test_a_mistake_is_one_sentence(
    capsys: pytest.CaptureFixture[str], words: str, sentence: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        program.main(["estimate", *words.split()])
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert err.startswith("labkit: ") and sentence in err and err.count("\n") == 1
