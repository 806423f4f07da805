"""What the model reads and what it is marked on, token by token."""

import statistics
from dataclasses import replace
from types import SimpleNamespace

import pytest

from labkit.datasets import encode as prompts
from labkit.datasets.answers import format_answer
from labkit.datasets.encode import IGNORED, encode, messages, prompt_text, render_report
from labkit.datasets.tatqa import load, read_reports, samples
from labkit.errors import LabkitError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}"
    "\n{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
SILENT = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
THINKING = CHATML.replace(
    "<|im_start|>assistant\n{% endif", "<|im_start|>assistant\n<think>{% endif"
)
ENDLESS = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}" + (
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
SPECIAL = ["<bos>", "<eos>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"]


def bytes_tokenizer(template, *, eos="<eos>", merges=(), adds_bos=False):
    """A tokenizer with one token a byte, plus `merges`, and the special tokens of SPECIAL."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*SPECIAL, *alphabet, *("".join(pair) for pair in merges)]
    vocab = {word: i for i, word in enumerate(words)}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    if adds_bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 0)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<bos>", eos_token=eos, pad_token=eos
    )
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[2:]})
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="module")
def real():
    """The embedded model's tokenizer, and how many tokens stand for 256 of it."""
    from labkit.models.load import load_tokenizer
    from labkit.models.registry import resolve

    try:
        folder = resolve("smollm2-135m-instruct", fetch=False)
    except LabkitError:
        # One token a byte, about three and a half to one of SmolLM2's.
        return SimpleNamespace(tokenizer=bytes_tokenizer(CHATML, eos="<|im_end|>"), limit=1024)
    return SimpleNamespace(tokenizer=load_tokenizer(folder), limit=256)


@pytest.fixture
def sample(write_json, make_report):
    return samples(read_reports(write_json([make_report()])))[0]


@pytest.fixture
def example(write_json, make_report):
    return samples(read_reports(write_json([make_report("t2")], "t2.json")))[1]


def answer_of(tokenizer, encoded):
    return tokenizer.decode([i for i in encoded["labels"] if i != IGNORED])


def test_a_table_is_one_row_a_line_without_empty_rows_and_columns(sample):
    report = replace(
        sample.report,
        table=(
            ("", "", "Year ended\nJune 30,", ""),
            ("", "", "", ""),
            ("", "", "2019", "2018", ""),
            ("Sales", "", "$  1,496", "1,202"),
            ("Costs", "", "", "7"),
        ),
        paragraphs=("One\n line. ", " ", "Two."),
    )
    assert render_report(report).split("\n") == [
        "| Year ended June 30, |",
        "| 2019 | 2018",
        "Sales | $ 1,496 | 1,202",
        "Costs |  | 7",
        "One line.",
        "Two.",
    ]


def test_the_report_comes_first_and_the_question_last(sample):
    system, user = messages(sample)
    assert (system["role"], user["role"]) == ("system", "user")
    assert user["content"] == (
        "| 2019 | 2018\nSales | 1,496 | 1,202\nFirst paragraph.\nSecond paragraph.\n\n"
        "Question: What is the percentage change in sales?"
    )


def test_examples_are_earlier_turns_with_their_answers(sample, example):
    turns = messages(sample, [example])
    assert [t["role"] for t in turns] == ["system", "user", "assistant", "user"]
    assert turns[2]["content"] == "1,496 # million"
    assert turns[1]["content"].endswith("Question: What were sales in 2019?")


def test_ids_are_those_of_the_chat_template(sample, example, real):
    tokenizer = real.tokenizer
    turns = messages(sample, [example])
    answer = {"role": "assistant", "content": format_answer(sample.question)}
    encoded = encode(tokenizer, sample, max_length=4096, examples=[example])
    n = encoded["prompt_length"]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    whole = tokenizer.apply_chat_template([*turns, answer])["input_ids"]
    assert encoded["input_ids"][:n] == prompt
    assert encoded["input_ids"] == whole[: len(encoded["input_ids"])]
    # Only what the template puts after the end token is left out.
    assert tokenizer.decode(whole[len(encoded["input_ids"]) :]).strip() == ""


def test_the_loss_is_on_the_answer_and_its_end_token_only(sample, real):
    tokenizer = real.tokenizer
    encoded = encode(tokenizer, sample, max_length=4096)
    n = encoded["prompt_length"]
    assert encoded["labels"][:n] == [IGNORED] * n
    assert encoded["labels"][n:] == encoded["input_ids"][n:]
    assert answer_of(tokenizer, encoded) == format_answer(sample.question) + "<|im_end|>"
    # Padding and end are one token here, and the end is learned all the same.
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == encoded["labels"][-1]


