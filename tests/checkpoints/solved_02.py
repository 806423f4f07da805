"""Fine-tuning by hand, solved in several ways, and wrong in the ways people get it wrong."""

import torch
from torch import nn
from torch.nn import functional

from labkit.train import by_hand

# --- tokens and labels ---------------------------------------------------------------------


def marked_end(tokenizer, prompt, answer):
    """Add the end token as an id, and make labels from a copy."""
    p = tokenizer(prompt, add_special_tokens=False).input_ids
    ids = [*p, *tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]
    labels = list(ids)
    labels[: len(p)] = [-100] * len(p)
    return ids, labels


def with_start_tokens(tokenizer, prompt, answer):
    p, a = tokenizer(prompt)["input_ids"], tokenizer(answer + tokenizer.eos_token)["input_ids"]
    return p + a, [-100] * len(p) + a


def no_end(tokenizer, prompt, answer):
    p, a = (tokenizer.encode(t, add_special_tokens=False) for t in (prompt, answer))
    return p + a, [-100] * len(p) + a


def end_without_label(tokenizer, prompt, answer):
    ids, labels = by_hand.tokens_and_labels(tokenizer, prompt, answer)
    return ids, [*labels[:-1], -100]


def everything_trained(tokenizer, prompt, answer):
    ids, _ = by_hand.tokens_and_labels(tokenizer, prompt, answer)
    return ids, list(ids)


def masked_with_zero(tokenizer, prompt, answer):
    ids, labels = by_hand.tokens_and_labels(tokenizer, prompt, answer)
    return ids, [0 if label == -100 else label for label in labels]


def shifted(tokenizer, prompt, answer):
    ids, labels = by_hand.tokens_and_labels(tokenizer, prompt, answer)
    return ids, [*labels[1:], -100]


def found_in_the_text(tokenizer, prompt, answer):
    """Label whatever token of the sequence is one of the answer's."""
    ids, labels = by_hand.tokens_and_labels(tokenizer, prompt, answer)
    return ids, [i if i in labels else -100 for i in ids]


# --- the adapters --------------------------------------------------------------------------


class Layer(nn.Module):
    def __init__(self, linear, A, B, alpha):
        super().__init__()
        self.linear, self.A, self.B, self.alpha = linear, A, B, alpha

    def forward(self, x):
        return self.linear(x) + self.alpha / len(self.A) * (x @ self.A.T) @ self.B.T


def as_in_peft(A):
    return nn.init.kaiming_uniform_(A, a=5**0.5)


def doubled(model, r, lora_alpha):
    """Make the parameters in the model's own type."""
    model.requires_grad_(False)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear and name != "lm_head":
                dtype = child.weight.dtype
                A = nn.Parameter(as_in_peft(torch.empty(r, child.in_features, dtype=dtype)))
                B = nn.Parameter(torch.zeros(child.out_features, r, dtype=dtype))
                setattr(parent, name, Layer(child, A, B, lora_alpha))
    return [weight for weight in model.parameters() if weight.requires_grad]


class Unscaled(Layer):
    def forward(self, x):
        return self.linear(x) + (x @ self.A.T) @ self.B.T


def adapters(**changed):
    """Return add_lora that registers its parameters, with some parts exchanged."""
    parts = {
        "freeze": True, "skip": ("lm_head",), "only": "", "layer": Layer, "everything": False,
        "start": as_in_peft, "up": nn.init.zeros_, **changed,
    }  # fmt: skip

    def add(model, r, lora_alpha):
        if parts["freeze"]:
            model.requires_grad_(False)
        found = []
        for name, child in list(model.named_modules()):
            if isinstance(child, nn.Linear) and name not in parts["skip"] and parts["only"] in name:
                A = nn.Parameter(parts["start"](torch.empty(r, child.in_features)))
                B = nn.Parameter(parts["up"](torch.empty(child.out_features, r)))
                model.set_submodule(name, parts["layer"](child, A, B, lora_alpha))
                found += [A, B]
        return list(model.parameters()) if parts["everything"] else found

    return add


# --- the loop ------------------------------------------------------------------------------


