"""Settings: what a file may say, and what a mistake is answered with."""

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml

from labkit.errors import LabkitError
from labkit.runs.config import (
    CONFIGS,
    FIELDS,
    HINTS,
    RunConfig,
    describe_fields,
    from_mapping,
    load_config,
)
from labkit.runs.older_projects import RENAMED, RETIRED


def write(tmp_path: Path, text: str, name: str = "run.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_loads_by_name(path: Path) -> None:
    config = load_config(path.stem)
    written = yaml.safe_load(path.read_text())
    for key, value in written.items():
        found = getattr(config, key)
        assert found == ((value,) if isinstance(found, tuple) else value), key
    # It explains itself: how to start it stands in the file.
    assert f"labkit train --config {path.stem}" in path.read_text()


def test_the_defaults_are_the_course_s_lora_run() -> None:
    assert load_config("lora") == RunConfig()


def test_lora_and_full_differ_in_method_and_learning_rate_alone() -> None:
    lora, full = load_config("lora"), load_config("full")
    differ = {key for key in FIELDS if getattr(lora, key) != getattr(full, key)}
    assert differ == {"method", "learning_rate"}


@pytest.mark.parametrize(
    ("key", "right"),
    [
        ("lerning_rate", "learning_rate"),
        ("targetmodules", "target_modules"),
        ("lora_alfa", "lora_alpha"),
        ("per_device_batch_size", "per_device_train_batch_size"),
        ("gradient-checkpoint", "gradient_checkpointing"),
    ],
)
def test_unknown_key_names_the_nearest(tmp_path: Path, key: str, right: str) -> None:
    path = write(tmp_path, f"{key}: 1\n")
    with pytest.raises(LabkitError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert repr(key.replace("-", "_")) in str(caught.value)
    assert f"'{right}'" in str(caught.value)


WRONG: list[tuple[str, Any]] = [
    ("r", "sixteen"), ("r", 1.5), ("r", True), ("r", None), ("r", [16]), ("r", 10**400),
    ("max_steps", "many"), ("seed", "1.5"), ("seed", float("nan")),
    ("learning_rate", "fast"), ("learning_rate", False), ("learning_rate", float("inf")),
    ("learning_rate", {"peak": 1}), ("warmup_steps", None),
    ("gradient_checkpointing", "maybe"), ("gradient_checkpointing", 1), ("fast", None),
    ("model", 7), ("model", None), ("data", ["a", "b"]), ("optim", 1),
    ("method", "lorra"), ("method", 3), ("dtype", "fp16"), ("torch_compile", "maybe"),
    ("target_modules", 5), ("target_modules", "q_proj,,v_proj"), ("target_modules", [1, 2]),
    ("target_modules", ""),
    ("loftq_config", "4"), ("loftq_config", [4]), ("loftq_config", "{bits"),
    ("max_train_samples", "all"), ("max_train_samples", 2.5),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), WRONG, ids=lambda v: str(v)[:20])
def test_a_wrong_type_names_source_key_and_value(key: str, value: Any) -> None:
    with pytest.raises(LabkitError) as caught:
        from_mapping({key: value}, where="my.yaml")
    message = str(caught.value)
    assert message.startswith(f"my.yaml: {key} must be")
    assert "\n" not in message


def test_wrong_types_of_every_kind_of_field_were_tried() -> None:
    kinds = {str(HINTS[key]) for key, _ in WRONG}
    literals = [key for key in FIELDS if typing.get_origin(HINTS[key]) is typing.Literal]
    others = {str(HINTS[key]) for key in FIELDS if key not in literals}
    assert others <= kinds


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("r", 0), ("lora_alpha", -1), ("per_device_train_batch_size", 0), ("save_steps", 0),
        ("gradient_accumulation_steps", 0), ("num_train_epochs", 0), ("max_length", -5),
        ("learning_rate", 0), ("weight_decay", -0.1), ("warmup_steps", -1), ("max_grad_norm", -1),
        ("eval_steps", -1), ("seed", -1), ("seed", 2**32), ("lora_dropout", 1),
        ("lora_dropout", -0.1), ("max_steps", 0), ("max_steps", -2), ("max_train_samples", 0),
        ("max_eval_samples", 0),
        ("target_modules", []), ("name", "a/b"), ("name", ".."), ("name", ".hidden"),
        ("name", "n" * 300), ("name", "a\0b"), ("name", "two\nlines"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(LabkitError, match=key):
        from_mapping({key: value}, where="my.yaml")


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("learning_rate", "5e-4", 5e-4), ("learning_rate", "1", 1.0), ("r", "8", 8),
        ("r", "8.0", 8), ("max_steps", "-1", -1), ("seed", str(2**32 - 1), 2**32 - 1),
        ("gradient_checkpointing", "true", True), ("gradient_checkpointing", "No", False),
        ("target_modules", "q_proj, v_proj", ("q_proj", "v_proj")),
        ("max_train_samples", "none", None), ("max_train_samples", "12", 12),
        ("torch_compile", "on", "on"),
    ],
)  # fmt: skip
def test_words_of_the_command_line_are_read_as_the_field_s_type(
    key: str, text: str, value: Any
) -> None:
    found = getattr(from_mapping({key: text}, where="command line"), key)
    assert found == value
    assert type(found) is type(value)


