"""Who shares what among the processes that train together.

Without an engine each process has everything and PyTorch's DistributedDataParallel adds up the
gradients (accelerate puts it around the model). An engine takes a trainer's model apart:

    FullyShard    PyTorch's FSDP2, `fully_shard`: weights, gradients and optimizer state, 1/N each
    Zero          DeepSpeed's ZeRO, stage 1 to 3 (`deepspeed_engine`)

accelerate would do FSDP on a GPU alone: on a CPU it trains plainly and says nothing. So labkit
shards by itself, in the same way on both, and `held` says afterwards what the tensors show and not
what was asked for.
"""

from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from labkit.train.sharded import group
from labkit.train.sharded.held import Held, held_plainly


class Engine(Protocol):
    """What shares a trainer's training state; one that was prepared trains on as the trainer does.

    `backward(loss)` and the trainer's optimizer take a step; the gradient is the mean over
    processes. `save` and `load` are called in all of them, `gather` as well: afterwards process 0
    has every trained weight in full, and can save the model.
    """

    def prepare(self, trainer: Any) -> Any:
        """Share the trainer's model, give the trainer its optimizer, return what is called."""

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Add to the gradients; `last` of those that the next optimizer step uses."""

    def clip(self, model: Any, most: float) -> Any:
        """Scale the gradients down to the norm `most` and return their norm."""

    def save(self, folder: Path) -> None:
        """Write what is trained and the optimizer's state, each process its shard."""

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""

    def gather(self) -> None:
        """Put each trained weight together in process 0."""

    def held(self) -> Held:
        """Return what this process holds of weights, gradients and optimizer state."""


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Return a model's layers, those that it could checkpoint one by one."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [each for each in model.modules() if isinstance(each, GradientCheckpointingLayer)]


class FullyShard:
    """FSDP2: a layer's weights are gathered while it computes, and its gradients scattered after.

    Source: Zhao et al. 2023, "PyTorch FSDP"; `torch.distributed.fsdp.fully_shard`.
    """

    def prepare(self, trainer: Any) -> Any:
        """Shard every layer and then what is outside the layers."""
        self.model: Any = trainer.model
        mesh = init_device_mesh(trainer.args.device.type, (group.size(),))
        policy = MixedPrecisionPolicy()
        # Full weights are kept in float32 and computed with in 16 bit. Adapters are not worth it,
        # and packed 4-bit weights are bytes, which have no other type.
        if trainer.args.bf16 and all(each.requires_grad for each in self.model.parameters()):
            policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for layer in layers_of(self.model):
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(self.model, mesh=mesh, mp_policy=policy)
        self.optimizer = trainer.create_optimizer()
        # A group without weights, as that of norms beside LoRA, would come back without settings.
        self.optimizer.param_groups[:] = [
            each for each in self.optimizer.param_groups if each["params"]
        ]
        # Automatic mixed precision, and no DistributedDataParallel around it.
        return trainer.accelerator.prepare_model(
            self.model, device_placement=False, evaluation_mode=True
        )

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Add to the gradients, which are scattered each time: nobody has room for all of them."""
        loss.backward()

    def clip(self, model: Any, most: float) -> Any:
        """Scale the gradients down to the norm `most` and return their norm."""
        norm: Any = nn.utils.clip_grad_norm_(model.parameters(), most)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def save(self, folder: Path) -> None:
        """Write shards in the format of torch.distributed.checkpoint."""
        dcp.save(self._state(), checkpoint_id=folder)

    def load(self, folder: Path) -> None:
        """Read shards that any number of processes wrote."""
        state = self._state()
        dcp.load(state, checkpoint_id=folder)  # into the weights themselves
        set_optimizer_state_dict(self.model, self.optimizer, state["optim"])

    def gather(self) -> None:
        """Put each trained weight together, one after the other, and keep it in process 0."""
        self._put_back()
        whole: dict[int, nn.Parameter] = {}
        for name, part in list(self.model.named_parameters(remove_duplicate=False)):
            if not isinstance(part, DTensor) or not part.requires_grad:
                continue
            if id(part) not in whole:
                full = part.full_tensor().detach().cpu()
                whole[id(part)] = nn.Parameter(full if group.first() else full.new_empty(0))
            owner, _, last = name.rpartition(".")
            self.model.get_submodule(owner)._parameters[last] = whole[id(part)]

    def held(self) -> Held:
        """Return what this process holds of weights, gradients and optimizer state."""
        return held_plainly(self.model.parameters(), self.optimizer)

    def _put_back(self) -> None:
        """Let go of whole weights: after an evaluation those of the root wait for a backward."""
        for each in self.model.modules():
            if isinstance(each, FSDPModule):
                each.reshard()

    def _state(self) -> dict[str, Any]:
        """Return what a checkpoint holds; what is frozen is in the model that training starts from.

        A weight with two names has the first.
        """
        self._put_back()
        trained = {name: each for name, each in self.model.named_parameters() if each.requires_grad}
        return {"model": trained, "optim": get_optimizer_state_dict(self.model, self.optimizer)}


def engine_of(sharding: str, config: Any) -> Engine | None:
    """Return the engine for a `sharding`; None where each process has everything.

    Raises:
        LabkitError: DeepSpeed is asked for and not installed, or its file is not right.
    """
    if sharding == "none":
        return None
    if sharding == "fsdp2":
        return FullyShard()
    from labkit.train.sharded.deepspeed_engine import Zero

    return Zero(int(sharding[-1]), config)
