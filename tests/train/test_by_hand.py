"""LoRA by hand: the tokens and labels of `encode`, and the losses of `labkit train`."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from labkit import methods
from labkit.datasets import encode, tatqa
from labkit.datasets.answers import format_answer
from labkit.models import load
from labkit.runs.config import RunConfig
from labkit.train import by_hand
from labkit.train import run as train

pytestmark = pytest.mark.usefixtures("runs", "few_objects")
STEPS = 5


def encoded_by_hand(
    config: RunConfig, samples: list[tatqa.Sample]
) -> list[tuple[list[int], list[int]]]:
    tokenizer = load.load_tokenizer(config.model)
    return [
        by_hand.tokens_and_labels(
            tokenizer, encode.prompt_text(tokenizer, s), format_answer(s.question)
        )
        for s in samples
    ]


def starting_adapters(config: RunConfig) -> list[torch.Tensor]:
    """A of each adapted layer as the trainer draws it, in the order of the model's layers."""
    torch.manual_seed(config.seed)
    model = load.load_model(config.model, dtype="float32")
    model = methods.METHODS["lora"].attach(model, config)
    return [weight.detach() for name, weight in model.named_parameters() if ".lora_A." in name]


def test_tokens_and_labels_are_those_of_encode(tiny_run: Callable[..., RunConfig]) -> None:
    config = tiny_run(max_length=4000)
    samples = tatqa.samples(tatqa.load(config.data, "train"))
    tokenizer = load.load_tokenizer(config.model)
    for sample, (ids, labels) in zip(samples, encoded_by_hand(config, samples), strict=True):
        exact = encode.encode(tokenizer, sample, max_length=config.max_length)
        assert (ids, labels) == (exact["input_ids"], exact["labels"])


@pytest.mark.parametrize("share_prompts", [False, True])
def test_losses_are_those_of_labkit_train(
    tiny_run: Callable[..., RunConfig], tiny_llama: Path, share_prompts: bool
) -> None:
    """Every step sees the same eight samples, in float32. Only the order of sums differs."""
    count = 8
    config = tiny_run(max_length=4000, max_steps=STEPS, max_train_samples=count,
                      per_device_train_batch_size=count, share_prompts=share_prompts,
                      lr_scheduler_type="constant", warmup_steps=0, r=4, lora_alpha=8,
                      learning_rate=5e-3)  # fmt: skip
    record = train.train(config, quiet=True)
    assert {step["samples"] for step in record.steps} == {count}

    samples = tatqa.samples(tatqa.load(config.data, "train"))[:count]
    model = load.load_model(config.model, dtype="float32")
    trained = by_hand.add_lora(model, config.r, config.lora_alpha)
    layers = [module for module in model.modules() if isinstance(module, by_hand.LoRALinear)]
    with torch.no_grad():
        for layer, start in zip(layers, starting_adapters(config), strict=True):
            layer.A.copy_(start)
    inputs = by_hand.batch(encoded_by_hand(config, samples), pad=0)
    losses = by_hand.train(model, trained, [inputs] * STEPS, config.learning_rate)

    assert sum(weight.numel() for weight in trained) == record.summary["trainable_parameters"]
    assert losses[0] - losses[-1] > 0.02, "nothing was learned, so nothing compared"
    assert losses == pytest.approx(record.losses, rel=1e-4)