def test_yaml_s_own_readings_are_understood(tmp_path: Path) -> None:
    # YAML 1.1 reads 5e-4 as text, and a bare on or off as a truth value.
    path = write(tmp_path, "learning_rate: 5e-4\ntorch_compile: off\nbias: none\nname:  ''\n")
    assert isinstance(yaml.safe_load(path.read_text())["learning_rate"], str)
    assert yaml.safe_load(path.read_text())["torch_compile"] is False
    config = load_config(path)
    assert (config.learning_rate, config.torch_compile, config.bias) == (5e-4, "off", "none")
    on = load_config(write(tmp_path, "torch_compile: on\n"))
    assert on.torch_compile == "on"


def test_every_renamed_key_leads_to_a_setting_and_no_key_is_two_things() -> None:
    assert set(RENAMED.values()) <= set(FIELDS)
    assert not set(RENAMED) & set(FIELDS)
    assert not set(RETIRED) & (set(FIELDS) | set(RENAMED))


@pytest.mark.parametrize("key", sorted(RETIRED))
def test_a_retired_key_says_why_and_changes_nothing(key: str) -> None:
    with pytest.warns(UserWarning, match="is ignored") as caught:
        config = from_mapping({key: "anything"}, where="seed.json")
    assert config == RunConfig()
    (warning,) = caught
    assert str(warning.message).startswith(f"seed.json: {key} is ignored: ")
    assert len(str(warning.message)) > len(f"seed.json: {key} is ignored: ") + 10


def test_adamw_hf_says_what_takes_its_place() -> None:
    with pytest.warns(UserWarning, match="adamw_hf is gone from transformers: adamw_torch_fused"):
        config = from_mapping({"optim": "adamw_hf"}, where="seed.json")
    assert config.optim == "adamw_torch_fused"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_a_byte_order_mark_is_no_part_of_a_configuration(
    tmp_path: Path, encoding: str, ending: str
) -> None:
    text = '{"r": 4, "name": "größe"}' if ending == "json" else "r: 4\nname: größe\n"
    file = tmp_path / f"mine 'own' 🙂.{ending}"
    file.write_bytes(text.encode(encoding))
    assert (load_config(file).r, load_config(file).name) == (4, "größe")


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join('*' + chr(97 + i) for _ in range(9))}]\n"
    for i in range(9)
)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.yaml", "[" * 20_000, "is not valid"),
        ("a.json", '{"r": ' + "9" * 5000 + "}", "is not valid"),
        ("a.yaml", "when: 2024-13-45\n", "is not valid"),
        ("a.yaml", "r: 1\n" * 300_000, "larger than 1 MiB"),
        ("a.yaml", BOMB.replace("j: ", "seed: "), "unknown setting|seed must be"),
        ("a.json", '{"r": 4', "is not valid"),
    ],
)  # fmt: skip
def test_a_hostile_configuration_is_one_short_sentence(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    with pytest.raises(LabkitError, match=message) as caught:
        load_config(write(tmp_path, content, name))
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base": "4bit"}, "base must be one of plain, 8bit, nf4, got '4bit'"),
        ({"base": "nf4", "method": "full"}, "full trains the pretrained weights.*method .*lora"),
        ({"base": "8bit", "use_switchback": True}, "which base 8bit has none of"),
    ],
)
def test_a_base_that_cannot_be_is_one_sentence(values: dict[str, Any], message: str) -> None:
    with pytest.raises(LabkitError, match=message) as caught:
        from_mapping(values, where="it")
    assert len(str(caught.value).splitlines()) == 1


