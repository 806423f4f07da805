"""Loading plain folders and adapters: same numbers as peft and transformers give by themselves."""

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from labkit.errors import LabkitError
from labkit.models import load, registry, tiny

INPUT = torch.tensor([[5, 17, 300, 4, 99]])


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=INPUT).logits


@pytest.fixture
def adapter(tiny_llama: Path, tmp_path: Path) -> Path:
    """An adapter that changes the model, saved as training saves it."""
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama)
    torch.manual_seed(1)
    model = get_peft_model(base, LoraConfig(r=4, init_lora_weights=False, task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path / "run" / "adapter")
    return tmp_path / "run" / "adapter"


def test_plain_folder(tiny_llama: Path) -> None:
    exact = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    model = load.load_model(tiny_llama, dtype="float32")
    assert not model.training
    assert torch.equal(logits(model), logits(exact))
    assert load.load_model(tiny_llama).dtype == torch.bfloat16


def test_a_tokenizer_that_can_neither_end_nor_pad_is_one_sentence(
    tiny_llama: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(LabkitError, match="neither an end nor a padding token: set eos_token"):
        load.load_tokenizer(folder)


def test_the_fingerprint_follows_all_that_answers(
    adapter: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    """The weights in either form, and those of the base."""
    base = shutil.copytree(tiny_llama, tmp_path / "base")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(base)
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    (stored,) = adapter.glob("*.safetensors")
    weights = load_file(stored)
    stored.unlink()
    found = []
    for change in (0.0, 1.0):
        torch.save({name: each + change for name, each in weights.items()},
                   adapter / "adapter_model.bin")  # fmt: skip
        found.append(load.fingerprint_with_base(adapter))
    (of_base,) = base.glob("*.safetensors")
    save_file({name: each + 1 for name, each in load_file(of_base).items()}, of_base,
              metadata={"format": "pt"})  # fmt: skip
    found.append(load.fingerprint_with_base(adapter))
    assert len(set(found)) == 3
    assert load.fingerprint_with_base(base) == registry.fingerprint_of(base)


def test_adapter_gives_what_peft_gives(adapter: Path, tiny_llama: Path) -> None:
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    before = logits(base)
    exact = logits(PeftModel.from_pretrained(base, adapter).eval())
    loaded = load.load_model(adapter.parent, dtype="float32")  # the run, not the folder in it
    assert torch.equal(logits(loaded), exact)
    assert not torch.allclose(exact, before, atol=1e-3)
    # Without a tokenizer of its own an adapter has its base's.
    assert load.load_tokenizer(adapter).get_vocab() == load.load_tokenizer(tiny_llama).get_vocab()


def test_adapter_keeps_options_for_its_base(adapter: Path) -> None:
    model = load.load_model(adapter, attn_implementation="eager")
    assert model.config._attn_implementation == "eager"
    assert model.base_model.model.model.embed_tokens.weight.dtype == torch.bfloat16


def rebase(adapter: Path, base: str) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": base}))


@pytest.mark.parametrize("base", ["tiny-llama", "/somewhere/else/tiny-llama"])
def test_adapter_finds_its_base_by_name(
    base: str, adapter: Path, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = logits(load.load_model(adapter, dtype="float32"))
    shutil.copytree(tiny_llama, tmp_path / "public" / "tiny-llama")
    monkeypatch.setenv("LABKIT_MODELS", str(tmp_path / "public"))
    rebase(adapter, base)
    assert torch.equal(logits(load.load_model(adapter, dtype="float32")), exact)


@pytest.mark.parametrize("base", ["", "/no/such/model"])
def test_adapter_without_its_base_says_so(base: str, adapter: Path) -> None:
    rebase(adapter, base)
    with pytest.raises(LabkitError, match="the adapter in .* needs its base model"):
        load.load_model(adapter)


def test_unreadable_adapter(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(LabkitError, match=r"adapter_config\.json is not readable"):
        load.load_model(adapter)


@pytest.mark.parametrize("kind", ["cut", "empty"])
def test_truncated_weights_are_one_sentence(kind: str, tiny_llama: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_llama, broken)
    content = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(content[:-100] if kind == "cut" else b"")
    with pytest.raises(LabkitError, match="no model can be loaded from .*broken"):
        load.load_model(broken)


def test_adapter_of_another_model_is_one_sentence(adapter: Path, tmp_path: Path) -> None:
    wider = transformers.AutoConfig.for_model(
        "llama", **{**tiny.TINY["tiny-llama"], "hidden_size": 128}, vocab_size=768
    )
    transformers.AutoModelForCausalLM.from_config(wider).save_pretrained(tmp_path / "wider")
    rebase(adapter, str(tmp_path / "wider"))
    with pytest.raises(LabkitError, match="no model can be loaded from .*adapter"):
        load.load_model(adapter)


def test_missing_tokenizer_is_one_sentence(tiny_llama: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_llama / name, bare)
    with pytest.raises(LabkitError, match="no tokenizer can be loaded from .*bare"):
        load.load_tokenizer(bare)


DAMAGED = {
    "of a later version": ("tokenizer.json", '{"version": "9.0", "model": {"type": "Future"}}'),
    "a list": ("tokenizer.json", "[1]"),
    "cut off": ("tokenizer.json", '{"version": "1.0", "model"'),
    "a configuration that is a list": ("tokenizer_config.json", "[1]"),
    "a configuration of brackets": ("tokenizer_config.json", "[" * 100_000),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_foreign_tokenizer_is_one_sentence(kind: str, tiny_llama: Path, tmp_path: Path) -> None:
    """What libraries raise for one is often a plain Exception."""
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    file, text = DAMAGED[kind]
    (folder / file).write_text(text)
    with pytest.raises(LabkitError, match="no tokenizer can be loaded from .*model") as caught:
        load.load_tokenizer(folder)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", ["[1]", '{"model_type": "llama", "num_attention_heads": "4"}',
                                     '{"model_type": "llama", "rope_scaling": [1]}'])  # fmt: skip
def test_a_foreign_configuration_is_one_sentence(
    content: str, tiny_llama: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    (folder / "config.json").write_text(content)
    for call in (load.load_model, load.config_of):
        with pytest.raises(LabkitError, match="no model can be loaded from") as caught:
            call(str(folder))
        assert len(str(caught.value).splitlines()) == 1


def test_unknown_dtype(tiny_llama: Path) -> None:
    with pytest.raises(LabkitError, match="did you mean 'bfloat16'"):
        load.load_model(tiny_llama, dtype="bf16")


def test_loading_is_silent_and_local(
    adapter: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kw: object) -> None:
        raise AssertionError("loading from a folder opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    load.load_model(adapter)
    load.load_tokenizer(adapter)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_loading_an_adapter_first_of_all_is_silent(adapter: Path) -> None:
    """What libraries print when they are imported, a process that has them already never shows."""
    code = f"from labkit.models import load; load.load_model({str(adapter)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", tiny.TINY)
def test_every_architecture_loads_in_its_class(
    name: str, tiny_model: Callable[[str], Path]
) -> None:
    model = load.load_model(tiny_model(name), dtype="float32")
    assert model.config.model_type == registry.spec(name).architecture
    assert load.config_of(name).hidden_size == model.config.hidden_size
    tokenizer = load.load_tokenizer(tiny_model(name))
    batch = tokenizer("total revenue in 2019", return_tensors="pt")
    loss = model(input_ids=batch.input_ids, labels=batch.input_ids).loss
    # Random weights know nothing: about the entropy of a uniform guess over the vocabulary.
    assert loss.item() == pytest.approx(torch.log(torch.tensor(768.0)).item(), abs=1.0)
