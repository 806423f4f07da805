"""A model's `config.json` as somebody else wrote it: old, minimal, or none at all."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError, brief, read_json, said

ARCHITECTURES = ("llama", "gemma", "phi", "bloom", "t5", "mamba")
"""Those that have formulas."""


def read_config(path: Path) -> tuple[str, dict[str, Any]]:
    """Read a model's `config.json`; return its architecture as transformers calls it, and it.

    Raises `LabkitError` for what is no configuration of a model in full precision.
    """
    try:
        config = read_json(path)
    except LabkitError as error:
        raise LabkitError(f"{path} cannot be read as a configuration: {error}") from None
    if not isinstance(config, dict):
        raise LabkitError(f"{path} cannot be read as a configuration: it holds {brief(config)}, "
                          "where a model has an object of settings")  # fmt: skip
    if isinstance(config.get("quantization_config"), dict):
        raise LabkitError(f"{path}: the model is stored quantised: estimate the model it was made "
                          "of, with --method qlora or 8bit")  # fmt: skip
    architecture = config.get("model_type")
    if not architecture:
        # Before 2020 a configuration had no type; the class it was made for tells it.
        classes = config.get("architectures")
        words = [str(c) for c in classes] if isinstance(classes, list) else []
        architecture = next((a for a in ARCHITECTURES for w in words
                             if re.match(rf"{a}(For|Model|LMHead|With)", w, re.I)), "")  # fmt: skip
    if not isinstance(architecture, str) or not architecture:
        raise LabkitError(f"{path} does not say what kind of model it is: model_type is missing, "
                          f"such as {', '.join(ARCHITECTURES)}")  # fmt: skip
    return architecture, config


def completed(architecture: str, config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a configuration with what its class in transformers assumes and renames."""
    whole = whole_config(architecture, config, name)
    return {**whole.to_dict(), **{key: getattr(whole, key) for key in whole.attribute_map}}


def whole_config(architecture: str, config: Mapping[str, Any], name: str) -> Any:
    """Return transformers' configuration made of what a file says.

    Raises `LabkitError` for what its class refuses, and for an architecture it does not know.
    """
    import transformers

    from labkit.console import quiet

    try:
        with quiet():
            given = {key: value for key, value in config.items() if key != "model_type"}
            return transformers.AutoConfig.for_model(architecture, **given)
    except Exception as error:  # configuration classes check what they are given in many ways
        raise LabkitError(f"the configuration of {name} is not one of {architecture}: "
                          f"{said(error)}") from None  # fmt: skip
