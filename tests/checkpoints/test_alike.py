"""Where a class went wrong, and which explanations are nearly the same."""

import re

import pytest

from labkit.checkpoints import alike
from labkit.checkpoints.marks import Graded, Mark
from labkit.checkpoints.questions import load_questions
from labkit.checkpoints.submissions import Submission
from labkit.checkpoints.summary import page
from labkit.checkpoints.wrong import where_wrong

LONG = ("the frozen weights need neither gradients nor optimizer state so a step of lora keeps "
        "1.1 gib less than a full one, which my two records show")  # fmt: skip
OWN = ("in my runs the full step took 2.3 s and lora 1.6 s because the third product of every "
       "frozen layer is never computed, while memory fell by the moments")  # fmt: skip


def ratio(one: str, other: str) -> float:
    """2·M / T by hand, M the length of the longest common subsequence."""
    a, b = alike.words(one), alike.words(other)
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            longer = table[i][j] + 1 if x == y else 0
            table[i + 1][j + 1] = max(longer, table[i][j + 1], table[i + 1][j])
    return 2 * table[-1][-1] / (len(a) + len(b))


def test_a_copy_with_words_exchanged_is_found_and_one_s_own_words_are_not():
    copy = LONG.replace("frozen", "fixed").replace("show", "tell")
    found = alike.pairs({"02.2": {"anna": LONG, "boris": copy, "chen": OWN}})
    assert [(pair.one, pair.other) for pair in found] == [("anna", "boris")]
    assert found[0].ratio == pytest.approx(ratio(LONG, copy))
    assert found[0].texts == (LONG, copy)


def test_a_text_of_which_a_third_is_one_s_own_is_not_alike():
    own = " ".join("indeed" if place % 3 == 0 else word for place, word in enumerate(LONG.split()))
    assert 0.6 < ratio(LONG, own) < alike.ALIKE
    assert alike.pairs({"02.2": {"anna": LONG, "boris": own}}) == []
    tenth = " ".join("indeed" if place % 10 == 0 else word
                     for place, word in enumerate(LONG.split()))  # fmt: skip
    assert ratio(LONG, tenth) > 0.85
    assert len(alike.pairs({"02.2": {"anna": LONG, "boris": tenth}})) == 1


def test_case_and_punctuation_do_not_hide_a_copy():
    loud = LONG.upper().replace(" ", " -- ").replace(",", "!")
    (pair,) = alike.pairs({"02.2": {"anna": LONG, "boris": loud}})
    assert pair.ratio == 1


def test_short_texts_and_other_questions_are_not_compared():
    short = "it is the frozen weights"
    assert alike.pairs({"02.2": {"anna": short, "boris": short}}) == []
    assert alike.pairs({"02.2": {"anna": LONG}, "02.3": {"boris": LONG}}) == []


def test_a_class_of_one_text_stays_a_list_that_can_be_read():
    found = alike.pairs({"02.2": {f"s{n}": LONG for n in range(40)}})
    assert len(found) == alike.MOST_PAIRS


def graded(student: str, **found: tuple[str, ...]) -> Graded:
    marks = {name: Mark(state="unanswered") for name in load_questions()}
    for name, lines in found.items():
        state = "contradicts" if lines else "consistent"
        marks[name.replace("_", ".")[1:]] = Mark(state=state, found=lines, explanation=LONG)
    return Graded(submission=Submission(student=student, source=student), marks=marks)


UNIT = "states_gib is not states_bytes in that unit"


def test_the_most_frequent_contradiction_of_a_question_comes_first():
    class_ = [graded(f"s{n}", q01_1=(UNIT,)) for n in range(7)]
    class_ += [graded("t", q01_1=("parameters is above the count of the model's configuration",))]
    class_ += [graded("u", q01_1=())]
    found = where_wrong(class_)
    assert list(found) == ["01.1"]
    assert [each.count for each in found["01.1"]] == [7, 1]
    assert found["01.1"][0].sentence == UNIT and found["01.1"][0].students[0] == "s0"


def test_what_is_a_student_s_own_does_not_split_a_count():
    hints = {"lora": "there are no runs yet", "mine": "did you mean 'x'?"}
    lines = [
        f"question 02.1, run: no run '{name}' among the runs handed in: {hint}"
        for name, hint in hints.items()
    ]
    class_ = [graded(f"s{n}", q02_1=(line,)) for n, line in enumerate(lines)]
    (missed,) = where_wrong(class_)["02.1"]
    assert missed.count == 2
    assert "lora" not in missed.sentence


def test_the_page_draws_a_bar_as_long_as_the_share():
    class_ = [graded(f"s{n}", q01_1=(UNIT,) if n < 3 else ()) for n in range(4)]
    pairs = alike.pairs({"02.2": {"anna": LONG, "boris": LONG}})
    text = page(class_, [], pairs)
    bar = r'<td class="bar"><span style="width: 75%">'
    assert re.search(rf"<td>3</td>\s*{bar}.*?{UNIT}", text, re.DOTALL)
    assert "<b>anna</b>" in text and "100 %" in text
