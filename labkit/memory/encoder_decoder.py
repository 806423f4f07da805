"""What two stacks of layers hold, and when: the encoder's own moments, and the decoder's.

A decoder writes M tokens while its encoder reads N, often many more, so a layer of one is no
measure for a layer of the other. With E and D for what they keep, and S for one matrix of attention
scores (heads × length per token):

    forward, encoder       E + what its last layer makes and releases
    forward, decoder       E + D + the encoder's output + what its last layer makes
    backward, decoder      E + D + what its last layer makes
    backward, encoder      E + what its last layer makes

Where nothing is kept, as with a prefix, of which the encoder knows nothing, a layer makes most at
its scores (three of S in fp32 where attention is written out with dropout; two of S while a mask is
added to the learned distances) or in its MLP. Rows below are those of `activations`, bytes are per
token of the text unless said otherwise. Nothing here imports PyTorch.
"""

from labkit.memory.account import residual_bytes, written_out
from labkit.memory.activations import (
    kept_around_stacks,
    kept_before,
    kept_by_stacks,
    kept_of_method,
    unsaved_inputs_per_token,
)
from labkit.memory.architectures import Shape, adapted
from labkit.memory.settings import BYTES, StepSettings
from labkit.memory.temporaries import of_weights


def held(
    shape: Shape, settings: StepSettings, *, layers: int | None = None
) -> tuple[float, float, float]:
    """Return what is held for backward at the end of the forward pass.

    By the encoder's layers and all before them, by what is between the stacks, and by the decoder.
    """
    count = shape.layers if layers is None else layers
    share = settings.target_share
    encoder, decoder = kept_by_stacks(shape, settings)
    before, between, behind = kept_around_stacks(shape, settings)
    if settings.gradient_checkpointing:
        row = residual_bytes(shape, settings) * shape.hidden
        encoder, decoder = row, share * row
        if settings.base_weights.keeps_inputs:
            encoder += unsaved_inputs_per_token(shape, settings)
        # The first block of each stack makes a table of distances, which all others are given:
        # scores and their mask, for the whole batch.
        before += 4 * BYTES[settings.dtype] * shape.heads * settings.seq_len / settings.batch_size
    if count:
        before -= kept_before(shape, settings)
        behind -= kept_before(shape, settings, decoder=True)
    return before + count * encoder, between, count * decoder + behind


def passes(
    shape: Shape, settings: StepSettings, *, forward: int, backward: int, end: int, embedding: int
) -> dict[str, int]:
    """Return the highest moments of the layers in the forward and in the backward pass, in bytes.

    `forward` and `backward` are there when all layers have been run, and when the first of them is
    gone back through; `end` when there is nothing but gradients, and `embedding` with its own.
    """
    tokens = settings.sequences * settings.positions
    _, between, later = held(shape, settings)
    once = of_weights(shape, settings)
    first = forward - tokens * (later + between - _encoder_forward(shape, settings))
    first += _of_prefix(shape, settings)
    second = forward + tokens * _decoder_forward(shape, settings)
    encoder, decoder = _backward_rows(shape, settings)
    back, last = 0.0, decoder
    if encoder:
        back, last = backward - tokens * (later + between - encoder), encoder
    return {
        "forward": round(max(first, second) + once),
        "backward.layers": round(max(backward + tokens * decoder, back) + once),
        "backward.end": round(end + max(tokens * last + once, embedding)),
    }


def _encoder_forward(shape: Shape, settings: StepSettings) -> float:
    """Return what a layer of the encoder makes in its forward pass and does not keep."""
    e, cached = BYTES[settings.dtype], settings.tuner.virtual_tokens == "cache"
    if not cached and not settings.gradient_checkpointing:
        # Its input normed, and what is added to it; the MLP before its activation.
        return 2 * e * shape.hidden + (0 if shape.dropout else e * shape.mlp)
    # Embeddings, the layer's input, and the same normed; the first two are kept where layers are
    # computed again.
    rows = e * shape.hidden * (3 if cached else 1)
    scores = _attention_makes(shape, settings, length=settings.positions, masked=settings.padding)
    return rows + max(scores, _mlp_makes(shape, settings))


def _of_prefix(shape: Shape, settings: StepSettings) -> int:
    """Return the bytes of the keys and values of a prefix, laid out for each sample."""
    if settings.tuner.virtual_tokens != "cache":
        return 0
    rows = 2 * shape.layers * settings.sequences * settings.num_virtual_tokens
    return rows * shape.keys * BYTES[settings.dtype]


