"""Two processes that share a step end where one ends: losses, weights, what is held and sent.

All settings are trained in one group of processes, one after the other: a group costs seconds. One
process takes batches of twice the size, which are the same samples.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import ranks
import torch
import zero
from safetensors.torch import load_file

from labkit.datasets import encode, tatqa
from labkit.inference.generate import load_generator
from labkit.models.tiny import build_tiny
from labkit.runs import records
from labkit.runs.config import RunConfig
from labkit.train.run import train
from labkit.train.sharded.consolidate import consolidate

NAMES = ("weights", "gradients", "optimizer_state")
WORK: dict[str, dict[str, Any]] = {
    # Adam divides what rounding leaves of a gradient near zero by itself: the rate is small enough.
    "lora": {"method": "lora", "learning_rate": 2e-3},
    "full": {"method": "full", "learning_rate": 1e-3},
    # 10 samples in batches of 4: the last of an epoch has 2, alone in its step.
    "uneven": {"method": "full", "learning_rate": 1e-3, "share_prompts": False, "fast": False,
               "max_train_samples": 10, "per_device_train_batch_size": 2,
               "gradient_accumulation_steps": 2, "max_steps": 4, "eval_steps": 4},
    "loftq": {"method": "lora", "init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4},
              "learning_rate": 2e-3},
    "qlora": {"method": "lora", "base": "nf4", "learning_rate": 2e-3},
    "prefix": {"method": "prefix", "num_virtual_tokens": 4, "learning_rate": 2e-3},
    "pretrain": {"task": "pretrain", "method": "full", "learning_rate": 1e-3, "max_length": 64,
                 "eval_steps": 3},
    "dpo": {"task": "dpo", "reference": "precomputed", "learning_rate": 2e-3, "max_length": 64},
    # 7 pairs in batches of 4: of the last 3 one process has 2. Of the last of 5 one has none.
    "dpo of 7": {"task": "dpo", "reference": "precomputed", "learning_rate": 2e-3, "max_length": 64,
                 "per_device_train_batch_size": 2, "eval_steps": 3},
    "dpo of 5": {"task": "dpo", "learning_rate": 2e-3, "max_length": 64, "max_train_samples": 5,
                 "per_device_train_batch_size": 2, "eval_steps": 3, "max_eval_samples": 5},
}  # fmt: skip
TEXTS = ["Net sales rose.", "Revenue was 44.1 million and costs were 12.9 million. " * 4,
         "Goodwill.", "Depreciation and tax increased from last year.", "Cash fell to 3.",
         "Equity and debt rose by 3 %. " * 3] * 3  # fmt: skip
PAIRS = {"snow": "white", "coal": "black", "grass": "green", "blood": "red", "sky": "blue",
         "sun": "yellow", "rust": "brown"}  # fmt: skip
SHARED: dict[str, tuple[str, dict[str, Any]]] = {
    "none lora": ("lora", {}),
    "none full": ("full", {}),
    "none uneven": ("uneven", {}),
    "fsdp2 lora": ("lora", {"sharding": "fsdp2"}),
    "fsdp2 full": ("full", {"sharding": "fsdp2"}),
    "fsdp2 uneven": ("uneven", {"sharding": "fsdp2"}),
}
ZERO = {
    f"zero{stage} {work}": (work, {"sharding": f"zero{stage}"})
    for stage, works in ((1, ["full"]), (2, ["lora", "full", "uneven"]), (3, ["lora", "full"]))
    for work in works
}  # fmt: skip
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "fsdp2 loftq": ("loftq", {"sharding": "fsdp2"}),
    "fsdp2 qlora": ("qlora", {"sharding": "fsdp2"}),
    "fsdp2 pretrain": ("pretrain", {"sharding": "fsdp2"}),
    "fsdp2 dpo": ("dpo", {"sharding": "fsdp2"}),
    "fsdp2 dpo of 7": ("dpo of 7", {"sharding": "fsdp2"}),
    "none dpo of 7": ("dpo of 7", {}),
    "none dpo of 5": ("dpo of 5", {}),
}
OTHERS_BY_ZERO = {"zero3 prefix": ("prefix", {"sharding": "zero3"})}
"""Other methods and tasks: trained alike, and what they take is not said here."""
KEYS = [*SHARED, *(pytest.param(way, marks=zero.needed) for way in ZERO)]
SHARED |= ZERO if zero.HERE else {}
each_way = pytest.mark.parametrize("way", KEYS)
OTHER_KEYS = [*OTHERS, *(pytest.param(way, marks=zero.needed) for way in OTHERS_BY_ZERO)]
OTHERS |= OTHERS_BY_ZERO if zero.HERE else {}
EVALUATED = [way for way, (work, _) in (SHARED | OTHERS).items() if "eval_steps" in WORK[work]]
each_of_all = pytest.mark.parametrize("way", [*KEYS, *OTHER_KEYS])


class Alone(NamedTuple):
    """What one process made of a work."""

    record: records.RunRecord
    folder: Path
    """of the model"""
    stored: dict[str, torch.Tensor]
    """an adapter's float32, a model's bfloat16"""
    trained: dict[str, torch.Tensor]
    """in float32"""


@pytest.fixture(scope="module")
def settings(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function from changes to the settings of a run of a second."""
    folder = tmp_path_factory.mktemp("reports")
    for split, count in {"train": 6, "dev": 2, "test": 2}.items():
        reports = json.loads(tatqa.path_of("tables", split).read_text())[:count]
        (folder / f"{split}.json").write_text(json.dumps(reports))
    rows = {
        "pretrain": [{"text": text} for text in TEXTS],
        "dpo": [{"prompt": f"Colour of {thing}?", "chosen": colour,
                 "rejected": f"nobody knows which, {thing} or not"}
                for thing, colour in PAIRS.items()],
    }  # fmt: skip
    for task, each in rows.items():
        (folder / task).mkdir()
        for split in ("train", "dev", "test"):
            (folder / task / f"{split}.jsonl").write_text("\n".join(map(json.dumps, each)))
    # nf4 needs rows of whole blocks of 64 on a CPU.
    wide = build_tiny("tiny-llama", folder / "wide", intermediate_size=192)

    def of(**changes: Any) -> dict[str, Any]:
        task = changes.get("task")
        return {
            "model": str(wide if changes.get("base") else tiny_model("tiny-llama")),
            "data": f"jsonl:{folder / task}" if task else str(folder), "max_steps": 3,
            "per_device_train_batch_size": 1, "learning_rate": 1e-2, "dtype": "float32",
            "torch_compile": "off", "save_steps": 1, "warmup_steps": 0,
            "lr_scheduler_type": "constant", **changes,
        }  # fmt: skip

    return of


