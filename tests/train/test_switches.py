"""Switches of a run: int8 layers, several seeds."""

import pytest

from labkit.errors import LabkitError
from labkit.switchback import SwitchBackLinear
from labkit.train.run import train, train_repeatedly


@pytest.mark.parametrize("method", ["lora", "full"])
def test_switchback_converts_every_linear_layer_of_the_blocks(tiny_run, runs, method, monkeypatch):
    frozen = []
    freeze = SwitchBackLinear.freeze
    noting = lambda self: frozen.append(self) or freeze(self)  # noqa: E731
    monkeypatch.setattr(SwitchBackLinear, "freeze", noting)
    settings = {"method": method, "max_steps": 3}
    plain = train(tiny_run(**settings), quiet=True)
    int8 = train(tiny_run(**settings, use_switchback=True, switchback_min_features=0), quiet=True)
    assert plain.summary["switchback_layers"] == 0
    assert int8.summary["switchback_layers"] == 14  # seven in each of two blocks
    # The base of LoRA never changes, so it is quantised once.
    assert len(set(frozen)) == {"lora": 14, "full": 0}[method]
    assert int8.losses != plain.losses
    for ours, exact in zip(int8.losses, plain.losses, strict=True):
        assert ours == pytest.approx(exact, rel=0.02)
    assert int8.summary["trainable_parameters"] == plain.summary["trainable_parameters"]


def test_switchback_with_nothing_to_convert_is_refused_and_leaves_no_run(tiny_run, runs):
    with pytest.raises(LabkitError, match="1024"):
        train(tiny_run(use_switchback=True), quiet=True)
    assert not list(runs.glob("*/record.json"))


def test_repeat_trains_with_seeds_one_apart_and_calls_back(tiny_run, runs):
    seen = []
    config = tiny_run(max_steps=2, seed=7, name="many")
    records = train_repeatedly(config, repeat=2, after=lambda r: seen.append(r.name))
    assert [r.seed for r in records] == [7, 8]
    assert [r.name for r in records] == seen == ["many-seed7", "many-seed8"]
    assert records[0].losses != records[1].losses
    alone = train(tiny_run(max_steps=2, seed=8), quiet=True)
    assert alone.sha256 == records[1].sha256
