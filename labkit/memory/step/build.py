"""The real model with its optimizer, on tensors of any kind.

The model is built on the `meta` device, where weights cost nothing, adapters are attached, and
every parameter and buffer is then replaced by whatever `allocate` returns: a fake tensor for a
trace, a real one for a measurement. Tied weights stay tied. Only the configuration is read, so
a 70-billion model takes no longer to build than its layers take to be constructed.
"""

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

from labkit.console import quiet, quiet_bitsandbytes
from labkit.errors import LabkitError, nearest
from labkit.memory.architectures import check_method, check_target, config_folder
from labkit.memory.configurations import read_config, whole_config
from labkit.memory.settings import StepSettings
from labkit.memory.step.imports import architecture_known
from labkit.memory.step.quantised import quantise_linears
from labkit.memory.step.training_step import Step
from labkit.methods.base import cast_inputs
from labkit.models import registry
from labkit.models.layers import linear_names

Allocate = Callable[[Sequence[int], torch.dtype], torch.Tensor]


def load_config(settings: StepSettings, *, depth: int | None = None) -> Any:
    """Return the transformers configuration of the settings' model, optionally with other depth.

    Reads numbers only: neither weights nor network for a registry name or a local folder. Raises
    `LabkitError` for an unknown model, an unknown override, or attention the model cannot do.
    """
    import transformers

    with quiet():
        name = settings.model
        if name in registry.known_names():
            spec = registry.spec(name)
            config = transformers.AutoConfig.for_model(spec.architecture, **spec.config)
        else:
            path = config_folder(name) / "config.json"
            config = whole_config(*read_config(path), name)
    check_method(config.model_type, settings)
    check_target(settings, encoder_decoder=config.is_encoder_decoder)
    for key, value in settings.config_overrides.items():
        if not hasattr(config, key):
            raise LabkitError(
                f"config_overrides: {name} has no setting {key!r}: {nearest(key, vars(config))}"
            )
        setattr(config, key, value)
    if depth is not None:
        set_depth(config, depth)
    # Left open, transformers takes sdpa where the architecture has it and eager elsewhere.
    config._attn_implementation = "eager" if settings.attention == "eager" else None
    config.use_cache = False
    return config


def depth_of(config: Any) -> int:
    """Return how many layers the configuration asks for in each of its stacks."""
    return int(config.num_hidden_layers)


def set_depth(config: Any, depth: int) -> None:
    if depth == config.num_hidden_layers:  # T5's two stacks may differ
        return
    config.num_hidden_layers = depth
    if getattr(config, "num_decoder_layers", None) is not None:
        config.num_decoder_layers = depth
    if getattr(config, "layer_types", None):
        with contextlib.suppress(AttributeError):  # where it is computed, it is right by now
            config.layer_types = config.layer_types[:depth]


