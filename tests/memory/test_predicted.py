"""What a run's record predicts: the batches it is about, and how near the peak comes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labkit.memory import predicted
from labkit.memory.formula import analytic
from labkit.memory.of_run import of_run
from labkit.runs import records
from labkit.runs.config import RunConfig
from labkit.train.run import train

Run = Callable[..., RunConfig]


def sequence(length: int, labelled: int) -> dict[str, list[int]]:
    """Return a sample whose last `labelled` tokens have labels."""
    return {
        "input_ids": [7] * length,
        "labels": [-100] * (length - labelled) + [7] * labelled,
    }


MIXED = [sequence(*each) for each in ((10, 2), (40, 4), (20, 3), (39, 7), (12, 2), (25, 9))]


def predict(config: RunConfig, rows: list[Any] = MIXED, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"attention": "sdpa", "labelled_logits": True, "grouped": True,
                             "cuda": False, **changes}  # fmt: skip
    return predicted.predict(config, rows, **given)


def test_the_peak_is_that_of_the_longest_batch_and_the_time_that_of_the_middle_one(
    tiny_run: Run,
) -> None:
    config = tiny_run(per_device_train_batch_size=2)
    found = predict(config)
    # Of like length: 40 and 39, 25 and 20, 12 and 10. Labels: (4 + 7)/2 and (9 + 3)/2, up.
    assert found["batches"] == {
        "largest": {"batch_size": 2, "seq_len": 40, "labelled_tokens": 6},
        "middle": {"batch_size": 2, "seq_len": 25, "labelled_tokens": 6},
    }
    settings = of_run(
        config, target="cpu", seq_len=40, labelled_tokens=6, padding=True, attention="sdpa"
    )
    expected = analytic(settings)
    assert expected is not None and found["peak_bytes"] == {"analytic": expected.peak_bytes}
    assert 0 < found["step_seconds"]["low"] < found["step_seconds"]["high"]
    # As they come: 10 and 40, 20 and 39, 12 and 25.
    mixed = predict(config, grouped=False)["batches"]
    assert [mixed[name]["seq_len"] for name in ("largest", "middle")] == [40, 39]


def test_what_a_batch_is_like_is_what_is_assumed(tiny_run: Run) -> None:
    alike = [sequence(30, 5)] * 4
    assert predict(tiny_run(), alike)["assumed"]["padding"] is False
    assert predict(tiny_run())["assumed"]["padding"] is True
    shared = [{**each, "segment_ids": [1] * 30} for each in alike]
    assert predict(tiny_run(), shared)["assumed"]["padding"] is True
    assert predict(tiny_run(), alike, attention="eager")["assumed"]["attention"] == "eager"
    flash = predict(tiny_run(), alike, attention="flash_attention_2")
    assert flash["assumed"]["attention"] == "sdpa"
    every = predict(tiny_run(), alike, labelled_logits=False)["batches"]
    assert every["largest"]["labelled_tokens"] is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"use_switchback": True}, "int8"), ({"optim": "lion_32bit"}, "lion_32bit")],
)
def test_what_is_not_known_is_null_and_says_why(
    tiny_run: Run, changes: dict[str, Any], reason: str
) -> None:
    found = predict(tiny_run(**changes))
    assert found["peak_bytes"] == {"analytic": None} and found["step_seconds"] is None
    assert reason in found["reason"]


def test_what_a_configuration_leaves_out_is_its_class_s_own_and_no_formula_costs_no_run(
    tiny_run: Run, tmp_path: Path
) -> None:
    whole = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32}
    peaks = []
    for config in ({"model_type": "llama"}, whole):
        (tmp_path / "config.json").write_text(json.dumps(config))
        peaks.append(predict(tiny_run(model=str(tmp_path)))["peak_bytes"]["analytic"])
    assert peaks[0] == peaks[1] > 2 * 6e9  # Llama-7B in 16 bit at least
    (tmp_path / "config.json").write_text('{"model_type": "gpt_neox"}')
    assert "no formula" in predict(tiny_run(model=str(tmp_path)))["reason"]


def test_a_card_without_a_datasheet_has_a_peak_and_no_time(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labkit.memory.estimates.gpus", lambda: [{"name": "NVIDIA Unheard-of"}])
    found = predict(tiny_run(), cuda=True)
    assert found["peak_bytes"]["analytic"] > 0 and found["step_seconds"] is None
    assert "GPU" in found["reason"]
    monkeypatch.setattr("labkit.memory.estimates.gpus", lambda: [{"name": "NVIDIA A100-SXM4-80GB"}])
    assert predict(tiny_run(), cuda=True)["step_seconds"] is not None


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_s_record_predicts_what_it_then_measures(
    runs: Path, tiny_run: Run, method: str
) -> None:
    record = train(tiny_run(method=method, max_steps=5), quiet=True)
    assert records.load(record.name).predicted == record.predicted
    peak = record.predicted["peak_bytes"]["analytic"]
    assert peak == pytest.approx(record.summary["peak_bytes"]["allocated"], rel=0.15)
    assert record.predicted["step_seconds"]["low"] > 0
    largest = record.predicted["batches"]["largest"]
    padded = largest["batch_size"] * largest["seq_len"]
    assert padded == max(step["padded_tokens"] for step in record.steps)