def test_a_train_mode_we_do_not_have_says_which_there_are() -> None:
    with pytest.raises(LabkitError, match="train_mode must be one of lora, full, .*got 'galore'"):
        from_mapping({"train_mode": "galore"}, where="seed.json")


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"method": "qlora"}, ("lora", "nf4")),
        ({"train_mode": "qlora", "base": "nf4"}, ("lora", "nf4")),
        ({"train-mode": "8bit"}, ("lora", "8bit")),
        ({"method": "ia3", "load_in_8bit": True}, ("ia3", "8bit")),
        ({"method": "prompt", "load_in_4bit": "true", "load_in_8bit": False}, ("prompt", "nf4")),
        ({"load_in_4bit": False}, ("lora", "plain")),
        # An older file that has an adapter's settings and names no mode means qlora.
        (
            {"template_name": "zephyr", "model_name_or_path": "m", "lora_rank": 8},
            ("lora", "nf4"),
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_shorthand_is_a_method_on_a_base(values: dict[str, Any], found: tuple[str, str]) -> None:
    config = from_mapping(values, where="file")
    assert (config.method, config.base) == found


def test_a_shorthand_replaces_the_plain_base_and_no_other() -> None:
    assert RunConfig().replace(method="qlora").base == "nf4"
    with pytest.raises(LabkitError, match="method qlora is lora on base nf4, and base is '8bit'"):
        RunConfig(base="8bit").replace(method="qlora")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "nf5"}, "base must be one of plain, 8bit, nf4, got 'nf5'"),
        (
            {"method": "full", "base": "nf4"},
            "full trains the pretrained weights.*nf4: use base plain, or method ",
        ),
        (
            {"base": "8bit", "use_switchback": True},
            "use_switchback multiplies plain weights, which",
        ),
        (
            {"base": "nf4", "init_lora_weights": "pissa"},
            "set base to plain, or init_lora_weights to d",
        ),
    ],
)
def test_a_base_that_does_not_go_with_the_rest_is_one_sentence(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(LabkitError, match=message) as caught:
        from_mapping(changes, where="file")
    assert "\n" not in str(caught.value)


def test_one_setting_under_two_names_is_refused() -> None:
    with pytest.raises(LabkitError, match="'lora_rank' sets r a second time"):
        from_mapping({"r": 4, "lora_rank": 8}, where="seed.json")
    with pytest.raises(LabkitError, match="'lr' sets learning_rate a second time"):
        load_config("lora", {"learning-rate": "1", "lr": "2"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.yaml", "learning_rate: 1e-4\nmax_steps: 5\nlearning_rate: 1e-2\n"),
        ("run.yaml", "{learning_rate: 1e-4, 'learning_rate': 1e-2}"),
        ("run.json", '{"learning_rate": 1e-4, "learning_rate": 1e-2}'),
    ],
)
def test_a_setting_that_a_file_gives_twice_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    said = f"configuration .*{name} is not valid: 'learning_rate' is in it twice: keep one of them"
    with pytest.raises(LabkitError, match=said):
        load_config(tmp_path / name)


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "r: 4\nlora_alpha: 8\nmax_steps: 7\n")
    config = load_config(path, {"r": "32", "max-seq-length": "99"})
    assert (config.r, config.lora_alpha, config.max_steps, config.max_length) == (32, 8, 7, 99)
    with pytest.raises(LabkitError, match="command line: r must be a whole number, got 'x'"):
        load_config(path, {"r": "x"})
    with pytest.raises(LabkitError, match="command line: unknown setting 'rr'"):
        load_config(path, {"rr": "1"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loftq_config": {"loftq_bits": 4}}, "go together"),
        ({"init_lora_weights": "loftq"}, "go together"),
        ({"init_lora_weights": "loftq", "loftq_config": {"bits": 4}}, "'bits'.*'loftq_bits'"),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": "x"}}, "loftq_bits must be"),
    ],
)
def test_checks_that_span_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LabkitError, match=f"my.yaml: .*{message}"):
        from_mapping(settings, where="my.yaml")


