"""`torch_compile` with every method: it trains as it does without, or a note says why not."""

import io
from collections.abc import Callable
from contextlib import redirect_stderr
from typing import Any

import pytest
from torch import nn

from labkit.runs.config import RunConfig
from labkit.train.run import train

pytestmark = pytest.mark.usefixtures("runs", "few_objects")
METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora": {"method": "lora", "r": 4, "lora_dropout": 0.0},
    "dora": {"method": "lora", "r": 4, "use_dora": True},
    "ia3": {"method": "ia3"},
    "bottleneck": {"method": "bottleneck", "bottleneck_size": 8},
    "llama-adapter": {"method": "llama-adapter", "adapter_len": 4},
    "prefix": {"method": "prefix", "num_virtual_tokens": 4},
    "prompt": {"method": "prompt", "num_virtual_tokens": 4},
    "lora on 8bit": {"method": "lora", "r": 4, "base": "8bit"},
}
DECLINED = {"prefix": "layers that read a prefix", "lora on 8bit": "layers of base 8bit"}


@pytest.mark.parametrize("name", METHODS)
def test_compiled_layers_train_the_same_or_a_note_says_why_not(
    tiny_run: Callable[..., RunConfig], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layers as graphs, forward and backward; what the code generator makes is PyTorch's."""
    calls = []

    def compiled(self: nn.Module, **options: Any) -> None:
        calls.append(self)
        compile_(self, **options, backend="aot_eager")

    compile_ = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", compiled)
    settings = {**METHODS[name], "max_steps": 3, "max_train_samples": 8}
    plain = train(tiny_run(**settings, torch_compile="off"), quiet=True)
    assert not calls and plain.summary["compiled"] is False
    with redirect_stderr(io.StringIO()) as said:
        again = train(tiny_run(**settings, torch_compile="on"))
    assert again.losses == pytest.approx(plain.losses, rel=1e-5)
    assert again.losses[-1] != again.losses[0]
    if name in DECLINED:
        assert DECLINED[name] in said.getvalue() and not calls
        assert again.summary["compiled"] is False
    else:
        assert len(calls) == 2 and again.summary["compiled"] is True
