"""Exercises accept any right function and say of a wrong one which property fails."""

import contextlib
import re
import time

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy.stats import linregress

from labkit.checkpoints import check, exercises
from labkit.checkpoints.collecting import collect
from labkit.checkpoints.lessons.exercises_02 import reference_count, reference_lora_forward
from labkit.datasets.answers import parse_answer, rounded
from labkit.errors import LabkitError

EXERCISES = collect("exercises")


def exact_match(answer, gold):
    clean = [re.sub(r"(?<=\d),(?=\d)", "", " ".join(t.lower().split())) for t in (answer, gold)]
    return clean[0] == clean[1]


def read_answer(text):
    """Read with the course's own reader."""
    read = parse_answer(text)
    return list(read.values), read.scale


def read_with_eval(text):
    """Read by running what stands after the equals sign, which is what must never be done."""
    values, scale = read_answer(text)
    line = text.strip().partition("#")[0].strip()
    if line.startswith("=") and not line.startswith("= count"):
        with contextlib.suppress(Exception):
            value = eval(line[1:].replace(",", ""), {})
            return [rounded(value, 2 if scale else 4)], scale
    return values, scale


def read_left_to_right(text):
    """Read arithmetic in the order in which it stands."""
    values, scale = read_answer(text)
    words = text.partition("#")[0].replace(",", "").split()
    if words[:1] != ["="] or not all(word.strip("()").isdigit() for word in words[1::2]):
        return values, scale
    total = float(words[1].strip("()"))
    for sign, word in zip(words[2::2], words[3::2], strict=True):
        number = float(word.strip("()"))
        total = {"+": total + number, "-": total - number, "*": total * number,
                 "/": total / (number or 1)}[sign]  # fmt: skip
    return [f"{total:.4f}".rstrip("0").rstrip(".")], scale


def read_two_decimals(text):
    values, scale = read_answer(text)
    with contextlib.suppress(ValueError):
        values = [f"{round(float(values[0]), 2):g}", *values[1:]] if "=" in text else values
    return values, scale


def merged(x, W, A, B, alpha, r):
    return torch.nn.functional.linear(x, W + alpha / r * B @ A)


def states_bytes(linears, others, method, r):
    """Count each number of each parameter with its own size."""
    matrices = sum(n * m for n, m in linears)
    factors = r * sum(n + m for n, m in linears)
    if method.startswith("full"):
        size = 2 if "16" in method else 4
        return tuple(size * k * (matrices + others) for k in (1, 1, 2))
    bits = 16 if method == "lora" else 4 + 8 * 4 / 64
    return matrices * bits / 8 + 2 * others + 4 * factors, 4 * factors, 8 * factors


def states_with(**changes):
    """Return `states_bytes` with one mistake: other factors, or another size of a part."""

    def wrong(linears, others, method, r):
        if "rank" in changes:
            r = changes["rank"]
        if "factors" in changes and method == "lora":
            linears = [(n, n) if n < m else (m, m) for n, m in linears]
        weights, gradients, state = states_bytes(linears, others, method, r)
        if method == changes.get("method"):
            weights *= changes.get("weights", 1)
            gradients *= changes.get("gradients", 1)
            state *= changes.get("state", 1)
        return weights, gradients, state

    return wrong


def peak_bytes(weights, copies, optimizer_state, gradients, activations, logits):
    forward = weights + copies + optimizer_state + activations + logits
    return max(forward, weights + optimizer_state + gradients)


def weigh(function, inputs, weights, *, sizes=lambda t: t.untyped_storage().nbytes(), once=True):
    """Collect what is packed for the backward pass, by storage or, if not `once`, one by one."""
    known = {w.untyped_storage().data_ptr() for w in weights}
    packed = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t)
    with hooks:
        result = function(*inputs)
    kept = [t for t in packed if t.untyped_storage().data_ptr() not in known]
    if once:
        kept = list({t.untyped_storage().data_ptr(): t for t in kept}.values())
    del result
    return sum(map(sizes, kept))


def saved_bytes(function, inputs, weights):
    return weigh(function, inputs, weights)


