"""Helpers shared by all commands: results on stdout, settings from `--key value` words."""

import contextlib
import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from labkit.errors import LabkitError, nearest
from labkit.files import picture_file

Json = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout")]
Dtype = Annotated[
    str, typer.Option(help="auto (the type that is fast here), bfloat16, float16 or float32")
]


def _on_base(context: typer.Context, base: str | None) -> str | None:
    """Load adapters on this base until the command ends."""
    if base:
        from labkit.models import adapters

        context.with_resource(adapters.on_base(base))
    return base


Base = Annotated[
    str | None,
    typer.Option(help="base of an adapter, whatever its folder says", callback=_on_base),
]


def picture(path: Path | None) -> Path | None:
    """Return the PNG file that an option means, refused before anything is measured for it."""
    return None if path is None else picture_file(path)


FREE_FORM = {"allow_extra_args": True, "ignore_unknown_options": True}

# The step that estimate predicts and sweep measures.
ModelWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODEL",
        help="registry name, folder, or Hub id; the run's where there is a --config",
        show_default=False,
    ),
]
"""With unknown options allowed, their words are arguments: only so the model is told apart."""
StepOf = Annotated[
    str | None,
    typer.Option(
        "--config", help="the step of a run: YAML or JSON file, or a shipped one: lora, full …"
    ),
]
StepDtype = Annotated[
    str | None, typer.Option(help="compute type; auto is bfloat16, or on a CPU the fast one")
]
Optim = Annotated[str | None, typer.Option(help="optimizer, by its transformers name")]
Rank = Annotated[int | None, typer.Option(help="rank of the adapters")]
LoraTargets = Annotated[str | None, typer.Option(help="all-linear, or names such as q_proj,v_proj")]
Loss = Annotated[str | None, typer.Option(help="full or chunked cross-entropy")]
Sharding = Annotated[str | None, typer.Option(help="zero1, zero2, zero3 or fsdp2")]

# What a figure of memory or time must state before anybody can compare it with another.
MasterWeights = Annotated[
    bool | None,
    typer.Option(
        "--master-weights/--no-master-weights",
        help="fp32 weights beside 16-bit compute, in full fine-tuning; on, as labkit trains",
    ),
]
AdapterDtype = Annotated[
    str | None, typer.Option(help="type of added weights; float32, on a quantised base dtype")
]
Attention = Annotated[
    str | None, typer.Option(help="sdpa, or eager, which stores the probabilities")
]
Padding = Annotated[
    bool | None,
    typer.Option("--padding/--no-padding", help="samples of unlike length, so a mask; off"),
]
RepeatKv = Annotated[
    bool | None,
    typer.Option(
        "--repeat-kv/--no-repeat-kv", help="key and value heads copied for every query head; off"
    ),
]
LabelledTokens = Annotated[
    int | None, typer.Option(help="positions of a sample that get logits; all of them")
]

Reference = Annotated[
    str | None,
    typer.Option(help="of preference tuning: adapter_off, copy or precomputed; none without it"),
]


def emit(value: Any, as_json: bool, text: str) -> None:
    """Print a result: one JSON object, or text for people."""
    if as_json:
        plain = not (sys.stdout.encoding or "").lower().startswith("utf")
        text = json.dumps(value, ensure_ascii=plain, allow_nan=False)
        if not plain and not text.isascii():
            # Half a character, out of a file or a name, can't be printed; escaped it can.
            text = text.encode("utf-8", "backslashreplace").decode()
    print(text)


def say_anything() -> None:
    """Let output hold every character: one that the terminal's encoding lacks is written out."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # replaced, or closed
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def key_values(arguments: list[str]) -> dict[str, str]:
    """Read --key value and --key=value pairs. Raises LabkitError for anything else."""
    pairs: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or len(word) < 3:
            raise LabkitError(f"unexpected {word!r} on the command line: write --key value")
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not rest or (rest[0].startswith("--") and len(rest[0]) > 2):
                raise LabkitError(f"--{key} needs a value: write --{key} VALUE")
            value = rest.pop(0)
        key = key.replace("-", "_")
        if key in pairs:
            raise LabkitError(f"--{key.replace('_', '-')} is given twice: keep one of them")
        pairs[key] = value
    return pairs


def model_and_settings(
    context: typer.Context, words: list[str], config: str | None, *, alone: Collection[str] = ()
) -> tuple[str | None, dict[str, str]]:
    """Return the model that `words` begin with, if they do, and the run's settings behind it.

    `alone` are settings that need no configuration.

    Raises:
        LabkitError: neither a model nor a configuration, or settings without a configuration.
    """
    named = bool(words) and not words[0].startswith("-")
    model, rest = (words[0], words[1:]) if named else (None, words)
    if config is not None:
        settings = key_values(rest)
        if model is not None and "model" in settings:
            raise LabkitError("MODEL and --model both name a model: keep one of them")
        return model, settings
    settings = {}
    if rest:
        first = rest[0].partition("=")[0]
        if not first.startswith("-"):
            raise LabkitError(f"unexpected {first!r} on the command line: name one MODEL")
        possible = [_option(name) for name in alone]
        known = [name for option in context.command.params for name in option.opts
                 if name.startswith("--")]  # fmt: skip
        settings = key_values(rest) if first in possible else {}
        for name in map(_option, settings) if settings else [first]:
            if name not in possible:
                raise LabkitError(
                    f"{context.command.name} has no option {name}, and settings of a run need its "
                    f"--config: {nearest(name, [*known, *possible])}"
                )
    if model is None:
        raise LabkitError(f"nothing to {context.command.name}: name a MODEL, or a run by --config")
    return model, settings


def _option(setting: str) -> str:
    return f"--{setting.replace('_', '-')}"
