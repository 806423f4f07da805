"""What every method promises: it trains, goes on, is saved alone, answers, merges or says why not.

A row is a method with settings; a new method is a line in `METHODS`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cut_off import cut_off_and_again, same_weights
from torch import nn

from labkit import methods
from labkit.datasets import sharing
from labkit.errors import LabkitError
from labkit.inference.export import merge
from labkit.inference.generate import Generator
from labkit.memory.formula import analytic
from labkit.memory.of_run import of_run
from labkit.methods import virtual_tokens
from labkit.methods.base import cast_inputs
from labkit.models import load
from labkit.models.layers import count_parameters
from labkit.models.quantised import TrainedOn
from labkit.runs.config import RunConfig
from labkit.train import fast_step
from labkit.train.artifacts import save_model
from labkit.train.run import train

pytestmark = pytest.mark.usefixtures("runs", "few_objects")
Run = Callable[..., RunConfig]

LOFTQ = {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4, "loftq_iter": 2}}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "r": 4},
    "rslora": {"method": "lora", "r": 4, "use_rslora": True},
    "dora": {"method": "lora", "r": 4, "use_dora": True},
    "pissa": {"method": "lora", "r": 4, "init_lora_weights": "pissa"},
    "loftq": {"method": "lora", "r": 4, **LOFTQ},
    "ia3": {"method": "ia3"},
    "bottleneck": {"method": "bottleneck", "bottleneck_size": 8},
    "llama-adapter": {"method": "llama-adapter", "adapter_len": 4},
    "prefix": {"method": "prefix", "num_virtual_tokens": 4},
    "prompt": {"method": "prompt", "num_virtual_tokens": 4},
}
every = pytest.mark.parametrize("name", METHODS)
BEGINS_ELSEWHERE = ("loftq", "prefix", "prompt")
"""Methods whose first forward is not the base model's."""


def test_no_method_is_left_out() -> None:
    left = {methods.METHODS[each["method"]].name for each in METHODS.values()}
    assert left == set(methods.in_training()) - {"full"}


def attached(config: RunConfig) -> Any:
    torch.manual_seed(0)
    model = load.load_model(config.model, dtype=methods.weights_dtype(config))
    model.config._name_or_path = config.model
    return methods.METHODS[config.method].attach(model, config)


