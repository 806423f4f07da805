"""Are these the same model? An adapter, merged, quantised, loaded again, or behind a server.

The first model that is on this machine is the reference, and every other one is held against it in
two ways.

* **Logits on the same token ids.** Both read the reference's prompt and answer, so that nothing but
  weights and arithmetic can differ.
* **Answers as each gives them**, with its own tokenizer, template and end tokens, greedily, one
  question at a time. Where two answers part, the two candidates are shown with their logits.

The tolerance is `MARGIN` times what rounding to the coarser of the two models' types does to the
reference's logits (`parity_reading`). Quantising is no rounding that goes unnoticed, so where one
of the two is quantised the yardstick is float32's arithmetic: they lie outside, and the cause is
named dtype as long as that many bits explain it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from labkit.datasets import encode, reasoning
from labkit.datasets import registry as datasets
from labkit.errors import LabkitError, nearest
from labkit.inference import parity_reading as reading
from labkit.inference import parity_shown as shown
from labkit.inference import served
from labkit.inference.batching import end_tokens
from labkit.inference.generate import MAX_NEW_TOKENS, load_generator
from labkit.inference.parity_reading import Asking, Form, Reference
from labkit.inference.parity_shown import Cause, Difference, Pair, Parity
from labkit.models import load
from labkit.train.tasks import task_of

QUESTIONS = 4


def compare(
    models: Sequence[str],
    *,
    data: str = "tables",
    split: str = "test",
    max_samples: int | None = QUESTIONS,
    max_new_tokens: int = MAX_NEW_TOKENS,
    tolerance: float | None = None,
    dtype: str = "auto",
) -> Parity:
    """Hold models (names, runs, folders, or `http://…/v1#MODEL`) against the first local one.

    `tolerance` is in logits; None measures it, as above. `dtype` auto loads weights in the type
    they are kept in.

    Raises:
        LabkitError: fewer than two models, none of them here, one that is not there, a tolerance
            that is no number, data or a split that is not there.
    """
    if len(models) < 2:
        raise LabkitError("parity holds models against each other: name two or more")
    if tolerance is not None and not 0 <= tolerance < float("inf"):
        raise LabkitError(f"--tolerance {tolerance} is not a difference of logits: give 0 or more")
    if dtype != "auto" and dtype not in load.DTYPES:
        raise LabkitError(f"dtype {dtype!r} is not known: {nearest(dtype, ['auto', *load.DTYPES])}")
    if all(map(served.is_address, models)):
        raise LabkitError("a server shows no logits and no tokens, so one of the models has to be "
                          "on this machine: name a run, a folder or a registry name")  # fmt: skip
    dataset, place = datasets.find(data)
    asked = dataset.load(place, split)[:max_samples]
    if not asked:
        raise LabkitError(f"the {split} split of {data} holds nothing to ask")
    forms = [reading.form(name, dtype) for name in models]
    first = next(form for form in forms if not form.behind)
    others = [form for form in forms if form is not first]
    asking = Asking(prompt=task_of(data).prompt, max_new_tokens=max_new_tokens,
                     tolerance=tolerance)  # fmt: skip
    reference = reading.read(first, others, asked, asking)
    pairs = [(_against_served if other.behind else _against_local)(reference, other, asking)
             for other in others]  # fmt: skip
    return Parity(data=data, split=split, n=len(asked), max_new_tokens=max_new_tokens,
                  pairs=tuple(pairs))  # fmt: skip


def _against_local(ref: Reference, b: Form, asking: Asking) -> Pair:
    a, tokenizer = ref.form, ref.tokenizer
    generator = load_generator(b.name, dtype=b.dtype, exact=True)
    theirs = generator.tokenizer
    limit = min(ref.limit, generator._prompt_limit(asking.max_new_tokens))
    prompts = [asking.prompt(theirs, example, limit) for example in ref.asked]
    written = [reading.write(generator, ids, asking.max_new_tokens) for ids in prompts]
    rows = [reading.rows_of(generator.model, ids, answer)
            for ids, answer in zip(ref.prompts, ref.written, strict=True)]  # fmt: skip
    allowed = _allowed(ref, b, asking)

    causes = []
    if other_ids := shown.tokenizers_differ(tokenizer, theirs, ref.asked):
        causes.append(Cause(name="tokenizer", detail=other_ids))
    if other_text := shown.prompts_differ(tokenizer, theirs, ref.prompts, prompts, bool(other_ids)):
        causes.append(Cause(name="template", detail=other_text))
    ends = [shown.ends(tokenizer, ref.end_ids), shown.ends(theirs, end_tokens(generator.model))]
    if ends[0] != ends[1]:
        causes.append(Cause(name="stop", detail=shown.ends_differ(*ends)))
    largest = None
    # Ids that the other model has no embedding for can't be given to it.
    if not other_ids or all(row is not None for row in rows):
        largest = max(reading.largest(x, y) for x, y in zip(ref.rows, rows, strict=True))
        if largest > 0:
            causes.append(_of_numbers(ref, b, largest))

    differences = []
    for i, (x, y) in enumerate(zip(ref.written, written, strict=True)):
        texts = [reasoning.decode(tokenizer, [x])[0], reasoning.decode(theirs, [y])[0]]
        if other_ids and texts[0].strip() != texts[1].strip():  # ids mean something else there
            differences.append(_by_text(ref, i, texts[1], None))
        elif not other_ids and x != y:
            own = rows[i]
            if prompts[i] != ref.prompts[i]:
                own = reading.rows_of(generator.model, prompts[i], y)
            differences.append(
                shown.difference(ref.asked[i].uid, tokenizer, (x, y), texts, (ref.rows[i], own))
            )
    return Pair(
        a=a.name, b=b.name, types=(a.type, b.type), n=len(ref.asked),
        largest_difference=largest if largest is not None and largest < float("inf") else None,
        tolerance=allowed, tolerance_from=_said(a, b, asking), causes=_sorted(causes),
        differences=tuple(differences),
        same=largest is not None and largest <= allowed and not _others(causes),
    )  # fmt: skip


def _allowed(ref: Reference, b: Form, asking: Asking) -> float:
    if asking.tolerance is not None:
        return asking.tolerance
    return reading.MARGIN * ref.noise[reading.yardstick(ref.form, b)]


def _said(a: Form, b: Form, asking: Asking) -> str:
    if asking.tolerance is not None:
        return "given"
    return (f"{reading.MARGIN} times what rounding each layer to {reading.yardstick(a, b)} does to "
            f"the logits of {a.name}")  # fmt: skip


def _sorted(causes: Iterable[Cause]) -> tuple[Cause, ...]:
    return tuple(sorted(causes, key=lambda cause: shown.ORDER[cause.name]))


def _others(causes: Sequence[Cause]) -> bool:
    """Whether something differs that no tolerance of numbers covers."""
    return any(cause.name in ("tokenizer", "template", "stop") for cause in causes)


def _of_numbers(ref: Reference, b: Form, largest: float) -> Cause:
    """Name what a difference of logits comes from: a type's rounding, its bits, or more."""
    a, kind = ref.form, reading.yardstick(ref.form, b)
    if largest == float("inf"):
        return Cause(name="weights", detail=f"the logits of {b.name} are not all numbers")
    if largest <= reading.MARGIN * ref.noise[kind]:
        if a.type == b.type:
            return Cause(name="arithmetic", detail=f"no more than the rounding of {kind} gives")
        return Cause(name="dtype", detail=f"no more than the rounding of {kind} gives: one is kept "
                     f"in {a.type}, the other in {b.type}")  # fmt: skip
    for bits in reading.fewer_bits(a, b):
        if largest <= reading.MARGIN * ref.noise[bits]:
            return Cause(name="dtype", detail=f"no more than weights in {bits} give")
        kind = bits
    return Cause(name="weights", detail=f"{largest / (ref.noise[kind] or 1e-30):,.0f} times what "
                 f"the rounding of {kind} does to a logit")  # fmt: skip


