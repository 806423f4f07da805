"""Preferences of a model's own making: what is drawn, which answer is right, what is written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from labkit.datasets import registry
from labkit.datasets.base import Example
from labkit.errors import LabkitError
from labkit.inference import preferences
from labkit.inference.generate import load_generator
from labkit.models import load
from labkit.train.run import train
from labkit.train.tasks import dpo

pytestmark = pytest.mark.usefixtures("runs")
WHICH = {"train": (0, 12), "dev": (0, 12)}


@pytest.mark.parametrize(
    ("texts", "right", "expected"),
    [
        (["5", "7", "6", "7"], [True, False, False, False], ("5", "7")),
        (["5", "7"], [True, True], None),
        (["5", "7"], [False, False], None),
        # The score takes both forms for right: the one that is drawn more often is chosen.
        (["5.0", "5", "5", "8"], [True, True, True, False], ("5", "8")),
        (["9", "8", "5"], [False, False, True], ("5", "9")),
        # An answer of nothing teaches nothing: it has no token but the end.
        (["", "", "8", "5"], [False, False, False, True], ("5", "8")),
        (["", "5"], [False, True], None),
    ],
)
def test_the_most_frequent_right_answer_is_before_the_most_frequent_wrong_one(
    texts: list[str], right: list[bool], expected: tuple[str, str] | None
) -> None:
    assert preferences.pair(texts, right) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,496.5 # million", True), ("2019 | 2018", True), ("= (7 - 5) / 5 * 100 # percent", True),
        ("= count(2019 | 2018)", True), ("= 7 - - #", False), ("= 7 / 0", False), ("", False),
        ("It rose.\nIt fell.", False), ("= revenue - costs", False),
    ],
)  # fmt: skip
def test_an_answer_in_good_form_is_one_line_that_can_be_calculated(
    text: str, expected: bool
) -> None:
    assert preferences.well_formed(text) is expected


def test_answers_are_drawn_as_often_as_they_are_likely(tiny_llama: Path) -> None:
    generator = load_generator(str(tiny_llama), dtype="float32")
    example = Example(uid="x", messages=({"role": "user", "content": "Colour of snow?"},
                                         {"role": "assistant", "content": "white"}))  # fmt: skip
    ids = dpo.DPO.prompt(generator.tokenizer, example, 512)
    with torch.no_grad():
        logits = generator.model(input_ids=torch.tensor([ids])).logits[0, -1]
    # One at which the likeliest token is neither certain nor rare.
    temperature, likely = next(
        (t, p)
        for t in (0.1, 0.2, 0.4, 0.8)
        if 0.1 < float((p := (logits / t).softmax(0)).max()) < 0.8
    )
    top = int(likely.argmax())
    draw = {"answers": 300, "temperature": temperature, "max_new_tokens": 1}
    first, again, other = (
        preferences.sample(generator, [example], seed=seed, **draw)[0] for seed in (0, 0, 1)
    )
    assert first == again != other
    wanted = generator.tokenizer.decode([top]).strip()
    share, expected = first.count(wanted) / len(first), float(likely[top])
    assert abs(share - expected) < 4 * (expected * (1 - expected) / len(first)) ** 0.5
    greedy = generator.write([example], max_new_tokens=1)
    assert greedy == [wanted], "what is drawn elsewhere leaves greedy answers alone"


def half_right(generator: Any, examples: list[Example], **_: Any) -> list[list[str]]:
    """Of each third question all answers are right, of the next none, of the last some."""
    kinds = [["{}"] * 3, ["no"] * 3, ["no", "{}", "no such thing"]]
    return [[text.format(example.answer) for text in kinds[number % 3]]
            for number, example in enumerate(examples)]  # fmt: skip


@pytest.fixture
def made(
    tiny_llama: Path, few_reports: Path, monkeypatch: pytest.MonkeyPatch
) -> preferences.Preferences:
    monkeypatch.setattr(preferences, "sample", half_right)
    return preferences.make(str(tiny_llama), data=str(few_reports), questions=WHICH, answers=3,
                            quiet=True)  # fmt: skip


def test_pairs_are_counted_and_right_by_the_official_score(
    made: preferences.Preferences, few_reports: Path
) -> None:
    assert made.splits["train"] == preferences.Counts(
        questions=12, right=16 / 36, pairs=4, always_right=4, never_right=4, too_long=0
    )
    pairs = registry.examples(made.data, "train")
    asked = registry.examples(str(few_reports), "train")[:12]
    assert [pair.messages[:-1] for pair in pairs] == [e.messages[:-1] for e in asked[2::3]]
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [(e.answer, "no")
                                                                for e in asked[2::3]]  # fmt: skip


def test_with_gold_a_question_that_is_never_answered_right_has_its_gold_answer_chosen(
    few_reports: Path,
) -> None:
    asked = registry.examples(str(few_reports), "train")[:2]
    texts, right = [["no", "no"], ["no", asked[1].answer]], [[False, False], [False, True]]
    (usual,) = preferences.rows_of(asked, texts, right)
    assert usual["uid"] == asked[1].uid
    rows = preferences.rows_of(asked, texts, right, gold=True)
    assert [(row["chosen"], row["rejected"]) for row in rows] == [(e.answer, "no") for e in asked]


def test_what_was_made_is_returned_and_other_settings_make_anew(
    made: preferences.Preferences, tiny_llama: Path, few_reports: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("it is sampled again")

    monkeypatch.setattr(preferences, "sample", never)
    again = preferences.make(str(tiny_llama), data=str(few_reports), questions=WHICH, answers=3)
    assert again == made
    with pytest.raises(AssertionError, match="sampled again"):
        preferences.make(str(tiny_llama), data=str(few_reports), questions=WHICH, answers=4)
    folder = Path(made.data.removeprefix("jsonl:"))
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]


def test_the_pairs_are_trained_on(
    made: preferences.Preferences, tiny_run: Callable[..., Any]
) -> None:
    settings = {"data": made.data, "max_steps": 2, "share_prompts": False}
    tuned = train(tiny_run(**settings, task="dpo"), quiet=True)
    assert tuned.data["samples"] == made.splits["train"].pairs
    alone = train(tiny_run(**settings, task="sft"), quiet=True)
    assert alone.status == "done" and "rewards" not in alone.steps[0]


def test_answers_that_do_not_fit_are_left_out_and_counted(
    tiny_llama: Path, few_reports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preferences, "sample", half_right)
    tokenizer = load.load_tokenizer(tiny_llama)
    asked = registry.examples(str(few_reports), "train")[:12]
    lengths = sorted(len(dpo.DPO.prompt(tokenizer, e, 2**20)) for e in asked)
    found = preferences.make(str(tiny_llama), data=str(few_reports), questions={"train": (0, 12)},
                             max_length=lengths[6] + 64)  # fmt: skip
    counts = found.splits["train"]
    assert counts.too_long == sum(length >= lengths[6] for length in lengths) > 0
    assert counts.questions + counts.too_long == 12


def test_the_form_of_answers_is_measured_once(
    tiny_llama: Path, few_reports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["one two", "= 7 / 0", "= 7 - 5", "three\nlines\nhere"]

    class Writes:
        def write(self, examples: list[Example], **_: Any) -> list[str]:
            return texts[: len(examples)]

    monkeypatch.setattr(preferences, "load_generator", lambda *_, **__: Writes())
    asked = {"data": str(few_reports), "split": "dev", "max_samples": 4}
    expected = {"n": 4, "words": (2 + 4 + 4 + 3) / 4, "well_formed": 0.5}
    assert preferences.form_of(str(tiny_llama), **asked) == expected
    texts.clear()
    assert preferences.form_of(str(tiny_llama), **asked) == expected


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"answers": 1}, "answers must be 2 or more.*got 1"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"data": "nowhere"}, "nowhere"),
        ({"model": "nobody"}, "nobody"),
    ],
)
def test_what_cannot_be_made_is_one_sentence_and_leaves_nothing(
    tiny_llama: Path, few_reports: Path, runs: Path, changes: dict[str, Any], says: str
) -> None:
    given = {"model": str(tiny_llama), "data": str(few_reports), "questions": WHICH, **changes}
    with pytest.raises(LabkitError, match=says) as caught:
        preferences.make(given.pop("model"), **given)
    assert "\n" not in str(caught.value) and not runs.exists()


def test_a_model_that_knows_all_or_nothing_gives_no_pairs(
    tiny_llama: Path, few_reports: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        preferences, "sample", lambda g, examples, **_: [["no"] * 4 for _ in examples]
    )
    with pytest.raises(LabkitError, match="both right and wrong") as caught:
        preferences.make(str(tiny_llama), data=str(few_reports), questions=WHICH)
    assert "\n" not in str(caught.value)
    assert not list(runs.rglob("*.jsonl")), json.dumps([str(p) for p in runs.rglob("*")])
