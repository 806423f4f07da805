"""What `labkit estimate` answers, for one question and for the table of all."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from labkit.errors import LabkitError
from labkit.memory.estimates import estimate, find_device, needed, settings_for, table
from labkit.memory.formula import analytic
from labkit.memory.report import plot_timeline, render, render_table, timeline_alt
from labkit.memory.settings import StepSettings
from labkit.memory.trace.tracing import trace
from labkit.methods import METHODS


@pytest.fixture(scope="module")
def result():
    return estimate("llama-3-8b", device="a100-40gb", method="lora", batch_size=4, seq_len=1024)


def test_json_has_the_stable_keys(result):
    printed = json.loads(json.dumps(result.to_json()))
    wanted = {"model", "method", "batch_size", "seq_len", "device", "parts", "peak_bytes",
              "device_bytes", "fits", "step_seconds", "wall_seconds"}  # fmt: skip
    assert wanted <= set(printed)
    assert set(printed["peak_bytes"]) == {"analytic", "traced"}
    assert set(printed["step_seconds"]) == {"low", "high"}
    for columns in printed["parts"].values():
        assert set(columns) == {"analytic_bytes", "traced_bytes"}
    assert printed["parts"]["weights"]["traced_bytes"] >= 2 * 8_030_261_248


def test_parts_at_the_peak_add_up_and_the_timeline_reaches_it(result):
    assert sum(result.at_peak.values()) == result.peak_bytes["traced"]
    assert max(sum(v.values()) for _, v in result.timeline) == result.peak_bytes["traced"]
    layers = [name for name, _ in result.timeline if name.startswith("forward.0.")]
    assert layers == [f"forward.0.{index}" for index in range(32)]


def test_the_largest_batch_fits_and_one_more_does_not(result):
    assert not result.fits
    for name, value in (("batch_size", result.largest_batch_size),
                        ("seq_len", result.largest_seq_len)):  # fmt: skip
        for extra, fits in ((0, True), (max(1, value // 50), False)):
            settings = dataclasses.replace(result.settings, **{name: value + extra})
            need = needed(trace(settings).peak_bytes, settings)
            assert (need <= result.device_bytes) is fits


def test_a_card_below_the_weights_takes_no_batch_at_all():
    small = estimate("llama-3-70b", device="t4", method="lora", seq_len=64)
    assert not small.fits
    assert small.largest_batch_size == 0 and small.largest_seq_len == 0
    text = render(small)
    assert "does not fit" in text
    # 2 bytes for each frozen weight; weight and two moments in fp32 for each that trains.
    states = 2 * 70_553_706_496 + 12 * small.trainable_parameters
    assert f"weights and optimizer state alone take {states / 2**30:.2f} GiB" in text


def test_text_says_peak_phase_limit_and_time(result):
    text = render(result)
    for words in ("analytic", "traced", "peak (not the sum)", "backward pass of head and loss",
                  "does not fit on a100-40gb", "largest batch", "step time"):  # fmt: skip
        assert words in text


def test_the_figure_has_a_text_and_stacks_what_the_timeline_has(result):
    figure = plot_timeline(result)
    (axes,) = figure.axes
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "activations kept for backward" in labels
    top = max(sum(values.values()) for _, values in result.timeline) / 2**30
    assert axes.get_ylim()[1] >= top
    assert "peaks at" in timeline_alt(result)


def test_the_table_orders_methods_as_memory_does():
    rows = table("llama-3-8b", devices=("a100-40gb", "h100"))
    by_name = {(row.method, row.gradient_checkpointing): row for row in rows}
    assert len(rows) == 17  # nine methods with and without, no prefix with
    assert by_name["full", False].largest_batch_size == {"a100-40gb": 0, "h100": 0}
    lora, qlora = by_name["lora", True], by_name["qlora", True]
    assert 0 < lora.largest_batch_size["a100-40gb"] < lora.largest_batch_size["h100"]
    assert qlora.peak_bytes < lora.peak_bytes
    text = render_table("llama-3-8b", rows, seq_len=1024)
    assert "qlora + checkpointing" in text and "–" in text


def test_the_table_leaves_out_what_a_model_cannot_do():
    rows = table("mamba-1.4b", devices=("h100",))
    assert {row.method for row in rows} == {"full", "lora", "ia3"}
    with pytest.raises(LabkitError, match="mamba-1.4b"):
        table("mamba-1.4")


def test_a_folder_with_nothing_but_a_configuration_will_do(tmp_path):
    from labkit.models.registry import spec

    config = {**spec("tiny-llama").config, "model_type": "llama"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    from_folder = estimate(str(tmp_path), device="t4", seq_len=16)
    assert from_folder.peak_bytes == estimate("tiny-llama", device="t4", seq_len=16).peak_bytes


def test_an_architecture_without_formulas_is_traced_all_the_same(tmp_path):
    config = {
        "model_type": "gpt_neox", "hidden_size": 64, "num_hidden_layers": 6,
        "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 500,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = estimate(str(tmp_path), device="t4", seq_len=16)
    assert result.peak_bytes["analytic"] is None and result.peak_bytes["traced"] > 0
    assert result.largest_batch_size is None and result.step_seconds is None
    assert "traced" in render(result)


def test_a_cpu_is_this_machine_and_its_process_counts():
    card = find_device("cpu")
    settings = settings_for(card, "tiny-llama")
    assert settings.target == "cpu"
    assert needed(1000, settings) > 100 * 2**20


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"model": "lama-3-8b"}, "llama-3-8b"),
        ({"model": "llama-3-8b", "device": "a100"}, "a100-40gb"),
        ({"model": "llama-3-8b", "batch_sise": 2}, "did you mean 'batch_size'"),
        ({"model": "llama-3-8b", "lora_target_modules": "q_prj"}, "q_proj"),
        ({"model": "llama-3-8b", "method": "prefix", "gradient_checkpointing": True}, "choose one"),
        ({"model": "llama-3-8b", "sharding": "zero3"}, "num_gpus"),
        ({"model": "mamba-1.4b", "method": "qlora"}, "plain, with method lora or ia3 or full"),
        ({"model": "mamba-1.4b", "method": "prefix"}, "use lora or ia3 or full"),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence):
    arguments = {"device": "t4", **arguments}
    with pytest.raises(LabkitError, match=sentence) as raised:
        estimate(**arguments)
    assert "\n" not in str(raised.value)


REFUSED = """
import socket, sys
def refused(*arguments, **options):
    print("a socket was asked for", file=sys.stderr)
    raise OSError("no network here")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = refused
