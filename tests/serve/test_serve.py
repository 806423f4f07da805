"""The server on a tiny model: the answers of `generate`, in batches; limits; a clean end."""

import ast
import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from peft import LoraConfig, get_peft_model

from labkit.errors import LabkitError
from labkit.inference.generate import Generator, load_generator
from labkit.models import load
from labkit.serve import batching, limits, server
from labkit.serve.limits import Guard, Limits, Prefix

LIMITS = Limits(max_tokens=200, max_body_bytes=20_000, max_requests=60, max_batch=16)
QUESTIONS = [f"Say {word} {n} times." for n, word in enumerate(["yes", "no", "maybe"] * 17)][:50]


@pytest.fixture(scope="module")
def adapter(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a LoRA adapter that changes the model: B is not zero."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("models") / "tuned"
    settings = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(load.load_model(tiny_llama, dtype="float32"), settings)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tiny_llama: Path, adapter: Path) -> dict[str, Generator]:
    """Return a base model and its adapter as the server holds them, exact enough to compare."""
    return {
        "base": load_generator(str(tiny_llama), dtype="float32"),
        "tuned": load_generator(str(adapter), dtype="float32"),
    }


class Running:
    """A server on a thread of this process, with what a test wants to look into."""

    def __init__(self, models: dict[str, Generator]) -> None:
        self.app, self.batchers = server.build_app(models, LIMITS)
        self.guard = Guard(self.app, models=models, limits=LIMITS)
        self.listener = server.open_port("127.0.0.1", 0)
        self.url = server.url_of(self.listener)
        ready = threading.Event()
        self.server = server.Server(Prefix(self.guard), self.batchers, on_ready=ready.set)
        self.thread = threading.Thread(target=self.server.run, args=([self.listener],))
        self.thread.start()
        assert ready.wait(30)

    def end(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        self.batchers.shutdown()
        self.listener.close()


@pytest.fixture(scope="module")
def running(models: dict[str, Generator]) -> Iterator[Running]:
    started = Running(models)
    yield started
    started.end()


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def reference(served: Generator, question: str, max_new_tokens: int) -> str:
    """Return what transformers' own `generate` answers to one question, alone."""
    ids = served.tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    out = served.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens,
        do_sample=False, pad_token_id=served.tokenizer.pad_token_id,
    )  # fmt: skip
    return served.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def ask(client: openai.OpenAI, question: str, model: str = "base", **settings: Any) -> Any:
    return client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}],
        **{"max_tokens": 12, **settings},
    )  # fmt: skip


def text_of(answer: Any) -> str:
    return answer.choices[0].message.content


# --- answers -------------------------------------------------------------------------------


def test_base_and_adapter_answer_side_by_side_as_generate_does(client, models):
    answers = {}
    for name, served in models.items():
        answers[name] = text_of(ask(client, "Who are you?", name))
        assert answers[name] == reference(served, "Who are you?", 12)
    assert answers["base"] != answers["tuned"]
    assert [m.id for m in client.models.list()] == ["base", "tuned"]


def test_a_streamed_answer_comes_in_pieces_and_is_the_same(client, models):
    chunks = list(ask(client, "Who are you?", "tuned", stream=True))
    pieces = [c.choices[0].delta.content for c in chunks if c.choices[0].delta.content]
    assert len(pieces) > 3
    assert "".join(pieces) == reference(models["tuned"], "Who are you?", 12)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert chunks[-1].usage.completion_tokens == 12


def test_text_is_completed_without_a_template(client, models):
    served = models["base"]
    answer = client.completions.create(model="base", prompt="Once upon", max_tokens=8)
    ids = served.tokenizer("Once upon", return_tensors="pt")["input_ids"]
    out = served.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids),
                                max_new_tokens=8, do_sample=False, pad_token_id=0)  # fmt: skip
    expected = served.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    assert answer.choices[0].text == expected