def moved(model: nn.Module) -> nn.Module:
    """Return the model with every trained number changed at random."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def logits(model: nn.Module, ids: torch.Tensor | None = None) -> torch.Tensor:
    ids = torch.tensor([[5, 17, 300, 4, 99, 250, 31, 8]]) if ids is None else ids
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids).logits
    return found[:, virtual_tokens.rows(model) :]


@every
def test_it_begins_as_the_base_model_or_says_that_it_does_not(tiny_run: Run, name: str) -> None:
    config = tiny_run(**METHODS[name])
    base = logits(load.load_model(config.model, dtype="float32"))
    difference = float((logits(attached(config).eval()) - base).abs().max())
    assert (difference < 1e-4) is (name not in BEGINS_ELSEWHERE)


@every
def test_what_trains_is_what_the_formula_counts(tiny_run: Run, name: str) -> None:
    config = tiny_run(**METHODS[name])
    formula = analytic(of_run(config, target="cpu"))
    assert formula is not None
    assert count_parameters(attached(config))[0] == formula.trainable_parameters


@every
def test_a_run_that_is_cut_off_ends_as_one_that_is_not(
    tiny_run: Run, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_run(**METHODS[name], max_steps=5, save_steps=2, max_train_samples=12)
    whole = train(config, quiet=True)
    assert whole.losses[-1] != whole.losses[0] and whole.summary["labelled_logits"]

    again = cut_off_and_again(config, tmp_path / "others", monkeypatch)
    assert again.losses == whole.losses
    one = same_weights(whole, again)
    # An adapter, never a full model: what is stored is what trains.
    stored = sum(tensor.numel() for tensor in one.values())
    assert stored == whole.summary["trainable_parameters"]
    assert not (whole.model_path / "config.json").exists()


@every
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_loaded_is_what_was_saved(
    tiny_run: Run, tmp_path: Path, name: str, dtype: str
) -> None:
    config = tiny_run(**{**METHODS[name], "dtype": dtype})
    model = moved(attached(config))
    save_model(model, load.load_tokenizer(config.model), tmp_path / "model", base_name=config.model,
               trained_on=TrainedOn(dtype=methods.weights_dtype(config)))  # fmt: skip
    again = load.load_model(tmp_path / "model", dtype=dtype)
    cast_inputs(again, False)  # as in training: DoRA takes its norm in the input's type
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        assert torch.equal(logits(again), logits(model))
        base = load.load_model(config.model, dtype=dtype)
        assert (logits(base) - logits(model)).abs().max() > 1e-3


def sample(length: int, labelled: int, generator: torch.Generator) -> dict[str, Any]:
    ids = torch.randint(4, 700, (length,), generator=generator).tolist()
    labels = [-100] * (length - labelled) + ids[length - labelled :]
    return {"input_ids": ids, "labels": labels, "prompt_length": length - labelled}


@every
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_questions_that_share_a_prompt_do_not_see_each_other(
    tiny_run: Run, name: str, attention: str
) -> None:
    """Logits of the labelled tokens, in one sequence and in a sample each."""
    config = tiny_run(**METHODS[name])
    assert fast_step.shares_prompts(config, "llama")
    base = load.load_model(config.model, dtype="float32", attn_implementation=attention)
    model = moved(methods.METHODS[config.method].attach(base, config))
    generator = torch.Generator().manual_seed(2)
    report = sample(9, 0, generator)["input_ids"]
    rows = []
    for length in (6, 4, 7):
        rest = sample(length, 2, generator)
        rows.append({"input_ids": report + rest["input_ids"], "labels": [-100] * 9 + rest["labels"],
                     "prompt_length": 9 + rest["prompt_length"]})  # fmt: skip
    one = sharing.share_prompts(rows, max_length=999)
    assert one.pop("samples") == 3
    other = sharing.share_prompts(rows[:1], max_length=999)  # shorter, so it is padded
    other.pop("samples")
    batch = sharing.SharedPromptCollator(0)([one, other])
    alone = [{k: torch.tensor([row[k]]) for k in ("input_ids", "labels")} for row in rows]
    with torch.no_grad():
        together, _ = fast_step.labelled_logits(model, batch)
        apart = torch.cat([fast_step.labelled_logits(model, row)[0] for row in (*alone, alone[0])])
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)


@every
def test_the_labelled_loss_is_peft_s_own(tiny_run: Run, name: str) -> None:
    model = moved(attached(tiny_run(**METHODS[name])))
    rows = [sample(length, 3, torch.Generator().manual_seed(4)) for length in (9, 9)]
    inputs = {k: torch.tensor([row[k] for row in rows]) for k in ("input_ids", "labels")}
    assert fast_step.has_plain_logits(model, inputs)
    with torch.no_grad():
        ours = fast_step.labelled_loss(model, inputs, None)
        torch.testing.assert_close(ours, model(**inputs).loss, rtol=1e-5, atol=1e-5)


@every
def test_it_learns_the_same_with_checkpoints_or_is_refused(tiny_run: Run, name: str) -> None:
    settings = {**METHODS[name], "max_steps": 2, "max_train_samples": 8}
    if not methods.METHODS[METHODS[name]["method"]].checkpoints:
        with pytest.raises(
            LabkitError, match="choose one of the two, or a method of full, lora, ia3"
        ):
            tiny_run(**settings, gradient_checkpointing=True)
        return
    plain = train(tiny_run(**settings), quiet=True)
    again = train(tiny_run(**settings, gradient_checkpointing=True), quiet=True)
    assert again.losses == pytest.approx(plain.losses, rel=1e-5)


@every
def test_trl_s_own_loss_trains_it_too(tiny_run: Run, name: str) -> None:
    """With `fast` off the model's own forward is what is trained."""
    settings = {**METHODS[name], "max_steps": 2, "max_train_samples": 8, "share_prompts": False}
    fast = train(tiny_run(**settings), quiet=True)
    stock = train(tiny_run(**settings, fast=False, lr_scheduler_type="constant"), quiet=True)
    assert stock.summary["labelled_logits"] is False
    assert stock.losses[-1] != stock.losses[0] and fast.losses[-1] != fast.losses[0]


@every
def test_a_padded_batch_answers_as_one_prompt_alone(tiny_run: Run, name: str) -> None:
    """With a cache, left padding and prefixes that are read once; alone by full forwards."""
    model = moved(attached(tiny_run(**METHODS[name])))
    with torch.no_grad():  # random weights leave near ties
        for each in model.get_base_model().model.layers.parameters():
            if not each.requires_grad and each.dim() == 2:
                each.mul_(3)
    tokenizer = load.load_tokenizer(tiny_run().model)
    groups = [[[5, 6, 7, 8, 9, 10, 11], [5, 6, 7, 8, 20, 30]], [[5, 6, 40, 41, 42]], [[300, 301]]]
    found = Generator(name=name, tokenizer=tokenizer, model=model)._complete_groups(
        groups, max_new_tokens=11
    )
    for prompts, texts in zip(groups, found, strict=True):
        for prompt, text in zip(prompts, texts, strict=True):
            ids = list(prompt)
            while len(ids) < len(prompt) + 11:
                ids.append(int(logits(model, torch.tensor([ids]))[0, -1].argmax()))
                if ids[-1] == tokenizer.eos_token_id:
                    break
            alone = tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
            assert text == alone.strip()


