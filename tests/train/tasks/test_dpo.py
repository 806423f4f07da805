"""Preference tuning: what is read, that it is DPO, where the reference is from, the record."""

import ast
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from cut_off import cut_off_and_again, same_weights
from trl import DPOConfig, DPOTrainer

from labkit.datasets.base import Cuts, Example
from labkit.errors import LabkitError
from labkit.inference.evaluate import evaluate
from labkit.models import load
from labkit.runs import records, run_folder
from labkit.runs.config import RunConfig, load_config
from labkit.runs.task_settings import LOSSES
from labkit.train import run, trainer
from labkit.train.preference_trainer import AdapterOff, PreferenceTrainer
from labkit.train.run import train
from labkit.train.tasks import dpo

pytestmark = pytest.mark.usefixtures("runs", "few_objects")
Run = Callable[..., RunConfig]
THINGS = {"snow": "white", "coal": "black", "grass": "green", "blood": "red", "sky": "blue"}


def pair(thing: str, chosen: str, rejected: str) -> Example:
    turns = ({"role": "user", "content": f"Colour of {thing}?"},
             {"role": "assistant", "content": chosen})  # fmt: skip
    return Example(uid=thing, messages=turns, chosen=chosen, rejected=rejected)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return data in which a colour is better than none; answers are of unlike length."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = [{"prompt": f"Colour of {thing}?", "chosen": colour,
             "rejected": f"nobody knows which, {thing} or not"}
            for thing, colour in THINGS.items()]  # fmt: skip
    for split in ("train", "dev", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return f"jsonl:{folder}"


@pytest.fixture
def preferences(tiny_run: Run, pairs: str) -> Run:
    """Return a function that makes a short run of preference tuning, exact and small."""

    def config(**changes: Any) -> RunConfig:
        settings = {"data": pairs, "task": "dpo", "max_length": 64, "beta": 0.5, "warmup_steps": 0}
        return tiny_run(**{**settings, **changes})

    return config


def opened(config: RunConfig) -> PreferenceTrainer:
    """Return the trainer of a run before its first step."""
    prepared = run.prepare(config)
    inputs = run._read(prepared)
    plan = run._plan(prepared, inputs)
    arguments = run._arguments(prepared, plan, inputs.task)
    trainable = run._attach(prepared, plan, inputs.task)
    with run_folder.locked(prepared.folder):
        session = run._open(prepared, inputs, plan, arguments, trainable, quiet=True)
    session.trainer.meter = None
    found: PreferenceTrainer = session.trainer
    return found


def moved(model: torch.nn.Module) -> None:
    """Change every trained number at random, so that policy and reference differ."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def batch_of(one: Any, *rows: int) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = one.data_collator([one.train_dataset[i] for i in rows])
    return found


def gradients(one: Any, batch: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    one.model.zero_grad(set_to_none=True)
    one.model.train()
    one.current_gradient_accumulation_steps = 1
    one.step_loss = 0.0
    loss = one.compute_loss(one.model, batch)
    loss.backward()
    found = {name: p.grad for name, p in one.model.named_parameters() if p.grad is not None}
    return float(loss), found


# --- what is read --------------------------------------------------------------------------


def test_both_answers_follow_one_prompt_and_end(tiny_llama: Path, preferences: Run) -> None:
    tokenizer = load.load_tokenizer(tiny_llama)
    (row,) = dpo.rows(tokenizer, [pair("snow", "white", "it is cold")], preferences(), shared=False)
    prompt = tokenizer.decode(row["prompt_ids"])
    assert prompt.endswith("Colour of snow?<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode(row["chosen_ids"]) == "white<|im_end|>"
    assert tokenizer.decode(row["rejected_ids"]) == "it is cold<|im_end|>"
    longer = dpo.sequence(row)
    assert tokenizer.decode(longer["input_ids"]) == f"{prompt}it is cold<|im_end|>"
    both = len(row["chosen_ids"]) + len(row["rejected_ids"])
    assert sum(label != -100 for label in longer["labels"]) in (both / 2, (both + 1) / 2)
    assert len(longer["labels"]) == len(longer["input_ids"])


def test_the_longer_answer_decides_how_much_of_the_prompt_is_cut(
    tiny_llama: Path, preferences: Run
) -> None:
    tokenizer = load.load_tokenizer(tiny_llama)
    lines = [f"line {number}" for number in range(9)]

    def without(count: int) -> tuple[dict[str, str], ...]:
        left = "\n".join(lines[: len(lines) - count])
        return ({"role": "user", "content": left}, {"role": "assistant", "content": "yes"})

    example = Example(uid="x", messages=without(0), chosen="yes", rejected="no " * 12,
                      cuts=Cuts(parts=9, named="lines", without=without))  # fmt: skip
    (row,) = dpo.rows(tokenizer, [example], preferences(max_length=60), shared=False)
    whole = len(row["prompt_ids"]) + len(row["rejected_ids"])
    assert 50 < whole <= 60
    prompt = tokenizer.decode(row["prompt_ids"])
    assert "line 0" in prompt and "line 8" not in prompt
    assert tokenizer.decode(row["rejected_ids"]).startswith("no no")


def test_data_without_two_answers_is_one_sentence(
    tiny_llama: Path, preferences: Run, tiny_run: Run
) -> None:
    tokenizer = load.load_tokenizer(tiny_llama)
    with pytest.raises(LabkitError, match="example snow has no rejected answer: task dpo needs"):
        dpo.rows(tokenizer, [pair("snow", "white", "")], preferences(), shared=False)
    with pytest.raises(LabkitError, match="tatqa is for the task 'sft', not 'dpo'"):
        train(tiny_run(task="dpo"), quiet=True)
    with pytest.raises(LabkitError, match="max_length is 16; raise it to at least"):
        train(preferences(max_length=16), quiet=True)


# --- that it is DPO ------------------------------------------------------------------------

STARTS: dict[str, dict[str, Any]] = {
    "lora": {"lora_dropout": 0.3},
    "dora": {"use_dora": True},
    "ia3": {"method": "ia3"},
    "bottleneck": {"method": "bottleneck"},
    "llama-adapter": {"method": "llama-adapter"},
    "8bit": {"base": "8bit"},
    "lora, precomputed": {"reference": "precomputed"},
    "lora, copy": {"reference": "copy"},
    "full": {"method": "full"},
    "full, precomputed": {"method": "full", "reference": "precomputed"},
    "stock positions": {"fast": False},
}


@pytest.mark.parametrize("changes", STARTS.values(), ids=STARTS.keys())
def test_the_first_loss_is_ln_2(preferences: Run, changes: dict[str, Any]) -> None:
    record = train(preferences(**changes, max_steps=2), quiet=True)
    assert record.losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert abs(record.losses[1] - math.log(2)) > 1e-4, "nothing was learned"
    assert record.steps[0]["rewards"]["margins"] == pytest.approx(0, abs=1e-5)


def test_a_start_that_changes_the_base_has_a_copy_for_reference(preferences: Run) -> None:
    """PiSSA's base and start add up to the weights again, to rounding."""
    record = train(preferences(init_lora_weights="pissa", reference="copy", max_steps=1),
                   quiet=True)  # fmt: skip
    assert record.losses[0] == pytest.approx(math.log(2), abs=1e-4)


def by_hand(one: Any, batch: dict[str, torch.Tensor], beta: float) -> torch.Tensor:
    """Return DPO's loss, equation 7 of the paper, written out."""
    ids, answer = batch["input_ids"], batch["completion_mask"][:, 1:].float()

    def log_probability(model: Any) -> torch.Tensor:
        logits = model(input_ids=ids, attention_mask=batch["attention_mask"]).logits[:, :-1]
        of_token = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        return (of_token * answer).sum(1)

    policy = log_probability(one.model)
    with torch.no_grad(), one.model.disable_adapter():
        reference = log_probability(one.model)
    chosen, rejected = (policy - reference).chunk(2)
    return -torch.nn.functional.logsigmoid(beta * (chosen - rejected)).mean()


def test_loss_and_gradients_are_those_written_out_and_trl_s(
    preferences: Run, tiny_llama: Path, tmp_path: Path
) -> None:
    config = preferences(r=4)
    ours = opened(config)
    moved(ours.model)
    batch = batch_of(ours, 0, 1, 2)
    loss, found = gradients(ours, batch)

    ours.model.zero_grad(set_to_none=True)
    written = by_hand(ours, batch, config.beta)
    written.backward()
    # Sums of some dozen log-probabilities, added up in another order: hundreds, in float32.
    assert loss == pytest.approx(float(written), abs=1e-5)
    assert abs(loss - math.log(2)) > 0.01
    for name, parameter in ours.model.named_parameters():
        if parameter.requires_grad:
            assert torch.allclose(found[name], parameter.grad, atol=1e-5), name

    stock = DPOTrainer(
        model=load.load_model(tiny_llama, dtype="float32"),
        args=DPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, beta=config.beta,
                       gradient_checkpointing=False, report_to=[]),
        train_dataset=ours.train_dataset.rename_columns(
            {f"{name}_ids": name for name in ("prompt", "chosen", "rejected")}
        ).map(lambda row: {k: ours.processing_class.decode(v) for k, v in row.items()}),
        processing_class=ours.processing_class,
        peft_config=peft.LoraConfig(r=4, lora_alpha=config.lora_alpha, target_modules="all-linear",
                                    task_type="CAUSAL_LM"),
    )  # fmt: skip
    stock.model.load_state_dict(ours.model.state_dict())
    theirs, expected = gradients(stock, batch)
    assert loss == pytest.approx(theirs, abs=1e-6)
    assert found.keys() == expected.keys() and len(found) > 10
    for name in found:
        assert torch.allclose(found[name], expected[name], atol=1e-5), name


