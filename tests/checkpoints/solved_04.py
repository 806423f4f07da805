"""Functions for lesson 04's exercises: right ones, and wrong ones with what is said of them.

`RIGHT = {exercise: [functions]}`, `WRONG = [(exercise, function, what fails)]`.
"""

import math

import numpy as np
import torch
from scipy import stats

from labkit.switchback import reference
from labkit.switchback.teaching import defects, noise

# --- numbers


def snr(exact, approximate):
    noise_energy = ((exact - approximate) ** 2).sum()
    return 10 * torch.log10((exact**2).sum() / noise_energy).item()


def quantize(x):
    absmax = x.float().abs().amax(dim=1).clamp(min=2.0**-100)
    return (x.float() * (127 / absmax)[:, None]).round().to(torch.int8), absmax


def divide_first(x):
    x = x.to(torch.float32)
    absmax = torch.max(x.abs(), dim=-1).values.clamp_min(1e-30)
    return torch.round(x / absmax.unsqueeze(1) * 127).type(torch.int8), absmax


def away_from_zero(x):
    absmax = x.float().abs().amax(dim=1).clamp(min=2.0**-100)
    scaled = x.float() * (127 / absmax)[:, None]
    return (scaled.sign() * (scaled.abs() + 0.5).floor()).to(torch.int8), absmax


def in_own_type(x):
    absmax = x.abs().amax(dim=1).clamp(min=2.0**-100)
    return (x * (127 / absmax)[:, None]).round().to(torch.int8), absmax.float()


def one_ruler(x):
    absmax = x.float().abs().max().expand(len(x))
    return (x.float() * (127 / absmax)[:, None]).round().to(torch.int8), absmax


def no_floor(x):
    absmax = x.float().abs().amax(dim=1)
    return (x.float() * (127 / absmax)[:, None]).round().to(torch.int8), absmax


def not_magnitude(x):
    absmax = x.float().amax(dim=1).clamp(min=2.0**-100)
    return (x.float() * (127 / absmax)[:, None]).round().clamp(-127, 127).to(torch.int8), absmax


def scaled(total, a_absmax, b_absmax):
    return total.float() * a_absmax[:, None] * b_absmax / 127**2


def product(a, b, convert=lambda q: q.int()):
    (qa, sa), (qb, sb) = reference.quantize_rowwise(a), reference.quantize_rowwise(b)
    return scaled(convert(qa) @ convert(qb).t(), sa, sb)


def one_scale(a, b):
    (qa, sa), (qb, sb) = reference.quantize_rowwise(a), reference.quantize_rowwise(b)
    return (qa.int() @ qb.int().t()).float() * sa[0] * sb[0] / 127**2


def gradient_snr(g, x, tokens):
    found = []
    for n in tokens:
        exact = g[:n].double().t() @ x[:n].double()
        found.append(snr(exact, product(g[:n].t(), x[:n].t())))
    return found


def per_token(g, x, tokens):
    """Scale tokens instead of features: the scale does not come out of the sum."""
    found = []
    for n in tokens:
        (qg, sg), (qx, sx) = (reference.quantize_rowwise(t[:n]) for t in (g, x))
        dw = (qg.float() * sg.mean()).t() @ (qx.float() * sx.mean()) / 127**2
        found.append(snr(g[:n].double().t() @ x[:n].double(), dw))
    return found


# --- kernels


def forward(ctx, x, w):
    (x_int8, x_absmax), (w_int8, w_absmax) = map(reference.quantize_rowwise, (x, w))
    ctx.save_for_backward(x, w)
    return reference.scaled_int8_mm(x_int8, w_int8, x_absmax, w_absmax, None, x.dtype)


def forward_on_one_ruler(ctx, x, w):
    ctx.save_for_backward(x, w)
    (x_int8, x_absmax), (w_int8, w_absmax) = (
        reference.quantize_rowwise(x),
        (reference.quantize_global(w)),
    )
    return reference.scaled_int8_mm(x_int8, w_int8, x_absmax, w_absmax, None, x.dtype)


def forward_in_float32(ctx, x, w):
    return forward(ctx, x, w).float()


