"""Read the fields of a request: those understood, those ignored, those refused by name.

Clients send many fields always, with the value that means "nothing of that": `tools: []`,
`logprobs: false`, `response_format: {"type": "text"}`, and null for whatever their library knows
(it was not given). So are a field that is unknown here and empty, and what a chat program notes
beside a message for itself, its number or the time. Those are accepted and dropped. With any
other value they would change the answer, so they are refused with their name: an answer that
silently ignores what was asked for is a wrong one.
"""

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError


def _stops(value: Any) -> Any:
    """Return stop strings as a list, or None: an empty one would end every answer at once."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        return [text for text in value if text != ""] or None
    return value


def _one_text(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _joined(value: Any) -> Any:
    """Return content as one text, as the model reads it; parts of anything but text stay."""
    parts = value if isinstance(value, list) else []
    texts: list[Any] = [
        part.get("text")
        for part in parts
        if isinstance(part, dict)
        and part.get("type", "text") in ("text", "input_text", "output_text")
        and {key for key in part if part[key]} <= {"type", "text", "cache_control"}
    ]
    whole = parts and len(texts) == len(parts) and all(isinstance(text, str) for text in texts)
    return " ".join(texts) if whole else value


def _not_true(value: Any) -> Any:
    if value is not False:
        raise PydanticCustomError("not_here", "this server does not do that: send false or nothing")
    return value


_False = Annotated[bool, BeforeValidator(_not_true)]
"""False, and not 0: of completions a count of 0 log-probabilities asks for one."""


def _count(value: Any) -> Any:
    """Return 20 for 20.0, which JSON does not tell apart, and None for -1: no such limit."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value == -1 and isinstance(value, int) else value


_Count = Annotated[int | None, BeforeValidator(_count)]


def _given(values: Any, known: Collection[str]) -> Any:
    """Return an object without what is null in it, which was not given, or unknown and empty."""
    if not isinstance(values, dict):
        return values
    return {key: value for key, value in values.items()
            if value is not None and (key in known or value not in ([], {}))}  # fmt: skip


def _dropped(**limits: Any) -> Any:
    """Return a field that is accepted with values that change nothing, and passed to nobody."""
    return Field(None, exclude=True, **limits)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


_NOTES = {"id", "status", "timestamp", "created_at", "createdAt", "sender", "opts"}
"""What chat programs keep beside a message for themselves."""


class _Format(_Strict):
    type: Literal["text"]


class _Message(_Strict):
    role: Annotated[
        Literal["system", "user", "assistant"],
        BeforeValidator(lambda role: "system" if role == "developer" else role),
    ]
    content: Annotated[str, BeforeValidator(_joined)]
    name: str | None = None
    type: Literal["message", "text"] | None = _dropped()
    prefix: _False | None = _dropped()
    # What OpenAI's client holds of an answer, and programs send back as it is.
    refusal: None = _dropped()
    audio: None = _dropped()
    function_call: None = _dropped()
    reasoning_content: str | None = _dropped()
    reasoning: str | None = _dropped()
    tool_calls: list | None = _dropped(max_length=0)
    annotations: list | None = _dropped(max_length=0)

    @model_validator(mode="before")
    @classmethod
    def _silent_assistant(cls, values: Any) -> Any:
        """Read an assistant's content of null as what it said: nothing."""
        silent = isinstance(values, dict) and values.get("content") in (None, [])
        if silent and values.get("role") == "assistant":
            values = {**values, "content": ""}
        if isinstance(values, dict):
            values = {key: value for key, value in values.items() if key not in _NOTES}
        return _given(values, cls.model_fields)


class Request(_Strict):
    """The fields that both endpoints know."""

    model: str
    max_tokens: _Count = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    frequency_penalty: float | None = Field(None, ge=0, le=2)
    stop: Annotated[list[str] | None, BeforeValidator(_stops)] = None
    seed: _Count = Field(None, ge=0, lt=2**63)
    stream: bool | None = None

    stream_options: dict | None = _dropped()
    user: str | None = _dropped()
    metadata: dict | None = _dropped()
    store: bool | None = _dropped()
    service_tier: str | None = _dropped()
    safety_identifier: str | None = _dropped()
    prompt_cache_key: str | None = _dropped()
    n: Literal[1] | None = _dropped()
    presence_penalty: float | None = _dropped(ge=0, le=0)
    repetition_penalty: float | None = _dropped(ge=1, le=1)
    logit_bias: dict | None = _dropped(max_length=0)
    top_k: Literal[-1, 0] | None = _dropped()
    min_p: float | None = _dropped(ge=0, le=0)
    min_tokens: Literal[0] | None = _dropped()
    length_penalty: float | None = _dropped(ge=1, le=1)
    ignore_eos: _False | None = _dropped()
    use_beam_search: _False | None = _dropped()
    skip_special_tokens: Literal[True] | None = _dropped()
    spaces_between_special_tokens: Literal[True] | None = _dropped()
    include_stop_str_in_output: _False | None = _dropped()
    priority: Literal[0] | None = _dropped()
    repeat_penalty: float | None = _dropped(ge=1, le=1)
    typical_p: float | None = _dropped(ge=1, le=1)
    mirostat: Literal[0] | None = _dropped()
    cache_prompt: bool | None = _dropped()
    safe_prompt: _False | None = _dropped()

    @model_validator(mode="before")
    @classmethod
    def _what_was_given(cls, values: Any) -> Any:
        """Read null as not given, whatever the field."""
        return _given(values, cls.model_fields)


class ChatRequest(Request):
    """What `/v1/chat/completions` understands."""

    messages: list[_Message] = Field(min_length=1)
    max_completion_tokens: _Count = Field(None, ge=1)

    logprobs: _False | None = _dropped()
    top_logprobs: Literal[0] | None = _dropped()
    response_format: _Format | None = _dropped()
    tools: list | None = _dropped(max_length=0)
    functions: list | None = _dropped(max_length=0)
    tool_choice: Literal["none", "auto"] | None = _dropped()
    function_call: Literal["none", "auto"] | None = _dropped()
    parallel_tool_calls: bool | None = _dropped()
    reasoning_effort: Literal["none"] | None = _dropped()
    verbosity: Literal["medium"] | None = _dropped()
    chat_template_kwargs: dict | None = _dropped(max_length=0)
    modalities: list[Literal["text"]] | None = _dropped()
    audio: None = _dropped()
    prediction: None = _dropped()
    add_generation_prompt: Literal[True] | None = _dropped()
    continue_final_message: _False | None = _dropped()
    add_special_tokens: _False | None = _dropped()


class CompletionRequest(Request):
    """What `/v1/completions` understands."""

    prompt: Annotated[str, BeforeValidator(_one_text), Field(min_length=1)]

    logprobs: _False | None = _dropped()
    echo: _False | None = _dropped()
    suffix: Literal[""] | None = _dropped()
    best_of: Literal[1] | None = _dropped()
    add_special_tokens: Literal[True] | None = _dropped()


REQUESTS: dict[str, type[Request]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
}


def refusal(error: ValidationError) -> str:
    """Return the first thing that is wrong with a request, as one sentence that names the field."""
    first = error.errors(include_url=False)[0]
    where = ".".join(_plain(str(part)) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{where} is not a field that this server knows: leave it out"
    return f"{where}: {_plain(first['msg'], most=300)}"


def _plain(text: str, *, most: int = 80) -> str:
    """Return a client's own words on one line, cut where they are long."""
    text = "".join(c if c.isprintable() else " " for c in text[: most + 1])
    return text if len(text) <= most else f"{text[:most]}…"
