"""Every fast path against the plain computation it replaces, in float32."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from labkit import methods
from labkit.datasets import encode, sharing, tatqa
from labkit.machine import compiled_code, heap
from labkit.models import load
from labkit.runs.config import RunConfig
from labkit.switchback import levels
from labkit.train import fast_step

ARCHITECTURES = ["tiny-llama", "tiny-gemma", "tiny-phi", "tiny-bloom", "tiny-mamba"]


@pytest.fixture(scope="module")
def encoded(tiny_llama: Path, few_reports: Path) -> list[list[dict[str, Any]]]:
    """Real samples, by report; all tiny models have the same tokenizer."""
    tokenizer = load.load_tokenizer(tiny_llama)
    return [
        [
            encode.encode(tokenizer, tatqa.Sample(report=report, question=question),
                           max_length=2048)
            for question in report.questions
        ]
        for report in tatqa.load(str(few_reports), "train")
    ]  # fmt: skip


def padded(samples: list[dict[str, Any]], side: str = "right") -> dict[str, torch.Tensor]:
    """Pad by hand; the trainer's collator pads on the right."""
    longest = max(len(s["input_ids"]) for s in samples)

    def row(ids: list[int], pad: int) -> list[int]:
        padding = [pad] * (longest - len(ids))
        return ids + padding if side == "right" else padding + ids

    return {
        "input_ids": torch.tensor([row(s["input_ids"], 2) for s in samples]),
        "labels": torch.tensor([row(s["labels"], -100) for s in samples]),
        "attention_mask": torch.tensor([row([1] * len(s["input_ids"]), 0) for s in samples]),
    }


def labels_in(samples: list[dict[str, Any]]) -> int:
    return sum(label != -100 for s in samples for label in s["labels"])


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_same_gradients(ours: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == exact.keys() and exact
    for name, gradient in exact.items():
        scale = gradient.abs().max()
        assert (ours[name] - gradient).abs().max() <= 1e-4 * scale, name


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_labelled_loss_is_the_model_s_own_loss(
    tiny_model: Callable[[str], Path], encoded: list[list[dict[str, Any]]], name: str, side: str
) -> None:
    model = load.load_model(tiny_model(name), dtype="float32")
    batch = padded([encoded[0][0], encoded[1][1], encoded[2][0]], side)
    assert not batch["attention_mask"].all(), "nothing is padded, so padding is not tested"
    exact = model(**batch).loss
    exact.backward()
    wanted = gradients(model)
    loss = fast_step.labelled_loss(model, batch, None)
    loss.backward()
    torch.testing.assert_close(loss, exact, rtol=1e-6, atol=1e-6)
    assert_same_gradients(gradients(model), wanted)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_accumulated_batches_add_up_to_the_mean_over_all_labels(
    tiny_model: Callable[[str], Path], encoded: list[list[dict[str, Any]]], name: str
) -> None:
    """Micro-batches with unlike numbers of labels, divided by the labels of the whole step."""
    model = load.load_model(tiny_model(name), dtype="float32")
    samples = sorted((s for group in encoded for s in group), key=lambda s: labels_in([s]))
    parts = [samples[:1], samples[-3:]]
    whole = [s for part in parts for s in part]
    count = torch.tensor(labels_in(whole))
    assert labels_in(parts[0]) * 3 < labels_in(parts[1])
    exact = model(**padded(whole)).loss
    exact.backward()
    wanted = gradients(model)
    total = 0.0
    for part in parts:
        loss = fast_step.labelled_loss(model, padded(part), count)
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(exact.item(), rel=1e-5)
    assert_same_gradients(gradients(model), wanted)


def test_with_adapters_only_their_gradients_appear_and_they_are_the_same(
    tiny_llama: Path, encoded: list[list[dict[str, Any]]]
) -> None:
    config = RunConfig(dtype="float32", r=4)
    base = load.load_model(tiny_llama, dtype="float32")
    model = methods.METHODS["lora"].attach(base, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    batch = padded(encoded[0])
    model(**batch).loss.backward()
    wanted = gradients(model)
    fast_step.labelled_loss(model, batch, None).backward()
    assert_same_gradients(gradients(model), wanted)
    assert all("lora_" in name for name in wanted)


def test_every_answer_s_end_is_learned(
    tiny_llama: Path, encoded: list[list[dict[str, Any]]]
) -> None:
    """Also where the padding token is the end token, as it is here."""
    tokenizer = load.load_tokenizer(tiny_llama)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.pad_token_id == end
    model = load.load_model(tiny_llama, dtype="float32")
    for group in encoded:
        _, labels_N = fast_step.labelled_logits(model, padded(group))
        assert int((labels_N == end).sum()) == len(group)
        assert labels_N[-1] == end


SHARED = ["tiny-llama", "tiny-gemma", "tiny-phi"]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", SHARED)
def test_shared_prompts_are_the_same_sum_of_losses(
    tiny_model: Callable[[str], Path],
    encoded: list[list[dict[str, Any]]],
    name: str,
    attention: str,
) -> None:
    model = load.load_model(tiny_model(name), dtype="float32", attn_implementation=attention)
    groups = encoded[:3]
    samples = [s for group in groups for s in group]
    count = torch.tensor(labels_in(samples))
    exact = sum(model(**padded([s])).loss * labels_in([s]) / count for s in samples)
    exact.backward()
    wanted = gradients(model)
    rows = sharing.share_all(groups, max_length=4096)
    assert len(rows) == len(groups)
    assert sum(len(r["input_ids"]) for r in rows) < 0.7 * sum(len(s["input_ids"]) for s in samples)
    batch = sharing.SharedPromptCollator(2)(rows)
    assert (batch["segment_ids"] == sharing.PADDING_SEGMENT).any()
    loss = fast_step.labelled_loss(model, batch, count)
    loss.backward()
    torch.testing.assert_close(loss, exact, rtol=1e-5, atol=1e-5)
    assert_same_gradients(gradients(model), wanted)


def test_models_that_share_prompts_are_those_tested_and_their_kin() -> None:
    config = RunConfig()
    shares = {name for name in ARCHITECTURES
              if fast_step.shares_prompts(config, name.removeprefix("tiny-"))}  # fmt: skip
    assert shares == set(SHARED)
    for off in ({"fast": False}, {"share_prompts": False},
                {"attn_implementation": "flash_attention_2"}):  # fmt: skip
        assert not fast_step.shares_prompts(RunConfig(**off), "llama")


def test_a_long_report_is_cut_into_sequences_that_fit(encoded: list[list[dict[str, Any]]]) -> None:
    group = max(encoded, key=len)
    limit = max(len(s["input_ids"]) for s in group) + 40
    rows = sharing.share_all([group], max_length=limit)
    assert len(rows) > 1
    assert all(len(row["input_ids"]) <= limit for row in rows)
    assert sum(labels_in([row]) for row in rows) == labels_in(group)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_plain_models_have_plain_logits(
    tiny_model: Callable[[str], Path], encoded: list[list[dict[str, Any]]], name: str
) -> None:
    model = load.load_model(tiny_model(name), dtype="float32")
    assert fast_step.has_plain_logits(model, padded(encoded[0][:1]))


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [("gemma2", {"final_logit_softcapping": 0.5}), ("granite", {"logits_scaling": 8.0}),
     ("cohere", {"logit_scale": 0.0625})],
)  # fmt: skip
def test_models_that_change_their_logits_are_noticed(
    encoded: list[list[dict[str, Any]]], architecture: str, settings: dict[str, float]
) -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        architecture, vocab_size=768, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, pad_token_id=2, bos_token_id=1,
        eos_token_id=2, **settings,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config)
    nn.init.normal_(model.get_output_embeddings().weight)
    assert not fast_step.has_plain_logits(model, padded(encoded[0][:1]))


