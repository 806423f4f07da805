"""Merged and quantised models: the same answers in float32, and nothing left after a refusal."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

from labkit.datasets import tatqa
from labkit.errors import LabkitError
from labkit.inference import export, generate
from labkit.models import load

pytestmark = pytest.mark.usefixtures("runs")


@pytest.fixture
def adapter(tiny_llama: Path, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear",
                      init_lora_weights=False)  # fmt: skip
    model = get_peft_model(load.load_model(tiny_llama, dtype="float32"), lora)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def answers(path: Path, data: Path, dtype: str) -> list[str]:
    samples = tatqa.samples(tatqa.load(str(data), "test"))[:8]
    generator = generate.load_generator(str(path), dtype=dtype, exact=True)
    return [reply.text for reply in generator.answer(samples, max_new_tokens=8)]


def test_merged_weights_are_the_sum_and_answers_the_same(
    adapter: Path, tiny_llama: Path, few_reports: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "merged"
    export.merge(str(adapter), out, dtype="float32")
    unmerged: Any = load.load_model(adapter, dtype="float32").get_base_model()
    merged: Any = load.load_model(out, dtype="float32")
    for name in ("q_proj", "o_proj"):
        layer = getattr(unmerged.model.layers[1].self_attn, name)
        b, a = layer.lora_B["default"].weight, layer.lora_A["default"].weight
        exact = layer.base_layer.weight + layer.scaling["default"] * b @ a
        found = getattr(merged.model.layers[1].self_attn, name).weight
        assert torch.allclose(found, exact, atol=1e-6)
        assert not torch.allclose(found, layer.base_layer.weight, atol=1e-3)
    assert answers(out, few_reports, "float32") == answers(adapter, few_reports, "float32")
    assert [p.name for p in out.parent.iterdir()] == ["merged"]


def test_8bit_is_smaller_answers_and_is_not_quantised_twice(
    adapter: Path, few_reports: Path, tmp_path: Path
) -> None:
    out = tmp_path / "small"
    made = export.quantize(str(adapter), out, to="8bit")
    assert made.bytes["quantised"] < made.bytes["original"]
    assert load.quantisation(out) == "8bit"
    assert len(answers(out, few_reports, "bfloat16")) == 8
    for call in (lambda: export.quantize(str(out), tmp_path / "x", to="8bit"),
                 lambda: export.merge(str(out), tmp_path / "x")):  # fmt: skip
        with pytest.raises(LabkitError, match=r"stored in 8bit already|nothing to merge"):
            call()
    assert not (tmp_path / "x").exists()


def test_weights_that_lie_there_in_two_forms_are_counted_once(tmp_path: Path) -> None:
    """transformers loads the newer form, and the older ones beside it are never read."""
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(70))
    assert export.weight_bytes(tmp_path) == 70
    for part in (1, 2):
        (tmp_path / f"model-0000{part}-of-00002.safetensors").write_bytes(bytes(30))
    assert export.weight_bytes(tmp_path) == 60


@pytest.mark.parametrize("to", ["8bit", "nf4"])
def test_a_state_space_model_is_not_quantised(
    to: str, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(LabkitError, match="cannot be stored in .*: the scan of a state-space"):
        export.quantize(str(tiny_model("tiny-mamba")), tmp_path / "out", to=to)
    assert not list(tmp_path.iterdir())


def test_a_merged_model_stops_where_the_adapter_was_taught_to(
    adapter: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    tokenizer: Any = load.load_tokenizer(tiny_llama)
    taught = next(token for token in ("<|im_start|>", "!") if token in tokenizer.get_vocab()
                  and token != tokenizer.eos_token)  # fmt: skip
    tokenizer.eos_token = taught
    tokenizer.save_pretrained(adapter)
    export.merge(str(adapter), tmp_path / "merged")
    stored = json.loads((tmp_path / "merged/generation_config.json").read_text())
    base = json.loads((tiny_llama / "generation_config.json").read_text())["eos_token_id"]
    assert stored["eos_token_id"] == [base, tokenizer.convert_tokens_to_ids(taught)]


@pytest.mark.parametrize("settings", [PrefixTuningConfig, PromptTuningConfig])
def test_methods_that_change_no_weight_cannot_be_merged(
    settings: Any, tiny_llama: Path, tmp_path: Path
) -> None:
    model = get_peft_model(load.load_model(tiny_llama, dtype="float32"),
                           settings(task_type="CAUSAL_LM", num_virtual_tokens=4))  # fmt: skip
    model.save_pretrained(tmp_path / "adapter")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(LabkitError, match="changes no weight of its base"):
        export.merge(str(tmp_path / "adapter"), tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("base", ["tiny-gemma", "tiny-bloom", "tiny-mamba"])
def test_an_adapter_of_another_base_is_one_sentence(
    base: str, adapter: Path, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    file = adapter / "adapter_config.json"
    settings = json.loads(file.read_text())
    settings["base_model_name_or_path"] = str(tiny_model(base))
    file.write_text(json.dumps(settings))
    with pytest.raises(LabkitError) as caught:
        export.merge(str(adapter), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter"]


def test_refusals_leave_everything_as_it_was(
    adapter: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("kept")
    before = sorted(tmp_path.rglob("*"))
    for call, message in [
        (lambda: export.merge(str(adapter), full), "is not empty"),
        (lambda: export.merge(str(adapter), full / "mine"), "is a file"),
        (lambda: export.merge(str(tiny_llama), tmp_path / "o"), "nothing to merge"),
        (lambda: export.merge("nothing", tmp_path / "o"), "neither a folder"),
        (lambda: export.merge(str(adapter), tmp_path / "o", dtype="int8"), "is not known"),
        (lambda: export.quantize(str(adapter), full, to="8bit"), "is not empty"),
        (lambda: export.quantize(str(adapter), tmp_path / "o", to="nf5"), "is not a format"),
        (lambda: export.quantize(str(adapter), tmp_path / "o", to="nf4"), "multiple of 64"),
        (lambda: export.quantize("nothing", tmp_path / "o", to="8bit"), "neither a folder"),
    ]:
        with pytest.raises(LabkitError, match=message):
            call()
    assert sorted(tmp_path.rglob("*")) == before
