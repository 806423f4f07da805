"""The numbers of a model that decide its memory, and how many parameters they make.

A block is a list of linear layers, each `in × out` weights, and some norms:

    Llama, Gemma   q h·q, k h·k, v h·k, o q·h, gate h·m, up h·m, down m·h; two norms of h
    Phi            q, k, v, dense h·h, fc1 h·m, fc2 m·h, all with bias; one LayerNorm for both
    BLOOM          one h·3h for q, k and v, dense h·h, up h·4h, down 4h·h, with bias; two LayerNorms
    T5             an encoder block and a decoder block with a second, cross attention
    Mamba          in h·2i, a convolution, x i·(r + 2n), Δ r·i, A i·n, D i, out i·h

with hidden width h, MLP width m, i = 2h, state size n, rank r of Δ. Embedding and head are
vocabulary × h each, once when tied. Only `config.json` or the registry is read.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labkit import methods
from labkit.errors import LabkitError, brief
from labkit.files import expanded
from labkit.memory.configurations import ARCHITECTURES, completed, read_config
from labkit.memory.settings import StepSettings
from labkit.models import registry


@dataclass(frozen=True)
class Linear:
    """A linear layer of a block: its name, its widths, and whether it has a bias."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The numbers of a model that decide its memory."""

    architecture: str
    hidden: int
    mlp: int
    layers: int
    vocab: int
    heads: int = 1
    kv_heads: int = 1
    head_dim: int = 1
    tied: bool = True
    activation: str = "silu"
    dropout: float = 0.0
    state: int = 0
    rank: int = 0
    conv: int = 0
    linears: tuple[Linear, ...] = field(default=(), repr=False)
    decoder_linears: tuple[Linear, ...] = field(default=(), repr=False)

    @property
    def queries(self) -> int:
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        return self.kv_heads * self.head_dim


def shape_of(settings: StepSettings) -> Shape | None:
    """Return the shape of the settings' model, or None when its architecture has no formula here.

    Raises `LabkitError` for a model that is neither in the registry nor found elsewhere, and for a
    method that its architecture cannot do.
    """
    name = settings.model
    if name in registry.known_names():
        spec = registry.spec(name)
        architecture, config = spec.architecture, dict(spec.config)
    else:
        architecture, config = read_config(config_folder(name) / "config.json")
    check_method(architecture, settings)
    check_target(settings, encoder_decoder=architecture == "t5")
    config = {**config, **settings.config_overrides}
    if architecture not in ARCHITECTURES or not described(architecture, config):
        return None
    try:
        return _checked(_READ[architecture]({**_DEFAULTS[architecture], **config}))
    except (KeyError, TypeError, ArithmeticError):
        pass  # an old or a minimal configuration: its class knows the rest, and other names
    whole = {**_DEFAULTS[architecture], **completed(architecture, config, name)}
    try:
        return _checked(_READ[architecture](whole))
    except (KeyError, TypeError, ArithmeticError) as error:
        raise LabkitError(f"the configuration of {name} is not one of {architecture}: "
                          f"{error}") from None  # fmt: skip


