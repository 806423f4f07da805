"""Validate requests against the server's limits, and refuse in one sentence.

A server that a course shares fails in dull ways: a client sends a whole book, asks for a million
tokens, or a loop fires a thousand requests at once. Each costs nothing to refuse before a model
has seen it, and much afterwards. So every request passes here first:

    body too large                      413      model that is not served        404
    not JSON, a field that is wrong     400      too many requests at once       429
    not sent as application/json        415      prompt and answer too long      400
    no key, where the server has one    401

The answer is JSON as OpenAI's clients read it, `{"error": {"message": …}}`, and the message is
one sentence. The type of the content is asked for because a browser then asks the server before
it lets a foreign page post to it, and the server does not allow that.
"""

import asyncio
import contextlib
import hmac
import json
import os
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labkit.errors import LabkitError, nearest
from labkit.inference.generate import Generator
from labkit.serve.requests import REQUESTS, ChatRequest, CompletionRequest, Request, refusal


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one server allows. Sizes in bytes and tokens."""

    max_body_bytes: int = 2**20
    """bytes of a request"""
    max_tokens: int = 1024
    """tokens of an answer; also what an answer may have when the request does not say"""
    max_requests: int = 128
    """requests at once, those that wait included"""
    max_batch: int = 16
    """requests that are generated together"""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                option = "--" + name.replace("_", "-")
                raise LabkitError(f"{option} {value} is too few: it must be at least 1")


class Refusal(Exception):
    """A request that is not answered: HTTP status, and why in one sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def error_response(status: int, message: str) -> JSONResponse:
    """Return an error as OpenAI's clients read it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return JSONResponse(body, status, headers={"Retry-After": "2"} if status == 429 else None)


MOST_READ_PAST, SECONDS_READ_PAST = 2**26, 5.0
"""bytes and seconds of a body that is too large which are read before it is refused"""
_LENGTHS = (b"content-length", b"transfer-encoding")


def checked(
    path: str, body: bytes, *, models: Mapping[str, Generator], limits: Limits
) -> dict[str, Any]:
    """Return the request to pass on, its `max_tokens` filled in.

    Raises:
        Refusal: what is wrong with it, in a sentence.
    """
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not JSON ({error}): send one JSON object") from None
    if not isinstance(values, dict):
        raise Refusal(400, 'the body is not a JSON object: send {"model": …}')
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except RecursionError:
        raise Refusal(400, "the body is nested too deeply: send one JSON object") from None
    except UnicodeEncodeError:
        raise Refusal(
            400, "the body has half a character (a lone surrogate): send whole ones"
        ) from None
    try:
        request = REQUESTS[path].model_validate(values)
    except ValidationError as error:
        raise Refusal(400, refusal(error)) from None
    if request.model not in models:
        raise Refusal(404, f"the model {request.model[:80]!r} is not served here: "
                           f"{nearest(request.model[:80], models)}")  # fmt: skip
    return _within(request, models[request.model], limits)


def _within(request: Request, served: Generator, limits: Limits) -> dict[str, Any]:
    """Refuse what does not fit the model's window; fill in how long the answer may get."""
    asked = request.max_tokens
    if isinstance(request, ChatRequest):
        asked = request.max_completion_tokens or asked
    if asked is not None and asked > limits.max_tokens:
        raise Refusal(400, f"{asked} tokens are more than one answer may have here: ask for at "
                           f"most {limits.max_tokens}")  # fmt: skip
    prompt = prompt_tokens(request, served)
    window = getattr(served.model.config, "max_position_embeddings", None) or 2**31
    room = window - prompt
    if room < (asked or 1):
        raise Refusal(400, f"the prompt has {prompt} tokens and the answer may have {asked or 1}, "
                           f"but the model reads {window} together: shorten one")  # fmt: skip
    passed = request.model_dump(exclude_none=True, exclude={"max_completion_tokens"})
    return passed | {"max_tokens": asked or min(limits.max_tokens, room)}


def prompt_tokens(request: Request, served: Generator) -> int:
    """Return the number of tokens the model will read."""
    if isinstance(request, CompletionRequest):
        return len(served.tokenizer(request.prompt, verbose=False)["input_ids"])
    assert isinstance(request, ChatRequest)
    if not served.tokenizer.chat_template:
        raise Refusal(400, f"{served.name} has no chat template: use /v1/completions")
    turns = [{"role": m.role, "content": m.content} for m in request.messages]
    try:
        text = served.tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=False
        )
    except Exception as error:  # a template is a program of the model's author
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise Refusal(400, f"the chat template of {served.name} refuses: {first}") from None
    ids = served.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return len(ids)


