"""The embedded instructions: the same bytes again, right answers that are right, flaws that are."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labkit.datasets import registry, tatqa
from labkit.datasets.instructions import banks, generate

HERE = tatqa.data_dir() / "instructions"
ROWS = {
    split: [json.loads(line) for line in (HERE / f"{split}.jsonl").read_text().splitlines()]
    for split in generate.SIZES
}
ALL = [row for rows in ROWS.values() for row in rows]


def test_the_committed_files_are_made_again_byte_for_byte(tmp_path: Path) -> None:
    generate.write(tmp_path)
    assert sorted(p.name for p in HERE.iterdir()) == sorted(p.name for p in tmp_path.iterdir())
    for split in generate.SIZES:
        file = f"{split}.jsonl"
        assert (tmp_path / file).read_bytes() == (HERE / file).read_bytes(), file


def test_the_readme_states_what_the_files_hold() -> None:
    readme = (tatqa.data_dir() / "README.md").read_text()
    stated = re.findall(r"`instructions/(\w+)\.jsonl` \| (\d+) \| `([0-9a-f]{64})`", readme)
    dataset = registry.DATASETS["instructions"]
    assert {split for split, *_ in stated} == set(generate.SIZES)
    for split, count, digest in stated:
        assert int(count) == len(ROWS[split]) == len(dataset.load("", split))
        assert hashlib.sha256((HERE / f"{split}.jsonl").read_bytes()).hexdigest() == digest


def test_no_question_comes_twice_and_none_of_one_split_is_in_another() -> None:
    asked = Counter(json.dumps(row["prompt"]).lower() for row in ALL)
    assert set(asked.values()) == {1}
    for bank in (banks.NAMES, banks.ANIMALS, banks.THINGS, banks.CITIES):
        words = [word for part in bank.values() for word in part.split()]
        assert len(words) == len(set(words))


def test_every_kind_is_in_every_split_as_often() -> None:
    for rows in ROWS.values():
        counts = Counter(row["kind"] for row in rows)
        assert len(counts) == 15 and len(set(counts.values())) == 1


# --- is the right answer right, and the other not? Worked out anew from the question alone. ------


def words_of(question: str) -> list[str]:
    return question.rpartition(": ")[2].rstrip(".?").split(", ")


def number(text: str) -> str:
    return re.findall(r"\d+", text)[-1]


def sort(asked: list[str], answer: str) -> bool:
    return answer.split(", ") == sorted(words_of(asked[-1]))


def longest(asked: list[str], answer: str) -> bool:
    words = words_of(asked[-1])
    return answer.rstrip(".").split()[-1] == max(words, key=len)


def count(asked: list[str], answer: str) -> bool:
    animals = {word for part in banks.ANIMALS.values() for word in part.split()}
    found = [word for word in words_of(asked[-1]) if word in animals]
    return answer == f"{len(found)}: {', '.join(found)}."


FACTOR = {("kilometres", "metres"): 1000, ("hours", "minutes"): 60, ("kilograms", "grams"): 1000,
          ("days", "hours"): 24, ("metres", "centimetres"): 100, ("weeks", "days"): 7,
          ("litres", "millilitres"): 1000, ("minutes", "seconds"): 60}  # fmt: skip


def convert(asked: list[str], answer: str) -> bool:
    amount, large, small = re.match(r"Convert (\d+) (\w+) to (\w+)", asked[-1]).groups()
    right = int(amount) * FACTOR[large, small]
    if len(asked) == 2:
        return asked[0] == "Answer with the number only." and answer == str(right)
    return int(number(answer)) == right and small in answer


def problem(asked: list[str], answer: str) -> bool:
    boxes, each, given = map(int, re.findall(r"\d+", asked[-1]))
    return int(number(answer)) == boxes * each - given


def as_json(asked: list[str], answer: str) -> bool:
    name, age, city = re.search(r"city: (\w+) is (\d+) .* in (\w+)\.", asked[-1]).groups()
    try:
        return bool(json.loads(answer) == {"name": name, "age": int(age), "city": city})
    except ValueError:
        return False


def bullets(asked: list[str], answer: str) -> bool:
    things = re.findall(r"the (\w+)", asked[-1].rpartition(": ")[2])
    return answer.splitlines() == [f"- {thing}" for thing in things] and len(things) > 2


def extract(asked: list[str], answer: str) -> bool:
    what = re.match(r"What is the (\w+ number)", asked[-1])[1]
    return answer == re.search(rf"my {what} is (\d+)", asked[-1], re.IGNORECASE)[1]


def unsaid(asked: list[str], answer: str) -> bool:
    return answer.startswith("The text does not say") and not re.search(r"\d", answer)


def mood(asked: list[str], answer: str) -> bool:
    review = asked[-1].rpartition("\n")[2]
    return answer == ("positive" if any(p in review for p in banks.PRAISE) else "negative")


def polite(asked: list[str], answer: str) -> bool:
    name, request = re.search(r"sentence: (\w+), (.*)!$", asked[-1]).groups()
    return name in answer and request in answer and "could you please" in answer


def note(asked: list[str], answer: str) -> bool:
    name, old, new, reason = re.search(
        r"to (\w+): .* from (\w+) to (\w+) because (.*)\.$", asked[-1]
    ).groups()
    return all(part in answer for part in (name, f"from {old} to {new}.", reason))


def day(asked: list[str], answer: str) -> bool:
    today, steps = re.match(r"Today is (\w+)\. Which day is it in (\d+)", asked[-1]).groups()
    week = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
    return answer.rstrip(".").split()[-1] == week[(week.index(today) + int(steps)) % 7]


def opposite(asked: list[str], answer: str) -> bool:
    word = re.match(r"And of (\w+)\?", asked[-1])[1]
    return f"{word} {answer}" in banks.OPPOSITES.split(";")


def backwards(asked: list[str], answer: str) -> bool:
    return answer.split(", ") == sorted(words_of(asked[0]), reverse=True)


CHECKS: dict[str, Callable[[list[str], str], bool]] = {
    "sort": sort, "longest": longest, "count": count, "convert": convert, "problem": problem,
    "json": as_json, "bullets": bullets, "extract": extract, "unsaid": unsaid, "mood": mood,
    "polite": polite, "note": note, "day": day, "opposite": opposite, "backwards": backwards,
}  # fmt: skip


@pytest.mark.parametrize("kind", CHECKS)
def test_the_chosen_answer_is_right_and_the_rejected_one_is_not(kind: str) -> None:
    rows = [row for row in ALL if row["kind"] == kind]
    for row in rows:
        asked = [turn["content"] for turn in row["prompt"]]
        assert CHECKS[kind](asked, row["chosen"]), row
        assert not CHECKS[kind](asked, row["rejected"]), row
        assert row["flaw"]


def test_they_are_examples_of_preferences_and_of_fine_tuning() -> None:
    examples = registry.examples("instructions", "dev", bad_rows="refuse")
    for example, row in zip(examples, ROWS["dev"], strict=True):
        said: list[Any] = [*row["prompt"], {"role": "assistant", "content": row["chosen"]}]
        assert list(example.messages) == said
        assert (example.chosen, example.rejected) == (row["chosen"], row["rejected"])
        assert example.strata == {"type": row["kind"]}
    assert registry.DATASETS["instructions"].also == ("dpo",)
