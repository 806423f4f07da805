"""What a profile is gathered into, and steps that are taken apart for real."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from labkit import plots
from labkit.bench.step import labkit_arm, stages
from labkit.bench.step.profile import OTHER, cost_of, gather, name_of
from labkit.bench.step.spec import PEFT_DEFAULT, TRICKS, write_samples
from labkit.errors import LabkitError
from labkit.runs import profiles


@dataclass
class Event:
    name: str
    self_cpu_time_total: float = 1e6
    cpu_parent: Any = None


def test_operations_are_gathered_by_what_they_are_for() -> None:
    loss = Event("ChunkedLogProbFunctionBackward")
    events = [
        Event("aten::mm"), Event("aten::addmm_"), Event("aten::mul"),
        Event("aten::mm", cpu_parent=Event("aten::matmul", cpu_parent=loss)), loss,
        Event("aten::_scaled_dot_product_flash_attention_for_cpu_backward"),
        Event("aten::_fused_adamw_"), Event("ProfilerStep#1"), Event("Optimizer.step#AdamW.step"),
        Event("autograd::engine::evaluate_function: MmBackward0"),
    ]  # fmt: skip
    found = gather((name_of(e), e.self_cpu_time_total / 1e6) for e in events)
    assert found == {
        "matrix products": 2, "loss over the vocabulary": 2, "attention": 1,
        "optimizer and clipping": 1, OTHER: 1,
    }  # fmt: skip


def test_every_trick_of_the_order_is_one_and_has_a_name() -> None:
    assert set(stages.ORDER) == set(TRICKS) == set(stages.WHAT)
    for profile in profiles.PROFILES.values():
        assert set(profile.stage_order) <= set(stages.ORDER)


def test_stages_train_the_same_steps_with_one_trick_more_each(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []
    main = labkit_arm.main
    monkeypatch.setattr(labkit_arm, "main", lambda spec: made.append(main(spec)) or made[-1])
    file = tmp_path / "samples.jsonl"
    write_samples(file, tiny_llama, 40, 12)
    spec = {
        "model": str(tiny_llama), "data": str(file), "bf16": True, "batch_size": 3, "steps": 4,
        "lora": PEFT_DEFAULT, "learning_rate": 1e-3, "seed": 1,
    }  # fmt: skip
    rows = stages.stages(spec, order=("logits", "attention"))
    assert [row["name"] for row in rows] == [
        "none of them", "+ logits where there is a label", "+ attention by plain products"
    ]  # fmt: skip
    assert [m["attn_implementation"] for m in made] == ["sdpa", "sdpa", "eager"]
    for row in rows:
        assert sum(row["costs"].values()) == pytest.approx(row["seconds"], rel=0.05)
        assert row["ratio"] == pytest.approx(rows[0]["seconds"] / row["seconds"])
        assert {"matrix products", stages.PYTHON} <= row["costs"].keys()
    # What a trick removes is gone from the costs of its stage.
    assert "loss over the vocabulary" in rows[0]["costs"]
    fused = "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert cost_of(fused) == "attention"
    for m in made[1:]:
        assert m["losses"] == pytest.approx(made[0]["losses"], rel=0.01)
    names = stages.largest(rows[0])
    assert len(names) == 5 and names[0][1] >= names[-1][1] > 0

    figure, ax = plots.new_figure()
    assert "one trick more" in stages.draw_stages(ax, rows)


def test_wrong_stages_are_a_sentence() -> None:
    with pytest.raises(LabkitError, match="give 3 up"):
        stages.stages({"steps": 2})
    with pytest.raises(LabkitError, match="'speed' is not a trick"):
        stages.stages({"steps": 5}, order=("speed",))
