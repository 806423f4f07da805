"""One training step traced without memory: shapes go through the real model, storages do not.

Under `FakeTensorMode` a tensor has a shape, a type and a device, and no data. The real model
class runs a real forward, backward and optimizer step on such tensors, PyTorch's own autograd
decides what is kept for backward, and a tracker adds up the storages. Nothing is modelled, so
nothing is forgotten.

**In seconds.** Layers are alike, so at a fixed place of the step (the forward of the second
layer, the backward of the last but one) memory is affine in the number of layers L: everything
held there is a constant plus so much per layer. Two small depths give both numbers:

    M(L) = M(3) + (L − 3)·(M(4) − M(3))       at each place on its own

The place that holds the peak may change with L, so places are extrapolated first and the maximum
is taken last. Places between the second layer and the last but one lie on a straight line between
them and cannot be higher than both. Models whose layers differ are traced whole.

**For a GPU, without one.** Fake tensors live on the `cpu` device, because a CPU build of PyTorch
cannot even pretend to have another; that device takes the flash-attention path as a GPU does.
What a GPU's kernels take inside themselves is added (`WORKSPACES`), allocations round up to 512
bytes (`c10/cuda/CUDACachingAllocator.cpp`, kMinBlockSize), and code that asks for the device's
type is told what a GPU would hear.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from labkit.memory.build import build_step, depth_of, load_config
from labkit.memory.quantised import NF4Linear
from labkit.memory.settings import StepSettings
from labkit.memory.tracker import PARTS, StorageTracker, Window, replay

SHALLOW = (3, 4)
CUDA_GRANULARITY = 512
# cuBLAS keeps one workspace for the thread of the forward and one for that of the backward pass:
# ":4096:2:16:8" KiB by default (PyTorch, aten/src/ATen/cuda/CublasHandlePool.cpp).
CUBLAS_WORKSPACE = 2 * (4096 * 2 + 16 * 8) * 1024


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What a traced step takes. Bytes."""

    settings: StepSettings
    windows: tuple[Window, ...]
    layers: int
    traced_layers: tuple[int, ...]
    """depths that were traced: the model's own, or two small ones it was extrapolated from"""
    total_parameters: int
    trainable_parameters: int

    @property
    def peak(self) -> Window:
        """The window that holds the step's highest moment."""
        return max(self.windows, key=lambda window: window.peak_bytes)

    @property
    def peak_bytes(self) -> int:
        return self.peak.peak_bytes

    @property
    def parts(self) -> dict[str, int]:
        """Each part's own highest value within the step; they do not add up to the peak."""
        return {part: max(window.maxima[part] for window in self.windows) for part in PARTS}


def trace(settings: StepSettings, *, extrapolate: bool = True) -> Trace:
    """Trace one training step of `settings` and return its memory by phase and part.

    `extrapolate=False` traces every layer. Raises `LabkitError` for an unknown model or for
    settings that its architecture cannot follow.
    """
    config = load_config(settings)
    depth = depth_of(config)
    if extrapolate and depth > SHALLOW[1] and _layers_alike(config):
        small, large = (_trace_at(settings, layers) for layers in SHALLOW)
        return _extrapolate(settings, small, large, depth)
    return _whole(settings, _trace_at(settings, depth))


@dataclass(frozen=True, kw_only=True)
class _Traced:
    depth: int
    windows: dict[str, Window]
    total: int
    trainable: int


def _trace_at(settings: StepSettings, depth: int) -> _Traced:
    config = load_config(settings, depth=depth)
    # Small constants of libraries, such as a table of quantisation levels, are taken as they are.
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    on_gpu = settings.target == "cuda"

    def allocate(shape: Any, dtype: torch.dtype) -> torch.Tensor:
        with mode:
            return torch.empty(shape, dtype=dtype, device="cpu")

    with _code_paths(settings):
        step = build_step(settings, config, allocate)
        tracker = StorageTracker(
            round_to=CUDA_GRANULARITY if on_gpu else 1,
            workspaces=_workspaces() if on_gpu else None,
        )
        trainable = step.trainable()
        with mode, tracker:
            frozen = [p for p in step.model.parameters() if not p.requires_grad]
            tracker.watch([*frozen, *step.model.buffers()], "weights")
            tracker.watch(trainable, "weights" if settings.method == "full" else "added_weights")
            tracker.watch([*step.inputs.values(), step.labels], "inputs")
            step.make_optimizer_state()
            for state in step.optimizer.state.values():
                tracker.watch(state.values(), "optimizer_state")

            def mark(name: str) -> None:
                if name == "optimizer":
                    tracker.watch([p.grad for p in trainable], "gradients")
                tracker.mark(name)

            step.run(mark)
        windows = replay(tracker)
    if on_gpu:
        windows = [_with_workspace(window) for window in windows]
    return _Traced(
        depth=depth,
        windows={window.name: window for window in windows},
        total=sum(_count(module) for module in step.model.modules()),
        trainable=sum(p.numel() for p in trainable),
    )


def _count(module: torch.nn.Module) -> int:
    """Return the parameters a module holds itself, counting packed weights as what they stand for.

    Tied weights are counted where they are held first.
    """
    if isinstance(module, NF4Linear):
        return module.in_features * module.out_features
    return sum(p.numel() for p in module._parameters.values() if p is not None)


