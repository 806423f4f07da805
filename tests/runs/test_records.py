"""Records: written whole or not at all, read back equal, found by what can change a result."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from damaged import fuzz, one_sentence, written
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import LabkitError
from labkit.runs import records
from labkit.runs.config import FIELDS, RunConfig

pytestmark = pytest.mark.usefixtures("runs")

NEVER_IN_THE_HASH = {"name", "report_to", "save_steps"}


def record(name: str = "first", **changes: Any) -> records.RunRecord:
    settings: dict[str, Any] = {
        "id": records.new_id(), "sha256": "0" * 64, "name": name, "status": "done",
        "started_at": "2026-11-22T10:00:00+00:00", "config": RunConfig().to_dict(), "seed": 42,
        "versions": {"torch": "2"}, "hardware": {"cores": 2},
        "model": {"name": "m", "sha256": "1"}, "data": {"name": "d", "sha256": "2"},
        "steps": [{"step": 1, "loss": 2.5, "seconds": 0.5, "tokens": 10}],
        "summary": {"tokens_per_second": None, "peak_bytes": {"allocated": 5, "reserved": None}},
    }  # fmt: skip
    return records.RunRecord(**{**settings, **changes})


def test_round_trip(runs: Path) -> None:
    saved = record().save()
    assert saved.path == runs / "first"
    assert saved.model_path == runs / "first" / "model"
    assert records.load("first") == saved == records.load(runs / "first")
    assert records.load("first").losses == [2.5]


def test_a_copied_run_goes_by_its_folder(runs: Path) -> None:
    record().save()
    shutil.copytree(runs / "first", runs / "copy")
    records.load("copy").replace(seed=7).save()
    assert {each.name: each.seed for each in records.records()} == {"first": 42, "copy": 7}


@pytest.mark.parametrize("name", ["mine", ""])
def test_a_copy_is_found_only_where_the_run_is_gone(runs: Path, name: str) -> None:
    config = {**RunConfig().to_dict(), "name": name, "keep_weights": False}
    made = record(name or "tiny-lora-0123abcd", config=config).save()
    shutil.copytree(made.path, runs / "a-backup")
    assert records.find(made.sha256) == made
    assert records.name_of(made.sha256) == (None if name else made.name)
    shutil.rmtree(made.path)
    assert records.find(made.sha256).name == "a-backup"
    assert records.name_of(made.sha256) is None


def test_what_was_not_measured_is_null_in_the_file(runs: Path) -> None:
    record().save()
    summary = json.loads((runs / "first" / "record.json").read_text())["summary"]
    assert summary["tokens_per_second"] is None
    assert summary["peak_bytes"] == {"allocated": 5, "reserved": None}


def test_a_later_schema_s_extra_fields_are_ignored(runs: Path) -> None:
    saved = record().save()
    file = runs / "first" / "record.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "colour": "blue"}))
    assert records.load("first") == saved


@pytest.mark.parametrize("when", ["dump", "replace", "not json"])
def test_a_crash_while_writing_leaves_the_old_file_and_nothing_else(
    runs: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    old = record().save()

    def crash(*args: Any, **kwargs: Any) -> None:
        if when == "dump":
            args[1].write('{"id": ')
        raise OSError(28, "No space left on device")

    if when == "not json":
        with pytest.raises(ValueError, match="JSON"):
            old.replace(seed=float("nan")).save()
    else:
        where = (json, "dump") if when == "dump" else (os, "replace")
        with monkeypatch.context() as patched:
            patched.setattr(*where, crash)
            with pytest.raises(LabkitError, match=r"record.json cannot be written: No space left"):
                old.replace(status="failed").save()
    assert [path.name for path in (runs / "first").iterdir()] == ["record.json"]
    assert records.load(runs / "first") == old


def test_other_users_of_a_shared_folder_can_read_a_record(runs: Path) -> None:
    record().save()
    assert (runs / "first" / "record.json").stat().st_mode & 0o777 == 0o644


def test_runs_that_cannot_be_written_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LABKIT_RUNS", str(tmp_path / "file" / "runs"))
    with pytest.raises(LabkitError, match="cannot be written: Not a directory"):
        record().save()


DAMAGED = {
    "empty": "",
    "cut off": '{"id": "x", ',
    "a list": "[1, 2]",
    "a word": '"done"',
    "fields missing": '{"id": "x"}',
    "steps are null": json.dumps({**dataclasses.asdict(record()), "steps": None}),
    "config is text": json.dumps({**dataclasses.asdict(record()), "config": "r: 4"}),
    "seed is text": json.dumps({**dataclasses.asdict(record()), "seed": "42"}),
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_record_is_one_sentence_and_hides_no_other(runs: Path, text: str) -> None:
    good = record("good").save()
    (runs / "bad").mkdir()
    (runs / "bad" / "record.json").write_text(text)
    with pytest.raises(LabkitError, match="is damaged: .*labkit runs rm bad") as caught:
        records.load("bad")
    assert "\n" not in str(caught.value)
    assert records.records() == [good]
    assert records.damaged() == ["bad"]
    assert records.remove(["bad"]) == len(text.encode())
    assert records.damaged() == []


@fuzz
@given(data=st.data())
def test_any_record_is_read_or_one_sentence(runs: Path, data: st.DataObject) -> None:
    record().save()
    file = runs / "first" / "record.json"
    file.write_bytes(data.draw(written(json.loads(file.read_text()))))
    try:
        assert isinstance(records.load("first"), records.RunRecord)
    except LabkitError as error:
        one_sentence(error)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"id": ' * 50_000, "[]", "\ufeff[]"])
def test_a_record_of_brackets_is_one_sentence(runs: Path, text: str) -> None:
    (runs / "deep").mkdir(parents=True)
    (runs / "deep" / "record.json").write_text(text, encoding="utf-8")
    with pytest.raises(LabkitError, match="is damaged: remove the run"):
        records.load("deep")


def test_binary_rubbish_is_damaged_too(runs: Path) -> None:
    (runs / "bad").mkdir(parents=True)
    (runs / "bad" / "record.json").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(LabkitError, match="is damaged"):
        records.load("bad")


def test_no_such_run_names_the_nearest() -> None:
    with pytest.raises(LabkitError, match="there are no runs yet"):
        records.load("smollm")
    record("smollm2-lora").save()
    with pytest.raises(LabkitError, match="no run 'smollm2-lore'.*did you mean 'smollm2-lora'"):
        records.load("smollm2-lore")


def hash_of(config: dict[str, Any], model: str = "m", data: str = "d") -> str:
    return records.content_sha256(
        config, model={"name": "any", "sha256": model}, data={"name": "any", "sha256": data}
    )


OTHER_VALUES: dict[str, Any] = {
    str: "something else", int: 12345, float: 0.12345, bool: None, tuple: ["q_proj"],
    dict: {"loftq_bits": 2}, type(None): 7,
}  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_the_hash_follows_every_setting_that_can_change_a_result(field: str) -> None:
    config = RunConfig().to_dict()
    value = config[field]
    other = not value if isinstance(value, bool) else OTHER_VALUES.get(type(value), "other")
    assert other != value
    same = hash_of(config) == hash_of({**config, field: other})
    assert same == (field in NEVER_IN_THE_HASH)


def test_a_setting_at_its_default_is_not_in_the_hash() -> None:
    """So a setting that is new tomorrow leaves the runs of today what they are."""
    config = RunConfig(r=8).to_dict()
    hashes = {hash_of({k: v for k, v in config.items() if k != key}) for key in config if key not in
              ("r", "dtype")}  # fmt: skip
    assert hashes == {hash_of(config)}
    assert hash_of({k: v for k, v in config.items() if k != "r"}) != hash_of(config)


def test_the_type_a_run_computed_in_is_always_in_the_hash() -> None:
    config = RunConfig().to_dict()
    assert len({hash_of({**config, "dtype": d}) for d in ("auto", "float32", "bfloat16")}) == 3


def test_true_is_not_one_in_the_hash() -> None:
    config = RunConfig().to_dict()
    assert hash_of({**config, "fast": 1}) != hash_of(config)


BEFORE = Path(__file__).parent / "before"


def test_settings_that_are_new_leave_hashes_as_they_are() -> None:
    parts: dict[str, Any] = {"model": {"sha256": "m"}, "data": {"sha256": "d"}}
    config = RunConfig().to_dict()
    before = {key: value for key, value in config.items() if key not in ("task", "base")}
    hashes = [records.content_sha256(values, **parts) for values in
              (before, config, {**config, "base": "nf4"}, {**config, "task": "other"})]  # fmt: skip
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_record_of_before_is_found_by_today_s_hash(runs: Path, method: str) -> None:
    """Made while every setting was in the hash."""
    values = json.loads((BEFORE / f"lora_vs_full.{method}.json").read_text())
    made = runs / values["name"]
    (made / "model").mkdir(parents=True)
    (made / "record.json").write_text(json.dumps(values))
    again = RunConfig(**values["config"])
    today = records.content_sha256(again.to_dict(), model=values["model"], data=values["data"],
                                   libraries=values["versions"])  # fmt: skip
    assert today != values["sha256"]
    found = records.find(today)
    assert found is not None and found.id == values["id"]
    assert records.name_of(today) == values["name"]


def test_a_hash_of_before_still_vouches_for_its_record() -> None:
    values = json.loads((BEFORE / "lora_vs_full.lora.json").read_text())
    parts = {"model": values["model"], "data": values["data"], "libraries": values["versions"]}
    assert records.is_hash_of(values["sha256"], values["config"], **parts)
    assert not records.is_hash_of(values["sha256"], {**values["config"], "r": 8}, **parts)


def test_a_record_of_before_with_a_wrong_hash_is_not_put_right(runs: Path) -> None:
    values = json.loads((BEFORE / "lora_vs_full.lora.json").read_text())
    values["config"]["r"] = 8
    made = runs / values["name"]
    made.mkdir(parents=True)
    (made / "record.json").write_text(json.dumps(values))
    assert records.load(made).sha256 == values["sha256"]


def test_the_hash_follows_model_data_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig().to_dict()
    hashes = {hash_of(config), hash_of(config, model="n"), hash_of(config, data="e")}
    monkeypatch.setattr(records, "versions", lambda: {"torch": "99"})
    hashes.add(hash_of(config))
    assert len(hashes) == 4
    # Order of keys is not content.
    assert hash_of(config) == hash_of(dict(reversed(config.items())))


def test_versions_are_those_installed() -> None:
    import peft
    import torch
    import transformers

    found = records.versions()
    assert found["torch"] == torch.__version__
    assert found["transformers"] == transformers.__version__
    assert found["peft"] == peft.__version__


def test_find_returns_only_finished_runs_whose_weights_are_there(runs: Path) -> None:
    sha = "a" * 64
    assert records.find(sha) is None
    record("one", sha256=sha, status="cancelled").save().model_path.mkdir()
    assert records.find(sha) is None
    done = record("two", sha256=sha).save()
    assert records.find(sha) is None
    done.model_path.mkdir()
    assert records.find(sha) == done
    assert records.find("b" * 64) is None
    # A run that was asked to keep no weights is complete without them.
    probe = record("three", sha256="c" * 64, config=RunConfig(keep_weights=False).to_dict()).save()
    assert records.find("c" * 64) == probe


PREDICTED = {"peak_bytes": {"analytic": 3 * 2**29}, "step_seconds": {"low": 0.5, "high": 1.2}}
MEASURED = {
    "trainable_parameters": 10, "total_parameters": 100, "step_seconds_median": 0.75,
    "tokens_per_second": 1000.0, "samples_per_second": 2.0, "train_seconds": 60.0,
    "peak_bytes": {"allocated": 2**30, "reserved": None, "rss": 2**31},
}  # fmt: skip


def test_what_was_predicted_stands_beside_what_was_measured() -> None:
    new, old = record(summary=MEASURED, predicted=PREDICTED), record(summary=MEASURED)
    lines = {line.split("  ")[1]: line for line in records.render(new).splitlines()[1:]}
    assert "0.75 s (predicted 0.50 to 1.20 s)" in lines["step time"]
    assert "1.00 GiB in tensors (predicted 1.50 GiB), 2.00 GiB resident" in lines["peak memory"]
    assert "(predicted" not in records.render(old)
    table = records.cost_table({"new": new, "old": old})
    cells = table["new"], table["old"]
    assert [each["predicted peak (GiB)"] for each in cells] == ["1.50", "–"]
    assert [each["predicted seconds a step"] for each in cells] == ["0.50 to 1.20", "–"]
    assert not [name for name in records.cost_table({"old": old}).index if "predicted" in name]


def test_half_a_prediction_is_shown_with_a_dash() -> None:
    peak_alone = {**PREDICTED, "step_seconds": None}
    assert records.predicted_words(record(predicted=peak_alone)) == ("–", "1.50")
    nothing = {"peak_bytes": {"analytic": None}, "step_seconds": None, "reason": "why"}
    assert records.predicted_words(record(predicted=nothing)) is None
    assert "(predicted" not in records.render(record(summary=MEASURED, predicted=nothing))


def test_records_come_oldest_first() -> None:
    record("b", started_at="2026-11-22T10:00:00+00:00").save()
    record("a", started_at="2026-11-22T11:00:00+00:00").save()
    assert [r.name for r in records.records()] == ["b", "a"]


def test_remove_frees_what_a_run_takes_and_nothing_else(runs: Path) -> None:
    for name in ("one", "two"):
        record(name).save()
        (runs / name / "model").mkdir()
        (runs / name / "model" / "weights").write_bytes(bytes(1000))
    size = 1000 + (runs / "one" / "record.json").stat().st_size
    assert records.disk_bytes("one") == size
    with pytest.raises(LabkitError, match="no run 'twoo'.*did you mean 'two'"):
        records.remove(["one", "twoo"])
    assert (runs / "one").is_dir()
    assert records.remove(["one", "one"]) == size
    assert [path.name for path in runs.iterdir()] == ["two"]


@pytest.mark.parametrize("name", ["../outside", "..", ".", "", "/etc"])
def test_remove_stays_inside_the_runs_folder(runs: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").mkdir()
    record("one").save()
    with pytest.raises(LabkitError, match="no run"):
        records.remove([name])
    assert (tmp_path / "outside").is_dir() and (runs / "one").is_dir()


def test_runs_dir_is_the_current_folder_s_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABKIT_RUNS", "~/there")
    assert records.runs_dir() == Path.home() / "there"
    monkeypatch.setenv("LABKIT_RUNS", "")
    monkeypatch.chdir(tmp_path)
    assert records.runs_dir() == tmp_path / "runs"
