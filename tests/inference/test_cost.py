"""What answering costs: the cache by formula and by measurement, sizes to the byte, five forms."""

import gc
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from labkit.inference import cost
from labkit.inference.generate import load_generator
from labkit.machine import arithmetic
from labkit.models import load
from labkit.models.layers import weights_bytes


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma", "tiny-phi"])
@pytest.mark.parametrize(("tokens", "batch"), [(1, 1), (7, 3)])
def test_the_formula_is_what_the_model_keeps(tiny_model, name, tokens, batch):
    for dtype, width in [("float32", 4), ("bfloat16", 2)]:
        model = load.load_model(tiny_model(name), dtype=dtype)
        formula = cost.kv_cache_bytes(
            model.config, tokens=tokens, batch=batch, bytes_per_number=width
        )
        assert cost.measured_kv_cache_bytes(model, tokens=tokens, batch=batch) == formula


def test_the_cache_of_known_models():
    """Llama 2 7B keeps half a megabyte a token, Llama 3 8B a quarter of that: 8 of 32 heads."""
    sizes = [cost.kv_cache_bytes(load.config_of(n), tokens=1) for n in ("llama-2-7b", "llama-3-8b")]
    assert sizes == [2 * 32 * 4096 * 2, 2 * 32 * 1024 * 2]


def test_shared_tensors_count_once(tiny_llama):
    model = load.load_model(tiny_llama, dtype="bfloat16")
    buffers = sum(b.nbytes for b in model.buffers())
    distinct = {p.data_ptr(): p.nbytes for p in model.parameters()}
    assert weights_bytes(model) == sum(distinct.values()) + buffers


@pytest.fixture
def even_llama(tiny_llama, tmp_path) -> Path:
    """Return a tiny Llama whose widths are whole blocks of nf4: its CPU kernel takes no others."""
    folder = tmp_path / "even"
    shutil.copytree(tiny_llama, folder)
    config = transformers.LlamaConfig.from_pretrained(folder)
    config.hidden_size, config.intermediate_size = 128, 256
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("dtype", "fast"), [("bfloat16", "bf16"), ("float32", "float32")])
def test_forms_answer_and_take_what_their_bits_take(even_llama, tmp_path, monkeypatch, dtype, fast):
    monkeypatch.setattr(arithmetic, "fastest", lambda: dtype)
    torch.manual_seed(3)
    adapter = tmp_path / "adapter"
    settings = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(load.load_model(even_llama, dtype="float32"), settings).save_pretrained(adapter)
    costs, texts = {}, {}
    for label, generator in cost.variants(str(even_llama), str(adapter)):
        costs[label] = cost.cost(label, generator, prompt_tokens=8, new_tokens=2, repeats=1)
        texts[label] = generator.chat("Hello", max_new_tokens=6)
        if label == "merged, bf16":
            merged = {n: p.clone() for n, p in generator.model.named_parameters()}
        gc.collect()
    sizes = {label: c.weights_bytes for label, c in costs.items()}
    assert list(sizes) == list(
        dict.fromkeys([f"untouched, {fast}", f"LoRA beside the base, {fast}", f"merged, {fast}",
                       "merged, bf16", "merged, 8-bit", "merged, nf4"])
    )  # fmt: skip
    assert sizes[f"LoRA beside the base, {fast}"] > sizes[f"merged, {fast}"]
    assert sizes[f"merged, {fast}"] == sizes[f"untouched, {fast}"]
    assert sizes["merged, 8-bit"] > sizes["merged, nf4"]
    if dtype == "float32":
        assert sizes["merged, float32"] == pytest.approx(2 * sizes["merged, bf16"], rel=0.01)
        return
    assert sizes["merged, bf16"] > sizes["merged, 8-bit"]
    linears = sum(p.numel() for n, p in merged.items() if "proj" in n)
    # One byte and a scale a row, instead of two bytes.
    assert 0 < linears - (sizes["merged, bf16"] - sizes["merged, 8-bit"]) < 0.1 * linears
    exact = load_generator(str(adapter), dtype="float32").model.merge_and_unload()
    wanted = dict(exact.named_parameters())
    assert all(torch.equal(p, wanted[n].bfloat16()) for n, p in merged.items())
    assert texts["untouched, bf16"] != texts["merged, bf16"]
    assert list(cost.cost_table(list(costs.values())).index) == list(costs)


def test_a_fine_tuned_model_is_found_beside_its_base(tmp_path: Path):
    for name in ["Llama-2-7b-chat-hf", "Llama-2-7b-chat-hf-Lora", "Llama-2-7b-chat-hf-FFT",
                 "Meta-Llama-3-8B-Instruct", "Meta-Llama-3-8B-Instruct-FFT", "gemma-2b",
                 "orphan-Lora"]:  # fmt: skip
        (tmp_path / name).mkdir()
    found = cost.families(tmp_path)
    assert {base: list(labels) for base, labels in found.items()} == {
        "Llama-2-7b-chat-hf": ["untouched", "LoRA", "full"],
        "Meta-Llama-3-8B-Instruct": ["untouched", "full"],
    }
    assert found["Llama-2-7b-chat-hf"]["LoRA"] == tmp_path / "Llama-2-7b-chat-hf-Lora"
    assert cost.families(None) == cost.families(tmp_path / "missing") == {}