def forward_that_keeps(ctx, x, w):
    y = forward(ctx, x, w)
    ctx.save_for_backward(x.clone(), w.clone())
    return y


def forward_exact(ctx, x, w):
    ctx.save_for_backward(x, w)
    return x @ w.t()


def backward(ctx, g):
    x, w = ctx.saved_tensors
    (g_int8, g_absmax), (w_int8, w_absmax) = map(reference.quantize_rowwise, (g, w.t()))
    dx = reference.scaled_int8_mm(g_int8, w_int8, g_absmax, w_absmax, None, g.dtype)
    return dx, g.t() @ x if ctx.needs_input_grad[1] else None


def backward_all_int8(ctx, g):
    x, _ = ctx.saved_tensors
    return backward(ctx, g)[0], noise.int8_product(g.t(), x.t())


def backward_rows_of_w(ctx, g):
    """Reuse the forward pass's integers and put the scale of each row outside the sum."""
    x, w = ctx.saved_tensors
    (g_int8, g_absmax), (w_int8, w_absmax) = map(reference.quantize_rowwise, (g, w))
    total = g_int8.float() @ w_int8.float()
    return total * g_absmax[:, None] * w_absmax.mean() / 127**2, g.t() @ x


def backward_one_ruler(ctx, g):
    x, w = ctx.saved_tensors
    (g_int8, g_absmax), (w_int8, w_absmax) = (
        reference.quantize_rowwise(g),
        (reference.quantize_global(w.t().contiguous())),
    )
    dx = reference.scaled_int8_mm(g_int8, w_int8, g_absmax, w_absmax, None, g.dtype)
    return dx, g.t() @ x


def backward_always(ctx, g):
    x, _ = ctx.saved_tensors
    return backward(ctx, g)[0], g.t() @ x


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def full(size, dtype=torch.bfloat16):
    return torch.full((2, 4), size, dtype=dtype), torch.ones(3, 4, dtype=dtype)


def edited_in_place(x, w):
    w.mul_(100)


def edited_unseen(x, w):
    w.data.mul_(100)


def edited_elsewhere(x, w):
    w = w * 100


def forgets_wide(x, w, bias=None):
    return defects.sound_linear(x[..., :512], w[:, :512], bias)


def always_zero(x, w, bias=None):
    return torch.zeros(*x.shape[:-1], w.shape[0])


# --- speed


def in_turns(a, b, pairs):
    times_a, times_b = [], []
    for pair in range(pairs):
        if pair % 2 == 0:
            times_a.append(a())
            times_b.append(b())
        else:
            times_b.append(b())
            times_a.append(a())
    return times_a, times_b


def one_after_the_other(a, b, pairs):
    return [a() for _ in range(pairs)], [b() for _ in range(pairs)]


def a_always_first(a, b, pairs):
    both = [(a(), b()) for _ in range(pairs)]
    return [one for one, _ in both], [other for _, other in both]


def mixed_up(a, b, pairs):
    both = [(a(), b()) if pair % 2 == 0 else (b(), a()) for pair in range(pairs)]
    return [one for one, _ in both], [other for _, other in both]


def paired(a, b, quantile=None, middle=None):
    logs = np.log(a) - np.log(b)
    n = len(logs)
    half = (quantile or stats.t.ppf(0.975, n - 1)) * logs.std(ddof=1) / n**0.5
    center = logs.mean() if middle is None else middle
    return tuple(float(x) for x in np.exp([center, center - half, center + half]))


def of_means(a, b):
    return paired(a, b, middle=math.log(np.mean(a) / np.mean(b)))


def mean_of_ratios(a, b):
    ratios = np.divide(a, b)
    half = stats.t.ppf(0.975, len(a) - 1) * ratios.std(ddof=1) / len(a) ** 0.5
    return ratios.mean(), ratios.mean() - half, ratios.mean() + half


def unpaired(a, b):
    test = stats.ttest_ind(np.log(a), np.log(b), equal_var=False)
    ends = test.confidence_interval()
    return tuple(np.exp([np.mean(np.log(a)) - np.mean(np.log(b)), ends.low, ends.high]))


