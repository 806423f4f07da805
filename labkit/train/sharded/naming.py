"""Names of a checkpoint's tensors, and the names that a model or an adapter has in its files."""

import re
from collections.abc import Mapping
from pathlib import Path

from labkit.console import quiet_bitsandbytes
from labkit.errors import LabkitError
from labkit.train.sharded.pieces import Whole, same

NAME = "default"
"""what PEFT calls an adapter that was given no name"""
WRAPPINGS = ("module.", "_orig_mod.", "base_model.model.")
"""What data parallelism, the compiler and PEFT put before the names of the model they wrap."""


def adapter(tensors: Mapping[str, Whole]) -> dict[str, Whole]:
    """Return what an adapter adds to its base, named as in PEFT's files; empty for a whole model.

    In memory the adapter's own name is part of a tensor's (`lora_A.default.weight`), in a file it
    is not.

    Raises:
        LabkitError: virtual tokens that a network of their own makes, which files hold ready-made.
    """
    quiet_bitsandbytes()  # PEFT imports it
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    starts = tuple(filter(None, PEFT_TYPE_TO_PREFIX_MAPPING.values()))
    found = {}
    for name, whole in tensors.items():
        words = name.split(".")
        if NAME not in words and not any(word.startswith(starts) for word in words):
            continue
        if "prompt_encoder" in words and not name.endswith("embedding.weight"):
            raise LabkitError(
                f"{name} is of a network that makes virtual tokens, and their files "
                "hold what it makes: load the checkpoint and save the adapter"
            )
        if "prompt_encoder" in words:
            found["prompt_embeddings"] = whole
        else:
            name = re.sub(rf"(?<=magnitude_vector)\.{NAME}\.weight$", "", name)
            found[re.sub(rf"\.(?:modules_to_save\.)?{NAME}(?=\.|$)", "", name)] = whole
    return found


def unwrapped(tensors: Mapping[str, Whole]) -> dict[str, Whole]:
    """Return tensors under the model's own names, whatever it was wrapped in when it was saved."""
    for wrapping in WRAPPINGS:
        if all(name.startswith(wrapping) for name in tensors):
            tensors = {name.removeprefix(wrapping): each for name, each in tensors.items()}
    return dict(tensors)


def once(
    tensors: Mapping[str, Whole], shared: Mapping[str, str], config: Path | None
) -> dict[str, Whole]:
    """Return the tensors without those that are another's under a second name.

    `shared` are names that a checkpoint says are another's; `config` is the folder of a model's
    configuration, which may tie some.

    Raises:
        LabkitError: tied weights differ.
    """
    kept = dict(tensors)
    for name, first in {**_tied(config), **shared}.items():
        if name in kept and first in kept:
            if not same(kept[name], kept[first]):
                raise LabkitError(f"{name} and {first} differ, and {config}/config.json ties them: "
                                  "name the right model by --like")  # fmt: skip
            del kept[name]
    return kept


def _tied(config: Path | None) -> dict[str, str]:
    """Return the names that a model's configuration ties to another's weights."""
    if config is None or not (config / "config.json").is_file():
        return {}
    import transformers

    settings = transformers.AutoConfig.from_pretrained(config, local_files_only=True)
    kind = getattr(transformers, str((settings.architectures or [""])[0]), None)
    tied = getattr(kind, "_tied_weights_keys", None)
    return dict(tied) if settings.tie_word_embeddings and isinstance(tied, Mapping) else {}
