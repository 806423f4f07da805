"""A file of DeepSpeed's settings is obeyed, and refused where it contradicts the run."""

import json
from pathlib import Path
from typing import Any

import pytest

from labkit.errors import LabkitError
from labkit.runs.config import RunConfig
from labkit.train.sharded import launch
from labkit.train.sharded.deepspeed_file import settings_of, stage_of

AUTO = {
    "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto", "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True, "fp16": {"enabled": "auto", "loss_scale": 0},
    "bf16": {"enabled": "auto"},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "weight_decay": "auto"}},
    "zero_optimization": {"stage": 3, "overlap_comm": True, "stage3_prefetch_bucket_size": "auto",
                          "offload_optimizer": {"device": "none"}},
}  # fmt: skip
"""The form in which such files go round."""


def written(folder: Path, **changes: Any) -> RunConfig:
    file = folder / "ds.json"
    file.write_text(json.dumps({**AUTO, **changes}))
    return RunConfig(deepspeed=str(file), per_device_train_batch_size=3,
                     gradient_accumulation_steps=2, learning_rate=1e-4)  # fmt: skip


def test_blanks_are_filled_with_the_run_and_the_rest_is_kept(tmp_path: Path) -> None:
    found = settings_of(written(tmp_path), 3, world=4, bf16=True, trained=1000)
    assert found["train_batch_size"] == 3 * 2 * 4
    assert found["train_micro_batch_size_per_gpu"] == 3 and found["bf16"] == {"enabled": True}
    assert found["gradient_accumulation_steps"] == 2 and found["gradient_clipping"] == 1.0
    zero = found["zero_optimization"]
    assert zero["stage"] == 3 and zero["overlap_comm"] is True
    assert "stage3_prefetch_bucket_size" not in zero and zero["reduce_bucket_size"] == 1000
    assert zero["offload_optimizer"] == {"device": "none"}
    assert "optimizer" not in found, "labkit hands it over"
    assert "auto" not in json.dumps(found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"train_micro_batch_size_per_gpu": 8}, "train_micro_batch_size_per_gpu is 8"),
     ({"train_batch_size": 8}, "train_batch_size is 8, and the run's settings make it 24"),
     ({"gradient_clipping": 0.5}, "gradient_clipping is 0.5"),
     ({"fp16": {"enabled": True}}, "fp16 is True"),
     ({"optimizer": {"type": "Lamb"}}, "optimizer Lamb is not the run's"),
     ({"optimizer": {"type": "AdamW", "params": {"lr": 1.0}}}, "lr 1.0, and the run 0.0001"),
     ({"scheduler": {"params": {"warmup_max_lr": 1.0}}}, "scheduler has warmup_max_lr 1.0")],
)  # fmt: skip
def test_what_contradicts_the_run_is_one_sentence(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(LabkitError, match=words) as caught:
        settings_of(written(tmp_path, **changes), 3, world=4, bf16=True, trained=1000)
    assert "\n" not in str(caught.value) and "ds.json" in str(caught.value)


def test_its_stage_is_the_sharding(tmp_path: Path) -> None:
    config = written(tmp_path)
    assert stage_of(config.deepspeed) == 3
    assert launch.as_asked(config).sharding == "zero3"
    assert launch.needed(launch.as_asked(config))
    with pytest.raises(LabkitError, match="asks for zero3, and sharding is zero1"):
        launch.as_asked(config.replace(sharding="zero1"))


@pytest.mark.parametrize("zero", [{}, {"stage": 0}, {"stage": "3"}, {"stage": True}, True])
def test_a_file_without_a_stage_is_refused(tmp_path: Path, zero: Any) -> None:
    with pytest.raises(LabkitError, match="set it to 1, 2 or 3"):
        launch.as_asked(written(tmp_path, zero_optimization=zero))


def test_a_file_that_is_not_there_or_is_none_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LabkitError, match="there is no file"):
        launch.as_asked(RunConfig(deepspeed=str(tmp_path / "nothing.json")))
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(LabkitError, match="must hold a JSON object"):
        launch.as_asked(RunConfig(deepspeed=str(tmp_path / "list.json")))
