"""Whatever stands in a configuration: a run's settings, or one sentence."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.errors import LabkitError
from labkit.runs.config import CONFIGS, FIELDS, RunConfig, load_config
from labkit.runs.older_projects import RENAMED, RETIRED

fuzz = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
SHIPPED = [path.read_bytes() for path in sorted(CONFIGS.glob("*.yaml"))]
LONGEST_SENTENCE = 1500
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from(["lora", "full", "qlora", "adamw_hf", "auto", "9" * 400, "[" * 9000]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
KEYS = st.sampled_from([*FIELDS, *RENAMED, *RETIRED, "task_type"])


def read_or_refused(file: Path, content: bytes) -> None:
    """Read a configuration, or see that it is refused in one sentence of a bearable length."""
    file.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert isinstance(load_config(file), RunConfig)
    except LabkitError as error:
        said = str(error)
        assert len(said.splitlines()) == 1 and len(said) < LONGEST_SENTENCE + len(str(file))


@pytest.mark.parametrize("ending", ["json", "yaml"])
@fuzz
@given(st.dictionaries(KEYS, VALUES, max_size=3))
def test_any_value_of_any_setting(
    tmp_path_factory: pytest.TempPathFactory, ending: str, values: dict[str, Any]
) -> None:
    file = tmp_path_factory.mktemp("fuzz") / f"run.{ending}"
    read_or_refused(file, json.dumps(values).encode())


@fuzz
@given(VALUES)
def test_json_of_any_shape(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    read_or_refused(tmp_path_factory.mktemp("fuzz") / "run.json", json.dumps(value).encode())


@pytest.mark.parametrize("ending", ["json", "yaml"])
@fuzz
@given(
    st.sampled_from(SHIPPED), st.integers(0, 3000), st.binary(max_size=8),
    st.sampled_from(["utf-8", "utf-16", "utf-32", "utf-8-sig", "latin-1"]),
)  # fmt: skip
def test_a_shipped_file_cut_damaged_and_saved_otherwise(
    tmp_path_factory: pytest.TempPathFactory, ending: str, content: bytes, cut: int,
    put: bytes, encoding: str,
) -> None:  # fmt: skip
    text = content[:cut].decode("utf-8", "ignore").encode(encoding, "replace")
    file = tmp_path_factory.mktemp("fuzz") / f"run.{ending}"
    read_or_refused(file, text + put + content[cut:])


@pytest.mark.parametrize(
    "text",
    ['seed: !!int ""', "seed: !!bool maybe", "name: !!timestamp soon", 'r: !!float ""',
     "? [a, b]\n: 1", "? {a: 1}\n: 1", "r: &r [*r]", "optim: []", "optim: {}", "train_mode: {}",
     "name: !!python/object:os.system {}", "k" * 100_000 + ": 1", "- r: 4", "%YAML 9.9\n---\nr: 4",
     "loftq_config: '" + "[" * 100_000 + "'", "loftq_config: '" + "9" * 5000 + "'", "r: 4\x07"],
    ids=range(17),
)  # fmt: skip
def test_what_yaml_allows_and_nobody_means(tmp_path: Path, text: str) -> None:
    with pytest.raises(LabkitError) as caught:
        load_config(_written(tmp_path / "run.yaml", text))
    said = str(caught.value)
    assert len(said.splitlines()) == 1 and len(said) < LONGEST_SENTENCE + len(str(tmp_path))


def _written(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


def test_no_more_is_read_than_a_configuration_may_have(tmp_path: Path) -> None:
    file = _written(tmp_path / "run.yaml", "r: 4\n")
    os.truncate(file, 2**38)  # holes, which take no place until somebody reads them
    with pytest.raises(LabkitError, match="larger than 1 MiB"):
        load_config(file)