def _against_served(ref: Reference, b: Form, asking: Asking) -> Pair:
    assert b.behind
    a, tokenizer, allowed = ref.form, ref.tokenizer, _allowed(ref, b, asking)
    causes: dict[str, Cause] = {}
    differences, ties = [], 0
    for i, example in enumerate(ref.asked):
        said = _ask(b.behind, ref, i, asking.max_new_tokens)
        count = len(ref.prompts[i])
        if said.prompt_tokens not in (None, count):
            causes.setdefault("template", Cause(
                name="template", detail=f"{example.uid} is a prompt of {count} tokens here, and of "
                f"{said.prompt_tokens} at the server: another template or tokenizer"))  # fmt: skip
        ended = ref.written[i][-1] in ref.end_ids
        text = reasoning.decode(tokenizer, [ref.written[i]])[0]
        # Some servers strip what they send.
        if said.text not in (text, text.strip()):
            found = _by_text(ref, i, said.text, said.ended)
            differences.append(found)
            cause = _of_text(ref, found, allowed)
            ties += cause.name == "arithmetic"
            causes.setdefault(cause.name, cause)
        elif said.ended is not None and said.ended != ended:
            causes.setdefault("stop", _goes_on(example.uid, at_server=ended))
    if "template" in causes:  # which explains what the answers do
        causes = {"template": causes["template"]}
    found_causes = _sorted(causes.values())
    return Pair(
        a=a.name, b=b.name, types=(a.type, b.type), n=len(ref.asked), largest_difference=None,
        tolerance=allowed, tolerance_from=_said(a, b, asking), causes=found_causes,
        differences=tuple(differences), same=ties == len(differences) and not _others(found_causes),
        notes=("a server shows the text of its answers, no logits: the candidates' logits are the "
               f"reference's, and the server is taken to calculate in {reading.UNKNOWN}",),
    )  # fmt: skip


