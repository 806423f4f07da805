"""Exercises accept any right function and say of a wrong one which property fails."""

import re
import runpy
import time
from collections import Counter
from pathlib import Path

import bitsandbytes.functional
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy.stats import linregress

from labkit.checkpoints import check, exercises
from labkit.checkpoints.collecting import collect
from labkit.checkpoints.lessons.exercises_02 import reference_count, reference_lora_forward
from labkit.checkpoints.lessons.exercises_06 import (
    NF4,
    of_bitsandbytes,
    peft_layer,
    reference_bottleneck,
    reference_prefix_attention,
    reference_to_nf4,
)
from labkit.checkpoints.lessons.exercises_07 import of_trl, reference_dpo_loss
from labkit.errors import LabkitError
from labkit.models import bottleneck

EXERCISES = collect("exercises")


def merged(x, W, A, B, alpha, r):
    return torch.nn.functional.linear(x, W + alpha / r * B @ A)


def by_linear(x, W, A, B, alpha, r):
    linear = torch.nn.functional.linear
    return linear(x, W).add(linear(linear(x, A), B), alpha=alpha / r)


def by_einsum(x, W, A, B, alpha, r):
    update = torch.einsum("...r,or->...o", torch.einsum("...i,ri->...r", x, A), B)
    return torch.einsum("...i,oi->...o", x, W) + alpha / r * update


def with_copies(x, W, A, B, alpha, r):
    base = x.double() @ W.to(torch.float64).T.contiguous()
    return base + x @ (alpha / r * A).T.clone() @ B.T


def kv_cache(layers, kv_heads, head_dim, tokens, batch, width):
    return 2 * layers * kv_heads * head_dim * tokens * batch * width


def in_sums(passes, gradient):
    sums = ((n * mean, n) for mean, n in map(gradient, passes))
    total = count = 0
    for part, labels in sums:
        total, count = total + part, count + labels
    return total / count


def mean_of_means(passes, gradient):
    return sum(gradient(each)[0] for each in passes) / len(passes)


def all_kept(passes, gradient):
    kept = [gradient(each) for each in passes]
    return sum(n * mean for mean, n in kept) / sum(n for _, n in kept)


def sums_kept(passes, gradient):
    kept = [(n * mean, n) for mean, n in map(gradient, passes)]
    return sum(each for each, _ in kept) / sum(n for _, n in kept)


def first_in_place(passes, gradient):
    """Let the first pass's gradient become the total."""
    first, *others = passes
    total, labels = gradient(first)
    total *= labels
    for each in others:
        mean, n = gradient(each)
        total, labels = total + n * mean, labels + n
    return total / labels


def into_zeros(passes, gradient):
    total, labels = np.zeros(3), 0
    for mean, n in map(gradient, passes):
        total += n * mean
        labels += n
    return total / labels


def halving(fits, low, high):
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def doubling(fits):
    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    return halving(fits, low, high)


def only_doubling(fits):
    batch = 0
    while fits(max(1, 2 * batch)):
        batch = max(1, 2 * batch)
    return batch


def one_after_the_other(fits):
    batch = 0
    while fits(batch + 1):
        batch += 1
    return batch


def doubling_from_below(fits):
    low = only_doubling(fits)
    return halving(fits, low, max(1, 2 * low)) if low == 0 or fits(low) else 0


def in_fours(fits):
    low, high = 0, 1
    while fits(high):
        low, high = high, 4 * high
    return halving(fits, low, high)


def likeliest(logits):
    return int(np.argmax(logits))


def all_again(model, prompt, new_tokens, end):
    ids = list(prompt)
    while len(ids) < len(prompt) + new_tokens:
        token = likeliest(model(ids, None)[0])
        if token == end:
            break
        ids = [*ids, token]
    return ids[len(prompt) :]


def one_by_one(model, prompt, new_tokens, end):
    """The prompt one token a call too, which reads nothing twice either."""
    cache, logits, written = None, None, []
    for token in prompt[: len(prompt) * bool(new_tokens)]:
        logits, cache = model([token], cache)
    while logits and len(written) < new_tokens:
        token = likeliest(logits)
        if token == end:
            break
        written.append(token)
        if len(written) < new_tokens:
            logits, cache = model([token], cache)
    return written


