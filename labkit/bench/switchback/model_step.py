"""Time a whole fine-tuning step at TinyLlama-1.1B's widths, with as many layers as fit.

What a layer gains is diluted by everything that does not multiply matrices: attention, norms,
SwiGLU, the loss, clipping, the optimizer. So the claim that counts is about a whole step. The
model is a real Llama with hidden size 2048, MLP 5632, 32 heads and 4 key/value heads, random
weights (speed does not depend on them) and fewer layers. Beside two of 22 layers, a vocabulary of
32,000 would be more than half of the parameters instead of an eighth, and head, loss and optimizer
would take that much more of the step. So the vocabulary shrinks with the depth: every share is the
full model's.

Otherwise this is `labkit train --method full`: float32 weights, bfloat16 autocast where that
multiplies faster than float32, fused AdamW, gradients clipped at norm 1, a heap that is kept, and
decoder layers compiled if asked for (as long runs do). SwitchBack's arm differs in one call,
`convert`. Where its weight gradient runs on bfloat16 tiles, its opponent gets the same for the same
layers. Every run is a process of its own and trains from the same weights on the same tokens.
"""

import gc
import platform
from typing import Any

from labkit.bench.paired import Plan, time_run
from labkit.errors import LabkitError
from labkit.machine import hardware
from labkit.memory import architectures
from labkit.memory.settings import StepSettings

TINYLLAMA_LAYERS = 22
BYTES_PER_PARAMETER = 16
"""float32 weight, gradient, and two Adam states"""

TINYLLAMA: dict[str, int] = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32_000,
}
TINY: dict[str, int] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
}


def vocabulary(widths: dict[str, int], layers: int) -> int:
    """Return the vocabulary's share for so many of 22 layers: a multiple of 64, at least that."""
    share = min(1, layers / TINYLLAMA_LAYERS)
    return max(1, round(widths["vocab_size"] * share / 64)) * 64


def parameters(widths: dict[str, int], layers: int) -> int:
    """Return how many parameters a model of these widths has, its vocabulary shrunk with it."""
    changed = {"num_hidden_layers": layers, "vocab_size": vocabulary(widths, layers)}
    shape = architectures.shape_of(
        StepSettings(model="tinyllama-1.1b", method="full", config_overrides={**widths, **changed})
    )
    assert shape is not None
    return architectures.parameters(shape)


def check_memory(spec: dict[str, Any]) -> None:
    """Refuse a model whose states alone do not fit in this machine's free memory."""
    needed = BYTES_PER_PARAMETER * parameters(spec["widths"], spec["layers"])
    free = hardware.memory_available_bytes()
    if needed > 0.8 * free:
        raise LabkitError(
            f"{spec['layers']} layers need {needed / 2**30:.1f} GiB for weights, gradients and "
            f"Adam, and {free / 2**30:.1f} GiB are free: use fewer --layers"
        )


def choose(spec: dict[str, Any]) -> tuple[str, bool]:
    """Return the type in which this model's widest matmul is faster here, and if there are tiles.

    LabkitError: the backend of `spec` is not there.
    """
    import torch

    from labkit.bench.switchback import layers, ways
    from labkit.switchback import SwitchBackLinear, cpu

    SwitchBackLinear(1, 1, backend=spec["backend"])  # builds what the backend needs
    widths = spec["widths"]
    case = {"tokens": spec["batch_size"] * spec["seq_len"], "in_features": widths["hidden_size"],
            "out_features": widths["intermediate_size"]}  # fmt: skip
    slow = ways.slowness(case, layers.DEVICE)
    dtype = min(slow, key=lambda kind: slow[kind])
    tiles = spec["weight_gradient"] == "tiles" and cpu.tiles() and dtype == torch.bfloat16
    return str(dtype).removeprefix("torch."), tiles


def measure_training(
    spec: dict[str, Any], plan: Plan, *, switchback: bool, tiles: bool = False
) -> dict[str, Any]:
    """Train for a few steps; return {seconds, warmup_seconds, converted, parameters}.

    `spec` holds widths, layers, batch_size, seq_len, compiled, weight_scale, weight_gradient,
    backend, min_features, dtype. `tiles` gives SwitchBack's dW to the layers it would have taken.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.initialization import no_init_weights

    from labkit.machine.heap import keep_heap
    from labkit.switchback import convert
    from labkit.train import fast_step

    if platform.libc_ver()[0] == "glibc":
        keep_heap()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    narrow = spec["dtype"] == "bfloat16"
    length = spec["seq_len"]
    size = vocabulary(spec["widths"], spec["layers"])
    short = device == "cpu" and length <= fast_step.EAGER_ATTENTION_MAX_LENGTH
    config = LlamaConfig(
        **{**spec["widths"], "vocab_size": size}, num_hidden_layers=spec["layers"],
        tie_word_embeddings=False, use_cache=False, max_position_embeddings=length,
        attn_implementation="eager" if narrow and short else "sdpa",
    )  # fmt: skip
    # Its own initialisation takes longer than the steps.
    with no_init_weights():
        model = LlamaForCausalLM(config).to(device).train()
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.fill_(1.0) if "norm" in name else parameter.uniform_(-0.03, 0.03)
    converted: list[str] = []
    if switchback:
        converted = convert(model, min_features=spec["min_features"], backend=spec["backend"],
                            weight_gradient=spec["weight_gradient"],
                            weight_scale=spec["weight_scale"])  # fmt: skip
    elif tiles:
        _use_tiles(model, spec["min_features"])
    if spec["compiled"]:
        fast_step.compile_layers(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    input_ids = torch.randint(size, (spec["batch_size"], length), device=device)
    batch = {"input_ids": input_ids, "labels": input_ids.clone()}

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=narrow):
            loss = fast_step.labelled_loss(model, batch, None)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()  # waits for a GPU

    gc.collect()
    timed: dict[str, Any] = dict(time_run(step, plan))
    return {**timed, "converted": len(converted),
            "parameters": sum(p.numel() for p in model.parameters())}  # fmt: skip


def _use_tiles(model: Any, min_features: int) -> None:
    """Compute the weight gradient of the layers that `convert` would take as SwitchBack does."""
    from torch import nn

    from labkit.bench.switchback.ways import TileGradientLinear

    for name, layer in list(model.named_modules()):
        if type(layer) is not nn.Linear or name == "lm_head":
            continue
        if min(layer.in_features, layer.out_features) >= min_features:
            model.set_submodule(name, TileGradientLinear(layer))