def alarms(a, b, test, trials, toss=lambda rng, n: rng.random(n) < 0.5, level=0.05):
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(trials):
        swap = toss(rng, len(a))
        first = [y if s else x for x, y, s in zip(a, b, swap, strict=True)]
        second = [x if s else y for x, y, s in zip(a, b, swap, strict=True)]
        found += test(first, second) < level
    return found / trials


def shuffled(a, b, test, trials):
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(trials):
        every = rng.permutation([*a, *b])
        found += test(every[: len(a)], every[len(a) :]) < 0.05
    return found / trials


def without_coins(a, b, test, trials):
    return sum(test(a, b) < 0.05 for _ in range(trials)) / trials


def counted(a, b, test, trials):
    return alarms(a, b, test, trials) * trials


RIGHT = {
    "snr_db": [noise.snr_db, snr],
    "quantize_rowwise": [reference.quantize_rowwise, quantize, divide_first],
    "int8_matmul": [noise.int8_product, product, lambda a, b: product(a, b, lambda q: q.double())],
    "weight_gradient_snr": [gradient_snr],
    "switchback_forward": [forward],
    "switchback_backward": [backward],
    "bug_1": [lambda: (torch.ones(2, 4), torch.ones(3, 4), edited_in_place),
              lambda: (some(5, 4), some(3, 4), lambda x, w: w.zero_())],
    "bug_2": [lambda: full(1e6), lambda: (*full(1e-9), None)],
    "bug_3": [lambda: torch.zeros(1, 4), lambda: torch.tensor([[1.0, 2.0], [0.0, 0.0]])],
    "bug_4": [lambda: (torch.zeros(2, 2048), torch.zeros(3, 2048), torch.ones(3))],
    "bug_5": [lambda: (5, 33), lambda: (1, 1)],
    "bug_6": [lambda: (some(5, 2, 4).transpose(0, 1), some(3, 4)),
              lambda: (some(6, 3, 2).permute(2, 1, 0)[..., :4], some(3, 4), some(3))],
    "bug_7": [lambda: forgets_wide, lambda: defects.defect_4, lambda: defects.defect_6],
    "measure_in_turns": [in_turns],
    "ratio_with_interval": [paired],
    "false_alarm_rate": [alarms],
}  # fmt: skip

