"""What a training step takes, by formula, part by part and phase by phase.

Two things make an estimate wrong by tens of per cent: a forgotten part, and adding parts that
never meet. With L layers, N = batch × length tokens, V the vocabulary, P parameters of which T
train, and A bytes that a layer keeps per token (`activations`):

    states         weights + added weights + optimizer state; there all the time
    forward ends   states + copies + L·A·N + logits
    head backward  states + copies + L·A·N + gradient of the logits
    last backward  states + copies + L·A·N + one layer's own
    first backward states + gradients of T + one layer's own, or of the embedding
    optimizer      states + gradients of T + what the optimizer makes for itself

and the peak is the highest of the five (`preferences` has a sixth, and two stacks of layers have
moments of their own: `encoder_decoder`). Gradient checkpointing replaces
L·A·N by L·h·N plus one A·N: a layer's input for each, and all of one layer while it is computed
again. With accumulated gradients those of T are there from the start.

**The rule of 18 bytes per parameter** (mixed precision with Adam, as in Rajbhandari et al. 2020,
ZeRO, section 3.1) counts, line by line: fp32 weight 4, its 16-bit copy 2, gradient 4, first moment
4, second moment 4. Autocast lets a copy go when the backward pass has used it, before its weight
has a gradient, so that only 16 of the 18 are ever there at once; with accumulated gradients all
are. The rule says nothing of activations and logits, which for short answers and a small batch are
little, and otherwise most of it. `RULE_OF_18` holds the lines.

Optimizer state per trained element: AdamW two moments in the weight's type; 8-bit AdamW two
bytes, and two fp32 scales per block of 256 (Dettmers et al. 2022); Adafactor one row and one
column per matrix (Shazeer & Stern 2018); SGD without momentum nothing. What the step makes for
itself: the fused kernel nothing; `foreach` one more copy of T, the root of the second moment; the
loop two copies of the largest tensor. Nothing here imports PyTorch.
"""

from dataclasses import dataclass, replace

from labkit.memory import encoder_decoder
from labkit.memory.account import residual_bytes
from labkit.memory.activations import (
    kept_before,
    kept_per_token,
    unsaved_inputs_per_token,
)
from labkit.memory.architectures import (
    Shape,
    added_matrices,
    block_weights,
    parameters,
    quantised_weights,
    shape_of,
)
from labkit.memory.buffers import Moment, buffers, most, shard_phases
from labkit.memory.preferences import reference_bytes, reference_pass
from labkit.memory.settings import BYTES, StepSettings
from labkit.memory.sharding import PERSISTENT, Sizes, state_bytes, trained_bytes
from labkit.memory.temporaries import forward_temporary_bytes, layer_temporary_bytes
from labkit.models import layers

RULE_OF_18 = {
    "weight in fp32": 4,
    "copy of the weight in 16 bit": 2,
    "gradient in fp32": 4,
    "first moment of Adam in fp32": 4,
    "second moment of Adam in fp32": 4,
}
TILE_TOKENS, TILE_VOCABULARY = 4096, 32_768


@dataclass(frozen=True, kw_only=True)
class Analytic:
    """Parts and phases of a step by formula. Bytes."""

    settings: StepSettings
    parts: dict[str, int]
    """each part's own highest value; the names are those of `tracker.PARTS`"""
    phases: dict[str, int]
    """the highest moment of each phase"""
    total_parameters: int
    trainable_parameters: int

    @property
    def peak_phase(self) -> str:
        return max(self.phases, key=lambda name: self.phases[name])

    @property
    def peak_bytes(self) -> int:
        return self.phases[self.peak_phase]


