"""What makes a training step on a CPU fast, each trick small and with its reason.

A stock step on two cores uses about a quarter of what the matrix units give. The rest goes to
work nobody asked for, and each of these takes a part of it away:

* **Allocator.** glibc returns every large block to the kernel and asks for it again in the next
  layer; the kernel then clears each page anew. Told to keep what it has, it does not (`mallopt`).
* **Logits where there is a loss.** Answers are a tenth of the tokens. The output head is the
  largest matrix of a small model, so it is applied to labelled positions alone: the loss is
  the same sum.
* **Attention.** PyTorch's fused attention has a slow bfloat16 backward on CPUs. For short samples
  plain matrix products are faster; they store b·heads·s² probabilities, so long samples keep
  the fused kernel. In float32 the fused kernel is the faster one at any length: LoRA on 8 samples
  of 160 tokens took 6.9 s a step with it and 8.2 s with plain products (two AVX2 threads).
* **Compilation.** `torch.compile` fuses the elementwise work of each decoder layer (norms,
  rotary embedding, SwiGLU, casts, residual). Compiled code is cached on disk between runs. It pays
  most where the products are fast and in bfloat16, with its casts. In float32 on AVX2 the products
  are three quarters of the step: compiled, LoRA on 8 samples of 160 tokens took 7.1 s of processor
  time instead of 7.6, after a first step of half a minute more, so only a longer run is compiled.
* **Shared prompts.** All questions on a report share one sequence that holds the report once
  (`datasets.sharing`): the same sum of losses for less than half the tokens.
* **Batches of like length.** Padding is computed too; batches of similar samples have little.

None of them changes what is computed beyond rounding. On a machine that lacks one (no glibc, no
C++ compiler, a GPU) it stays off, and `plan` says so.

Shape suffixes: B sequences, L tokens, D hidden size, V vocabulary, N labelled tokens, 1 broadcast.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labkit.machine import arithmetic, compiled_code
from labkit.machine.heap import keeps_heap
from labkit.methods import BASES, METHODS, virtual_tokens
from labkit.runs.config import RunConfig

if TYPE_CHECKING:
    import torch
    from torch import nn

EAGER_ATTENTION_MAX_LENGTH = 512
COMPILE_MIN_STEPS = {"bfloat16": 60, "float32": 240}
"""steps from which compiling pays, by the type that is computed in"""
TAKES_ANY_MASK = ("llama", "gemma", "phi", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which tricks a run uses; `notes` says in a sentence each what was left off and why."""

    attn_implementation: str
    compile_layers: bool
    labelled_logits: bool
    group_by_length: bool
    share_prompts: bool
    keep_heap: bool
    notes: tuple[str, ...] = ()


def shares_prompts(config: RunConfig, model_type: str) -> bool:
    """Whether questions on one report share a sequence: attention must take any mask."""
    return (
        config.fast
        and config.share_prompts
        and model_type in TAKES_ANY_MASK
        and config.attn_implementation != "flash_attention_2"
    )


def plan(
    config: RunConfig, *, steps: int, longest: int, cuda: bool, model_type: str = "llama",
    encoder_decoder: bool = False,
) -> Plan:  # fmt: skip
    """Choose the tricks for a run of `steps` steps whose longest sequence has `longest` tokens.

    An encoder-decoder's loss is its own: all that its decoder writes has a label.
    """
    notes = []
    narrow = arithmetic.resolve(config.dtype, "cuda" if cuda else "cpu") == "bfloat16"
    attention = config.attn_implementation
    if attention == "auto":
        short = longest <= EAGER_ATTENTION_MAX_LENGTH
        attention = "eager" if config.fast and narrow and not cuda and short else "sdpa"
        if not has_fused_attention(model_type):
            attention = "eager"
    from labkit.switchback import levels  # which imports torch

    compiles = config.torch_compile == "on"
    if config.torch_compile == "auto" and config.fast and not cuda:
        compiles = steps >= COMPILE_MIN_STEPS["bfloat16" if narrow else "float32"]
    if compiles and BASES[config.base].quantised:
        notes.append(f"layers of base {config.base} are not compiled: bitsandbytes multiplies them")
        compiles = False
    if compiles and encoder_decoder:
        notes.append("layers of an encoder-decoder are not compiled: they come in two kinds")
        compiles = False
    if compiles and METHODS[config.method].virtual_tokens == "cache":
        notes.append("layers that read a prefix are not compiled: each has a place in its cache")
        compiles = False
    if compiles and not cuda and not levels.compiler():
        notes.append("no C++ compiler was found, so decoder layers run uncompiled")
        compiles = False
    if config.fast and not cuda and not keeps_heap():
        notes.append("this is not glibc, so its allocator keeps its own settings")
    return Plan(
        attn_implementation=attention,
        compile_layers=compiles,
        labelled_logits=config.fast and not encoder_decoder,
        group_by_length=config.fast,
        share_prompts=shares_prompts(config, model_type),
        keep_heap=config.fast and not cuda and keeps_heap(),
        notes=tuple(notes),
    )