def build_step(
    settings: StepSettings,
    config: Any,
    allocate: Allocate,
    *,
    recompute: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> Step:
    """Return the step of `settings` for a model of `config`, its tensors from `allocate`.

    `recompute` makes the context in which a checkpointed layer is computed again.

    Raises `LabkitError` for adapter modules that the model does not have, and for methods that
    its architecture cannot do.
    """
    import transformers

    auto = transformers.AutoModelForCausalLM
    if config.is_encoder_decoder:
        auto = transformers.AutoModelForSeq2SeqLM
    with quiet(), torch.device("meta"):
        model: Any = auto.from_config(config, dtype=getattr(torch, settings.weight_dtype))
    reference = copy.deepcopy(model) if settings.reference == "copy" else None
    if reference is not None:
        materialise(reference.requires_grad_(False).eval(), allocate)
    if settings.gradient_checkpointing:
        with quiet():
            model.gradient_checkpointing_enable(
                {
                    "use_reentrant": False,
                    "context_fn": lambda: (contextlib.nullcontext(), recompute()),
                }
            )
    if settings.base_weights.quantised:
        quantise_linears(model, settings)
    model = attach(model, settings)
    materialise(model, allocate)
    model.train()
    inputs, labels = make_batch(settings, config, allocate)
    return Step(
        settings=settings,
        model=model,
        optimizer=make_optimizer(settings, model),
        inputs=inputs,
        labels=labels,
        reference=reference,
    )


def attach(model: Any, settings: StepSettings) -> Any:
    """Return `model` with what the settings' method does to it, added weights in their type."""
    quiet_bitsandbytes()
    tuner, chosen, architecture = settings.tuner, settings.of_method, model.config.model_type
    tuner.check_targets(
        [name for name, _ in linear_names(model)], architecture, chosen,
        key="lora_target_modules", model=settings.model,
    )  # fmt: skip
    # Training all weights needs nothing of PEFT, which a machine may lack.
    known = contextlib.nullcontext() if tuner.trains_base else architecture_known(architecture)
    try:
        with quiet(), known:
            model = tuner.attach(model, chosen, on_meta=True)
    except LabkitError as error:
        raise LabkitError(
            f"method {settings.method} does not work with {settings.model}: {error}"
        ) from error
    cast_inputs(model, settings.cast_adapter_input)
    if not tuner.trains_base:
        dtype = getattr(torch, settings.added_dtype)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
    if settings.sharding == "zero3":
        keep_inputs(model)
    return model


class _Keep(torch.autograd.Function):
    """Passes an output on and keeps what it was made of until its backward pass."""

    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(read)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


def keep_inputs(model: torch.nn.Module) -> None:
    """Make frozen linear layers keep their inputs, as DeepSpeed's do in stage 3 (zero/linear.py).

    PyTorch's keep none: a weight without a gradient does not need it.
    """
    for module in model.modules():
        if type(module) is torch.nn.Linear and not module.weight.requires_grad:
            module.register_forward_hook(lambda _, read, output: _Keep.apply(output, read[0]))


def materialise(model: torch.nn.Module, allocate: Allocate) -> None:
    """Replace every parameter and buffer of `model` by one from `allocate`, keeping ties."""
    memo: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            if id(parameter) not in memo:
                tensor = allocate(parameter.shape, parameter.dtype)
                memo[id(parameter)] = torch.nn.Parameter(
                    tensor, requires_grad=parameter.requires_grad
                )
            module._parameters[name] = memo[id(parameter)]
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = allocate(buffer.shape, buffer.dtype)


def make_batch(
    settings: StepSettings, config: Any, allocate: Allocate
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the inputs and labels of one micro-batch, all of them token 0."""
    shape = (settings.sequences, settings.seq_len)
    inputs = {"input_ids": allocate(shape, torch.int64)}
    if settings.padding:
        inputs["attention_mask"] = allocate(shape, torch.int64)
    labels = allocate((settings.sequences, settings.target_len or settings.seq_len), torch.int64)
    for tensor in (*inputs.values(), labels):
        tensor.zero_()
    if settings.padding:
        # One position of padding has all the mask made that many have.
        inputs["attention_mask"][:, :-1] = 1
    return inputs, labels


def make_optimizer(settings: StepSettings, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer that transformers' Trainer would make, its implementation explicit."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    kind = settings.optimizer_kind
    if kind.startswith("adamw_torch"):
        return torch.optim.AdamW(
            parameters,
            lr=1e-4,
            fused=kind == "adamw_torch_fused",
            foreach=kind == "adamw_torch_foreach",
        )
    if kind == "sgd":
        return torch.optim.SGD(parameters, lr=1e-4, foreach=settings.target == "cuda")
    if kind == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(parameters, lr=1e-4, scale_parameter=False, relative_step=False)
    return _adamw_8bit(parameters, model)


def _adamw_8bit(parameters: list[torch.nn.Parameter], model: torch.nn.Module) -> Any:
    quiet_bitsandbytes()
    import bitsandbytes

    optimizer = bitsandbytes.optim.AdamW8bit(parameters, lr=1e-4)
    # The Trainer keeps the state of embeddings in 32 bit, as bitsandbytes advises.
    manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            manager.register_module_override(module, "weight", {"optim_bits": 32})
    return optimizer
