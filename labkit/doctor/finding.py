"""Represent one line of the doctor's report."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from labkit.machine.datasheets import GIB

EMBEDDED = "smollm2-135m-instruct"
Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    what: str
    status: Status
    detail: str
    advice: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def gib(count: float) -> str:
    """Return bytes as a person reads them."""
    return f"{count / GIB:.1f} GiB"
