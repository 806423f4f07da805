"""Answers: the shared prefix against plain generation, prompt by prompt."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labkit.datasets import encode, tatqa
from labkit.datasets.score import score_answer
from labkit.errors import LabkitError
from labkit.inference import batching, generate, replies, show
from labkit.inference.generate import Generator, load_generator
from labkit.models import load
from labkit.runs import measurements

pytestmark = pytest.mark.usefixtures("runs")
DECODERS = ["tiny-llama", "tiny-gemma", "tiny-phi", "tiny-bloom", "tiny-mamba"]


def one_by_one(
    generator: Generator, prompt_ids: list[list[int]], *, max_new_tokens: int
) -> list[str]:
    """Transformers' own greedy generation, one unpadded prompt at a time."""
    texts = []
    for ids in prompt_ids:
        out = generator.model.generate(
            input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False, max_new_tokens=max_new_tokens,
            pad_token_id=generator.tokenizer.pad_token_id,
        )  # fmt: skip
        texts.append(
            generator.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True).strip()
        )
    return texts


def prompt_ids(generator: Generator, samples: list[tatqa.Sample]) -> list[list[int]]:
    return [
        encode.encode(generator.tokenizer, s, max_length=1900, with_answer=False)["input_ids"]
        for s in samples
    ]


@pytest.fixture(scope="module")
def generators(tiny_model: Callable[[str], Path]) -> Callable[[str], Generator]:
    """Tiny models in float32, with heads of their own and larger weights: answers differ."""
    made: dict[str, Generator] = {}

    def make(name: str) -> Generator:
        if name not in made:
            made[name] = load_generator(str(tiny_model(name)), dtype="float32")
            generator = torch.Generator().manual_seed(0)
            head = made[name].model.get_output_embeddings()
            head.weight = torch.nn.Parameter(torch.randn(head.weight.shape, generator=generator))
            with torch.no_grad():
                for module in made[name].model.base_model.modules():
                    if isinstance(module, torch.nn.Linear):
                        module.weight.mul_(8)
        return made[name]

    return make


@pytest.mark.parametrize("name", DECODERS)
def test_answers_are_those_of_plain_generation(
    generators: Callable[[str], Generator], few_reports: Path, name: str
) -> None:
    """Several reports with several questions each, prompts and prefixes of unequal length."""
    generator = generators(name)
    samples = tatqa.samples(tatqa.load(str(few_reports), "test"))[:14]
    assert len({s.report.uid for s in samples}) >= 2
    ids = prompt_ids(generator, samples)
    assert len({len(p) for p in ids}) > 5
    exact = one_by_one(generator, ids, max_new_tokens=12)
    replies = generator.answer(samples, max_new_tokens=12)
    assert [reply.text for reply in replies] == exact
    assert len(set(exact)) > len(samples) // 2, "the answers hardly differ: nothing is compared"
    assert [reply.uid for reply in replies] == [s.question.uid for s in samples]


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(
    "groups",
    [
        [[[5, 6, 7, 8], [5, 6, 9], [5, 6, 7, 8, 10, 11]]],
        [[[9]]],
        [[[5, 6, 7], [5, 6, 7]]],
        [[[5], [6, 7, 8]]],
        # No common prefix in one group, a long one in the other: a row that is all padding.
        [[[5], [6]], [[7, 8, 9, 10, 11, 12], [7, 8, 9, 10, 11, 13, 14]]],
        [[[20, 21]], [[30, 31, 32, 33], [30, 31, 32, 34, 35]], [[40, 41, 42]]],
    ],
)
def test_any_grouping_gives_the_same_continuations(
    generators: Callable[[str], Generator], name: str, groups: list[list[list[int]]]
) -> None:
    generator = generators(name)
    flat = [ids for group in groups for ids in group]
    exact = one_by_one(generator, flat, max_new_tokens=6)
    found = generator._complete_groups(groups, max_new_tokens=6)
    assert [text for group in found for text in group] == exact
    assert [len(group) for group in found] == [len(group) for group in groups]