def test_without_the_answer_there_is_the_prompt_alone(sample, real):
    encoded = encode(real.tokenizer, sample, max_length=4096, with_answer=False)
    assert encoded["prompt_length"] == len(encoded["input_ids"])
    assert set(encoded["labels"]) == {IGNORED}
    whole = encode(real.tokenizer, sample, max_length=4096)
    assert whole["input_ids"][: whole["prompt_length"]] == encoded["input_ids"]
    assert real.tokenizer.decode(encoded["input_ids"]) == prompt_text(real.tokenizer, sample)


@pytest.mark.parametrize("template", [GEMMA, SILENT], ids=["refuses", "drops"])
def test_a_template_without_system_role_gets_it_in_the_first_user_turn(template, sample, example):
    # The template writes <bos>, so the tokenizer, which would add one too, must not.
    tokenizer = bytes_tokenizer(template, adds_bos=True)
    text = prompt_text(tokenizer, sample, [example])
    assert text.count(prompts.SYSTEM) == 1
    assert text.index(prompts.SYSTEM) < text.index("Sales") < text.index("Question")
    end = "<end_of_turn>" if template is GEMMA else "<|im_end|>"
    encoded = encode(tokenizer, sample, max_length=4096, examples=[example])
    assert answer_of(tokenizer, encoded) == format_answer(sample.question) + end
    assert encoded["input_ids"].count(tokenizer.bos_token_id) == (template is GEMMA)


@pytest.mark.parametrize("adds_bos", [True, False])
def test_a_model_without_template_gets_plain_text(adds_bos, sample, example):
    tokenizer = bytes_tokenizer(None, adds_bos=adds_bos)
    encoded = encode(tokenizer, sample, max_length=4096, examples=[example])
    text = prompt_text(tokenizer, sample, [example])
    assert text.startswith(f"{prompts.SYSTEM}\n\n| 2019 | 2018\n")
    assert "Question: What were sales in 2019?\nAnswer: 1,496 # million\n\n" in text
    assert text.endswith("Question: What is the percentage change in sales?\nAnswer:")
    assert answer_of(tokenizer, encoded) == f" {format_answer(sample.question)}<eos>"
    assert encoded["input_ids"].count(tokenizer.bos_token_id) == adds_bos
    assert (encoded["input_ids"][0] == tokenizer.bos_token_id) == adds_bos


@pytest.mark.parametrize("template", [THINKING, ENDLESS], ids=["thinking", "endless"])
def test_an_answer_always_ends_even_where_the_template_does_not_say_how(template, sample):
    tokenizer = bytes_tokenizer(template)
    encoded = encode(tokenizer, sample, max_length=4096)
    assert answer_of(tokenizer, encoded) == f"{format_answer(sample.question)}<eos>"
    prompt = encoded["input_ids"][: encoded["prompt_length"]]
    assert tokenizer.decode(prompt) == prompt_text(tokenizer, sample)


THOUGHTFUL = CHATML.replace(
    "{{ m['content'] }}", "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n"
    "{% endif %}{{ m['content'] }}")  # fmt: skip
OPENED = CHATML.replace("assistant\n{% endif", "assistant\n[THINK]\n{% endif")


@pytest.mark.parametrize("template", [THOUGHTFUL, THINKING, OPENED])
def test_no_thought_is_taught_and_no_answer_is_taught_as_one(template, sample, example):
    """The block is closed before the labels begin, and the same when the model is asked."""
    tokenizer = bytes_tokenizer(template)
    encoded = encode(tokenizer, sample, max_length=4096, examples=[example])
    assert answer_of(tokenizer, encoded).startswith(format_answer(sample.question) + "<")
    assert "think" not in answer_of(tokenizer, encoded).lower()
    n = encoded["prompt_length"]
    prompt = tokenizer.decode(encoded["input_ids"][:n])
    assert prompt.rstrip().lower().endswith(("</think>", "[/think]"))
    assert encoded["labels"][:n] == [IGNORED] * n
    asked = encode(tokenizer, sample, max_length=4096, examples=[example], with_answer=False)
    assert asked["input_ids"] == encoded["input_ids"][:n]


def test_the_prompt_is_a_prefix_even_where_tokens_would_merge_across_it(sample):
    # "\n" and "=" would become one token where the prompt ends and the answer begins.
    tokenizer = bytes_tokenizer(CHATML, merges=[("Ċ", "=")])
    assert tokenizer("\n=")["input_ids"] == [tokenizer.convert_tokens_to_ids("Ċ=")]
    encoded = encode(tokenizer, sample, max_length=4096)
    alone = encode(tokenizer, sample, max_length=4096, with_answer=False)
    assert encoded["input_ids"][: encoded["prompt_length"]] == alone["input_ids"]
    assert answer_of(tokenizer, encoded) == format_answer(sample.question) + "<|im_end|>"


