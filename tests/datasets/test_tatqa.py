"""Reading TAT-QA files: what is read, where from, and what is refused."""

import hashlib
import json

import pytest

from labkit.datasets import tatqa
from labkit.datasets.tatqa import data_sha256, load, read_reports, samples, split_reports
from labkit.errors import LabkitError


def test_a_report_is_read_in_reading_order(write_json, make_report):
    (report,) = read_reports(write_json([make_report()]))
    assert report.uid == "t1"
    assert report.table == (("", "2019", "2018"), ("Sales", "1,496", "1,202"))
    assert report.paragraphs == ("First paragraph.", "Second paragraph.")
    change, sales = report.questions
    assert (change.answer, change.answer_type, change.scale) == (
        ("24.46",),
        "arithmetic",
        "percent",
    )
    assert change.derivation == "(1,496-1,202)/1,202"
    assert (sales.text, sales.answer) == ("What were sales in 2019?", ("1,496",))


def test_samples_are_numbered_in_file_order(write_json, make_report):
    listed = samples(read_reports(write_json([make_report("t1"), make_report("t2")])))
    assert [s.question.uid for s in listed] == ["t1-q1", "t1-q2", "t2-q1", "t2-q2"]
    assert listed[2].report.uid == "t2"


def test_the_official_development_file(tatqa_dev):
    reports = read_reports(tatqa_dev)
    kinds = [s.question.answer_type for s in samples(reports)]
    assert len(reports) == 278
    assert {kind: kinds.count(kind) for kind in tatqa.ANSWER_TYPES} == {
        "span": 701,
        "multi-span": 217,
        "arithmetic": 718,
        "count": 32,
    }
    assert data_sha256(tatqa_dev, "test") == tatqa.TATQA_SHA256["dev"]


def test_the_embedded_splits_share_no_report():
    splits = {split: {r.uid for r in load("tables", split)} for split in tatqa.SPLITS}
    assert all(splits.values())
    assert len(set.union(*splits.values())) == sum(map(len, splits.values()))
    assert len(load("tables", "all")) == sum(map(len, splits.values()))


def _broken(make_report, change):
    report = make_report()
    change(report)
    return [report]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r.pop("table"), r"\[0\] has no key 'table'"),
        (lambda r: r.update(table=[]), r"\[0\]\.table is a list"),
        (lambda r: r["table"].update(table=["row"]), r"\[0\]\.table\.table\[0\] is not a list"),
        (lambda r: r["paragraphs"][1].pop("text"), r"\[0\]\.paragraphs\[1\] has no key 'text'"),
        (lambda r: r.update(paragraphs=["text"]), r"\[0\]\.paragraphs\[0\] is not a JSON object"),
        (lambda r: r["questions"][1].pop("uid"), r"\[0\]\.questions\[1\] has no key 'uid'"),
        (lambda r: r["questions"][0].update(scale="dozen"), r"questions\[0\]\.scale is 'dozen'"),
        (lambda r: r["questions"][0].update(answer_type="date"), r"answer_type is 'date'.*'count'"),
        (lambda r: r["questions"][0].update(answer=["1"]), r"questions\[0\]\.answer is not a num"),
        (lambda r: r["questions"][1].update(answer="1"), r"questions\[1\]\.answer is a str"),
        (
            lambda r: r["questions"][0].update(answer="two", answer_type="count"),
            r"questions\[0\]\.answer is 'two', not a whole number",
        ),
        (lambda r: r["questions"][0].pop("answer"), r"t1-q1.*no 'answer'.*test_gold"),
        (lambda r: r["questions"][1].update(uid="t1-q1"), r"two questions with the uid 't1-q1'"),
        (lambda r: r.update(questions=[]), "holds no questions"),
    ],
)
def test_another_shape_is_refused_with_its_place(change, says, write_json, make_report):
    with pytest.raises(LabkitError, match=says):
        read_reports(write_json(_broken(make_report, change)))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "not valid JSON"),
        ('[{"table":', r"not valid JSON: .* in line 1, column 11"),
        ("{}", "holds a JSON dict"),
        ("[]", "holds no questions"),
    ],
)
def test_what_is_not_a_list_of_reports_is_refused(content, says, tmp_path):
    path = tmp_path / "data.json"
    path.write_text(content)
    with pytest.raises(LabkitError, match=says):
        read_reports(path)


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(LabkitError, match="no file"):
        read_reports(tmp_path / "absent.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LabkitError, match="cannot be read as text"):
        read_reports(tmp_path / "binary.json")


@pytest.mark.parametrize(
    ("name", "split", "says"),
    [
        ("nowhere.json", "test", "no data set at 'nowhere.json'.*'tables', 'tatqa'"),
        ("tables", "tset", "no split 'tset'; did you mean 'test'"),
        ("tatqa", "dev", "labkit fetch tatqa"),
    ],
)
def test_what_is_not_there_says_what_to_do(name, split, says, tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path))
    with pytest.raises(LabkitError, match=says):
        load(name, split)


