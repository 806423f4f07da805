"""Models that many tests share: tiny random ones, built once, and the embedded real one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from labkit.models import registry, tiny


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from a name such as `tiny-llama` to its folder, built at first use."""
    root = tmp_path_factory.mktemp("tiny-models")

    def folder(name: str) -> Path:
        path = root / name
        return path if path.exists() else tiny.build_tiny(name, path)

    return folder


@pytest.fixture(scope="session")
def tiny_llama(tiny_model: Callable[[str], Path]) -> Path:
    """Return the folder of the tiny Llama model. Read only: all tests share it."""
    return tiny_model("tiny-llama")


@pytest.fixture(scope="session")
def embedded_model() -> Path:
    """Return the folder of the real embedded model, fetched if this machine has none yet."""
    return registry.resolve("smollm2-135m-instruct")