@pytest.fixture(scope="module")
def alone(settings: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Alone]:
    """Return what one process makes of each work."""
    found = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LABKIT_RUNS", str(tmp_path_factory.mktemp("alone")))
        for name, changes in WORK.items():
            batch = 2 * changes.get("per_device_train_batch_size", 1)
            values = settings(**{**changes, "name": name, "per_device_train_batch_size": batch})
            with ranks.keeping_what_was_trained() as trained:
                record = train(RunConfig(**values), quiet=True)
            stored = weights_in(folder := record.model_path)
            found[name] = Alone(record, folder, stored,
                                stored if name == "lora" else trained)  # fmt: skip
    return found


@pytest.fixture(scope="module")
def together(settings: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what both processes say of each way, and its weights."""
    runs, said = tmp_path_factory.mktemp("together"), tmp_path_factory.mktemp("said")
    # DeepSpeed leaves weights below a threshold whole, all that a tiny model's layers have.
    (said / "zero3.json").write_text(json.dumps({"zero_optimization": {
        "stage": 3, "stage3_param_persistence_threshold": 0}}))  # fmt: skip
    wanted = []
    for way, (work, how) in (SHARED | OTHERS).items():
        if how.get("sharding") == "zero3":
            how = {"deepspeed": str(said / "zero3.json")}
        wanted.append(settings(**{**WORK[work], **how, "name": way.replace(" ", "-")}))
    path = os.environ.get("PYTHONPATH", "")
    with zero.within_reach():
        started = ranks.start(ranks.train_all, wanted, str(runs), nproc=2, said=said,
                              PYTHONPATH=path)  # fmt: skip
    both = ranks.finish(started, said)
    return {
        way: ([each[index] for each in both], runs / way.replace(" ", "-"))
        for index, way in enumerate(SHARED | OTHERS)
    }


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


@each_of_all
def test_losses_and_tokens_are_those_of_one_process(
    way: str, alone: dict[str, Alone], together: dict[str, Any]
) -> None:
    record = alone[(SHARED | OTHERS)[way][0]].record
    for each in together[way][0]:
        assert each["status"] == "done"
        assert each["losses"] == pytest.approx(record.losses, abs=1e-5)
        for name in ("tokens", "samples"):
            assert [s[name] for s in each["steps"]] == [s[name] for s in record.steps]
    assert record.losses[-1] != pytest.approx(record.losses[0], abs=1e-3), "nothing was learned"


@pytest.mark.parametrize("way", EVALUATED)
def test_each_sample_of_the_development_split_counts_once(
    way: str, alone: dict[str, Alone], together: dict[str, Any]
) -> None:
    (expected,) = alone[(SHARED | OTHERS)[way][0]].record.summary["eval_losses"]
    for each in together[way][0]:
        (found,) = each["summary"]["eval_losses"]
        assert found == pytest.approx(expected, abs=1e-5)


@each_of_all
def test_weights_are_those_of_one_process(
    way: str, alone: dict[str, Alone], together: dict[str, Any]
) -> None:
    expected = alone[(SHARED | OTHERS)[way][0]].stored
    found = weights_in(together[way][1] / "model")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        # Full models are saved in bfloat16, whose last digit may fall either way.
        close = {"atol": 1e-5} if tensor.dtype == torch.float32 else {"atol": 1e-5, "rtol": 2**-7}
        torch.testing.assert_close(found[name], tensor, **{"rtol": 0, **close})


@each_way
def test_shards_put_together_are_the_weights_of_one_process_and_answer_alike(
    way: str, alone: dict[str, Alone], together: dict[str, Any], tmp_path: Path
) -> None:
    """By `labkit consolidate`, from the last checkpoint, which a run that has ended removes."""
    one, folder = alone[SHARED[way][0]], together[way][1]
    out = folder / "model"
    if not way.startswith("none"):  # without sharding there are no shards
        out = tmp_path / "out"
        made = consolidate(folder / "kept" / f"checkpoint-{len(one.record.steps)}", out)
        assert made.configured and made.kind == ("adapter" if "lora" in way else "model")
        found = weights_in(out)
        assert found.keys() == one.stored.keys() - {"lm_head.weight"}  # tied
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, one.trained[name], rtol=0, atol=1e-5)
    (question,) = tatqa.samples(tatqa.load(one.record.config["data"], "dev"))[:1]
    theirs, ours = (load_generator(str(each), dtype="float32") for each in (one.folder, out))
    if "lora" not in way and not way.startswith("none"):  # what is stored is rounded
        theirs.model.load_state_dict(one.trained)
    ids = torch.tensor([encode.encode(ours.tokenizer, question, max_length=1900,
                                      with_answer=False)["input_ids"]])  # fmt: skip
    seen = [each.model(ids).logits for each in (theirs, ours)]
    torch.testing.assert_close(*seen, rtol=0, atol=1e-2 if way.startswith("none") else 1e-4)
    said = [each.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                                min_new_tokens=8, max_new_tokens=8, pad_token_id=0)[0].tolist()
            for each in (theirs, ours)]  # fmt: skip
    assert said[0] == said[1] and len(said[0]) == ids.shape[1] + 8


@each_way
def test_what_ran_is_what_was_asked_for_and_each_has_its_share(
    way: str, together: dict[str, Any]
) -> None:
    (first, second), _ = together[way]
    asked = SHARED[way][1].get("sharding", "none")
    sharding = first["summary"]["sharding"]
    assert sharding == second["summary"]["sharding"], "both have to say the same of all"
    assert sharding["ran"] == asked and sharding["processes"] == 2
    total, trained = (first["summary"][f"{each}_parameters"] for each in ("total", "trainable"))
    held = sharding["held_bytes"]
    # ZeRO has dropped the gradients of others by the time of its step, in stage 1 as well.
    halved = {"none": (), "zero1": NAMES[1:], "zero2": NAMES[1:]}.get(asked, NAMES)
    whole = {"weights": 4 * total, "gradients": 4 * trained, "optimizer_state": 8 * trained}
    if asked.startswith("zero"):  # DeepSpeed steps a copy of the weights in float32
        whole["optimizer_state"] += 4 * trained
    for name, size in whole.items():
        found = [each[name] for each in held]
        if name in halved:
            assert sum(found) == pytest.approx(size, rel=0.01)
            assert max(found) == pytest.approx(size / 2, rel=0.02)
        else:
            assert found == pytest.approx([size, size], rel=0.01)
    assert len(sharding["peak_bytes"]) == 2 and all(sharding["peak_bytes"])


@each_way
def test_what_is_sent_is_the_formulas(
    way: str, alone: dict[str, Alone], together: dict[str, Any]
) -> None:
    """2Ψ where every process has all weights, 3Ψ where they are gathered; ZeRO, section 7.

    DeepSpeed's `use_multi_rank_bucket_allreduce`, on by default, adds gradients up by an all-reduce
    of 2Ψ where the paper has a reduce-scatter of Ψ; `stage3_max_live_parameters` lets it gather the
    weights of a small model once.
    """
    (first, _), _ = together[way]
    _, how = SHARED[way]
    asked = how.get("sharding", "none")
    total, trained = (first["summary"][f"{each}_parameters"] for each in ("total", "trainable"))
    expected = 2 * trained
    if asked in ("fsdp2", "zero3"):
        expected = 2 * total + trained
    if asked == "fsdp2":  # what is outside the layers stays gathered until the backward pass
        weights = alone["full"].stored
        outside = {name for name in weights if "layers." not in name} - {"lm_head.weight"}  # tied
        expected -= sum(weights[name].numel() for name in outside)
    if asked in ("zero1", "zero2"):  # DeepSpeed adds up in all processes, then gathers weights
        expected = 3 * trained
    if asked == "zero3":  # and keeps what it gathered for the backward pass, if it is little
        expected = total + trained
    sent = first["summary"]["sharding"]["sent_bytes"]["step"]
    assert sent == pytest.approx(4 * expected, rel=0.05)


@each_way
def test_each_takes_the_memory_that_the_formula_says(way: str, together: dict[str, Any]) -> None:
    """Where batches are of all samples, so that the largest one is among them."""
    (first, _), _ = together[way]
    if not way.endswith("uneven"):
        assert first["predicted"]["peak_bytes"]["analytic"] > 0
        return
    predicted = first["predicted"]["peak_bytes"]["analytic"]
    assert max(first["summary"]["sharding"]["peak_bytes"]) == pytest.approx(predicted, rel=0.05)


def test_resumed_by_another_number_of_processes(
    settings: Any, tmp_path: Path, alone: dict[str, Alone]
) -> None:
    """A Ctrl-C in one of two stops both after the step; one process goes on from their shards."""
    runs, said = tmp_path / "runs", tmp_path / "said"
    said.mkdir()
    values = settings(**WORK["full"], name="mine", sharding="fsdp2")
    path = os.environ.get("PYTHONPATH", "")
    started = ranks.start(ranks.train_all, [values], str(runs), 2, nproc=2, said=said,
                          PYTHONPATH=path)  # fmt: skip
    both = [each[0] for each in ranks.finish(started, said)]
    assert [each["status"] for each in both] == ["cancelled"] * 2
    assert [len(each["losses"]) for each in both] == [2, 2]
    checkpoint = runs / "mine" / "checkpoints" / "checkpoint-2"
    assert (checkpoint / ".metadata").exists() and len(list(checkpoint.glob("*.distcp"))) == 2
    started = ranks.start(ranks.train_all, [{**values, "per_device_train_batch_size": 2}],
                          str(runs), nproc=1, said=said, PYTHONPATH=path)  # fmt: skip
    ((resumed,),) = ranks.finish(started, said)
    record, expected = alone["full"].record, alone["full"].stored
    assert resumed["status"] == "done"
    assert resumed["losses"] == pytest.approx(record.losses, abs=1e-5)
    assert resumed["losses"][:2] == both[0]["losses"], "it began anew"
    found = weights_in(runs / "mine" / "model")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=2**-7, atol=1e-5)


def test_two_machines_meet_and_train_as_one(
    settings: Any, tmp_path: Path, alone: dict[str, Alone]
) -> None:
    """Two launches on this machine, as `--nnodes 2 --node-rank 0` and `1` make them."""
    said = tmp_path / "said"
    said.mkdir()
    values = settings(**WORK["lora"], name="mine", sharding="fsdp2")
    started = ranks.start_machines(values, said=said, LABKIT_RUNS=str(tmp_path / "runs"),
                                   OMP_NUM_THREADS="1")  # fmt: skip
    for each in ranks.finish(started, said):
        assert (each["sharding"]["processes"], each["sharding"]["ran"]) == (2, "fsdp2")
        assert each["losses"] == pytest.approx(alone["lora"].record.losses, abs=1e-5)


def test_a_record_of_one_process_says_nothing_of_sharing(alone: dict[str, Alone]) -> None:
    assert "sharding" not in alone["lora"].record.summary
