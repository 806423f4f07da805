"""What a model reads and what it is trained on, token by token: `labkit data show`.

Most fine-tunes that go wrong without an error do so here: a template that puts the answer into
the prompt, a mask that covers everything or nothing, an end token that is never learned (so the
model never stops), answers cut off by the length, test questions among the training ones. Each can
be seen in a minute, before a run has cost hours.
"""

from collections.abc import Sequence
from typing import Any

from labkit.datasets import encode, registry, tatqa, templates
from labkit.datasets.base import DataSet, Example, Reading
from labkit.datasets.tatqa import Sample
from labkit.errors import LabkitError
from labkit.models import load
from labkit.models import registry as registry_of_models
from labkit.runs.config import RunConfig
from labkit.train import fast_step
from labkit.train.tasks import dpo, pretrain, sft, task_of

ANSWERS = ("chosen", "rejected")
FEWEST_PAIRS, MOSTLY = 20, 0.9
NOTHING_CUT: dict[str, Any] = {"paragraphs": [], "rows": 0}
MOST_CHECKED = 200
LINE = 100


def show(config: RunConfig, *, count: int = 3, split: str = "train") -> dict[str, Any]:
    """Return what a run of `config` makes of its first samples, and what is wrong with them.

    Keys: model, data, split, max_length, template (whether the tokenizer has one), template_name,
    samples [{uid, length, trained, end_token, end_trained, tokens [{id, text, trained}], cut
    {paragraphs, rows, answers}}], checked (how many samples the warnings are about), damaged (a
    sentence for each row that cannot be trained on), warnings [sentence]. A pair of answers is two
    samples, with `answer`, chosen or rejected; one of running text has `texts`, how many it holds,
    and each of its tokens `text_number`.

    Raises LabkitError for a model or data set that is not there, or a sample that does not fit.
    """
    if count < 1:
        raise LabkitError(f"--n {count} shows nothing: ask for 1 or more")
    if config.task in OF_TASKS:
        task_of(config.data, config.task)  # refuses data that is for another task
    tokenizer = templates.use(load.load_tokenizer(config.model), config.template_name)
    own: list[str] | None = None
    dataset, path = registry.find(config.data)
    if dataset.scored_as == registry.TATQA.scored_as:
        pool = tatqa.samples(registry.reports(config.data, split))
        chosen = pool[: config.max_train_samples]
        read = [_encoded(tokenizer, sample, config) for sample in chosen[: _looked_at(count)]]
        damaged, leaks = [], _leaks(config.data, split, chosen)
    else:
        found = dataset.reading(path, split) if dataset.reading else None
        damaged = found.damaged if found else []
        examples = found.examples if found else dataset.load(path, split)
        examples = examples[: config.max_train_samples]
        looked_at = examples[: _looked_at(count)]
        if config.task in OF_TASKS:
            read, own = OF_TASKS[config.task](tokenizer, looked_at, config)
        else:
            read = [row for each in looked_at for row in _rows(tokenizer, each, config)]
        leaks = _same_questions(dataset, path, split, examples)
    shown = count * (2 if read and "answer" in read[0] else 1)
    return {
        "model": config.model,
        "data": config.data,
        "split": split,
        "max_length": config.max_length,
        "template": bool(tokenizer.chat_template),
        "template_name": config.template_name,
        "samples": read[:shown],
        "checked": len(read),
        "damaged": damaged,
        "warnings": [*(warnings_of(read) if own is None else own), *_damage(damaged), *leaks],
    }


def _looked_at(count: int) -> int:
    return max(count, MOST_CHECKED)


def _rows(tokenizer: Any, example: Example, config: RunConfig) -> list[dict[str, Any]]:
    """Return the rows that a conversation is trained in; one too long is shown by its warning."""
    try:
        rows = sft.encoded_rows(tokenizer, example, config.max_length)
    except LabkitError:
        if config.bad_rows == "refuse":
            raise
        return []
    lost = sft.answers_of(example) - sum(row.get("answers", 1) for row in rows)
    return [
        described(tokenizer, example.uid, row["input_ids"], row["labels"])
        | {"cut": {"paragraphs": [], "rows": 0, "answers": lost}}
        for row in rows
    ]