def _checked(shape: Shape) -> Shape:
    """Return a shape. Raises TypeError where one of its numbers is none."""
    for key in ("hidden", "mlp", "layers", "vocab", "heads", "kv_heads", "head_dim"):
        value = getattr(shape, key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise TypeError(f"{key} is {brief(value)}")
    return shape


def described(architecture: str, config: Mapping[str, Any]) -> bool:
    """Whether the formulas hold for a configuration: those of the plain architecture, no variant.

    Biases, gates, grouped heads and layers of several kinds change weights and what is kept; so do
    the masks of dropout, other activations, and T5 without its encoder.
    """
    kinds = config.get("layer_types") or []
    if set(map(str, kinds if isinstance(kinds, list) else [kinds])) - {"full_attention"}:
        return False
    if config.get("auto_map") or config.get("block_configs"):  # code of the model's own
        return False
    if any(config.get(key) for key in _DROPOUTS):
        return False
    heads, activation = config.get("num_attention_heads"), config.get("hidden_act")
    width = config.get("hidden_size") or config.get("n_embed")
    width = width if isinstance(width, int) else 0
    return not {
        "llama": lambda: config.get("attention_bias") or config.get("mlp_bias")
        or activation not in (None, "silu"),
        "gemma": lambda: config.get("attention_bias") or config.get("use_bidirectional_attention")
        or activation not in (None, *_GELU),
        "phi": lambda: config.get("qk_layernorm") or activation not in (None, "gelu_new", *_GELU)
        or config.get("num_key_value_heads") not in (None, heads),
        "bloom": lambda: config.get("n_inner") not in (None, 4 * width),
        "t5": lambda: config.get("feed_forward_proj", "relu") != "relu"
        or config.get("is_gated_act") or config.get("is_encoder_decoder") is False
        or config.get("relative_attention_num_buckets") not in (None, _BUCKETS)
        or config.get("num_decoder_layers") not in (None, config.get("num_layers")),
        "mamba": lambda: config.get("use_bias") or config.get("use_conv_bias") is False
        or config.get("residual_in_fp32") is False or activation not in (None, "silu"),
    }[architecture]()  # fmt: skip


_DROPOUTS = ("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop")
_GELU = ("gelu", "gelu_pytorch_tanh")
_BUCKETS = 32
"""T5's distances, each of which has a bias in every head"""


def check_method(architecture: str, settings: StepSettings) -> None:
    """Raise `LabkitError` for a method, or a base, that an architecture cannot do."""
    methods.check_architecture(settings.method, architecture, model=settings.model,
                               names=methods.names(), base=settings.base_weights)  # fmt: skip


def check_target(settings: StepSettings, *, encoder_decoder: bool) -> None:
    """Raise `LabkitError` for targets of their own length where the model only writes on."""
    if settings.target_len is not None and not encoder_decoder:
        raise LabkitError(f"target_len is for models with an encoder and a decoder, and "
                          f"{settings.model} only writes on: leave it out")  # fmt: skip


def config_folder(name: str) -> Path:
    """Return a folder with the `config.json` of a model outside the registry; weights not needed.

    A local folder, a model in the shared folder or the cache, or that one file from the Hub. Raises
    `LabkitError` that says what was looked for and what to do.
    """
    folder = expanded(name)
    if (folder / "config.json").is_file():
        return folder
    try:
        return registry.resolve(name, fetch=False)
    except LabkitError:
        if name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "config.json")).parent
    except Exception as error:
        # Gated, private, misspelt, no network: each has a class of its own, and some have many.
        raise LabkitError(
            f"the configuration of {name} cannot be had from the Hugging Face Hub "
            f"({type(error).__name__}): check the spelling and the network, or give a folder with "
            "its config.json"
        ) from error


def parameters(shape: Shape) -> int:
    """Return the number of parameters, tied weights counted once."""
    h, layers = shape.hidden, shape.layers
    blocks = layers * (_linear_parameters(_all(shape)) + _other_parameters(shape))
    embeddings = shape.vocab * h * (1 if shape.tied else 2)
    final = {"phi": 2 * h + shape.vocab, "bloom": 4 * h}.get(shape.architecture, h)
    if shape.architecture == "t5":
        # Norms of the decoder's three parts, and one table of distances in each stack.
        final = 2 * h + layers * 3 * h + 2 * _BUCKETS * shape.heads
    return blocks + embeddings + final


def block_weights(shape: Shape) -> int:
    """Return the elements of all linear weights in the layers, biases aside."""
    return shape.layers * sum(each.inputs * each.outputs for each in _all(shape))


def quantised_weights(shape: Shape) -> int:
    """Return the elements of the linear weights that quantisation packs; T5's `wo` stays."""
    return shape.layers * sum(
        each.inputs * each.outputs
        for each in _all(shape)
        if (shape.architecture, each.name) != ("t5", "wo")
    )


def adapted(shape: Shape, settings: StepSettings) -> list[Linear]:
    """Return the linear layers of one block (both blocks of T5) that get weights of their own.

    Raises `LabkitError` for a target that the model does not have.
    """
    tuner, chosen, linears = settings.tuner, settings.of_method, _all(shape)
    tuner.check_targets(
        {each.name for each in linears}, shape.architecture, chosen,
        key="lora_target_modules", model=settings.model,
    )  # fmt: skip
    return [each for each in linears if tuner.adapts(each.name, shape.architecture, chosen)]


def added_matrices(shape: Shape, settings: StepSettings) -> list[tuple[int, int]]:
    """Return the (rows, columns) of every weight that the method adds to the whole model."""
    linears = adapted(shape, settings)
    return settings.tuner.added_matrices(shape, linears, settings.of_method)


def _all(shape: Shape) -> tuple[Linear, ...]:
    return (*shape.linears, *shape.decoder_linears)


def _linear_parameters(linears: tuple[Linear, ...]) -> int:
    return sum(each.inputs * each.outputs + each.bias * each.outputs for each in linears)


def _other_parameters(shape: Shape) -> int:
    """Return the parameters of one block that are not in linear layers (T5: of its encoder)."""
    h = shape.hidden
    if shape.architecture == "mamba":
        inner = 2 * h
        # Convolution and its bias, A, D, the bias of Δ, the norm.
        return inner * (shape.conv + 1) + inner * shape.state + inner + inner + h
    return {"phi": 2 * h, "bloom": 4 * h}.get(shape.architecture, 2 * h)


