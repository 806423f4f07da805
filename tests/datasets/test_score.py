"""The score against the official definition, case by case, worked out by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.datasets.score import (
    aligned_f1,
    is_number,
    normalise,
    score_answer,
    score_file,
    score_predictions,
    to_number,
)
from labkit.datasets.tatqa import Question, read_reports, samples
from labkit.errors import LabkitError

FORTY = [f"w{i}" for i in range(40)]

# id: answer type, gold, gold scale, predicted, predicted scale, exact match, F1
CASES = {
    "the-same-text": ("span", ["net income"], "", ["net income"], "", 1, 1),
    "case-articles-punctuation-do-not-count": (
        *("span", ["The fixed-price type."], "", ["a fixedprice  TYPE"], "", 1, 1),
    ),
    "two-of-three-words:p=1,r=2/3": ("span", ["net income loss"], "", ["net income"], "", 0, 0.8),
    "bags-are-sets-so-a-repeated-word-is-free": (
        *("span", ["total total assets"], "", ["total assets"], "", 0, 1),
    ),
    "no-word-in-common": ("span", ["cash"], "", ["debtors"], "", 0, 0),
    "currency-and-commas-are-not-part-of-a-number": (
        *("span", ["$1,496.5"], "million", ["1496.5"], "million", 1, 1),
    ),
    "thousand-is-not-million": ("span", ["1,496.5"], "million", ["1,496.5"], "thousand", 0, 0),
    "scale-is-part-of-the-answer": ("span", ["1,496.5"], "million", ["1,496.5"], "", 0, 0),
    "another-scale-same-amount": ("span", ["1.2"], "million", ["1,200"], "thousand", 1, 1),
    "scale-word-in-the-text": ("span", ["1.2"], "million", ["1.2 million"], "", 1, 1),
    "scale-word-and-scale-multiply": ("span", ["1.2"], "million", ["1.2 million"], "million", 0, 0),
    "text-gets-the-scale-as-a-word": ("span", ["about 5"], "million", ["about 5"], "", 0, 0.8),
    "fraction-for-percent": ("arithmetic", ["22.22"], "percent", ["0.2222"], "", 1, 1),
    "fraction-as-a-number": ("arithmetic", ["22.22"], "percent", 0.22224, "", 1, 1),
    "percent-sign": ("arithmetic", ["22.22"], "percent", ["22.22%"], "", 1, 1),
    "percent-sign-is-not-scaled-again": (
        *("arithmetic", ["22.22"], "percent", ["22.22%"], "percent", 1, 1),
    ),
    "bare-number-is-not-percent": ("arithmetic", ["22.22"], "percent", ["22.22"], "", 0, 0),
    "fraction-with-scale-has-no-second-reading": (
        *("arithmetic", ["22.22"], "percent", ["0.2222"], "percent", 0, 0),
    ),
    "two-fractions-have-no-second-reading": (
        *("multi-span", ["22.22", "11.11"], "percent", ["0.2222", "0.1111"], "", 0, 0),
    ),
    "parentheses-are-minus": ("arithmetic", ["-134"], "", ["(134)"], "", 1, 1),
    "but-not-around-a-comma": ("span", ["(1,202)"], "", ["1,202"], "", 1, 1),
    "so-minus-with-comma-differs": ("span", ["(1,202)"], "", ["-1,202"], "", 0, 0),
    "rounded-to-two-places": ("arithmetic", ["1.23"], "", ["1.234"], "", 1, 1),
    "rounded-up-to-another-number": ("arithmetic", ["1.23"], "", ["1.236"], "", 0, 0),
    "a-number-with-a-unit-is-text:p=1/2,r=1": (
        *("span", ["12.6"], "", ["12.6 dollars"], "", 0, 0.67),
    ),
    "arithmetic-has-no-partial-credit": ("arithmetic", ["12.6"], "", ["12.6 dollars"], "", 0, 0),
    "count-has-no-partial-credit": ("count", ["2"], "", ["2.0 years"], "", 0, 0),
    "count-as-a-number": ("count", ["2"], "", ["2.0"], "", 1, 1),
    "count-in-words-is-not-read": ("count", ["2"], "", ["two"], "", 0, 0),
    "order-of-spans-is-free": ("multi-span", ["2019", "2018"], "", ["2018", "2019"], "", 1, 1),
    "one-of-two-spans:p=1,r=1/2": ("multi-span", ["cash", "debtors"], "", ["cash"], "", 0, 0.67),
    "spans-are-joined-before-they-are-compared": (
        *("multi-span", ["cash", "debtors"], "", ["cash debtors"], "", 1, 1),
    ),
    # As one text the words become "2018" and "2019", as two values "2018.0" and "2019.0".
    "two-years-in-one-string-are-text": (
        *("multi-span", ["2019", "2018"], "", ["2018 2019"], "", 0, 0),
    ),
    "texts-are-sorted-as-texts": ("multi-span", ["9", "10"], "", ["10", "9"], "", 1, 1),
    "numbers-are-sorted-as-numbers": ("multi-span", ["9", "10"], "", [10, 9], "", 0, 1),
    "nothing-predicted": ("span", ["cash"], "", [], "", 0, 0),
    "the-number-0-is-nothing": ("arithmetic", ["0"], "", 0, "", 0, 0),
    "the-text-0-is-a-number": ("arithmetic", ["0"], "", "0", "", 1, 1),
    "a-list-with-0-is-a-number": ("arithmetic", ["0"], "", [0], "", 1, 1),
    # 2 * 39 / 80 = 0.975, which NumPy rounds to 0.98 and Python to 0.97.
    "ties-round-as-numpy-rounds": (
        *("span", [" ".join(FORTY)], "", [" ".join([*FORTY[:39], "other"])], "", 0, 0.98),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_score_is_the_official_one(case, make_question):
    kind, gold, gold_scale, predicted, scale, em, f1 = case
    question = make_question(*gold, kind=kind, scale=gold_scale)
    assert score_answer(predicted, scale, question) == (em, f1)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,202", 1202),
        ("(134)", -134),
        ("( 13.4 )", -13.4),
        ("(1,202)", 1202),
        ("12%", 0.12),
        ("$ 1.2 million", 1_200_000),
        ("3 hundred", 300),
        ("1.23456", 1.2346),
        ("€ 5", 5),
        ("", None),
        ("$", None),
        ("1.2 apples", None),
        ("twelve", None),
        ("nan", None),
        ("9" * 5000, None),
    ],
)
def test_numbers_are_read_as_the_official_script_reads_them(text, number):
    assert (to_number(text) if is_number(text) else None) == number


def test_a_number_needs_a_scale_as_its_second_word():
    assert is_number("5 billion dollars")
    assert not is_number("5 dollars billion")


def test_normalise_drops_what_does_not_count():
    assert normalise("The  (134) items, a total of 5%.") == "-134 items total of 0.05"


def test_only_spaces_separate_words():
    assert normalise("5\tmillion") == "5000000"
    assert normalise("5 million") == "5 million"


def test_alignment_is_the_best_one_not_the_first():
    gold = [{"a", "b"}, {"a"}]
    predicted = [{"a"}, {"a", "b", "c"}]
    # In order: 2/3 and 1/2. Crossed: 4/5 and 1, the better one.
    assert aligned_f1(predicted, gold) == pytest.approx((0.8 + 1) / 2)


def test_alignment_divides_by_the_longer_side():
    assert aligned_f1([{"a"}, {"b"}], [{"b"}]) == 0.5
    assert aligned_f1([{"b"}], [{"a"}, {"b"}]) == 0.5


texts = st.text(alphabet=st.sampled_from("0123456789.,%()$- \tabTthemilon"), max_size=20)
scales = st.sampled_from(["", "thousand", "million", "billion", "percent"])


def _question(values, scale, kind="multi-span"):
    return Question(
        uid="q",
        text="",
        answer=tuple(values),
        answer_type=kind,
        answer_from="",
        scale=scale,
        derivation="",
        order=1,
    )


@settings(deadline=None)
@given(st.lists(texts, min_size=1, max_size=3), scales)
def test_the_gold_answer_always_scores_full_marks(values, scale):
    assert score_answer(values, scale, _question(values, scale)) == (1, 1)


@settings(deadline=None)
@given(st.lists(texts | st.text(max_size=9), max_size=3), st.lists(texts, max_size=3), scales)
def test_any_text_gets_a_score_and_order_is_free(predicted, gold, scale):
    em, f1 = score_answer(predicted, scale, _question(gold, ""))
    assert em in (0, 1) and em <= f1 <= 1
    assert score_answer(predicted[::-1], scale, _question(gold, "")) == (em, f1)


def test_real_gold_answers_score_full_marks(tatqa_dev):
    reports = read_reports(tatqa_dev)
    gold = {s.question.uid: [list(s.question.answer), s.question.scale] for s in samples(reports)}
    result = score_predictions(gold, reports)
    assert (result["n"], result["em"], result["f1"]) == (1668, 1, 1)


def test_questions_without_prediction_count_as_wrong(write_json, make_report):
    gold = write_json([make_report()])
    predictions = write_json({"t1-q2": ["1,496", "million"], "unknown": ["1", ""]}, "p.json")
    assert score_file(predictions, gold) == {
        "n": 2,
        "em": 0.5,
        "f1": 0.5,
        "per_question": {
            "t1-q1": {"em": 0, "f1": 0, "report_uid": "t1"},
            "t1-q2": {"em": 1, "f1": 1, "report_uid": "t1"},
        },
    }


@pytest.mark.parametrize("nothing", [None, "", [], 0])
def test_null_and_empty_predictions_are_wrong_whatever_their_scale(
    nothing, write_json, make_report
):
    predictions = write_json({"t1-q2": [nothing, None]}, "p.json")
    assert score_file(predictions, write_json([make_report()]))["em"] == 0


@pytest.mark.parametrize(
    ("predictions", "says"),
    [
        ([], "holds a JSON list"),
        ({"t1-q1": "24.46"}, "t1-q1"),
        ({"t1-q1": ["24.46"]}, "t1-q1"),
        ({"t1-q1": [{"value": 1}, ""]}, "t1-q1"),
        ({"t1-q1": [["1", 2], ""]}, "t1-q1"),
        ({"t1-q1": ["24.46", 100]}, "scale for t1-q1"),
        ({"other": ["24.46", "percent"]}, "none of them"),
    ],
)
def test_a_prediction_file_of_another_shape_is_refused(predictions, says, write_json, make_report):
    gold = write_json([make_report()])
    with pytest.raises(LabkitError, match=says):
        score_file(write_json(predictions, "p.json"), gold)


def test_missing_and_broken_files_are_named(write_json, make_report, tmp_path):
    gold = write_json([make_report()])
    with pytest.raises(LabkitError, match=r"no prediction file .*absent\.json"):
        score_file(tmp_path / "absent.json", gold)
    (tmp_path / "broken.json").write_text('{"t1-q1": [')
    with pytest.raises(LabkitError, match=r"broken\.json is not valid JSON: .* line 1"):
        score_file(tmp_path / "broken.json", gold)
    predictions = write_json({"t1-q2": ["1,496", "million"]}, "p.json")
    with pytest.raises(LabkitError, match=r"no file .*gold\.json"):
        score_file(predictions, tmp_path / "gold.json")
