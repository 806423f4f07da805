"""Whatever a client sends: a request as the model may answer it, or one sentence."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from labkit.serve.limits import Limits, Refusal, checked
from labkit.serve.requests import REQUESTS

LIMITS = Limits(max_tokens=20)
WINDOW = 64
LONGEST_SENTENCE = 1000


class Letters:
    """A tokenizer of one token a byte, which only counts."""

    chat_template = "turns"

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": list(text.encode())}

    def apply_chat_template(self, turns: list[dict[str, str]], **_: Any) -> str:
        if any(turn["content"] == "no" for turn in turns):
            raise ValueError  # a template refuses without a word
        return "".join(turn["content"] for turn in turns)


SERVED: dict[str, Any] = {
    "base": SimpleNamespace(
        name="base", tokenizer=Letters(),
        model=SimpleNamespace(config=SimpleNamespace(max_position_embeddings=WINDOW)),
    )
}  # fmt: skip

fuzz = settings(
    max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
FIELDS = sorted({name for kind in REQUESTS.values() for name in kind.model_fields})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=6)
    | st.sampled_from(["user", "assistant", "system", "text", "none", "no", "\ud83d"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["role", "content", "type", "text", "name"]) | st.text(max_size=4),
        inner, max_size=4,
    ),
    max_leaves=8,
)  # fmt: skip
RIGHT: dict[str, Any] = {
    "model": "base", "messages": [{"role": "user", "content": "hello"}]}  # fmt: skip


def passed_or_refused(path: str, body: bytes) -> dict[str, Any] | None:
    """Check a body: what is passed on keeps the limits, what is refused says so in one line."""
    try:
        request = checked(path, body, models=SERVED, limits=LIMITS)
    except Refusal as refusal:
        said = str(refusal)
        assert refusal.status in (400, 404), said
        assert len(said.splitlines()) == 1 and len(said) < LONGEST_SENTENCE
        said.encode()
        return None
    assert request["model"] == "base" and 1 <= request["max_tokens"] <= LIMITS.max_tokens
    json.dumps(request, allow_nan=False)
    return request


@pytest.mark.parametrize("path", REQUESTS)
@fuzz
@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), VALUES, max_size=4))
@example({"a\nb": 1})
@example({"x" * 5000: 1})
@example({"messages": [{"role": "user", "content": "no"}]})
@example({"metadata": {"a": float("nan")}})
def test_any_value_of_any_field(path: str, values: dict[str, Any]) -> None:
    right = RIGHT if "chat" in path else {"model": "base", "prompt": "hello"}
    passed_or_refused(path, json.dumps({**right, **values}).encode())


NOTHING: list[dict[str, Any]] = [
    {"web_search_options": None}, {"guided_json": None, "extra_body": None}, {"seed": -1},
    {"max_tokens": -1}, {"verbosity": "medium"}, {"chat_template_kwargs": {}}, {"min_tokens": 0},
    {"ignore_eos": False, "use_beam_search": False}, {"length_penalty": 1},
    {"skip_special_tokens": True}, {"stream_options": {"include_usage": True}},
]  # fmt: skip


@pytest.mark.parametrize("more", NOTHING)
def test_what_means_nothing_is_dropped(more: dict[str, Any]) -> None:
    plain = passed_or_refused("/v1/chat/completions", json.dumps(RIGHT).encode())
    body = json.dumps({**RIGHT, **more}).encode()
    assert plain and passed_or_refused("/v1/chat/completions", body) == plain


SENT: dict[str, tuple[str, dict[str, Any]]] = {
    "vLLM's defaults for a chat": ("chat/completions", {
        "add_generation_prompt": True, "continue_final_message": False, "priority": 0,
        "add_special_tokens": False, "include_stop_str_in_output": False, "stop_token_ids": [],
        "spaces_between_special_tokens": True, "guided_choice": None, "documents": []}),
    "vLLM's defaults for a text": ("completions", {
        "add_special_tokens": True, "include_stop_str_in_output": False, "best_of": 1}),
    "llama.cpp's and Mistral's": ("chat/completions", {
        "repeat_penalty": 1.0, "typical_p": 1, "mirostat": 0, "cache_prompt": True,
        "safe_prompt": False, "max_completion_tokens": -1}),
    "a framework's text": ("completions", {
        "prompt": ["hello"], "n": 1, "best_of": 1, "logit_bias": {}, "presence_penalty": 0,
        "logprobs": None, "extra_body": {}, "extra_headers": {}, "seed": None}),
    "a chat program's notes": ("chat/completions", {"messages": [
        {"role": "user", "content": "hello", "id": 1947, "opts": {"visible": False},
         "timestamp": 1.7e9, "sender": "Agent", "tool_call_id": None, "prefix": False}]}),
    "an item of the later API": ("chat/completions", {"messages": [
        {"type": "message", "id": "msg_1", "status": "completed", "role": "user",
         "content": [{"type": "input_text", "text": "hello"}]}]}),
}  # fmt: skip


@pytest.mark.parametrize("client", SENT)
def test_what_a_client_sends_beside_its_question_is_dropped(client: str) -> None:
    path, more = SENT[client]
    right = RIGHT if "chat" in path else {"model": "base", "prompt": "hello"}
    plain = passed_or_refused(f"/v1/{path}", json.dumps(right).encode())
    body = json.dumps({**right, **more}).encode()
    assert plain and passed_or_refused(f"/v1/{path}", body) == plain


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "seed"])
def test_a_whole_number_may_have_a_point(name: str) -> None:
    path = "/v1/chat/completions"
    bodies = [json.dumps({**RIGHT, name: value}).encode() for value in (3, 3.0)]
    assert passed_or_refused(path, bodies[0]) == passed_or_refused(path, bodies[1]) is not None
    with pytest.raises(Refusal, match=f"^{name}"):
        checked(path, json.dumps({**RIGHT, name: 3.5}).encode(), models=SERVED, limits=LIMITS)


HELD: list[dict[str, Any]] = [
    {"content": "x", "refusal": None, "annotations": [], "audio": None, "reasoning": None},
    {"content": "x", "reasoning": "hm", "images": None, "tool_calls": None},
    {"content": [{"type": "output_text", "text": "x", "annotations": []}]},
]


@pytest.mark.parametrize("held", HELD)
def test_an_answer_is_sent_back_as_a_client_holds_it(held: dict[str, Any]) -> None:
    def ask(answer: dict[str, Any]) -> Any:
        turns = [*RIGHT["messages"], {"role": "assistant", **answer}, *RIGHT["messages"]]
        return passed_or_refused("/v1/chat/completions",
                                 json.dumps({**RIGHT, "messages": turns}).encode())  # fmt: skip

    assert ask(held) == ask({"content": "x"}) is not None


@pytest.mark.parametrize(
    ("path", "more"),
    [("chat/completions", {"seed": -2}), ("chat/completions", {"max_tokens": 0}),
     ("chat/completions", {"verbosity": "low"}), ("chat/completions", {"min_tokens": 3}),
     ("chat/completions", {"ignore_eos": True}), ("chat/completions", {"length_penalty": 2.0}),
     ("chat/completions", {"chat_template_kwargs": {"enable_thinking": False}}),
     ("chat/completions", {"model": None}), ("chat/completions", {"messages": None}),
     ("completions", {"logprobs": 1}), ("completions", {"echo": True}),
     ("completions", {"prompt": None}), ("completions", {"logprobs": 0}),
     ("chat/completions", {"include_stop_str_in_output": True}),
     ("chat/completions", {"stop_token_ids": [7]}), ("chat/completions", {"typical_p": 0.9}),
     ("chat/completions", {"continue_final_message": True}),
     ("completions", {"add_special_tokens": False}), ("completions", {"extra_body": {"a": 1}})],
)  # fmt: skip
def test_what_would_change_the_answer_is_refused_by_name(path: str, more: dict[str, Any]) -> None:
    right = RIGHT if "chat" in path else {"model": "base", "prompt": "hello"}
    (name,) = more
    with pytest.raises(Refusal, match=f"^{name}"):
        checked(f"/v1/{path}", json.dumps({**right, **more}).encode(), models=SERVED,
                limits=LIMITS)  # fmt: skip


@pytest.mark.parametrize("more", [
    {"prefix": True}, {"images": ["a"]}, {"type": "reasoning"}, {"tool_call_id": "call_1"},
    {"tool_calls": [{"id": "call_1"}]}, {"documents": ["a"]},
])  # fmt: skip
def test_what_a_message_means_by_more_than_its_text_is_refused(more: dict[str, Any]) -> None:
    turns = [{"role": "user", "content": "hello", **more}]
    (name,) = more
    with pytest.raises(Refusal, match=rf"^messages\.0\.{name}"):
        checked("/v1/chat/completions", json.dumps({**RIGHT, "messages": turns}).encode(),
                models=SERVED, limits=LIMITS)  # fmt: skip


@pytest.mark.parametrize("path", REQUESTS)
@fuzz
@given(VALUES)
def test_json_of_any_shape(path: str, value: Any) -> None:
    assert passed_or_refused(path, json.dumps(value).encode()) is None


@fuzz
@given(
    st.integers(0, 90), st.binary(max_size=8),
    st.sampled_from(["utf-8", "utf-16", "utf-32", "utf-8-sig"]),
)  # fmt: skip
def test_a_body_cut_damaged_and_in_another_encoding(cut: int, put: bytes, encoding: str) -> None:
    whole = json.dumps(RIGHT).encode(encoding)
    assert passed_or_refused("/v1/chat/completions", whole) is not None
    passed_or_refused("/v1/chat/completions", whole[:cut] + put + whole[cut:])
    passed_or_refused("/v1/chat/completions", whole[:cut] + put)


@pytest.mark.parametrize("depth", [900, 960, 980, 990, 1000, 20_000])
def test_brackets_in_brackets(depth: int) -> None:
    body = b'{"model": "base", "prompt": ' + b"[" * depth + b"]" * depth + b"}"
    assert passed_or_refused("/v1/completions", body) is None
    body = b'{"model": "base", "prompt": "a", "x": ' + b'{"a":' * depth + b"1" + b"}" * (depth + 1)
    assert passed_or_refused("/v1/completions", body) is None
