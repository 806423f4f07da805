"""Write a model the way DeepSpeed's ZeRO saves it, for tests that run where DeepSpeed is not.

The layout is that of DeepSpeed 0.19.8, whose own zero_to_fp32.py reads these folders; a test holds
it against that script where DeepSpeed is installed.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

import torch

Stage = IntEnum("Stage", {"optimizer_states": 1, "gradients": 2, "weights": 3})
"""Pickled as a class that a reader need not have, as DeepSpeed's own enumeration is."""


def save(
    folder: Path, trained: Mapping[str, torch.Tensor], *, stage: int, ranks: int,
    frozen: Mapping[str, torch.Tensor] = {}, buffers: Mapping[str, torch.Tensor] = {},
    shared: Mapping[str, str] = {}, tag: str = "global_step2", steps: float = 2.0,
) -> Path:  # fmt: skip
    """Write a checkpoint and return its folder; fp32 `trained`, in one parameter group."""
    place = folder / tag
    place.mkdir(parents=True)
    (folder / "latest").write_text(tag)
    shapes = OrderedDict((name, each.shape) for name, each in trained.items())
    for rank in range(ranks):
        state: dict[str, Any] = {"zero_stage": Stage(stage)}
        if stage == 3:
            state |= {"partition_count": ranks}
            flat = torch.cat([_share(each, rank, ranks) for each in trained.values()])
            half = len(flat) // 2  # sub-groups: a weight may lie in two
            groups = [flat[:half].clone(), flat[half:].clone()]
            for each in groups:  # as DeepSpeed's have: pickled otherwise than bare tensors
                each.ds_attribute = 1  # type: ignore[attr-defined]
            state |= {"fp32_flat_groups": groups}
        else:
            flat = torch.cat([each.flatten() for each in trained.values()])
            each = math.ceil(len(flat) / (2 * ranks)) * 2
            # Without the padding at the end, and with the storage that had it.
            padded = torch.cat([flat, flat.new_zeros(each * ranks - len(flat))])
            part = padded[rank * each : min(len(flat), (rank + 1) * each)]
            state |= {"partition_count": [ranks], "single_partition_of_fp32_groups": [part]}
        kept = {"state": {0: {"step": torch.tensor(steps), "exp_avg": torch.zeros_like(flat)}},
                "param_groups": [{"lr": 1e-3, "params": [0]}]}  # fmt: skip
        state["optimizer_state_dict" if stage == 3 else "base_optimizer_state"] = kept
        saved = {"optimizer_state_dict": state, "ds_version": "0.19.8", "ds_config": {}}
        torch.save(saved, place / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        if stage < 3 and rank:
            continue
        model = {
            "module": dict(buffers), "buffer_names": list(buffers), "param_shapes": [shapes],
            "shared_params": dict(shared), "ds_version": "0.19.8", "global_steps": int(steps),
            "frozen_param_shapes": OrderedDict((name, t.shape) for name, t in frozen.items()),
            "frozen_param_fragments": {
                name: _share(each, rank, ranks) if stage == 3 else each
                for name, each in frozen.items()
            },
        }  # fmt: skip
        name = f"zero_pp_rank_{rank}_mp_rank_00" if stage == 3 else "mp_rank_00"
        torch.save(model, place / f"{name}_model_states.pt")
    return folder


def _share(tensor: torch.Tensor, rank: int, ranks: int) -> torch.Tensor:
    """Return a rank's part of a tensor in stage 3, the last one filled up."""
    each = math.ceil(tensor.numel() / ranks)
    filled = torch.cat([tensor.flatten(), tensor.new_zeros(each * ranks - tensor.numel())])
    return filled[rank * each : (rank + 1) * each].clone()