def test_fifty_at_once_share_batches_and_get_the_answer_each_gets_alone(
    client, models, monkeypatch
):
    sizes: list[int] = []
    original = batching._generate

    def counted(jobs, stopping):
        sizes.append(len(jobs))
        original(jobs, stopping)

    monkeypatch.setattr(batching, "_generate", counted)
    lengths = [3 + i % 7 for i in range(50)]

    def one(i: int) -> tuple[str, int]:
        if i % 2:
            answer = ask(client, QUESTIONS[i], max_tokens=lengths[i])
            return text_of(answer), answer.usage.completion_tokens
        chunks = list(ask(client, QUESTIONS[i], max_tokens=lengths[i], stream=True))
        return "".join(c.choices[0].delta.content or "" for c in chunks), chunks[
            -1
        ].usage.completion_tokens

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(one, range(50)))
    assert sum(sizes) == 50 and max(sizes) > 1 and max(sizes) <= LIMITS.max_batch
    for i, (text, tokens) in enumerate(answers):
        assert text == reference(models["base"], QUESTIONS[i], lengths[i])
        assert tokens == lengths[i]


def test_a_temperature_samples_and_a_seed_repeats(client):
    def sampled(seed: int | None) -> str:
        return text_of(ask(client, "Go.", temperature=1.0, max_tokens=40, seed=seed))

    with ThreadPoolExecutor(6) as pool:
        one, two, one_again, *free = pool.map(sampled, [1, 2, 1, None, None, None])
    assert one == one_again and one != two
    assert len(set(free)) == 3


def test_a_seed_repeats_whatever_others_do_to_the_shared_generator(client):
    over = threading.Event()

    def disturb() -> None:
        while not over.wait(0.001):
            torch.manual_seed(0)

    def sampled() -> str:
        return text_of(ask(client, "Go.", temperature=1.0, max_tokens=40, seed=1))

    undisturbed = sampled()
    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        assert [sampled() for _ in range(3)] == [undisturbed] * 3
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("stream", [True, False])
def test_a_reader_who_leaves_is_not_written_for(running, monkeypatch, stream):
    written: list[int] = []
    original = batching.Job.take

    def counted(job, token, end_tokens):
        written.append(token)
        time.sleep(0.01)
        original(job, token, end_tokens)

    monkeypatch.setattr(batching.Job, "take", counted)
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as leaving:
        if stream:
            with ask(leaving, "Tell me all.", stream=True, max_tokens=200) as pieces:
                next(iter(pieces))
        else:
            with pytest.raises(openai.APITimeoutError):
                ask(leaving, "Tell me all.", max_tokens=200, timeout=0.4)
    end = time.monotonic() + 30
    while running.guard.at_once and time.monotonic() < end:
        time.sleep(0.02)
    seen = len(written)
    time.sleep(0.3)
    assert running.guard.at_once == 0 and 0 < len(written) <= seen + 1 < 200


def test_a_stream_is_said_to_end_and_what_went_wrong_is_json(running, monkeypatch):
    body = {"model": "base", "messages": [{"role": "user", "content": "Hi"}], "stream": True,
            "max_tokens": 3}  # fmt: skip

    def events() -> list[str]:
        text = httpx.post(f"{running.url}/v1/chat/completions", json=body, timeout=60).text
        return [line.removeprefix("data: ") for line in text.splitlines() if line]

    *pieces, last = events()
    assert last == "[DONE]" and len(pieces) > 3 and all(map(json.loads, pieces))

    def broken(jobs, stopping):
        raise RuntimeError('no "memory"\nleft')

    monkeypatch.setattr(batching, "_generate", broken)
    *_, told, last = events()
    assert 'no "memory"\nleft' in json.loads(told)["error"] and last == "[DONE]"


