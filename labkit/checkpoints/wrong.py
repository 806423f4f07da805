"""Count where a class went wrong: for each question, what contradicted its answers and how often.

A misconception shows as the same sentence in many answers: whoever takes a GB for a GiB is told
that `states_gib is not states_bytes in that unit`, and so are the twenty others. What stands in
quotes in a sentence is the student's own (the name of a run), so it is left out before sentences
are counted.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labkit.checkpoints.marks import Graded

MOST_SENTENCES = 6
"""sentences shown of a question, the most frequent"""


@dataclass(frozen=True, kw_only=True)
class Missed:
    """One sentence about a question, and the students whose answers got it."""

    sentence: str
    students: tuple[str, ...]

    @property
    def count(self) -> int:
        """Number of these students."""
        return len(self.students)


def common(sentence: str) -> str:
    """Return a sentence without what is one student's own.

    >>> common("question 02.1, run: no run 'lora-2' among the runs handed in: did you mean 'lora'?")
    "question 02.1, run: no run '…' among the runs handed in"
    """
    if " among the runs handed in" in sentence:
        sentence = sentence.partition(" among the runs handed in")[0] + " among the runs handed in"
    return re.sub(r"'[^']*'", "'…'", sentence)


def where_wrong(graded: Sequence["Graded"]) -> Mapping[str, list[Missed]]:
    """Return for each question what contradicts or is missing, the most frequent first.

    A student counts once for a sentence, however often it was said; questions that nobody
    answered are left out.
    """
    found: dict[str, list[Missed]] = {}
    for question in graded[0].marks if graded else ():
        answered = [each for each in graded if each.marks[question].state != "unanswered"]
        if not answered:
            continue
        whose: dict[str, set[str]] = {}
        for each in answered:
            for sentence in each.marks[question].found:
                whose.setdefault(common(sentence), set()).add(each.submission.student)
        counts = Counter({sentence: len(students) for sentence, students in whose.items()})
        found[question] = [
            Missed(sentence=sentence, students=tuple(sorted(whose[sentence])))
            for sentence, _ in counts.most_common(MOST_SENTENCES)
        ]
    return found