@every
def test_peft_s_own_generate_reads_a_padded_batch_as_one_prompt_alone(
    tiny_run: Run, name: str
) -> None:
    """The server and lm-eval ask it so."""
    model = moved(attached(tiny_run(**METHODS[name]))).eval()
    virtual_tokens.place_text(model)
    ids = torch.tensor([[0] * 7 + [5, 6, 7], [0] * 5 + [8, 9, 10, 11, 12], list(range(20, 30))])
    asked = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "output_logits": True,
             "return_dict_in_generate": True, "pad_token_id": 0}  # fmt: skip
    found = model.generate(input_ids=ids, attention_mask=(ids > 0).long(), **asked)
    for row in range(3):
        own = ids[row : row + 1, ids[row] > 0]
        alone = model.generate(input_ids=own, attention_mask=torch.ones_like(own), **asked)
        for together, single in zip(found.logits, alone.logits, strict=True):
            torch.testing.assert_close(together[row], single[0], rtol=0, atol=2e-5)


@every
def test_it_merges_exactly_or_says_why_not(tiny_run: Run, tmp_path: Path, name: str) -> None:
    config = tiny_run(**METHODS[name])
    model = moved(attached(config))
    save_model(model, load.load_tokenizer(config.model), tmp_path / "model", base_name=config.model,
               trained_on=TrainedOn())  # fmt: skip
    if not methods.METHODS[config.method].mergeable:
        with pytest.raises(LabkitError, match="cannot be merged: use it as it is, or .* lora"):
            merge(str(tmp_path / "model"), tmp_path / "merged")
        assert not (tmp_path / "merged").exists()
        return
    merge(str(tmp_path / "model"), tmp_path / "merged", dtype="float32")
    assert "peft" not in json.dumps(json.loads((tmp_path / "merged/config.json").read_text()))
    merged = load.load_model(tmp_path / "merged", dtype="float32")
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["pissa", "loftq"])
def test_a_start_that_changes_a_bfloat16_base_is_repeated_in_bfloat16(
    tiny_run: Run, tmp_path: Path, name: str
) -> None:
    """In another type the base would lose other parts than it lost in training."""
    config = tiny_run(**{**METHODS[name], "dtype": "bfloat16"})
    model = moved(attached(config))
    save_model(model, load.load_tokenizer(config.model), tmp_path / "model", base_name=config.model,
               trained_on=TrainedOn(dtype="bfloat16"))  # fmt: skip
    exact = logits(model.float())
    again = load.load_model(tmp_path / "model", dtype="float32")
    torch.testing.assert_close(logits(again), exact, rtol=1e-5, atol=1e-5)
    merge(str(tmp_path / "model"), tmp_path / "merged", dtype="float32")
    merged = load.load_model(tmp_path / "merged", dtype="float32")
    torch.testing.assert_close(logits(merged), exact, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("settings", "message"), [
    ({"bottleneck_after": ("mlpp",)}, "bottleneck_after: no sublayer is called 'mlpp': did you"),
    ({"bottleneck_after": ()}, "bottleneck_after is empty: use attention, mlp or both"),
    ({"bottleneck_size": 0}, "bottleneck_size must be above 0, got 0"),
    ({"ia3_modules": ()}, "ia3_modules is empty: use default or name linear layers"),
    ({"adapter_len": 0}, "adapter_len must be above 0, got 0"),
    ({"adapter_layers": -1}, "adapter_layers must be 0 or more, got -1"),
    ({"num_virtual_tokens": 0}, "num_virtual_tokens must be above 0, got 0"),
])  # fmt: skip
def test_a_setting_out_of_range_is_one_sentence(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LabkitError, match=message):
        RunConfig(**settings)


@pytest.mark.parametrize(("model", "method", "settings", "message"), [
    ("tiny-mamba", "llama-adapter", {}, "llama-adapter .*mistral alone.* use .*lora"),
    ("tiny-mamba", "bottleneck", {}, "method bottleneck .*state-space.* use .*lora"),
    ("tiny-mamba", "prefix", {}, "method prefix .*state-space.* use .*lora"),
    ("tiny-gemma", "llama-adapter", {}, "llama-adapter .*mistral alone.* use .*prefix"),
    ("tiny-llama", "llama-adapter", {"adapter_layers": 3}, "at most 2, the layers of the model"),
    ("tiny-llama", "ia3", {"ia3_modules": ("kproj",)}, "no linear layer 'kproj'.*k_proj"),
    ("tiny-mamba", "ia3", {"ia3_modules": ("dt_proj",)}, "no linear layer 'dt_proj'.*stretched"),
])  # fmt: skip
def test_what_a_model_cannot_have_is_one_sentence(
    tiny_run: Run, tiny_model: Callable[[str], Path], model: str, method: str,
    settings: dict[str, Any], message: str,
) -> None:  # fmt: skip
    config = tiny_run(model=str(tiny_model(model)), method=method, **settings)
    with pytest.raises(LabkitError, match=message) as caught:
        train(config, quiet=True)
    assert "\n" not in str(caught.value)