def plan(
    *, steps: int = 100, longest: int = 200, cuda: bool = False, **changes: Any
) -> fast_step.Plan:
    config = RunConfig(**{"dtype": "bfloat16", **changes})
    return fast_step.plan(config, steps=steps, longest=longest, cuda=cuda)


@pytest.fixture
def this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux with glibc and a C++ compiler, whatever runs the test."""
    monkeypatch.setattr(levels, "compiler", lambda: "/usr/bin/g++")
    monkeypatch.setattr(heap.platform, "libc_ver", lambda: ("glibc", "2.36"))


@pytest.mark.usefixtures("this_machine")
def test_on_a_cpu_with_everything_all_tricks_are_on() -> None:
    chosen = plan()
    assert chosen == fast_step.Plan(
        attn_implementation="eager", compile_layers=True, labelled_logits=True,
        group_by_length=True, share_prompts=True, keep_heap=True, notes=(),
    )  # fmt: skip


@pytest.mark.usefixtures("this_machine")
def test_fast_false_is_the_stock_trainer() -> None:
    chosen = plan(fast=False)
    assert chosen == fast_step.Plan(
        attn_implementation="sdpa", compile_layers=False, labelled_logits=False,
        group_by_length=False, share_prompts=False, keep_heap=False, notes=(),
    )  # fmt: skip


@pytest.mark.usefixtures("this_machine")
def test_what_is_asked_for_wins() -> None:
    assert plan(fast=False, torch_compile="on").compile_layers
    assert not plan(torch_compile="off").compile_layers
    assert plan(attn_implementation="sdpa").attn_implementation == "sdpa"
    assert plan(longest=10_000, attn_implementation="eager").attn_implementation == "eager"


@pytest.mark.usefixtures("this_machine")
def test_short_runs_are_not_compiled_and_long_samples_not_eager() -> None:
    for dtype, least in fast_step.COMPILE_MIN_STEPS.items():
        assert not plan(dtype=dtype, steps=least - 1).compile_layers
        assert plan(dtype=dtype, steps=least).compile_layers
    assert plan(longest=fast_step.EAGER_ATTENTION_MAX_LENGTH).attn_implementation == "eager"
    assert plan(longest=fast_step.EAGER_ATTENTION_MAX_LENGTH + 1).attn_implementation == "sdpa"


@pytest.mark.usefixtures("this_machine")
def test_what_only_pays_in_bfloat16_is_off_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_step.arithmetic, "fastest", lambda: "float32")
    for chosen in (plan(dtype="float32"), plan(dtype="auto")):
        assert chosen.attn_implementation == "sdpa"
        assert chosen.labelled_logits and chosen.share_prompts and chosen.keep_heap
    assert plan(dtype="float32", torch_compile="on").compile_layers
    assert plan(dtype="float32", attn_implementation="eager").attn_implementation == "eager"
    assert fast_step.has_fused_attention("llama") and not fast_step.has_fused_attention("bloom")
    # On a GPU auto is bfloat16, whatever the processor beside it is good at.
    assert plan(dtype="auto", cuda=True) == plan(dtype="bfloat16", cuda=True)


@pytest.mark.usefixtures("this_machine")
def test_a_gpu_needs_no_cpu_tricks() -> None:
    chosen = plan(cuda=True)
    assert (chosen.attn_implementation, chosen.compile_layers, chosen.keep_heap) == (
        "sdpa", False, False,
    )  # fmt: skip
    assert chosen.labelled_logits and chosen.share_prompts and chosen.notes == ()


@pytest.mark.usefixtures("this_machine")
@pytest.mark.parametrize("asked", ["auto", "on"])
def test_without_a_compiler_layers_run_uncompiled(
    monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setattr(levels, "compiler", lambda: None)
    chosen = plan(torch_compile=asked)
    assert not chosen.compile_layers
    assert any("compiler" in note for note in chosen.notes)


@pytest.mark.usefixtures("this_machine")
def test_without_glibc_the_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.platform, "libc_ver", lambda: ("musl", ""))
    chosen = plan()
    assert not chosen.keep_heap
    assert any("glibc" in note for note in chosen.notes)


@pytest.mark.parametrize("before", [None, "torch's", "another kind's"])
def test_compiled_code_is_kept_for_one_kind_of_processor(
    before: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where inductor's own folder is already set, as it is once TRL is imported."""
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path))
    other = tmp_path / "inductor" / "another"
    set_before = {"torch's": default_cache_dir(), "another kind's": str(other)}
    places = set()
    for capability in ("avx2", "default"):
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)
        monkeypatch.setenv(compiled_code.VARIABLE, set_before.get(str(before), ""))
        if before is None:
            monkeypatch.delenv(compiled_code.VARIABLE)
        fast_step.compile_layers(torch.nn.Linear(1, 1))
        places.add(os.environ[compiled_code.VARIABLE])
    assert len(places) == 2 and not places & set(set_before.values())


