"""TAT-QA files that others wrote: nulls, NaN, half characters, any shape and any encoding."""

import json
from pathlib import Path
from typing import Any

import pytest
from damaged import fuzz, one_sentence, written
from hypothesis import given
from hypothesis import strategies as st

from labkit.datasets.encode import render_report
from labkit.datasets.score import score_file
from labkit.datasets.tatqa import read_reports, samples
from labkit.errors import LabkitError


def changed(make_report: Any, change: Any) -> list[Any]:
    report = make_report()
    change(report)
    return [report]


def question(report: Any, number: int = 0) -> Any:
    return report["questions"][number]


def test_a_null_cell_is_an_empty_one(write_json, make_report) -> None:
    def change(report: Any) -> None:
        report["table"]["table"] += [[None, None, None], ["Costs", None, 7.5], ["None", 3, None]]

    (report,) = read_reports(write_json(changed(make_report, change)))
    assert report.table[2:] == (("", "", ""), ("Costs", "", "7.5"), ("None", "3", ""))
    text = render_report(report)
    assert "Costs |  | 7.5" in text and text.count("None") == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r["table"]["table"][1].append(float("nan")), r"table\[1\]\[3\] is nan"),
        (lambda r: r["table"]["table"][0].append(float("-inf")), r"table\[0\]\[3\] is -inf"),
        (lambda r: r["table"]["table"][1].append([1]), r"table\[1\]\[3\] is a list"),
        (lambda r: r["table"]["table"][1].append({"v": 1}), r"table\[1\]\[3\] is a JSON object"),
        (lambda r: r["table"]["table"][1].append(True), r"table\[1\]\[3\] is a truth value"),
        (lambda r: question(r).update(answer=float("nan")), r"questions\[0\]\.answer is nan"),
        (lambda r: question(r).update(answer=float("inf")), r"questions\[0\]\.answer is inf"),
        (lambda r: question(r).update(answer=2.7, answer_type="count"), "2.7, not a whole number"),
        (lambda r: question(r).update(answer=float("inf"), answer_type="count"), "inf, not a whol"),
        (lambda r: question(r).update(answer=float("nan"), answer_type="count"), "nan, not a whol"),
        (lambda r: question(r).update(answer=-1, answer_type="count"), "-1, not a whole number"),
        (lambda r: question(r).update(answer="2.0", answer_type="count"), "'2.0', not a whole"),
        (lambda r: question(r).update(derivation=["1 + 1"]), r"derivation is a list"),
        (lambda r: question(r, 1).update(answer={"0": "1,496"}), r"questions\[1\].answer is a dic"),
        (lambda r: question(r, 1).update(answer=[None]), r"questions\[1\]\.answer\[0\] is null"),
        (lambda r: question(r, 1).update(answer=[["1,496"]]), r"\.answer\[0\] is a list"),
        (lambda r: question(r, 1).update(answer=["1", float("nan")]), r"\.answer\[1\] is nan"),
        (lambda r: question(r, 1).update(question="Sales \ud83d?"), r"questions\[1\].*half a char"),
        (lambda r: r["paragraphs"][0].update(text="\udc00"), r"paragraphs\[0\]\.text has half"),
        (lambda r: r["table"]["table"][0].append("\ud800"), r"table\[0\]\[3\] has half"),
    ],
)
def test_what_would_be_taught_as_something_else_is_refused(
    change: Any, says: str, write_json, make_report
) -> None:
    with pytest.raises(LabkitError, match=says) as caught:
        read_reports(write_json(changed(make_report, change)))
    str(caught.value).encode()


@pytest.mark.parametrize(("answer", "read"), [(3, "3"), (3.0, "3"), ("3", "3"), (0, "0")])
def test_whole_numbers_are_counts(answer: Any, read: str, write_json, make_report) -> None:
    content = changed(make_report, lambda r: question(r).update(answer=answer, answer_type="count"))
    assert samples(read_reports(write_json(content)))[0].question.answer == (read,)


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"table":{"table":['])
def test_deep_brackets_are_one_sentence(opening: str, tmp_path: Path, write_json, make_report):
    file = tmp_path / "deep.json"
    file.write_text(opening * 100_000)
    with pytest.raises(LabkitError, match=r"deep\.json is not valid JSON: .*nested too deeply"):
        read_reports(file)
    with pytest.raises(LabkitError, match="nested too deeply"):
        score_file(file, write_json([make_report()]))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_predictions_and_gold_may_have_a_byte_order_mark(
    encoding: str, tmp_path: Path, make_report
) -> None:
    gold, predictions = tmp_path / "gold 🙂.json", tmp_path / 'it\'s "mine".json'
    gold.write_bytes(json.dumps([make_report()]).encode(encoding))
    predictions.write_bytes(json.dumps({"t1-q2": [["1,496"], "million"]}).encode(encoding))
    assert score_file(predictions, gold)["em"] == 0.5


def test_a_file_larger_than_is_read_is_refused(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "huge.json"
    with file.open("wb") as handle:
        handle.truncate(2**28 + 1)  # a hole: no byte of it is on the disk
    with pytest.raises(LabkitError, match="larger than 256 MiB"):
        read_reports(file)


@fuzz
@given(data=st.data())
def test_any_file_is_read_or_refused_in_one_sentence(tmp_path_factory, make_report, data) -> None:
    """A right report with places replaced, or any JSON at all, whole or cut off."""
    folder = tmp_path_factory.mktemp("fuzz")
    right = [make_report()]
    question(right[0], 1).update(answer=2, answer_type="count")
    file, whole, predictions = (folder / f"{name}.json" for name in ("any", "whole", "predictions"))
    file.write_bytes(data.draw(written(right)))
    whole.write_text(json.dumps(right))
    predictions.write_bytes(data.draw(written({"t1-q1": [["1", "2"], "million"],
                                               "t1-q2": [3.5, ""]})))  # fmt: skip
    for read in (
        lambda: [render_report(r) for r in read_reports(file)],
        lambda: score_file(predictions, file),
        lambda: score_file(predictions, whole),
    ):
        try:
            read()
        except LabkitError as error:
            one_sentence(error)
