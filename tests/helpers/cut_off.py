"""A run that is cut off at the beginning of a step, and started again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from labkit.runs.config import RunConfig
from labkit.runs.records import RunRecord
from labkit.train import trainer
from labkit.train.run import train


class Cut(BaseException):
    """What ends a process, as far as a test can."""


def cut_off_and_again(
    config: RunConfig, folder: Path, monkeypatch: pytest.MonkeyPatch, *, step: int = 3
) -> RunRecord:
    """Train in `folder` until `step` steps are done, stop there, and start the same run again."""
    begin = trainer.MeterCallback.on_step_begin

    def cut(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == step:
            raise Cut
        begin(self, args, state, control, **kwargs)

    monkeypatch.setenv("LABKIT_RUNS", str(folder))
    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(trainer.MeterCallback, "on_step_begin", cut)
        train(config, quiet=True)
    return train(config, quiet=True)


def same_weights(one: RunRecord, other: RunRecord) -> dict[str, torch.Tensor]:
    """Assert that two runs have stored the same tensors, and return them."""
    first, second = (load_file(next(r.model_path.glob("*.safetensors"))) for r in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    return first