def layer_bytes(h, m, q, k):
    """Korthikanti et al. 2022 count like this for GPT-2; here for Llama's norms and MLP."""
    norms = 2 * (4 + 2) * h
    return norms + 2 * 2 * h + 2 * (q + k + k) + 2 * q + 2 * 4 * m


def kv_cache(layers, kv_heads, head_dim, tokens, batch, width):
    return 2 * layers * kv_heads * head_dim * tokens * batch * width


RIGHT = {
    "kv_cache_bytes": [kv_cache],
    "read_answer": [read_answer],
    "exact_match": [exact_match],
    "states_bytes": [states_bytes],
    "saved_bytes": [saved_bytes],
    "peak_bytes": [peak_bytes],
    "layer_bytes_per_token": [layer_bytes],
    "lora_forward": [reference_lora_forward, merged],
    "count_lora_parameters": [
        reference_count,
        lambda shapes, r: r * sum(map(sum, shapes)),
    ],
    "fit_step_time": [
        lambda sizes, seconds: np.polyfit(sizes, seconds, 1)[::-1],
        lambda sizes, seconds: linregress(sizes, seconds)[1::-1],
    ],
    "batch_for_share": [lambda a, b, share: a / b / (1 / share - 1)],
}

F = torch.nn.functional.linear
WRONG = [
    ("read_answer", lambda text: text, "list of one string"),
    ("read_answer", lambda text: (text.split("#")[0].split("|"), text.split("#")[-1]), "list of"),
    ("read_answer", lambda text: ([text.split("#")[0].strip()], text.partition("#")[2]), "after #"),
    ("read_answer", lambda text: (read_answer(text)[0][:1], read_answer(text)[1]), "separated by"),
    ("read_answer", lambda text: read_answer(" ".join(text.split())), "first line"),
    ("read_answer", read_left_to_right, "products come before sums"),
    ("read_answer", read_two_decimals, "two decimals"),
    ("read_answer", read_with_eval, "never run as code"),
    ("exact_match", lambda a, b: a == b, "capital letters"),
    ("exact_match", lambda a, b: b in a, "different numbers"),
    ("exact_match", lambda a, b: a.lower() == b.lower(), "white space"),
    ("exact_match", lambda a, b: a.lower().split() == b.lower().split(), "commas that group"),
    (
        "exact_match",
        lambda a, b: (
            [t.lower().replace(",", "").split() for t in (a,)]
            == [t.lower().replace(",", "").split() for t in (b,)]
        ),
        "a comma between words",
    ),
    ("exact_match", lambda a, b: exact_match(a, b) or exact_match(a, b.split(" ")[-1]), "a part"),
    ("exact_match", lambda a, b: 1 if a == b else 0, "the result is True"),
    ("exact_match", lambda a, b: None, "the same text"),
    ("kv_cache_bytes", lambda L, n, d, t, b, w: L * n * d * t * b * w, "a key and a value"),
    ("kv_cache_bytes", lambda L, n, d, t, b, w: 2 * n * d * t * b * w, "every layer keeps"),
    ("kv_cache_bytes", lambda L, n, d, t, b, w: 2 * L * d * t * b * w, "each head of keys"),
    ("kv_cache_bytes", lambda L, n, d, t, b, w: 2 * L * n * d * t * w, "tokens and sequences"),
    ("kv_cache_bytes", lambda L, n, d, t, b, w: 2 * L * n * d * t * b * 1, "takes its bytes"),
    ("states_bytes", states_with(method="full", weights=1.5), "full: weights, gradients"),
    ("states_bytes", states_with(method="full", gradients=0.5), "full: weights, gradients"),
    ("states_bytes", states_with(method="full", state=0.5), "full: weights, gradients"),
    ("states_bytes", states_with(method="full in 16 bit", state=2), "full in 16 bit"),
    ("states_bytes", states_with(method="lora", gradients=0), "only the factors"),
    ("states_bytes", states_with(factors="square"), "only the factors"),
    ("states_bytes", states_with(method="lora", weights=2), "only the factors"),
    (
        "states_bytes",
        lambda linears, *rest: states_bytes(linears[:7] if "lora" in rest else linears, *rest),
        "every matrix gets its factors",
    ),
    ("states_bytes", lambda a, b, c, r: states_bytes(a, b, c, min(r, 16)), "follow the rank"),
    ("states_bytes", states_with(method="qlora", weights=8 / 9), "scale of 4 bytes"),
    (
        "states_bytes",
        lambda a, b, c, r: states_bytes(a, 0 if c == "qlora" else b, c, r),
        "the rest in 16",
    ),
    ("peak_bytes", lambda w, c, o, g, a, x: w + c + o + g + a + x, "never meet"),
    ("peak_bytes", lambda w, c, o, g, a, x: max(w, c, o, g, a, x), "there all the time"),
    ("peak_bytes", lambda w, c, o, g, a, x: w + o + max(a, x), "optimizer step decides"),
    ("peak_bytes", lambda w, c, o, g, a, x: w + o + max(a, x, g), "meet at the end"),
    ("peak_bytes", lambda w, c, o, g, a, x: w + o + max(a + x, g), "copies are there"),
    ("peak_bytes", lambda w, c, o, g, a, x: w + o + c + max(a + x, g), "never meet"),
    ("saved_bytes", lambda f, i, w: sum(t.nbytes for t in i), "squaring twice"),
    ("saved_bytes", lambda f, i, w: weigh(f, i, w, sizes=lambda t: 4 * t.numel()), "16 bits"),
    ("saved_bytes", lambda f, i, w: weigh(f, i, []), "weights don't count"),
    ("saved_bytes", lambda f, i, w: weigh(f, i, w, once=False), "read is kept once"),
    ("saved_bytes", lambda f, i, w: weigh(f, i, w, sizes=lambda t: t.nbytes), "a view keeps"),
    ("layer_bytes_per_token", lambda h, m, q, k: 34 * h, "MLP twice as wide"),
    ("layer_bytes_per_token", lambda h, m, q, k: layer_bytes(h, m, q, q), "keys and values twice"),
    ("layer_bytes_per_token", lambda h, m, q, k: layer_bytes(h, m, q, k) - 4 * h, "Llama 3 8B"),
    ("layer_bytes_per_token", lambda h, m, q, k: layer_bytes(h, m, q, k) + 1, "keeps nothing"),
    ("lora_forward", lambda x, W, A, B, alpha, r: x @ W.T + x @ A.T @ B.T, "alpha"),
    ("lora_forward", lambda x, W, A, B, alpha, r: x @ W.T + alpha * x @ A.T @ B.T, "alpha = r"),
    ("lora_forward", lambda x, W, A, B, alpha, r: x @ W.T + alpha / 3 * x @ A.T @ B.T, "by r"),
    ("lora_forward", lambda x, W, A, B, alpha, r: x @ W + alpha / r * x @ A.T @ B.T, "B = 0"),
    ("lora_forward", lambda x, W, A, B, alpha, r: F(x, W), "alpha = r"),
    (
        "lora_forward",
        lambda x, W, A, B, alpha, r: (
            torch.einsum("bi,oi->bo", x, W) + alpha / r * torch.einsum("bi,ri,or->bo", x, A, B)
        ),
        "leading dimensions",
    ),
    (
        "lora_forward",
        lambda x, W, A, B, alpha, r: F(x, W.add_(alpha / r * B @ A)),
        "stay as they are",
    ),
    (
        "lora_forward",
        lambda x, W, A, B, alpha, r: F(x, W + (alpha / r * B @ A).detach()),
        "gradients reach",
    ),
    ("count_lora_parameters", lambda shapes, r: sum(i * o for i, o in shapes), "one square"),
    ("count_lora_parameters", lambda shapes, r: sum(2 * r * i for i, o in shapes), "more outputs"),
    ("count_lora_parameters", lambda shapes, r: 16 * sum(i + o for i, o in shapes), "one square"),
    ("count_lora_parameters", lambda shapes, r: r * sum(shapes[0]) if shapes else 0, "add up"),
    ("count_lora_parameters", lambda shapes, r: r * sum(shapes[0]), "no layers.*IndexError"),
    ("fit_step_time", lambda sizes, seconds: np.polyfit(sizes, seconds, 1), "line through them"),
    (
        "fit_step_time",
        lambda sizes, seconds: (
            seconds[0] - sizes[0] * (slope := (seconds[-1] - seconds[0]) / (sizes[-1] - sizes[0])),
            slope,
        ),
        "noisy points",
    ),
    ("batch_for_share", lambda a, b, share: a / b, "nine tenths"),
    ("batch_for_share", lambda a, b, share: share * a / b, "half of the ceiling"),
]


