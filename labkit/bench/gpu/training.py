"""Fine-tune all of TinyLlama-1.1B on the card with and without SwitchBack.

The seed project's headline: 9.46 to 10.08 % less time on an A40 at batch 64. One model is trained
by three arms in alternating rounds: `nn.Linear`, `nn.Linear` again, and SwitchBack layers *on the
same parameters*. So weights, data, optimizer and their places in memory are the same for all, and
one model's memory is enough. Otherwise this is `labkit train --method full`: float32 weights,
bfloat16 autocast, fused AdamW, gradients clipped.
"""

from collections.abc import Callable, Iterator
from typing import Any

from labkit.bench import paired
from labkit.bench.gpu.card import Card, out_of_memory
from labkit.bench.paired import BASELINE, CONTROL, Plan
from labkit.bench.switchback.model_step import TINYLLAMA, TINYLLAMA_LAYERS

SEQ_LEN = 512
LARGEST_BATCH = 64
"""As in the seed project."""
WEIGHT_SCALES = ("row", "tensor")
REHEARSED = {
    "hidden_size": 8, "intermediate_size": 4, "num_attention_heads": 2, "num_key_value_heads": 1,
    "vocab_size": 32, "num_hidden_layers": 1,
}  # fmt: skip
REHEARSED_LENGTH, REHEARSED_WIDTH = 4, 8
"""Tokens, and the least width that is converted: two layers, for an interpreter is slow."""


def end_to_end(card: Card, known: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Train with and without SwitchBack, weights scaled by row and by tensor; yield the ratios."""
    if all(f"TinyLlama-1.1B, one scale a {scale}" in known for scale in WEIGHT_SCALES):
        return
    model, batch = _model(card), 1 if card.rehearsal else LARGEST_BATCH
    while batch:
        try:
            _make_step(model, batch, card)()
            break
        except Exception as error:
            if not out_of_memory(error):
                raise
        batch //= 2
        card.empty_cache()
    for scale in WEIGHT_SCALES:
        name = f"TinyLlama-1.1B, one scale a {scale}"
        if name not in known:
            yield name, _race(model, batch, scale, card) if batch else {"out_of_memory": True}


def sizes(card: Card) -> dict[str, Any]:
    """Return TinyLlama-1.1B's sizes, or those of a rehearsal."""
    return REHEARSED if card.rehearsal else {**TINYLLAMA, "num_hidden_layers": TINYLLAMA_LAYERS}


def _model(card: Card) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from labkit.console import quiet

    config = LlamaConfig(**sizes(card), tie_word_embeddings=False, use_cache=False,
                         attn_implementation="sdpa")  # fmt: skip
    with quiet(), torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.to_empty(device=card.target)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.fill_(1.0) if "norm" in name else parameter.normal_(0, 0.02)
    # Its buffers are calculated, not loaded, and were on meta.
    with torch.device(card.target):
        model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.train()


def _make_step(model: Any, batch: int, card: Card) -> Callable[[], None]:
    import torch

    torch.manual_seed(0)
    length = REHEARSED_LENGTH if card.rehearsal else SEQ_LEN
    tokens = torch.randint(model.config.vocab_size, (batch, length), device=card.target)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        with torch.autocast(card.target, dtype=torch.bfloat16):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _race(model: Any, batch: int, scale: str, card: Card) -> dict[str, Any]:
    from torch import nn

    from labkit.switchback import SwitchBackLinear, convert

    least = REHEARSED_WIDTH if card.rehearsal else 1024
    plain = {n: m for n, m in model.named_modules() if type(m) is nn.Linear}
    names = convert(model, min_features=least, weight_scale=scale, backend="triton")
    int8 = {name: model.get_submodule(name) for name in names}
    assert all(isinstance(layer, SwitchBackLinear) for layer in int8.values())
    step = _make_step(model, batch, card)
    rehearsed = Plan(pairs=4, warmup=0, steps=1)
    plan = rehearsed if card.rehearsal else Plan(pairs=8, warmup=1, steps=2)

    def runner(layers: dict[str, Any]) -> Callable[[], dict[str, list[float]]]:
        def run() -> dict[str, list[float]]:
            _use(model, {name: layers[name] for name in names})
            seconds = [card.seconds(step, 1) for _ in range(plan.warmup + plan.steps)]
            return {"seconds": seconds[plan.warmup :], "warmup_seconds": seconds[: plan.warmup]}

        return run

    try:
        step()  # SwitchBack's kernels choose their tiles
        runs = paired.alternate(
            {BASELINE: runner(plain), "switchback": runner(int8), CONTROL: runner(plain)},
            plan.pairs,
        )
    finally:
        _use(model, {name: plain[name] for name in names})
    return {
        **paired.conclude(runs, "switchback"), "batch_size": batch, "weight_scale": scale,
        "seq_len": REHEARSED_LENGTH if card.rehearsal else SEQ_LEN, "converted": len(names),
        "parameters": sum(p.numel() for p in model.parameters()),
    }  # fmt: skip


def _use(model: Any, layers: dict[str, Any]) -> None:
    """Put these modules in their places; their parameters are the model's own."""
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
