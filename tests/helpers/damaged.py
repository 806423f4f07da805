"""What a file that somebody else wrote may hold: any JSON, or a right one with places changed.

JSON of any shape seldom gets past a reader's first look. So most of the examples begin as a right
file, and a place or two anywhere in it is replaced, taken out, or given what stands elsewhere.
"""

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

fuzz = settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from([float("nan"), float("inf"), -1, 0, 2.5, 10**400, "", "none", "1", "\ud83d",
                       "a\nb", "a" * 3000, [], {}, [[]], [None], {"a": 1}])
)  # fmt: skip
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place below a value, as the list or mapping that holds it and where."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


@st.composite
def damaged(draw: st.DrawFn, right: Any, most: int = 2) -> Any:
    """Draw a copy of a right value in which up to `most` places are wrong."""
    value = copy.deepcopy(right)
    for _ in range(draw(st.integers(1, most))):
        here = list(places(value))
        if not here:
            return draw(ANYTHING)
        holder, key = here[draw(st.integers(0, len(here) - 1))]
        kind = draw(st.sampled_from(["other", "other", "gone", "moved"]))
        if kind == "gone":
            del holder[key]
        elif kind == "moved":
            there, other = here[draw(st.integers(0, len(here) - 1))]
            holder[key] = copy.deepcopy(there[other])
        else:
            holder[key] = draw(ANYTHING)
    return value


@st.composite
def written(draw: st.DrawFn, right: Any, most: int = 2) -> bytes:
    """Draw a file: mostly a damaged value, else any JSON, a cut off one, or another encoding."""
    value = draw(damaged(right, most) | damaged(right, most) | ANYTHING)
    text = json.dumps(value)
    content = text.encode(draw(st.sampled_from(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-32"])))
    if draw(st.integers(0, 9)) == 0:
        content = content[: draw(st.integers(0, len(content)))]
    return content


def one_sentence(error: Exception) -> None:
    """See that what a user is told is one line, of a bearable length, that can be printed."""
    said = str(error)
    assert len(said.splitlines()) == 1 and len(said) < 2000, said[:3000]
    said.encode()
