"""Questions on one report stand and fall together: whole reports are counted, not questions."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from labkit.datasets.score import score_predictions
from labkit.datasets.tatqa import load, samples
from labkit.errors import LabkitError
from labkit.significance import compare as significance

compare = significance.compare
REPORTS, EACH = 30, 6


@pytest.fixture
def right() -> tuple[np.ndarray, np.ndarray]:
    """Return right answers [reports, questions] of two models; each misreads half the tables."""
    rng = np.random.default_rng(11)
    shares = [np.where(rng.random((REPORTS, 1)) < 0.5, 0.9, 0.1) for _ in "ab"]
    a, b = ((rng.random((REPORTS, EACH)) < share).astype(float) for share in shares)
    return a, b


def score(file: Path, right: np.ndarray, *, named: bool = True) -> Path:
    """Write scores of questions as `labkit score --json` does, with or without their reports."""
    per_question = {
        f"r{report}-q{place}": {"em": float(em), "f1": float(em)}
        | ({"report_uid": f"r{report}"} if named else {})
        for (report, place), em in np.ndenumerate(right)
    }
    file.write_text(json.dumps({"per_question": per_question}))
    return file


def by_reports(a: np.ndarray, b: np.ndarray, alpha: float = 0.05) -> tuple[float, float, float]:
    """Return p and interval of the t-test over reports; exact where all have as many questions."""
    test = scipy_stats.ttest_rel(b.mean(axis=1), a.mean(axis=1))
    interval = test.confidence_interval(1 - alpha)
    return float(test.pvalue), float(interval.low), float(interval.high)


def test_two_scores_are_tested_by_reports(
    tmp_path: Path, right: tuple[np.ndarray, np.ndarray]
) -> None:
    a, b = right
    outcome = compare(score(tmp_path / "a", a), score(tmp_path / "b", b), margin=0.2)
    (row,) = outcome.results
    p, low, high = by_reports(a, b)
    assert row["test"] == "clustered t-test of paired differences"
    assert (row["p_value"], row["n"], row["clusters"]) == (pytest.approx(p), a.size, REPORTS)
    assert (row["difference"]["low"], row["difference"]["high"]) == pytest.approx((low, high))
    only = [int((x > y).sum()) for x, y in ((a, b), (b, a))]
    assert [row["only_a"], row["only_b"]] == only
    # The questions alone would claim to know more.
    assert p > 2 * scipy_stats.binomtest(only[0], sum(only)).pvalue
    _, low, high = by_reports(a, b, alpha=0.1)
    equal = row["equivalence"]["difference"]
    assert (equal["low"], equal["high"]) == pytest.approx((low, high))
    assert f"over {a.size} questions on {REPORTS} reports" in outcome.sentence
    assert outcome.notes == []


def test_reports_of_one_question_each_are_tested_by_mcnemar(
    tmp_path: Path, right: tuple[np.ndarray, np.ndarray]
) -> None:
    a, b = (side[:, :1] for side in right)
    (row,) = compare(score(tmp_path / "a", a), score(tmp_path / "b", b)).results
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    assert row["test"] == "McNemar's exact test"
    assert row["p_value"] == pytest.approx(scipy_stats.binomtest(only_a, only_a + only_b).pvalue)


@pytest.mark.parametrize("lacking", ["a", "b", "ab"])
def test_a_file_without_reports_takes_the_other_s_or_it_is_said(
    tmp_path: Path, right: tuple[np.ndarray, np.ndarray], lacking: str
) -> None:
    a, b = (
        score(tmp_path / side, values, named=side not in lacking)
        for side, values in zip("ab", right, strict=True)
    )
    outcome = compare(a, b)
    (row,) = outcome.results
    if lacking == "ab":
        assert row["test"] == "McNemar's exact test"
        (note,) = outcome.notes
        assert "taken as independent" in note and "labkit score" in note
    else:
        assert row["p_value"] == pytest.approx(by_reports(*right)[0])
        assert outcome.notes == []


def test_a_report_that_is_no_name_is_none(
    tmp_path: Path, right: tuple[np.ndarray, np.ndarray]
) -> None:
    a = score(tmp_path / "a", right[0])
    values = json.loads(a.read_text())
    values["per_question"]["r3-q2"]["report_uid"] = [7]
    a.write_text(json.dumps(values))
    b = score(tmp_path / "b", right[1], named=False)
    assert "taken as independent" in compare(a, b).notes[0]


def test_other_reports_are_other_questions(
    tmp_path: Path, right: tuple[np.ndarray, np.ndarray]
) -> None:
    a, b = score(tmp_path / "a", right[0]), score(tmp_path / "b", right[1])
    b.write_text(b.read_text().replace('"report_uid": "r3"', '"report_uid": "r4"'))
    with pytest.raises(LabkitError, match="questions are on other reports"):
        compare(a, b)


def test_one_report_shows_nothing_of_others(tmp_path: Path) -> None:
    a, b = np.zeros((1, EACH)), np.ones((1, EACH))
    with pytest.raises(LabkitError, match="all questions are on one report, which says"):
        compare(score(tmp_path / "a", a), score(tmp_path / "b", b))


def evaluated(folder: Path, values: np.ndarray, tasks: dict[str, Callable[[int], dict]]) -> Path:
    """Write results as `labkit eval` does, of tasks whose documents a function makes."""
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({
        "results": {task: {"em,none": values.mean(), "em_stderr,none": 0.1} for task in tasks},
        "versions": {}, "n-shot": {},
    }))  # fmt: skip
    for task, doc in tasks.items():
        rows = [{"doc_id": i, "doc": doc(i), "em": em} for i, em in enumerate(values.flat)]
        (folder / f"samples_{task}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_a_task_on_one_report_does_not_keep_others_from_being_compared(
    tmp_path: Path, right: tuple[np.ndarray, np.ndarray]
) -> None:
    tasks = {"arc": lambda i: {}, "tables_answer": lambda i: {"report_uid": "r"}}
    outcome = compare(*(evaluated(tmp_path / side, values, tasks)
                        for side, values in zip("ab", right, strict=True)))  # fmt: skip
    assert [row["name"] for row in outcome.results] == ["arc"]
    assert "tables_answer: all questions are on one report" in outcome.notes[0]


def test_labkit_eval_s_own_tasks_name_the_report_in_the_document(
    tmp_path: Path, right: tuple[np.ndarray, np.ndarray]
) -> None:
    tasks = {"tables_answer": lambda i: {"report_uid": f"r{i // EACH}"}}
    (row,) = compare(*(evaluated(tmp_path / side, values, tasks)
                       for side, values in zip("ab", right, strict=True))).results  # fmt: skip
    assert row["clusters"] == REPORTS
    assert row["p_value"] == pytest.approx(by_reports(*right)[0])


def test_what_labkit_score_writes_holds_the_reports(tmp_path: Path) -> None:
    reports = load("tables", "test")[:8]
    asked = samples(reports)
    for side, count in (("a", 2), ("b", 3)):
        given = {s.question.uid: [list(s.question.answer), s.question.scale]
                 for i, s in enumerate(asked) if i % count == 0}  # fmt: skip
        (tmp_path / side).write_text(json.dumps(score_predictions(given, reports)))
    outcome = compare(tmp_path / "a", tmp_path / "b")
    assert outcome.results[0]["clusters"] == len(reports) and outcome.notes == []
