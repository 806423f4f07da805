"""Exercises of lesson 02: fine-tuning by hand, held against `labkit.train.by_hand`.

The student's functions run on a tokenizer of words and on a model of two blocks in float64, so that
a check takes no time and two ways to compute the same agree to the last digits.
"""

import copy
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from labkit.checkpoints.exercises import Exercise, Student

IGNORED = -100
VOCABULARY, WIDTH, WIDE = 12, 8, 20

# tokens_and_labels(tokenizer, prompt, answer) -> (ids, labels), lists of int


class Encoding(dict[str, Any]):
    """What a tokenizer returns: entries that are attributes as well."""

    __getattr__ = dict.__getitem__


class Words:
    """A tokenizer of words that opens every text with a start token unless told not to."""

    bos_token, bos_token_id = "<s>", 0
    eos_token, eos_token_id = "<end>", 1

    def __init__(self) -> None:
        self.ids = {self.bos_token: 0, self.eos_token: 1}

    def __call__(self, text: str, add_special_tokens: bool = True, **options: Any) -> Encoding:
        words = re.findall(r"<\w+>|\s?\w+|\s?\S|\s", text)
        ids = [self.ids.setdefault(word, len(self.ids)) for word in words]
        return Encoding(input_ids=[self.bos_token_id] * add_special_tokens + ids)

    def encode(self, text: str, add_special_tokens: bool = True, **options: Any) -> list[int]:
        """Return the ids alone."""
        return list(self(text, add_special_tokens)["input_ids"])


TEXTS = [
    ("<user> What was Other in 2019? <assistant>", " 44.1 million"),
    ("<user> Sum? <assistant>", " = 44.1 - 56.7"),
    ("<user> Is it 12 or 13? <assistant>", " 12"),
]


def _each_text(holds: Callable[..., bool]) -> Callable[[Student], bool]:
    """Return the property that `holds(ids, labels, prompt, answer)` for every text."""

    def every(student: Student) -> bool:
        for prompt, answer in TEXTS:
            tokenizer = Words()
            expected = [tokenizer.encode(text, False) for text in (prompt, answer)]
            ids, labels = student(tokenizer, prompt, answer)
            if not holds(list(ids), list(labels), *expected):
                return False
        return True

    return every


END = Words.eos_token_id

TOKENS_AND_LABELS = Exercise(
    signature="tokens_and_labels(tokenizer, prompt, answer)",
    parameters=3,
    properties=(
        (
            "it returns two lists of the same length, ids and labels",
            _each_text(lambda ids, labels, p, a: len(ids) == len(labels) > 0),
        ),
        (
            "the tokenizer adds no token of its own (add_special_tokens=False): the prompt has "
            "its marks already",
            _each_text(lambda ids, labels, p, a: Words.bos_token_id not in ids),
        ),
        (
            "the ids are those of the prompt, then those of the answer",
            _each_text(lambda ids, labels, p, a: ids[: len(p + a)] == p + a),
        ),
        (
            "the end token comes last, once: without it the model never learns to stop",
            _each_text(lambda ids, labels, p, a: ids == [*p, *a, END]),
        ),
        (
            "no token of the prompt has a label: -100 there, and nothing else",
            _each_text(lambda ids, labels, p, a: labels[: len(p)] == [IGNORED] * len(p)),
        ),
        (
            "a label is the token at its own place: the loss shifts by one, the labels do not",
            _each_text(lambda ids, labels, p, a: labels[len(p) : len(p + a)] == a),
        ),
        (
            "the end token is learned too: it has its label",
            _each_text(lambda ids, labels, p, a: labels[-1] == END),
        ),
    ),
)


# add_lora(model, r, lora_alpha) -> list of the trained parameters