def test_batches_of_any_size_give_the_same_answers(
    generators: Callable[[str], Generator], few_reports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = generators("tiny-llama")
    samples = tatqa.samples(tatqa.load(str(few_reports), "test"))
    exact = generator.answer(samples, max_new_tokens=5)
    done: list[int] = []
    monkeypatch.setattr(generate, "SEQUENCES_PER_BATCH", 7)
    assert generator.answer(samples, max_new_tokens=5, progress=done.append) == exact
    assert len(done) > 2 and done == sorted(done) and done[-1] == len(samples)
    # Samples in another order are answered in that order.
    assert generator.answer(samples[::-1], max_new_tokens=5) == exact[::-1]


@pytest.mark.parametrize("name", DECODERS)
def test_answers_that_ended_leave_the_batch(
    generators: Callable[[str], Generator], few_reports: Path, monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:  # fmt: skip
    generator = generators(name)
    samples = tatqa.samples(tatqa.load(str(few_reports), "test"))[:14]
    ids = prompt_ids(generator, samples)
    free = [
        generator.model.generate(
            input_ids=torch.tensor([row]), do_sample=False, max_new_tokens=20, pad_token_id=0
        )[0, len(row) :].tolist()
        for row in ids
    ]
    found = {
        end: [next((i for i, t in enumerate(row, 1) if t == end), 20) for row in free]
        for end in {token for row in free for token in row}
    }
    # A token that ends answers in the first stage and in later ones.
    end, lengths = max(found.items(), key=lambda item: len({n // 4 for n in item[1]}))
    assert min(lengths) <= 4 < 8 < max(lengths), "nothing ends at different times"
    monkeypatch.setattr(generator.model.generation_config, "eos_token_id", [end])
    monkeypatch.setattr(generate, "STAGE_TOKENS", 4)
    plain, batches = generator.model.generate, []

    def counted(**settings: Any) -> Any:
        batches.append(len(settings["input_ids"]))
        return plain(**settings)

    exact = one_by_one(generator, ids, max_new_tokens=20)
    monkeypatch.setattr(generator.model, "generate", counted)
    assert [r.text for r in generator.answer(samples, max_new_tokens=20)] == exact
    stages = 1 if name == "tiny-mamba" else 5
    open_at = [sum(n > 4 * stage for n in lengths) or None for stage in range(stages)]
    assert batches == [len(samples), *(n for n in open_at[1:] if n)]


def test_a_report_is_read_once_for_all_its_questions(
    generators: Callable[[str], Generator], few_reports: Path
) -> None:
    """Tokens that pass through the embedding, counted."""
    generator = generators("tiny-llama")
    (report, *_) = tatqa.load(str(few_reports), "test")
    samples = tatqa.samples([report])
    ids = prompt_ids(generator, samples)
    seen: list[int] = []
    hook = generator.model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].numel())
    )
    generator.answer(samples, max_new_tokens=1)
    hook.remove()
    prefix = generate.sharing.common_prefix_length(ids)
    longest = max(map(len, ids))
    assert prefix > 0.6 * longest
    assert sum(seen) == prefix + len(ids) * (longest - prefix)


def test_the_embedded_model_answers_the_same_with_a_shared_prefix(
    embedded_model: Path, few_reports: Path
) -> None:
    generator = load_generator(str(embedded_model), dtype="float32")
    reports = tatqa.load(str(few_reports), "test")
    samples = [s for report in reports[:2] for s in tatqa.samples([report])[:2]]
    exact = one_by_one(generator, prompt_ids(generator, samples), max_new_tokens=8)
    assert [r.text for r in generator.answer(samples, max_new_tokens=8)] == exact
    assert "Paris" in generator.chat("What is the capital of France?", max_new_tokens=12)


def test_a_model_that_reads_with_an_encoder_is_one_sentence(
    tiny_model: Callable[[str], Path],
) -> None:
    with pytest.raises(LabkitError, match="is an encoder-decoder") as caught:
        load_generator(str(tiny_model("tiny-t5")))
    assert "\n" not in str(caught.value)


def test_a_prompt_longer_than_the_model_s_window_gives_way_to_the_answer(
    generators: Callable[[str], Generator], few_reports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = generators("tiny-llama")
    sample = tatqa.samples(tatqa.load(str(few_reports), "test"))[0]
    monkeypatch.setattr(generator.model.config, "max_position_embeddings", 200)
    seen: list[int] = []
    hook = generator.model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].shape[1])
    )
    generator.answer([sample], max_new_tokens=50)
    hook.remove()
    assert 100 < sum(seen[:2]) <= 150


