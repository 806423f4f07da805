"""Define the commands serve and chat, without importing torch."""

import sys
from typing import Annotated, Any

import typer

from labkit.cli.options import Base, Dtype, Json, emit
from labkit.errors import extra

Models = Annotated[list[str], typer.Argument(help="registry names, runs, or folders")]
Host = Annotated[str, typer.Option(help="address to listen on; 0.0.0.0 lets others in")]
MaxTokens = Annotated[int, typer.Option(help="tokens an answer may have")]
MaxBatch = Annotated[int, typer.Option(help="requests that are generated together")]
Idle = Annotated[float, typer.Option(help="stop after so long without a request; 0 never does")]


def serve(
    models: Models,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on; 0 takes a free one")] = 8123,
    max_tokens: MaxTokens = 1024,
    max_body_bytes: Annotated[int, typer.Option(help="bytes a request may have")] = 2**20,
    max_requests: Annotated[int, typer.Option(help="requests at once, waiting ones too")] = 128,
    max_batch: MaxBatch = 16,
    idle_minutes: Idle = 60,
    dtype: Dtype = "auto",
    base: Base = None,
    json_: Json = False,
) -> None:
    """Serve models over OpenAI's API, each under its own name."""
    with extra("serve", "labkit serve"):
        from labkit.serve import server
        from labkit.serve.limits import Limits

    limits = Limits(
        max_tokens=max_tokens, max_body_bytes=max_body_bytes, max_requests=max_requests,
        max_batch=max_batch,
    )  # fmt: skip
    server.run(
        models, host=host, port=port, limits=limits, idle_minutes=idle_minutes, dtype=dtype,
        on_ready=lambda url, names: _ready(f"{url}/v1", names, json_),
    )  # fmt: skip


def chat(
    models: Models,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port of the page; 0 takes a free one")] = 7860,
    max_tokens: MaxTokens = 1024,
    max_batch: MaxBatch = 16,
    root_path: Annotated[
        str | None, typer.Option(help="prefix before a proxy that does not name it itself")
    ] = None,
    idle_minutes: Idle = 60,
    dtype: Dtype = "auto",
    base: Base = None,
    json_: Json = False,
) -> None:
    """Open a chat page on models side by side, with answers read aloud if you like."""
    with extra("serve", "labkit chat"):
        from labkit.serve import chat as chat_
        from labkit.serve import server
        from labkit.serve.limits import Limits

    def add_page(app: Any, url: str, names: list[str]) -> None:
        chat_.add_page(app, url, names, max_tokens=max_tokens, root_path=root_path)

    server.run(
        models, host=host, port=port, idle_minutes=idle_minutes, page=add_page, dtype=dtype,
        limits=Limits(max_tokens=max_tokens, max_batch=max_batch),
        on_ready=lambda url, names: _ready(url, names, json_),
    )  # fmt: skip


def _ready(url: str, names: list[str], json_: bool) -> None:
    from labkit.serve.server import hub_path

    hub = hub_path(url)
    where = f"{url} (on the hub: {hub})" if hub else url
    emit({"url": url, "models": names}, json_, f"{', '.join(names)} at {where}; Ctrl-C stops")
    sys.stdout.flush()