def _attention_makes(shape: Shape, settings: StepSettings, *, length: int, masked: bool) -> float:
    """Return what attention makes where it keeps nothing: projections, scores, and their mask."""
    e, row = BYTES[settings.dtype], shape.heads * length
    projections = e * (shape.queries + 2 * shape.keys)
    mask: float = e * row if masked else 0
    if written_out(shape, settings):
        copies = 4 * shape.queries + (4 * (shape.queries + 2 * shape.keys) if e < 4 else 0)
        if settings.tuner.trains_base and settings.autocast:
            mask *= (4 + e) / e  # trained distances are in fp32, and cast
        # Probabilities, the factor of dropout, their product; scores and probabilities without.
        return projections + copies + mask + (3 if shape.dropout else 2) * 4 * row
    if settings.attention == "eager":
        return projections + 3 * (4 if settings.autocast and settings.target == "cuda" else e) * row
    # The mask is added to the distances, and laid out anew.
    return projections + max(2 * mask, mask + e * shape.queries)


def _mlp_makes(shape: Shape, settings: StepSettings) -> float:
    """Return what the MLP makes where it keeps nothing: before and after activation and dropout."""
    e = BYTES[settings.dtype]
    if shape.dropout:
        return (3 * e if settings.target == "cpu" else 2 * e + 1) * shape.mlp
    return 2 * e * shape.mlp


def _decoder_forward(shape: Shape, settings: StepSettings) -> float:
    """Return what a layer of the decoder makes in its forward pass, with the encoder's output."""
    e, share = BYTES[settings.dtype], settings.target_share
    before_input = settings.tuner.virtual_tokens == "input"  # PEFT has a name for all embeddings
    rows: float = e * shape.hidden * (2 if before_input else 1)
    copied = settings.tuner.virtual_tokens == "cache" or written_out(shape, settings, learned=False)
    if copied or settings.gradient_checkpointing:
        rows += 2 * e * shape.keys  # keys and values of the text, before what is kept of them
    own: float = 2 * e * shape.hidden + (0 if shape.dropout else e * shape.mlp)
    if settings.gradient_checkpointing:
        target = settings.target_len or settings.seq_len
        own = e * shape.hidden + max(
            _attention_makes(shape, settings, length=max(target, settings.positions), masked=False),
            _mlp_makes(shape, settings),
        )
    return rows + share * own


def _backward_rows(shape: Shape, settings: StepSettings) -> tuple[float, float]:
    """Return what a layer of the encoder and one of the decoder make in their backward pass."""
    e, share = BYTES[settings.dtype], settings.target_share
    cached, again = settings.tuner.virtual_tokens == "cache", settings.gradient_checkpointing
    of_method = settings.tuner.made_per_token(
        adapted(shape, settings), settings.of_method, added=BYTES[settings.added_dtype]
    )
    last = [each for each in adapted(shape, settings)[-1:] if each.name == "wo"]
    reads = bool(last) and settings.tuner.keeps_inputs
    # A weight in fp32, or an adapter that is given its input in fp32, has that input's gradient so.
    casts = settings.tuner.trains_base or (reads and settings.cast_adapter_input)
    wide = 4 if settings.autocast and casts else 0
    # Gradients that come through a weight and through its adapter are added up; with dropout, its
    # own result is gone by then.
    added_up = reads and not shape.dropout
    rows = ((3 if added_up else 2) * e + wide) * shape.mlp + (0 if again else e * shape.hidden)
    mlp = max(rows, of_method)
    kept = kept_by_stacks(shape, settings) if again else (0, 0)

    def scores(length: int, *, learned: bool) -> float:
        # The gradient of the probabilities, when what the MLP kept is gone.
        written = settings.attention == "eager" or written_out(shape, settings, learned=learned)
        gone = e * shape.mlp * (2 if shape.dropout else 1) + e * shape.hidden
        return 4 * shape.heads * length + 2 * e * shape.hidden - gone if written else 0

    encoder = kept[0] + max(mlp, scores(settings.positions, learned=True))
    if again:
        # What a method keeps behind the MLP is gone before the MLP's own gradients are there.
        behind = last and not of_method and not shape.dropout
        encoder -= kept_of_method(shape, settings, last) if behind else 0
        made = _attention_makes(shape, settings, length=settings.positions, masked=settings.padding)
        if written_out(shape, settings):
            # Copies of what is multiplied, the result, and the probabilities that are given back.
            made += 4 * (2 * shape.queries + 2 * shape.keys)
            made += e * shape.heads * settings.positions if e < 4 else 0
        encoder = max(encoder, made + 3 * residual_bytes(shape, settings) * shape.hidden)
    # The gradients of the text's keys and values. That of the encoder's output comes when those
    # that were kept for it are gone, unless they were made again for this layer.
    of_text = 2 * e * shape.keys + (e * shape.hidden if again and not cached else 0)
    own = max(mlp, scores(settings.positions, learned=False))
    return 0 if cached else encoder, of_text + share * own + kept[1]
