"""Represent one line of the doctor's report."""

from typing import Literal, TypedDict

from labkit.machine.hardware import GIB

EMBEDDED = "smollm2-135m-instruct"
Status = Literal["ok", "warn", "fail"]


class Finding(TypedDict):
    """One line of the report."""

    what: str
    status: Status
    detail: str
    advice: str


def finding(what: str, status: Status, detail: str, advice: str = "") -> Finding:
    """Return a line of the report."""
    return {"what": what, "status": status, "detail": detail, "advice": advice}


def gib(count: float) -> str:
    """Return bytes as a person reads them."""
    return f"{count / GIB:.1f} GiB"
