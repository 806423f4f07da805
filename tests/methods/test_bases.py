"""Methods on a base in 8 or 4 bits: the gradients of a dequantised base, runs, merging."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from labkit import methods
from labkit.checkpoints import plausible
from labkit.errors import LabkitError
from labkit.inference.export import merge
from labkit.inference.generate import load_generator
from labkit.models import load, tiny
from labkit.models.layers import count_parameters
from labkit.runs.config import RunConfig
from labkit.train.artifacts import save_model
from labkit.train.run import train

pytestmark = pytest.mark.usefixtures("runs", "few_objects")
Run = Callable[..., RunConfig]
IDS = torch.tensor([[5, 17, 300, 4, 99, 250, 31, 8], [9, 9, 41, 640, 2, 77, 500, 1]])

BASES: dict[str, dict[str, Any]] = {
    "8bit": {"base": "8bit"},
    "nf4": {"base": "nf4"},
    "nf4-once": {"base": "nf4", "double_quant": False},
}
each_base = pytest.mark.parametrize("base", BASES)
IMPOSSIBLE = ("dora", "8bit")
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "r": 4},
    "dora": {"method": "lora", "r": 4, "use_dora": True},
    "ia3": {"method": "ia3"},
    "bottleneck": {"method": "bottleneck", "bottleneck_size": 8},
    "llama-adapter": {"method": "llama-adapter", "adapter_len": 4},
    "prefix": {"method": "prefix", "num_virtual_tokens": 4},
    "prompt": {"method": "prompt", "num_virtual_tokens": 4},
}


def attached(config: RunConfig, base: Any = None) -> Any:
    """Return the model with its method, every trained number moved at random."""
    torch.manual_seed(0)
    if base is None:
        base = load.load_model(config.model, dtype=methods.weights_dtype(config),
                               **methods.load_options(config))  # fmt: skip
    model = methods.METHODS[config.method].attach(base, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def gradients(model: Any) -> dict[str, torch.Tensor]:
    model.train()
    model.zero_grad()
    model(input_ids=IDS, labels=IDS).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module")
def even(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny Llama whose rows are whole blocks of 64, as nf4 needs on a CPU."""
    folder = tmp_path_factory.mktemp("even") / "tiny-even"
    return tiny.build_tiny("tiny-llama", folder, intermediate_size=128)


@pytest.fixture
def tiny_run(tiny_run: Run, even: Path) -> Run:
    """Return a function that makes a run of a second on that model."""
    return lambda **changes: tiny_run(**{"model": str(even), **changes})


def test_rows_that_blocks_do_not_fill_are_refused_on_a_cpu(tiny_run: Run, tiny_llama: Path) -> None:
    config = tiny_run(model=str(tiny_llama), base="nf4")
    with pytest.raises(LabkitError, match="reads 160 numbers.* 64, which base nf4 needs on a CPU"):
        train(config, quiet=True)


@pytest.mark.parametrize("double_quant", [True, False])
def test_an_nf4_base_loses_what_nf4_loses(even: Path, double_quant: bool) -> None:
    """9 % of normal numbers, by a level the nearest of 16 in blocks of 64 (QLoRA, appendix E)."""
    settings = load.quantisation_settings("nf4", dtype="float32", double_quant=double_quant)
    held = load.load_model(even, dtype="float32", quantization_config=settings)
    plain = load.load_model(even, dtype="float32").state_dict()
    for name, weight in held.dequantize(torch.float32).state_dict().items():
        if "proj" in name:
            assert 0.08 < (weight - plain[name]).norm() / plain[name].norm() < 0.105


def pairs(bases: tuple[str, ...]) -> pytest.MarkDecorator:
    """Return the mark of every method on each of these bases."""
    found = [(n, b) for n in METHODS for b in bases if (n, b) != IMPOSSIBLE]
    return pytest.mark.parametrize(("name", "base"), found)


def test_dora_on_8_bit_is_refused_in_one_sentence(tiny_run: Run) -> None:
    name, base = IMPOSSIBLE
    with pytest.raises(LabkitError, match="set base to nf4 or plain, or use_dora to false"):
        tiny_run(**METHODS[name], **BASES[base])


@pairs(tuple(BASES))
def test_gradients_are_those_on_the_dequantised_base(tiny_run: Run, base: str, name: str) -> None:
    config = tiny_run(**METHODS[name], **BASES[base])
    model = attached(config)
    # An evaluation comes first, as a run's does: it must not change what training computes.
    with torch.no_grad():
        model.eval()(input_ids=IDS)
    found = gradients(model)
    plain = load.load_model(config.model, dtype="float32", **methods.load_options(config))
    reference = attached(config, plain.dequantize(torch.float32))
    # A prefix begins as what the base makes of tokens, and 8-bit layers round more in evaluation.
    added = {n: p.data for n, p in model.named_parameters() if p.requires_grad}
    for key, parameter in reference.named_parameters():
        parameter.data = added.get(key, parameter.data)
    exact = gradients(reference)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert found.keys() == exact.keys() == names
    for key, gradient in exact.items():
        assert gradient.norm() > 0
        assert (found[key] - gradient).norm() <= 1e-3 * gradient.norm(), key


@each_base
def test_a_quantised_base_is_not_the_plain_one(tiny_run: Run, base: str) -> None:
    plain = tiny_run(**METHODS["lora"])
    config = plain.replace(**BASES[base])
    with torch.no_grad():
        one, other = (attached(each)(input_ids=IDS).logits for each in (plain, config))
    assert 1e-4 < (one - other).abs().max() < 0.5
    assert count_parameters(attached(config)) == count_parameters(attached(plain))


