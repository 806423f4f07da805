"""Data sets of the Hub: what is asked of its client, and what becomes of an answer that fails."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from labkit.datasets import registry
from labkit.errors import LabkitError


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[dict[str, Any]]]:
    """Return a function that lets the Hub's client answer, and lists how it was called."""

    def answering(answer: Path | Exception) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def snapshot_download(repo_id: str, **words: Any) -> str:
            calls.append({"repo_id": repo_id, **words})
            if words.get("local_files_only"):
                raise errors.LocalEntryNotFoundError("not here")
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        return calls

    return answering


def test_a_name_alone_is_read_from_the_hub(tmp_path: Path, client: Any) -> None:
    rows = [{"instruction": f"i{i}", "context": "", "response": "r", "category": "qa"}
            for i in range(6)]  # fmt: skip
    (tmp_path / "databricks-dolly-15k.jsonl").write_text("\n".join(map(json.dumps, rows)))
    calls = client(tmp_path)
    assert len(registry.examples("dolly", "all", bad_rows="refuse")) == 6
    here, there = calls
    assert here["repo_id"] == there["repo_id"] == "databricks/databricks-dolly-15k"
    assert there["repo_type"] == "dataset" and "*.parquet" in there["allow_patterns"]
    calls.clear()
    fetch = registry.DATASETS["dolly"].fetch
    assert fetch is not None and fetch() == tmp_path and calls
    assert len(registry.examples("jsonl:someone/their-set", "all")) == 6
    assert calls[-1]["repo_id"] == "someone/their-set"


def test_what_the_hub_does_not_give_is_one_sentence(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client(OSError("no route"))
    with pytest.raises(
        LabkitError, match="cannot download GAIR/lima .*name a local file or folder"
    ):
        registry.examples("lima", "train")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(LabkitError, match="HF_HUB_OFFLINE is set: unset it, or name a local file"):
        registry.examples("lima", "train")
