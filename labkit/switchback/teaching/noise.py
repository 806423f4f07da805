"""Measure the quantisation noise of int8 in decibels, on synthetic data and real activations.

The yardstick is the signal-to-noise ratio of a matmul against the exact one,

    SNR = 10 · log10( Σ exact² / Σ (exact - int8)² )  dB

so 20 dB is an error of one tenth of the signal (in rms), 30 dB of 1/32, 40 dB of one hundredth.
For Gaussian numbers it can be predicted. A step of the ruler is absmax / 127, the rounding error
of one element has variance step² / 12, and relative to the spread σ of the numbers that is

    noise / signal = (absmax / σ)² / (12 · 127²)

An *outlier factor* absmax / σ of 4 gives 41 dB for one operand, 38 dB for a product of two; every
doubling of it costs 6 dB. The outlier factor is therefore what to look at in a layer.

A weight gradient dW = Gᵀ·X sums over tokens, batch × length of them, where Y and dX sum over the
width of the layer. Each term adds its own rounding error, and among more tokens the largest of a
feature is larger, so its step is too. With few tokens dW is the most precise of the three,
with many it need not be.

Source: Wortsman et al. 2023 (arXiv 2304.13013), appendix on the variance of quantised matmuls;
Dettmers et al. 2022 (arXiv 2208.07339) on outlier features.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor, nn

from labkit.errors import LabkitError
from labkit.switchback import reference

Row = dict[str, Any]


def snr_db(exact: Tensor, approximate: Tensor) -> float:
    """Return the signal-to-noise ratio in decibels; infinite when the two are equal."""
    exact, approximate = exact.double(), approximate.double()
    noise = (exact - approximate).square().sum().item()
    return decibels(exact.square().sum().item(), noise)


def decibels(signal: float, noise: float) -> float:
    """Return 10 · log10(signal / noise) of two energies."""
    return 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else math.inf


def sign_errors(exact: Tensor, approximate: Tensor) -> float:
    """Return the share of entries whose sign differs."""
    return (exact.sign() != approximate.sign()).double().mean().item()


def int8_product(a: Tensor, b: Tensor, b_scale: str = "row") -> Tensor:
    """Return a·bᵀ in float32 by way of int8; a [M, K] has a scale per row, b [N, K] by b_scale."""
    quantize_b = reference.quantize_rowwise if b_scale == "row" else reference.quantize_global
    (a_int8, a_absmax), (b_int8, b_absmax) = reference.quantize_rowwise(a), quantize_b(b)
    return reference.scaled_int8_mm(a_int8, b_int8, a_absmax, b_absmax)


def outlier_factor(x: Tensor) -> float:
    """Return max |x| divided by the root mean square of x."""
    x = x.float()
    return (x.abs().max() / x.square().mean().sqrt()).item()


def noise_by_inner_dimension(
    inner: Sequence[int], *, rows: int = 64, outlier: float = 0.0, seed: int = 0
) -> list[Row]:
    """Multiply Gaussian matrices [rows, K] of growing K in int8: noise and signal (rms) and SNR.

    With `outlier`, one feature (index 0 of K) of the first operand is that many times larger, and
    the second operand has learned to make little use of it, as layers with such features have.
    """
    generator = torch.Generator().manual_seed(seed)
    table = []
    for k in inner:
        a = torch.randn(rows, k, generator=generator)
        b = torch.randn(rows, k, generator=generator)
        if outlier:
            a[:, 0] *= outlier
            b[:, 0] /= outlier
        exact = a.double() @ b.double().t()
        noise = int8_product(a, b).double() - exact
        table.append(
            {
                "inner": k,
                "signal_rms": exact.square().mean().sqrt().item(),
                "noise_rms": noise.square().mean().sqrt().item(),
                "snr_db": snr_db(exact, exact + noise),
            }
        )
    return table


@dataclass
class Energy:
    """Signal and noise energies of one quantity of one layer, added up over sequences."""

    signal: float = 0.0
    noise: dict[str, float] = field(default_factory=dict)

    def add(self, exact: Tensor, product: Callable[[str], Tensor]) -> None:
        self.signal += exact.double().square().sum().item()
        for scale in ("row", "tensor"):
            noise = (exact.double() - product(scale).double()).square().sum().item()
            self.noise[scale] = self.noise.get(scale, 0.0) + noise


@dataclass
class LayerStudy:
    """What one linear layer saw: outlier factors, energies of y and dX, and X and G if kept."""

    weight: Tensor
    y: Energy = field(default_factory=Energy)
    dx: Energy = field(default_factory=Energy)
    x_square: float = 0.0
    x_count: int = 0
    x_max: float = 0.0
    feature: int = -1
    g_absmax: list[Tensor] = field(default_factory=list)
    x: list[Tensor] = field(default_factory=list)
    g: list[Tensor] = field(default_factory=list)

    def see_input(self, x: Tensor, keep: bool) -> None:
        w = self.weight
        self.y.add(x @ w.t(), lambda scale: int8_product(x, w, scale))
        self.x_square += x.double().square().sum().item()
        self.x_count += x.numel()
        highest, feature = x.abs().amax(dim=0).max(dim=0)
        if highest.item() > self.x_max:
            self.x_max, self.feature = highest.item(), int(feature)
        if keep:
            self.x.append(x)

    def see_gradient(self, g: Tensor, keep: bool) -> None:
        w = self.weight
        self.dx.add(g @ w, lambda scale: int8_product(g, w.t(), scale))
        self.g_absmax.append(g.abs().amax(dim=1))
        if keep:
            self.g.append(g)


def study(
    model: nn.Module, samples: Iterable[Row], *, keep: Sequence[str] = ()
) -> dict[str, LayerStudy]:
    """Run each sample ({"input_ids", "labels"}) forward and backward; watch every linear layer.

    With `keep`, these layers alone are watched, and their X and G are kept whole. Returns the
    layers by name, in the model's order, without lm_head. The model's gradients and weights are
    left as they were. Raises LabkitError for a layer that the model does not have.
    """
    layers = {
        name: LayerStudy(module.weight.detach().float())
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] != "lm_head"
    }
    unknown = sorted(set(keep) - set(layers))
    if unknown:
        raise LabkitError(f"the model has no linear layer {unknown[0]!r}")
    layers = {name: layer for name, layer in layers.items() if not keep or name in keep}
    handles = []
    for name, layer in layers.items():
        module = model.get_submodule(name)
        kept = name in keep

        def forward(
            _m: Any, inputs: Any, _y: Any, *, one: LayerStudy = layer, k: bool = kept
        ) -> None:
            one.see_input(inputs[0].detach().float().flatten(0, -2), k)

        def backward(
            _m: Any, _gx: Any, gy: Any, *, one: LayerStudy = layer, k: bool = kept
        ) -> None:
            one.see_gradient(gy[0].detach().float().flatten(0, -2), k)

        handles += [
            module.register_forward_hook(forward),
            module.register_full_backward_hook(backward),
        ]
    # Gradients with respect to the embedded tokens: the whole way back, nothing accumulated.
    embeddings = model.get_input_embeddings()
    try:
        for sample in samples:
            ids = torch.as_tensor([list(sample["input_ids"])], device=embeddings.weight.device)
            labels = torch.as_tensor([list(sample["labels"])], device=ids.device)
            embedded = embeddings(ids).detach().requires_grad_()
            loss = model(inputs_embeds=embedded, labels=labels, use_cache=False).loss
            torch.autograd.grad(loss, embedded)
    finally:
        for handle in handles:
            handle.remove()
    return layers


def layer_table(layers: dict[str, LayerStudy]) -> list[Row]:
    """Return one row per layer: outlier factors of X and W, SNR of y and dX per weight scale.

    `x_feature` is the input feature with the largest value, and `feature_use` the norm of its
    column of W over that of the median column. `g_spread` is the largest gradient of a token (its
    absmax) over that of the median token.
    """
    return [
        {
            "layer": name,
            "depth": next((int(part) for part in name.split(".") if part.isdigit()), 0),
            "kind": name.rpartition(".")[2],
            "x_absmax": layer.x_max,
            "x_rms": math.sqrt(layer.x_square / layer.x_count),
            "x_outlier": layer.x_max / math.sqrt(layer.x_square / layer.x_count),
            "x_feature": layer.feature,
            "w_absmax": layer.weight.abs().max().item(),
            "w_rms": layer.weight.square().mean().sqrt().item(),
            "w_outlier": outlier_factor(layer.weight),
            "feature_use": _feature_use(layer.weight, layer.feature),
            "g_spread": _spread(torch.cat(layer.g_absmax)),
            **{
                f"{what}_{scale}_db": decibels(energy.signal, energy.noise[scale])
                for what, energy in (("y", layer.y), ("dx", layer.dx))
                for scale in ("row", "tensor")
            },
        }
        for name, layer in layers.items()
    ]


def brief(table: Sequence[Row]) -> list[Row]:
    """Return of each row of `layer_table` what a checkpoint asks for, in five digits."""
    keys = ["x_absmax", "x_rms", "w_absmax", "w_rms"]
    keys += ["y_row_db", "y_tensor_db", "dx_row_db", "dx_tensor_db"]
    return [
        {"layer": row["layer"], **{key: float(f"{row[key]:.5g}") for key in keys}} for row in table
    ]


def _feature_use(weight: Tensor, feature: int) -> float:
    norms = weight.norm(dim=0)
    return (norms[feature] / norms.median()).item()


def _spread(absmax: Tensor) -> float:
    some = absmax[absmax > 0]
    return (some.max() / some.median()).item()


def kind_table(table: Sequence[Row], kinds: Sequence[str]) -> list[Row]:
    """Return one row per kind of layer: how many there are, and medians of `layer_table`."""
    keys = ["x_outlier", "feature_use", "w_outlier"]
    keys += ["y_row_db", "y_tensor_db", "dx_row_db", "dx_tensor_db"]
    rows = []
    for kind in kinds:
        mine = [row for row in table if row["kind"] == kind]
        if mine:
            medians = {key: median(row[key] for row in mine) for key in keys}
            rows.append({"kind": kind, "layers": len(mine), **medians})
    return rows


def scale_table(table: Sequence[Row], floor_db: float = 30.0) -> list[Row]:
    """Compare the two weight scales over all layers, for y and dX.

    Columns: decibels that one scale for W costs in the median and the worst layer, which layer
    that is and its two SNRs, and how many layers stay below `floor_db` with each scale.
    """
    rows: list[Row] = []
    for what in ("y", "dx"):
        lost = [r[f"{what}_row_db"] - r[f"{what}_tensor_db"] for r in table]
        worst = table[lost.index(max(lost))]
        row = {"product": what, "median_lost_db": median(lost), "most_lost_db": max(lost)}
        row["worst_layer"] = worst["layer"]
        for scale in ("row", "tensor"):
            key = f"{what}_{scale}_db"
            row[f"worst_{scale}_db"] = worst[key]
            row[f"layers_below_{scale}"] = sum(r[key] < floor_db for r in table)
        rows.append(row)
    return rows


def next_token_logits(model: nn.Module, samples: Sequence[Row]) -> Tensor:
    """Return the model's logits at every position of every sample: float32 [tokens, vocabulary]."""
    device = next(model.parameters()).device
    with torch.no_grad():
        logits = [
            model(torch.as_tensor([list(sample["input_ids"])], device=device), use_cache=False)
            .logits[0]
            .float()
            for sample in samples
        ]
    return torch.cat(logits)


