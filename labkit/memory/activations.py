"""What a layer keeps for the backward pass, architecture by architecture.

Autograd keeps an input of an operation when the derivative needs it. From that one rule follows
what a layer costs, in bytes per token:

    product y = W·x         keeps x if W is trained, W if x needs a gradient; a frozen W keeps no x
    RMSNorm (transformers)  computes in fp32 and keeps that copy of x: 4h; and x/rms(x) if its
                            weight is trained
    LayerNorm               keeps its input
    SwiGLU down(silu(g)∘u)  keeps g, silu(g) and u: 3 rows of the MLP's width
    attention, fused        keeps q, k, v, the output, and one fp32 number per head and row
    attention, eager        keeps the probabilities: heads × length in fp32 and again in 16 bit
    dropout                 keeps a mask of one byte an element
    residual addition       keeps nothing

The sum for a Llama layer under full fine-tuning, with h = hidden width, m = MLP width, q and k =
widths of queries and keys, in bytes per token:

    16-bit weights        2·(4h + 2h) + 2·2h      + (4q + 4k) + 2·4m    = 45.5h for Llama 2
    fp32, autocast        2·(4h + 4h) + (3+2)·2h  + (4q + 4k) + 2·4m    = 55.5h

(q = k = h, m = 2.69h; terms: norms, inputs of q, k, v and of gate and up, attention, MLP). Under
autocast the norms' outputs are fp32 and every product that reads one keeps a 16-bit copy of its
own. The often quoted 34h (Korthikanti et al. 2022, "Reducing Activation Recomputation in Large
Transformer Models") is GPT-2's: LayerNorm in 16 bit and an MLP of two matrices.

Widths are in elements, results in bytes. Only numbers of a configuration are read.
"""

from collections.abc import Iterable

from labkit.memory.architectures import Linear, Shape, adapted
from labkit.memory.settings import BYTES, StepSettings


def kept_per_token(shape: Shape, settings: StepSettings) -> float:
    """Return the bytes that one layer keeps for backward per token (T5: one of each stack).

    The part that grows with the square of the length is in it, divided by the length.
    """
    mine = adapted(shape, settings)
    encoder = sum(each.name in {one.name for one in mine} for each in shape.linears)
    of_method = _of_method(shape, settings, mine[:encoder])
    of_method += settings.target_share * _of_method(shape, settings, mine[encoder:])
    return _KEPT[shape.architecture](shape, settings, _Account(shape, settings)) + of_method


def _of_method(shape: Shape, settings: StepSettings, adapted: list[Linear]) -> float:
    return settings.tuner.kept_per_token(
        shape, adapted, settings.of_method,
        compute=BYTES[settings.dtype], added=BYTES[settings.added_dtype], length=settings.seq_len,
    )  # fmt: skip


def residual_bytes(shape: Shape, settings: StepSettings) -> int:
    """Return the bytes of an element of the residual stream.

    fp32 embeddings make it fp32 under autocast; so does BLOOM's LayerNorm behind them on CUDA.
    Mamba's is fp32 by its configuration (`residual_in_fp32`).
    """
    if shape.architecture == "mamba":
        return 4
    if settings.autocast and settings.tuner.trains_base:
        return 4
    if settings.autocast and settings.target == "cuda" and shape.architecture == "bloom":
        return 4
    return BYTES[settings.dtype]


def unsaved_inputs_per_token(shape: Shape, settings: StepSettings) -> float:
    """Return the inputs of one layer's 8-bit products, which checkpointing does not release.

    bitsandbytes keeps them on the autograd context itself instead of by `save_for_backward`
    (MatMul8bitLt), where no checkpoint can see them.
    """
    seen: set[tuple[str, int]] = set()
    for each in (*shape.linears, *shape.decoder_linears):
        # Layers that read one tensor: queries with keys and values, gate with up.
        role = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj", "k": "q", "v": "q",
                "fc1": "q_proj"}.get(each.name, each.name)  # fmt: skip
        seen.add((role, each.inputs))
    return BYTES[settings.dtype] * sum(width for _, width in seen)


def attention_of(shape: Shape, settings: StepSettings) -> str | None:
    """Return the attention that is run: Bloom has no fused one, a state-space model none at all."""
    if shape.state:
        return None
    return "eager" if shape.architecture == "bloom" else settings.attention


