"""The fast path against stock TRL: the same losses, and a comparison that counts right."""

import json
import random
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from labkit import methods
from labkit.bench.paired import Plan
from labkit.bench.step import compare, labkit_arm
from labkit.bench.step.spec import PEFT_DEFAULT, write_samples
from labkit.errors import LabkitError
from labkit.methods.base import cast_inputs
from labkit.models.load import load_model
from labkit.runs.config import RunConfig

STOCK = Path(compare.__file__).with_name("stock_arm.py")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("step") / "samples.jsonl"
    draw = random.Random(1)
    lines = []
    for _ in range(100):
        # Few answers, so that there is something to learn.
        ids = [draw.randrange(5, 60) for _ in range(12)] + [7, 9] * 6
        lines.append(json.dumps({"input_ids": ids, "labels": [-100] * 12 + ids[12:]}))
    file.write_text("\n".join(lines))
    return file


@pytest.mark.parametrize("method", ["lora", "full"])
def test_losses_are_stock_s_at_every_one_of_fifty_steps(
    tiny_llama: Path, samples: Path, method: str
) -> None:
    spec = {
        "model": str(tiny_llama), "data": str(samples), "bf16": False, "batch_size": 2,
        "lora": PEFT_DEFAULT if method == "lora" else None, "steps": 50,
        "learning_rate": 1e-2 if method == "lora" else 1e-3, "seed": 42,
    }  # fmt: skip
    stock = runpy.run_path(str(STOCK))["main"](spec)
    # Compiling and the heap change no arithmetic that this could show, and last.
    ours = labkit_arm.main({**spec, "without": ["compile", "heap"]})
    assert ours["attn_implementation"] == "sdpa"  # in float32 it is the faster
    assert len(ours["losses"]) == len(stock["losses"]) == 50
    assert ours["losses"] == pytest.approx(stock["losses"], rel=0.01)
    assert max(ours["losses"]) > 1.05 * ours["losses"][-1], "nothing was learned, so nothing shown"
    assert len(stock["seconds"]) == 50 and stock["peak_rss_bytes"] > 2**20


def pretend(
    monkeypatch: pytest.MonkeyPatch, times: dict[str, float]
) -> list[tuple[list[str], dict[str, str]]]:
    """Replace training processes by made-up times; return what was called with which variables."""
    called = []
    count = iter(range(1000))

    def run(command: list[str], env: dict[str, str], say: Any) -> dict[str, Any]:
        called.append((command, env))
        spec = json.loads(command[-1])
        kind = "stock" if "stock_arm" in command[-2] else "".join(spec.get("without", ["labkit"]))
        seconds = times[kind] * (1 + 0.001 * (next(count) ** 2 % 11))
        return {"seconds": [9.0, *[seconds] * 3], "losses": [1.0] * 4, "peak_rss_bytes": 1000}

    monkeypatch.setattr(compare, "_run", run)
    monkeypatch.setattr(
        compare.paired, "in_fresh_process",
        lambda *args, **kwargs: {"flops_per_second": 1e9, "m": 1, "k": 1, "n": 1},
    )  # fmt: skip
    return called


def test_adapter_inputs_are_copied_to_float32_only_without_that_trick(tiny_llama: Path) -> None:
    """PEFT casts them to the type of its weights; autocast then casts them back."""
    seen: list[torch.dtype] = []
    config = RunConfig(model=str(tiny_llama), method="lora", target_modules=("q_proj",))
    model = methods.METHODS["lora"].attach(load_model(tiny_llama, dtype="bfloat16"), config)
    for module in model.modules():
        if hasattr(module, "lora_A"):
            module.lora_A["default"].register_forward_pre_hook(lambda m, x: seen.append(x[0].dtype))
    ids = torch.tensor([[1, 2, 3]])
    with torch.autocast("cpu", torch.bfloat16):
        model(input_ids=ids)
        assert seen and set(seen) == {torch.bfloat16}
        seen.clear()
        cast_inputs(model, True)
        model(input_ids=ids)
    assert seen and set(seen) == {torch.float32}


PLAN = Plan(pairs=4, warmup=1, steps=3, run_seconds=0.0, max_steps=3)


