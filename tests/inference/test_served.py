"""Answers of servers that others wrote: understood, or one sentence."""

from typing import Any

import pytest
from damaged import damaged, fuzz, one_sentence
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import LabkitError
from labkit.inference import served

ANSWERED: dict[str, Any] = {
    "id": "1", "object": "chat.completion", "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "text": "12",
                 "message": {"role": "assistant", "content": "12"}}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 1},
}  # fmt: skip


@fuzz
@given(reply=damaged(ANSWERED), listed=damaged({"data": [{"id": "m"}, {"id": "n"}]}),
       chat=st.booleans())  # fmt: skip
def test_any_reply_is_an_answer_or_one_sentence(reply: Any, listed: Any, chat: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(served, "_request",
                      lambda url, body=None: listed if body is None else reply)  # fmt: skip
        behind = served.Served(url="http://host/v1", model="m")
        try:
            said = (behind.chat([], max_new_tokens=3) if chat else
                    behind.complete("a", max_new_tokens=3))  # fmt: skip
            assert isinstance(said.text, str) and said.ended in (True, False, None)
            assert said.prompt_tokens is None or said.prompt_tokens > 0
        except LabkitError as error:
            one_sentence(error)
        try:
            assert served.find("http://host/v1#m").model == "m"
        except LabkitError as error:
            one_sentence(error)