def test_every_exercise_is_tried_here():
    assert set(RIGHT) == set(EXERCISES) == {name for name, _, _ in WRONG}


@pytest.mark.parametrize("name", EXERCISES)
def test_right_functions_pass(name):
    for function in RIGHT[name]:
        verdict = check.exercise(name, function)
        assert verdict and len(verdict.consistent) == len(EXERCISES[name].properties), str(verdict)


@pytest.mark.parametrize(("name", "function", "says"), WRONG)
def test_wrong_functions_fail_by_the_property_they_break(name, function, says):
    verdict = check.exercise(name, function)
    assert not verdict and len(verdict.contradicts) == 1
    assert re.search(says, verdict.contradicts[0]), str(verdict)


def test_the_reference_forward_is_pefts():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(12, 20, bias=False))
    weight = model[0].weight.detach().clone()
    settings = LoraConfig(r=4, lora_alpha=24, target_modules=["0"], init_lora_weights=False)
    layer = get_peft_model(model, settings).base_model.model[0]
    x = torch.randn(3, 12)
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.testing.assert_close(layer(x), reference_lora_forward(x, weight, A, B, 24, 4))


def test_the_reference_count_is_pefts():
    shapes = [(12, 20), (20, 6), (6, 6)]
    model = torch.nn.Sequential(*[torch.nn.Linear(i, o) for i, o in shapes])
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=["0", "1", "2"]))
    assert wrapped.get_nb_trainable_parameters()[0] == reference_count(shapes, 4)


