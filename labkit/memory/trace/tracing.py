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
them and cannot be higher than both. Models whose layers differ are traced whole. State-space
models loop over the tokens; for them the same is done along the length.

**For a GPU, without one.** Fake tensors live on the `cpu` device, because a CPU build of PyTorch
cannot even pretend to have another; that device takes the flash-attention path as a GPU does.
What kernels take inside themselves, and what a GPU does differently, is gathered in `cpu_paths` and
`gpu_paths`; a GPU's allocator rounds up to 512 bytes.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from labkit.console import quiet
from labkit.errors import LabkitError
from labkit.memory.buffers import moment_of, shard
from labkit.memory.settings import StepSettings
from labkit.memory.sharding import PERSISTENT, Sizes
from labkit.memory.step.build import build_step, depth_of, load_config
from labkit.memory.step.imports import collector_paused
from labkit.memory.step.quantised import NF4Linear
from labkit.memory.step.training_step import layer_stacks
from labkit.memory.trace import cpu_paths, gpu_paths, products
from labkit.memory.trace.tracker import PARTS, StorageTracker, Window, replay

SHALLOW = (3, 4)
SHORT = (8, 16)
SCANNED = ("mamba",)


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
        names = self.windows[0].maxima
        return {part: max(window.maxima[part] for window in self.windows) for part in names}

    def timeline(self) -> tuple[tuple[str, dict[str, int]], ...]:
        """Return each phase in order with its parts at its highest moment, every layer included.

        Layers between those that were traced lie on a straight line between them.
        """
        moments: list[tuple[str, dict[str, int]]] = []
        for window in self.windows:
            phase, index = _place(window.name)
            before, reached = _place(moments[-1][0]) if moments else ("", None)
            if index is not None and phase == before and reached is not None:
                start, gap = moments[-1][1], abs(index - reached)
                for step in range(1, gap):
                    between = {
                        part: round(start[part] + (window.parts[part] - start[part]) * step / gap)
                        for part in start
                    }
                    place = reached + step if index > reached else reached - step
                    moments.append((f"{phase}.{place}", between))
            moments.append((window.name, window.parts))
        return tuple(moments)


def trace(settings: StepSettings, *, extrapolate: bool = True) -> Trace:
    """Trace one training step of `settings` and return its memory by phase and part.

    `extrapolate=False` traces every layer. Raises `LabkitError` for an unknown model or for
    settings that its architecture cannot follow.
    """
    with _explained(settings):
        return _result(settings, *_whole(settings, extrapolate=extrapolate))


def trace_shardings(settings: StepSettings, shardings: Iterable[str]) -> dict[str, Trace]:
    """Return the traces of a step under several shardings, in the time of one.

    Sharded steps compute alike and differ in what a device holds, which is worked out afterwards;
    `none`, under which labkit trains with autocast, is not among them. Raises `LabkitError` as
    `trace`.
    """
    steps = {name: dataclasses.replace(settings, sharding=name) for name in shardings}
    if "none" in steps:
        raise LabkitError("a step without sharding computes otherwise: trace it by itself")
    with _explained(settings):
        whole = _whole(next(iter(steps.values())), extrapolate=True)
        return {name: _result(each, *whole) for name, each in steps.items()}


@contextmanager
def _explained(settings: StepSettings) -> Iterator[None]:
    try:
        with collector_paused():
            yield
    except LabkitError:
        raise
    except Exception as error:
        # Models outside the registry may do what shapes alone cannot follow.
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LabkitError(
            f"a step of {settings.model} with method {settings.method} cannot be traced: {first}"
        ) from error


def _whole(settings: StepSettings, *, extrapolate: bool) -> "tuple[_Traced, int, tuple[int, ...]]":
    """Return the trace on a device with everything, the model's layers and those traced."""
    config = load_config(settings)
    depth = depth_of(config)
    at_depth = _trace_at
    if extrapolate and config.model_type in SCANNED:
        at_depth = _trace_short
    if extrapolate and depth > SHALLOW[1] and _layers_alike(config):
        traced = [at_depth(settings, layers) for layers in SHALLOW]
        names = _names_at(traced[1], depth)
        pairs = [tuple(_at_place(each, name, depth) for each in traced) for name in names]
        times = (depth - SHALLOW[0]) / (SHALLOW[1] - SHALLOW[0])
        whole = _extrapolate(names, pairs, traced, times)
        return whole, depth, SHALLOW
    return at_depth(settings, depth), depth, (depth,)


@dataclass(frozen=True, kw_only=True)
class _Traced:
    depth: int
    windows: dict[str, Window]
    total: int
    trainable: int
    layer: int
    """parameters of one layer, without what a method adds"""
    weight: int
    """the largest of them"""
    small: int
    """all weights of up to `PERSISTENT` elements together"""
    tied: bool
    stacks: int


