"""Adapters that others trained: the model they make is the one that was trained, or a sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from labkit import cli
from labkit.errors import LabkitError
from labkit.inference import export
from labkit.models import adapters, load, registry

pytestmark = pytest.mark.usefixtures("runs")
IDS = torch.arange(5, 25)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits.float()


@pytest.fixture(scope="module")
def bases(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Two untrained models: one whose head is its embedding, one with a head of its own."""
    folders = {}
    for tied in (True, False):
        config = load.config_of(str(tiny_llama))
        config.tie_word_embeddings = tied
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("bases") / f"tied-{tied}"
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        load.load_tokenizer(tiny_llama).save_pretrained(folder)
        folders[tied] = folder
    return folders


def trained(base: Path, out: Path, *, more_rows: int = 0, **changes: Any) -> torch.Tensor:
    """Save an adapter as if it had been trained; return the logits it was saved with."""
    model = load.load_model(base, dtype="float32")
    if more_rows:
        model.resize_token_embeddings(model.config.vocab_size + more_rows)
    torch.manual_seed(1)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, **{"target_modules": "all-linear", **changes})
    adapted = get_peft_model(model, lora).eval()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    wanted = logits(adapted)
    adapted.save_pretrained(out)
    return wanted


KINDS: dict[str, dict[str, Any]] = {
    "both ends trained": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "embedding trained": {"modules_to_save": ["embed_tokens"]},
    "head trained": {"modules_to_save": ["lm_head"]},
    "embedding adapted": {"target_modules": ["q_proj", "embed_tokens"]},
    "head adapted": {"target_modules": ["v_proj", "lm_head"]},
    "some tokens trained": {"trainable_token_indices": [3, 7]},
    "layers repeated": {"target_modules": ["q_proj"], "layer_replication": [[0, 2], [0, 2]]},
    "DoRA on the head": {"use_dora": True, "target_modules": ["q_proj", "lm_head"]},
    "DoRA on the embedding": {"use_dora": True, "target_modules": ["q_proj", "embed_tokens"]},
    "PiSSA on the head": {"init_lora_weights": "pissa", "target_modules": ["q_proj", "lm_head"]},
    "fewer rows": {"more_rows": -8, "modules_to_save": ["embed_tokens", "lm_head"]},
    "ranks of their own": {"use_rslora": True, "rank_pattern": {"q_proj": 8},
                           "alpha_pattern": {"down_proj": 3}},
    "one layer of two": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]},
    "PiSSA": {"init_lora_weights": "pissa"},
    "OLoRA": {"init_lora_weights": "olora"},
    "more rows": {"more_rows": 6},
    "more rows, both trained": {"more_rows": 3, "modules_to_save": ["embed_tokens", "lm_head"]},
    "more rows, both adapted": {"more_rows": 5,
                                "target_modules": ["q_proj", "embed_tokens", "lm_head"]},
}  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_loaded_merged_saved_and_loaded_again_it_is_the_model_that_was_trained(
    kind: str, tied: bool, bases: dict[bool, Path], tmp_path: Path
) -> None:
    wanted = trained(bases[tied], tmp_path / "adapter", **KINDS[kind])
    assert torch.equal(logits(load.load_model(tmp_path / "adapter", dtype="float32")), wanted)
    export.merge(str(tmp_path / "adapter"), tmp_path / "out", dtype="float32")
    merged: Any = load.load_model(tmp_path / "out", dtype="float32")
    assert torch.allclose(logits(merged), wanted, atol=1e-5)
    # Other programs go by the configuration: it says of two weights that they are two.
    same = torch.equal(merged.get_input_embeddings().weight, merged.get_output_embeddings().weight)
    stored = json.loads((tmp_path / "out" / "config.json").read_text())
    assert stored["tie_word_embeddings"] is same
    assert stored["vocab_size"] == wanted.shape[-1]


OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Gemma's embedding adapted": ("tiny-gemma", {"target_modules": ["q_proj", "embed_tokens"]}),
    "Gemma's head trained": ("tiny-gemma", {"target_modules": ["q_proj"],
                                            "modules_to_save": ["lm_head"]}),
    "both of BLOOM's": ("tiny-bloom", {"target_modules": ["query_key_value"],
                                       "modules_to_save": ["word_embeddings", "lm_head"]}),
    "biases of all": ("tiny-phi", {"target_modules": ["q_proj", "fc1"], "bias": "all"}),
    "biases of LoRA": ("tiny-phi", {"target_modules": ["q_proj", "fc1"], "bias": "lora_only"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_so_it_is_on_other_architectures(
    kind: str, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    name, changes = OTHERS[kind]
    wanted = trained(tiny_model(name), tmp_path / "adapter", **changes)
    assert torch.equal(logits(load.load_model(tmp_path / "adapter", dtype="float32")), wanted)
    export.merge(str(tmp_path / "adapter"), tmp_path / "out", dtype="float32")
    merged = logits(load.load_model(tmp_path / "out", dtype="float32"))
    # Gemma's logits are large: its embedding is multiplied by the root of its width.
    assert torch.allclose(merged, wanted, atol=1e-5 * float(wanted.abs().max().clamp(min=1)))


def test_what_peft_adds_up_wrongly_is_refused(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """PEFT leaves a tied head's bias out beside trained tokens, and merges as if it had not."""
    base: Any = load.load_model(tiny_model("tiny-phi"), dtype="float32")
    base.config.tie_word_embeddings = True
    base.lm_head.weight = base.get_input_embeddings().weight
    torch.nn.init.normal_(base.lm_head.bias)
    base.save_pretrained(tmp_path / "base")
    load.load_tokenizer(tiny_model("tiny-phi")).save_pretrained(tmp_path / "base")
    trained(tmp_path / "base", tmp_path / "adapter", target_modules=["q_proj"],
            trainable_token_indices=[3, 7])  # fmt: skip
    with pytest.raises(LabkitError, match="cannot be merged: use the adapter as it is"):
        export.merge(str(tmp_path / "adapter"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("start", ["pissa_niter_4", "pissa_niter_16"])
def test_a_start_that_cannot_be_repeated_is_refused(
    start: str, bases: dict[bool, Path], tmp_path: Path
) -> None:
    trained(bases[True], tmp_path / "adapter", init_lora_weights=start)
    for call in (lambda: load.load_model(tmp_path / "adapter"),
                 lambda: export.merge(str(tmp_path / "adapter"), tmp_path / "out")):  # fmt: skip
        with pytest.raises(LabkitError, match=f"began as {start}.*train with pissa"):
            call()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["adapter", "base", "one tensor"])
def test_parts_that_were_never_gathered_are_named(
    what: str, bases: dict[bool, Path], tmp_path: Path
) -> None:
    trained(bases[False], tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    path = tmp_path / "adapter"
    if what == "base":
        path = tmp_path / "base"
        load.load_model(bases[False]).save_pretrained(path)
        file = path / "model.safetensors"
    tensors = load_file(file)
    for key in list(tensors)[: 1 if what == "one tensor" else None]:
        tensors[key] = torch.empty(0)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(LabkitError, match=r"tensors of size 0 .*ZeRO-3 without gathering"):
        load.load_model(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[1, 2]", r"holds \[1, 2\], where PEFT has an object"),
        ("null", "holds None"),
        ("{}", "has no peft_type"),
        ('{"base_model_name_or_path": "x", "r": 8}', "has no peft_type"),
        ('{"peft_type": "LORRA"}', r"peft_type 'LORRA': did you mean 'lora"),
        ('{"peft_type": ["LORA"]}', r"peft_type \['LORA'\]"),
        ('{"fine_tune_type": "lora", "lora_parameters": {"rank": 8}}', "adapter of MLX.*fuse"),
        ('{"num_layers": 16, "model": "m"}', "adapter of MLX"),
        ('{"peft_type": "LORA"', "is not valid JSON"),
        ('{"peft_type": "LORA"}', "does not say which.*--base"),
        ('{"peft_type": "LORA", "base_model_name_or_path": null}', "does not say which"),
        ('{"peft_type": "LORA", "base_model_name_or_path": 7}', "does not say which"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_configuration_that_is_none_of_peft_s(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(content)
    for call in (load.load_model, load.load_tokenizer, load.quantisation,
                 lambda path: export.merge(str(path), tmp_path / "out")):  # fmt: skip
        with pytest.raises(LabkitError, match=says) as caught:
            call(tmp_path)
        assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["peft_type", "base_model_name_or_path", "init_lora_weights", "r"]), inner, max_size=4),
    max_leaves=8), st.booleans())  # fmt: skip
def test_any_configuration_is_read_or_refused_in_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, content: Any, lora: bool
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    if lora and isinstance(content, dict):
        content["peft_type"] = "LORA"
    (folder / "adapter_config.json").write_bytes(json.dumps(content).encode("utf-16"))
    try:
        load.base_folder(folder)
    except LabkitError as error:
        assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    ("named", "name"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
        ("unsloth/SmolLM2-135M-Instruct-bnb-4bit", "smollm2-135m-instruct"),
        ("unsloth/smollm2-135m-instruct-unsloth-bnb-4bit", "smollm2-135m-instruct"),
        ("mlx-community/SmolLM2-135M-Instruct-8bit", "smollm2-135m-instruct"),
        ("someone/SmolLM2-135M-Instruct-GPTQ-Int4", "smollm2-135m-instruct"),
        ("/data/models/SmolLM2-135M-Instruct/", "smollm2-135m-instruct"),
        (r"C:\models\smollm2-135m-instruct-AWQ", "smollm2-135m-instruct"),
        (
            "/h/hub/models--HuggingFaceTB--SmolLM2-135M-Instruct/snapshots/0a1b",
            "smollm2-135m-instruct",
        ),
        ("unsloth/llama-3-8b-bnb-4bit", "llama-3-8b"),
        ("HuggingFaceTB/SmolLM2-360M-Instruct", None),
        ("HuggingFaceTB/SmolLM2-135M", None),
        ("me/tiny-llama-4bit", "tiny-llama"),
        ("4bit", None),
        ("", None),
    ],
)
def test_a_base_is_known_by_its_other_names(named: str, name: str | None) -> None:
    assert adapters.registered(named) == name


def test_another_name_of_a_base_is_taken_and_said_and_base_decides_otherwise(
    tiny_model: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    base = tiny_model("tiny-llama")
    monkeypatch.setattr(registry, "resolve", lambda name, fetch=True: {
        "tiny-llama": base}.get(name) or _not_here(name))  # fmt: skip
    file = tmp_path / "adapter_config.json"
    named = {"peft_type": "LORA", "base_model_name_or_path": "unsloth/Tiny-Llama-bnb-4bit"}
    file.write_text(json.dumps(named))
    assert load.base_folder(tmp_path) == base
    said = capsys.readouterr().err
    assert "unsloth/Tiny-Llama-bnb-4bit is taken to be tiny-llama" in said
    file.write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "some/other"}))
    with pytest.raises(LabkitError, match="needs its base model: no some/other"):
        load.base_folder(tmp_path)
    with adapters.on_base("tiny-llama"):
        assert load.base_folder(tmp_path) == base


def _not_here(name: str) -> Path:
    raise LabkitError(f"no {name} here")


def test_the_command_takes_the_base_it_is_given(
    bases: dict[bool, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = trained(bases[False], tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text())
                               | {"base_model_name_or_path": "gone/away"}))  # fmt: skip
    arguments = ["merge", str(tmp_path / "adapter"), str(tmp_path / "out"), "--dtype", "float32"]
    with pytest.raises(SystemExit) as exit_:
        cli.main([*arguments, "--base", str(bases[False])])
    assert exit_.value.code == 0
    merged = load.load_model(tmp_path / "out", dtype="float32")
    assert torch.allclose(logits(merged), wanted, atol=1e-5)
    with pytest.raises(LabkitError, match="needs its base model"):
        load.base_folder(tmp_path / "adapter")  # it was chosen for the one command