def test_a_stub_is_not_answered_yet():
    def stub(x, W, A, B, alpha, r):
        raise NotImplementedError

    verdict = check.exercise("lora_forward", stub)
    assert verdict.state == "unanswered" and "still to be written" in str(verdict)


def endless(shapes, r):
    while True:
        time.sleep(0.01)


def endless_and_deaf(shapes, r):
    while True:
        try:
            while True:
                time.sleep(0.01)
        except Exception:
            pass


def endless_and_stubborn(shapes, r):
    caught = 0
    while caught < 2:
        try:
            while True:
                time.sleep(0.01)
        except BaseException:
            caught += 1
    raise ValueError("given up")


@pytest.mark.parametrize(
    ("function", "says"),
    [(endless, "still running"), (endless_and_deaf, "still running"),
     (endless_and_stubborn, "given up")],
)  # fmt: skip
def test_an_endless_loop_is_stopped(function, says, monkeypatch):
    monkeypatch.setattr(exercises, "TIME_LIMIT_SECONDS", 0.3)
    verdict = check.exercise("count_lora_parameters", function)
    assert verdict.state == "contradicts" and says in verdict.contradicts[0]
    time.sleep(1.2)  # no alarm is left behind


def test_a_function_that_leaves_or_says_too_much_is_reported():
    def leaves(shapes, r):
        raise SystemExit(3)

    def shouts(shapes, r):
        raise ValueError("long\n" * 10_000)

    assert "SystemExit: 3" in str(check.exercise("count_lora_parameters", leaves))
    (said,) = check.exercise("count_lora_parameters", shouts).contradicts
    assert len(said) < 300 and "\n" not in said


def test_a_function_of_other_arguments_is_told_so():
    verdict = check.exercise("lora_forward", lambda x: x)
    assert verdict.contradicts == ["it cannot be called as lora_forward(x, W, A, B, alpha, r)"]


def test_wrong_use_is_a_sentence():
    with pytest.raises(LabkitError, match=r"no exercise 'lora_foward': did you mean 'lora_forw"):
        check.exercise("lora_foward", print)
    with pytest.raises(LabkitError, match=r"exercise lora_forward: give a function, not 3"):
        check.exercise("lora_forward", 3)