class _Account:
    """Adds up what the inputs of linear layers cost under one method."""

    def __init__(self, shape: Shape, settings: StepSettings) -> None:
        self.shape, self.settings = shape, settings
        self.compute = BYTES[settings.dtype]
        self.residual = residual_bytes(shape, settings)
        self.trains_all = settings.tuner.trains_base
        self.casts = settings.autocast
        reads = settings.tuner.keeps_inputs
        self.adapters = {each.name for each in adapted(shape, settings)} if reads else set()

    def inputs(self, linears: Iterable[Linear], width: int, *, fp32: bool, kept: bool) -> float:
        """Return the bytes kept for layers that read one tensor of `width`.

        `fp32`: the tensor is in fp32, so autocast gives each layer a copy of its own. `kept`: some
        other operation keeps the tensor anyway.
        """
        linears = list(linears)
        if self.trains_all:
            if self.casts and fp32:
                return self.compute * width * len(linears)
            return 0 if kept else self.compute * width
        mine = [each for each in linears if each.name in self.adapters]
        dropout = self.settings.lora_dropout > 0
        mask = width * len(mine) if dropout else 0
        if self.casts and (fp32 or self.settings.cast_adapter_input) or dropout:
            own = self.compute * width * len(mine)
        else:
            own = self.compute * width if mine and not kept else 0
        # LLM.int8 keeps the tensor it was given (bitsandbytes, MatMul8bitLt), and so does every
        # linear layer in stage 3 of DeepSpeed (zero/linear.py), frozen or not.
        keeps = self.settings.base_weights.keeps_inputs or self.settings.sharding == "zero3"
        quantised = self.compute * width if keeps and not kept else 0
        casts = self.settings.cast_adapter_input and self.casts
        if quantised and own and not (casts or dropout):
            quantised = 0
        return own + mask + quantised

    def rms_norm(self, *, in_fp32: bool = False) -> float:
        """Return what transformers' RMSNorm keeps: the fp32 input, and its output if trained."""
        h = self.shape.hidden
        scaled = (4 if in_fp32 else self.residual) * h if self.trains_all else 0
        return 4 * h + 4 + scaled

    def layer_norm(self) -> float:
        """Return what LayerNorm keeps: its input, which CUDA's autocast makes fp32."""
        h, cuda = self.shape.hidden, self.settings.target == "cuda"
        return (4 if self.casts and cuda else self.residual) * h + 8

    def attention(
        self, *, rows: float = 1, keys_kept: float = 1, length: int | None = None
    ) -> float:
        """Return what attention keeps, without the inputs of the projections.

        For each token that is read there are `rows` queries, which see `length` keys each (all by
        default), and `keys_kept` keys.
        """
        shape, e, length = self.shape, self.compute, length or self.settings.seq_len
        # A prefix has queries and keys of different number, which takes a mask.
        masked = self.settings.padding or self.settings.tuner.virtual_tokens == "cache"
        repeated = masked or self.settings.repeat_kv or self.settings.attention == "eager"
        keys = shape.queries if repeated and shape.heads != shape.kv_heads else shape.keys
        if attention_of(shape, self.settings) == "eager":
            probabilities = (4 + (e if e < 4 else 0)) * shape.heads * length
            return e * (rows * shape.queries + 2 * keys_kept * keys) + rows * probabilities
        if shape.dropout and self.settings.target == "cpu":
            # The CPU's fused kernel has no dropout: fp32 copies, probabilities, factor, result.
            copies = 4 * (2 * rows * shape.queries + 2 * keys_kept * keys)
            return copies + rows * 12 * shape.heads * length
        mask = e * length if masked else 0
        kept = e * (2 * rows * shape.queries + 2 * keys_kept * keys)
        return kept + rows * (4 * shape.heads + mask)

    def activation(self, width: int) -> float:
        """Return what the activation function keeps of rows of `width`."""
        e = self.compute
        if self.shape.activation != "gelu_new":
            return e * width
        # x/2 · (1 + tanh(√(2/π)·(x + 0.0447·x³))) in single operations: x, tanh, 1 + tanh and
        # x/2; a power is computed in fp32 under CUDA's autocast, and so is what follows.
        if self.casts and self.settings.target == "cuda":
            return (4 + 4 + 4 + e) * width
        return 4 * e * width


def _llama(shape: Shape, settings: StepSettings, account: _Account) -> float:
    gemma = shape.architecture == "gemma"
    fp32 = account.trains_all and account.casts
    q, k, v, o, gate, up, down = shape.linears
    eager = settings.attention == "eager"
    return (
        2 * account.rms_norm(in_fp32=gemma)
        + account.inputs((q, k, v), shape.hidden, fp32=fp32, kept=False)
        + account.attention()
        + account.inputs((o,), shape.queries, fp32=False, kept=not eager)
        + account.inputs((gate, up), shape.hidden, fp32=fp32, kept=False)
        + account.compute * 2 * shape.mlp
        + account.activation(shape.mlp)
        + account.inputs((down,), shape.mlp, fp32=False, kept=False)
    )