def analytic(settings: StepSettings) -> Analytic | None:
    """Return the memory of one step by formula, or None for an architecture without formulas."""
    shape = shape_of(settings)
    if shape is None:
        return None
    asked = settings
    if shape.decoder_linears and settings.target_len is None:
        settings = replace(settings, target_len=settings.seq_len)
    total = parameters(shape)
    added = added_parameters(shape, settings)
    trainable = total if settings.tuner.trains_base else added
    parts = {
        "weights": weight_bytes(shape, settings),
        "added_weights": added * BYTES[settings.added_dtype],
        "weight_copies": copied_bytes(shape, settings),
        "gradients": trainable * trained_bytes(settings),
        "optimizer_state": optimizer_state_bytes(shape, settings, trainable),
        "activations": activation_bytes(shape, settings),
        "logits_and_loss": logits_bytes(shape, settings)[1],
        "optimizer_temporary": optimizer_temporary_bytes(shape, settings, trainable),
        "temporary": layer_temporary_bytes(shape, settings),
        "inputs": 8
        * settings.sequences
        * (settings.seq_len + (settings.target_len or settings.seq_len)),
    }
    phases = _phases(shape, settings, parts)
    if settings.num_gpus > 1:
        sizes = sizes_of(shape, settings)
        around = activation_bytes(shape, settings, layers=0)
        sharded = shard_phases(
            settings, sizes, parts, phases, embedding=_embedding_gradient(shape, settings),
            around=around, forward=forward_temporary_bytes(shape, settings))  # fmt: skip
        phases = {name: round(value) for name, value in sharded.items()}
        parts = most(settings, sizes, parts)
    if settings.target == "cuda":
        parts["temporary"] += settings.cublas_workspace_bytes
        phases = {name: value + settings.cublas_workspace_bytes for name, value in phases.items()}
    return Analytic(
        settings=asked,
        parts={name: round(value) for name, value in parts.items()},
        phases={name: round(value) for name, value in phases.items()},
        total_parameters=total + added,
        trainable_parameters=trainable,
    )


def sizes_of(shape: Shape, settings: StepSettings) -> Sizes:
    """Return the elements of a model as sharding sees them."""
    outside = shape.vocab * shape.hidden * (1 if shape.tied else 2)
    layer = (parameters(shape) - outside) // shape.layers
    weights = [x.inputs * x.outputs for x in (*shape.linears, *shape.decoder_linears)]
    added = [rows * columns for rows, columns in added_matrices(shape, settings)]
    return Sizes(
        total=parameters(shape),
        trainable=parameters(shape) if settings.tuner.trains_base else sum(added),
        layer=layer,
        root=parameters(shape) - shape.layers * layer,
        layers=shape.layers,
        weight=max(weights, default=0),
        small=shape.layers * (layer - sum(each for each in weights if each > PERSISTENT))
        + (outside if outside <= PERSISTENT else 0)
        + sum(each for each in added if each <= PERSISTENT),
        tied=shape.tied,
    )


def _phases(shape: Shape, settings: StepSettings, parts: dict[str, int]) -> dict[str, int]:
    forward_logits, backward_logits = logits_bytes(shape, settings)
    base = parts["weights"] + parts["added_weights"] + parts["optimizer_state"] + parts["inputs"]
    gradients, temporary = parts["gradients"], parts["temporary"]
    there = gradients if settings.gradient_accumulation_steps > 1 else 0
    forward = base + there + parts["weight_copies"] + parts["activations"]
    held = forward
    if settings.gradient_checkpointing and settings.tuner.trains_base:
        # The copies go with autocast's cache when the forward pass ends, and are made again.
        again = block_weights(shape) // shape.layers + shape.vocab * shape.hidden
        held += min(again * BYTES[settings.dtype], parts["weight_copies"]) - parts["weight_copies"]
    done = base + gradients
    if settings.hold_logits:
        logits = 4 * shape.vocab * settings.sequences * settings.scored_tokens
        held, done = held + logits, done + logits
    head = 0
    if settings.tuner.trains_base and not there:
        head = shape.vocab * shape.hidden * trained_bytes(settings)
    passed = {
        "forward": forward + temporary,
        "backward.layers": held + head + temporary,
        "backward.end": done + max(temporary, _embedding_gradient(shape, settings)),
    }
    if shape.decoder_linears:
        passed |= encoder_decoder.passes(
            shape, settings, forward=forward, backward=held + head, end=done,
            embedding=_embedding_gradient(shape, settings))  # fmt: skip
    return {
        **passed,
        "loss": forward + forward_logits,
        **reference_pass(shape, settings, before=forward, logits=forward_logits),
        "backward.head": held + max(backward_logits, head + _head_gradient(shape, settings)),
        "optimizer": done + parts["optimizer_temporary"],
    }


def added_parameters(shape: Shape, settings: StepSettings) -> int:
    """Return the parameters that a method adds: r·(in + out) per adapter, or virtual tokens."""
    return sum(rows * columns for rows, columns in added_matrices(shape, settings))


def weight_bytes(shape: Shape, settings: StepSettings) -> int:
    """Return the bytes of the pretrained weights: 4.13 or 4.5 bits in nf4, 8 bits in LLM.int8."""
    total, linear, size = parameters(shape), quantised_weights(shape), BYTES[settings.weight_dtype]
    base = settings.base_weights
    if base.quantised:
        rows = shape.layers * sum(x.outputs for x in (*shape.linears, *shape.decoder_linears))
        packed = base.quantised_bytes(linear, rows, double_quant=settings.double_quant)
        return packed + (total - linear) * size
    return total * size + reference_bytes(shape, settings)