def toy_model(*, scale: float = 1.0) -> Any:
    """Return a causal language model of two blocks in float64; `scale` widens its logits.

    ids (B, L) and a mask of that shape give `.logits` (B, L, 12).
    """
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj = nn.Linear(WIDTH, WIDTH, bias=False)
            self.up_proj = nn.Linear(WIDTH, WIDE, bias=False)
            self.down_proj = nn.Linear(WIDE, WIDTH, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.down_proj(torch.tanh(self.up_proj(self.q_proj(x))))

    class Toy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed_tokens = nn.Embedding(VOCABULARY, WIDTH)
            self.layers = nn.ModuleList([Block(), Block()])
            self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)

        def forward(
            self, input_ids: torch.Tensor, attention_mask: Any = None, **options: Any
        ) -> Any:
            x = self.embed_tokens(input_ids)
            seen = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            seen = seen[..., None].to(x.dtype)
            x = (x * seen).cumsum(1) / seen.cumsum(1).clamp(min=1)
            for layer in self.layers:
                x = layer(x)
            return SimpleNamespace(logits=scale * self.lm_head(x))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Toy().double()


def _ids() -> Any:
    import torch

    return torch.arange(10).reshape(2, 5) % VOCABULARY


def _adapted(student: Student, r: int = 2, lora_alpha: float = 4.0) -> tuple[Any, Any, list[Any]]:
    """Return the toy before, the toy with the student's adapters, and what the student returned."""
    import torch

    before, model = toy_model(), toy_model()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        returned = list(student(model, r, lora_alpha))
    return before, model.double(), returned


def _base_is_frozen(student: Student) -> bool:
    model = toy_model()
    own = list(model.parameters())
    student(model, 2, 4.0)
    return not any(weight.requires_grad for weight in own)


def _head_is_left_alone(student: Student) -> bool:
    from torch import nn

    return type(_adapted(student)[1].lm_head) is nn.Linear


def _counts(student: Student) -> bool:
    inside = 2 * ((WIDTH + WIDTH) + 2 * (WIDTH + WIDE))
    found = []
    for r in (2, 3):
        weights = [w for w in _adapted(student, r)[1].parameters() if w.requires_grad]
        found.append(sum(weight.numel() for weight in weights) == r * inside)
    return all(found)


def _returns_what_is_trained(student: Student) -> bool:
    _, model, returned = _adapted(student)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return len(returned) == len(trained) and {id(w) for w in returned} == {id(w) for w in trained}


def _starts_as_the_base_model(student: Student) -> bool:
    import torch

    before, model, _ = _adapted(student)
    return torch.allclose(model(_ids()).logits, before(_ids()).logits, rtol=1e-9, atol=1e-12)


def _can_learn(student: Student) -> bool:
    _, model, returned = _adapted(student)
    for weight in returned:
        if len(weight) > 1 and weight.any() and bool((weight == weight[0]).all()):
            return False  # equal rows get equal gradients, and the update keeps a rank of one
    model(_ids()).logits.square().sum().backward()
    moved = [weight.grad is not None and bool(weight.grad.any()) for weight in returned]
    return sum(moved) >= len(returned) / 2


def _starts_as_in_peft(student: Student) -> bool:
    """Hold where A is uniform between -1/√n and 1/√n, of n inputs: kaiming with a of √5."""
    import torch

    r = 6
    _, _, returned = _adapted(student, r)
    drawn = [w.detach().double() * (w.numel() / r) ** 0.5 for w in returned if w.any()]
    found = torch.cat([each.flatten() for each in drawn])
    return bool(found.abs().max() <= 1) and abs(float(found.std()) - 3**-0.5) < 0.1


def _alpha_scales(student: Student) -> bool:
    """Hold where factors full of 0.1 change each product by alpha/r · r · 0.01 of all inputs."""
    import torch

    for r, lora_alpha in ((2, 0.0), (2, 4.0), (3, 4.0), (2, 6.0)):
        expected, model, returned = _adapted(student, r, lora_alpha)
        with torch.no_grad():
            for weight in returned:
                weight.fill_(0.1)
            for layer in expected.layers.modules():
                if isinstance(layer, torch.nn.Linear):
                    layer.weight += lora_alpha * 0.01
        if not torch.allclose(model(_ids()).logits, expected(_ids()).logits, rtol=1e-5):
            return False
    return True


