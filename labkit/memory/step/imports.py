"""Import the libraries that a trace runs, without the parts that cost most and are never run.

A trace of an 8B model takes about a second, and importing what it runs took six times as long. Most
of that is not torch itself. Found with `python -X importtime` and cProfile, and left out here
without changing what any library does afterwards:

* Python's cycle collector looks through all that is being imported, again and again;
* bitsandbytes wraps functions by `torch.compile` when it is imported, which loads the whole of
  Inductor; here they are wrapped at their first call;
* transformers' losses for object detection load `scipy.optimize` for one function, here at its
  first call;
* transformers reads the 1,600 files of its models for their names, and forgets them before it needs
  them again: its cache (`lru_cache`) holds 128 folders, and there are 500;
* each operator that torch registers notes the file and line it stands in, and `inspect` reads the
  source for them that is not asked for;
* when the process ends, the collector looks through everything once more, to free what ends anyway.

Libraries that are imported already stay as they are, and all of this ends with the import.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

PLAIN = ("bloom", "gemma", "llama", "mamba", "phi", "t5")
"""Architectures whose layers have the names they always had, so that no adapter is renamed"""


def import_libraries() -> None:
    """Import torch, transformers, bitsandbytes and PEFT, as far as a trace needs them.

    Full fine-tuning needs no PEFT, so a machine may lack it.
    """
    if "peft" in sys.modules:
        return
    atexit.register(gc.freeze)
    alone = "torch" not in sys.modules
    without_source = functools.partial(inspect.getframeinfo, context=0)
    with collector_paused(), replaced(inspect, "getframeinfo", without_source):
        import torch

        with replaced(functools, "lru_cache", _lru_cache):
            import transformers
        with _promised("scipy.optimize", "linear_sum_assignment"):
            import transformers.loss.loss_utils
        import transformers.models.auto.modeling_auto  # noqa: F401

        from labkit.console import quiet_bitsandbytes

        with replaced(torch, "compile", functools.partial(_at_first_call, torch.compile)):
            quiet_bitsandbytes()
        with contextlib.suppress(ModuleNotFoundError):
            import peft  # noqa: F401

        if alone:  # nothing but modules is there yet, and they stay
            gc.freeze()


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python's cycle collector from running within the block."""
    ran = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if ran:
            gc.enable()


@contextlib.contextmanager
def architecture_known(model_type: str) -> Iterator[None]:
    """Keep PEFT from asking what a model's modules were called in earlier versions of transformers.

    It is asked for every adapter, and builds a table of all models to say that none is renamed.
    """
    if model_type not in PLAIN:
        yield
        return
    from peft.utils import transformers_weight_conversion as conversion

    with replaced(conversion, "get_model_conversion_mapping", lambda *_: []):
        yield


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Let `owner` have another attribute `name` for a while."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextlib.contextmanager
def _promised(module: str, function: str) -> Iterator[None]:
    """Let `from module import function` give a function that imports the module when called."""
    if module in sys.modules:
        yield
        return

    def later(*args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(module), function)(*args, **kwargs)

    stand_in = ModuleType(module)
    setattr(stand_in, function, later)
    sys.modules[module] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(module) is stand_in:
            del sys.modules[module]


def _at_first_call(compile_: Callable, function: Callable | None = None, **options: Any) -> Any:
    """Stand for `torch.compile` and call it when the function is called for the first time."""
    if function is None:
        return functools.partial(_at_first_call, compile_, **options)

    @functools.cache
    def compiled() -> Callable:
        return compile_(function, **options)

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        return compiled()(*args, **kwargs)

    return run


_cached = functools.lru_cache


def _lru_cache(maxsize: Any = 128, typed: bool = False) -> Any:
    """Stand for `functools.lru_cache`, without a bound for the names in transformers' folders."""
    if getattr(maxsize, "__name__", "") == "create_import_structure_from_path":
        return _cached(None)(maxsize)
    return _cached(maxsize, typed)
