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
    dropout                 keeps a mask of one byte an element; on a CPU a factor in its type
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

from labkit.memory.account import Account, written_out
from labkit.memory.architectures import Linear, Shape, adapted
from labkit.memory.settings import BYTES, StepSettings


def kept_per_token(shape: Shape, settings: StepSettings) -> float:
    """Return the bytes that one layer keeps for backward per token (T5: one of each stack).

    The part that grows with the square of the length is in it, divided by the length.
    """
    if shape.decoder_linears:
        return sum(kept_by_stacks(shape, settings))
    of_method = kept_of_method(shape, settings, adapted(shape, settings))
    return _KEPT[shape.architecture](shape, settings, Account(shape, settings)) + of_method


def kept_by_stacks(shape: Shape, settings: StepSettings) -> tuple[float, float]:
    """Return what a layer of the encoder and one of the decoder keep per token of the text."""
    mine = adapted(shape, settings)
    begin = sum(each.name in {one.name for one in mine} for each in shape.linears)
    encoder, decoder = _t5(shape, settings, Account(shape, settings))
    # Keys and values of cross-attention, the second of their names, read the encoder's output.
    later = mine[begin:]
    crossing = [each for index, each in enumerate(later)
                if each.name in ("k", "v") and each in later[:index]]  # fmt: skip
    every = kept_of_method(shape, settings, later)
    of_text = kept_of_method(shape, settings, crossing)
    decoder += settings.target_share * (every - of_text) + of_text
    if settings.tuner.virtual_tokens == "cache":
        # PEFT gives the prefix to the decoder; nothing in the encoder needs a gradient.
        return 0, decoder
    return encoder + kept_of_method(shape, settings, mine[:begin]), decoder


def kept_around_stacks(shape: Shape, settings: StepSettings) -> tuple[float, float, float]:
    """Return what is kept per token of the text outside of layers: before, between, behind stacks.

    Dropout of the embeddings; the encoder's final norm with its dropout, and its output where
    layers that keep their inputs read it; the decoder's, and its output where the head is trained.
    """
    account, e = Account(shape, settings), BYTES[settings.dtype]
    full, read = settings.tuner.trains_base, {"k", "v"} & account.adapters
    of_embedding = full or settings.tuner.virtual_tokens == "input"
    before = account.noise(shape.hidden) if of_embedding else 0
    final = account.t5_norm() + account.noise(shape.hidden)
    between = final + (e * shape.hidden if full or read else 0)
    behind = final + (account.noise(shape.hidden) + e * shape.hidden if full else 0)
    if settings.tuner.virtual_tokens == "cache":
        between = 0
    return before, between, settings.target_share * behind


def kept_before(shape: Shape, settings: StepSettings, *, decoder: bool = False) -> float:
    """Return what the first layer does not keep per token: nothing there needs a gradient.

    That is its attention, and all it reads, where the first trained weights come behind it. In a
    `decoder` it is self-attention; a prompt is in the encoder, and so behind it as well.
    """
    mine = {each.name for each in adapted(shape, settings)}
    behind = mine and not mine & {"q_proj", "k_proj", "v_proj", "query_key_value", "q", "k", "v"}
    prompt = decoder and settings.tuner.virtual_tokens == "input"
    if not (behind or prompt) or settings.gradient_checkpointing or shape.state:
        return 0
    account = Account(shape, settings)
    if decoder:
        target, share = settings.target_len or settings.seq_len, settings.target_share
        dropped = account.noise(shape.hidden) if prompt else 0
        return share * (account.t5_norm() + account.attention(target) + dropped)
    if shape.architecture == "t5":
        distances = account.distances(settings.positions, masked=settings.padding)
        return account.t5_norm() + account.attention() + distances
    if shape.architecture == "phi":
        # Attention and MLP read the same tensor, side by side.
        side = account.activation(shape.mlp) + account.layer_norm() if "fc1" not in mine else 0
        return account.attention() + side
    if shape.architecture == "bloom":
        return account.residual * shape.hidden + 8 + account.attention()
    return account.rms_norm(in_fp32=shape.architecture == "gemma") + account.attention()


