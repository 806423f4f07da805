"""Training: the stock trainer's numbers, the same run once, and mistakes in one sentence."""

import errno
import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from trl import SFTTrainer

from labkit import methods
from labkit.datasets import tatqa
from labkit.datasets.sharing import SharedPromptCollator
from labkit.errors import LabkitError
from labkit.machine.meter import Meter
from labkit.models import load
from labkit.runs import records, run_folder
from labkit.runs.config import RunConfig
from labkit.runs.progress import Progress
from labkit.train import fast_step, rows, trainer
from labkit.train import run as train
from labkit.train.tasks import TASKS

pytestmark = pytest.mark.usefixtures("runs", "few_objects")
Run = Callable[..., RunConfig]


def weights(record: records.RunRecord) -> dict[str, torch.Tensor]:
    (file,) = record.model_path.glob("*.safetensors")
    return load_file(file)


def assert_same_weights(one: records.RunRecord, other: records.RunRecord) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def trained(config: RunConfig, **changes: Any) -> records.RunRecord:
    return train.train(config, quiet=True, **changes)


# --- the loss ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "dropout", "accumulation"), [("lora", 0.2, 1), ("full", 0.0, 1), ("full", 0.0, 3)]
)
def test_loss_trace_and_weights_are_those_of_the_stock_trainer(
    tiny_run: Run, tmp_path: Path, method: str, dropout: float, accumulation: int
) -> None:
    """TRL's SFTTrainer as it comes, on the same batches with the same seed."""
    config = tiny_run(method=method, lora_dropout=dropout, gradient_accumulation_steps=accumulation,
                      max_steps=5, weight_decay=0.1, report_to="tensorboard")  # fmt: skip
    tokenizer = load.load_tokenizer(config.model)
    data = train._as_dataset(train.encode_split(tokenizer, config, "train", shared=False))
    plan = fast_step.plan(config.replace(fast=False), steps=5, longest=300, cuda=False)

    def run(kind: type[SFTTrainer]) -> tuple[SFTTrainer, torch.nn.Module]:
        torch.manual_seed(0)
        model = load.load_model(config.model, dtype="float32")
        model = methods.METHODS[method].attach(model, config)
        arguments = trainer.trainer_arguments(config, tmp_path / kind.__name__, plan, cuda=False)
        made = kind(model=model, args=arguments, train_dataset=data, processing_class=tokenizer)
        return made, model

    stock, stock_model = run(SFTTrainer)
    stock.train()
    exact = [entry["loss"] for entry in stock.state.log_history if "loss" in entry]

    ours, model = run(trainer.LabTrainer)
    assert isinstance(ours, trainer.LabTrainer)
    meter = Meter()
    callback = trainer.MeterCallback(
        meter, Progress(total=5, label="", quiet=True), marker=run_folder.COMPLETE
    )
    callback.trainer = ours
    ours.add_callback(callback)
    ours.use(meter=meter, labelled_logits=True)
    ours.train()

    assert len(exact) == 5 and max(exact) - min(exact) > 0.01
    assert [step["loss"] for step in meter.steps] == pytest.approx(exact, rel=1e-5)
    assert all(step["samples"] == 2 * accumulation for step in meter.steps)
    for (name, ours_now), stock_now in zip(
        model.named_parameters(), stock_model.parameters(), strict=True
    ):
        torch.testing.assert_close(ours_now, stock_now, rtol=1e-3, atol=1e-4, msg=name)


