"""Ask a model behind an OpenAI-compatible server: labkit's own, vLLM, llama.cpp, transformers.

A server shows the text of its answer, how many tokens it read as the prompt, and why it stopped;
not its logits, nor which tokens it read.
"""

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from labkit.datasets.base import Message
from labkit.errors import LabkitError, brief, parse_json

TIMEOUT_SECONDS = 300
MOST_REPLY_BYTES = 2**24
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class ServedAnswer:
    """What a server answered; `prompt_tokens` and `ended` are None where it does not say.

    `ended` is whether the model stopped by itself, not at the limit of tokens.
    """

    text: str
    prompt_tokens: int | None
    ended: bool | None


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model of a server: the address up to `/v1`, and the name it is served under."""

    url: str
    model: str

    def chat(self, messages: Sequence[Message], *, max_new_tokens: int) -> ServedAnswer:
        """Return the greedy answer to a conversation, put into words by the server's template.

        Raises:
            LabkitError: the server does not answer, refuses, or answers in another form.
        """
        return self._ask("chat/completions", {"messages": list(messages)}, max_new_tokens)

    def complete(self, prompt: str, *, max_new_tokens: int) -> ServedAnswer:
        """Return the greedy continuation of a text; LabkitError as `chat`."""
        return self._ask("completions", {"prompt": prompt}, max_new_tokens)

    def _ask(self, route: str, asked: dict[str, Any], max_new_tokens: int) -> ServedAnswer:
        body = {"model": self.model, "max_tokens": max_new_tokens, "temperature": 0, **asked}
        reply = _request(f"{self.url}/{route}", body)
        try:
            choice = reply["choices"][0]
            text = choice["text"] if "prompt" in asked else choice["message"]["content"] or ""
            reason = choice.get("finish_reason")
            if not isinstance(text, str):
                raise TypeError
        except (KeyError, IndexError, TypeError, AttributeError):
            raise LabkitError(
                f"{self.url}/{route} answered {brief(reply)}, which is no answer of OpenAI's API"
            ) from None
        usage = reply.get("usage")
        count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        return ServedAnswer(
            text=text,
            prompt_tokens=count if isinstance(count, int) and count > 0 else None,
            ended={"stop": True, "length": False}.get(str(reason)),
        )


def is_address(name: str) -> bool:
    """Whether a model is named by the address of its server."""
    return name.lower().startswith(("http://", "https://"))


def find(address: str) -> Served:
    """Return the model at `http://HOST:PORT/v1#MODEL`; of a server with a single one, without #.

    Raises:
        LabkitError: no such address or server, or it serves no such model.
    """
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host:
        raise LabkitError(f"{address} is not an address: write http://HOST:PORT/v1#MODEL")
    path = parts.path.rstrip("/")
    for route in ("/chat/completions", "/completions", "/models"):
        path = path.removesuffix(route)
    url = f"{parts.scheme}://{parts.netloc}{path or '/v1'}"
    listed = _request(f"{url}/models")
    try:
        names = [str(model["id"]) for model in listed["data"]]
    except (KeyError, TypeError):
        raise LabkitError(
            f"{url}/models answered {brief(listed)}, which is no list of models of OpenAI's API"
        ) from None
    wanted = parts.fragment
    if wanted in names:
        return Served(url=url, model=wanted)
    if not wanted and len(names) == 1:
        return Served(url=url, model=names[0])
    shown = ", ".join(names[:10]) or "nothing"
    raise LabkitError(
        f"{url} does not serve {wanted}: it has {shown}" if wanted else
        f"{url} serves {shown}: say which one, as {url}#MODEL"
    )  # fmt: skip


def _request(url: str, body: dict[str, Any] | None = None) -> Any:
    """Send JSON, or nothing, and return the JSON that comes back."""
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("LABKIT_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    # A proxy does not know this machine's own ports.
    direct = [urllib.request.ProxyHandler({})] if urlsplit(url).hostname in LOOPBACK else []
    try:
        request = urllib.request.Request(url, data=data, headers=headers)
        with urllib.request.build_opener(*direct).open(request, timeout=TIMEOUT_SECONDS) as reply:
            content = reply.read(MOST_REPLY_BYTES + 1)
    except urllib.error.HTTPError as error:
        said = " ".join(error.read(500).decode(errors="replace").split())
        raise LabkitError(f"{url} refuses with HTTP {error.code}: {said or error.reason}") from None
    # What else a broken connection raises depends on the layer that noticed.
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise LabkitError(f"{url} does not answer ({reason}): is the server running?") from None
    if len(content) > MOST_REPLY_BYTES:
        raise LabkitError(f"{url} answered more than {MOST_REPLY_BYTES / 2**20:g} MiB")
    return parse_json(content, f"what {url} answered")