class Guard:
    """ASGI middleware: nothing reaches the app under /v1 that the limits do not allow."""

    def __init__(self, app: ASGIApp, *, models: Mapping[str, Generator], limits: Limits) -> None:
        self.app, self.models, self.limits = app, models, limits
        self.key = os.environ.get("LABKIT_API_KEY", "").encode()
        self.at_once = 0
        self.last_used = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, then pass it on with its body replaced by the checked one."""
        # The app routes by what follows the root path, which a client can name: ends are compared.
        # An end of line after the path is passed over by its patterns, and is here.
        path = scope.get("path", "").rstrip()
        route = next((each for each in REQUESTS if path.endswith(each)), None)
        if scope.get("method") != "POST" or route is None:
            return await self.app(scope, receive, send)
        self.at_once += 1
        try:
            if self.at_once > self.limits.max_requests:
                raise Refusal(429, f"{self.limits.max_requests} requests are being answered or "
                                   "wait: try again in a moment")  # fmt: skip
            self._authorise(scope)
            body = await self._body(scope, receive)
            values = await asyncio.to_thread(
                checked, route, body, models=self.models, limits=self.limits
            )
            body = json.dumps(values).encode()
            kept = [h for h in scope["headers"] if h[0] not in _LENGTHS]
            length = (b"content-length", str(len(body)).encode())
            passed = {**scope, "headers": [*kept, length]}
            if values.get("stream"):  # the app sees for itself when its reader leaves
                await self.app(passed, _replay(body, receive), _said_to_end(send))
            else:
                await _while_awaited(self.app(passed, _replay(body, _nothing), send), receive)
        except Refusal as refusal:
            await error_response(refusal.status, str(refusal))(scope, receive, send)
        finally:
            self.at_once -= 1
            self.last_used = time.monotonic()

    def _authorise(self, scope: Scope) -> None:
        """Ask for the key in $LABKIT_API_KEY, where there is one."""
        given = dict(scope["headers"]).get(b"authorization", b"")
        if self.key and not hmac.compare_digest(given, b"Bearer " + self.key):
            raise Refusal(401, "the key is missing or wrong: send the one in LABKIT_API_KEY")

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        headers = dict(scope["headers"])
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json":
            raise Refusal(415, "the content type is not application/json: say so and send JSON")
        most = self.limits.max_body_bytes
        too_large = Refusal(413, f"the request is larger than {most} bytes: send a shorter one")
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > most:
            await _read_past(receive)
            raise too_large
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refusal(400, "the request ended before its body did")
            body += message.get("body", b"")
            if len(body) > most:
                if message.get("more_body"):
                    await _read_past(receive)
                raise too_large
            if not message.get("more_body"):
                return bytes(body)


async def _read_past(receive: Receive) -> None:
    """Throw away the rest of a body, or a good part of it.

    A client that is still sending when the connection closes never sees the answer.
    """
    left = MOST_READ_PAST
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SECONDS_READ_PAST):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body"):
                    return


async def _while_awaited(answering: Awaitable[None], receive: Receive) -> None:
    """Run an app until it has answered, or until the client has left."""
    answer, left = asyncio.ensure_future(answering), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({answer, left}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone = not answer.done()
        for each in (answer, left):
            each.cancel()
    if gone:
        await asyncio.wait({answer})
    else:
        await answer


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _nothing() -> Message:
    await asyncio.Event().wait()
    raise AssertionError("nothing more comes")


def _said_to_end(send: Send) -> Send:
    """Return a `send` that ends a stream of events as OpenAI's do, for readers that wait for it."""
    events = False

    async def ending(message: Message) -> None:
        nonlocal events
        if message["type"] == "http.response.start":
            kind = dict(message["headers"]).get(b"content-type", b"")
            events = message["status"] == 200 and kind.startswith(b"text/event-stream")
        elif events and not message.get("more_body"):
            message = {**message, "body": message.get("body", b"") + b"data: [DONE]\n\n"}
        await send(message)

    return ending


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body first and then what the client does."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


class Prefix:
    """ASGI middleware: a proxy's X-Forwarded-Prefix becomes the root path the page builds on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with its root path set when the proxy named one."""
        if scope["type"] == "http":
            prefix = (
                dict(scope["headers"]).get(b"x-forwarded-prefix", b"").decode("latin-1").rstrip("/")
            )
            if prefix.startswith("/") and not prefix.startswith("//"):
                scope = {**scope, "root_path": prefix}
        await self.app(scope, receive, send)