@pairs(("8bit", "nf4"))
def test_every_method_trains_a_run_on_every_base(tiny_run: Run, base: str, name: str) -> None:
    config = tiny_run(**METHODS[name], **BASES[base], max_train_samples=8, max_steps=3)
    record = train(config, quiet=True)
    assert record.status == "done" and record.losses[-1] != record.losses[0]
    assert not list(plausible.impossible(record)) and not list(plausible.contradictions(record))
    stored = load_file(record.model_path / "adapter_model.safetensors")
    # TRL would round what trains to bfloat16.
    assert any(not torch.equal(t, t.bfloat16().float()) for t in stored.values())
    assert all(t.dtype == torch.float32 for t in stored.values())
    form = json.loads((record.model_path / "trained_on.json").read_text())
    held = {"base": base, "double_quant": True, "dtype": "float32"}
    assert form == {"method": config.method, **held}
    generator = load_generator(str(record.model_path), dtype="float32")
    assert generator.complete([[5, 6, 7]], max_new_tokens=3)


@pairs(("8bit", "nf4"))
def test_bfloat16_trains_too(tiny_run: Run, base: str, name: str) -> None:
    config = tiny_run(**{**METHODS[name], **BASES[base], "dtype": "bfloat16"}, max_steps=3,
                      max_train_samples=4)  # fmt: skip
    record = train(config, quiet=True)
    assert record.losses[-1] != record.losses[0]
    stored = load_file(record.model_path / "adapter_model.safetensors")
    assert all(t.dtype == torch.float32 for t in stored.values())
    answers = load_generator(str(record.model_path), dtype="bfloat16")
    assert answers.complete([[5, 6, 7]], max_new_tokens=3)


@pytest.mark.filterwarnings("error:.*autograd kernel was not registered")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_evaluation_leaves_a_4_bit_base_its_gradient(tiny_run: Run, dtype: str) -> None:
    """bitsandbytes packs 4-bit weights at the first evaluation, and what is packed has none."""
    config = tiny_run(**{**METHODS["lora"], **BASES["nf4"], "dtype": dtype}, max_steps=3,
                      eval_steps=1, max_train_samples=4)  # fmt: skip
    record = train(config, quiet=True)
    assert record.status == "done" and record.losses[-1] != record.losses[0]
    kept = load_file(record.model_path / "adapter_model.safetensors")
    first = [t for name, t in kept.items() if "layers.0." in name and "lora_B" in name]
    assert first and all(t.abs().max() > 0 for t in first)


@pytest.mark.parametrize("base", ["8bit", "nf4"])
def test_a_base_goes_with_checkpoints(tiny_run: Run, base: str) -> None:
    config = tiny_run(**METHODS["lora"], **BASES[base], max_train_samples=8, max_steps=2)
    plain = train(config, quiet=True)
    again = train(config.replace(gradient_checkpointing=True), quiet=True)
    assert again.losses == pytest.approx(plain.losses, rel=1e-5)


@pairs(tuple(BASES))
def test_what_is_loaded_merges_into_the_model_that_was_trained(
    tiny_run: Run, tmp_path: Path, base: str, name: str
) -> None:
    """In float32: beside the quantised base and added to it, the same logits; on another, none."""
    config = tiny_run(**METHODS[name], **BASES[base])
    model = attached(config)
    tokenizer = load.load_tokenizer(config.model)
    save_model(model, tokenizer, tmp_path / "model", base_name=config.model,
               trained_on=methods.trained_on(config))  # fmt: skip
    assert load.quantisation(tmp_path / "model") == base.removesuffix("-once")
    with torch.no_grad():
        trained = model.train()(input_ids=IDS).logits
        again = load.load_model(tmp_path / "model", dtype="float32")
        torch.testing.assert_close(again(input_ids=IDS).logits, trained, rtol=1e-5, atol=1e-5)
        assert not again.training
        if not methods.METHODS[config.method].mergeable:
            return
        merge(str(tmp_path / "model"), tmp_path / "merged", dtype="float32")
        merged = load.load_model(tmp_path / "merged", dtype="float32")
        torch.testing.assert_close(merged(input_ids=IDS).logits, trained, rtol=1e-5, atol=2e-5)
        beside, added = (
            load_generator(str(tmp_path / folder), dtype="float32").complete(
                IDS.tolist(), max_new_tokens=8
            )
            for folder in ("model", "merged")
        )
        assert beside == added and any(beside)
        assert load.quantisation(tmp_path / "merged") is None
        (tmp_path / "model" / "trained_on.json").unlink()
        other = load.load_model(tmp_path / "model", dtype="float32")(input_ids=IDS).logits
        assert (other - trained).abs().max() > 1e-4


def test_a_form_that_is_none_is_one_sentence(tiny_run: Run, tmp_path: Path) -> None:
    config = tiny_run(**METHODS["ia3"])
    save_model(attached(config), load.load_tokenizer(config.model), tmp_path / "model",
               base_name=config.model, trained_on=methods.trained_on(config))  # fmt: skip
    (tmp_path / "model" / "trained_on.json").write_text('{"base": "nf5"}')
    with pytest.raises(LabkitError, match=r"trained_on.json holds .*nf5.* no form of a base"):
        load.load_model(tmp_path / "model")


def test_mamba_stands_on_no_quantised_base(
    tiny_run: Run, tiny_model: Callable[[str], Path]
) -> None:
    config = tiny_run(model=str(tiny_model("tiny-mamba")), base="nf4")
    with pytest.raises(LabkitError, match="past a quantised layer; use base plain, with .*lora"):
        train(config, quiet=True)