def kept_of_method(shape: Shape, settings: StepSettings, adapted: list[Linear]) -> float:
    """Return what the method's own weights on these layers keep per token."""
    return settings.tuner.kept_per_token(
        shape, adapted, settings.of_method,
        compute=BYTES[settings.dtype], added=BYTES[settings.added_dtype], length=settings.seq_len,
    )  # fmt: skip


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


def _llama(shape: Shape, settings: StepSettings, account: Account) -> float:
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


def _phi(shape: Shape, settings: StepSettings, account: Account) -> float:
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
        + account.activation(shape.mlp, fp32=fp32)
        + account.inputs((fc2,), shape.mlp, fp32=chain_in_fp32, kept=False)
    )


def _bloom(shape: Shape, settings: StepSettings, account: Account) -> float:
    qkv, dense, up, down = shape.linears
    fp32 = account.casts and (settings.target == "cuda" or account.trains_all)
    wide = account.answer_bytes(fp32=fp32) > account.compute
    return (
        2 * (account.residual * shape.hidden + 8)
        + account.inputs((qkv,), shape.hidden, fp32=fp32, kept=False)
        + account.attention()
        + account.inputs((dense,), shape.hidden, fp32=False, kept=False)
        + account.inputs((up,), shape.hidden, fp32=fp32, kept=False)
        + account.activation(shape.mlp, fp32=fp32)
        + account.inputs((down,), shape.mlp, fp32=wide, kept=False)
    )


def _t5(shape: Shape, settings: StepSettings, account: Account) -> tuple[float, float]:
    """Return what a layer of the encoder and one of the decoder keep per token of the text."""
    q, k, v, o, wi, wo = shape.linears
    e, h = account.compute, shape.hidden
    fp32 = account.trains_all and account.casts
    norm, noise = account.t5_norm(), account.noise
    # The encoder's text may be padded; a prefix is a cache before what the decoder reads.
    cached = settings.tuner.virtual_tokens == "cache"
    fused = settings.attention != "eager"
    target, share = settings.target_len or settings.seq_len, settings.target_share

    def output(*, learned: bool) -> float:
        kept = fused and not written_out(shape, settings, learned=learned)
        return account.inputs((o,), shape.queries, fp32=False, kept=kept)

    def self_attention(length: int, *, masked: bool) -> float:
        projections = account.inputs((q, k, v), h, fp32=fp32, kept=False)
        made = account.attention(length) + output(learned=True)
        distances = account.distances(account.seen(length), masked=masked)
        return norm + projections + made + distances + noise(h)

    # Keys and values of cross-attention read the encoder's output. It has no distances, and so one
    # bias of zeros for all layers, until it is masked.
    cross = share * (norm + account.inputs((q,), h, fp32=fp32, kept=False) + noise(h))
    cross += share * output(learned=False)
    if settings.padding and fused and not written_out(shape, settings, learned=False):
        cross += share * e * shape.heads * settings.positions
    cross += account.attention_over(settings.positions, rows=share, keys_kept=1, learned=False)
    cross += account.inputs((k, v), h, fp32=fp32, kept=True)
    # The last layer stays in its type, to which its rows are cast first (T5DenseActDense).
    feed_forward = (
        norm
        + account.inputs((wi,), h, fp32=fp32, kept=False)
        + e * shape.mlp
        + noise(shape.mlp)
        + account.inputs((wo,), shape.mlp, fp32=fp32, kept=not shape.dropout, plain=True)
        + noise(h)
    )
    encoder = self_attention(settings.positions, masked=settings.padding) + feed_forward
    return encoder, share * (self_attention(target, masked=cached) + feed_forward) + cross


def _mamba(shape: Shape, settings: StepSettings, account: Account) -> float:
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


_KEPT = {"llama": _llama, "gemma": _llama, "phi": _phi, "bloom": _bloom, "mamba": _mamba}
