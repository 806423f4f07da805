"""Let a model answer, keep the logits it answered by, and measure what rounding does to them.

Numbers are never quite equal: the same sum in another order is rounded elsewhere. What that does
to *this* model is measured. Every layer's output is moved once at random by as much as a type moves
a number, as a fraction of the output's root mean square, and the largest change of a logit is the
yardstick for that type. By how much follows from the arithmetic:

    kept in a type     each weight is off by up to half the distance u of its neighbours, and a sum
                       of such products by as much of its size: u = 2⁻⁸ for bfloat16, 2⁻¹¹ for
                       float16 (`STEPS`)
    added in float32   each of n additions rounds by up to 2⁻²⁴, to both sides alike: √n · 2⁻²⁴
                       for a layer that reads n numbers

Weights are off by 0.43 u on average (uniform within u, of numbers between 1 and 2), the random move
by u/√3 = 0.58 u; a program that also rounds inputs and outputs of each layer to the type, as a GPU
does, comes to √3 · 0.43 u = 0.74 u, 1.3 times the move. Of two draws of the same size one may have
a largest logit half as large again. Together that is twice the yardstick: `MARGIN`.

On a CPU plain weights are multiplied in float32, whatever type they are kept in.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from labkit.datasets.base import Example
from labkit.errors import LabkitError
from labkit.inference import served
from labkit.inference.batching import end_tokens
from labkit.inference.generate import Generator, check_writes, load_generator, model_path
from labkit.models import load

MARGIN = 2
STEPS = {"float32": 2**-24, "float16": 2**-11, "bfloat16": 2**-8, "8bit": 2**-5, "4bit": 2**-3}
"""By how much a type moves a number, as a fraction of it: half the distance of two neighbours."""
UNKNOWN = "bfloat16"
"""What a server is taken to calculate in, since it does not say."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """A model as it was asked for: kept in a type, or in some bits, or behind a server."""

    name: str
    dtype: str = UNKNOWN
    bits: str = ""
    behind: served.Served | None = None

    @property
    def type(self) -> str:
        if self.behind:
            return "unknown"
        return f"{self.bits} in {self.dtype}" if self.bits else self.dtype


@dataclass(kw_only=True)
class Reference:
    """What the reference read and wrote: token ids, and a row of logits for each it wrote.

    `noise` is the largest change of a logit for each type of `STEPS` that was asked about.
    """

    form: Form
    tokenizer: Any
    end_ids: list[int]
    limit: int
    asked: list[Example]
    prompts: list[list[int]]
    written: list[list[int]]
    rows: list[Any]
    noise: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How all models are asked."""

    prompt: Callable[[Any, Example, int], list[int]]
    max_new_tokens: int
    tolerance: float | None


def form(name: str, dtype: str) -> Form:
    """Return how a model is kept, or which one of a server it is; LabkitError if neither."""
    if served.is_address(name):
        return Form(name=name, behind=served.find(name))
    path = model_path(name)
    check_writes(name, load.config_of(str(path)))
    stored = load.quantisation(path)
    bits = {"8bit": "8bit", None: ""}.get(stored, "4bit")
    return Form(name=name, bits=bits, dtype=load.stored_dtype(path) if dtype == "auto" else dtype)


def yardstick(a: Form, b: Form) -> str:
    """Return the type whose rounding two models may differ by."""
    if a.bits != b.bits:
        return "float32"
    return max(a.dtype, b.dtype, key=STEPS.__getitem__)


def fewer_bits(a: Form, b: Form) -> list[str]:
    """Return the bits that may explain a difference; a server may have quantised its model."""
    if b.behind:
        return ["8bit"]
    bits = {form.bits for form in (a, b)}
    return sorted(bits - {""}, key=STEPS.__getitem__)[-1:] if len(bits) > 1 else []