def _whole(settings: StepSettings, traced: _Traced) -> Trace:
    return Trace(
        settings=settings,
        windows=tuple(traced.windows.values()),
        layers=traced.depth,
        traced_layers=(traced.depth,),
        total_parameters=traced.total,
        trainable_parameters=traced.trainable,
    )


def _extrapolate(settings: StepSettings, small: _Traced, large: _Traced, depth: int) -> Trace:
    """Return the trace of `depth` layers from two shallow ones, place by place."""
    times = (depth - small.depth) / (large.depth - small.depth)

    def at_depth(one: int, two: int) -> int:
        return round(one + times * (two - one))

    windows = []
    for name in _names_at(large, depth):
        one, two = (_at_place(traced, name, depth) for traced in (small, large))
        parts = {part: at_depth(one.parts[part], two.parts[part]) for part in PARTS}
        windows.append(
            Window(
                name=name,
                peak_bytes=at_depth(one.peak_bytes, two.peak_bytes),
                parts=parts,
                maxima={part: at_depth(one.maxima[part], two.maxima[part]) for part in PARTS},
                operation=two.operation,
            )
        )
    return Trace(
        settings=settings,
        windows=tuple(windows),
        layers=depth,
        traced_layers=(small.depth, large.depth),
        total_parameters=at_depth(small.total, large.total),
        trainable_parameters=at_depth(small.trainable, large.trainable),
    )


def _names_at(traced: _Traced, depth: int) -> list[str]:
    """Return the windows' names at another depth: the first two layers and the last two."""
    names = []
    for name in traced.windows:
        phase, index = _place(name)
        if index is None:
            names.append(name)
        else:
            from_end = traced.depth - 1 - index
            names.append(f"{phase}.{index if index < 2 else depth - 1 - from_end}")
    return names


def _at_place(traced: _Traced, name: str, depth: int) -> Window:
    """Return the window that stands where `name` stands in a model of `depth` layers."""
    phase, index = _place(name)
    if index is None:
        return traced.windows[name]
    return traced.windows[f"{phase}.{index if index < 2 else traced.depth - (depth - index)}"]


def _place(name: str) -> tuple[str, int | None]:
    """Split `forward.0.17` into its phase and its layer; other phases have no layer."""
    phase, _, index = name.rpartition(".")
    if phase.count(".") == 1 and "embedding" not in name:
        return phase, int(index)
    return name, None


def _layers_alike(config: Any) -> bool:
    return len(set(getattr(config, "layer_types", None) or [None])) == 1


def _with_workspace(window: Window) -> Window:
    """Return the window with what cuBLAS keeps from its first product on."""
    def add(parts: dict[str, int]) -> dict[str, int]:
        return {**parts, "temporary": parts["temporary"] + CUBLAS_WORKSPACE}

    return dataclasses.replace(
        window,
        peak_bytes=window.peak_bytes + CUBLAS_WORKSPACE,
        parts=add(window.parts),
        maxima=add(window.maxima),
    )


def _workspaces() -> dict[Any, Any]:
    """Return what CUDA kernels take inside themselves, by the operation that stands for them."""
    aten = torch.ops.aten

    def flash_backward(gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, *_: Any) -> int:
        # FlashAttention-2 sums dQ in fp32 and keeps the row sums of dO∘O; with fewer key heads it
        # makes dK and dV for every query head first (csrc/flash_attn/flash_api.cpp, mha_bwd).
        batch, heads, length, width = query.shape
        padded = -(-length // 128) * 128
        size = 4 * batch * heads * padded * (-(-width // 32) * 32 + 1)
        if key.shape[1] != heads:
            size += 2 * batch * heads * key.shape[2] * width * key.element_size()
        return size

    workspaces = {
        aten._scaled_dot_product_flash_attention_for_cpu_backward.default: flash_backward
    }
    if hasattr(torch.ops.bitsandbytes, "gemm_4bit"):
        def dequantised(x: torch.Tensor, packed: torch.Tensor, shape: Any, *_: Any) -> int:
            # Batches of training size take the way over a dequantised weight.
            return shape[0] * shape[1] * x.element_size()

        workspaces[torch.ops.bitsandbytes.gemm_4bit.default] = dequantised
    return workspaces


@contextlib.contextmanager
def _code_paths(settings: StepSettings) -> Iterator[None]:
    """Let libraries take the way they take on the target device."""
    with contextlib.ExitStack() as stack:
        from transformers import masking_utils
        from transformers.integrations import sdpa_attention

        # Whether positions start anew within a row is asked of their values, which are not there;
        # without an answer a mask is made and the flash kernel is given up.
        stack.enter_context(_replaced(masking_utils, "find_packed_sequence_indices", lambda _: None))
        if settings.repeat_kv:
            stack.enter_context(_replaced(sdpa_attention, "use_gqa_in_sdpa", lambda *_: False))
        if settings.target == "cuda" and settings.loss == "chunked":
            from trl.kernels import chunked_logprob

            # On CUDA a Triton kernel folds each tile in place and a mixed product adds to fp32:
            # neither allocates, unlike the torch operations that TRL uses on a CPU.
            for name in ("_forward_tile", "_backward_tile", "_addmm_fp32"):
                stack.enter_context(_replaced(chunked_logprob, name, lambda *_, **__: None))
        yield


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)
