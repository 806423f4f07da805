"""Export a trained run as a model that others can load: merged, or quantised.

**Merging.** A LoRA adapter adds (α/r)·B·A to each weight it is on, so the sum can be written down
once: W = W₀ + (α/r)·B·A. The merged model has the base's shape and speed, and every program that
loads the base loads it. The sum is made in float32 and rounded once, to the type it is stored in.
Before, a few tokens are read by both: a kind of adapter that PEFT adds up wrongly is refused.
An adapter that was trained on a quantised base (QLoRA) is added to what those bits stand for, which
is the base it made up for; on the original weights it would be another model. Methods that add
*tokens* (prefix, prompt and P-tuning) or gated attention (LLaMA-Adapter) change no weight, so there
is nothing to add up; bottleneck adapters change it by no matrix.

**Quantising** stores the weights of all linear layers but the head in fewer bits (bitsandbytes):

    8bit   int8, one absmax per row; activations are quantised on the fly, outlier columns
           stay in 16 bit (LLM.int8(), Dettmers et al. 2022, arXiv:2208.07339)
    nf4    4 bits a weight: 16 levels that are quantiles of a normal distribution, one absmax per
           64 weights, itself in 8 bit (QLoRA, Dettmers et al. 2023, arXiv:2305.14314)

Embeddings stay as they are, and in a small model they are a fifth of it, so the whole shrinks by
less than the layers. Fewer bytes to read make a GPU faster that is waiting for memory; on a CPU
weights are unpacked before each matmul, so time is the price. `cost` measures it.

Output folders appear whole or not at all.
"""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit import methods
from labkit.console import quiet
from labkit.datasets import encode, tatqa
from labkit.errors import LabkitError, nearest
from labkit.files import appearing, free_folder
from labkit.inference.batching import end_as_taught
from labkit.inference.cost import label_of
from labkit.inference.evaluate import Metrics, evaluate
from labkit.inference.generate import MAX_NEW_TOKENS, load_generator, model_path
from labkit.machine import arithmetic
from labkit.models import adapters, load, registry
from labkit.models.layers import weights_bytes

FORMATS = ("8bit", "nf4")
SUM_TOLERANCE = 1e-3
"""Largest change of a logit by merging, of the largest logit; float32's rounding makes 1e-6."""


