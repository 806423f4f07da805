"""Any local file of conversations, texts or preferences: each row is told by its keys.

    chosen, rejected [, prompt]    two answers: texts, or messages with the same turns before
    messages                       [{"role": "user", "content": …}, …]
    conversations                  ShareGPT's form, LIMA's list of texts, or messages
    conversation                   Firefly's pairs
    prompt, completion             texts or messages; response or answer for completion also
    instruction, output            or response; with input (Alpaca's) or context (Dolly's)
    input, target or output        Firefly's other form, LongForm's
    question, answer               with context; response or completion for answer also
    text                           running text, for continued pretraining

A `system` beside any of them is the system message, where the turns have none of their own. A
`history` beside them holds the exchanges before: [[asked, answered], …].
"""

from typing import Any

from labkit.datasets.chat import alpaca, dolly, finetome, firefly, lima, longform, turns
from labkit.datasets.chat.source import data_set
from labkit.datasets.chat.turns import Draft, entry, pairs
from labkit.errors import LabkitError, brief

ANSWERS = ("completion", "response", "answer")


def form(row: Any) -> Draft:
    """Return what a row says it is by its keys."""
    if not isinstance(row, dict):
        raise LabkitError(f"it is no JSON object but {brief(row)}")
    keys = set(row)
    if {"chosen", "rejected"} <= keys:
        return _preference(row)
    if "messages" in keys:
        return Draft(turns=pairs(row, "messages", "role", "content"))
    if "conversations" in keys:
        return _conversations(row)
    if "conversation" in keys:
        return firefly.form(row)
    answers = [key for key in ANSWERS if key in keys]
    if "prompt" in keys and answers:
        asked = _messages(row, "prompt", "user")
        return Draft(turns=[*asked, *_messages(row, answers[0], "assistant")])
    if "instruction" in keys:
        return _instruction(row)
    if "input" in keys:
        return firefly.form(row) if "target" in keys else longform.form(row)
    if "question" in keys and answers:
        whole = {"question": turns.asked(row["question"], row.get("context"))}
        asked = _messages(whole, "question", "user")
        return Draft(turns=[*asked, *_messages(row, answers[0], "assistant")])
    if "text" in keys:
        return Draft(text=turns.said(row["text"], "text"))
    named = ", ".join(map(repr, list(row)[:6])) or "none"
    raise LabkitError(f"its keys tell no form: {named} (see labkit.datasets.chat.jsonl)")


def _conversations(row: dict[str, Any]) -> Draft:
    first = entry(row, "conversations", list)[:1]
    if first and isinstance(first[0], str):
        return lima.form(row)
    if first and isinstance(first[0], dict) and "role" in first[0]:
        return Draft(turns=pairs(row, "conversations", "role", "content"))
    return finetome.form(row)


def _instruction(row: dict[str, Any]) -> Draft:
    """Return an instruction and its answer; what it is about stands as Alpaca or Dolly has it."""
    answer = row["response"] if "response" in row else entry(row, "output")
    if row.get("input") and row.get("context"):
        raise LabkitError("it has an input and a context, and one of them has to be left out")
    if row.get("input"):
        return alpaca.form({**row, "output": answer})
    return dolly.form({**row, "response": answer})


def _preference(row: dict[str, Any]) -> Draft:
    """Return the turns that both answers follow, the better answer, and the worse one."""
    better = _messages(row, "chosen", "assistant")
    worse = _messages(row, "rejected", "assistant")
    if len(better) != len(worse) or better[:-1] != worse[:-1]:
        raise LabkitError("chosen and rejected do not answer the same turns")
    if not worse or worse[-1][0] != "assistant":
        raise LabkitError("rejected does not end with an answer")
    before = better[:-1]
    if not before:
        before = _messages(row, "prompt", "user")
    return Draft(turns=[*before, better[-1]], rejected=turns.said(worse[-1][1], "rejected"))


def _messages(row: dict[str, Any], key: str, role: str) -> list[tuple[Any, Any]]:
    """Return row[key] as turns: messages as they are, anything else as one turn of `role`."""
    value = entry(row, key)
    return pairs(row, key, "role", "content") if isinstance(value, list) else [(role, value)]


JSONL = data_set(
    "jsonl",
    source="the file or folder that is named",
    licence="that of the file",
    form=form,
    also=("dpo", "pretrain"),
)