def _trace_at(settings: StepSettings, depth: int) -> _Traced:
    config = load_config(settings, depth=depth)
    # Small constants of libraries, such as a table of quantisation levels, are taken as they are.
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    on_gpu = settings.target == "cuda"

    def allocate(shape: Any, dtype: torch.dtype) -> torch.Tensor:
        with mode:
            return torch.empty(shape, dtype=dtype, device="cpu")

    with gpu_paths.code_paths(settings), products.in_every_type(), quiet():
        step = build_step(
            settings, config, allocate, recompute=lambda: gpu_paths.functions(settings)
        )
        tracker = StorageTracker(
            round_to=gpu_paths.GRANULARITY if on_gpu else 1,
            workspaces=(gpu_paths if on_gpu else cpu_paths).workspaces(),
        )
        trainable = step.trainable()
        with mode, tracker:
            frozen = [p for p in step.model.parameters() if not p.requires_grad]
            tracker.watch([*frozen, *step.model.buffers()], "weights")
            tracker.watch(step.of_reference(), "weights")
            tracker.watch(trainable, "weights" if settings.tuner.trains_base else "added_weights")
            tracker.watch([*step.inputs.values(), step.labels], "inputs")
            step.make_optimizer_state()
            for state in step.optimizer.state.values():
                tracker.watch(state.values(), "optimizer_state")

            def mark(name: str) -> None:
                if name == "optimizer":
                    tracker.watch([p.grad for p in trainable], "gradients")
                tracker.mark(name)

            step.run(mark, accumulated=1)
        windows = replay(tracker)
    of_layer = _layer_parameters(step.model)
    if on_gpu:
        windows = [_with_workspace(window, settings.cublas_workspace_bytes) for window in windows]
    return _Traced(
        depth=depth,
        windows={window.name: window for window in windows},
        total=_total_parameters(step.model),
        trainable=sum(p.numel() for p in trainable),
        layer=sum(of_layer),
        weight=max(of_layer, default=0),
        small=sum(n for n in map(torch.numel, step.model.parameters()) if n <= PERSISTENT),
        tied=bool(getattr(config, "tie_word_embeddings", False)),
        stacks=len(layer_stacks(step.model)),
    )


def _layer_parameters(model: Any) -> list[int]:
    """Return the elements of each weight of a layer, without what LoRA adds."""
    stacks = [stack[0] for stack in layer_stacks(model)]
    named = [each for layer in stacks for each in layer.named_parameters()]
    return [p.numel() for name, p in named if "lora_" not in name]


def _total_parameters(model: torch.nn.Module) -> int:
    """Return the parameters of a model, tied ones once, packed ones as what they stand for."""
    packed = {
        id(module.weight): module.in_features * module.out_features
        for module in model.modules()
        if isinstance(module, NF4Linear)
    }
    return sum(packed.get(id(each), each.numel()) for each in model.parameters())


def _trace_short(settings: StepSettings, depth: int) -> _Traced:
    """Return the trace of a model that scans its input token by token, from two short inputs.

    Such a model has nothing that grows with the square of the length, so memory is affine in the
    length as well as in the depth, and a thousand steps of a loop need not be traced.
    """
    shortest = settings.labelled_tokens or 0
    lengths = [shortest + step for step in SHORT]
    if settings.seq_len <= lengths[1]:
        return _trace_at(settings, depth)
    traced = [_trace_at(dataclasses.replace(settings, seq_len=length), depth) for length in lengths]
    names = list(traced[0].windows)
    pairs = [tuple(each.windows[name] for each in traced) for name in names]
    times = (settings.seq_len - lengths[0]) / (lengths[1] - lengths[0])
    return _extrapolate(names, pairs, traced, times)


def _result(settings: StepSettings, traced: _Traced, depth: int, depths: tuple[int, ...]) -> Trace:
    windows = tuple(traced.windows.values())
    if settings.num_gpus > 1:
        windows = tuple(_sharded(settings, traced, depth, window) for window in windows)
    return Trace(
        settings=settings,
        windows=windows,
        layers=depth,
        traced_layers=depths,
        total_parameters=traced.total,
        trainable_parameters=traced.trainable,
    )


def _sharded(settings: StepSettings, traced: _Traced, depth: int, window: Window) -> Window:
    """Return a window as one of several devices sees it: states by formula, the rest as traced."""
    added = 0 if settings.tuner.trains_base else traced.trainable
    root = traced.total - added - depth * traced.layer
    sizes = Sizes(
        total=traced.total - added,
        trainable=traced.trainable,
        layer=traced.layer,
        root=root,
        layers=depth,
        weight=traced.weight,
        small=traced.small,
        tied=traced.tied,
    )
    moment = moment_of(*_place(window.name), depth=depth, stacks=traced.stacks)
    parts = shard(settings, sizes, window.parts, moment)
    return dataclasses.replace(
        window,
        peak_bytes=sum(parts.values()),
        parts=parts,
        maxima=shard(settings, sizes, window.maxima, moment),
    )


def _extrapolate(
    names: list[str], pairs: list[tuple[Window, ...]], traced: list[_Traced], times: float
) -> _Traced:
    """Return what lies `times` the distance between two traces from the first, place by place."""

    def along(one: int, two: int) -> int:
        return round(one + times * (two - one))

    windows = {}
    for name, (one, two) in zip(names, pairs, strict=True):
        windows[name] = Window(
            name=name,
            peak_bytes=along(one.peak_bytes, two.peak_bytes),
            parts={part: along(one.parts[part], two.parts[part]) for part in PARTS},
            maxima={part: along(one.maxima[part], two.maxima[part]) for part in PARTS},
            operation=two.operation,
        )
    return dataclasses.replace(
        traced[0],
        windows=windows,
        depth=traced[1].depth,
        total=along(traced[0].total, traced[1].total),
        trainable=along(traced[0].trainable, traced[1].trainable),
        small=along(traced[0].small, traced[1].small),
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
    if getattr(config, "num_decoder_layers", None) not in (None, config.num_hidden_layers):
        return False
    return len(set(getattr(config, "layer_types", None) or [None])) == 1


def _with_workspace(window: Window, workspace_bytes: int) -> Window:
    """Return the window with what cuBLAS keeps from its first product on."""

    def add(parts: dict[str, int]) -> dict[str, int]:
        return {**parts, "temporary": parts["temporary"] + workspace_bytes}

    return dataclasses.replace(
        window,
        peak_bytes=window.peak_bytes + workspace_bytes,
        parts=add(window.parts),
        maxima=add(window.maxima),
    )
