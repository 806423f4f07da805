"""Exercises of lesson 05: the size of the KV cache."""

from labkit.checkpoints.exercises import Exercise, Student

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

EXERCISES = {"kv_cache_bytes": KV_CACHE}