def long_sample(sample):
    rows = tuple((f"Row {i}", str(i), str(i + 1)) for i in range(9))
    head = (("", "2019", "2018"), ("", "audited", ""))
    paragraphs = tuple(f"Paragraph {i}." for i in range(9))
    return replace(sample, report=replace(sample.report, table=head + rows, paragraphs=paragraphs))


def context(tokenizer, encoded):
    text = tokenizer.decode(encoded["input_ids"])
    return text.split("<|im_start|>user\n")[-1].split("\n\nQuestion")[0].split("\n")


def test_paragraphs_go_first_then_rows_from_the_end_never_the_header(sample):
    tokenizer = bytes_tokenizer(CHATML)
    sample = long_sample(sample)
    whole = context(tokenizer, encode(tokenizer, sample, max_length=4096))
    assert whole == render_report(sample.report).split("\n")
    assert len(whole) == 2 + 9 + 9
    limit = len(encode(tokenizer, sample, max_length=4096)["input_ids"])
    left = whole
    while len(left) > 3:
        limit -= 1
        encoded = encode(tokenizer, sample, max_length=limit)
        left = context(tokenizer, encoded)
        # Cut from the end only, and nothing more than needed: the next line would not fit.
        assert left == whole[: len(left)]
        assert len(encoded["input_ids"]) <= limit
        assert left == whole or len(encoded["input_ids"]) + len(whole[len(left)]) + 1 > limit


def test_the_header_is_never_cut(sample):
    tokenizer = bytes_tokenizer(CHATML)
    sample = long_sample(sample)
    with pytest.raises(LabkitError) as error:
        encode(tokenizer, sample, max_length=100)
    least = int(str(error.value).rsplit(" ", 1)[1])
    # The header's first column is empty once there are no rows, and is not shown.
    encoded = encode(tokenizer, sample, max_length=least)
    assert context(tokenizer, encoded) == ["2019 | 2018", "audited |"]


def test_examples_give_up_their_context_before_the_question_does(sample, example):
    tokenizer = bytes_tokenizer(CHATML)
    sample, example = long_sample(sample), long_sample(example)
    both = len(encode(tokenizer, sample, max_length=9999, examples=[example])["input_ids"])
    encoded = encode(tokenizer, sample, max_length=both - 200, examples=[example])
    assert context(tokenizer, encoded) == render_report(sample.report).split("\n")
    text = tokenizer.decode(encoded["input_ids"])
    assert text.count("Paragraph 8.") == 1
    assert f"{example.question.text}<|im_end|>" in text
    assert "1,496 # million<|im_end|>" in text


def test_a_sample_that_cannot_fit_is_named_with_its_lengths(sample, real):
    least = None
    with pytest.raises(LabkitError, match=r"question t1-q1 needs (\d+) tokens of prompt") as error:
        encode(real.tokenizer, sample, max_length=20)
    least = int(str(error.value).rsplit(" ", 1)[1])
    assert len(encode(real.tokenizer, sample, max_length=least)["input_ids"]) == least
    with pytest.raises(LabkitError):
        encode(real.tokenizer, sample, max_length=least - 1)


def test_real_reports_keep_question_and_answer_whole(tatqa_dev, real):
    """Every tenth question of the real file, most of whose reports are too long."""
    tokenizer = real.tokenizer
    cut = 0
    for item in samples(read_reports(tatqa_dev))[::10]:
        try:
            encoded = encode(tokenizer, item, max_length=real.limit)
        except LabkitError as error:
            assert item.question.uid in str(error)
            continue
        n = encoded["prompt_length"]
        assert len(encoded["input_ids"]) <= real.limit
        question = " ".join(item.question.text.split())
        prompt = tokenizer.decode(encoded["input_ids"][:n])
        assert prompt.endswith(f"\n\nQuestion: {question}<|im_end|>\n<|im_start|>assistant\n")
        assert answer_of(tokenizer, encoded) == f"{format_answer(item.question)}<|im_end|>"
        assert encoded["labels"][-1] == tokenizer.eos_token_id
        cut += prompt != prompt_text(tokenizer, item)
    assert cut > 50


def test_real_questions_almost_all_fit_into_256_tokens(tatqa_dev, real):
    listed = samples(read_reports(tatqa_dev))[::10]
    refused = 0
    for item in listed:
        try:
            encode(real.tokenizer, item, max_length=real.limit)
        except LabkitError:
            refused += 1
    assert refused <= len(listed) / 50


def test_prompts_of_the_embedded_set_are_short(real):
    """At most 200 tokens in the middle, so that two cores get through enough of them."""
    lengths = [
        encode(real.tokenizer, s, max_length=4096, with_answer=False)["prompt_length"]
        for s in samples(load("tables", "test"))
    ]
    assert statistics.median(lengths) <= 200 * real.limit / 256