def copied_bytes(shape: Shape, settings: StepSettings) -> int:
    """Return what autocast's 16-bit copies of fp32 weights take, kept until their backward."""
    if not settings.autocast:
        return 0
    if settings.tuner.trains_base:
        copied = block_weights(shape) + shape.vocab * shape.hidden
    else:
        # Virtual tokens are no operand of a product.
        copied = 0 if settings.tuner.virtual_tokens else added_parameters(shape, settings)
    return copied * BYTES[settings.dtype]


def optimizer_state_bytes(shape: Shape, settings: StepSettings, trainable: int) -> int:
    """Return the optimizer's state; see the essay for the bytes per element."""
    kind, size = settings.optimizer_kind, trained_bytes(settings)
    if kind.startswith("adamw_torch"):
        return 2 * size * trainable
    if kind == "adamw_bnb_8bit":
        # The Trainer keeps the moments of embeddings in fp32.
        embedding = shape.vocab * shape.hidden if settings.tuner.trains_base else 0
        return round((trainable - embedding) * (2 + 8 / 256) + 8 * embedding)
    if kind == "adafactor":
        if settings.tuner.trains_base:
            rows = [x.inputs + x.outputs for x in (*shape.linears, *shape.decoder_linears)]
            embeddings = (1 if shape.tied else 2) * (shape.vocab + shape.hidden)
            return 4 * (shape.layers * sum(rows) + embeddings)
        return 4 * sum(rows + columns for rows, columns in added_matrices(shape, settings))
    return 0


def optimizer_temporary_bytes(shape: Shape, settings: StepSettings, trainable: int) -> int:
    """Return what the optimizer step makes for itself and releases."""
    kind, size = settings.optimizer_kind, trained_bytes(settings)
    largest = _largest_trained(shape, settings)
    if kind == "adamw_torch_foreach":
        return size * trainable
    if kind == "adamw_torch_loop":
        return 2 * size * largest
    if kind == "adafactor":
        return (2 * 4 + (8 if size == 2 else 0)) * largest
    return 0


def activation_bytes(shape: Shape, settings: StepSettings, *, layers: int | None = None) -> int:
    """Return what all layers, or so many, hold for backward at the end of the forward pass."""
    tokens = settings.sequences * settings.positions
    if shape.decoder_linears:
        return round(tokens * sum(encoder_decoder.held(shape, settings, layers=layers)))
    full, residual = settings.tuner.trains_base, residual_bytes(shape, settings)
    # The final norm's fp32 copy; what the head reads, if it is trained or stage 3 of ZeRO keeps it.
    around = (4 + residual * (2 if full else settings.sharding == "zero3")) * shape.hidden
    layer, before = kept_per_token(shape, settings), kept_before(shape, settings)
    if settings.gradient_checkpointing:
        layer = residual * shape.hidden
        if settings.base_weights.keeps_inputs:
            layer += unsaved_inputs_per_token(shape, settings)
    count = shape.layers if layers is None else layers
    return round(tokens * (count * layer - (before if count else 0) + around))


def logits_bytes(shape: Shape, settings: StepSettings) -> tuple[int, int]:
    """Return what head and loss hold at most in the forward and in the backward pass.

    Full cross-entropy on an fp32 copy: 16-bit logits, the copy and its log-softmax (10 bytes per
    logit in 16 bit); then log-softmax and two gradients (12). In tiles: one tile of 4096 × 32,768
    products, and the gradient of the hidden states in fp32; a CPU, without TRL's kernel, has fp32
    copies of a tile besides (three going forward, seven and a mask going back).
    """
    size, scored = BYTES[settings.dtype], settings.sequences * settings.scored_tokens
    hidden = scored * shape.hidden * size if settings.labelled_tokens is not None else 0
    if settings.loss == "chunked":
        folded = min(scored, TILE_TOKENS) * min(TILE_VOCABULARY, shape.vocab)
        tile = min(scored, TILE_TOKENS) * TILE_VOCABULARY * size  # however small the vocabulary
        on_cpu = settings.target == "cpu"
        gradient = 4 * scored * shape.hidden + (29 * folded if on_cpu else 0)
        if settings.tuner.trains_base:
            # In fp32, and once more in the weight's type if that is another.
            narrow = trained_bytes(settings) if trained_bytes(settings) < 4 else 0
            gradient += (4 + narrow) * shape.vocab * shape.hidden
        if settings.autocast and settings.tuner.trains_base:
            tile += min(TILE_VOCABULARY, shape.vocab) * shape.hidden * size
        return tile + hidden + (12 * folded if on_cpu else 0), tile + gradient + hidden
    logits = scored * shape.vocab
    # T5 takes its loss from the logits as they are, which autocast makes fp32 anyway.
    if settings.autocast or (settings.upcast_logits and shape.architecture != "t5"):
        return (size if size < 4 else 0) * logits + 8 * logits + hidden, 12 * logits + hidden
    return 2 * size * logits + hidden, 3 * size * logits + hidden