ADD_LORA = Exercise(
    signature="add_lora(model, r, lora_alpha)",
    parameters=3,
    properties=(
        (
            "the model's own weights are frozen, embedding and output head too "
            "(requires_grad_(False))",
            _base_is_frozen,
        ),
        ("the output head, lm_head, stays a plain linear layer", _head_is_left_alone),
        ("every other linear layer trains r (in + out) numbers", _counts),
        ("it returns the parameters that are trained, each once", _returns_what_is_trained),
        (
            "at first the model computes what it did before: B starts at zero",
            _starts_as_the_base_model,
        ),
        (
            "A starts random: while both are zero, no gradient moves either of them, and equal "
            "rows of A would stay equal",
            _can_learn,
        ),
        (
            "A starts as in PEFT: with a=5**0.5 no number is above one over the root of its inputs",
            _starts_as_in_peft,
        ),
        (
            "the layers compute with their adapters, scaled by lora_alpha over r, once",
            _alpha_scales,
        ),
    ),
)


# train_by_hand(model, weights, batches, learning_rate) -> the loss of each batch before its step


def toy_batch(shift: int = 0, *, ignored: bool = False) -> tuple[Any, Any, Any]:
    """Return ids, labels and mask, each (3, 6); with `ignored` a prompt and padding."""
    import torch

    ids = (torch.arange(18).reshape(3, 6) * 5 + shift) % VOCABULARY
    labels, mask = ids.clone(), torch.ones_like(ids)
    if ignored:
        labels[:, :2] = IGNORED
        labels[1, 4:] = IGNORED
        mask[1, 4:] = 0
    return ids, labels, mask


def _trained(
    student: Student, batches: list[Any], *, scale: float = 1.0, rate: float = 0.01
) -> tuple[list[float], list[float]]:
    """Return the student's losses and those of `by_hand`, from the same weights."""
    from labkit.train import by_hand

    theirs = toy_model(scale=scale)
    ours = copy.deepcopy(theirs)
    expected = by_hand.train(ours, list(ours.parameters()), batches, rate)
    found = student(theirs, list(theirs.parameters()), batches, rate)
    return [float(loss) for loss in found], expected


def _same(found: list[float], expected: list[float]) -> bool:
    return len(found) == len(expected) and all(
        abs(a - b) <= 1e-5 * abs(b) for a, b in zip(found, expected, strict=True)
    )


def _a_number_for_each(student: Student) -> bool:
    model = toy_model()
    found = student(model, list(model.parameters()), [toy_batch()] * 3, 0.01)
    return isinstance(found, list) and [type(loss) for loss in found] == [float] * 3


def _first(*, ignored: bool) -> Callable[[Student], bool]:
    return lambda student: _same(*_trained(student, [toy_batch(ignored=ignored)]))


def _steps(count: int, *, scale: float = 1.0) -> Callable[[Student], bool]:
    def holds(student: Student) -> bool:
        batches = [toy_batch(shift, ignored=shift % 2 == 1) for shift in range(count)]
        return _same(*_trained(student, batches, scale=scale))

    return holds


def _only_the_given(student: Student) -> bool:
    model = toy_model()
    given = [model.layers[0].q_proj.weight]
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    student(model, given, [toy_batch()] * 2, 0.01)
    moved = {n for n, w in model.named_parameters() if not bool((w == before[n]).all())}
    return moved == {"layers.0.q_proj.weight"}


LARGE = 40.0
"""widens the toy's logits so far that its gradients are longer than one"""

TRAIN_BY_HAND = Exercise(
    signature="train_by_hand(model, weights, batches, learning_rate)",
    parameters=4,
    properties=(
        ("it returns a list with the loss of each batch, as float", _a_number_for_each),
        (
            "the first loss is the mean cross-entropy of each token with the logits of the place "
            "before it, and comes before any step",
            _first(ignored=False),
        ),
        ("places whose label is -100 do not count, not even in the mean", _first(ignored=True)),
        (
            "the second loss is that after one step of AdamW with this learning rate and no "
            "weight decay",
            _steps(2),
        ),
        ("the gradients of one step are gone before the next", _steps(4)),
        (
            "gradients that are together longer than 1 are scaled down to length 1",
            _steps(4, scale=LARGE),
        ),
        ("the weights it is given move, and no others", _only_the_given),
    ),
)


EXERCISES = {
    "tokens_and_labels": TOKENS_AND_LABELS,
    "add_lora": ADD_LORA,
    "train_by_hand": TRAIN_BY_HAND,
}