def caching(model, prompt, new_tokens, end, *, read=lambda prompt, token: [token], keep=True,
            first=lambda logits: likeliest(logits), with_end=False, one_more=False):  # fmt: skip
    """Write with a cache; the switches are mistakes."""
    written, ids, cache = [], prompt, None
    while len(written) < new_tokens:
        logits, cache = model(ids, cache)
        cache = cache if keep else None
        token = first(logits)
        if token == end:
            return written + [token] * with_end
        written.append(token)
        ids = read(prompt, token)
    if one_more and written:
        model(ids, cache)
    return written


def into_the_prompt(model, prompt, new_tokens, end):
    start = len(prompt)
    for _ in range(new_tokens):
        token = likeliest(model(prompt)[0])
        if token == end:
            break
        prompt.append(token)
    return prompt[start:]


def mistake(**switches):
    return lambda model, prompt, new_tokens, end: caching(
        model, prompt, new_tokens, end, **switches
    )


def counted_f1(answer, gold):
    a, b = Counter(answer.lower().split()), Counter(gold.lower().split())
    common = (a & b).total()
    return 2 * common / (a.total() + b.total()) if common else 0


def with_sets(answer, gold):
    a, b = set(answer.lower().split()), set(gold.lower().split())
    return 2 * len(a & b) / (len(a) + len(b)) if a & b else 0


def of_squad(answer, gold):
    """The lines of SQuAD's own script (Rajpurkar et al. 2016), without its normalisation."""
    given, wanted = answer.lower().split(), gold.lower().split()
    same = sum((Counter(given) & Counter(wanted)).values())
    if same == 0:
        return 0
    precision, recall = same / len(given), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


RIGHT = {
    "kv_cache_bytes": [kv_cache],
    "word_f1": [counted_f1, of_squad],
    "write": [all_again, caching],
    "write_with_cache": [caching, one_by_one],
    "lora_forward": [reference_lora_forward, by_linear, by_einsum, with_copies],
    "count_lora_parameters": [
        reference_count,
        lambda shapes, r: r * sum(map(sum, shapes)),
    ],
    "fit_step_time": [
        lambda sizes, seconds: np.polyfit(sizes, seconds, 1)[::-1],
        lambda sizes, seconds: linregress(sizes, seconds)[1::-1],
    ],
    "batch_for_share": [lambda a, b, share: a / b / (1 / share - 1)],
    "step_operations": [
        lambda w, t, trains, again: sum([2 * w * t] * (2 + trains + again)),
        lambda w, t, trains, again: (
            {(0, 0): 4, (1, 0): 6, (0, 1): 6, (1, 1): 8}[trains, again] * (w * t)
        ),
    ],
    "accumulated_gradient": [in_sums, first_in_place, into_zeros],
    "largest_fitting": [doubling],
}


def linregress_of_batches(sizes, seconds):
    """Fit batches to seconds and turn the line round: another line where points scatter."""
    slope, start = linregress(seconds, sizes)[:2] if len(set(seconds)) > 1 else (np.inf, 0.0)
    return (seconds[0], 0.0) if np.isinf(slope) else (-start / slope, 1 / slope)


def through_the_origin(sizes, seconds):
    return 0.0, np.dot(sizes, seconds) / np.dot(sizes, sizes)