socket.getaddrinfo = refused
from labkit.cli import main
main(sys.argv[1:])
"""


def test_no_network_and_no_weights(tmp_path):
    """The stable command, in an empty home without a cache, with every connection refused."""
    command = "estimate llama-3-8b --method lora --batch-size 4 --seq-len 1024 --device a100-40gb"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "LABKIT_"))}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, *command.split(), "--json"],
        capture_output=True, text=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "a socket was asked for" not in done.stderr
    result = json.loads(done.stdout)
    assert result["peak_bytes"]["traced"] > 16e9 and not result["fits"]
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("llama-3-8b --batch-size 0", "batch_size must be a whole number above 0, got 0"),
        ("llama-3-8b --seq-len 0", "seq_len must be a whole number above 0"),
        ("llama-3-8b --device a10k", "no device is called 'a10k': did you mean 'a10'"),
        ("llama-3-8b --optim adam", "optim 'adam' is unknown: did you mean 'adamw_torch'"),
        ("llama-3-8b --lora-target-modules q_prj", "did you mean 'q_proj'"),
        ("llama-3-8b --sharding zero3", "set num_gpus to 2 or more"),
        ("llama-3-8b --timeline x.png", "choose a --method for it"),
        ("llama-3-8b --measure", "choose a --method for it"),
        ("lama-3-8b", "did you mean 'llama-3-8b'"),
        ("llama-3-8b --method lora --seq-len 99999999999", "seq_len must be at most 16,777,216"),
        ("llama-3-8b --method lora --batch-size -1", "batch_size must be a whole number above 0"),
        ("llama-3-8b --method lora --batch-size two", "--batch-size"),
        ("llama-3-8b --method prefix --gradient-checkpointing", "choose one of the two"),
        ("llama-3-8b --method qlora --sharding fsdp2 --num-gpus 2", "quantised weights are not"),
    ],
)
def test_the_command_says_what_is_wrong_and_exits_with_2(arguments, sentence, capsys):
    from labkit.cli.program import main

    with pytest.raises(SystemExit) as exit_:
        main(["estimate", *arguments.split()])
    shown = capsys.readouterr()
    assert exit_.value.code == 2 and shown.out == ""
    assert sentence in shown.err and shown.err.count("\n") == 1


def test_the_table_follows_the_choices_it_is_given():
    rows = table("llama-3-8b", devices=("t4",), checkpointing=(True,), optim="sgd", lora_r=64)
    assert [row.method for row in rows] == [
        "full", "lora", "qlora", "8bit", "prompt", "ia3", "llama-adapter", "bottleneck",
    ]  # fmt: skip
    assert all(row.gradient_checkpointing for row in rows)
    settings = settings_for(
        find_device("t4"), "llama-3-8b", gradient_checkpointing=True, optim="sgd", lora_r=64
    )
    assert rows[1].peak_bytes == analytic(settings).peak_bytes
    assert set(rows[1].largest_batch_size) == {"t4"}
    sharded = table("llama-3-8b", devices=("h100",), sharding="zero3", num_gpus=8)
    assert {row.method for row in sharded} == set(METHODS)


def test_formulas_need_no_torch():
    code = (
        "import sys\n"
        "from labkit.memory.estimates import table\n"
        "from labkit.memory.report import render_table\n"
        "print(render_table('phi-1.5', table('phi-1.5'), seq_len=1024))\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "phi-1.5" in done.stdout


def test_the_time_of_a_step_follows_the_rate_of_its_own_type():
    from labkit.memory.architectures import shape_of
    from labkit.memory.step_time import step_seconds

    # Emulated bfloat16: 9 GFLOP/s where float32 gives 81; memory so fast that it does not count.
    machine = dataclasses.replace(
        find_device("t4"), name="cpu", compute_capability=None, bandwidth_bytes_per_second=1e15,
        flops={"bfloat16": 9e9, "float32": 81e9},
    )  # fmt: skip
    low = {}
    for dtype in ("bfloat16", "float32"):
        settings = StepSettings(model="tiny-llama", target="cpu", dtype=dtype, seq_len=64)
        low[dtype], _ = step_seconds(shape_of(settings), settings, machine)
    assert low["bfloat16"] / low["float32"] == pytest.approx(9, rel=0.01)