def test_a_pair_s_loss_does_not_depend_on_the_others(preferences: Run) -> None:
    one = opened(preferences())
    moved(one.model)
    apart = [gradients(one, batch_of(one, row))[0] for row in range(3)]
    together = gradients(one, batch_of(one, 0, 1, 2))[0]
    assert len(set(apart)) == 3
    assert together == pytest.approx(sum(apart) / 3, abs=1e-6)


def test_every_loss_of_trl_s_can_be_asked_for(preferences: Run) -> None:
    one = opened(preferences(label_smoothing=0.1))
    moved(one.model)
    batch = batch_of(one, 0, 1)
    values = {}
    for name in LOSSES:
        one.loss_types, one.loss_weights = [name], [1.0]
        values[name] = gradients(one, batch)[0]
    assert all(map(math.isfinite, values.values())) and len(set(values.values())) > 10
    one.loss_types = ["none of them"]
    with pytest.raises(ValueError, match="Should be one of") as refused:
        one.compute_loss(one.model, batch)
    known = re.search(r"\[.*\]", str(refused.value))
    assert known is not None and set(ast.literal_eval(known[0])) == set(LOSSES)


def test_several_losses_are_added_up(preferences: Run) -> None:
    record = train(preferences(loss_type=("ipo",), max_steps=1), quiet=True)
    assert record.losses[0] == pytest.approx((1 / (2 * 0.5)) ** 2, abs=1e-5)
    both = train(preferences(loss_type=("ipo", "sigmoid"), max_steps=1), quiet=True)
    assert both.losses[0] == pytest.approx(1 + math.log(2), abs=1e-5)