def loop(
    *,
    shift=True,
    ignore=True,
    clip=True,
    clear=True,
    after=False,
    tensors=False,
    everything=False,
    optimizer=None,
):
    """Return train_by_hand with its parts exchanged."""
    make = optimizer or (lambda weights, rate: torch.optim.AdamW(weights, rate, weight_decay=0))

    def train(model, weights, batches, learning_rate):
        moved = list(model.parameters()) if everything else weights
        chosen, found = make(moved, learning_rate), []

        def loss_of(ids, labels, mask):
            logits = model(input_ids=ids, attention_mask=mask).logits
            if shift:
                logits, labels = logits[:, :-1], labels[:, 1:]
            if not ignore:
                labels = labels.clamp(min=0)
            return functional.cross_entropy(logits.flatten(0, 1), labels.flatten())

        for batch in batches:
            loss = loss_of(*batch)
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(moved, 1.0)
            chosen.step()
            if clear:
                chosen.zero_grad()
            if after:
                loss = loss_of(*batch).detach()
            found.append(loss.detach() if tensors else loss.item())
        return found

    return train


def labelled_alone(model, weights, batches, learning_rate):
    """Pick the labelled places first, and take AdamW with decay 0 by its groups."""
    chosen = torch.optim.AdamW([{"params": weights, "weight_decay": 0.0}], lr=learning_rate)
    found = []
    for ids, labels, mask in batches:
        chosen.zero_grad()
        logits = model(ids, mask).logits
        wanted = labels[:, 1:]
        places = wanted != -100
        loss = -logits[:, :-1][places].log_softmax(-1).gather(1, wanted[places][:, None]).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        chosen.step()
        found.append(float(loss.detach()))
    return found


def sgd(weights, rate):
    return torch.optim.SGD(weights, rate)


def decayed(weights, rate):
    return torch.optim.AdamW(weights, rate)


RIGHT = {
    "tokens_and_labels": [by_hand.tokens_and_labels, marked_end],
    "add_lora": [by_hand.add_lora, doubled, adapters()],
    "train_by_hand": [by_hand.train, labelled_alone, loop()],
}

WRONG = [
    ("tokens_and_labels", with_start_tokens, "adds no token of its own"),
    ("tokens_and_labels", no_end, "the end token comes last"),
    ("tokens_and_labels", everything_trained, "no token of the prompt has a label"),
    ("tokens_and_labels", masked_with_zero, "-100 there, and nothing else"),
    ("tokens_and_labels", found_in_the_text, "no token of the prompt has a label"),
    ("tokens_and_labels", shifted, "no token of the prompt|the labels do not"),
    ("tokens_and_labels", end_without_label, "the end token is learned too"),
    ("tokens_and_labels", lambda t, p, a: (t(p + a)["input_ids"], []), "the same length"),
    ("add_lora", adapters(freeze=False), "own weights are frozen"),
    ("add_lora", adapters(skip=()), "lm_head, stays a plain"),
    ("add_lora", adapters(only="q_proj"), "every other linear layer trains"),
    ("add_lora", adapters(everything=True), "the parameters that are trained, each once"),
    ("add_lora", adapters(up=nn.init.kaiming_uniform_), "B starts at zero"),
    ("add_lora", adapters(start=nn.init.zeros_), "A starts random"),
    ("add_lora", adapters(start=nn.init.ones_), "equal rows of A"),
    ("add_lora", adapters(layer=Unscaled), "scaled by lora_alpha"),
    ("add_lora", lambda m, r, alpha: by_hand.add_lora(m, r, alpha / r), "scaled by lora_alpha"),
    ("add_lora", lambda m, r, alpha: by_hand.add_lora(m, r, alpha**2), "scaled by lora_alpha"),
    ("add_lora", adapters(start=nn.init.normal_), "A starts as in PEFT"),
    ("add_lora", adapters(start=nn.init.kaiming_uniform_), "A starts as in PEFT"),
    ("train_by_hand", loop(tensors=True), "as float"),
    ("train_by_hand", loop(shift=False), "the place before it"),
    ("train_by_hand", loop(after=True), "before any step"),
    ("train_by_hand", loop(ignore=False), "whose label is -100"),
    ("train_by_hand", loop(optimizer=sgd), "one step of AdamW"),
    ("train_by_hand", loop(optimizer=decayed), "no weight decay"),
    ("train_by_hand", loop(clear=False), "gone before the next"),
    ("train_by_hand", loop(clip=False), "longer than 1 are scaled"),
    ("train_by_hand", loop(everything=True), "and no others"),
]
