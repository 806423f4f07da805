"""What single operations keep for the backward pass: linear layers, norms, attention, dropout.

`Account` answers for one model under one `StepSettings`, in bytes per token; `activations` adds up
whole layers of it. Nothing here imports PyTorch.
"""

from collections.abc import Iterable

from labkit.memory.architectures import Linear, Shape, adapted
from labkit.memory.settings import BYTES, StepSettings


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


def attention_of(shape: Shape, settings: StepSettings) -> str | None:
    """Return the attention that is run: Bloom has no fused one, a state-space model none at all."""
    if shape.state:
        return None
    return "eager" if shape.architecture == "bloom" else settings.attention


def written_out(shape: Shape, settings: StepSettings, *, learned: bool = True) -> bool:
    """Return whether attention is single operations, in fp32, where `sdpa` was asked for.

    The CPU's fused kernel does neither dropout nor a bias that is trained; `learned` says whether
    this attention has one. Kept then: queries, keys, values and the probabilities; with dropout
    also its factor and the result.
    """
    if settings.target == "cuda" or settings.attention == "eager":
        return False
    biased = shape.architecture == "t5" and learned and settings.tuner.trains_base
    return bool(shape.dropout) or biased


class Account:
    """Says what the operations of one model keep under one set of settings, in bytes per token."""

    def __init__(self, shape: Shape, settings: StepSettings) -> None:
        self.shape, self.settings = shape, settings
        self.compute = BYTES[settings.dtype]
        self.residual = residual_bytes(shape, settings)
        self.trains_all = settings.tuner.trains_base
        self.casts = settings.autocast
        reads = settings.tuner.keeps_inputs
        self.adapters = {each.name for each in adapted(shape, settings)} if reads else set()

    def inputs(
        self, linears: Iterable[Linear], width: int, *, fp32: bool, kept: bool, plain: bool = False
    ) -> float:
        """Return the bytes kept for layers that read one tensor of `width`.

        `fp32`: the tensor is in fp32, so autocast gives each layer a copy of its own. `kept`: some
        other operation keeps the tensor anyway. `plain`: they are not quantised with the others.
        """
        linears = list(linears)
        if self.trains_all:
            if self.casts and fp32:
                return self.compute * width * len(linears)
            return 0 if kept else self.compute * width
        mine = [each for each in linears if each.name in self.adapters]
        dropout = self.settings.lora_dropout > 0
        casts = self.settings.cast_adapter_input and self.casts
        # A mask of one byte on CUDA; on a CPU a factor in the type that the adapter is given.
        factor = 1 if self.settings.target == "cuda" else 4 if casts else self.compute
        mask = factor * width * len(mine) if dropout else 0
        if casts or (self.casts and fp32) or dropout:
            own = self.compute * width * len(mine)
        else:
            own = self.compute * width if mine and not kept else 0
        # LLM.int8 keeps the tensor it was given (bitsandbytes, MatMul8bitLt), and so does every
        # linear layer in stage 3 of DeepSpeed (zero/linear.py), frozen or not.
        eight_bit = self.settings.base_weights.keeps_inputs and not plain
        keeps = eight_bit or self.settings.sharding == "zero3"
        given = 4 if eight_bit and self.casts and fp32 else self.compute
        quantised = given * width if keeps and not kept else 0
        if quantised and own and not (casts or dropout or given > self.compute):
            quantised = 0
        return own + mask + quantised

    def rms_norm(self, *, in_fp32: bool = False) -> float:
        """Return what transformers' RMSNorm keeps: the fp32 input, and its output if trained."""
        h = self.shape.hidden
        scaled = (4 if in_fp32 else self.residual) * h if self.trains_all else 0
        return 4 * h + 4 + scaled

    def t5_norm(self) -> float:
        """Return what T5's norm keeps: it squares an fp32 copy and scales the input itself."""
        return self.rms_norm() + (self.residual * self.shape.hidden if self.residual < 4 else 0)

    def noise(self, width: int) -> int:
        """Return what the model's own dropout keeps of rows of `width`: a mask, or a factor."""
        if not self.shape.dropout:
            return 0
        return width * (self.compute if self.settings.target == "cpu" else 1)

    def layer_norm(self) -> float:
        """Return what LayerNorm keeps: its input, which CUDA's autocast makes fp32."""
        h, cuda = self.shape.hidden, self.settings.target == "cuda"
        return (4 if self.casts and cuda else self.residual) * h + 8

    def seen(self, length: int) -> int:
        """Return how many keys each of `length` tokens sees: of a prefix, which is cached, too."""
        cached = self.settings.tuner.virtual_tokens == "cache"
        return length + (self.settings.num_virtual_tokens if cached else 0)

    def attention(self, length: int | None = None) -> float:
        """Return what self-attention keeps, without the inputs of the projections.

        Over `length` tokens, all that are read by default, for each of them.
        """
        length = length or self.settings.positions
        seen = self.seen(length)
        return self.attention_over(seen, rows=1, keys_kept=seen / length)

    def attention_over(
        self, length: int, *, rows: float, keys_kept: float, learned: bool = True
    ) -> float:
        """Return what attention keeps for each token that is read, of `rows` queries.

        There are `keys_kept` keys for each such token, and a query sees `length` of them.
        `learned`: whether a bias of distances is added.
        """
        shape, e = self.shape, self.compute
        # A prefix has queries and keys of different number, which takes a mask; T5's is a bias.
        masked = self.settings.padding or self.settings.tuner.virtual_tokens == "cache"
        masked = masked and shape.architecture != "t5"
        values = learned or self.settings.tuner.virtual_tokens != "cache"
        repeated = masked or self.settings.repeat_kv or self.settings.attention == "eager"
        keys = shape.queries if repeated and shape.heads != shape.kv_heads else shape.keys
        if attention_of(shape, self.settings) == "eager":
            probabilities = self._probabilities(values=values) * shape.heads * length
            return e * (rows * shape.queries + 2 * keys_kept * keys) + rows * probabilities
        if written_out(shape, self.settings, learned=learned):
            copies = 4 * (rows * shape.queries + 2 * keys_kept * keys)
            # With dropout its factor too, and its result where values need a gradient.
            each = (12 if values else 8) if shape.dropout else 4
            return copies + rows * each * shape.heads * length
        mask = e * length if masked else 0
        kept = e * (2 * rows * shape.queries + 2 * keys_kept * keys)
        return kept + rows * (4 * shape.heads + mask)

    def distances(self, length: int, *, masked: bool) -> float:
        """Return what T5's learned distances to `length` keys take, one bias for the whole batch.

        A mask makes it one for each sample; attention that is written out adds it and keeps none.
        """
        if self.settings.attention == "eager" or written_out(self.shape, self.settings):
            return 0
        share = 1 if masked else self.settings.batch_size
        return self.compute * self.shape.heads * length / share

    def _probabilities(self, *, values: bool) -> int:
        """Return what eager attention keeps of a probability: in fp32, and again in 16 bit.

        T5's are in the compute type where neither autocast nor trained distances make them fp32;
        dropout adds its mask, or its factor, and its result where `values` need a gradient.
        """
        e = self.compute
        if self.shape.architecture != "t5":
            return 4 + (e if e < 4 else 0)
        cuda = self.settings.target == "cuda"
        wide = 4 if self.casts and (cuda or self.trains_all) else e
        result = e if (self.shape.dropout and values) or wide != e else 0
        return wide + self.noise(1) + result

    def answer_bytes(self, *, fp32: bool) -> int:
        """Return the bytes of a number that a layer gives which reads a tensor in fp32 or not.

        A quantised layer answers in the type it was given, whatever autocast says.
        """
        quantised = self.settings.base_weights.quantised and self.casts
        return 4 if quantised and fp32 else self.compute

    def activation(self, width: int, *, fp32: bool = False) -> float:
        """Return what the activation keeps of rows of `width`; `fp32`: the layer before read it."""
        e = self.answer_bytes(fp32=fp32)
        if self.shape.activation != "gelu_new":
            return e * width
        # x/2 · (1 + tanh(√(2/π)·(x + 0.0447·x³))) in single operations: x, tanh, 1 + tanh and
        # x/2; a power is computed in fp32 under CUDA's autocast, and so is what follows.
        if self.casts and self.settings.target == "cuda":
            return (4 + 4 + 4 + e) * width
        return 4 * e * width
