"""Models that think first: a block of reasoning stands before the answer, and is none of it.

    <think>Sales rose from 1,202 to …</think>          Qwen3, DeepSeek-R1 and most others
    [THINK]…[/THINK] · <seed:think>… · ◁think▷…◁/think▷     Magistral, Seed-OSS, Kimi
    <thinking>…, <reasoning>…, <thought>…              what models were tuned to write themselves

Some chat templates open the block in the prompt, so that a reply holds only its end. A reply
without the end was cut off while the model was thinking: it holds no answer at all.
"""

import re
from typing import Any

_WORDS = "think|thinking|thought|reasoning|reflection|seed:think"
_OPEN = re.compile(rf"<({_WORDS})>|\[THINK\]|◁think▷", re.IGNORECASE)
_CLOSE = re.compile(rf"</({_WORDS})>|\[/THINK\]|◁/think▷", re.IGNORECASE)
_OPENING = re.compile(rf"(?:{_OPEN.pattern})\s*$", re.IGNORECASE)
_LEADING = re.compile(
    rf"\s*(?:{_OPEN.pattern}).*?(?:{_CLOSE.pattern})\s*", re.IGNORECASE | re.DOTALL
)

_MARKS = (("<think>", "</think>"), ("<seed:think>", "</seed:think>"), ("[THINK]", "[/THINK]"),
          ("◁think▷", "◁/think▷"))  # fmt: skip
_WRITTEN = re.compile(
    "|".join(rf"\s*{re.escape(a)}.*?{re.escape(b)}\s*" for a, b in _MARKS), re.I | re.DOTALL
)
_WRITTEN_OPEN = re.compile("|".join(re.escape(a) for a, _ in _MARKS), re.IGNORECASE)
_ENDS_LINE = re.compile("|".join(rf"{re.escape(b)}[ \t]*$" for _, b in _MARKS), re.I | re.M)


def drop(text: str) -> tuple[str, bool]:
    """Return a reply without its reasoning, and whether it was cut off inside of that.

    >>> drop("<think>1 + 1</think> 2"), drop("so 2</think>2"), drop("<think>hm")
    (('2', False), ('2', False), ('', True))
    """
    ends = list(_CLOSE.finditer(text))
    if ends:
        text = text[ends[-1].end() :].strip()
    begun = _OPEN.search(text)
    if begun is None:
        return text, False
    # Begun, or begun again, without an end: what stands before is what was said.
    said = text[: begun.start()].strip()
    return said, not said


def is_open(prompt: str) -> bool:
    """Whether a prompt ends by opening a block of reasoning."""
    return _OPENING.search(prompt) is not None


def closed(prompt: str) -> str:
    """Return a prompt with its open block of reasoning closed, so that the answer comes next."""
    if not is_open(prompt):
        return prompt
    *_, last = _OPEN.finditer(prompt)
    end = {"[": "[/THINK]", "◁": "◁/think▷"}.get(last[0][0], f"</{last[0][1:]}")
    return f"{prompt.rstrip()}\n\n{end}\n\n"


def without(text: str) -> str:
    """Return a written answer without the reasoning that it begins with; "" where that is all.

    Marks that are also ordinary markup (<thought>, say) count in a reply, and not here. An end
    without a begin stands at the end of a line or alone on one, for prose may name it as well.

    >>> without("<think>1 + 1</think>2"), without("1 + 1 …\\n</think>\\n2"), without("<think>hm")
    ('2', '2', '')
    """
    while found := _WRITTEN.match(text):
        text = text[found.end() :]
    for end in _ENDS_LINE.finditer(text):
        if not _WRITTEN_OPEN.search(text, 0, end.start()):
            return text[end.end() :].lstrip()
    return "" if _WRITTEN_OPEN.match(text.lstrip()) else text


def split_leading(text: str) -> tuple[str, str]:
    """Return the block of reasoning that a text begins with, and the rest."""
    found = _LEADING.match(text)
    return (text[: found.end()], text[found.end() :]) if found else ("", text)


def decode(tokenizer: Any, rows: list[list[int]]) -> list[str]:
    """Return texts without special tokens, but with marks of reasoning where these are special."""
    special = [str(token) for token in getattr(tokenizer, "all_special_tokens", [])]
    if not any(_OPEN.fullmatch(token) or _CLOSE.fullmatch(token) for token in special):
        texts: list[str] = tokenizer.batch_decode(rows, skip_special_tokens=True)
        return texts
    texts = tokenizer.batch_decode(rows, skip_special_tokens=False)
    for token in special:
        if not (_OPEN.fullmatch(token) or _CLOSE.fullmatch(token)):
            texts = [text.replace(token, "") for text in texts]
    return texts
