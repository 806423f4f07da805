"""Exercises of lesson 05: F1 over words, the KV cache's size, writing with it and without."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from labkit.checkpoints.exercises import Exercise, Student

# word_f1(answer, gold) -> F1 over words, each counted as often as it stands there


def reference_f1(answer: str, gold: str) -> float:
    """Return the harmonic mean of precision and recall of words (Rajpurkar et al. 2016)."""
    given, wanted = answer.lower().split(), gold.lower().split()
    common = sum(min(given.count(word), wanted.count(word)) for word in set(given))
    return 2 * common / (len(given) + len(wanted)) if common else 0.0


def _f1(*pairs: tuple[str, str]) -> Callable[[Student], bool]:
    return lambda student: all(abs(student(*p) - reference_f1(*p)) < 1e-9 for p in pairs)


WORD_F1 = Exercise(
    signature="word_f1(answer, gold)",
    parameters=2,
    properties=(
        ("the same words: 1", _f1(("rising costs", "rising costs"), ("3", "3"))),
        ("capital letters do not matter", _f1(("Rising Costs", "rising costs"))),
        ("no word in common: 0, and no error", _f1(("rising costs", "lower sales"), ("a", "b"))),
        (
            "half of the answer's words are right and all of the right ones are there",
            _f1(("the rising costs only", "rising costs")),
        ),
        (
            "every word of the answer is right and most are missing",
            _f1(("costs", "rising costs of raw materials")),
        ),
        (
            "a word counts as often as it stands in both",
            _f1(("new new new", "new plants new"), ("a b b c", "b a a")),
        ),
        ("an empty answer: 0", _f1(("", "rising costs"))),
    ),
)


# kv_cache_bytes(layers, kv_heads, head_dim, tokens, batch, bytes_per_number) -> int


def reference(
    layers: int, kv_heads: int, head_dim: int, tokens: int, batch: int, width: int
) -> int:
    """Return the bytes of all keys and all values."""
    return 2 * layers * kv_heads * head_dim * tokens * batch * width


def _same(student: Student, *numbers: int) -> bool:
    return student(*numbers) == reference(*numbers)


KV_CACHE = Exercise(
    signature="kv_cache_bytes(layers, kv_heads, head_dim, tokens, batch, bytes_per_number)",
    parameters=6,
    properties=(
        ("a token leaves a key and a value", lambda s: _same(s, 1, 1, 1, 1, 1, 1)),
        ("every layer keeps its own", lambda s: _same(s, 30, 1, 1, 1, 1, 1)),
        ("each head of keys and values has its numbers", lambda s: _same(s, 1, 3, 64, 1, 1, 1)),
        ("the cache grows with tokens and sequences", lambda s: _same(s, 1, 1, 1, 100, 7, 1)),
        ("a number takes its bytes", lambda s: _same(s, 2, 1, 1, 1, 1, 4)),
        ("Llama-3-8B at 8192 tokens", lambda s: _same(s, 32, 8, 128, 8192, 1, 2)),
    ),
)


# write(model, prompt, new_tokens, end) and write_with_cache, the same -> list of new token ids


@dataclass
class Watched:
    """A language model that a student's function may call, with a count of what it reads.

    `model(ids, cache)` takes a list of token ids and what the last call returned as its cache, or
    None, and returns the logits of the next token (a list of numbers) and a cache. Its next token
    depends on every token it was shown and on where each stands, so that one left out, read twice
    or in another order changes what is written.
    """

    vocabulary: int = 23
    reads: list[int] = field(default_factory=list)

    def __call__(self, ids: Sequence[int], cache: Any = None) -> tuple[list[float], Any]:
        """Read token ids after a cache; return the next token's logits and the new cache."""
        ids = [int(each) for each in ids]
        if not ids:
            raise ValueError("the model was given no tokens to read")
        if cache is not None and not isinstance(cache, _Cache):
            raise ValueError("the cache is what the model returned as its second result, or None")
        self.reads.append(len(ids))
        # A copy: a cache that is used twice gives the same, as tensors that are only read would.
        state, position = (cache.state, cache.position) if cache else (1, 0)
        for token in ids:
            position += 1
            state = (state * 31 + (token + 1) * (2 * position + 1)) % 1_000_003
        logits = [float((state * (7 + 2 * word) + word) % 1009) for word in range(self.vocabulary)]
        return logits, _Cache(state, position)


@dataclass(frozen=True)
class _Cache:
    state: int
    position: int


PROMPTS = ((3, 1, 4), (15, 9), (2, 6, 5, 3, 5, 8), (7,), tuple(range(20)))


def reference_write(prompt: Sequence[int], new_tokens: int, end: int) -> list[int]:
    """Return the greedy continuation, made by reading everything again for every token."""
    model = Watched()
    written: list[int] = []
    for _ in range(new_tokens):
        logits, _ = model([*prompt, *written])
        best = max(range(len(logits)), key=lambda word: logits[word])
        if best == end:
            break
        written.append(best)
    return written


def _writes(new_tokens: int, *, ends: bool) -> Callable[[Student], bool]:
    """Compare tokens; with `ends` some token that would be written is the one that ends."""

    def holds(student: Student) -> bool:
        for prompt in PROMPTS:
            end = -1
            if ends:
                end = reference_write(prompt, new_tokens, -1)[new_tokens // 2]
            found = student(Watched(), list(prompt), new_tokens, end)
            if [int(each) for each in found] != reference_write(prompt, new_tokens, end):
                return False
        return True

    return holds


def _prompt_is_left(student: Student) -> bool:
    prompt = [3, 1, 4]
    student(Watched(), prompt, 4, -1)
    return prompt == [3, 1, 4]


def _reads(student: Student, expected: Callable[[int, int], int]) -> bool:
    for prompt in PROMPTS:
        for new_tokens in (1, 2, 9):
            model = Watched()
            student(model, list(prompt), new_tokens, -1)
            if sum(model.reads) > expected(len(prompt), new_tokens):
                return False
    return True


SAME_TOKENS = (
    ("one new token: the most likely one", _writes(1, ends=False)),
    ("each further token depends on those before it", _writes(6, ends=False)),
    ("writing stops at the end token, which is not part of the answer", _writes(8, ends=True)),
    ("no new tokens: an empty list", lambda s: list(s(Watched(), [1, 2], 0, -1)) == []),
    ("the prompt stays as it is", _prompt_is_left),
)

WRITE = Exercise(
    signature="write(model, prompt, new_tokens, end)",
    parameters=4,
    properties=(
        *SAME_TOKENS,
        (
            "one call of the model for each token",
            lambda s: _reads(s, lambda p, n: n * p + n * (n - 1) // 2),
        ),
    ),
)

WRITE_WITH_CACHE = Exercise(
    signature="write_with_cache(model, prompt, new_tokens, end)",
    parameters=4,
    properties=(
        *SAME_TOKENS,
        (
            "the prompt is read once, and then one token a call",
            lambda s: _reads(s, lambda p, n: p + n - 1),
        ),
    ),
)

EXERCISES = {
    "word_f1": WORD_F1,
    "kv_cache_bytes": KV_CACHE,
    "write": WRITE,
    "write_with_cache": WRITE_WITH_CACHE,
}
