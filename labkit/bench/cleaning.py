"""Train on three states of one corpus at equal tokens, and on text that gives a test away.

    raw            texts as their files have them
    filtered       repaired, filtered and masked, near-duplicates left in
    deduplicated   the same without near-duplicates

Each run of continued pretraining reads as many tokens: what differs is which. Clean text of another
seed, which none has read, is then read by all, and bits per byte are compared text by text.

A leak is measured on choices: a passage of a test with its number, and three with another. The one
that a model holds for the likeliest is its choice. Items that were planted in the training text are
told from items that were not, since training on text of that kind could help with both.
"""

import json
import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit import stats
from labkit.console import quiet
from labkit.datasets.corpus import readers, sources, synthetic
from labkit.datasets.corpus.sources import Refused
from labkit.datasets.corpus.synthetic_faults import passages_of_tests
from labkit.errors import LabkitError
from labkit.files import write_text
from labkit.inference.generate import Generator
from labkit.runs import profiles
from labkit.runs.config import RunConfig

LEAST_WORDS = 8
"""Shorter paragraphs are headings."""
BATCH = 8
"""texts that are read at once"""
OPTIONS = 4
NEAR = 12
"""A year has to stay one that could be."""
_NUMBER = re.compile(r"(?<![\d.,])\d{2,4}(?![\d.,]*\d)")


def raw_texts(folder: Path) -> list[str]:
    """Return the texts of the files in a folder as they are, those that can be read."""
    found = []
    for file in sources.find([folder]).files:
        try:
            for each in readers.documents(file, 0, file.size):
                if not isinstance(each, Refused):
                    found.append(each.text)
        except Exception:  # a damaged file ends where it is damaged, as in a build
            continue
    return found


def built_texts(out: Path) -> list[str]:
    """Return the texts of a build's training split."""
    return [row["text"] for row in rows(out / "train.jsonl")]


def rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines."""
    # Not str.splitlines, to which some characters of mojibake are ends of lines.
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def paragraphs(texts: Iterable[str], seed: int) -> list[str]:
    """Return all paragraphs of some texts in a seeded order, without headings."""
    found = [part.strip() for text in texts for part in text.split("\n\n")]
    found = [part for part in found if part.count(" ") + 1 >= LEAST_WORDS]
    random.Random(seed).shuffle(found)
    return found


def write_texts(file: Path, texts: Iterable[str]) -> None:
    """Write texts as JSON lines; a file that holds them stays, and so does what was built of it."""
    lines = "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts)
    if not file.exists() or file.read_bytes() != lines.encode():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, lines)


def write_tokens(
    file: Path, texts: Iterable[str], tokenizer: Any, tokens: int, *, seed: int = 0
) -> int:
    """Write the first texts that have so many tokens; return how many they have.

    They are written as one text, in a seeded order: cut into sequences it fills all but the last,
    so that runs which take as many steps read as many tokens.

    Raises:
        LabkitError: the texts have fewer.
    """
    chosen: list[str] = []
    have = 0
    for text in texts:
        if have >= tokens:
            break
        have += len(tokenizer(text + "\n\n", verbose=False)["input_ids"])
        chosen.append(text)
    if have < tokens:
        raise LabkitError(f"the texts for {file.name} have {have:,} tokens and not {tokens:,}: "
                          "make a larger corpus")  # fmt: skip
    random.Random(seed).shuffle(chosen)
    write_texts(file, ["\n\n".join(chosen)])
    return have


def config(file: Path, model: str, tokens: int, **changes: Any) -> RunConfig:
    """Return the run that reads about so many tokens of a file of texts, once."""
    settings: dict[str, Any] = {
        "model": model, "data": str(file), "task": "pretrain", "max_length": 256,
        "per_device_train_batch_size": 4, "learning_rate": 1e-3, "eval_steps": 0,
        "name": f"{file.parent.name}-{file.stem}",
    } | changes  # fmt: skip
    step = settings["max_length"] * settings["per_device_train_batch_size"]
    return RunConfig().replace(max_steps=max(1, tokens // step), **settings)


def held_out(count: int, seed: int) -> list[str]:
    """Return clean paragraphs of the synthetic corpus of a seed, each of a text of its own."""
    found: list[str] = []
    for item, truth in synthetic.texts(seed):
        if len(found) == count:
            break
        if truth["kind"] == "clean":
            found.append(item["text"].split("\n\n")[0])
    return found


@dataclass(frozen=True, kw_only=True)
class Item:
    """A choice of a test: the passage, and all options with the passage among them."""

    name: str
    passage: str
    options: tuple[str, ...]


def items(count: int, seed: int = 0) -> list[Item]:
    """Return so many choices from passages of the tables test split, each of another report.

    The last number of two to four digits is exchanged for others of about its size.
    """
    draw = random.Random(seed)
    found: list[Item] = []
    seen: set[str] = set()
    for name, passage in passages_of_tests():
        if len(found) == count:
            break
        numbers = list(_NUMBER.finditer(passage))
        if not numbers or passage in seen or len(passage.split()) < LEAST_WORDS:
            continue
        seen.add(passage)
        number = numbers[-1]
        digits = number[0]
        near = [str(int(digits) + by) for by in range(-NEAR, NEAR + 1) if by]
        others = draw.sample([each for each in near if len(each) == len(digits)], OPTIONS - 1)
        options = [passage[: number.start()] + each + passage[number.end() :]
                   for each in (digits, *others)]  # fmt: skip
        draw.shuffle(options)
        found.append(Item(name=name, passage=passage, options=tuple(options)))
    return found


def planted(texts: Sequence[str], passages: Iterable[str], copies: int, seed: int) -> list[str]:
    """Return texts that hold the passages, each in as many as there are copies."""
    draw = random.Random(seed)
    return [f"{draw.choice(texts)} {passage}" for passage in passages for _ in range(copies)]


def nats(generator: Generator, texts: Sequence[str]) -> list[float]:
    """Return minus the log-probability of each text, its first token given."""
    import torch
    from torch.nn import functional

    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    found = [0.0] * len(texts)
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        read = [generator.tokenizer(texts[place])["input_ids"] for place in places]
        longest = max(map(len, read))
        ids = torch.zeros(len(read), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, each in enumerate(read):
            ids[row, : len(each)], mask[row, : len(each)] = torch.tensor(each), 1
        ids, mask = ids.to(generator.model.device), mask.to(generator.model.device)
        with torch.inference_mode(), quiet():
            logits = generator.model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        each_nll = functional.cross_entropy(
            logits.float().transpose(1, 2), ids[:, 1:], reduction="none"
        )
        sums = (each_nll * mask[:, 1:]).sum(1).tolist()
        for place, value in zip(places, sums, strict=True):
            found[place] = value
    return found


def bits(generator: Generator, texts: Sequence[str]) -> list[float]:
    """Return the bits that a model needs for each text, its first token given."""
    return [value / math.log(2) for value in nats(generator, texts)]


def choose(generator: Generator, asked: Sequence[Item]) -> list[float]:
    """Return 1 for each item whose passage a model holds for the likeliest option, else 0."""
    every = [option for item in asked for option in item.options]
    values = iter(nats(generator, every))
    right = []
    for item in asked:
        found = {option: next(values) for option in item.options}
        right.append(float(min(found, key=lambda option: found[option]) == item.passage))
    return right


def compare_bits(
    first: Sequence[float], second: Sequence[float], texts: Sequence[str]
) -> dict[str, float]:
    """Return bits per byte of both and of second minus first, with its interval over texts."""
    sizes = [len(text.encode()) for text in texts]
    found = stats.paired_difference(first, second, weights=sizes)["difference"]
    return {"first": sum(first) / sum(sizes), "second": sum(second) / sum(sizes), **found}


def compare_choices(
    clean: Sequence[float], leaked: Sequence[float], is_planted: Sequence[bool]
) -> dict[str, float]:
    """Return right choices in percent on planted and other items, and the change on planted ones.

    planted_clean, planted_leaked, others_clean, others_leaked; value, low and high of the change.
    """
    found: dict[str, float] = {}
    for kind, wanted in (("planted", True), ("others", False)):
        for who, right in (("clean", clean), ("leaked", leaked)):
            mine = [r for r, p in zip(right, is_planted, strict=True) if p is wanted]
            found[f"{kind}_{who}"] = 100 * sum(mine) / len(mine)
    pairs = [(a, b) for a, b, p in zip(clean, leaked, is_planted, strict=True) if p]
    change = stats.paired_difference([a for a, _ in pairs], [b for _, b in pairs])["difference"]
    return found | {key: 100 * value for key, value in change.items()}


def sizes_of_profile() -> dict[str, Any]:
    """Return how much of the lesson is run: megabytes, tokens, texts, items, the model …"""
    if profiles.current().name == "smoke":
        return {"megabytes": 0.25, "compared": 60, "tokens": 2_048, "texts": 6, "items": 8,
                "copies": 4, "model": profiles.current().probe["model"]}  # fmt: skip
    return {"megabytes": 1.0, "compared": 200, "tokens": 24_576, "texts": 48, "items": 48,
            "copies": 6, "model": profiles.model()}  # fmt: skip
