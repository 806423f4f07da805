"""Compare two sides: the test, the effect size, and a sentence that says what they mean.

For runs the effect is the ratio of times, A over B: above 1, B is faster. For answers it is the
difference of the scores, B less A. Several data sets or tasks are several chances to be lucky, so
their p-values are adjusted (Holm).

A side's own runs, split in two, are the A/A control: a difference between a thing and itself says
that the machine changed while it was measured. It can't see what differed between the sides for
other reasons, such as all of A having been run before all of B: that is said when it is known.

Questions on one report are not independent, so whole reports are counted where a file names them;
McNemar's exact test is for questions that stand alone.

Equal quality is claimed only against a margin that was stated: two one-sided tests.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labkit import plots, stats
from labkit.errors import LabkitError
from labkit.files import write_json
from labkit.significance.lm_eval import Answers
from labkit.significance.read import Run, read_pairs
from labkit.significance.show import Conclusion, Row, draw

EXAMPLE_EFFECT = 0.03
TOLERANCE = {"FLOPs": 0.1, "samples": 0.01, "tokens a step": 0.01}
"""What may differ by a share: adapters add FLOPs, rates are logged with few digits."""


def compare(
    *sides: Path,
    alpha: float = 0.05,
    margin: float | None = None,
    output_dir: Path | None = None,
) -> Conclusion:
    """Compare two sides, or several pairs A B C D …; with `output_dir`, write stats.json and .png.

    Pairs are compared each for itself, and their p-values adjusted together.

    Raises LabkitError for what cannot be compared (see `read`), and for too little of it.
    """
    if not 0 < alpha < 0.5:
        raise LabkitError(f"--alpha {alpha} is not an error rate: use one such as 0.05")
    if margin is not None and not 0 < margin < 1:
        raise LabkitError(f"--margin {margin} is not a share: 0.02 stands for 2 percentage points")
    if len(sides) < 2 or len(sides) % 2:
        raise LabkitError(f"{len(sides)} sides are no pairs: give A B, or A B C D and so on")
    kind, side_a, side_b = read_pairs(list(zip(sides[::2], sides[1::2], strict=True)))
    runs = isinstance(side_a[0], Run)
    if runs and margin is not None:
        raise LabkitError("--margin is for scores: these are times")
    found = (_compare_runs(side_a, side_b, alpha) if runs else
             _compare_answers(side_a, side_b, alpha, margin))  # fmt: skip
    rows = found["results"]
    for row, adjusted in zip(rows, stats.holm([r["p_value"] for r in rows]), strict=True):
        row["p_holm"], row["significant"] = adjusted, adjusted < alpha
        row["sentence"] = (_run_sentence if runs else _answer_sentence)(row, alpha, len(rows))
    a, b = (" ".join(map(str, sides[place::2])) for place in (0, 1))
    outcome = Conclusion(kind=kind, alpha=alpha, margin=margin, a=a, b=b, **found,
                         sentence=" ".join(row["sentence"] for row in rows))  # fmt: skip
    if output_dir is not None:
        figure, alt = draw(outcome)
        plots.save_figure(figure, output_dir / "stats.png", alt=alt)
        write_json(output_dir / "stats.json", outcome.to_json())
    return outcome


def _compare_runs(a: list[Run], b: list[Run], alpha: float) -> dict[str, Any]:
    names = sorted({run.data for run in a})
    if names != sorted({run.data for run in b}):
        raise LabkitError(
            f"A was trained on {', '.join(names) or 'one data set'} and B on "
            f"{', '.join(sorted({run.data for run in b}))}: compare the same data"
        )
    rows, notes = [], []
    for name in names:
        sides = {s: [r for r in runs if r.data == name] for s, runs in (("A", a), ("B", b))}
        for side, runs in sides.items():
            if len(runs) < 2:
                raise LabkitError(
                    f"{side} has one run{f' of {name}' if name else ''}: a run cannot show how "
                    "much runs differ, so give at least two a side, better ten"
                )
            _agree([run.own for run in runs], runs, f"runs of {side}", "settings")
        both = sides["A"] + sides["B"]
        _agree([run.same for run in both], both, "runs", "work")
        rows.append({"name": name or None, **_one_data_set(sides["A"], sides["B"], alpha)})
        notes += _order_note(sides["A"], sides["B"])
        notes += [note for run in both for note in run.notes]
    differ = sorted(k for k in a[0].own if a[0].own[k] != b[0].own.get(k))
    if differ:
        said = [f"{key} ({a[0].own[key]} against {b[0].own.get(key)})" for key in differ]
        notes.append("A and B differ in " + ", ".join(said))
    controls = {"a": _control(a, names, alpha), "b": _control(b, names, alpha)}
    for side, row in controls.items():
        if row is not None and row["p_value"] < alpha:
            notes.append(
                f"the runs of {side.upper()} differ among themselves (A/A control, p = "
                f"{row['p_value']:.2g}): something changed while they ran, so trust no ratio here"
            )
    return {"unit": a[0].unit, "results": rows, "a_a": controls, "notes": notes}


def _one_data_set(a: list[Run], b: list[Run], alpha: float) -> Row:
    pairs = _pairs(a, b)
    try:
        if pairs is not None:
            first, second = [x for x, _ in pairs], [y for _, y in pairs]
            found = stats.paired_ratio([r.seconds for r in first], [r.seconds for r in second],
                                       alpha=alpha)  # fmt: skip
        else:
            first, second = a, b
            found = stats.unpaired_ratio([r.seconds for r in a], [r.seconds for r in b],
                                         alpha=alpha)  # fmt: skip
    except ValueError as error:
        raise LabkitError(f"A and B cannot be compared: {error}") from None
    effect_power = stats.power(EXAMPLE_EFFECT, spread=found["spread"], n=found["n"], alpha=alpha)
    return {
        "paired": pairs is not None,
        **found,
        "power_at_3_percent": effect_power,
        "seconds": {"a": [r.seconds for r in first], "b": [r.seconds for r in second]},
    }


def _pairs(a: list[Run], b: list[Run]) -> list[tuple[Run, Run]] | None:
    """Return runs paired by seed, file name or folder name; None where no one of them pairs all."""
    for key in (lambda r: r.seed, lambda r: r.file.name, lambda r: r.file.parent.name):
        first, second = {key(run): run for run in a}, {key(run): run for run in b}
        if len(first) == len(a) and len(second) == len(b) and set(first) == set(second):
            return [(first[k], second[k]) for k in sorted(first)]
    return None


def _agree(values: Sequence[dict[str, Any]], runs: Sequence[Run], who: str, what: str) -> None:
    """Raise LabkitError at the first thing that two runs do not share."""
    for value, run in zip(values, runs, strict=True):
        for key, expected in values[0].items():
            if not _alike(key, expected, value.get(key)):
                raise LabkitError(
                    f"{who} differ in {key}: {runs[0].file} has {expected!r} and {run.file} has "
                    f"{value.get(key)!r}, so their {what} is not the same"
                )


def _alike(key: str, x: Any, y: Any) -> bool:
    if key in TOLERANCE and None not in (x, y):
        return math.isclose(x, y, rel_tol=TOLERANCE[key])
    return bool(x == y)


def _order_note(a: list[Run], b: list[Run]) -> list[str]:
    if not all(run.started for run in a + b):
        return []
    for first, second, early, late in (("A", "B", a, b), ("B", "A", b, a)):
        if max(run.started for run in early) < min(run.started for run in late):
            return [f"all runs of {first} were made before those of {second}: whatever changed in "
                    "between is part of the ratio, so alternate them"]  # fmt: skip
    return []


def _control(runs: list[Run], names: list[str], alpha: float) -> Row | None:
    """Compare neighbouring runs of one side, over all data sets, each at its own scale."""
    times: list[float] = []
    for name in names:
        ours = sorted((r for r in runs if r.data == name), key=lambda r: (r.started, str(r.file)))
        mean = math.exp(sum(math.log(r.seconds) for r in ours) / len(ours))
        times += [run.seconds / mean for run in ours[: len(ours) // 2 * 2]]
    try:
        return stats.control(times, alpha=alpha)
    except ValueError:
        return None


def _compare_answers(
    a: list[Answers], b: list[Answers], alpha: float, margin: float | None
) -> dict[str, Any]:
    tasks = {}
    for side, answers in (("A", a), ("B", b)):
        tasks[side] = {found.task: found for found in answers}
        if len(tasks[side]) < len(answers):
            twice = next(x.task for x in answers if sum(y.task == x.task for y in answers) > 1)
            raise LabkitError(f"{side} holds more than one result of {twice}: give one a side")
    if set(tasks["A"]) != set(tasks["B"]):
        odd = sorted(set(tasks["A"]) ^ set(tasks["B"]))
        raise LabkitError(f"only one side has {', '.join(odd)}: compare the same tasks")
    rows, notes = [], []
    for name, found in tasks["A"].items():
        other = tasks["B"][name]
        notes += [f"{side}: {note}" for side, one in (("A", found), ("B", other))
                  for note in one.notes]  # fmt: skip
        try:
            rows.append(_one_task(found, other, alpha, margin))
        except _NothingToGoBy as error:
            notes.append(str(error))
        if found.clusters == other.clusters == {}:
            notes.append(f"{name}: neither file names the reports that its questions are on, so "
                         "questions are taken as independent, which claims too much where several "
                         "share a report: repeat labkit score --json")  # fmt: skip
    if not rows:
        raise LabkitError(notes[-1])
    for row in rows:
        if not row["paired"]:
            notes.append(
                f"{row['name']}: questions were not logged one by one, so this test can't "
                "pair them and is weaker than it could be (lm-eval: --log_samples)"
            )
        if margin is not None and row["unit"] != "share":
            notes.append(
                f"{row['name']}: {row['metric']} is no share, so --margin says nothing about it"
            )
    return {"unit": "a question", "results": rows, "a_a": None, "notes": notes}


class _NothingToGoBy(LabkitError):
    """Neither questions nor standard errors: nothing to test."""


def _one_task(a: Answers, b: Answers, alpha: float, margin: float | None) -> Row:
    for key, value in a.same.items():
        if value != b.same.get(key):
            raise LabkitError(f"{a.task}: A and B differ in {key} ({value} and {b.same.get(key)}), "
                              "so they did not take the same test")  # fmt: skip
    for side, found in (("A", a), ("B", b)):
        if not math.isfinite(found.mean) or not all(
            map(math.isfinite, (found.scores or {}).values())
        ):
            raise LabkitError(f"{side}: {found.file} has a score that is not a number")
    share = a.share and b.share
    row: Row = {
        "name": a.task, "metric": a.metric, "means": {"a": a.mean, "b": b.mean},
        "unit": "share" if share else a.metric,
        "higher_is_better": a.higher_is_better if a.higher_is_better == b.higher_is_better
        else None,
    }  # fmt: skip
    if not share:
        margin = None
    if not a.scores or not b.scores:
        return row | {"paired": False, **_aggregated(a, b, alpha, margin)}
    if set(a.scores) != set(b.scores):
        raise LabkitError(f"{a.task}: A and B answered different questions")
    if a.weights != b.weights:
        raise LabkitError(f"{a.task}: A and B count other words or bytes in the same questions")
    x, y = list(a.scores.values()), [b.scores[uid] for uid in a.scores]
    if a.clusters and b.clusters and a.clusters != b.clusters:
        raise LabkitError(f"{a.task}: A's and B's questions are on other reports")
    weights = None if a.weights is None else [a.weights[uid] for uid in a.scores]
    named = a.clusters or b.clusters
    clusters = [named[uid] for uid in a.scores] if named else None
    if clusters and len(set(clusters)) == 1:
        raise _NothingToGoBy(f"{a.task}: all questions are on one report, which says nothing of "
                             "others")  # fmt: skip
    try:
        tested = stats.paired_difference(x, y, clusters, alpha=alpha, weights=weights)
    except ValueError as error:
        raise LabkitError(f"{a.task} cannot be tested: {error}") from None
    tested["difference"] = _in_metric(tested["difference"], a)
    row |= {"paired": True, **tested}
    if set(x + y) <= {0.0, 1.0} and a.form == "mean":
        exact = stats.mcnemar(x, y)
        alone = tested["clusters"] == tested["n"]
        # Its p-value and name, where questions stand alone; the interval stays.
        row |= exact if alone else {key: exact[key] for key in ("only_a", "only_b")}
    if margin is not None:
        row["equivalence"] = stats.equivalence(x, y, margin=margin, clusters=clusters, alpha=alpha)
    return row


def _in_metric(difference: dict[str, float], a: Answers) -> dict[str, float]:
    """Turn a difference of what was kept of questions into one of the metric.

    Log-probabilities are compared, where differences are additive; A's metric is taken as given.
    """

    def metric(d: float) -> float:
        return a.mean * math.expm1(min(-d, 700)) if a.form == "exp" else -d / math.log(2)

    if a.form == "mean":
        return difference
    return {"value": metric(difference["value"]), "low": metric(difference["high"]),
            "high": metric(difference["low"])}  # fmt: skip


def _aggregated(a: Answers, b: Answers, alpha: float, margin: float | None) -> Row:
    """Compare two means by their published standard errors, as if from different questions."""
    from scipy import stats as scipy_stats

    errors = [found.error for found in (a, b)]
    if any(error is None or not math.isfinite(error) for error in errors) or not any(errors):
        raise _NothingToGoBy(f"{a.task}: there are neither questions nor standard errors to go by: "
                             "run lm-eval with --log_samples")  # fmt: skip
    error = math.hypot(*(float(e or 0) for e in errors))
    mean = b.mean - a.mean

    def interval(level: float) -> dict[str, float]:
        width = float(scipy_stats.norm.ppf(1 - level / 2)) * error
        return {"value": mean, "low": mean - width, "high": mean + width}

    row: Row = {
        "test": "z-test of two means",
        "n": a.n,
        "difference": interval(alpha),
        "p_value": float(2 * scipy_stats.norm.sf(abs(mean) / error)),
    }
    if margin is not None:
        p_value = float(scipy_stats.norm.sf((margin - abs(mean)) / error))
        row["equivalence"] = {
            "test": "two one-sided z-tests", "n": a.n, "margin": margin, "p_value": p_value,
            "difference": interval(2 * alpha), "equivalent": p_value < alpha,
        }  # fmt: skip
    return row


def _run_sentence(row: Row, alpha: float, questions: int) -> str:
    ratio, n = row["ratio"], row["n"]
    runs = f"{n} paired runs" if row["paired"] else f"{n[0]} and {n[1]} unpaired runs"
    where = f"On {row['name']}, " if row["name"] else ""
    size = (f"a ratio of {ratio['value']:.3f} ({1 - alpha:.0%} interval {ratio['low']:.3f} to "
            f"{ratio['high']:.3f}; {row['test']}, {_p(row, questions)})")  # fmt: skip
    if row["significant"]:
        less = 1 - 1 / ratio["value"]
        what = f"{abs(less):.1%} {'less' if less > 0 else 'more'} time than A"
        return (f"{where}B takes {what}, {size}: were there no difference, {runs} would show one "
                f"this clear in fewer than {alpha:.0%} of repetitions.")  # fmt: skip
    return (
        f"{where}no difference was found, {size}. That does not show there is none: {runs} with "
        f"this spread find a difference of {EXAMPLE_EFFECT:.0%} in {row['power_at_3_percent']:.0%} "
        "of repetitions."
    )


def _answer_sentence(row: Row, alpha: float, questions: int) -> str:
    share = row["unit"] == "share"
    scale, form = (100, ".1f") if share else (1, ".4g")
    a, b = (scale * row["means"][side] for side in "ab")
    value, low, high = (scale * row["difference"][key] for key in ("value", "low", "high"))
    better = row["higher_is_better"]
    what = "scores" if share else f"has a {row['metric']} of"
    over = f" over {row['n']} questions" if row["n"] else ""
    if row.get("clusters", row["n"]) != row["n"]:
        over += f" on {row['clusters']} reports"
    said = (f"On {row['name']}, A {what} {a:{form}} and B {b:{form}}"
            f"{'' if better is not False else ' (less is better)'}, {value:+{form}}"
            f"{' points' if share else ''} ({1 - alpha:.0%} interval {low:+{form}} to "
            f"{high:+{form}}; {row['test']}{over}, {_p(row, questions)}): ")  # fmt: skip
    if not row["significant"]:
        said += "no difference was found, which does not show there is none."
    elif better is None:
        said += (f"B is {'higher' if value > 0 else 'lower'}, and nothing says which way is "
                 "better.")  # fmt: skip
    else:
        said += f"B is {'better' if (value > 0) == better else 'worse'}."
    if equal := row.get("equivalence"):
        said += f" Within {100 * equal['margin']:g} points of each other: "
        said += f"{'shown' if equal['equivalent'] else 'not shown'} (p = {equal['p_value']:.2g})."
    return said


def _p(row: Row, questions: int) -> str:
    if questions == 1:
        return f"p = {row['p_value']:.2g}"
    return f"p = {row['p_holm']:.2g} after Holm's adjustment for {questions} questions"