def _decoder(config: Mapping[str, Any], architecture: str, linears: tuple[Linear, ...]) -> Shape:
    heads = config["num_attention_heads"]
    return Shape(
        architecture=architecture,
        hidden=config["hidden_size"],
        mlp=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        vocab=config["vocab_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        tied=config["tie_word_embeddings"],
        activation=config["hidden_act"],
        linears=linears,
    )


def _llama(config: Mapping[str, Any], architecture: str = "llama") -> Shape:
    h, m = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or h // heads
    q, k = heads * head_dim, (config.get("num_key_value_heads") or heads) * head_dim
    linears = (
        Linear("q_proj", h, q), Linear("k_proj", h, k), Linear("v_proj", h, k),
        Linear("o_proj", q, h), Linear("gate_proj", h, m), Linear("up_proj", h, m),
        Linear("down_proj", m, h),
    )  # fmt: skip
    return _decoder(config, architecture, linears)


def _gemma(config: Mapping[str, Any]) -> Shape:
    return _llama(config, "gemma")


def _phi(config: Mapping[str, Any]) -> Shape:
    h, m = config["hidden_size"], config["intermediate_size"]
    linears = (
        Linear("q_proj", h, h, True), Linear("k_proj", h, h, True), Linear("v_proj", h, h, True),
        Linear("dense", h, h, True), Linear("fc1", h, m, True), Linear("fc2", m, h, True),
    )  # fmt: skip
    return _decoder(config, "phi", linears)


def _bloom(config: Mapping[str, Any]) -> Shape:
    h = config["hidden_size"]
    heads = config.get("n_head") or config.get("num_attention_heads") or config["n_head"]
    layers = config.get("n_layer") or config.get("num_hidden_layers") or config["n_layer"]
    linears = (
        Linear("query_key_value", h, 3 * h, True), Linear("dense", h, h, True),
        Linear("dense_h_to_4h", h, 4 * h, True), Linear("dense_4h_to_h", 4 * h, h, True),
    )  # fmt: skip
    numbers = {
        **config, "intermediate_size": 4 * h, "num_attention_heads": heads,
        "num_hidden_layers": layers,
    }  # fmt: skip
    return _decoder(numbers, "bloom", linears)


def _t5(config: Mapping[str, Any]) -> Shape:
    h, m, heads = config["d_model"], config["d_ff"], config["num_heads"]
    inner = heads * config["d_kv"]
    attention = (
        Linear("q", h, inner), Linear("k", h, inner), Linear("v", h, inner), Linear("o", inner, h),
    )  # fmt: skip
    feed_forward = (Linear("wi", h, m), Linear("wo", m, h))
    return Shape(
        architecture="t5",
        hidden=h,
        mlp=m,
        layers=config["num_layers"],
        vocab=config["vocab_size"],
        heads=heads,
        kv_heads=heads,
        head_dim=config["d_kv"],
        tied=config["tie_word_embeddings"],
        activation=config["feed_forward_proj"],
        dropout=config["dropout_rate"],
        linears=(*attention, *feed_forward),
        decoder_linears=(*attention, *attention, *feed_forward),
    )


def _mamba(config: Mapping[str, Any]) -> Shape:
    h, state = config["hidden_size"], config["state_size"]
    given = config.get("time_step_rank")
    inner, rank = config["expand"] * h, given if isinstance(given, int) else math.ceil(h / 16)
    linears = (
        Linear("in_proj", h, 2 * inner), Linear("x_proj", inner, rank + 2 * state),
        Linear("dt_proj", rank, inner), Linear("out_proj", inner, h),
    )  # fmt: skip
    return Shape(
        architecture="mamba",
        hidden=h,
        mlp=inner,
        layers=config["num_hidden_layers"],
        vocab=config["vocab_size"],
        tied=config["tie_word_embeddings"],
        state=state,
        rank=rank,
        conv=config["conv_kernel"],
        linears=linears,
    )


# What transformers' configuration classes assume where a configuration says nothing.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"hidden_act": "silu", "tie_word_embeddings": False},
    "gemma": {"hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True},
    "phi": {"hidden_act": "gelu_new", "tie_word_embeddings": False},
    "bloom": {"hidden_act": "gelu", "tie_word_embeddings": True},
    "t5": {"feed_forward_proj": "relu", "dropout_rate": 0.1, "tie_word_embeddings": True},
    "mamba": {"expand": 2, "conv_kernel": 4, "state_size": 16, "tie_word_embeddings": True},
}
_READ = {"llama": _llama, "gemma": _gemma, "phi": _phi, "bloom": _bloom, "t5": _t5,
         "mamba": _mamba}  # fmt: skip