def test_what_is_reported_is_what_the_processes_took(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_llama: Path
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setenv("MY_OWN", "kept")
    # Toy models run in float32, where not every trick does something.
    tricks = dict.fromkeys(("compile", "logits", "heap"), 3.0)
    called = pretend(monkeypatch, {"stock": 6.0, "labkit": 2.0, **tricks})
    steps = compare.Steps(methods=("lora",), lengths=(160,), tiny=True, ablate=True, plan=PLAN)
    outcome = compare.step(steps, output_dir=tmp_path)
    assert outcome["ratio"]["vs_stock_trl"]["value"] == pytest.approx(3.0, rel=0.01)
    (found,) = outcome["comparisons"]
    assert found["pairs"] == 4 and found["a_a"]["low"] < 1.01
    assert set(found["without"]) == {"compile", "logits", "heap"}
    assert found["without"]["heap"]["value"] == pytest.approx(1.5, rel=0.01)
    assert found["warmup_seconds"]["labkit"] == 9.0
    speeds = {row["arm"]: row["tokens_per_second"] for row in outcome["cases"]}
    assert speeds["labkit"] == pytest.approx(8 * 160 / 2.0, rel=0.01)
    assert speeds["a"] == pytest.approx(8 * 160 / 6.0, rel=0.01)
    assert {"name", "tokens_per_second", "peak_bytes"} <= outcome["cases"][0].keys()
    flops = compare._step_flops(tiny_llama, "lora", 8, 160)
    expected = flops / 1e9 / found["seconds"]["candidate"]
    assert outcome["fraction_of_matmul_peak"] == pytest.approx(expected)
    for command, env in called:
        assert env["MY_OWN"] == "kept"
        assert ("OMP_WAIT_POLICY" in env) == ("stock_arm" not in command[-2])
    assert "lora smollm2-135m-instruct 160" in compare.render(outcome)
    # A second call has nothing left to do.
    before = len(called)
    again = compare.step(steps, output_dir=tmp_path)
    assert len(called) == before and again["ratio"] == outcome["ratio"]


@pytest.mark.parametrize("fast", ["float32", "bfloat16"])
def test_where_float32_is_fast_stock_is_told_so_and_takes_part_as_it_comes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fast: str
) -> None:
    called = pretend(monkeypatch, {"stock": 6.0, "labkit": 2.0})
    quick = compare._run

    def run(command: list[str], env: dict[str, str], say: Any) -> dict[str, Any]:
        spec, made = json.loads(command[-1]), quick(command, env, say)
        if fast == "float32" and spec["bf16"]:
            return {**made, "seconds": [90.0]}
        return made

    monkeypatch.setattr(compare, "_run", run)
    monkeypatch.setattr(compare.arithmetic, "fastest", lambda: fast)
    steps = compare.Steps(methods=("lora",), lengths=(160,), plan=PLAN)
    (found,) = compare.step(steps, output_dir=tmp_path)["comparisons"]
    assert found["ratio"]["value"] == pytest.approx(3.0, rel=0.01)
    specs = [json.loads(command[-1]) for command, _ in called]
    if fast == "bfloat16":
        assert found["vs_stock_as_it_comes"] is None and all(spec["bf16"] for spec in specs)
        return
    assert found["vs_stock_as_it_comes"]["value"] == pytest.approx(45.0, rel=0.01)
    wide = [spec for spec in specs if spec["bf16"]]
    assert len(wide) == PLAN.pairs and all(spec["steps"] == 1 for spec in wide)


def test_samples_have_labels_on_their_last_tokens_only(tiny_llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    write_samples(file, tiny_llama, 40, 3)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 3
    for sample in lines:
        assert len(sample["input_ids"]) == 40 and sample["labels"][:28] == [-100] * 28
        assert sample["labels"][28:] == sample["input_ids"][28:]


def test_a_shaped_model_is_one_that_stock_can_load(tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    compare.make_shaped(tmp_path / "shaped", compare.TINY, 2, tiny_llama)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "shaped")
    assert model.config.num_hidden_layers == 2 and model.config.hidden_size == 64
    assert AutoTokenizer.from_pretrained(tmp_path / "shaped").eos_token


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"models": ("llama-9",)}, "choose from smollm2"),
    ({"models": ()}, "choose from"),
    ({"methods": ("qlora",)}, "choose from lora, full"),
    ({"lengths": (12,)}, "above 12"),
    ({"lengths": ()}, "above 12"),
    ({"batch_size": 0}, "1 or more"),
    ({"layers": 0}, "1 or more"),
]


@pytest.mark.parametrize(("settings", "said"), WRONG, ids=str)
def test_wrong_settings_are_a_sentence(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(LabkitError, match=said):
        compare.Steps(**settings)


def test_a_killed_process_is_a_sentence(tmp_path: Path) -> None:
    command = ["/bin/sh", "-c", "kill -9 $$"]
    with pytest.raises(LabkitError, match="killed by signal 9"):
        compare._run(command, {}, lambda line: None)
    with pytest.raises(RuntimeError, match="no such luck"):
        compare._run(["/bin/sh", "-c", "echo no such luck >&2; exit 3"], {}, lambda line: None)
