"""Check code the student writes by its behaviour, not by how it is written.

Each exercise is a list of properties in words, and for each a function that calls the student's
callable and returns whether the property holds. The first properties are the simplest, and the
check stops at the first that fails: one thing to mend at a time. What fails is said as the
property, with the input that showed it, and never with the expected result.

A function that computes for more than `TIME_LIMIT_SECONDS` is stopped: of the processor's time, so
that a busy machine costs nobody a point, and one that waits after `LONGEST_WAIT` times that.
"""

import importlib
import inspect
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from labkit.checkpoints.card import Verdict
from labkit.checkpoints.collecting import collect
from labkit.errors import LabkitError, nearest

TIME_LIMIT_SECONDS = 20.0
LONGEST_WAIT = 6
LONGEST_REASON = 200
LONGEST = 80

Student = Callable[..., Any]


class TooLong(BaseException):
    """Signal that the time is up; not an Exception, so that a student's `except` lets it pass."""


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """One function to write: its signature, and what must hold for it, simplest first."""

    signature: str
    parameters: int
    properties: tuple[tuple[str, Callable[[Student], bool]], ...]
    modules: tuple[str, ...] = ()
    """imported before the clock starts: on a busy machine that alone can take its time"""


def run(name: str, function: Student) -> Verdict:
    """Check a student's function and return what holds and what fails first."""
    known = collect("exercises")
    if name not in known:
        raise LabkitError(f"there is no exercise {name!r}: {nearest(name, known)}")
    exercise = known[name]
    verdict = Verdict(title=f"Exercise {exercise.signature}")
    if not callable(function):
        raise LabkitError(f"exercise {name}: give a function, not {function!r}")
    if not _accepts(function, exercise.parameters):
        verdict.contradicts.append(f"it cannot be called as {exercise.signature}")
        return verdict
    for module in exercise.modules:
        importlib.import_module(module)
    called = Called(function, exercise.signature.partition("(")[0])
    for text, holds in exercise.properties:
        called.last = ""
        try:
            with time_limit(TIME_LIMIT_SECONDS):
                held = holds(called)
        except NotImplementedError:
            verdict.unanswered, verdict.text = True, "the function is still to be written"
            return verdict
        except TooLong as late:
            verdict.contradicts.append(f"{text}: {late}{called.last}")
            return verdict
        except (Exception, SystemExit) as error:
            said = " ".join(str(error).split())[:LONGEST_REASON]
            verdict.contradicts.append(f"{text}: {type(error).__name__}: {said}{called.last}")
            return verdict
        if not held:
            verdict.contradicts.append(text + called.last)
            return verdict
        verdict.consistent.append(text)
    return verdict


class Called:
    """Call a student's function, and say how it was called last where a line can show it."""

    def __init__(self, function: Student, name: str) -> None:
        self.function, self.name = function, name
        self.last = ""

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Return what the function returns; `last` says the call, or nothing for tensors."""
        words = [*map(repr, given), *(f"{key}={value!r}" for key, value in named.items())]
        said = ", ".join(words) if all(map(_plain, [*given, *named.values()])) else ""
        self.last = f" (it was called as {self.name}({said}))" if 0 < len(said) < LONGEST else ""
        return self.function(*given, **named)


def _plain(value: Any) -> bool:
    """Return whether a person can read a value: text, numbers, and lists of them."""
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, str | int | float)


def _accepts(function: Student, count: int) -> bool:
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # some built-in functions have no signature to look at
        return True
    return True


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TooLong in the block after `seconds` of computing; no limit outside the main thread.

    It is raised as well after `LONGEST_WAIT` times `seconds` on the clock, and again every second,
    for a function that catches whatever is raised in it.
    """
    timers = (
        (signal.ITIMER_PROF, signal.SIGPROF, seconds),
        (signal.ITIMER_REAL, signal.SIGALRM, LONGEST_WAIT * seconds),
    )

    def stop(number: int, frame: Any) -> None:
        raise TooLong(f"still running after {seconds:.0f} s")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.signal(number, stop) for _, number, _ in timers]
    for timer, _, after in timers:
        signal.setitimer(timer, after, 1.0)
    try:
        yield
    finally:
        for (timer, number, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)
