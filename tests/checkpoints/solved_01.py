"""Lesson 01: right functions, and wrong ones with what is said of them."""

import torch


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


def by_address(function, inputs, weights):
    """Take the address of a tensor for that of its storage."""
    known, kept = {w.data_ptr() for w in weights}, {}

    def pack(t):
        kept[t.data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        function(*inputs)
    return sum(size for address, size in kept.items() if address not in known)


def forgetful(function, inputs, weights):
    """Return nothing from pack: a tensor is gone, and its address is given to the next."""
    known, kept = {w.data_ptr() for w in weights}, {}

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        function(*inputs)
    return sum(size for address, size in kept.items() if address not in known)


def saved_bytes(function, inputs, weights):
    return weigh(function, inputs, weights)


def layer_bytes(h, m, q, k):
    """Korthikanti et al. 2022 count like this for GPT-2; here for Llama's norms and MLP."""
    norms = 2 * (4 + 2) * h
    return norms + 2 * 2 * h + 2 * (q + k + k) + 2 * q + 2 * 4 * m


RIGHT = {
    "states_bytes": [states_bytes],
    "peak_bytes": [peak_bytes],
    "saved_bytes": [saved_bytes],
    "layer_bytes_per_token": [layer_bytes],
}

WRONG = [
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
    ("saved_bytes", by_address, "once for two views"),
    ("saved_bytes", forgetful, "until its backward"),
    ("layer_bytes_per_token", lambda h, m, q, k: 34 * h, "MLP twice as wide"),
    ("layer_bytes_per_token", lambda h, m, q, k: layer_bytes(h, m, q, q), "keys and values twice"),
    ("layer_bytes_per_token", lambda h, m, q, k: layer_bytes(h, m, h, k), "queries twice"),
    ("layer_bytes_per_token", lambda h, m, q, k: layer_bytes(h, m, q, k) - 4 * h, "Llama 3 8B"),
    ("layer_bytes_per_token", lambda h, m, q, k: layer_bytes(h, m, q, k) + 1, "keeps nothing"),
]
