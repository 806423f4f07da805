"""Shared prompts: the same loss and gradients as one sample each, for fewer tokens."""

import pytest
import torch

from labkit.datasets import encode, tatqa
from labkit.datasets.sharing import (
    SharedPromptCollator,
    attention_mask,
    share_all,
    share_prompts,
)
from labkit.models import load
from labkit.train import fast_step


@pytest.fixture(scope="module")
def encoded_reports(tiny_llama):
    """Encoded samples of three reports, grouped by report."""
    tokenizer = load.load_tokenizer(tiny_llama)
    groups = []
    for report in tatqa.load("tables", "dev")[:3]:
        samples = tatqa.samples([report])
        groups.append([encode.encode(tokenizer, s, max_length=4000) for s in samples])
    return groups


def separate_batch(groups, pad: int) -> dict[str, torch.Tensor]:
    """Every sample in a row of its own, padded on the right."""
    rows = [sample for group in groups for sample in group]
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(key: str, value: int) -> torch.Tensor:
        return torch.tensor([r[key] + [value] * (longest - len(r[key])) for r in rows])

    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    return {
        "input_ids": padded("input_ids", pad),
        "labels": padded("labels", -100),
        "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
    }


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma", "tiny-phi"])
def test_loss_and_gradients_are_those_of_separate_samples(
    name, attention, tiny_model, encoded_reports
):
    model = load.load_model(tiny_model(name), dtype="float32", attn_implementation=attention)
    shared = SharedPromptCollator(0)(share_all(encoded_reports, max_length=8000))
    separate = separate_batch(encoded_reports, pad=0)

    def loss_and_gradients(batch):
        model.zero_grad()
        loss = fast_step.labelled_loss(model, batch, None)
        loss.backward()
        return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    loss_shared, gradients_shared = loss_and_gradients(shared)
    loss_separate, gradients_separate = loss_and_gradients(separate)
    assert shared["input_ids"].numel() < 0.6 * separate["input_ids"].numel()
    torch.testing.assert_close(loss_shared, loss_separate)
    for one, other in zip(gradients_shared, gradients_separate, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-6)


def test_every_label_of_every_sample_is_there_once(encoded_reports):
    wanted = sorted(
        tuple(label for label in sample["labels"] if label != -100)
        for group in encoded_reports
        for sample in group
    )
    found = []
    for row in share_all(encoded_reports, max_length=8000):
        for segment in range(1, max(row["segment_ids"]) + 1):
            found.append(
                tuple(
                    label
                    for label, s in zip(row["labels"], row["segment_ids"], strict=True)
                    if s == segment and label != -100
                )
            )
    assert sorted(found) == wanted


def test_a_limit_starts_a_new_sequence_and_loses_no_sample(encoded_reports):
    group = encoded_reports[0]
    longest = max(len(sample["input_ids"]) for sample in group)
    rows = share_all([group], max_length=longest + 60)
    assert len(rows) > 1
    assert all(len(row["input_ids"]) <= longest + 60 for row in rows)
    assert sum(max(row["segment_ids"]) for row in rows) == len(group)


def test_positions_are_those_of_the_sample_alone(encoded_reports):
    group = encoded_reports[1]
    row = share_prompts(group, max_length=8000)
    for segment, sample in enumerate(group, start=1):
        at = [i for i, s in enumerate(row["segment_ids"]) if s in (0, segment)]
        assert [row["position_ids"][i] for i in at] == list(range(len(sample["input_ids"])))
        assert [row["input_ids"][i] for i in at] == sample["input_ids"]


def test_identical_prompts_keep_a_prompt_token_before_each_answer():
    sample = {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, -100, -100, 8, 9], "prompt_length": 3}
    row = share_prompts([sample, sample], max_length=100)
    assert row["segment_ids"] == [0, 0, 1, 1, 1, 2, 2, 2]
    assert row["labels"] == [-100, -100, -100, 8, 9, -100, 8, 9]


def test_the_mask_lets_a_question_see_the_report_and_itself_only():
    # two tokens of report, two of the first question, one of the second, one of padding
    allowed = attention_mask(torch.tensor([[0, 0, 1, 1, 2, -1]]))[0, 0].int().tolist()
    assert allowed == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]
