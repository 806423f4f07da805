"""What a comparison of models finds, as objects, JSON and text; tokenizers and prompts compared."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from labkit.datasets.base import Example

CAUSES = ("tokenizer", "template", "stop", "weights", "dtype", "arithmetic")
"""Likely causes, the one that explains most first."""
ORDER = {name: place for place, name in enumerate(CAUSES)}
MOST_SHOWN = 3
MOST_CHARACTERS = 60


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why two models differ: one of `CAUSES`, and what shows it."""

    name: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two answers that part: at which token, and the two candidates there.

    A token is None where that answer had ended before. `a_logits` and `b_logits` are what each
    model gave to (a_token, b_token), None where logits cannot be had.
    """

    uid: str
    a_text: str
    b_text: str
    index: int
    a_token: str | None
    b_token: str | None
    a_logits: tuple[float, float] | None = None
    b_logits: tuple[float, float] | None = None

    @property
    def gap(self) -> float | None:
        """By how many logits the first model prefers its own candidate."""
        return None if self.a_logits is None else abs(self.a_logits[0] - self.a_logits[1])


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two models held against each other; logits are compared on the same token ids.

    `largest_difference` is None where there are none to compare.
    """

    a: str
    b: str
    types: tuple[str, str]
    n: int
    same: bool
    largest_difference: float | None
    tolerance: float
    tolerance_from: str
    causes: tuple[Cause, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = ()

    @property
    def cause(self) -> str | None:
        """The likeliest cause, None where nothing differs at all."""
        return min((c.name for c in self.causes), key=ORDER.__getitem__, default=None)

    def to_json(self) -> dict[str, Any]:
        """Return the pair for `labkit parity --json`."""
        return {**asdict(self), "cause": self.cause,
                "answers_that_differ": len(self.differences)}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Parity:
    """All pairs of a comparison; the first local model is in each of them."""

    data: str
    split: str
    n: int
    max_new_tokens: int
    pairs: tuple[Pair, ...]

    @property
    def same(self) -> bool:
        """Whether every pair is the same within its tolerance."""
        return all(pair.same for pair in self.pairs)

    def to_json(self) -> dict[str, Any]:
        """Return what `labkit parity --json` prints."""
        return {"same": self.same, "data": self.data, "split": self.split, "n": self.n,
                "max_new_tokens": self.max_new_tokens,
                "pairs": [pair.to_json() for pair in self.pairs]}  # fmt: skip


def difference(
    uid: str, tokenizer: Any, ids: tuple[Sequence[int], Sequence[int]], texts: Sequence[str],
    rows: tuple[Any, Any],
) -> Difference:  # fmt: skip
    """Find where two answers, given as token ids of one tokenizer, part.

    `rows` are each model's logits (tokens, vocabulary) along its own answer, or None.
    """
    a, b = ids
    index = next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
    tokens = [side[index] if index < len(side) else None for side in ids]

    def logits(row: Any) -> tuple[float, float] | None:
        one, other = tokens
        if row is None or one is None or other is None or index >= len(row):
            return None
        if max(one, other) >= row.shape[-1]:
            return None
        first, second = float(row[index, one]), float(row[index, other])
        return (first, second) if abs(first - second) < float("inf") else None

    words = [None if token is None else tokenizer.decode([token]) for token in tokens]
    return Difference(
        uid=uid, a_text=texts[0], b_text=texts[1], index=index, a_token=words[0],
        b_token=words[1], a_logits=logits(rows[0]), b_logits=logits(rows[1]),
    )  # fmt: skip


def tokenizers_differ(a: Any, b: Any, asked: Sequence[Example]) -> str:
    """Return how two tokenizers differ, in their vocabularies or in these texts; "" if not."""
    ids_a, ids_b = a.get_vocab(), b.get_vocab()
    only_a, only_b = sorted(ids_a.keys() - ids_b.keys()), sorted(ids_b.keys() - ids_a.keys())
    moved = sorted(word for word in ids_a.keys() & ids_b.keys() if ids_a[word] != ids_b[word])
    found = [f"{len(words)} tokens {what} ({', '.join(map(repr, words[:3]))})"
             for words, what in ((only_a, "only the first has"), (only_b, "only the second has"),
                                 (moved, "have another id")) if words]  # fmt: skip
    if found:
        return ", ".join(found)
    for example in asked:
        for text in [turn["content"] for turn in example.messages] or [example.text]:
            x, y = (t(text, add_special_tokens=False)["input_ids"] for t in (a, b))
            if x != y:
                return (f"the same tokens, but the text of {example.uid} becomes {len(x)} of them "
                        f"in one and {len(y)} in the other")  # fmt: skip
    return ""


def prompts_differ(
    a: Any, b: Any, prompts_a: Sequence[Sequence[int]], prompts_b: Sequence[Sequence[int]],
    other_ids: bool,
) -> str:  # fmt: skip
    """Return where prompts first differ, "" if they do not; by text where ids are not the same."""
    for x, y in zip(prompts_a, prompts_b, strict=True):
        if x == y or (other_ids and a.decode(x) == b.decode(y)):
            continue
        i = next((i for i, (p, q) in enumerate(zip(x, y, strict=False)) if p != q),
                 min(len(x), len(y)))  # fmt: skip
        parts = [_cut(t.decode(ids[i : i + 12])) for t, ids in ((a, x), (b, y))]
        return (f"prompts of {len(x)} and {len(y)} tokens, which part at token {i}: "
                f"{parts[0]!r} and {parts[1]!r}")  # fmt: skip
    return ""


def ends(tokenizer: Any, ids: Sequence[int]) -> tuple[frozenset[str], str | None]:
    """Return the tokens that end an answer when it is generated, and the tokenizer's end token."""
    return frozenset(map(str, tokenizer.convert_ids_to_tokens(list(ids)))), tokenizer.eos_token


def ends_differ(a: tuple[frozenset[str], str | None], b: tuple[frozenset[str], str | None]) -> str:
    """Return how two models end their answers, given what `ends` says of each."""
    if a[0] == b[0]:
        return f"the tokenizer's end token is {a[1]} in one and {b[1]} in the other"
    first, second = (", ".join(sorted(side[0])) or "nothing" for side in (a, b))
    return f"{first} ends the answers of one, {second} those of the other, which goes on or stops"


def render(parity: Parity) -> str:
    """Return the comparison as text: for each pair the verdict, numbers, cause and differences."""
    lines = [f"{parity.n} questions of {parity.data}/{parity.split}, up to "
             f"{parity.max_new_tokens} tokens an answer"]  # fmt: skip
    for pair in parity.pairs:
        lines += ["", f"{pair.a} ({pair.types[0]}) and {pair.b} ({pair.types[1]}): "
                  + ("the same within the tolerance" if pair.same else "DIFFERENT")]  # fmt: skip
        if pair.largest_difference is not None:
            lines.append(f"  largest logit difference   {pair.largest_difference:.3g}, on the same "
                         "token ids")  # fmt: skip
        lines.append(f"  tolerance                  {pair.tolerance:.3g} ({pair.tolerance_from})")
        lines.append(f"  answers that differ        {len(pair.differences)} of {pair.n}")
        for number, cause in enumerate(sorted(pair.causes, key=lambda c: ORDER[c.name])):
            label = "also" if number else "likely cause"
            lines.append(f"  {label:<26} {cause.name}: {cause.detail}")
        for found in pair.differences[:MOST_SHOWN]:
            lines += _difference(found)
        if (more := len(pair.differences) - MOST_SHOWN) > 0:
            lines.append(f"  … and {more} more (--json has all)")
        lines += [f"  note: {note}" for note in pair.notes]
    return "\n".join(lines)


def _difference(found: Difference) -> list[str]:
    def candidate(token: str | None) -> str:
        return "(ended)" if token is None else repr(token)

    a, b = candidate(found.a_token), candidate(found.b_token)
    lines = [f"  {found.uid}: {_cut(found.a_text)!r} and {_cut(found.b_text)!r} part at token "
             f"{found.index}: {a} and {b}"]  # fmt: skip
    for which, logits in (("first", found.a_logits), ("second", found.b_logits)):
        if logits is not None:
            lines.append(f"    logits of the {which:<6} model: {a} {logits[0]:.3f}, "
                         f"{b} {logits[1]:.3f}")  # fmt: skip
    return lines


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"