def _phi(shape: Shape, settings: StepSettings, account: _Account) -> float:
    q, k, v, dense, fc1, fc2 = shape.linears
    cuda = settings.target == "cuda"
    fp32 = account.casts and (cuda or account.trains_all)
    chain_in_fp32 = shape.activation == "gelu_new" and account.casts and cuda
    eager = settings.attention == "eager"
    return (
        account.layer_norm()
        + account.inputs((q, k, v, fc1), shape.hidden, fp32=fp32, kept=False)
        + account.attention()
        + account.inputs((dense,), shape.queries, fp32=False, kept=not eager)
        + account.activation(shape.mlp)
        + account.inputs((fc2,), shape.mlp, fp32=chain_in_fp32, kept=False)
    )


def _bloom(shape: Shape, settings: StepSettings, account: _Account) -> float:
    qkv, dense, up, down = shape.linears
    fp32 = account.casts and (settings.target == "cuda" or account.trains_all)
    return (
        2 * (account.residual * shape.hidden + 8)
        + account.inputs((qkv,), shape.hidden, fp32=fp32, kept=False)
        + account.attention()
        + account.inputs((dense,), shape.hidden, fp32=False, kept=False)
        + account.inputs((up,), shape.hidden, fp32=fp32, kept=False)
        + account.activation(shape.mlp)
        + account.inputs((down,), shape.mlp, fp32=False, kept=False)
    )


def _t5(shape: Shape, settings: StepSettings, account: _Account) -> float:
    q, k, v, o, wi, wo = shape.linears
    e, h = account.compute, shape.hidden
    fp32 = account.trains_all and account.casts
    masks = 1 if shape.dropout else 0
    # T5's norm squares an fp32 copy and scales the input itself: both are kept.
    norm = account.rms_norm() + (account.residual * h if account.residual < 4 else 0)
    # Learned distances are one bias for the whole batch, until a mask makes it one for each sample:
    # of padding where the encoder's text is read, of a cache where the decoder's own is.
    cached = settings.tuner.virtual_tokens == "cache"
    eager = settings.attention == "eager"
    out = account.inputs((o,), shape.queries, fp32=False, kept=not eager)
    target, share = settings.target_len or settings.seq_len, settings.target_share

    def self_attention(length: int, *, masked: bool) -> float:
        bias = 0 if eager else e * shape.heads * length / (1 if masked else settings.batch_size)
        projections = account.inputs((q, k, v), h, fp32=fp32, kept=False)
        return norm + projections + account.attention(length=length) + out + bias + masks * h

    # Keys and values of cross-attention read the encoder's output.
    cross = share * (norm + account.inputs((q,), h, fp32=fp32, kept=False) + out + masks * h)
    if settings.padding and not eager:
        cross += share * e * shape.heads * settings.seq_len
    cross += account.attention(rows=share) + account.inputs((k, v), h, fp32=fp32, kept=True)
    feed_forward = (
        norm
        + account.inputs((wi,), h, fp32=fp32, kept=False)
        + e * shape.mlp
        + masks * shape.mlp
        + account.inputs((wo,), shape.mlp, fp32=False, kept=not masks)
        + masks * h
    )
    decoder = share * (self_attention(target, masked=cached) + feed_forward) + cross
    if cached:
        # PEFT gives the prefix to the decoder; nothing in the encoder needs a gradient.
        return decoder
    return self_attention(settings.seq_len, masked=settings.padding) + feed_forward + decoder


def _mamba(shape: Shape, settings: StepSettings, account: _Account) -> float:
    in_proj, x_proj, _, out_proj = shape.linears
    e, inner, state = account.compute, out_proj.inputs, shape.state
    fp32 = account.trains_all and account.casts
    # The scan as transformers computes it without the mamba_ssm kernel: exp(Δ·A), Δ·B·x, and
    # every state in fp32 and again in 16 bit, each with (inner × state) elements per token.
    scan = (4 + 4 + 4 + (e if e < 4 else 0)) * inner * state
    return (
        account.rms_norm()
        + account.inputs((in_proj,), shape.hidden, fp32=fp32, kept=False)
        + 2 * e * inner  # the two halves of in_proj
        + 2 * e * inner  # convolution and its activation
        + account.inputs((x_proj,), inner, fp32=False, kept=True)
        + 4 * inner * 3  # Δ before and after softplus, x in fp32
        + scan
        + 3 * e * inner  # the scan's output, the gate, their product
        + account.inputs((out_proj,), inner, fp32=False, kept=False)
    )


_KEPT = {"llama": _llama, "gemma": _llama, "phi": _phi, "bloom": _bloom, "t5": _t5,
         "mamba": _mamba}  # fmt: skip