def has_fused_attention(model_type: str) -> bool:
    """Say whether transformers' class for a model type takes fused attention; Bloom's does not."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    if model_type not in CONFIG_MAPPING:  # the loader says what is wrong with it
        return True
    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(CONFIG_MAPPING[model_type], None)
    return bool(getattr(kind, "_supports_sdpa", True))


def compile_layers(model: "nn.Module") -> int:
    """Compile each decoder layer in place, for any batch shape; return how many.

    Layers share one compiled graph, so thirty cost as much as one. The parameters' names stay
    as they are, so checkpoints do too.
    """
    from labkit.files import name_user

    name_user()
    import torch
    from transformers.modeling_layers import GradientCheckpointingLayer

    compiled_code.keep_apart()
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    for layer in layers:
        layer.compile(dynamic=True)
    return len(layers)


def labelled_logits(
    model: "nn.Module", inputs: "dict[str, Any]"
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return the logits (N, V) that predict the N labelled tokens, and those tokens (N,).

    `inputs` holds input_ids and labels, each (batch, length), and attention_mask, or for shared
    prompts position_ids and segment_ids.
    """
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone = {k: v for k, v in inputs.items() if k not in ("labels", "num_items_in_batch")}
    if "segment_ids" in backbone:
        backbone["attention_mask"] = _shared_mask(base, backbone.pop("segment_ids"))
    backbone, extra = virtual_tokens.put_before(model, backbone)
    states_BLD = base.base_model(**backbone, use_cache=False).last_hidden_state
    hidden_BLD = states_BLD[:, extra:-1]
    labels_BL = inputs["labels"][:, 1:]
    scored_BL = labels_BL != -100
    return base.get_output_embeddings()(hidden_BLD[scored_BL]), labels_BL[scored_BL]


def _shared_mask(base: Any, segment_ids_BL: "torch.Tensor") -> "torch.Tensor":
    """Return the mask of shared prompts as the model's attention wants it."""
    import torch

    from labkit.datasets.sharing import attention_mask

    allowed_B1LL = attention_mask(segment_ids_BL)
    if base.config._attn_implementation != "eager":
        return allowed_B1LL
    dtype = base.get_input_embeddings().weight.dtype
    if torch.is_autocast_enabled(segment_ids_BL.device.type):
        dtype = torch.get_autocast_dtype(segment_ids_BL.device.type)
    return torch.zeros((), dtype=dtype).where(allowed_B1LL, torch.finfo(dtype).min)


def labelled_loss(
    model: "nn.Module", inputs: "dict[str, Any]", num_items: "torch.Tensor | int | None"
) -> "torch.Tensor":
    """Return the mean next-token cross-entropy, with logits only where there is a label.

    The sum runs over labelled positions and is divided by `num_items`, the labels of the whole
    optimizer step, or by this batch's own. Equal to `model(**inputs).loss` up to rounding.
    """
    import torch

    logits_NV, labels_N = labelled_logits(model, inputs)
    total = torch.nn.functional.cross_entropy(logits_NV.float(), labels_N, reduction="sum")
    return total / (max(labels_N.numel(), 1) if num_items is None else num_items)


@contextlib.contextmanager
def scored_positions() -> Iterator[None]:
    """Let TRL's log-probabilities be computed where there is a label, on a CPU as on a GPU.

    Elsewhere TRL scores every position and drops most of them, to keep shapes the same for
    compilers. The numbers that are kept are the same.
    """
    from trl.trainer import utils

    on_device, utils._use_triton = utils._use_triton, lambda device: True
    try:
        yield
    finally:
        utils._use_triton = on_device


def has_plain_logits(model: "nn.Module", inputs: "dict[str, Any]") -> bool:
    """Whether the model's own logits are those of `labelled_logits`.

    They are not where a model caps or scales its logits.
    """
    import torch

    with torch.no_grad():
        ours_NV, _ = labelled_logits(model, inputs)
        own_BLV = model(**{k: v for k, v in inputs.items() if k != "labels"}).logits
    # PEFT gives virtual tokens of the input logits as well.
    own_BLV = own_BLV[:, virtual_tokens.rows(model) : -1]
    labels_BL = inputs["labels"][:, 1:]
    if own_BLV.shape[:2] != labels_BL.shape:
        return False
    own_NV = own_BLV[labels_BL != -100].float()
    largest_difference = (own_NV - ours_NV.float()).abs().max()
    return bool(largest_difference <= 0.02 * own_NV.abs().max())
