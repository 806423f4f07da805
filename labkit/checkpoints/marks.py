"""Hold the marks of one submission: one for each question, and their sum."""

from dataclasses import dataclass, field

from labkit.checkpoints.submissions import Submission


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What one answer is worth, and why."""

    state: str
    """consistent, incomplete, contradicts, refused (not an answer) or unanswered"""
    points: float = 0.0
    explanation: str = ""
    found: tuple[str, ...] = ()
    """what contradicts or is missing"""


@dataclass(kw_only=True)
class Graded:
    """One submission with its marks by question."""

    submission: Submission
    marks: dict[str, Mark]
    flags: list[str] = field(default_factory=list)

    @property
    def points(self) -> float:
        """Points of all questions together."""
        return sum(mark.points for mark in self.marks.values())
