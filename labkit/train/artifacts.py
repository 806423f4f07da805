"""Files of a run: its parts, the newest complete checkpoint, the trained weights.

    .lock · record.json · checkpoints/checkpoint-N/ · model/ · tensorboard/

A checkpoint counts once the marker with the measured steps lies in it, and `model` appears only
when it is whole, so a run can be killed while either is written.
"""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

from labkit.models.quantised import TrainedOn
from labkit.runs import run_folder

PARTS = (".lock", "record.json", "model", ".model.partial", "checkpoints", "tensorboard")
"""What a run's folder holds."""


def clear(folder: Path) -> None:
    """Remove what an earlier run of this name left; the lock stays."""
    for name in PARTS[1:]:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[dict[str, Any]]]:
    """Return the newest complete checkpoint and the steps measured up to it."""
    complete = {}
    for file in (folder / "checkpoints").glob(f"checkpoint-*/{run_folder.COMPLETE}"):
        number = int(file.parent.name.rsplit("-", 1)[1])
        with contextlib.suppress(ValueError, KeyError, TypeError):  # damaged: not complete
            steps = json.loads(file.read_text(encoding="utf-8"))
            if [step["step"] for step in steps] == list(range(1, number + 1)):
                complete[number] = file.parent, steps
    return complete[max(complete)] if complete else (None, [])


def save_model(
    model: Any, tokenizer: Any, target: Path, *, base_name: str, trained_on: TrainedOn
) -> None:
    """Write the adapter, or the full model in bfloat16, with its tokenizer, whole or not at all.

    `trained_on` is the form of the base, without which an adapter may be another model.
    """
    import torch

    temporary = target.with_name(f".{target.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    if hasattr(model, "peft_config"):
        for peft_config in model.peft_config.values():
            peft_config.base_model_name_or_path = base_name
        model.save_pretrained(temporary)
        trained_on.save(temporary)
    else:
        # One copy of what has two names, such as an embedding that is the head as well: the library
        # then writes it once.
        copies: dict[int, Any] = {}
        state = {name: copies.setdefault(tensor.data_ptr(), tensor.to(torch.bfloat16))
                 for name, tensor in model.state_dict().items()}  # fmt: skip
        model.config.dtype = torch.bfloat16
        model.save_pretrained(temporary, state_dict=state)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
