"""What a row must be to be trained on: an alternation of user and assistant with something said.

Every format is checked here and nowhere else, so that a null, a missing role or an empty answer is
the same sentence whatever the file is called.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labkit.datasets import fields, reasoning
from labkit.datasets.base import Message
from labkit.errors import LabkitError, brief

ROLES = {
    "system": "system", "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "model": "assistant",
}  # fmt: skip
"""What formats call the three who speak."""
MOST_CHARACTERS = 2**20
"""A message beyond this is a file that was pasted into a row, not something that was said."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What a format makes of a row, before its turns are checked.

    `turns` are pairs of a role and what was said, as they stand in the row; `rejected` is a worse
    answer in place of the last of them; `text` is running text instead of turns; both are checked.
    `kind` is a group that scores are given for.
    """

    turns: Sequence[tuple[Any, Any]] = ()
    rejected: str | None = None
    text: str | None = None
    kind: Any = None


def checked(turns: Sequence[tuple[Any, Any]]) -> tuple[Message, ...]:
    """Return turns as messages; a system message that says nothing is no turn.

    Raises:
        LabkitError: what is wrong, as the end of a sentence that begins with the row.
    """
    messages: list[Message] = []
    for number, (role, content) in enumerate(turns, start=1):
        if role is None:
            raise LabkitError(f"turn {number} has no role")
        if not isinstance(role, str) or role.strip().lower() not in ROLES:
            raise LabkitError(f"turn {number} has the role {brief(role)}, which is none of "
                              f"{', '.join(ROLES)}")  # fmt: skip
        known = ROLES[role.strip().lower()]
        if known == "system" and (content is None or not str(content).strip()):
            continue
        before = messages[-1]["role"] if messages else ""
        if known == "system" and before:
            raise LabkitError(f"turn {number} is a system message after the first turn")
        if known == "assistant" and before in ("", "system"):
            raise LabkitError(f"turn {number} is an answer with nothing asked before it")
        if known == before:
            raise LabkitError(f"turn {number} is a second {known} turn in a row")
        messages.append({"role": known, "content": said(content, f"turn {number} ({known})")})
    if not messages or messages[-1]["role"] != "assistant":
        raise LabkitError("no answer is at the end: the last turn must be the assistant's")
    return tuple(messages)


def said(content: Any, what: str) -> str:
    """Return what was said as text.

    Raises:
        LabkitError: it is null, no text, empty, too long, or holds half a character.
    """
    if content is None:
        raise LabkitError(f"{what} is null")
    content = of_parts(content, what)
    if not isinstance(content, str):
        raise LabkitError(f"{what} is no text but {brief(content)}")
    if not content.strip():
        raise LabkitError(f"{what} is empty")
    if len(content) > MOST_CHARACTERS:
        raise LabkitError(f"{what} has {len(content)} characters, more than {MOST_CHARACTERS}")
    return fields.text(content, what)


def of_parts(content: Any, what: str) -> Any:
    """Return a list of OpenAI's text parts as one text, a paragraph each; all else as it is.

    Raises:
        LabkitError: a part is no text: an image, say.
    """
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise LabkitError(f"{what} has a part that is no text: {brief(part)}")
        texts.append(text)
    return "\n\n".join(texts)


def entry(row: Any, key: str, kind: type = object) -> Any:
    """Return row[key]; a key that is there may be null.

    Raises:
        LabkitError: the row is no mapping, has no such key, or another kind of value there.
    """
    if not isinstance(row, dict):
        raise LabkitError(f"it is no JSON object but {brief(row)}")
    if key not in row:
        raise LabkitError(f"it has no key {key!r}, but {', '.join(map(repr, list(row)[:6]))}")
    if not isinstance(row[key], kind):
        named = "list" if kind is list else "JSON object"
        raise LabkitError(f"{key} is no {named} but {brief(row[key])}")
    return row[key]


def pairs(row: Any, key: str, role: str, content: str) -> list[tuple[Any, Any]]:
    """Return the turns under row[key], mappings that name the role and what was said.

    Raises:
        LabkitError: there is no list of mappings.
    """
    turns = []
    for number, turn in enumerate(entry(row, key, list), start=1):
        if not isinstance(turn, dict):
            raise LabkitError(f"turn {number} is no JSON object but {brief(turn)}")
        turns.append((turn.get(role), turn.get(content)))
    return turns


def with_what_is_beside(row: Any, given: Sequence[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Return a row's turns after the system message and the earlier exchanges beside them.

    These are `system`, a text, where the turns have none of their own, and `history`, a list of
    [asked, answered], where they do not begin with it. Anything else there is of other things.
    """
    own = [*given[:1]] if given and str(given[0][0]).strip().lower() == "system" else []
    turns = [*given[len(own) :]]
    if not own and isinstance(system := row.get("system"), str) and system.strip():
        own = [("system", system)]
    before = _exchanges(row.get("history"))
    if [said for _, said in turns[: len(before)]] == [said for _, said in before]:
        before = []
    return [*own, *before, *turns]


def _exchanges(history: Any) -> list[tuple[Any, Any]]:
    """Return pairs of two texts as turns; none where one of them is something else."""
    turns: list[tuple[Any, Any]] = []
    for each in history if isinstance(history, list) else ():
        texts = isinstance(each, list) and all(isinstance(t, str) and t.strip() for t in each)
        if not texts or len(each) != 2:
            return []
        turns += [("user", each[0]), ("assistant", each[1])]
    return turns


def without_reasoning(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return messages whose answers begin after what was thought first (`reasoning`).

    Raises:
        LabkitError: an answer is nothing else.
    """
    said = []
    for number, each in enumerate(messages, start=1):
        if each["role"] == "assistant":
            each = {**each, "content": answer_alone(each["content"], f"turn {number}")}
        said.append(each)
    return tuple(said)


def answer_alone(content: str, what: str) -> str:
    """Return an answer without the reasoning that it begins with.

    Raises:
        LabkitError: there is no more to it.
    """
    answer = reasoning.without(content)
    if not answer.strip():
        raise LabkitError(f"{what} is reasoning without an answer")
    return answer


def asked(instruction: Any, more: Any, *, between: str = "\n\n") -> Any:
    """Return an instruction and what it is about as one user message; nothing more may be null."""
    if not isinstance(instruction, str) or more is None or more == "":
        return instruction
    if not isinstance(more, str):
        raise LabkitError(f"what the instruction is about is no text but {brief(more)}")
    return f"{instruction}{between}{more}" if more.strip() else instruction