SAME_SUM = {
    "fast": {},
    "fast, eager": {"attn_implementation": "eager"},
    "fast, gradient checkpointing": {"gradient_checkpointing": True},
    "stock, gradient checkpointing": {"fast": False, "gradient_checkpointing": True},
    "fast, 3 x 4": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3},
    "stock, 3 x 4": {"fast": False, "per_device_train_batch_size": 4,
                     "gradient_accumulation_steps": 3},
    "shared prompts": {"share_prompts": True},
    "shared prompts, 2 x 1": {"share_prompts": True, "per_device_train_batch_size": 1,
                              "gradient_accumulation_steps": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def two_reports(few_reports: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A training split of two reports, and the number of its questions."""
    folder = tmp_path_factory.mktemp("two-reports")
    two = json.loads((few_reports / "train.json").read_text())[:2]
    (folder / "train.json").write_text(json.dumps(two))
    return folder, sum(len(report["questions"]) for report in two)


@pytest.fixture(scope="module")
def stock_losses(
    two_reports: tuple[Path, int], tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[float]:
    """The whole training split in every step, by the stock loss."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LABKIT_RUNS", str(tmp_path_factory.mktemp("stock")))
        return trained(whole_split(two_reports, tiny_llama, fast=False)).losses


def whole_split(data: tuple[Path, int], model: Path, **changes: Any) -> RunConfig:
    settings: dict[str, Any] = {
        "model": str(model), "data": str(data[0]), "max_steps": 4, "learning_rate": 1e-2,
        "dtype": "float32", "torch_compile": "off", "share_prompts": False,
        "per_device_train_batch_size": data[1],
    }  # fmt: skip
    return RunConfig(**{**settings, **changes})


@pytest.mark.parametrize("changes", SAME_SUM.values(), ids=SAME_SUM.keys())
def test_every_way_to_take_a_step_has_the_same_losses(
    two_reports: tuple[Path, int],
    tiny_llama: Path,
    stock_losses: list[float],
    changes: dict[str, Any],
) -> None:
    """All samples are in every step, so that batching, sharing and accumulation only regroup."""
    if "gradient_accumulation_steps" in changes and not changes.get("share_prompts"):
        assert two_reports[1] == 12, "3 x 4 is no longer the whole split"
    record = trained(whole_split(two_reports, tiny_llama, **changes))
    assert stock_losses[0] - stock_losses[-1] > 0.05, "nothing was learned, so nothing compared"
    assert record.losses == pytest.approx(stock_losses, rel=1e-4)
    assert {step["samples"] for step in record.steps} == {two_reports[1]}


def test_accumulating_2_x_4_is_1_x_8(tiny_run: Run) -> None:
    """The same eight samples a step; as labels differ, a mean of means would not be the same."""
    changes = {"share_prompts": False, "max_steps": 4, "fast": False}
    once = trained(tiny_run(per_device_train_batch_size=8, **changes))
    parts = trained(
        tiny_run(per_device_train_batch_size=4, gradient_accumulation_steps=2, **changes)
    )
    assert [s["tokens"] for s in once.steps] == [s["tokens"] for s in parts.steps]
    assert parts.losses == pytest.approx(once.losses, rel=1e-4)


# --- a run and its record ------------------------------------------------------------------


def test_a_run_ends_with_record_and_weights_and_nothing_else(tiny_run: Run, runs: Path) -> None:
    record = trained(tiny_run(name="mine"))
    assert record == records.load("mine")
    assert record.status == "done"
    assert sorted(path.name for path in (runs / "mine").iterdir()) == [
        ".lock", "model", "record.json",
    ]  # fmt: skip
    assert [step["step"] for step in record.steps] == [1, 2, 3, 4]
    assert record.losses[-1] < record.losses[0]
    assert record.config == tiny_run(name="mine").to_dict()
    assert record.data["name"] == tiny_run().data
    assert record.summary["peak_bytes"]["reserved"] is None
    assert record.summary["peak_bytes"]["allocated"] > 0
    assert all(step["tokens"] <= step["padded_tokens"] for step in record.steps)


def test_the_same_run_again_is_its_record_and_no_training(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = trained(tiny_run(name="mine"))

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("it trained again")

    with monkeypatch.context() as patched:
        patched.setattr(trainer.LabTrainer, "__init__", never)
        patched.setattr(train, "encode_split", never)
        assert trained(tiny_run(name="mine")) == first
        # Neither the name nor how often it is saved makes it another run.
        assert trained(tiny_run(name="other", save_steps=7, report_to="tensorboard")) == first
        train.train(tiny_run(name="mine"))
        assert "already trained" in capsys.readouterr().err
        with pytest.raises(AssertionError, match="trained again"):
            trained(tiny_run(name="mine"), fresh=True)
        with pytest.raises(AssertionError, match="trained again"):
            trained(tiny_run(name="third", seed=7))


def test_fresh_trains_again_to_the_same_weights_and_other_seeds_to_others(tiny_run: Run) -> None:
    first = trained(tiny_run(name="one", lora_dropout=0.1))
    before = weights(first)
    again = trained(tiny_run(name="one", lora_dropout=0.1), fresh=True)
    assert again.id != first.id and again.sha256 == first.sha256
    after = weights(again)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert again.losses == first.losses
    other = trained(tiny_run(name="two", lora_dropout=0.1, seed=43))
    assert other.losses != first.losses
    assert not any(torch.equal(before[n], w) for n, w in weights(other).items() if "lora_A" in n)


def test_another_run_under_a_taken_name_says_what_differs(tiny_run: Run, runs: Path) -> None:
    first = trained(tiny_run(name="mine"))
    with pytest.raises(LabkitError) as caught:
        trained(tiny_run(name="mine", learning_rate=5e-3, seed=1))
    message = str(caught.value)
    assert "mine holds another run" in message
    assert "learning_rate 0.01 → 0.005" in message and "seed 42 → 1" in message
    assert "--fresh" in message and "\n" not in message
    assert records.load("mine") == first and first.model_path.is_dir()
    replaced = trained(tiny_run(name="mine", seed=1), fresh=True)
    assert replaced.seed == 1 and records.load("mine") == replaced


def test_other_data_under_a_taken_name_is_noticed(
    tiny_run: Run, few_reports: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(few_reports, tmp_path / "data")
    trained(tiny_run(name="mine", data=str(data)))
    reports = json.loads((data / "train.json").read_text())
    (data / "train.json").write_text(json.dumps(reports[1:]))
    with pytest.raises(LabkitError, match=r"holds another run \(other data, model or versions\)"):
        trained(tiny_run(name="mine", data=str(data)))


def test_a_folder_that_is_no_run_is_never_touched(tiny_run: Run, runs: Path) -> None:
    (runs / "thesis").mkdir(parents=True)
    (runs / "thesis" / "chapter1.txt").write_text("precious")
    for fresh in (False, True):
        with pytest.raises(LabkitError, match=r"thesis is not a run, it holds 'chapter1.txt'"):
            trained(tiny_run(name="thesis"), fresh=fresh)
    assert (runs / "thesis" / "chapter1.txt").read_text() == "precious"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": 1}'])
def test_a_damaged_record_is_one_sentence_and_fresh_replaces_it(
    tiny_run: Run, runs: Path, text: str
) -> None:
    (runs / "mine").mkdir(parents=True)
    (runs / "mine" / "record.json").write_text(text)
    with pytest.raises(LabkitError, match="is damaged.*labkit runs rm mine"):
        trained(tiny_run(name="mine", max_steps=1))
    assert (runs / "mine" / "record.json").read_text() == text
    assert trained(tiny_run(name="mine", max_steps=1), fresh=True).status == "done"


def test_a_run_that_only_measures_keeps_no_weights(tiny_run: Run, runs: Path) -> None:
    record = trained(tiny_run(name="probe", keep_weights=False, save_steps=1))
    assert sorted(p.name for p in (runs / "probe").iterdir()) == [".lock", "record.json"]
    assert trained(tiny_run(name="probe", keep_weights=False)) == record


def test_epochs_are_all_samples_so_many_times(tiny_run: Run) -> None:
    for epochs, parts in ((2.0, 1), (1.5, 1), (0.3, 1), (1.0, 4)):
        config = tiny_run(max_steps=-1, num_train_epochs=epochs, max_train_samples=9,
                          share_prompts=False, gradient_accumulation_steps=parts)  # fmt: skip
        record = trained(config)
        assert len(record.steps) == train.total_steps(config, 9), (epochs, parts)
    assert sum(step["samples"] for step in record.steps) == 9


def test_sequences_are_as_long_as_they_say(tiny_run: Run) -> None:
    """Tokens counted by the meter against the tokeniser's."""
    config = tiny_run(max_steps=-1, num_train_epochs=1.0, share_prompts=False)
    tokenizer = load.load_tokenizer(config.model)
    encoded = train.encode_split(tokenizer, config, "train", shared=False)
    record = trained(config)
    assert sum(s["tokens"] for s in record.steps) == sum(len(e["input_ids"]) for e in encoded)
    assert sum(s["samples"] for s in record.steps) == len(encoded)


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    lengths = [7 * i % 31 for i in range(300)]

    def order(seed: int, epoch: int, draws: int) -> list[int]:
        torch.manual_seed(draws)
        sampler = trainer.EpochSampler(lengths=lengths, group=4, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 3, 0) == order(1, 3, 99)
    assert order(1, 3, 0) != order(1, 4, 0) and order(1, 3, 0) != order(2, 3, 0)
    assert sorted(order(1, 3, 0)) == list(range(300))
    # Batches are of like length: far less padding than in any order.
    rows = [[lengths[i] for i in order(1, 3, 0)[k : k + 4]] for k in range(0, 300, 4)]
    assert sum(4 * max(row) - sum(row) for row in rows) < 0.2 * sum(lengths)


def test_the_development_loss_is_a_label_s_however_batches_are_cut(
    tiny_run: Callable[..., RunConfig],
) -> None:
    """Samples of one label and of many, alone and together, reports read once and again."""
    taught = trained(tiny_run(method="full", max_steps=40, learning_rate=3e-3))
    settings = {"model": str(taught.model_path), "max_steps": 1, "learning_rate": 1e-12,
                "eval_steps": 1, "keep_weights": False}  # fmt: skip
    found = [
        trained(
            tiny_run(**settings, share_prompts=shared, per_device_train_batch_size=batch)
        ).summary["eval_losses"][0]["loss"]
        for shared, batch in ((False, 1), (False, 3), (False, 8), (True, 1), (True, 2))
    ]  # fmt: skip
    assert found[1:] == pytest.approx([found[0]] * 4, rel=1e-4)


def test_evaluations_are_recorded_and_not_timed(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labkit.machine import meter as measure

    # A clock that a training step moves by one and an evaluation by a thousand.
    now = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])

    def takes(seconds: float, method: str) -> None:
        original = getattr(trainer.LabTrainer, method)

        def slow(self: Any, *args: Any, **kwargs: Any) -> Any:
            now[0] += seconds
            return original(self, *args, **kwargs)

        monkeypatch.setattr(trainer.LabTrainer, method, slow)

    takes(1.0, "training_step")
    takes(1000.0, "prediction_step")
    record = trained(tiny_run(eval_steps=2))
    assert now[0] >= 2000.0
    assert [step["seconds"] for step in record.steps] == [1.0] * 4
    assert [entry["step"] for entry in record.summary["eval_losses"]] == [2, 4]
    # The last one is the trained model's mean loss over the development split.
    model = load.load_model(record.model_path, dtype="float32")
    tokenizer = load.load_tokenizer(record.model_path)
    config = tiny_run()
    rows = train.encode_split(tokenizer, config, "dev", shared=True)
    batches = [SharedPromptCollator(2)([row]) for row in rows]
    nats = sum(fast_step.labelled_loss(model, each, 1).item() for each in batches)
    labels = sum(int((each["labels"][:, 1:] != -100).sum()) for each in batches)
    assert record.summary["eval_losses"][-1]["loss"] == pytest.approx(nats / labels, rel=1e-5)


def test_the_development_loss_is_of_as_many_samples_as_asked_for(tiny_run: Run) -> None:
    config = tiny_run(max_train_samples=1)
    tokenizer = load.load_tokenizer(config.model)

    def rows(split: str, **changes: Any) -> list[dict[str, Any]]:
        return train.encode_split(tokenizer, config.replace(**changes), split, shared=False)

    assert len(rows("dev")) > 1, "max_train_samples is for the training split"
    assert rows("dev", max_eval_samples=1) == rows("dev")[:1]
    assert (
        rows("train", max_train_samples=2, max_eval_samples=1)
        == rows("train", max_train_samples=None)[:2]
    )


def test_tensorboard_writes_its_logs_where_it_says(tiny_run: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record = trained(tiny_run(report_to="tensorboard"))
    events = EventAccumulator(str(record.path / "tensorboard")).Reload()
    logged = events.Scalars("train/loss")
    assert [event.step for event in logged] == [1, 2, 3, 4]
    assert [event.value for event in logged] == pytest.approx(record.losses, rel=1e-4)
    assert not (record.path / "checkpoints").exists()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_was_trained_reloads_and_gives_the_same_logits(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    kept: list[torch.nn.Module] = []
    save = train.save_model

    def keep(model: Any, *args: Any, **kwargs: Any) -> None:
        kept.append(model)
        save(model, *args, **kwargs)

    monkeypatch.setattr(train, "save_model", keep)
    record = trained(tiny_run(method=method))
    ids = torch.tensor([[1, 50, 7, 300, 12]])
    base = load.load_model(record.config["model"], dtype="float32")
    with torch.no_grad():
        trained_logits = kept[0].eval()(input_ids=ids).logits
        reloaded = load.load_model(record.name and record.path, dtype="float32")(input_ids=ids)
        untrained = base(input_ids=ids).logits
    change = (trained_logits - untrained).abs().max()
    difference = (trained_logits - reloaded.logits).abs().max()
    # Adapters are kept in float32, a full model in bfloat16, whose steps are 2⁻⁸ of a weight.
    assert difference <= (1e-5 if method == "lora" else 0.05 * change)
    assert change > 0.1
    saved = {tensor.dtype for tensor in weights(record).values()}
    assert saved == {torch.float32 if method == "lora" else torch.bfloat16}
    if method == "full":  # a head that is the embedding is written once
        held = sum(tensor.numel() for tensor in weights(record).values())
        assert held == record.summary["trainable_parameters"]


def test_an_adapter_keeps_the_name_of_its_base_and_no_path_but_that(tiny_run: Run) -> None:
    record = trained(tiny_run())
    adapter = json.loads((record.model_path / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == record.model["name"]


def test_a_run_in_bfloat16_trains(tiny_run: Run) -> None:
    for method in ("lora", "full"):
        record = trained(tiny_run(method=method, dtype="bfloat16"))
        assert record.losses[-1] < record.losses[0]


def test_models_of_other_architectures_train(
    tiny_run: Run, tiny_model: Callable[[str], Path]
) -> None:
    for name in ("tiny-gemma", "tiny-phi", "tiny-bloom", "tiny-mamba"):
        record = trained(tiny_run(model=str(tiny_model(name)), max_train_samples=2, max_steps=3))
        assert record.status == "done" and record.losses[-1] < record.losses[0], name
        assert record.summary["labelled_logits"]


# --- mistakes ------------------------------------------------------------------------------

MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "sample longer than the limit": ({"max_length": 20}, "max_length is 20; raise it to"),
    "no such data": ({"data": "no/such/folder"}, "no data set at 'no/such/folder'"),
    "empty data set": ({"data": "EMPTY"}, "holds no questions"),
    "no train split": ({"data": "NO_TRAIN"}, "has no train.json"),
    "no development split": ({"data": "NO_DEV", "eval_steps": 1}, "has no dev.json"),
    "no such model": ({"model": "smollm3"}, "'smollm3' is neither a folder with a model"),
    "an empty folder as model": ({"model": "EMPTY_FOLDER"}, "holds no model"),
    "a truncated model": ({"model": "TRUNCATED"}, "no model can be loaded from"),
    "reads with an encoder": ({"model": "T5"}, "reads with an encoder"),
    "no such target": ({"target_modules": ("q_prj",)}, "no linear layer 'q_prj'.*'q_proj'"),
    "no such optimizer": ({"optim": "adamw_torch_fuse"}, "optim.*'adamw_torch_fused'"),
    "no such schedule": ({"lr_scheduler_type": "cosin"}, "lr_scheduler_type.*'cosine'"),
    "a schedule that needs more": ({"lr_scheduler_type": "cosine_with_min_lr"}, "cannot start"),
    "an optimizer that is not installed": ({"optim": "lomo"}, "cannot start.*lomo"),
    "attention that is not installed": (
        {"attn_implementation": "flash_attention_2"}, "attn_implementation 'flash_attention_2'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("changes_and_message", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    tiny_run: Run,
    runs: Path,
    few_reports: Path,
    tiny_llama: Path,
    tiny_model: Callable[[str], Path],
    tmp_path: Path,
    changes_and_message: tuple[dict[str, Any], str],
) -> None:
    changes, message = changes_and_message
    places = {"T5": lambda: tiny_model("tiny-t5"), "EMPTY_FOLDER": lambda: tmp_path}
    for key in ("data", "model"):
        word = changes.get(key)
        if word in ("EMPTY", "NO_TRAIN", "NO_DEV"):
            folder = shutil.copytree(few_reports, tmp_path / "data")
            if word == "EMPTY":
                (folder / "train.json").write_text("[]")
            else:
                (folder / f"{word[3:].lower()}.json").unlink()
            changes = {**changes, key: str(folder)}
        elif word == "TRUNCATED":
            folder = shutil.copytree(tiny_llama, tmp_path / "model")
            whole = (folder / "model.safetensors").read_bytes()
            (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
            changes = {**changes, key: str(folder)}
        elif word in places:
            changes = {**changes, key: str(places[word]())}
    with pytest.raises(LabkitError, match=message) as caught:
        trained(tiny_run(**changes))
    assert "\n" not in str(caught.value)
    assert not runs.exists()


def test_a_mistake_does_not_cost_the_run_it_would_replace(tiny_run: Run) -> None:
    good = trained(tiny_run(name="mine"))
    for mistake in ({"max_length": 20}, {"target_modules": ("q_prj",)}, {"optim": "adam"}):
        with pytest.raises(LabkitError):
            trained(tiny_run(name="mine", **mistake), fresh=True)
    assert records.load("mine") == good
    assert weights(good)


def model_with(folder: Path, model: Any, tokenizer: Any) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_padding_token_without_an_embedding_changes_nothing(
    tiny_run: Run, tiny_llama: Path, tmp_path: Path
) -> None:
    """As in evaluation: what is padded is masked."""
    tokenizer: Any = load.load_tokenizer(tiny_llama)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    grown = model_with(tmp_path / "m", load.load_model(tiny_llama, dtype="float32"), tokenizer)
    config = tiny_run(share_prompts=False)
    plain, padded = trained(config), trained(config.replace(model=grown))
    assert padded.losses == plain.losses
    assert_same_weights(padded, plain)
    assert load.load_tokenizer(padded.model_path).pad_token == tokenizer.eos_token


def test_what_a_model_cannot_read_does_not_cost_the_run_it_would_replace(
    tiny_run: Run, tiny_llama: Path, tmp_path: Path
) -> None:
    tokenizer: Any = load.load_tokenizer(tiny_llama)
    settings = transformers.GPT2Config(
        vocab_size=768, n_positions=300, n_embd=64, n_layer=1, n_head=4,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    short = model_with(tmp_path / "short", transformers.GPT2LMHeadModel(settings), tokenizer)
    template = tokenizer.chat_template
    tokenizer.add_tokens(["<turn>"], special_tokens=True)
    tokenizer.chat_template = template.replace("<|im_start|>", "<turn>")
    llama = load.load_model(tiny_llama, dtype="float32")
    grown = model_with(tmp_path / "grown", llama, tokenizer)
    good = trained(tiny_run(name="mine", model=short, max_length=300, max_steps=1))
    for model, says in (
        (grown, "'<turn>', token 768, and .* has only 768 embeddings"),
        (short, "has 300 positions, and the longest row takes .*: set max_length to 300 or less"),
    ):
        with pytest.raises(LabkitError, match=says) as caught:
            trained(tiny_run(name="mine", model=model), fresh=True)
        assert "\n" not in str(caught.value)
    assert records.load("mine") == good
    assert weights(good)


@pytest.mark.parametrize("method", ["lora", "prompt", "prefix"])
def test_virtual_tokens_take_positions_of_the_table(method: str) -> None:
    settings = transformers.GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=1,
                                       n_head=2, bos_token_id=1, eos_token_id=2)  # fmt: skip
    config = RunConfig(method=method, num_virtual_tokens=4, name="x")
    model = methods.METHODS[method].attach(transformers.GPT2LMHeadModel(settings), config)
    most = 32 if method == "lora" else 28
    tokenizer = SimpleNamespace(pad_token_id=None)

    def fits(tokens: int, **more: Any) -> None:
        row = {"input_ids": [5] * tokens, "labels": [5] * tokens, **more}
        rows.fit_model(model, tokenizer, [row], task=TASKS["sft"], name="short")

    fits(most)
    fits(2 * most, position_ids=[*range(most)] * 2)  # two texts that share a row
    with pytest.raises(LabkitError, match=f"32 positions.* takes 33: set max_length to {most} or"):
        fits(most + 1)


def test_a_run_that_diverges_says_so(tiny_run: Run) -> None:
    config = tiny_run(method="full", learning_rate=1e30, warmup_steps=0, max_steps=6, name="mine")
    with pytest.raises(LabkitError, match="the loss is (nan|inf) at step .*lower learning_rate"):
        trained(config)
    record = records.load("mine")
    assert record.status == "failed" and 0 < len(record.steps) < 6
    assert not record.model_path.exists()


@pytest.mark.parametrize("max_steps", [1, 6])  # in the last step, before it
def test_a_run_whose_development_loss_diverges_says_so(tiny_run: Run, max_steps: int) -> None:
    """The first step measures a loss and spoils the weights, which the evaluation is shown."""
    config = tiny_run(method="full", learning_rate=1e38, warmup_steps=0, max_steps=max_steps,
                      eval_steps=1, name="mine")  # fmt: skip
    with pytest.raises(
        LabkitError, match="the development loss is (nan|inf) at step 1: .*lower learning_rate"
    ) as caught:
        trained(config)
    assert "\n" not in str(caught.value)
    record = records.load("mine")
    assert record.status == "failed" and [step["step"] for step in record.steps] == [1]
    assert record.summary["eval_losses"] == [] and not record.model_path.exists()


def test_a_runs_folder_that_cannot_be_written(
    tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LABKIT_RUNS", str(tmp_path / "file"))
    with pytest.raises(LabkitError, match="cannot be written"):
        trained(tiny_run())


@pytest.fixture(scope="module")
def undisturbed(
    tiny_llama: Path, few_reports: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, torch.Tensor]:
    """Weights of the run that the full disk interrupts below."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LABKIT_RUNS", str(tmp_path_factory.mktemp("undisturbed")))
        config = RunConfig(model=str(tiny_llama), data=str(few_reports), **SHORT)
        return weights(trained(config))


SHORT: dict[str, Any] = {
    "max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2,
    "dtype": "float32", "lr_scheduler_type": "constant", "warmup_steps": 0,
}  # fmt: skip
FULL_DISK = {
    "torch.save": (
        "checkpoint-4",
        RuntimeError("[enforce fail at x.cc:1] . unexpected pos 5 vs 4"),
    ),
    "the system": ("checkpoint-4", OSError(28, "No space left on device")),
    "safetensors": (".model.partial", Exception("I/O error: No space left (os error 28)")),
}


@pytest.mark.parametrize(("full", "error"), FULL_DISK.values(), ids=FULL_DISK.keys())
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(
    tiny_run: Run,
    runs: Path,
    undisturbed: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    full: str,
    error: Exception,
) -> None:
    """Half of a file is written, then the library raises what it raises on a full disk."""
    from peft import PeftModel

    config = tiny_run(name="mine", **SHORT)
    save = PeftModel.save_pretrained

    def sometimes(self: Any, folder: Any, *args: Any, **kwargs: Any) -> Any:
        if Path(folder).name != full:
            return save(self, folder, *args, **kwargs)
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "adapter_model.safetensors").write_bytes(b"half")
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(PeftModel, "save_pretrained", sometimes)
        with pytest.raises(LabkitError, match="mine cannot be written .*free disk space") as caught:
            trained(config)
    assert "\n" not in str(caught.value)
    record = records.load("mine")
    assert record.status == "failed" and not record.model_path.exists()
    left = {path.name for path in (runs / "mine").rglob("*") if path.is_dir()}
    kept = "checkpoint-2" if full == "checkpoint-4" else "checkpoint-4"
    assert left == {"checkpoints", kept}
    again = trained(config)
    assert again.status == "done" and [s["step"] for s in again.steps] == [1, 2, 3, 4]
    found = weights(again)
    assert found.keys() == undisturbed.keys()
    assert all(torch.equal(found[name], exact) for name, exact in undisturbed.items())


def refused_by_the_system(number: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        raise OSError(number, os.strerror(number))

    return write


def save_without_room(path: Path) -> None:
    """Let torch write 4 kB where only 1 kB may go, for what it really raises then."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        torch.save({"a": torch.zeros(1000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


REFUSALS: dict[str, Callable[[Path], None]] = {
    "torch.save": save_without_room,
    "full": refused_by_the_system(errno.ENOSPC),
    "quota": refused_by_the_system(errno.EDQUOT),
    "read-only": refused_by_the_system(errno.EROFS),
    "permission": refused_by_the_system(errno.EACCES),
    "limit": refused_by_the_system(errno.EFBIG),
}


@pytest.mark.parametrize("write", REFUSALS.values(), ids=REFUSALS.keys())
def test_what_a_disk_refuses_is_one_sentence(tmp_path: Path, write: Callable[[Path], None]) -> None:
    refused = pytest.raises(LabkitError, match="cannot be written .*free disk space")
    with refused as caught, run_folder.saving_errors(tmp_path):
        write(tmp_path / "optimizer.pt")
    assert "\n" not in str(caught.value)


def test_an_error_of_ours_is_not_renamed(tiny_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("a fault in the code")

    monkeypatch.setattr(fast_step, "labelled_logits", broken)
    monkeypatch.setattr(trainer.LabTrainer, "has_plain_logits", lambda self: True)
    with pytest.raises(ZeroDivisionError):
        trained(tiny_run(name="mine"))
    assert records.load("mine").status == "failed"


def test_reports_are_the_embedded_ones(few_reports: Path) -> None:
    """The fixture's reports are real ones, so that lengths and answers are as in the course."""
    assert len(tatqa.samples(tatqa.load(str(few_reports), "train"))) >= 24


@pytest.mark.filterwarnings("error:.*autograd kernel was not registered")
@pytest.mark.parametrize(("base", "dtype"), [("8bit", "float32"), ("8bit", "bfloat16")])
def test_adapters_train_on_a_quantised_base(
    tiny_run: Callable[..., RunConfig], base: str, dtype: str
) -> None:
    record = train.train(tiny_run(base=base, max_steps=2, eval_steps=1, dtype=dtype), quiet=True)
    kept = load_file(record.model_path / "adapter_model.safetensors")
    assert {weight.dtype for weight in kept.values()} == {torch.float32}  # TRL would round them
    assert record.status == "done" and record.config["base"] == base
    assert record.name.startswith("tiny-llama-" + methods.joined("lora", base))
    plain = train.train(tiny_run(max_steps=2, dtype=dtype), quiet=True)
    assert plain.sha256 != record.sha256
    # Rounded weights, so another loss, and not by much.
    assert 0 < abs(record.losses[0] - plain.losses[0]) < 0.1 * plain.losses[0]


def test_a_base_that_a_model_cannot_have_is_one_sentence(
    tiny_run: Callable[..., RunConfig], tiny_model: Callable[[str], Path]
) -> None:
    config = tiny_run(model=str(tiny_model("tiny-mamba")), base="nf4", max_steps=1)
    with pytest.raises(LabkitError, match="base nf4 cannot hold .*state-space.*use base plain"):
        train.train(config, quiet=True)