F = torch.nn.functional.linear
WRONG = [
    ("kv_cache_bytes", lambda L, n, d, t, b, w: L * n * d * t * b * w, "a key and a value"),
    ("kv_cache_bytes", lambda L, n, d, t, b, w: 2 * n * d * t * b * w, "every layer keeps"),
    ("kv_cache_bytes", lambda L, n, d, t, b, w: 2 * L * d * t * b * w, "each head of keys"),
    ("kv_cache_bytes", lambda L, n, d, t, b, w: 2 * L * n * d * t * w, "tokens and sequences"),
    ("kv_cache_bytes", lambda L, n, d, t, b, w: 2 * L * n * d * t * b * 1, "takes its bytes"),
    ("word_f1", lambda a, b: float(a == b), "capital letters"),
    ("word_f1", lambda a, b: 2 * len(set(a) & set(b)) / len(set(a) | set(b)), "the same words"),
    ("word_f1", with_sets, "as often as it stands"),
    (
        "word_f1",
        lambda a, b: counted_f1(a, b) and len(set(a.split()) & set(b.split())) / len(a.split()),
        "capital letters",
    ),
    (
        "word_f1",
        lambda a, b: sum(w in b.lower().split() for w in a.lower().split()) / len(a.split()),
        "half of the answer.s words are right",
    ),
    (
        "word_f1",
        lambda a, b: (lambda p, r: 2 * p * r / (p + r))(
            len(set(a.lower().split()) & set(b.lower().split())) / len(a.split()),
            len(set(a.lower().split()) & set(b.lower().split())) / len(b.split()),
        ),
        "no error.*ZeroDivisionError",
    ),
    ("write", mistake(first=lambda logits: int(np.argmin(logits))), "the most likely one"),
    ("write", lambda m, p, n, end: [likeliest(m(p)[0])] * n, "depends on those before"),
    ("write", lambda m, p, n, end: all_again(m, p, n, -1), "stops at the end token"),
    ("write", mistake(with_end=True), "not part of the answer"),
    ("write", lambda m, p, n, end: all_again(m, p, max(1, n), end), "no new tokens"),
    ("write", into_the_prompt, "the prompt stays"),
    ("write_with_cache", all_again, "the prompt is read once"),
    ("write_with_cache", mistake(keep=False), "depends on those before"),
    ("write_with_cache", mistake(read=lambda p, t: [*p, t]), "depends on those before"),
    ("write_with_cache", mistake(read=lambda p, t: p), "depends on those before"),
    ("write_with_cache", mistake(with_end=True), "not part of the answer"),
    ("write_with_cache", mistake(one_more=True), "one token a call"),
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
    ("lora_forward", merged, "never built"),
    (
        "lora_forward",
        lambda x, W, A, B, alpha, r: F(x, W) + alpha / r * F(x, (B[:, :, None] * A).sum(1)),
        "never built",
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
    ("fit_step_time", linregress_of_batches, "noisy points"),
    ("fit_step_time", through_the_origin, "line through them"),
    ("batch_for_share", lambda a, b, share: a / b, "nine tenths"),
    ("batch_for_share", lambda a, b, share: share * a / b, "half of the ceiling"),
    ("batch_for_share", lambda a, b, share: share * b / (a * (1 - share)), "half of the ceiling"),
    ("step_operations", lambda w, t, trains, again: w * t * (2 + trains + again), "an addition"),
    ("step_operations", lambda w, t, trains, again: 2 * w * t * (1 + 2 * trains + again), "back"),
    ("step_operations", lambda w, t, trains, again: 6 * w * t, "a product forward and one back"),
    ("step_operations", lambda w, t, trains, again: 2 * w * t * (2 + trains), "forward pass twice"),
    (
        "step_operations",
        lambda w, t, trains, again: 2 * w * t * (2 + trains) * (1 + again),
        "forward pass twice",
    ),
    ("step_operations", lambda w, t, trains, again: 2 * w * (2 + trains + again), "twice the tok"),
    ("accumulated_gradient", mean_of_means, "different numbers of labels"),
    ("accumulated_gradient", lambda p, g: sum(g(each)[0] for each in p), "mean of theirs"),
    ("accumulated_gradient", lambda p, g: sum(g(each)[0] * g(each)[1] for each in p), "its own"),
    ("accumulated_gradient", all_kept, "no gradient is kept"),
    ("accumulated_gradient", sums_kept, "no gradient is kept"),
    (
        "accumulated_gradient",
        lambda p, g: sum(g(each)[0] * g(each)[1] for each in p) / sum(g(each)[1] for each in p),
        "computed once",
    ),
    ("largest_fitting", only_doubling, "any other number"),
    ("largest_fitting", one_after_the_other, "few trials"),
    ("largest_fitting", lambda fits: halving(fits, 0, 1025), "a large card"),
    ("largest_fitting", lambda fits: halving(fits, 0, 1 << 20), "few trials"),
    ("largest_fitting", lambda fits: max(1, doubling(fits)), "not even one"),
    ("largest_fitting", doubling_from_below, "no batch is tried twice"),
    ("largest_fitting", in_fours, "far beyond"),
]


# Lessons with many exercises have a file of their own beside this one.
for path in sorted(Path(__file__).parent.glob("solved_*.py")):
    solved = runpy.run_path(str(path))
    RIGHT |= solved["RIGHT"]
    WRONG += solved["WRONG"]


def test_every_exercise_is_tried_here():
    assert set(RIGHT) == set(EXERCISES) == {name for name, _, _ in WRONG}


def test_every_exercise_has_three_wrong_functions_at_least():
    tried = Counter(name for name, _, _ in WRONG)
    assert not [name for name in EXERCISES if tried[name] < 3]


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


def test_what_fails_is_said_with_the_call_that_showed_it():
    (said,) = check.exercise("count_lora_parameters", lambda shapes, r: r).contradicts
    assert said.endswith("(it was called as count_lora_parameters([], 8))")
    (said,) = check.exercise("count_lora_parameters", lambda shapes, r: 1 / 0).contradicts
    assert "ZeroDivisionError" in said and said.endswith("count_lora_parameters([], 8))")
    (said,) = check.exercise("lora_forward", lambda x, W, A, B, alpha, r: x).contradicts
    assert "called as" not in said, "a line can't show tensors"


def test_a_stub_is_not_answered_yet():
    def stub(x, W, A, B, alpha, r):
        raise NotImplementedError

    verdict = check.exercise("lora_forward", stub)
    assert verdict.state == "unanswered" and "still to be written" in str(verdict)


def endless(shapes, r):
    while True:
        time.sleep(0.01)


def endless_and_busy(shapes, r):
    while True:
        pass


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
    [(endless, "still running"), (endless_and_busy, "still running"),
     (endless_and_deaf, "still running"),
     (endless_and_stubborn, "given up")],
)  # fmt: skip
def test_an_endless_loop_is_stopped(function, says, monkeypatch):
    monkeypatch.setattr(exercises, "TIME_LIMIT_SECONDS", 0.3)
    verdict = check.exercise("count_lora_parameters", function)
    assert verdict.state == "contradicts" and says in verdict.contradicts[0]
    time.sleep(1.2)  # no alarm is left behind