def evaluation_bytes(settings: StepSettings, *, batch_size: int) -> int | None:
    """Return the peak of an evaluation batch between two steps of training.

    Nothing is kept for backward, but all logits are there, 10 bytes each, and the optimizer's
    state stays: often more than a training step whose loss is computed in tiles or at labelled
    positions only.
    """
    shape = shape_of(settings)
    if shape is None:
        return None
    tokens, size = batch_size * settings.seq_len, BYTES[settings.dtype]
    answered = batch_size * _answered(shape, settings, settings.seq_len)
    logits = answered * shape.vocab * (8 + (size if size < 4 else 0))
    tokens = max(tokens, answered)
    if settings.reference != "none":  # whose evaluation takes its loss in tiles
        tokens, logits = 2 * tokens, logits_bytes(shape, settings)[0]
    rows = tokens * (3 * shape.mlp + 4 * shape.hidden) * size
    added = added_parameters(shape, settings)
    trainable = parameters(shape) if settings.tuner.trains_base else added
    held = weight_bytes(shape, settings) + added * BYTES[settings.added_dtype]
    held += copied_bytes(shape, settings) + optimizer_state_bytes(shape, settings, trainable)
    if settings.sharding != "none":
        sizes = sizes_of(shape, settings)
        states = state_bytes(settings, sizes)
        held = sum(states.values()) - states["gradients"]
        held += buffers(settings, sizes, Moment("loss"))
    return held + max(logits, rows)


def kv_cache_bytes(settings: StepSettings, *, batch_size: int, tokens: int) -> int | None:
    """Return the key-value cache of generation: 2 · layers · key width per token and sample.

    A state-space model keeps its state and the convolution's window instead, whatever the length.
    An encoder-decoder keeps keys of the text's `tokens` and of the answer's, `target_len`.
    """
    shape = shape_of(settings)
    if shape is None:
        return None
    size = BYTES[settings.dtype]
    if shape.state:
        return batch_size * shape.layers * shape.mlp * (shape.state + shape.conv) * size
    if shape.decoder_linears:
        tokens += _answered(shape, settings, tokens)
    return layers.kv_cache_bytes(
        shape.layers, shape.keys, tokens=tokens, batch=batch_size, bytes_per_number=size
    )


def _answered(shape: Shape, settings: StepSettings, tokens: int) -> int:
    """Return how many positions have logits: the text's, or those of an answer to it."""
    return (settings.target_len or tokens) if shape.decoder_linears else tokens


def _largest_trained(shape: Shape, settings: StepSettings) -> int:
    if settings.tuner.trains_base:
        return max(shape.vocab * shape.hidden, *(x.inputs * x.outputs for x in shape.linears))
    return max((rows * columns for rows, columns in added_matrices(shape, settings)), default=0)


def _head_gradient(shape: Shape, settings: StepSettings) -> int:
    """Return what is there while the head's weight gets its gradient: 16-bit logit gradients."""
    if not settings.tuner.trains_base or settings.loss == "chunked":
        return 0
    product = shape.vocab * shape.hidden if settings.autocast else 0
    scored = settings.sequences * settings.scored_tokens
    return BYTES[settings.dtype] * (scored * shape.vocab + product)


def _embedding_gradient(shape: Shape, settings: StepSettings) -> int:
    """Return the embedding's dense gradient beside the head's, when both are one weight.

    Their sum is written over the head's if a cast or the tiled loss made it anew, not over a view.
    """
    if not settings.tuner.trains_base or not shape.tied:
        return 0
    anew = settings.autocast or settings.loss == "chunked"
    return (1 if anew else 2) * shape.vocab * shape.hidden * trained_bytes(settings)