def read(first: Form, others: Sequence[Form], asked: list[Example], asking: Asking) -> Reference:
    """Let the reference answer, and measure what rounding to the types in question does to it."""
    generator = load_generator(first.name, dtype=first.dtype, exact=True)
    limit = generator._prompt_limit(asking.max_new_tokens)
    prompts = [asking.prompt(generator.tokenizer, example, limit) for example in asked]
    written = [write(generator, ids, asking.max_new_tokens) for ids in prompts]
    both = list(zip(prompts, written, strict=True))
    rows = [rows_of(generator.model, ids, answer) for ids, answer in both]
    noise = {}
    for kind in {k for b in others for k in (yardstick(first, b), *fewer_bits(first, b))}:
        with rounding(generator.model, kind):
            moved = [rows_of(generator.model, ids, answer) for ids, answer in both]
        noise[kind] = max(largest(a, b) for a, b in zip(rows, moved, strict=True))
        if noise[kind] == float("inf"):
            raise LabkitError(f"the logits of {first.name} are not all numbers, so nothing can be "
                              "held against it: name another model first")  # fmt: skip
    return Reference(
        form=first, tokenizer=generator.tokenizer, end_ids=end_tokens(generator.model),
        limit=limit, asked=asked, prompts=prompts, written=written, rows=rows, noise=noise,
    )  # fmt: skip


def write(generator: Generator, prompt: list[int], max_new_tokens: int) -> list[int]:
    """Return the greedy continuation with the token that ended it, one prompt alone."""
    import torch

    model = generator.model
    if max(prompt) >= (rows := model.get_input_embeddings().weight.shape[0]):
        raise LabkitError(f"the tokenizer of {generator.name} makes token {max(prompt)}, but its "
                          f"model has only {rows} embeddings: it is another model's")  # fmt: skip
    ids = torch.tensor([prompt], device=model.device)
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens,
            do_sample=False, temperature=None, top_p=None, top_k=None,
            pad_token_id=generator.tokenizer.pad_token_id,
        )  # fmt: skip
    written: list[int] = out[0, len(prompt) :].tolist()
    return written


def rows_of(model: Any, prompt: list[int], answer: list[int]) -> Any:
    """Return the logits (tokens of the answer, vocabulary) from which each token was chosen.

    None where the model has no embedding for one of the ids.
    """
    import torch

    ids = prompt + answer[:-1]
    if max(ids) >= model.get_input_embeddings().weight.shape[0]:
        return None
    inputs = torch.tensor([ids], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=inputs, attention_mask=torch.ones_like(inputs),
                       logits_to_keep=len(answer)).logits  # fmt: skip
    return logits[0, -len(answer) :].float().cpu()


def largest(a: Any, b: Any) -> float:
    """Return the largest difference in the columns that both have; infinite where it is none."""
    if a is None or b is None:
        return float("inf")
    width = min(a.shape[-1], b.shape[-1])
    largest = float((a[:, :width] - b[:, :width]).abs().max())
    return largest if largest < float("inf") else float("inf")


def step_of(kind: str, terms: int) -> float:
    """Return by how much a type moves the sum of so many products, as a fraction of it."""
    return max(STEPS[kind], terms**0.5 * STEPS["float32"])


@contextmanager
def rounding(model: Any, kind: str) -> Iterator[None]:
    """Move every layer's output at random, by up to what a type moves it."""
    import torch
    from transformers.pytorch_utils import Conv1D

    draw = torch.Generator().manual_seed(0)

    def move(module: Any, given: Any, out: Any) -> Any:
        size = out.float().square().mean(-1, keepdim=True).sqrt()
        terms: int = getattr(module, "in_features", 0) or getattr(module, "nx", 1)
        step = step_of(kind, terms)
        by = (2 * torch.rand(out.shape, generator=draw) - 1).to(out.device)
        return out + (step * size * by).to(out.dtype)

    layers = (torch.nn.Linear, torch.nn.Embedding, torch.nn.Conv1d, Conv1D)
    hooks = [m.register_forward_hook(move) for m in model.modules() if isinstance(m, layers)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