@dataclass(frozen=True, kw_only=True)
class Merged:
    """An adapter and its base as one model. `method` is the adapter's, in PEFT's words."""

    run: str
    out: str
    base: str
    method: str
    dtype: str
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return the JSON of `labkit merge`."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class FormCost:
    """What a model costs as it lies in its folder."""

    model: str
    format: str
    bytes: dict[str, int]
    """weights in memory, and files on disk"""
    tokens_per_second: float
    """one answer at a time, as in a chat"""
    seconds_per_answer: float
    n: int
    metrics: Metrics
    predictions: str


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """A model in fewer bits."""

    run: str
    out: str
    to: str
    bytes: dict[str, int]
    """original and quantised"""
    cost: dict[str, FormCost] | None = None
    """original and quantised, where they were measured"""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON of `labkit quantize`; `cost` is in it where it was measured."""
        values = dataclasses.asdict(self)
        return values if self.cost else {k: v for k, v in values.items() if k != "cost"}


def merge(run: str, out: str | Path, *, dtype: str = "bfloat16") -> Merged:
    """Write the full model that an adapter and its base make together to the folder `out`.

    `run` is a run, an adapter folder or a path to one. The folder is loaded by transformers and by
    every labkit command.

    Raises:
        LabkitError: no adapter there, one that changes no weights, one of another base, a base
            that is quantised, or an `out` that holds something already.
    """
    if dtype not in load.DTYPES:
        raise LabkitError(f"dtype {dtype!r} is not known: {nearest(dtype, load.DTYPES)}")
    path = model_path(run)
    kind = _mergeable(path)
    out = free_folder(out)
    with _model_appearing(out) as partial:
        _merge_into(partial, path, dtype=dtype)
    return Merged(run=run, out=str(out), base=registry.name_of(load.base_folder(path)),
                  method=kind, dtype=dtype, bytes=weight_bytes(out))  # fmt: skip


def quantize(run: str, out: str | Path, *, to: str) -> Quantised:
    """Write a model in fewer bits to the folder `out`; an adapter is merged first.

    `to` is 8bit or nf4.

    Raises:
        LabkitError: an unknown format, a model that is quantised already, or what `merge` refuses.
    """
    if to not in FORMATS:
        raise LabkitError(f"--to {to!r} is not a format: {nearest(to, FORMATS)}")
    path = model_path(run)
    _refuse_quantised(path, run)
    if why := methods.BASES[to].check(load.config_of(str(path)).model_type):
        raise LabkitError(f"{run} cannot be stored in {to}: {why}")
    if load.adapter_config(path) is not None:
        _mergeable(path)
    out = free_folder(out)
    with _model_appearing(out) as partial, tempfile.TemporaryDirectory(dir=out.parent) as merged:
        plain = path
        if load.adapter_config(path) is not None:
            plain = Path(merged)
            _merge_into(plain, path, dtype="bfloat16")
        original = weight_bytes(plain)
        _refuse_odd_widths(plain, run, to)
        model = load.load_model(plain, quantization_config=load.quantisation_settings(to))
        with quiet():
            model.save_pretrained(partial)
            load.load_tokenizer(plain).save_pretrained(partial)
    return Quantised(run=run, out=str(out), to=to,
                     bytes={"original": original, "quantised": weight_bytes(out)})  # fmt: skip


def cost(
    model: str,
    *,
    data: str = "tables",
    split: str = "test",
    max_samples: int | None = 40,
    repeats: int = 3,
) -> FormCost:
    """Measure a model's memory, decoding speed and score.

    The speed is the median of `repeats`; score and seconds are over the first `max_samples`
    questions. All of it is calculated in the type that is fast here, or in the one a quantised
    model was made for.
    """
    path = model_path(model)
    dtype = arithmetic.resolve("auto")
    generator = load_generator(model, dtype=dtype)
    weights = weights_bytes(generator.model)
    speeds = [_tokens_per_second(generator) for _ in range(repeats)]
    del generator
    outcome = evaluate(
        model, data=data, split=split, max_samples=max_samples, exact=False, quiet=True
    )
    return FormCost(
        model=model,
        format=load.quantisation(path) or label_of(dtype),
        bytes={"weights": weights, "disk": weight_bytes(path)},
        tokens_per_second=sorted(speeds)[len(speeds) // 2],
        seconds_per_answer=outcome.seconds / outcome.n,
        n=outcome.n,
        metrics=outcome.metrics,
        predictions=outcome.predictions,
    )


def render_costs(rows: Sequence[FormCost]) -> str:
    """Return costs as a table, each with its ratio to the first row."""
    first = rows[0]
    lines = [f"{'':<24}{'format':<8}{'weights':>12}{'tokens/s':>20}{'exact match, 95 %':>26}"]
    for row in rows:
        em = row.metrics["em"]
        ratio = row.bytes["weights"] / first.bytes["weights"]
        speed = row.tokens_per_second / first.tokens_per_second
        size = f"{row.bytes['weights'] / 2**20:,.0f} MiB"
        shown = f"{row.tokens_per_second:.1f}  ({speed:.2f}x)"
        score = f"{em['value']:.1%} ({em['low']:.1%} to {em['high']:.1%})"
        name = Path(row.model).name
        lines.append(f"{name:<24}{row.format:<8}{size:>12}{shown:>20}{score:>26}  "
                     f"{ratio:.2f} of the bytes, n = {row.n}")  # fmt: skip
    return "\n".join(lines)


def weight_bytes(folder: Path) -> int:
    """Return the bytes of the weight files in a model or adapter folder, of those that are read.

    Where there are safetensors, transformers and PEFT leave the older form beside them alone.
    """
    files = [*folder.glob("*.safetensors")] or [*folder.glob("*.bin")]
    return sum(file.stat().st_size for file in files)


def _mergeable(path: Path) -> str:
    """Return the adapter's method; LabkitError when there is none, or it changes no weights."""
    settings = load.adapter_config(path)
    if settings is None:
        raise LabkitError(f"{path} holds a full model, not an adapter: there is nothing to merge")
    from peft import PeftType

    kind = str(settings.get("peft_type", ""))
    adds_no_weight = {
        PeftType.PREFIX_TUNING, PeftType.PROMPT_TUNING, PeftType.P_TUNING, PeftType.ADAPTION_PROMPT,
        PeftType.MULTITASK_PROMPT_TUNING, PeftType.CPT, PeftType.XLORA,
    }  # fmt: skip
    ours = methods.of_adapter(path, kind)
    if kind in {k.value for k in adds_no_weight} or (ours and not ours.mergeable):
        raise LabkitError(
            f"{path} is a {kind} adapter, which changes no weight of its base, so it cannot be "
            "merged: use it as it is, or train with lora"
        )
    _refuse_quantised(path, str(path))
    return kind