def _pairs(
    tokenizer: Any, examples: Sequence[Example], config: RunConfig
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return both answers of each pair as samples, the chosen one first, and what is wrong."""
    read = []
    for example in examples:
        try:
            (row,) = dpo.rows(tokenizer, [example], config, shared=False)
        except LabkitError:
            if config.bad_rows == "refuse":
                raise
            continue
        prompt = row["prompt_ids"]
        for name in ANSWERS:
            answer = row[f"{name}_ids"]
            labels = [encode.IGNORED] * len(prompt) + answer
            read.append(described(tokenizer, example.uid, prompt + answer, labels)
                        | {"answer": name, "cut": NOTHING_CUT})  # fmt: skip
    return read, [*warnings_of(read), *_told_by_length(read)]


def _told_by_length(read: Sequence[dict[str, Any]]) -> list[str]:
    """Return a sentence where the chosen answers are nearly all the longer ones, or the shorter."""
    lengths = [(a["trained"], b["trained"]) for a, b in zip(read[::2], read[1::2], strict=True)]
    if len(lengths) < FEWEST_PAIRS:
        return []
    found = []
    for word, longer in (("longer", True), ("shorter", False)):
        count = sum(a != b and (a > b) == longer for a, b in lengths)
        if count >= MOSTLY * len(lengths):
            found.append(f"the chosen answer is the {word} one in {count} of {len(lengths)} pairs: "
                         "length alone tells them apart, so a model may learn that")  # fmt: skip
    return found


def _texts(
    tokenizer: Any, examples: Sequence[Example], config: RunConfig
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return sequences of running text with the number of each token's text, and what is wrong."""
    model_type = load.config_of(str(registry_of_models.resolve(config.model))).model_type
    shared = fast_step.shares_prompts(config, model_type)
    read = []
    for number, row in enumerate(pretrain.rows(tokenizer, examples, config, shared=shared), 1):
        sample = described(tokenizer, f"sequence {number}", row["input_ids"], row["labels"])
        of_text = row.get("segment_ids") or [1] * len(row["input_ids"])
        for token, text in zip(sample["tokens"], of_text, strict=True):
            token["text_number"] = text
        read.append(sample | {"texts": max(of_text), "cut": NOTHING_CUT})
    ends = sum(token["id"] == tokenizer.eos_token_id and token["trained"]
               for sample in read for token in sample["tokens"])  # fmt: skip
    if ends >= len(examples):
        return read, []
    return read, [f"{len(examples) - ends} of {len(examples)} texts have no end token with a "
                  "label, so the model is not taught where they end"]  # fmt: skip


OF_TASKS = {dpo.DPO.name: _pairs, pretrain.PRETRAIN.name: _texts}


def _damage(damaged: Sequence[str]) -> list[str]:
    if not damaged:
        return []
    what = Reading(examples=[], damaged=list(damaged)).what_is_damaged()
    return [f"{what} cannot be trained on: mend them, or set bad_rows to skip"]


def _same_questions(
    dataset: DataSet, path: str, split: str, examples: Sequence[Example]
) -> list[str]:
    """Return a sentence where a conversation of this split stands in another one as well."""
    ours = {_key(example): example.uid for example in examples}
    found = []
    for other in tatqa.SPLITS:
        if other == split:
            continue
        try:
            reading = dataset.reading(path, other) if dataset.reading else None
            theirs = reading.examples if reading else dataset.load(path, other)
        except LabkitError:  # a folder without that split
            continue
        both = [example.uid for example in theirs if _key(example) in ours]
        if both:
            found.append(f"{len(both)} questions of {split} stand in {other} as well ({both[0]} "
                         "first): a score there says nothing")  # fmt: skip
    return found


def _key(example: Example) -> tuple[str, ...]:
    """Return what is asked, without case and spacing: all turns but the last answer."""
    turns = [turn["content"] for turn in example.messages[:-1]] or [example.text]
    return tuple(" ".join(text.lower().split()) for text in turns)


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
    lost = [s for s in samples if s.get("cut", {}).get("answers")]
    if lost:
        found.append(
            f"{len(lost)} of {len(samples)} samples ({lost[0]['uid']} first) lose their later "
            "turns to max_length"
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
    named = f"the chat template {found['template_name']}" if found["template_name"] else ""
    template = named or ("its chat template" if found["template"] else "no template")
    lines = [f"{found['model']} on {found['data']}/{found['split']}, max_length "
             f"{found['max_length']}, {template}"]  # fmt: skip
    for sample in found["samples"]:
        kind = f", {sample['answer']}" if "answer" in sample else ""
        several = f", {sample['texts']} texts" if "texts" in sample else ""
        lines += ["", f"{sample['uid']}{kind}: {sample['length']} tokens{several}, "
                  f"{sample['trained']} trained, "
                  f"end token {sample['end_token'] or '–'}"]  # fmt: skip
        before = 1
        for token in sample["tokens"]:
            if token.get("text_number", before) != before:
                before = token["text_number"]
                lines.append(f"--- text {before}: sees none of the above, positions from 0")
            label = token["id"] if token["trained"] else "–"
            lines.append(f"{token['id']:>8}  {label:>8}  {token['text']!r}")
        cut = sample["cut"]
        if cut["paragraphs"] or cut["rows"]:
            lines.append(f"cut to fit: {cut['rows']} rows, {len(cut['paragraphs'])} paragraphs")
            lines += [f"  {' '.join(text.split())[:LINE]}" for text in cut["paragraphs"]]
        if cut.get("answers"):
            lines.append(f"cut to fit: the last {cut['answers']} answers and what they answer")
    lines += ["", *(f"warning: {warning}" for warning in found["warnings"])]
    if not found["warnings"]:
        lines.append(f"nothing wrong in the {found['checked']} samples that were looked at")
    return "\n".join(lines)