def test_a_chosen_folder_for_compiled_code_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(compiled_code.VARIABLE, str(tmp_path))
    compiled_code.keep_apart()
    assert os.environ[compiled_code.VARIABLE] == str(tmp_path)


def test_compiled_layers_give_the_same_loss_and_gradients(
    tiny_llama: Path, encoded: list[list[dict[str, Any]]]
) -> None:
    """One compilation serves batches of other shapes and every layer, and keeps the names."""
    model = load.load_model(tiny_llama, dtype="float32", attn_implementation="eager")
    names = [name for name, _ in model.named_parameters()]
    batches = [
        sharing.SharedPromptCollator(2)(sharing.share_all(encoded[i : i + 2], max_length=4096))
        for i in range(0, len(encoded), 2)
    ]
    assert len({batch["input_ids"].shape for batch in batches}) > 1
    plain = []
    for batch in batches:
        fast_step.labelled_loss(model, batch, None).backward()
        plain.append((fast_step.labelled_loss(model, batch, None).item(), gradients(model)))
    assert fast_step.compile_layers(model) == 2
    torch._dynamo.utils.counters.clear()
    for batch, (loss, wanted) in zip(batches, plain, strict=True):
        compiled = fast_step.labelled_loss(model, batch, None)
        compiled.backward()
        assert compiled.item() == pytest.approx(loss, rel=1e-5)
        assert_same_gradients(gradients(model), wanted)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1, "nothing was compiled"
    assert [name for name, _ in model.named_parameters()] == names