def _refuse_quantised(path: Path, name: str) -> None:
    stored = load.quantisation(path, stored=True)
    if stored is not None:
        raise LabkitError(
            f"{name} is stored in {stored} already: start from the model it was made of"
        )


def _refuse_odd_widths(plain: Path, name: str, to: str) -> None:
    """On a CPU bitsandbytes multiplies 4-bit weights only where blocks of 64 fill each row."""
    import torch

    from labkit.models.layers import linear_names

    if to != "nf4" or torch.cuda.is_available():
        return
    for layer, module in linear_names(load.load_model(plain)):
        if int(module.in_features) % 64:
            raise LabkitError(
                f"{name}: {layer} reads {module.in_features} numbers, not a multiple of 64, which "
                "nf4 needs on a CPU: use --to 8bit"
            )


def _merge_into(folder: Path, path: Path, *, dtype: str) -> None:
    import torch

    # Beside a quantised base an adapter learned to make up for what quantising lost.
    adapted: Any = load.load_model(path, dtype="float32", dequantised=True)
    adapters.untie_trained(adapted)
    adapters.untie_layers(adapted)
    before = _logits(adapted)
    model: Any = methods.merge(adapted)
    change = float((_logits(model) - before).abs().max() / before.abs().max())
    if not change < SUM_TOLERANCE:  # a NaN is not either
        raise LabkitError(f"{path}: with the adapter added to the weights, logits change by "
                          f"{change:.1%} of the largest, so this kind cannot be merged: use the "
                          "adapter as it is")  # fmt: skip
    adapters.mark_untied(model)
    model = model.to(getattr(torch, dtype))
    tokenizer = load.load_tokenizer(path)
    end_as_taught(model, tokenizer)
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _logits(model: Any) -> Any:
    """Return the logits of a few tokens (1, T, vocabulary)."""
    import torch

    rows = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(min(rows, 32), device=model.device)[None]
    decoder = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.inference_mode():
        return model(input_ids=ids, **decoder).logits


@contextlib.contextmanager
def _model_appearing(out: Path) -> Iterator[Path]:
    """Yield `files.appearing`'s place for a model, which everybody may read afterwards."""
    with appearing(out) as partial:
        yield partial
        for file in partial.iterdir():
            file.chmod(0o644)


def _tokens_per_second(generator: Any) -> float:
    import torch

    sample = tatqa.samples(tatqa.load("tables", "test"))[0]
    ids = encode.encode(
        generator.tokenizer, sample, max_length=1024, with_answer=False
    )["input_ids"]  # fmt: skip
    device = generator.model.device
    options = {"do_sample": False, "pad_token_id": generator.tokenizer.pad_token_id,
               "temperature": None, "top_p": None, "top_k": None}  # fmt: skip
    inputs = torch.tensor([ids], device=device)
    seconds = {}
    for count in (1, MAX_NEW_TOKENS // 2):
        started = time.perf_counter()
        with torch.inference_mode():
            generator.model.generate(
                input_ids=inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=count,
                min_new_tokens=count, **options,
            )  # fmt: skip
        seconds[count] = time.perf_counter() - started
    # Reading the prompt is in both, so the difference is decoding alone.
    decoded = MAX_NEW_TOKENS // 2 - 1
    return decoded / max(seconds[MAX_NEW_TOKENS // 2] - seconds[1], 1e-9)