def test_a_busy_machine_costs_nobody_a_point(monkeypatch):
    """Waiting is not computing: the function gets no processor for longer than the limit."""
    monkeypatch.setattr(exercises, "TIME_LIMIT_SECONDS", 0.3)

    def waits(shapes, r):
        time.sleep(0.4)
        return sum(r * (inputs + outputs) for inputs, outputs in shapes)

    verdict = check.exercise("count_lora_parameters", waits)
    assert not any("still running" in line for line in verdict.contradicts)


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


def test_the_reference_prefix_attention_is_pefts():
    given, expected = peft_layer()
    torch.testing.assert_close(reference_prefix_attention(*given), expected, atol=1e-5, rtol=1e-5)
    without = [each[..., :0, :] for each in given[3:]]
    alone = reference_prefix_attention(*given[:3], *without)
    assert not torch.allclose(alone, expected, atol=1e-3), "the prefix does nothing here"


def test_the_table_of_nf4_is_that_of_bitsandbytes():
    theirs = bitsandbytes.functional.get_4bit_type("nf4", device="cpu")
    torch.testing.assert_close(torch.tensor(NF4), theirs, rtol=0, atol=0)
    block = torch.randn(64, generator=torch.Generator().manual_seed(5))
    for ours, bits in zip(reference_to_nf4(block), of_bitsandbytes(block), strict=True):
        torch.testing.assert_close(ours, bits)


def test_the_reference_bottleneck_is_the_layer_that_is_trained():
    config_class, layer_class = bottleneck.register()
    base = torch.nn.Linear(6, 8)
    layer = layer_class(base, "default", config_class(size=3, target_modules=["0"]))
    down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
    torch.nn.init.normal_(up.weight)
    x = torch.randn(4, 6)
    expected = reference_bottleneck(base(x), down.weight, down.bias, up.weight, up.bias)
    torch.testing.assert_close(layer(x), expected)


def test_the_reference_loss_of_preferences_is_that_of_trl_s_trainer():
    logps, beta, theirs = of_trl()
    assert float(reference_dpo_loss(*logps, beta)) == pytest.approx(theirs, abs=1e-6)
    assert abs(theirs - np.log(2)) > 0.01
    assert all(len(each) == 3 for each in logps)