def test_a_batch_that_fails_is_told_and_the_next_is_answered(client, models, monkeypatch):
    def broken(jobs, stopping):
        raise RuntimeError("no memory left")

    with monkeypatch.context() as patch:
        patch.setattr(batching, "_generate", broken)
        with pytest.raises(openai.InternalServerError, match="could not be generated.*no memory"):
            ask(client, "Hi")
        with pytest.raises(openai.APIError):
            list(ask(client, "Hi", stream=True))
    assert text_of(ask(client, "Hi")) == reference(models["base"], "Hi", 12)


# --- refusals ------------------------------------------------------------------------------

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (404, {"model": "basse"}, "'basse' is not served here: did you mean 'base'?"),
        (404, {"model": "../secret"}, "is not served here"),
        (400, {"model": None}, "model: Field required"),
        (400, {"messages": []}, "messages: List should have at least 1 item"),
        (400, {"messages": "Hello"}, "messages: Input should be a valid list"),
        (400, {"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        (400, {"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
        (400, {"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        (400, {"max_tokens": "many"}, "max_tokens: Input should be a valid integer"),
        (400, {"max_tokens": 201}, "201 tokens are more than one answer may have here"),
        (400, {"max_completion_tokens": 10**9}, "ask for at most 200"),
        (400, {"temperature": -1}, "temperature: Input should be greater than or equal to 0"),
        (400, {"temperature": 2.5}, "temperature"),
        (400, {"top_p": 0}, "top_p"),
        (400, {"n": 3}, "n: Input should be 1"),
        (400, {"tools": [{"type": "function"}]}, "tools: List should have at most 0 items"),
        (400, {"response_format": {"type": "json_object"}}, "response_format.type: Input should"),
        (400, {"logit_bias": {"1": 5}}, "logit_bias: Dictionary should have at most 0 items"),
        (400, {"logprobs": True}, "logprobs: this server does not do that"),
        (400, {"top_k": 5}, "top_k: Input should be -1 or 0"),
        (400, {"stop": [3]}, "stop.0: Input should be a valid string"),
        (400, {"guided_regex": "a+"}, "guided_regex is not a field that this server knows"),
        (400, {"echo": False}, "echo is not a field"),
        (400, {"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        (400, {"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        (400, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "0.content"),
        (400, {"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]},
         "messages.0.tool_calls: List should have at most 0 items"),
        (400, {"generation_config": '{"max_new_tokens": 99999}'}, "generation_config is not"),
        (400, {"messages": [{"role": "user", "content": "word " * 900}]}, "but the model reads"),
        (413, {"messages": [{"role": "user", "content": "x" * 30_000}]}, "larger than 20000 bytes"),
    ],
)  # fmt: skip
def test_what_is_too_much_or_malformed_is_one_sentence(running, status, body, says):
    request = {"model": "base", "messages": HELLO, "max_tokens": 1, **body}
    assert_refused(running, status, says, json=request)


@pytest.mark.parametrize(
    ("status", "content", "says"),
    [
        (400, b"", "not JSON"),
        (400, b'{"model": "base", ', "not JSON"),
        (400, b"[1, 2]", "not a JSON object"),
        (400, b"\xff\xfe", "not JSON"),
        (400, b"[" * 15_000, "not JSON"),
        (400, b"{}", "model: Field required"),
    ],
)
def test_a_body_that_is_no_request(running, status, content, says):
    assert_refused(running, status, says, content=content,
                   headers={"Content-Type": "application/json"})  # fmt: skip


NOTHING = {
    "logprobs": False, "top_logprobs": 0, "tools": [], "tool_choice": "none", "functions": [],
    "response_format": {"type": "text"}, "logit_bias": {}, "parallel_tool_calls": True, "n": 1,
    "presence_penalty": 0, "stop": [], "store": False, "metadata": {}, "top_k": -1, "min_p": 0.0,
    "modalities": ["text"], "service_tier": "auto", "repetition_penalty": 1, "user": "me",
    "reasoning_effort": None, "audio": None, "stream_options": None, "seed": None,
}  # fmt: skip
TURNS = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Who"}, {"text": "are you?"}]},
    {"role": "assistant", "content": None, "refusal": None, "tool_calls": None, "annotations": []},
    {"role": "user", "content": [{"type": "input_text", "text": "Again."}]},
]
PLAIN = [
    {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"},
    {"role": "assistant", "content": ""}, {"role": "user", "content": "Again."},
]  # fmt: skip


def post(running: Running, path: str, **body: Any) -> Any:
    request = {"model": "base", "max_tokens": 10, **body}
    answer = httpx.post(f"{running.url}/v1/{path}", json=request, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def test_what_clients_always_send_and_means_nothing_changes_nothing(running):
    expected = post(running, "chat/completions", messages=PLAIN)
    assert post(running, "chat/completions", messages=TURNS, **NOTHING) == expected
    for field, value in NOTHING.items():
        assert post(running, "chat/completions", messages=PLAIN, **{field: value}) == expected
    text = post(running, "completions", prompt="Once upon")
    assert text == post(running, "completions", prompt=["Once upon"], suffix=None, echo=False,
                        best_of=1, stop="", logprobs=None, logit_bias={}, n=1)  # fmt: skip


@pytest.mark.parametrize("body", [
    {"prompt": ["a", "b"]}, {"prompt": [1, 2]}, {"prompt": []}, {"prompt": "a", "suffix": "end"},
    {"prompt": "a", "echo": True}, {"prompt": "a", "logprobs": 0}, {"prompt": "a", "best_of": 2},
    {"prompt": "half \ud83d"},
])  # fmt: skip
def test_completions_refuse_what_would_be_ignored(running, body):
    content, kind = json.dumps({"model": "base", **body}), {"Content-Type": "application/json"}
    answer = httpx.post(f"{running.url}/v1/completions", content=content, headers=kind, timeout=30)
    named = [name for name in body if name in answer.json()["error"]["message"]]
    assert answer.status_code == 400
    assert named or "half a character" in answer.json()["error"]["message"]


def stop_words(text: str) -> list[Any]:
    """Stop strings that lie within a text: at a token's edges and across them."""
    return [text[3:6], [text[5:6]], ["nowhere", text[4:9], ""], [text[2:4], text[6:9]]]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_the_text_ends_before_a_stop_string(running, client, path, stream):
    asked = {"messages": HELLO} if path.startswith("chat") else {"prompt": "Once upon"}
    whole = post(running, path, max_tokens=16, **asked)
    text = whole["message"]["content"] if path.startswith("chat") else whole["text"]
    call = client.chat.completions if path.startswith("chat") else client.completions
    for stop in [*stop_words(text), "never in there", [], "", [""]]:
        strings = [s for s in ([stop] if isinstance(stop, str) else stop) if s]
        expected = text[: min((text.find(s) for s in strings if s in text), default=len(text))]
        answer = call.create(model="base", max_tokens=16, stop=stop, stream=stream, **asked)
        choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
        if path.startswith("completions"):
            found = "".join(choice.text for choice in choices)
        elif stream:
            found = "".join(choice.delta.content or "" for choice in choices)
        else:
            found = choices[0].message.content
        assert found == expected, stop
        assert choices[-1].finish_reason == ("stop" if expected != text else
                                             whole["finish_reason"])  # fmt: skip


@pytest.mark.parametrize("cuts", [[1] * 12, [3, 3, 3, 3], [12], [5, 1, 6]])
@pytest.mark.parametrize("stops", [["cde"], ["fgh", "ef"], ["l"], ["xyz"], ["klm"], ["a"], []])
def test_no_piece_of_a_stop_string_is_sent_before_it_is_known(cuts, stops):
    text, at = "abcdefghijkl", 0
    cut = batching.StopText(stops)
    sent = ""
    for size in cuts:
        sent += cut.feed(text[at : at + size])
        at += size
        assert not any(stop in sent for stop in stops)
    places = [text.find(stop) for stop in stops if stop in text]
    assert sent + cut.rest() == (text[: min(places)] if places else text)
    assert cut.found is bool(places)


def test_a_body_of_unknown_length_is_counted_as_it_comes(running):
    pieces = (b"x" * 1000 for _ in range(50))
    assert_refused(running, 413, "larger than 20000 bytes", content=pieces,
                   headers={"Content-Type": "application/json"})  # fmt: skip


def test_a_client_that_sends_everything_first_still_hears_the_refusal(running):
    """The connection must not close while it sends: it would see a broken pipe, and no reason."""
    messages = [{"role": "user", "content": "a " * 4_000_000}]
    body = json.dumps({"model": "base", "messages": messages})
    host = running.url.removeprefix("http://").split("/")[0]
    connection = http.client.HTTPConnection(host, timeout=30)
    headers = {"Content-Type": "application/json", "Connection": "close"}  # as urllib says
    connection.request("POST", "/v1/chat/completions", body, headers)
    answer = connection.getresponse()
    assert answer.status == 413
    assert "larger than 20000 bytes" in json.loads(answer.read())["error"]["message"]


@pytest.mark.parametrize(
    ("prefix", "end"),
    [("/a", ""), ("/v1", ""), ("/user/ana/proxy/7860", ""), ("", "%0A"), ("/a", "%0a")],
)
def test_no_path_leads_past_the_key_and_the_limits(running, monkeypatch, prefix, end):
    """The app routes by what follows a root path, which a client can name, and before a line."""
    url = running.url.removesuffix("/v1") + prefix + "/v1/chat/completions" + end
    body = {"model": "base", "messages": HELLO}
    named = {"X-Forwarded-Prefix": prefix}
    too_long = {**body, "max_tokens": LIMITS.max_tokens + 1}
    answer = httpx.post(url, json=too_long, headers=named, timeout=60)
    assert answer.status_code == 400 and "tokens are more than one answer" in answer.text
    monkeypatch.setattr(running.guard, "key", b"secret")
    assert httpx.post(url, json=body, headers=named, timeout=60).status_code == 401
    with_key = {**named, "Authorization": "Bearer secret"}
    assert httpx.post(url, json=body, headers=with_key, timeout=60).status_code == 200


def test_a_foreign_page_cannot_post(running):
    """Without a type that needs the server's consent, a browser would send it from anywhere."""
    body = json.dumps({"model": "base", "messages": HELLO})
    assert_refused(running, 415, "application/json", content=body,
                   headers={"Content-Type": "text/plain"})  # fmt: skip
    answer = httpx.options(f"{running.url}/v1/chat/completions", headers={
        "Origin": "http://elsewhere", "Access-Control-Request-Method": "POST"})  # fmt: skip
    assert answer.status_code == 405 and "access-control-allow-origin" not in answer.headers


def test_more_requests_than_the_limit_are_sent_away(running, client, monkeypatch):
    monkeypatch.setattr(running.guard, "at_once", LIMITS.max_requests)
    with pytest.raises(openai.RateLimitError, match="try again in a moment") as caught:
        ask(client, "Hi")
    assert caught.value.response.headers["retry-after"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/reset"), ("POST", "/load_model"), ("GET", "/docs"), ("POST", "/v1/responses"),
     ("POST", "/v1/audio/transcriptions"), ("GET", "/openapi.json"),
     ("GET", "/v1/chat/completions")],
)  # fmt: skip
def test_what_loads_unloads_or_documents_is_not_there(running, method, path):
    answer = httpx.request(method, running.url + path, json={} if method == "POST" else None)
    assert answer.status_code in (404, 405)
    assert "this server has /v1/chat/completions" in answer.json()["error"]["message"]


def assert_refused(running: Running, status: int, says: str, **request: Any) -> None:
    answer = httpx.post(f"{running.url}/v1/chat/completions", **request, timeout=30)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (status, "invalid_request_error")
    assert says in error["message"] and "\n" not in error["message"]


def test_a_model_without_a_template_is_not_asked_for_a_chat(models):
    import dataclasses

    bare = load.load_tokenizer(models["base"].tokenizer.name_or_path)
    bare.chat_template = None
    served = {"bare": dataclasses.replace(models["base"], name="bare", tokenizer=bare)}
    body = json.dumps({"model": "bare", "messages": HELLO}).encode()
    with pytest.raises(limits.Refusal, match="no chat template: use /v1/completions"):
        limits.checked("/v1/chat/completions", body, models=served, limits=LIMITS)


# --- start and end -------------------------------------------------------------------------


def free_again(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) != 0


@pytest.mark.parametrize(
    ("host", "port", "says"),
    [
        ("127.0.0.1", 70_000, "--port 70000 is not a port"),
        ("127.0.0.1", -1, "--port -1 is not a port"),
        ("no.such.host.invalid", 0, "is not an address"),
        ("192.0.2.1", 0, "is not an address of this machine"),
    ],
)
def test_an_address_that_cannot_be_had_is_one_sentence(host, port, says):
    with pytest.raises(LabkitError, match=says):
        server.run(["tiny-llama"], host=host, port=port)


def test_a_port_in_use_is_one_sentence_before_a_model_is_looked_for():
    with server.open_port("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LabkitError, match=f"port {port} of 127.0.0.1 is in use"):
            server.run(["no-such-model"], port=port)


def test_a_model_that_cannot_be_served_is_one_sentence_and_frees_the_port(
    tiny_llama, tiny_model, adapter, tmp_path
):
    other = tmp_path / "other"
    other.mkdir()
    (other / "adapter_model.safetensors").symlink_to(adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    foreign = {**config, "base_model_name_or_path": str(tiny_model("tiny-gemma"))}
    (other / "adapter_config.json").write_text(json.dumps(foreign))
    with server.open_port("127.0.0.1", 0) as probe:
        port = probe.getsockname()[1]
    for given, says in [
        (["tiny-lama"], "did you mean"),
        ([str(tiny_llama), str(tiny_llama)], "two of the models would both be called tiny-llama"),
        ([str(other)], "no model can be loaded from .*other"),
        (["tiny-t5"], "is an encoder-decoder"),
    ]:
        with pytest.raises(LabkitError, match=says):
            server.run(given, port=port)
        assert free_again("127.0.0.1", port)


def test_models_are_served_in_the_type_that_is_asked_for(tiny_llama):
    wide, narrow = (
        server.load_models([str(tiny_llama)], dtype)["tiny-llama"].model.dtype
        for dtype in ("float32", "bfloat16")
    )
    assert (wide, narrow) == (torch.float32, torch.bfloat16)
    with pytest.raises(LabkitError, match="dtype 'float33' is not known: did you mean 'float32'"):
        server.run([str(tiny_llama)], port=0, dtype="float33")


def test_limits_that_allow_nothing_are_refused():
    with pytest.raises(LabkitError, match="--max-tokens 0 is too few"):
        Limits(max_tokens=0)
    with pytest.raises(LabkitError, match="--idle-minutes -1 is not a time"):
        server.run(["tiny-llama"], port=0, idle_minutes=-1)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, "idle"])
def test_a_server_ends_on_a_signal_or_by_itself_and_frees_its_port(tiny_llama, how):
    seen: list[str] = []

    def on_ready(url: str, names: list[str]) -> None:
        seen.append(url)
        assert names == ["tiny-llama"]
        assert httpx.URL(url).host == "127.0.0.1"
        if how != "idle":
            threading.Timer(0.2, os.kill, (os.getpid(), how)).start()

    before = signal.getsignal(signal.SIGINT)
    server.run([str(tiny_llama)], port=0, on_ready=on_ready,
               idle_minutes=0.5 / 60 if how == "idle" else 0)  # fmt: skip
    assert free_again("127.0.0.1", httpx.URL(seen[0]).port)
    assert signal.getsignal(signal.SIGINT) is before


HASTY = """
import sys
from labkit.cli import main
from labkit.serve import server
server.GRACE_SECONDS = 0
main(["serve", *sys.argv[1:]])
"""


def test_stopped_in_the_middle_of_an_answer_it_says_so_and_exits_with_zero(tiny_llama):
    process = subprocess.Popen(
        [sys.executable, "-c", HASTY, str(tiny_llama), "--port", "0", "--json",
         "--max-tokens", "100000", "--idle-minutes", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        ready = json.loads(process.stdout.readline())
        assert ready["models"] == ["tiny-llama"]
        with openai.OpenAI(base_url=ready["url"], api_key="none", max_retries=0) as client:
            stream = iter(ask(client, "Tell me all.", "tiny-llama", stream=True, max_tokens=900))
            next(stream)
            process.send_signal(signal.SIGTERM)
            with pytest.raises(openai.APIError):
                list(stream)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "Traceback" not in err and "terminate called" not in err
    assert free_again("127.0.0.1", httpx.URL(ready["url"]).port)


def test_a_key_is_asked_for_where_there_is_one(models, monkeypatch):
    monkeypatch.setenv("LABKIT_API_KEY", "open sesame")
    started = Running(models)
    try:
        with (
            openai.OpenAI(
                base_url=f"{started.url}/v1", api_key="sesame", max_retries=0
            ) as stranger,
            pytest.raises(openai.AuthenticationError, match="the key is missing or wrong"),
        ):
            ask(stranger, "Hi")
        with openai.OpenAI(base_url=f"{started.url}/v1", api_key="open sesame") as friend:
            assert text_of(ask(friend, "Hi")) == reference(models["base"], "Hi", 12)
    finally:
        started.end()


def test_a_proxy_s_prefix_becomes_the_root_path():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope.get("root_path"))

    async def nothing():
        return {}

    for prefix in ["/user/ana/proxy/7860/", "", "//evil.example", "https://evil.example"]:
        scope = {"type": "http", "headers": [(b"x-forwarded-prefix", prefix.encode())]}
        asyncio.run(Prefix(app)(scope, nothing, nothing))
    assert seen == ["/user/ana/proxy/7860", None, None, None]


def test_the_example_for_modal_compiles_and_names_what_modal_documents():
    """It cannot run here; the names are those of the reference in modal.com/docs."""
    source = (Path(server.__file__).parent / "modal_app.py").read_text()
    tree = ast.parse(source)
    used = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    documented = {"modal.App", "modal.Image", "modal.Volume", "modal.Secret", "modal.concurrent",
                  "modal.web_server", "modal.Volume.from_name", "modal.Secret.from_name",
                  "modal.Image.debian_slim"}  # fmt: skip
    assert {name for name in used if name.startswith("modal.") and "(" not in name} == documented
    functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
    decorators = {k: [ast.unparse(d) for d in f.decorator_list] for k, f in functions.items()}
    assert [d.split("(")[0] for d in decorators["serve"]] == \
        ["app.function", "modal.concurrent", "modal.web_server"]  # fmt: skip
    assert (
        '"-m", "labkit", "serve"' in source
        and (Path(server.__file__).parents[2] / "requirements.lock").is_file()
    )


def test_on_a_hub_the_page_s_path_is_told(monkeypatch):
    assert server.hub_path("http://127.0.0.1:7860") is None
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ana/")
    assert server.hub_path("http://127.0.0.1:7860") == "/user/ana/proxy/7860/"
    assert server.hub_path("http://127.0.0.1:8123/v1") == "/user/ana/proxy/8123/v1"
