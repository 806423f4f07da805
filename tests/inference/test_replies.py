"""What a reply says, and whether the right value stands in it at all."""

import pytest

from labkit.datasets.tatqa import Question, Report, Sample
from labkit.inference.replies import Reply, holds, read_reply


@pytest.mark.parametrize(
    ("text", "values", "there"),
    [
        ("The credit facility ends in 2029.", ["2029"], True),
        ("Net debt is defined as Debt  less\ncash. This means", ["debt less cash"], True),
        ("It was 1780 in all", ["1,780"], True),
        ("It was $1,780.", ["1,780"], True),
        ("sold for $1.1 million in January", ["$1.1 million"], True),
        ("interest of 5.2% on it", ["5.2%"], True),
        ("388 and then 441", ["388", "441"], True),
        ("388 alone", ["388", "441"], False),
        ("It was 17801.", ["1780"], False),
        ("It was 1780.5.", ["1780"], False),
        ("It was 0.1780.", ["1780"], False),
        ("a change of 12.6", ["-12.6"], False),
        ("anything", [], False),
        ("", ["2029"], False),
    ],
)
def test_a_value_is_found_whole_or_not_at_all(text, values, there):
    assert holds(text, values) is there


def test_a_reply_can_hold_its_value_and_score_nothing(question):
    reply = read_reply(question("2029"), "The credit facility ends in 2029.")
    assert reply.holds_value and reply.em == 0
    assert read_reply(question("2029"), "2029").em == 1


@pytest.fixture
def question():
    """Return a function that makes a sample whose right answer is one piece of text."""

    def made(answer: str) -> Sample:
        asked = Question(
            uid="q", text="?", answer=(answer,), scale="", answer_type="span",
            answer_from="table", derivation="", order=1,
        )  # fmt: skip
        report = Report(uid="r", table=(("a",),), paragraphs=(), questions=(asked,))
        return Sample(report=report, question=asked)

    return made


def test_the_reply_is_about_its_question(question):
    reply = read_reply(question("5.2%"), "5.2%")
    assert isinstance(reply, Reply) and reply.uid == "q" and reply.values == ("5.2%",)
