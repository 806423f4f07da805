"""DeepSpeed's ZeRO as an engine; DeepSpeed is an extra.

Rajbhandari et al. 2020. Stage 1 shares the optimizer's state, 2 the gradients as well, 3 the
weights. labkit makes the optimizer, AdamW as everywhere, and DeepSpeed shards it.
"""

import contextlib
import importlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from labkit.errors import LabkitError
from labkit.train.sharded import group
from labkit.train.sharded.deepspeed_file import settings_of
from labkit.train.sharded.held import Held, held

COPIES = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat")
"""Where the weights are that it steps in float32, in stages 1 and 2, and in stage 3."""


class Zero:
    """DeepSpeed's engine around a trainer's model."""

    def __init__(self, stage: int, config: Any) -> None:
        self.stage, self.config = stage, config
        # It calls PyTorch by names that PyTorch is about to drop.
        warnings.filterwarnings("ignore", message=".*_tensor. is deprecated. Please use .torch")
        os.environ.setdefault("DS_SKIP_CUDA_CHECK", "1")
        try:
            with quietly():
                self.deepspeed: Any = importlib.import_module("deepspeed")
        except ModuleNotFoundError as error:
            raise LabkitError(
                f"sharding zero{stage} needs DeepSpeed, which lacks {error.name}: install it with "
                "DS_BUILD_OPS=0 pip install --no-build-isolation deepspeed, or use sharding fsdp2"
            ) from error

    def prepare(self, trainer: Any) -> Any:
        """Share the trainer's model, give the trainer its optimizer, return what is called."""
        self.model: Any = trainer.model
        settings = settings_of(self.config, self.stage, world=group.size(), bf16=trainer.args.bf16,
                               trained=trainer.elements[1])  # fmt: skip
        optimizer = trainer.create_optimizer()
        # A minute of compiling, for an exchange that only inference uses.
        self.deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        with quietly():
            self.deepspeed.init_distributed("nccl" if torch.cuda.is_available() else "gloo")
            self.engine, *_ = self.deepspeed.initialize(
                model=self.model, optimizer=optimizer, config=settings
            )
        self.optimizer = optimizer
        self.parts_gradients = bool(self.engine.zero_optimization_partition_gradients())
        trainer.optimizer = Stepping(optimizer, self.engine)
        return self.engine

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Add to the gradients; the last time, exchange them."""
        self.engine.set_gradient_accumulation_boundary(is_boundary=last)
        self.engine.backward(loss, scale_wrt_gas=False)

    def clip(self, model: Any, most: float) -> Any:
        """Return the norm of the gradients, which the step clips."""
        return self.engine.get_global_grad_norm()

    def save(self, folder: Path) -> None:
        """Write DeepSpeed's own checkpoint, with its `zero_to_fp32.py`."""
        frozen = any(not each.requires_grad for each in self.model.parameters())
        with quietly():
            self.engine.save_checkpoint(str(folder), exclude_frozen_parameters=frozen)

    def load(self, folder: Path) -> None:
        """Read a checkpoint of as many processes.

        Raises:
            LabkitError: another number of processes wrote it, or it is damaged.
        """
        writers = len(list(folder.glob("*/*zero_pp_rank_*_optim_states.pt")))
        if writers != group.size():
            raise LabkitError(
                f"{folder} was written by {writers} processes, and DeepSpeed goes on with as many: "
                f"set nproc to {writers}; checkpoints of sharding fsdp2 go on with any number"
            )
        frozen = any(not each.requires_grad for each in self.model.parameters())
        with quietly():
            self.engine.load_checkpoint(str(folder), load_module_strict=not frozen)

    def gather(self) -> None:
        """Put each trained weight together, one after the other, and keep it in process 0."""
        whole: dict[int, torch.Tensor] = {}
        trained = [each for each in self.model.parameters() if each.requires_grad]
        for part in trained:
            with self.deepspeed.zero.GatheredParameters([part], enabled=self.stage == 3):
                if group.first():
                    whole[id(part)] = part.detach().cpu().clone()
        for part in trained if group.first() else ():
            part.data = whole[id(part)]
        # Process 0 may call a part of the model as it saves it, which would wait for the others.
        self.engine.destroy()

    def held(self) -> Held:
        """Return what this process holds of weights, gradients and optimizer state."""
        own = list(self.model.parameters())
        # In stage 3 a weight is a shard, and for a while, or if it is small, all of it beside that.
        weights = [*own, *(each.ds_tensor for each in own if hasattr(each, "ds_tensor"))]
        whole = [each.grad for each in own if each.grad is not None]
        inner = self.engine.optimizer
        parts = tensors_of(getattr(inner, "averaged_gradients", None))
        copies = tensors_of([getattr(inner, name, None) for name in COPIES])
        at = {each.data_ptr() for each in weights}
        others = {each.data_ptr(): each for each in copies if each.data_ptr() not in at}
        return held(weights, [*whole, *parts], self.optimizer.state.values(), others.values())


class Stepping(torch.optim.Optimizer):
    """The optimizer as the trainer sees it: DeepSpeed's engine takes its steps."""

    def __init__(self, optimizer: Any, engine: Any) -> None:
        self.__dict__.update(optimizer.__dict__)
        self.wrapped, self.engine = optimizer, engine

    @property
    def param_groups(self) -> Any:
        """Return those that are stepped: reading a checkpoint makes new ones."""
        return self.wrapped.param_groups

    @param_groups.setter
    def param_groups(self, groups: Any) -> None:
        self.wrapped.param_groups = groups

    def step(self, closure: Any = None) -> None:
        """Step the shards, and gather weights where all processes have them."""
        self.engine.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Leave gradients to the engine, which drops them after a step."""


def tensors_of(values: Any) -> list[torch.Tensor]:
    """Return the tensors in nested lists and dicts."""
    if torch.is_tensor(values):
        return [values]
    inner = values.values() if isinstance(values, dict) else values
    return [] if inner is None else [each for one in inner for each in tensors_of(one)]


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep DeepSpeed's log and warnings away."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