def divergence(exact: Tensor, other: Tensor) -> Row:
    """Compare logits [tokens, vocabulary]: mean Kullback-Leibler divergence, same likeliest token.

    The divergence (nats per token, from `exact`) is never negative, so noise cannot pass for an
    improvement, as it can in the loss of a few answers.
    """
    log_p, log_q = exact.log_softmax(dim=-1), other.log_softmax(dim=-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean().item()
    same = (exact.argmax(dim=-1) == other.argmax(dim=-1)).double().mean().item()
    return {"kl_nats": kl, "same_token": same}


def over_layers(gradients: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Average `weight_gradient_noise` over layers: precision, tokens, snr_db, wrong_sign."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in [row for rows in gradients.values() for row in rows]:
        groups.setdefault((row["precision"], row["tokens"]), []).append(row)
    return [
        {"precision": precision, "tokens": tokens}
        | {key: mean(row[key] for row in rows) for key in ("snr_db", "wrong_sign")}
        for (precision, tokens), rows in sorted(groups.items())
    ]


def below_y(gradients: Mapping[str, Sequence[Row]], table: Sequence[Row]) -> list[Row]:
    """Count the layers whose int8 weight gradient is less precise than their Y, by tokens.

    `gradients` has `weight_gradient_noise` by layer, `table` the `layer_table` of the same layers.
    Rows: tokens, layers, below (of them).
    """
    y = {row["layer"]: row["y_row_db"] for row in table}
    found: dict[int, list[bool]] = {}
    for name, rows in gradients.items():
        for row in rows:
            if row["precision"] == "int8":
                found.setdefault(row["tokens"], []).append(row["snr_db"] < y[name])
    return [
        {"tokens": tokens, "layers": len(below), "below": sum(below)}
        for tokens, below in sorted(found.items())
    ]


def weight_gradient_noise(
    layer: LayerStudy, tokens: Sequence[int] | None = None, *, seed: int = 0
) -> list[Row]:
    """Compute dW = Gᵀ·X of a kept layer from more and more tokens, in int8 and in bfloat16.

    Both operands of the int8 matmul are scaled per feature, over the tokens it sums: the best
    that int8 can do here. `tokens` defaults to powers of two; the order is shuffled.
    """
    x, g = torch.cat(layer.x), torch.cat(layer.g)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    used = g.abs().amax(dim=1)[order] > 0  # prompt tokens that no loss reaches add nothing
    x, g = x[order][used], g[order][used]
    if tokens is None:
        tokens = [2**i for i in range(4, 20) if 2**i <= len(x)]
    table = []
    for count in tokens:
        some_x, some_g = x[:count], g[:count]
        exact = some_g.double().t() @ some_x.double()
        for precision, dw in (
            ("int8", int8_product(some_g.t(), some_x.t())),
            ("bfloat16", some_g.bfloat16().t() @ some_x.bfloat16()),
        ):
            table.append(
                {
                    "tokens": min(count, len(x)),
                    "precision": precision,
                    "noise_rms": (dw.double() - exact).square().mean().sqrt().item(),
                    "snr_db": snr_db(exact, dw),
                    "wrong_sign": sign_errors(exact, dw),
                }
            )
    return table