def test_an_adapter_answers_as_trained(tiny_run: Callable[..., Any], few_reports: Path) -> None:
    """A run by its name; adapters are cast to the type their base is loaded in."""
    from labkit.train.run import train

    record = train(tiny_run(name="mine"), quiet=True)
    generator = load_generator("mine", dtype="float32")
    samples = tatqa.samples(tatqa.load(str(few_reports), "test"))[:4]
    exact = Generator(
        name="exact",
        tokenizer=load.load_tokenizer(record.model_path),
        model=load.load_model(record.model_path, dtype="float32"),
    )
    ids = prompt_ids(exact, samples)
    assert [r.text for r in generator.answer(samples, max_new_tokens=6)] == one_by_one(
        exact, ids, max_new_tokens=6
    )
    half = load_generator("mine", dtype="bfloat16")
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}


def heads_read(model: Any, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Return with how many key heads fused attention is called in a forward pass of `model`."""
    fused, seen = torch.nn.functional.scaled_dot_product_attention, set()

    def watched(query: Any, key: Any, *args: Any, **kwargs: Any) -> Any:
        seen.add(key.shape[1])
        return fused(query, key, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
        model(input_ids=torch.tensor([[5, 6, 7, 8]] * 2),
              attention_mask=torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]))  # fmt: skip
    return seen


@pytest.mark.parametrize("adapter", [False, True], ids=["base", "adapter"])
def test_writing_reads_each_key_head_once_and_no_other_model_of_the_process_does(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: bool
) -> None:
    """A training run gave other losses, by rounding, where its process had written before."""
    model = load.load_model(tiny_llama, dtype="float32")
    heads = model.config
    copied, read_once = {heads.num_attention_heads}, {heads.num_key_value_heads}
    assert copied != read_once
    folder = tiny_llama
    if adapter:
        folder = tmp_path / "adapter"
        config = peft.LoraConfig(r=2, target_modules=["q_proj"])
        base = load.load_model(tiny_llama, dtype="float32")
        peft.get_peft_model(base, config).save_pretrained(folder)
        load.load_tokenizer(tiny_llama).save_pretrained(folder)
    generator = load_generator(str(folder), dtype="float32")
    assert heads_read(generator.model, monkeypatch) == read_once
    assert heads_read(model, monkeypatch) == copied


def test_a_reply_is_read_back_and_scored_as_the_score_does(few_reports: Path) -> None:
    sample = next(
        s for s in tatqa.samples(tatqa.load(str(few_reports), "test"))
        if s.question.answer_type == "span"
    )  # fmt: skip
    for text, values, scale in [
        (" | ".join(sample.question.answer), sample.question.answer, ""),
        ("nothing of the kind # million", ("nothing of the kind",), "million"),
        ("", (), ""),
    ]:
        reply = replies.read_reply(sample, text)
        assert (reply.text, reply.values, reply.scale) == (text, values, scale)
        assert (reply.em, reply.f1) == score_answer(list(values), scale, sample.question)


def test_a_reply_is_scored_when_asked_and_once(
    few_reports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[str] = []
    monkeypatch.setattr(
        replies, "score_answer", lambda values, scale, question: scored.append(scale) or (1.0, 0.5)
    )
    sample = tatqa.samples(tatqa.load(str(few_reports), "test"))[0]
    reply = replies.read_reply(sample, "12 # million")
    assert (reply.uid, reply.values, scored) == (sample.question.uid, ("12",), [])
    assert (reply.em, reply.f1, reply.em, scored) == (1.0, 0.5, 1.0, ["million"])


SIDS = {
    "100": [100], "3,7": [3, 7], "0-4,9": [0, 1, 2, 3, 4, 9], " 5 , 6 ": [5, 6], "7-7": [7],
    "3,3": [3, 3], "00012": [12],
}  # fmt: skip


@pytest.mark.parametrize(("text", "sids"), SIDS.items())
def test_sample_ids(text: str, sids: list[int]) -> None:
    assert show.parse_sids(text) == sids


@pytest.mark.parametrize(
    "text",
    ["", " ", ",", "1,", "a", "-1", "1-", "-", "4-1", "1.5", "1 2", "0-99999999", "1--2", "1e3",
     "9" * 12, "٣x", "1;2"],
)  # fmt: skip
def test_what_is_no_sample_id_is_one_sentence(text: str) -> None:
    with pytest.raises(LabkitError, match=r"is not a sample id: write 100, 3,7 or 0-4,9"):
        show.parse_sids(text)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20))
def test_sample_ids_written_out_come_back(sids: list[int]) -> None:
    assert show.parse_sids(",".join(map(str, sids))) == sids


def test_side_by_side_is_json_with_every_model_s_answer(
    tiny_model: Callable[[str], Path],
    few_reports: Path,
    monkeypatch: pytest.MonkeyPatch,
    runs: Path,
) -> None:
    monkeypatch.setattr(generate.Generator.answer, "__kwdefaults__", {
        **(generate.Generator.answer.__kwdefaults__ or {}), "max_new_tokens": 4})  # fmt: skip
    models = [str(tiny_model("tiny-llama")), str(tiny_model("tiny-phi"))]
    pool = tatqa.samples(tatqa.load(str(few_reports), "test"))
    rows = generate.compare(models, [5, 0], data=str(few_reports))
    assert json.loads(json.dumps(rows)) == rows
    assert [row["sid"] for row in rows] == [5, 0]
    for row, sample in zip(rows, [pool[5], pool[0]], strict=True):
        assert row["uid"] == sample.question.uid and row["question"] == sample.question.text
        assert row["gold"] == {
            "answer": list(sample.question.answer), "scale": sample.question.scale,
            "answer_type": sample.question.answer_type,
        }  # fmt: skip
        assert [answer["model"] for answer in row["answers"]] == models
        for answer in row["answers"]:
            assert (answer["em"], answer["f1"]) == score_answer(
                answer["values"], answer["scale"], sample.question
            )
        shown = show.render([row])
        assert sample.question.text in shown and sample.question.answer[0] in shown
        assert all(model in shown for model in models)
    kept = {(m["settings"]["model"], m["settings"]["sid"]): m for m in measurements.read_all()}
    assert set(kept) == {(model, sid) for model in models for sid in (5, 0)}
    for row in rows:
        for answer in row["answers"]:
            values = kept[answer["model"], row["sid"]]["values"]
            assert values == {name: answer[name] for name in ("em", "f1", "text")}
    # One model named twice is asked once and shown once.
    twice = generate.compare([models[0], models[0]], [0], data=str(few_reports))
    assert [answer["model"] for answer in twice[0]["answers"]] == models[:1]


def test_worked_examples_come_before_the_question_and_are_kept_apart(
    tiny_llama: Path, few_reports: Path, monkeypatch: pytest.MonkeyPatch, runs: Path
) -> None:
    shown: list[int] = []

    def answer(
        self: generate.Generator, samples: list, *, examples: list = (), **options: object
    ) -> list:
        shown.append(len(examples))
        return [replies.read_reply(sample, "= 1") for sample in samples]

    monkeypatch.setattr(generate.Generator, "answer", answer)
    for examples in (0, 2):
        generate.compare([str(tiny_llama)], [0], data=str(few_reports), examples=examples)
    assert shown == [0, 2]
    assert {m["settings"]["examples"] for m in measurements.read_all()} == {0, 2}
    # A home that cannot be written to still shows replies.
    runs.joinpath("measurements").rename(runs / "elsewhere")
    runs.joinpath("measurements").write_text("a file where the folder should be")
    assert generate.compare([str(tiny_llama)], [0], data=str(few_reports))[0]["answers"]


def test_a_sample_outside_the_split_says_which_there_are(few_reports: Path) -> None:
    count = len(tatqa.samples(tatqa.load(str(few_reports), "test")))
    with pytest.raises(LabkitError, match=rf"no sample {count}: .* has 0 to {count - 1}$"):
        generate.compare(["tiny-llama"], [0, count], data=str(few_reports))


def test_answers_end_at_the_tokenizer_s_end_as_well(tiny_llama: Path, tmp_path: Path) -> None:
    """A template that a model was taught may end otherwise than its base does."""
    folder = tmp_path / "taught"
    shutil.copytree(tiny_llama, folder)
    tokenizer = load.load_tokenizer(folder)
    before = tokenizer.eos_token_id
    tokenizer.eos_token = "<|im_start|>"
    tokenizer.save_pretrained(folder)
    model = generate.load_generator(str(folder)).model
    assert batching.end_tokens(model) == [before, tokenizer.convert_tokens_to_ids("<|im_start|>")]