@pytest.mark.parametrize(
    "names", [("train", "dev", "test"), [f"tatqa_dataset_{s}" for s in ("train", "dev", "test")]]
)
def test_a_folder_has_a_file_for_each_split(names, tmp_path, write_json, make_report):
    for name in names:
        write_json([make_report(name[-4:])], f"set/{name}.json")
    assert [r.uid for r in load(tmp_path / "set", "dev")] == [names[1][-4:]]
    assert len(load(tmp_path / "set", "all")) == 3


def test_the_gold_test_file_is_taken_before_the_blind_one(tmp_path, write_json, make_report):
    blind = make_report("blind")
    del blind["questions"][0]["answer"]
    write_json([blind], "tatqa_dataset_test.json")
    with pytest.raises(LabkitError, match="blind test file"):
        load(tmp_path, "test")
    write_json([make_report("gold")], "tatqa_dataset_test_gold.json")
    assert [r.uid for r in load(tmp_path, "test")] == ["gold"]


def test_the_data_folder_can_be_elsewhere(tmp_path, write_json, make_report, monkeypatch):
    write_json([make_report("mine")], "tables/dev.json")
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    assert [r.uid for r in load("tables", "dev")] == ["mine"]


def test_a_single_file_is_cut_by_report(write_json, make_report):
    path = write_json([make_report(f"t{i}") for i in range(100)])
    parts = {split: [r.uid for r in load(path, split)] for split in tatqa.SPLITS}
    assert [len(part) for part in parts.values()] == [80, 5, 15]
    assert sorted(sum(parts.values(), [])) == sorted(r.uid for r in load(path, "all"))
    assert data_sha256(path, "train") == data_sha256(path, "all")


def test_the_cut_does_not_depend_on_the_order_of_the_file(write_json, make_report):
    reports = read_reports(write_json([make_report(f"t{i}") for i in range(40)]))
    forward, backward = split_reports(reports), split_reports(reports[::-1])
    for split in tatqa.SPLITS:
        assert forward[split] == backward[split][::-1]
    assert split_reports(reports, seed=1) != forward


@pytest.mark.parametrize(("count", "sizes"), [(1, [1, 0, 0]), (3, [1, 1, 1]), (7, [5, 1, 1])])
def test_small_files_fill_every_split_if_they_can(count, sizes, write_json, make_report):
    reports = read_reports(write_json([make_report(f"t{i}") for i in range(count)]))
    assert [len(part) for part in split_reports(reports).values()] == sizes


def test_a_file_too_small_to_cut_is_refused(write_json, make_report):
    with pytest.raises(LabkitError, match="1 reports, too few to cut a test split"):
        load(write_json([make_report()]), "test")


@pytest.fixture
def served(tmp_path, make_report, monkeypatch):
    """The three official files, served from a folder; the cache is another, empty one."""
    source = tmp_path / "source"
    source.mkdir()
    for part in tatqa.TATQA_FILES.values():
        (source / f"tatqa_dataset_{part}.json").write_text(json.dumps([make_report(part)]))
    dev = hashlib.sha256((source / "tatqa_dataset_dev.json").read_bytes()).hexdigest()
    monkeypatch.setattr(tatqa, "TATQA_URL", source.as_uri() + "/tatqa_dataset_{}.json")
    monkeypatch.setitem(tatqa.TATQA_SHA256, "dev", dev)
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    return source


def test_fetch_brings_every_split(served, capsys):
    tatqa.fetch_tatqa(progress=False)
    assert [load("tatqa", s)[0].uid for s in tatqa.SPLITS] == ["train", "dev", "test_gold"]
    said = capsys.readouterr().err
    assert said.count("checksum not known, first download recorded") == 2
    assert "tatqa_dataset_dev" not in said


def test_a_recorded_checksum_holds_from_then_on(served, capsys):
    folder = tatqa.fetch_tatqa(progress=False)
    train = folder / "tatqa_dataset_train.json"
    good = train.read_bytes()
    train.write_bytes(good[:-5])
    capsys.readouterr()
    tatqa.fetch_tatqa(progress=False)
    assert train.read_bytes() == good
    assert "recorded" not in capsys.readouterr().err

    train.unlink()
    (served / train.name).write_bytes(good + b"\n")
    with pytest.raises(LabkitError, match="sha256"):
        tatqa.fetch_tatqa(progress=False)
    assert not train.exists()


def test_a_first_download_that_is_not_tatqa_is_not_kept(served):
    (served / "tatqa_dataset_train.json").write_text("<html>Please log in</html>")
    with pytest.raises(LabkitError, match=r"file:.* did not give a TAT-QA file: .*not valid JSON"):
        tatqa.fetch_tatqa(progress=False)
    assert [path.suffix for path in tatqa.tatqa_dir().iterdir()] == [".lock"]


def test_a_fetch_without_network_says_so(served):
    (served / "tatqa_dataset_train.json").unlink()
    with pytest.raises(LabkitError, match="cannot download .*train.json"):
        tatqa.fetch_tatqa(progress=False)
