"""What the model reads: the report, then the question, in the model's own chat form.

    system     Answer from the report. …
    user       | 2019 | 2018                      the table, one row a line
               Other | 44.1 | 56.7
               Sales by Contract Type: …          the paragraphs, one a line

               Question: What is the change in Other in 2019 from 2018?
    assistant  = 44.1 - 56.7 # million<end>

The report stands first and the question last, so all prompts on one report share
a long prefix, which a server can keep. A chat template (Jinja text that comes with
the tokenizer) puts each model's own marks around the turns; a model without one
gets plain text. Some templates (Gemma's) know no system role: the system message
then opens the first user message.

The loss is on the answer only: labels are -100, which cross-entropy skips, for
every position of the prompt. The end-of-turn token is part of what is learned, or
the model would never stop. It keeps its label even where the padding token is the
same token, because labels are made here from positions, not later from token ids.

    input_ids  [ prompt ............................ ][ answer ........ ][ end ]
    labels     [ -100 .............................. ][ answer ........ ][ end ]

When a sample is longer than `max_length`, context goes in this order, and only as
much as needed: paragraphs from the last, then table rows from the last but never
the header; worked examples give up theirs before the question's own report does.
The choice is blind to where the answer is. Questions and answers are never cut.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from labkit.datasets import reasoning
from labkit.datasets.answers import format_answer
from labkit.datasets.base import Cuts, Example, Message
from labkit.datasets.tatqa import Report, Sample
from labkit.errors import LabkitError

SYSTEM = (
    "Answer from the report. Copy values; show arithmetic as = expression; add # and the scale."
)
IGNORED = -100
MOST_HEADER_ROWS = 3


def render_report(report: Report) -> str:
    """The table, one row a line with cells joined by " | ", then one paragraph a line.

    Cells lose spare whitespace; rows and columns that are empty throughout are dropped.
    """
    lines = [" | ".join(row).strip() for row in _tidy(report.table)]
    lines += [text for text in (" ".join(p.split()) for p in report.paragraphs) if text]
    return "\n".join(lines)


def messages(sample: Sample, examples: Sequence[Sample] = ()) -> list[dict[str, str]]:
    """The conversation up to the question of `sample`, as {"role", "content"} turns.

    `examples` come first, each as a user turn and the assistant's right answer.
    """
    turns = [{"role": "system", "content": SYSTEM}]
    for example in examples:
        turns.append({"role": "user", "content": _user_text(example)})
        turns.append({"role": "assistant", "content": format_answer(example.question)})
    turns.append({"role": "user", "content": _user_text(sample)})
    return turns


def prompt_text(tokenizer: Any, sample: Sample, examples: Sequence[Sample] = ()) -> str:
    """The prompt as one string, up to where the model begins to answer."""
    return _texts(tokenizer, example(sample, examples).messages)[0]


def example(sample: Sample, examples: Sequence[Sample] = ()) -> Example:
    """A question as an example of supervised fine-tuning, with `examples` solved before it."""

    def without(cut: int) -> tuple[Message, ...]:
        shorter, fewer = _cut(sample, examples, cut)
        answer = {"role": "assistant", "content": format_answer(sample.question)}
        return (*messages(shorter, fewer), answer)

    question = sample.question
    return Example(
        uid=question.uid,
        group=sample.report.uid,
        messages=without(0),
        gold=question,
        strata={"type": question.answer_type, "source": question.answer_from},
        called="question",
        cuts=Cuts(
            parts=_cut_count(sample) + sum(_cut_count(shown) for shown in examples),
            named="paragraphs and table rows",
            without=without,
        ),
    )


def encode(
    tokenizer: Any,
    sample: Sample,
    *,
    max_length: int,
    with_answer: bool = True,
    examples: Sequence[Sample] = (),
) -> dict[str, Any]:
    """Token ids of a question with its report, as `encode_example` has them."""
    return encode_example(
        tokenizer, example(sample, examples), max_length=max_length, with_answer=with_answer
    )


def encode_example(
    tokenizer: Any, example: Example, *, max_length: int, with_answer: bool = True
) -> dict[str, Any]:
    """Token ids of a conversation that fit into `max_length`; its last turn is the answer.

    Returns `input_ids` and `labels` (lists of int, equally long; labels are -100 on the
    prompt) and `prompt_length` in tokens. Without the answer `input_ids` is the prompt
    to generate from, and `max_length` leaves no room for what is generated.

    Raises LabkitError when there is no answer to learn, or when the example does not fit even
    without all that it may lose.
    """
    prompt, answer, _ = fitted(tokenizer, example, max_length, with_answer)
    return {
        "input_ids": prompt + answer,
        "labels": [IGNORED] * len(prompt) + answer,
        "prompt_length": len(prompt),
    }


def encode_turns(tokenizer: Any, example: Example, *, max_length: int) -> list[dict[str, Any]]:
    """Token ids of a conversation in which every answer is learned, in as few rows as can be.

    Returns rows as `encode_example` does, with `answers` trained in each; `prompt_length` is what
    stands before the first. One row holds them all where the template writes earlier turns as it
    wrote them before: each answer then follows the very tokens that the model reads when it is
    asked. Where it does not (an answer without an end, reasoning that is dropped later), each
    answer has a row. Turns that do not fit into `max_length` any more are left out from the end.

    Raises LabkitError as `encode_example` does when not even the first answer fits.
    """
    places = [i for i, turn in enumerate(example.messages) if turn["role"] == "assistant"]
    parts = [
        replace(example, messages=example.messages[: place + 1], cuts=None) for place in places
    ] or [example]
    rows = [encode_example(tokenizer, parts[0], max_length=max_length) | {"answers": 1}]
    for part in parts[1:]:
        prompt, answer = _ids(tokenizer, part.messages)
        if len(prompt) + len(answer) > max_length:
            break
        row = rows[-1]
        before = len(row["input_ids"])
        if len(rows) == 1 and prompt[:before] == row["input_ids"]:
            row["input_ids"] = prompt + answer
            row["labels"] += [IGNORED] * (len(prompt) - before) + answer
            row["answers"] += 1
        else:
            rows.append({
                "input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer,
                "prompt_length": len(prompt), "answers": 1,
            })  # fmt: skip
    return rows


def fitted(
    tokenizer: Any, example: Example, max_length: int, with_answer: bool = True
) -> tuple[list[int], list[int], int]:
    """Return the token ids of prompt and answer, and how many parts were cut to make them fit.

    Raises LabkitError as `encode_example` does.
    """
    if len(example.messages) < 2 or example.messages[-1]["role"] != "assistant":
        raise LabkitError(
            f"{example.called} {example.uid} has no answer: its messages must end with a turn of "
            "the assistant"
        )
    cuts = example.cuts

    def encoded(turns: Sequence[Message]) -> tuple[list[int], list[int]]:
        prompt, answer = _ids(tokenizer, turns)
        return prompt, answer if with_answer else []

    low = 0
    prompt, answer = encoded(example.messages)
    if cuts and cuts.parts and len(prompt) + len(answer) > max_length:
        # Each cut makes the prompt shorter, so the fewest that suffice are found by halving.
        low, high = 1, cuts.parts
        while low < high:
            middle = (low + high) // 2
            if sum(map(len, encoded(cuts.without(middle)))) <= max_length:
                high = middle
            else:
                low = middle + 1
        prompt, answer = encoded(cuts.without(low))
    if len(prompt) + len(answer) > max_length:
        without = f" even without {cuts.named}" if cuts else ""
        raise LabkitError(
            f"{example.called} {example.uid} needs {len(prompt)} tokens of prompt and "
            f"{len(answer)} of answer{without}, but max_length is "
            f"{max_length}; raise it to at least {len(prompt) + len(answer)}"
        )
    return prompt, answer, low


def prompt_ids(tokenizer: Any, example: Example, max_length: int) -> list[int]:
    """Token ids of a conversation up to where the model begins to answer."""
    ids: list[int] = encode_example(tokenizer, example, max_length=max_length, with_answer=False)[
        "input_ids"
    ]
    return ids


def _user_text(sample: Sample) -> str:
    question = " ".join(sample.question.text.split())
    return f"{render_report(sample.report)}\n\nQuestion: {question}"


def _tidy(table: Sequence[Sequence[str]]) -> list[list[str]]:
    width = max((len(row) for row in table), default=0)
    rows = [[" ".join(cell.split()) for cell in row] + [""] * (width - len(row)) for row in table]
    rows = [row for row in rows if any(row)]
    kept = [j for j in range(width) if any(row[j] for row in rows)]
    return [[row[j] for j in kept] for row in rows]


def _header_rows(rows: Sequence[Sequence[str]]) -> int:
    """Rows that name the columns: the first, and those after it whose first cell is empty."""
    count = 0
    while count < min(len(rows), MOST_HEADER_ROWS) and not rows[count][0].strip():
        count += 1
    return max(count, min(1, len(rows)))


def _cut_count(sample: Sample) -> int:
    rows = _tidy(sample.report.table)
    return len(sample.report.paragraphs) + len(rows) - _header_rows(rows)


def shortened(sample: Sample, cut: int) -> Sample:
    """Return the sample without its last `cut` paragraphs, or all of them and table rows."""
    report = sample.report
    rows = _tidy(report.table)
    keep_paragraphs = max(len(report.paragraphs) - cut, 0)
    keep_rows = len(rows) - max(cut - len(report.paragraphs), 0)
    shorter = replace(
        report,
        table=tuple(tuple(row) for row in rows[:keep_rows]),
        paragraphs=report.paragraphs[:keep_paragraphs],
    )
    return replace(sample, report=shorter)


def _cut(sample: Sample, examples: Sequence[Sample], cut: int) -> tuple[Sample, list[Sample]]:
    """Take `cut` paragraphs or rows away, from the examples first, then from the sample."""
    fewer = []
    for example in examples:
        here = min(cut, _cut_count(example))
        fewer.append(shortened(example, here))
        cut -= here
    return shortened(sample, cut), fewer


def _ids(tokenizer: Any, turns: Sequence[Message]) -> tuple[list[int], list[int]]:
    """Token ids of the prompt, and of the answer, the last turn, with its end token."""
    prompt, answer = _texts(tokenizer, turns)
    # A chat template writes the start token itself.
    start = [] if tokenizer.chat_template else _start_ids(tokenizer)
    prompt_ids = start + tokenizer(prompt, add_special_tokens=False)["input_ids"]
    full_ids = start + tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
    if full_ids[: len(prompt_ids)] == prompt_ids:
        return prompt_ids, full_ids[len(prompt_ids) :]
    # The last prompt token and the answer's first characters merged into one token; at
    # generation time they cannot, so neither may they in training.
    return prompt_ids, tokenizer(answer, add_special_tokens=False)["input_ids"]


def _texts(tokenizer: Any, messages: Sequence[Message]) -> tuple[str, str]:
    """The prompt, and the answer as the template ends it, so that their sum is the dialogue."""
    turns, answer = list(messages[:-1]), messages[-1]["content"]
    if not tokenizer.chat_template:
        return _plain(turns), f" {answer}{tokenizer.eos_token or ''}"
    if len(turns) > 1 and turns[0]["role"] == "system" and not _knows_system(tokenizer):
        first = {"role": "user", "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}
        turns = [first, *turns[2:]]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    dialogue = tokenizer.apply_chat_template(
        [*turns, {"role": "assistant", "content": answer}], tokenize=False
    )
    # What follows the end token (a line break in ChatML) is never generated.
    ending = dialogue[len(prompt) :].rstrip() if dialogue.startswith(prompt) else ""
    # What a model thinks before it answers is not taught, and an answer is no thought: the block
    # belongs to the prompt, there when the model is trained and there when it is asked.
    thoughts, ending = reasoning.split_leading(ending)
    if ending.strip() in ("", answer):
        ending = f"{answer}{tokenizer.eos_token or ''}"
    return reasoning.closed(prompt + thoughts), ending


def _plain(turns: Sequence[dict[str, str]]) -> str:
    """Turns for a model without a chat template: blocks of text, ending in "Answer:"."""
    blocks: list[str] = []
    for turn in turns:
        if turn["role"] == "assistant":
            blocks[-1] += f" {turn['content']}"
        else:
            label = "\nAnswer:" if turn["role"] == "user" else ""
            blocks.append(f"{turn['content']}{label}")
    return "\n\n".join(blocks)


def _knows_system(tokenizer: Any) -> bool:
    """Whether the chat template renders a system message; some refuse it, some drop it."""
    from jinja2.exceptions import TemplateError

    probe = [{"role": "system", "content": "<probe>"}, {"role": "user", "content": "u"}]
    try:
        return "<probe>" in tokenizer.apply_chat_template(probe, tokenize=False)
    except TemplateError:
        return False


def _start_ids(tokenizer: Any) -> list[int]:
    """The token a tokenizer puts before every text (Llama's <s>), if it has one."""
    ids: list[int] = tokenizer("")["input_ids"]
    return [i for i in ids[:1] if i == tokenizer.bos_token_id]
