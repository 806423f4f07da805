"""Data sets by name: what a name means, what TAT-QA's questions are as examples, plain scoring."""

import dataclasses
import re
from pathlib import Path

import pytest

from labkit.datasets import base, registry, tatqa
from labkit.datasets.base import Example, same_words
from labkit.datasets.report_questions import TABLES, TATQA
from labkit.datasets.score import score_answer
from labkit.errors import LabkitError


def test_a_data_set_is_a_name_a_name_with_a_path_or_a_path() -> None:
    assert registry.find("tables") == (TABLES, "")
    assert registry.find("tatqa") == (TATQA, "")
    assert registry.find("tatqa:some/folder") == (TATQA, "some/folder")
    assert registry.find("some/folder") == (TATQA, "some/folder")
    assert registry.find("no-name:some/folder") == (TATQA, "no-name:some/folder")


def test_every_data_set_says_where_it_is_from_and_its_licence() -> None:
    for name, dataset in registry.DATASETS.items():
        assert dataset.name == name and dataset.source and dataset.licence


def test_checksums_are_those_of_the_readme() -> None:
    readme = (tatqa.data_dir() / "README.md").read_text()
    stated = dict(re.findall(r"`tables/(\w+)\.json` \|.*`([0-9a-f]{64})` \|", readme))
    assert set(stated) == set(tatqa.SPLITS)
    assert {split: TABLES.sha256("", split) for split in stated} == stated


def test_a_path_is_read_alike_with_and_without_the_name(few_reports: Path) -> None:
    bare, path = registry.find(str(few_reports))
    named, same_path = registry.find(f"tatqa:{few_reports}")
    assert bare.load(path, "dev") == named.load(same_path, "dev")
    assert bare.sha256(path, "dev") == named.sha256(same_path, "dev")
    for data in (str(few_reports), f"tatqa:{few_reports}"):
        assert registry.reports(data, "dev") == tatqa.load(few_reports, "dev")


def test_what_shows_tables_refuses_data_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(TATQA, name="reviews", scored_as="")
    monkeypatch.setitem(registry.DATASETS, "reviews", other)
    with pytest.raises(LabkitError, match="reviews:here holds no questions on reports"):
        registry.reports("reviews:here", "test")


def test_a_question_is_an_example_whose_own_answer_scores_in_full(few_reports: Path) -> None:
    samples = tatqa.samples(tatqa.load(few_reports, "test"))
    examples = TATQA.load(str(few_reports), "test")
    assert len({example.gold.answer_type for example in examples}) >= 3
    for sample, example in zip(samples, examples, strict=True):
        question = sample.question
        assert (example.uid, example.group) == (question.uid, sample.report.uid)
        assert [turn["role"] for turn in example.messages] == ["system", "user", "assistant"]
        assert question.text in example.messages[1]["content"]
        assert example.strata == {"type": question.answer_type, "source": question.answer_from}
        assert TATQA.answer(example) == [list(question.answer), question.scale]
        # What the model is taught to write is read back to full marks; another answer is not.
        assert TATQA.score(example, TATQA.read(example.answer)) == {"em": 1.0, "f1": 1.0}
        em, f1 = score_answer(["nothing"], "", question)
        assert TATQA.score(example, TATQA.read("nothing")) == {"em": em, "f1": f1}
        assert em == 0.0


def test_examples_with_worked_ones_show_them_first(few_reports: Path) -> None:
    assert TATQA.worked is not None
    plain = TATQA.load(str(few_reports), "test")
    for example, alone in zip(TATQA.worked(str(few_reports), "test", 2), plain, strict=True):
        assert [turn["role"] for turn in example.messages] == [
            "system", "user", "assistant", "user", "assistant", "user", "assistant",
        ]  # fmt: skip
        assert example.messages[-2:] == alone.messages[-2:]


def test_an_example_is_a_group_of_its_own_unless_it_says_otherwise() -> None:
    assert Example(uid="a").group == "a"
    assert Example(uid="a", group="report").group == "report"


@pytest.mark.parametrize(
    ("prediction", "em", "f1"),
    [
        ("the red car", 1.0, 1.0),
        ("The  Red car", 1.0, 1.0),
        ("car red the", 0.0, 1.0),  # the same bag of words in another order
        ("the red", 0.0, 0.8),  # precision 1, recall 2/3
        ("red red", 0.0, 0.4),  # a word counts as often as it is there: 2 · 1 / (3 + 2)
        ("", 0.0, 0.0),
    ],
)
def test_words_are_compared_as_bags(prediction: str, em: float, f1: float) -> None:
    answer = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "the red car"})
    score = same_words(Example(uid="a", messages=answer), prediction)
    assert score == {"em": em, "f1": pytest.approx(f1)}


def test_what_a_model_thinks_first_is_no_part_of_its_answer_in_any_data_set() -> None:
    assert base.text_of("<think>2 + 2, so 5? No.</think>  the answer\nis 4 ") == "the answer is 4"
