"""What a model reads and what it is trained on, token by token: `labkit data show`.

Most fine-tunes that go wrong without an error do so here: a template that puts the answer into
the prompt, a mask that covers everything or nothing, an end token that is never learned (so the
model never stops), answers cut off by the length, test questions among the training ones. Each can
be seen in a minute, before a run has cost hours.
"""

from collections.abc import Sequence
from typing import Any

from labkit.datasets import encode, registry, tatqa
from labkit.datasets.tatqa import Sample
from labkit.errors import LabkitError
from labkit.models import load
from labkit.runs.config import RunConfig

MOST_CHECKED = 200
LINE = 100


def show(config: RunConfig, *, count: int = 3, split: str = "train") -> dict[str, Any]:
    """Return what a run of `config` makes of its first samples, and what is wrong with them.

    Keys: model, data, split, max_length, template (whether the tokenizer has one), samples [{uid,
    length, trained, end_token, end_trained, tokens [{id, text, trained}], cut {paragraphs,
    rows}}], checked (how many samples the warnings are about), warnings [sentence].

    Raises LabkitError for a model or data set that is not there, or a sample that does not fit.
    """
    if count < 1:
        raise LabkitError(f"--n {count} shows nothing: ask for 1 or more")
    tokenizer = load.load_tokenizer(config.model)
    pool = tatqa.samples(registry.reports(config.data, split))
    chosen = pool[: config.max_train_samples]
    read = [_encoded(tokenizer, sample, config) for sample in chosen[: max(count, MOST_CHECKED)]]
    return {
        "model": config.model,
        "data": config.data,
        "split": split,
        "max_length": config.max_length,
        "template": bool(tokenizer.chat_template),
        "samples": read[:count],
        "checked": len(read),
        "warnings": [*warnings_of(read), *_leaks(config.data, split, chosen)],
    }


def _encoded(tokenizer: Any, sample: Sample, config: RunConfig) -> dict[str, Any]:
    example = encode.example(sample)
    encoded = encode.encode_example(tokenizer, example, max_length=config.max_length)
    shorter = encode.shortened(sample, encode.fitted(tokenizer, example, config.max_length)[2])
    rows = len([row for row in sample.report.table if any(cell.strip() for cell in row)])
    kept = len([row for row in shorter.report.table if any(cell.strip() for cell in row)])
    paragraphs = sample.report.paragraphs[len(shorter.report.paragraphs) :]
    return described(tokenizer, sample.question.uid, encoded["input_ids"], encoded["labels"]) | {
        "cut": {"paragraphs": list(paragraphs), "rows": rows - kept}
    }


def described(
    tokenizer: Any, uid: str, input_ids: Sequence[int], labels: Sequence[int]
) -> dict[str, Any]:
    """Return a sequence token by token; labels of -100 are not trained."""
    ends = {token for token in (tokenizer.eos_token_id, *tokenizer.all_special_ids)
            if token is not None}  # fmt: skip
    places = [i for i, token in enumerate(input_ids) if token in ends]
    last = places[-1] if places and places[-1] == len(input_ids) - 1 else None
    return {
        "uid": uid,
        "length": len(input_ids),
        "trained": sum(label != encode.IGNORED for label in labels),
        "end_token": None if last is None else tokenizer.convert_ids_to_tokens(input_ids[last]),
        "end_trained": last is not None and labels[last] == input_ids[last],
        "tokens": [
            {"id": token, "text": tokenizer.decode([token]), "trained": label != encode.IGNORED}
            for token, label in zip(input_ids, labels, strict=True)
        ],
    }


def warnings_of(samples: Sequence[dict[str, Any]]) -> list[str]:
    """Return what is wrong with sequences as `described` has them, a sentence each."""
    problems = {
        "nothing is trained: every label is -100": [s for s in samples if not s["trained"]],
        "everything is trained, the prompt too": [
            s for s in samples if s["trained"] == s["length"]
        ],
        "the sequence does not end in an end token, so the model is not taught to stop": [
            s for s in samples if s["end_token"] is None
        ],
        "the end token has no label, so the model is not taught to stop": [
            s for s in samples if s["end_token"] is not None and not s["end_trained"]
        ],
    }
    found = [
        f"{len(those)} of {len(samples)} samples ({those[0]['uid']} first): {what}"
        for what, those in problems.items()
        if those
    ]
    cut = [s for s in samples if s.get("cut") and (s["cut"]["paragraphs"] or s["cut"]["rows"])]
    if cut:
        found.append(
            f"{len(cut)} of {len(samples)} samples ({cut[0]['uid']} first) lose paragraphs or rows "
            "to max_length, where the answer may have stood"
        )
    return found


def _leaks(data: str, split: str, samples: Sequence[Sample]) -> list[str]:
    """Return a sentence where a question on the same report stands in another split as well."""

    def key(sample: Sample) -> tuple[str, str]:
        return encode.render_report(sample.report), " ".join(sample.question.text.lower().split())

    ours = {key(sample): sample.question.uid for sample in samples}
    uids = set(ours.values())
    found = []
    for other in tatqa.SPLITS:
        if other == split:
            continue
        try:
            theirs = tatqa.samples(registry.reports(data, other))
        except LabkitError:  # a folder without that split
            continue
        both = [s.question.uid for s in theirs if key(s) in ours or s.question.uid in uids]
        if both:
            found.append(f"{len(both)} questions of {split} stand in {other} as well ({both[0]} "
                         "first): a score there says nothing")  # fmt: skip
    return found


def render(found: dict[str, Any]) -> str:
    """Return tokens as text, a line each: its id, its label or –, and what it stands for."""
    template = "its chat template" if found["template"] else "no template"
    lines = [f"{found['model']} on {found['data']}/{found['split']}, max_length "
             f"{found['max_length']}, {template}"]  # fmt: skip
    for sample in found["samples"]:
        lines += ["", f"{sample['uid']}: {sample['length']} tokens, {sample['trained']} trained, "
                  f"end token {sample['end_token'] or '–'}"]  # fmt: skip
        for token in sample["tokens"]:
            label = token["id"] if token["trained"] else "–"
            lines.append(f"{token['id']:>8}  {label:>8}  {token['text']!r}")
        cut = sample["cut"]
        if cut["paragraphs"] or cut["rows"]:
            lines.append(f"cut to fit: {cut['rows']} rows, {len(cut['paragraphs'])} paragraphs")
            lines += [f"  {' '.join(text.split())[:LINE]}" for text in cut["paragraphs"]]
    lines += ["", *(f"warning: {warning}" for warning in found["warnings"])]
    if not found["warnings"]:
        lines.append(f"nothing wrong in the {found['checked']} samples that were looked at")
    return "\n".join(lines)
