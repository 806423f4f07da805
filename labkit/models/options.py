"""What commands that load models take alike."""

from typing import Annotated

import typer


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