# --- where the reference is from -----------------------------------------------------------


def test_adapter_off_is_an_explicit_copy(preferences: Run) -> None:
    runs = [train(preferences(reference=kind, max_steps=6), quiet=True)
            for kind in ("adapter_off", "copy", "precomputed")]  # fmt: skip
    assert len({record.sha256 for record in runs}) == 3
    off, *others = runs
    assert off.losses[-1] < 0.6
    for other in others:
        assert other.losses == pytest.approx(off.losses, abs=1e-6)
        for name in ("chosen", "rejected"):
            assert [step["rewards"][name] for step in other.steps] == pytest.approx(
                [step["rewards"][name] for step in off.steps], abs=1e-5
            )


def test_no_second_adapter_is_trained_or_saved(
    preferences: Run, tiny_llama: Path, tmp_path: Path
) -> None:
    one = opened(preferences())
    assert isinstance(one.ref_model, AdapterOff) and not list(one.ref_model.parameters())
    assert list(one.model.peft_config) == ["default"]
    trained = {name for name, p in one.model.named_parameters() if p.requires_grad}
    assert trained and all(".default." in name for name in trained)

    saved: list[set[str]] = []

    def look(self: Any, args: Any, *rest: Any, **kwargs: Any) -> None:
        original(self, args, *rest, **kwargs)
        saved.append({path.name for path in Path(args.output_dir).rglob("*")})

    original = trainer.MeterCallback.on_save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.MeterCallback, "on_save", look)
        record = train(preferences(name="mine", save_steps=2), quiet=True)
    saved.append({path.name for path in record.model_path.rglob("*")})
    assert len(saved) > 1 and all("adapter_model.safetensors" in names for names in saved)
    assert not [names for names in saved if "ref" in names]

    # The reason for all this: TRL's own trainer makes one of a model that has an adapter.
    fresh = peft.get_peft_model(load.load_model(tiny_llama, dtype="float32"),
                                peft.LoraConfig(r=4, target_modules="all-linear",
                                                task_type="CAUSAL_LM"))  # fmt: skip
    stock = DPOTrainer(
        model=fresh, processing_class=one.processing_class,
        args=DPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[]),
        train_dataset=run._as_dataset([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
    )  # fmt: skip
    assert list(stock.model.peft_config) == ["default", "ref"]


LORA = "lora, ia3, llama-adapter, bottleneck"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "prefix": ({"method": "prefix"}, f"a prefix begins as drawn tokens.*use method {LORA}"),
    "prompt": ({"method": "prompt", "reference": "copy"}, f"a prompt begins.*use method {LORA}"),
    "loftq": (
        {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}},
        f"init_lora_weights loftq begins beside.*use method {LORA}",
    ),
    "pissa": (
        {"init_lora_weights": "pissa"},
        "pissa, unlike default, takes.*set reference to copy",
    ),
    "bias": ({"bias": "all"}, "off, and bias all trains the base's own: set reference to copy"),
    "olora": (
        {"init_lora_weights": "olora", "reference": "precomputed"},
        "reference precomputed switches the adapter off.*set reference to copy",
    ),
    "full": (
        {"method": "full", "reference": "adapter_off"},
        "full has no adapter.*set reference to copy, which holds the weights twice, or",
    ),
    "a copy of nf4": ({"base": "nf4", "reference": "copy"}, "hold base nf4 twice: adapter_off"),
    "beta": ({"beta": 0}, "beta must be above 0"),
    "loss": ({"loss_type": "simpo"}, "loss_type 'simpo' is unknown"),
    "no loss": ({"loss_type": []}, "loss_type is empty"),
    "smoothing": ({"label_smoothing": 0.5}, r"label_smoothing must be in \[0, 0.5\)"),
    "exo": ({"loss_type": "exo_pair"}, "exo_pair takes a logarithm of label_smoothing"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_would_be_no_reference_is_one_sentence(
    preferences: Run, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(LabkitError, match=message) as refused:
        preferences().replace(**changes)
    assert len(str(refused.value).splitlines()) == 1


def test_these_settings_are_of_preference_tuning_alone(tiny_run: Run) -> None:
    assert tiny_run(method="prefix", reference="copy").reference == "copy"


# --- a run ---------------------------------------------------------------------------------

RESUMED: dict[str, dict[str, Any]] = {
    "adapter off": {"gradient_accumulation_steps": 2},
    "precomputed": {"reference": "precomputed"},
    "full, copy": {"method": "full"},
    "full, precomputed": {"method": "full", "reference": "precomputed"},
}


@pytest.mark.parametrize("changes", RESUMED.values(), ids=RESUMED.keys())
def test_a_run_that_is_cut_off_ends_as_one_that_is_not(
    preferences: Run, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = preferences(**changes, max_steps=6, save_steps=2)
    whole = train(config, quiet=True)

    again = cut_off_and_again(config, tmp_path / "others", monkeypatch)
    assert again.losses == whole.losses
    assert [step["rewards"] for step in again.steps] == [step["rewards"] for step in whole.steps]
    same_weights(whole, again)


def test_preferences_are_learned_recorded_and_shown(
    tmp_path: Path, tiny_run: Run, pairs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a YAML file, as `labkit train --config` reads it."""
    file = tmp_path / "dpo.yaml"
    settings = {"model": tiny_run().model, "data": pairs, "task": "dpo", "max_length": 64,
                "dtype": "float32", "torch_compile": "off", "learning_rate": 1e-2, "beta": 0.5,
                "max_steps": 20, "eval_steps": 10, "lora_dropout": 0.1}  # fmt: skip
    file.write_text(json.dumps(settings))
    record = train(load_config(file))
    said = capsys.readouterr().err
    assert "lora_dropout is off" in said and "preference accuracy 1.000" in said
    assert "margin +" in said

    assert [entry["step"] for entry in record.summary["eval_losses"]] == [10, 20]
    last = record.summary["eval_losses"][-1]
    assert last["preference_accuracy"] == 1.0
    assert last["reward_margin"] == pytest.approx(
        last["reward_chosen"] - last["reward_rejected"], abs=1e-5
    )
    for step in record.steps:
        rewards = step["rewards"]
        assert rewards["margins"] == pytest.approx(rewards["chosen"] - rewards["rejected"],
                                                   abs=1e-5)  # fmt: skip
        assert 0 <= rewards["accuracies"] <= 1 and step["samples"] in (1, 2)
        assert step["tokens"] < step["padded_tokens"]
    assert record.steps[-1]["rewards"]["accuracies"] == 1.0
    assert not record.summary["compiled"] and record.summary["labelled_logits"]
    assert re.search(r"rewards .*margin \+.*preferred 100%", records.render(record))
    assert "development  loss" in records.render(record)


def test_each_pair_counts_the_same_however_a_step_is_cut(preferences: Run) -> None:
    """Five pairs a step: at once, or as 2, 2 and 1, of which the last is no half of a step."""
    settings = {"max_steps": 3, "learning_rate": 1e-3, "lr_scheduler_type": "constant",
                "eval_steps": 3}  # fmt: skip
    found = [
        run.train(preferences(**settings, per_device_train_batch_size=batch,
                              gradient_accumulation_steps=times), quiet=True)
        for batch, times in ((6, 1), (2, 3), (1, 6))
    ]  # fmt: skip
    for record in found[1:]:
        (mine,), (other,) = (each.summary["eval_losses"] for each in (record, found[0]))
        assert mine == pytest.approx(other, abs=1e-4)
        assert record.losses == pytest.approx(found[0].losses, abs=1e-5)
        for mine, other in zip(record.steps, found[0].steps, strict=True):
            assert mine["rewards"] == pytest.approx(other["rewards"], abs=1e-4)
            assert mine["samples"] == other["samples"] == 5
    assert found[0].losses[-1] < found[0].losses[0] - 1e-3


def test_a_copy_says_what_it_costs(preferences: Run, capsys: pytest.CaptureFixture[str]) -> None:
    config = preferences(method="full", max_steps=1)
    train(config)
    weights = load.load_model(config.model, dtype="float32")
    size = sum(weight.nbytes for weight in weights.parameters()) / 2**30
    assert f"a copy of the model: {size:.2f} GiB more" in capsys.readouterr().err


def test_base_sft_and_dpo_are_scored_alike(preferences: Run, pairs: str) -> None:
    """And fine-tuning on the better answers alone is a run on the same data."""
    long = {"method": "full", "max_steps": 60, "learning_rate": 5e-3,
            "per_device_train_batch_size": 5, "lr_scheduler_type": "constant"}  # fmt: skip
    sft = train(preferences(**long, name="sft", task="sft"), quiet=True)
    train(preferences(name="dpo", max_steps=2), quiet=True)
    scores = {name: evaluate(name, data=pairs, quiet=True)
              for name in (sft.config["model"], "sft", "dpo")}  # fmt: skip
    assert {outcome.n for outcome in scores.values()} == {len(THINGS)}
    assert scores["sft"].metrics["em"]["value"] == 1.0
    answers = json.loads(Path(scores["sft"].predictions).read_text())
    assert sorted(answers.values()) == sorted(THINGS.values())
    assert scores[sft.config["model"]].metrics["em"]["value"] == 0.0
    assert records.load("dpo").scores.keys() == {f"{pairs}/test"}