def test_loftq_is_accepted_whole_from_file_and_command_line(tmp_path: Path) -> None:
    path = write(tmp_path, "init_lora_weights: loftq\nloftq_config: {loftq_bits: 4}\n")
    assert load_config(path).loftq_config == {"loftq_bits": 4}
    again = load_config("lora", {"init_lora_weights": "loftq", "loftq_config": '{"loftq_bits": 8}'})
    assert again.loftq_config == {"loftq_bits": 8}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", "- r\n- 4\n", "must hold 'key: value' lines"),
        ("a.yaml", "", "must hold 'key: value' lines"),
        ("a.yaml", "r: [1, 2\n", "is not valid"),
        ("a.yaml", "\tr: 4\n", "is not valid"),
        ("a.json", "{'r': 4}", "is not valid"),
        ("a.json", "[1]", "must hold"),
        ("a.yaml", "just words", "must hold"),
    ],
)
def test_a_file_that_is_no_configuration(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    with pytest.raises(LabkitError, match=message) as caught:
        load_config(write(tmp_path, content, name))
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(LabkitError, match="cannot be read.*full, lora, tatqa"):
        load_config(tmp_path / "missing.yaml")
    with pytest.raises(LabkitError, match="cannot be read"):
        load_config(tmp_path)
    binary = tmp_path / "model.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(LabkitError, match="not a text file"):
        load_config(binary)


def test_every_setting_is_described_in_one_line() -> None:
    described = describe_fields()
    assert list(described) == list(FIELDS)
    for name, text in described.items():
        assert text.strip() == text and 15 < len(text) < 110 and "\n" not in text, name


def test_to_dict_is_json_and_comes_back() -> None:
    config = RunConfig(target_modules=("q_proj",), init_lora_weights="loftq",
                       loftq_config={"loftq_bits": 4}, max_train_samples=3)  # fmt: skip
    again = from_mapping(json.loads(json.dumps(config.to_dict())), where="record")
    assert again == config


def test_whole_numbers_and_floats_are_one_setting() -> None:
    written = RunConfig(warmup_steps=0, learning_rate=1, weight_decay=0)
    read = from_mapping({"warmup_steps": 0, "learning_rate": "1", "weight_decay": 0.0}, where="x")
    assert json.dumps(written.to_dict()) == json.dumps(read.to_dict())


def test_replace_checks_and_copies() -> None:
    config = RunConfig()
    assert config.replace(r=4).r == 4 and config.r == 16
    with pytest.raises(LabkitError, match="unknown setting 'rank_'"):
        config.replace(rank_=4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.r = 4  # type: ignore[misc]


def test_samples_per_step() -> None:
    config = RunConfig(per_device_train_batch_size=3, gradient_accumulation_steps=5)
    assert config.samples_per_step == 15