WRONG = [
    ("snr_db", lambda e, a: 2 * snr(e, a), "a tenth of every number"),
    ("snr_db", lambda e, a: 20 * math.log10((e.abs().sum() / (e - a).abs().sum()).item()),
     "a small number counts little"),
    ("snr_db", lambda e, a: 20 * math.log10(abs(e.mean() / ((e - a).mean() + 1e-9))),
     "cancel in the mean"),
    ("snr_db", lambda e, a: 10 * math.log10((e**2).sum().item() / ((e - a) ** 2).sum().item()),
     "without any error.*ZeroDivision"),
    ("quantize_rowwise", one_ruler, "a ruler of its own"),
    ("quantize_rowwise", not_magnitude, "largest magnitude"),
    ("quantize_rowwise", away_from_zero, "halves go to the even"),
    ("quantize_rowwise", no_floor, "a row of zeros"),
    ("quantize_rowwise", in_own_type, "scaled in float32"),
    ("quantize_rowwise", lambda x: (quantize(x)[0], 127 / quantize(x)[1]), "absmax comes back"),
    ("quantize_rowwise", lambda x: (quantize(x)[0].float(), quantize(x)[1]), "are int8"),
    ("int8_matmul", lambda a, b: product(a, b, lambda q: q), "127 does not fit"),
    ("int8_matmul", lambda a, b: product(a, b, lambda q: q.short()), "does not fit into int16"),
    ("int8_matmul", lambda a, b: product(a, b, lambda q: q.bfloat16()), "is exact"),
    ("int8_matmul", lambda a, b: product(a, b, lambda q: q.float()), "is exact"),
    ("int8_matmul", one_scale, "every row of a is multiplied"),
    ("int8_matmul", lambda a, b: a @ b.t(), "is exact"),
    ("int8_matmul", lambda a, b: (a.double() @ b.double().t()).float(), "labkit's"),
    ("int8_matmul", lambda a, b: product(a, b) * 127**2, "is 6"),
    ("weight_gradient_snr", per_token, "all tokens"),
    ("weight_gradient_snr", lambda g, x, n: gradient_snr(g, x, [len(g)] * len(n)), "first 16"),
    ("weight_gradient_snr", lambda g, x, n: gradient_snr(g, x, sorted(n)), "in their order"),
    ("weight_gradient_snr", lambda g, x, n: gradient_snr(g, x, n)[-1:], "one number for each"),
    ("switchback_forward", forward_on_one_ruler, "a scale per row"),
    ("switchback_forward", forward_in_float32, "goes out as bfloat16"),
    ("switchback_forward", forward_that_keeps, "is refused"),
    ("switchback_forward", forward_exact, "a scale per row|labkit's"),
    ("switchback_backward", backward_all_int8, "without int8"),
    ("switchback_backward", backward_rows_of_w, "as near as int8 comes"),
    ("switchback_backward", backward_one_ruler, "its own column"),
    ("switchback_backward", backward_always, "a frozen weight"),
    ("bug_1", lambda: (torch.ones(2, 4), torch.ones(3, 4), edited_elsewhere), "refuses to go back"),
    ("bug_1", lambda: (torch.ones(2, 4), torch.ones(3, 4), edited_unseen), "refuses to go back"),
    ("bug_1", lambda: (torch.ones(2, 4), torch.ones(3, 4), lambda x, w: w.add_(1e-3)),
     "another gradient"),
    ("bug_2", lambda: full(1.0), "the code above goes wrong"),
    ("bug_2", lambda: full(1e39), "is finite"),
    ("bug_2", lambda: full(1e38, torch.float32), "labkit's layer is right"),
    ("bug_3", lambda: torch.tensor([[1.0, 0.0]]), "makes a NaN"),
    ("bug_3", lambda: torch.tensor([[math.nan, 0.0]]), "is finite"),
    ("bug_3", lambda: torch.full((2, 4), 1e-20), "makes a NaN"),
    ("bug_4", lambda: (torch.zeros(2, 512), torch.zeros(3, 512), torch.ones(3)), "goes wrong"),
    ("bug_4", lambda: (some(2, 2048), some(3, 2048)), "goes wrong"),
    ("bug_4", lambda: (some(2, 2048), some(3, 2048, seed=1), 0.01 * torch.ones(3)), "goes wrong"),
    ("bug_5", lambda: (5, 32), "reads outside"),
    ("bug_5", lambda: (33, 64), "reads outside"),
    ("bug_5", lambda: (0, 33), "above zero"),
    ("bug_6", lambda: (some(2, 5, 4), some(3, 4)), "goes wrong"),
    ("bug_6", lambda: (some(4, 5).t(), some(3, 4)), "goes wrong"),
    ("bug_6", lambda: (some(2, 5, 4).transpose(0, 1).contiguous(), some(3, 4)), "goes wrong"),
    ("bug_7", lambda: defects.sound_linear, "your layer is wrong"),
    ("bug_7", lambda: always_zero, "accepts your layer"),
    ("bug_7", lambda: torch.nn.functional.linear, "your layer is wrong"),
    ("bug_7", lambda: defects.off_by_one, "your layer is wrong"),
    ("measure_in_turns", one_after_the_other, "runs a once and b once"),
    ("measure_in_turns", a_always_first, "the opposite order"),
    ("measure_in_turns", mixed_up, "whichever ran first"),
    ("ratio_with_interval", of_means, "one pair at 4|twice as long"),
    ("ratio_with_interval", mean_of_ratios, "twice as long|one pair at 4"),
    ("ratio_with_interval", unpaired, "does not widen"),
    ("ratio_with_interval", lambda a, b: paired(a, b, quantile=1.96), "Student's t"),
    ("false_alarm_rate", shuffled, "stay a pair"),
    ("false_alarm_rate", without_coins, "a coin of its own"),
    ("false_alarm_rate",
     lambda a, b, t, n: alarms(a, b, t, n, lambda rng, m: [rng.random() < 0.5] * m),
     "a coin of its own"),
    ("false_alarm_rate", counted, "nothing but alarms"),
    ("false_alarm_rate", lambda a, b, t, n: alarms(a, b, t, n, level=0.1), "p below 0.05"),
]  # fmt: skip
