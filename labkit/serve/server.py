"""Serve OpenAI's API with transformers' own server, for the models named on the command line.

`transformers serve` knows the protocol: routes, streaming, the form of every answer. By default
it loads whatever model a client names and downloads it first, and offers anyone to unload them.
On a shared machine that is not wanted. labkit builds the same app from the same parts, with

* a model manager that holds the named models and no others, a run or an adapter like a model;
* the routes that answer and none that load, reset or document;
* `batching` instead of one request after the other, and `limits` before everything.

The port is taken before a model is loaded, so that a mistake shows at once. The server listens
on loopback unless told otherwise, ends on Ctrl-C or SIGTERM after what is being sent, and ends
by itself when nobody has asked anything for a while.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.server import build_server

from labkit.errors import LabkitError
from labkit.files import expanded
from labkit.inference.generate import Generator
from labkit.serve.batching import Batchers, GenerationFailed, ServerStops
from labkit.serve.limits import Guard, Limits, Prefix, error_response

PORT = 8123
GRACE_SECONDS = 3
ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health")


class NamedModels(ModelManager):
    """The models of this server under their names; nothing is loaded later or unloaded."""

    def __init__(self, models: Mapping[str, Generator]) -> None:
        super().__init__()
        self._models = models

    @staticmethod
    def process_model_name(model_id: str) -> str:
        """Return the name as it is: there are no revisions here."""
        return model_id

    def load_model_and_processor(
        self, model_id_and_revision: str, *args: Any, **kw: Any
    ) -> tuple[Any, Any]:
        """Return model and tokenizer of a name that `limits` has let through."""
        served = self._models[model_id_and_revision]
        return served.model, served.tokenizer

    def get_gen_models(self, cache_dir: str | None = None) -> list[dict]:
        """Return what `GET /v1/models` lists."""
        return [
            {"id": name, "object": "model", "created": 0, "owned_by": "labkit"}
            for name in self._models
        ]


def _generation_config(config: Any, body: dict, tokenizer: Any) -> Any:
    """Settle what transformers leaves to the model's own generation config.

    As with OpenAI's server a temperature samples; without one labkit answers greedily.
    """
    config.do_sample = bool(body.get("temperature"))
    if not config.do_sample:
        config.temperature = config.top_p = config.top_k = None
    config.pad_token_id = tokenizer.pad_token_id
    config.seed = body.get("seed")
    return config


class _Chat(ChatCompletionHandler):
    def _build_generation_config(self, body: dict, *args: Any, **kw: Any) -> Any:
        tokenizer = self._resolve_model(body)[2]
        return _generation_config(
            super()._build_generation_config(body, *args, **kw), body, tokenizer
        )


class _Completion(CompletionHandler):
    def _build_generation_config(self, body: dict, *args: Any, **kw: Any) -> Any:
        tokenizer = self._resolve_model(body)[2]
        return _generation_config(
            super()._build_generation_config(body, *args, **kw), body, tokenizer
        )


def build_app(models: Mapping[str, Generator], limits: Limits) -> tuple[FastAPI, Batchers]:
    """Return transformers' server app for these models, and what generates for it.

    Serve it behind a `Guard`.
    """
    logging.getLogger("transformers.cli.serving").setLevel(logging.ERROR)
    manager = NamedModels(models)
    batchers = Batchers(max_batch=limits.max_batch)
    unused: Any = None
    app = build_server(
        manager,
        _Chat(manager, batchers),
        completion_handler=_Completion(manager, batchers),
        response_handler=unused,
        transcription_handler=unused,
        systemone_handler=unused,
        generation_state=batchers,
    )
    app.router.routes[:] = [r for r in app.router.routes if getattr(r, "path", "") in ROUTES]

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        message = str(error.detail)
        if error.status_code in (404, 405):
            message = (f"there is no {request.method} {request.url.path} here: "
                       f"this server has {', '.join(ROUTES)}")  # fmt: skip
        return error_response(error.status_code, message)

    @app.exception_handler(ServerStops)
    async def stops(request: Request, error: ServerStops) -> JSONResponse:
        return error_response(503, str(error))

    @app.exception_handler(GenerationFailed)
    async def failed(request: Request, error: GenerationFailed) -> JSONResponse:
        return error_response(500, f"the answer could not be generated ({error})")

    return app, batchers


def served_name(given: str) -> str:
    """Return the name a model is served under: what was given, of a folder its last part."""
    return expanded(given).resolve().name if expanded(given).is_dir() else given


def load_models(given: Sequence[str], dtype: str = "auto") -> dict[str, Generator]:
    """Load models, runs and adapters in a type, each under its own name.

    Raises:
        LabkitError: one is not there, two would have the same name, or there is no such type.
    """
    from labkit.inference.generate import load_generator

    names = [served_name(text) for text in given]
    for name in names:
        if names.count(name) > 1:
            raise LabkitError(f"two of the models would both be called {name}: rename one folder")
    return {n: load_generator(text, dtype=dtype) for n, text in zip(names, given, strict=True)}


def open_port(host: str, port: int) -> socket.socket:
    """Return a socket that listens on a port; 0 takes a free one.

    Raises:
        LabkitError: the port is in use or not allowed, or the address is not of this machine.
    """
    if not 0 <= port <= 65535:
        raise LabkitError(f"--port {port} is not a port: choose one from 1024 to 65535, or 0")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError:
        raise LabkitError(f"--host {host!r} is not an address: use 127.0.0.1 or 0.0.0.0") from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(256)
    except OSError as error:
        listener.close()
        reason = {
            98: f"port {port} of {host} is in use: choose another with --port, or 0 for a free one",
            99: f"--host {host} is not an address of this machine: use 127.0.0.1",
            13: f"port {port} needs more rights: choose one above 1023",
        }.get(error.errno or 0, f"cannot listen on {host}:{port}: {error.strerror}")
        raise LabkitError(reason) from None
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the address of a listening socket as a browser wants it."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(
    given: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    limits: Limits | None = None,
    idle_minutes: float = 60,
    dtype: str = "auto",
    on_ready: Callable[[str, list[str]], None] = lambda url, names: None,
    page: Callable[[FastAPI, str, list[str]], None] | None = None,
) -> None:
    """Serve models until Ctrl-C, SIGTERM, or `idle_minutes` without a request (0: never).

    `page` may add routes: it gets the app, the server's URL and the models' names. Returns when
    the server has stopped and its port is free.

    Raises:
        LabkitError: the port is not available, or a model is not there.
    """
    limits = limits or Limits()
    if not 0 <= idle_minutes < float("inf"):
        raise LabkitError(f"--idle-minutes {idle_minutes} is not a time: 0 never stops")
    with open_port(host, port) as listener:
        url = url_of(listener)
        models = load_models(given, dtype)
        app, batchers = build_app(models, limits)
        guard = Guard(app, models=models, limits=limits)
        if page is not None:
            page(app, url, list(models))
        server = Server(Prefix(guard), batchers, on_ready=lambda: on_ready(url, list(models)))
        watch = threading.Thread(target=_stop_when_idle, args=(server, guard, idle_minutes * 60))
        watch.daemon = True
        watch.start()
        # uvicorn passes the signal on once it has shut down; that is the end we want already.
        handlers = {s: signal.signal(s, _ignore) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            server.run(sockets=[listener])
        finally:
            batchers.shutdown()
            for number, handler in handlers.items():
                signal.signal(number, handler)


class Server(uvicorn.Server):
    """uvicorn, telling when it is ready and giving open requests a few seconds at the end."""

    def __init__(
        self, app: Any, batchers: Batchers, *, on_ready: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(uvicorn.Config(
            app, log_level="warning", lifespan="on", timeout_graceful_shutdown=GRACE_SECONDS + 3
        ))  # fmt: skip
        self._on_ready, self._batchers = on_ready, batchers

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Give the answers that are being written a moment, then end them.

        An open chat page holds its connection for good, so what is left then is cut off.
        """
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        timer = threading.Timer(GRACE_SECONDS, self._batchers.stopping.set)
        timer.start()
        await super().shutdown(sockets)
        timer.cancel()


def _ignore(*signal_and_frame: Any) -> None:
    pass


def _stop_when_idle(server: Server, guard: Guard, seconds: float) -> None:
    while seconds and not server.should_exit:
        time.sleep(min(seconds / 4, 10))
        if not guard.at_once and time.monotonic() - guard.last_used > seconds:
            server.should_exit = True


def hub_path(url: str) -> str | None:
    """Return the path of a server behind jupyter-server-proxy, when this runs on a hub."""
    prefix = os.environ.get("JUPYTERHUB_SERVICE_PREFIX")
    if not prefix:
        return None
    address = urlsplit(url)
    return f"{prefix.rstrip('/')}/proxy/{address.port}{address.path or '/'}"