def _ask(behind: served.Served, ref: Reference, i: int, max_new_tokens: int) -> Any:
    """Ask a server what the reference was asked: the conversation, or the text of the prompt."""
    example, tokenizer = ref.asked[i], ref.tokenizer
    if not (tokenizer.chat_template and example.messages):
        text = tokenizer.decode(ref.prompts[i], skip_special_tokens=True)
        return behind.complete(text, max_new_tokens=max_new_tokens)
    cut = encode.fitted(tokenizer, example, ref.limit, False)[2]
    turns = example.cuts.without(cut) if example.cuts and cut else example.messages
    return behind.chat(turns[:-1], max_new_tokens=max_new_tokens)


def _by_text(ref: Reference, i: int, text: str, ended: bool | None) -> Difference:
    """Find where the reference's answer i and a text of unknown tokens part."""
    own = reasoning.decode(ref.tokenizer, [ref.written[i]])[0]
    lead = own[: len(own) - len(own.lstrip())] if own.strip() and text == text.strip() else ""
    theirs = ref.tokenizer(lead + text, add_special_tokens=False)["input_ids"]
    theirs += ref.end_ids[:1] if ended else []
    return shown.difference(ref.asked[i].uid, ref.tokenizer, (ref.written[i], theirs), [own, text],
                            (ref.rows[i], None))  # fmt: skip


def _of_text(ref: Reference, found: Difference, allowed: float) -> Cause:
    """Name why a server's answer parts from the reference's, by the reference's own logits."""
    gap = found.gap
    apart = "" if gap is None else f", {gap:.3g} logits apart"
    if gap is not None and gap <= 2 * allowed:
        return Cause(name="arithmetic", detail=f"{found.uid}: two candidates{apart}, a tie that "
                     "rounding decides")  # fmt: skip
    ends = {None, *(ref.tokenizer.decode([token]) for token in ref.end_ids)}
    if found.a_token in ends or found.b_token in ends:
        return _goes_on(found.uid, at_server=found.a_token in ends)
    if gap is not None and gap <= 2 * reading.MARGIN * ref.noise["8bit"]:
        return Cause(name="dtype", detail=f"{found.uid}: two candidates{apart}, which 8-bit "
                     "weights bridge")  # fmt: skip
    return Cause(name="weights", detail=f"{found.uid}: two candidates{apart}, which no rounding "
                 "bridges")  # fmt: skip


def _goes_on(uid: str, *, at_server: bool) -> Cause:
    where = "at the server" if at_server else "here"
    return Cause(name="stop", detail=f"{uid}: the model goes on {where} where the other has ended")
