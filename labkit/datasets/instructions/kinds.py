"""What can be asked: each kind draws a question, a right answer, and one with a named flaw.

The flaws are those that preference tuning is for: a wrong result, another form than was asked for,
something made up, a part left out, talk around the answer. That the right answer is right and the
other is not is computed anew in the tests, from the question's text alone.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

from labkit.datasets.instructions import banks

Turn = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Item:
    """A question with earlier turns, if any, two answers to it, and what is wrong with the second.

    `turns` are pairs of role and text and end with the user's.
    """

    kind: str
    turns: tuple[Turn, ...]
    chosen: str
    rejected: str
    flaw: str


@dataclass(frozen=True)
class Draw:
    """A source of chance with the banks of one split."""

    rng: random.Random
    split: str

    def words(self, bank: dict[str, str], count: int) -> list[str]:
        """Draw different words of a bank."""
        return self.rng.sample(bank[self.split].split(), count)

    def one(self, choices: "tuple[str, ...] | list[str]") -> str:
        """Draw one of several."""
        return self.rng.choice(choices)

    def things(self, count: int) -> list[str]:
        """Draw different words for animals and things."""
        here = banks.ANIMALS[self.split].split() + banks.THINGS[self.split].split()
        return self.rng.sample(here, count)


def _asked(kind: str, question: str, chosen: str, rejected: str, flaw: str) -> Item:
    return Item(kind=kind, turns=(("user", question),), chosen=chosen, rejected=rejected, flaw=flaw)


def sort(draw: Draw) -> Item:
    """Put words into alphabetical order."""
    words = draw.things(draw.rng.randint(4, 6))
    right = sorted(words)
    place = draw.rng.randrange(len(right) - 1)
    wrong = [*right[:place], right[place + 1], right[place], *right[place + 2 :]]
    wish = draw.one(("Put these words in alphabetical order", "Sort these words from A to Z"))
    return _asked("sort", f"{wish}: {', '.join(words)}.", ", ".join(right), ", ".join(wrong),
                  "wrong result")  # fmt: skip


def longest(draw: Draw) -> Item:
    """Find the longest of several words, of which none is as long."""
    while True:
        words = draw.things(4)
        first, second = sorted(words, key=len, reverse=True)[:2]
        if len(first) > len(second):
            break
    question = f"Which of these words has the most letters: {', '.join(words)}?"
    return _asked("longest", question, f"The word with the most letters is {first}.",
                  f"The word with the most letters is {second}.", "wrong result")  # fmt: skip


def count(draw: Draw) -> Item:
    """Count the animals among things."""
    animals = draw.words(banks.ANIMALS, draw.rng.randint(2, 4))
    words = animals + draw.words(banks.THINGS, draw.rng.randint(2, 4))
    draw.rng.shuffle(words)
    named = [word for word in words if word in animals]
    wrong = len(named) + draw.rng.choice((-1, 1))
    question = f"How many of these words are animals: {', '.join(words)}?"
    return _asked("count", question, f"{len(named)}: {', '.join(named)}.",
                  f"{wrong}: {', '.join(named)}.", "wrong result")  # fmt: skip


def convert(draw: Draw) -> Item:
    """Convert a measure, or give the bare number where the system message asks for that."""
    large, small, factor = draw.rng.choice(banks.UNITS)
    amount = draw.rng.randint(2, 60)
    right = f"{amount} {large} are {amount * factor} {small}."
    question = f"Convert {amount} {large} to {small}."
    if draw.rng.random() < 0.5:
        system = ("system", "Answer with the number only.")
        return Item(kind="convert", turns=(system, ("user", question)),
                    chosen=str(amount * factor), rejected=right, flaw="wrong form")  # fmt: skip
    wrong = f"{amount} {large} are {amount * factor * 10} {small}."
    return _asked("convert", question, right, wrong, "wrong result")


def problem(draw: Draw) -> Item:
    """Solve a word problem in two steps."""
    (name,) = draw.words(banks.NAMES, 1)
    (thing,) = draw.words(banks.THINGS, 1)
    boxes, each = draw.rng.randint(3, 9), draw.rng.randint(4, 12)
    given = draw.rng.randint(2, boxes * each - 1)
    total = boxes * each
    question = (f"{name} has {boxes} boxes with {each} {thing}s each and gives {given} of them "
                "away. How many are left?")  # fmt: skip
    right = f"{boxes} × {each} = {total}, and {total} − {given} = {total - given}. " \
            f"{total - given} are left."  # fmt: skip
    wrong = f"{boxes} + {each} = {boxes + each}, and {boxes + each} + {given} = " \
            f"{boxes + each + given}. {boxes + each + given} are left."  # fmt: skip
    return _asked("problem", question, right, wrong, "wrong result")


def as_json(draw: Draw) -> Item:
    """Write facts on a person as JSON."""
    (name,), (city,) = draw.words(banks.NAMES, 1), draw.words(banks.CITIES, 1)
    age = draw.rng.randint(19, 78)
    question = (f"Write this as a JSON object with the keys name, age and city: {name} is {age} "
                f"years old and lives in {city}.")  # fmt: skip
    right = json.dumps({"name": name, "age": age, "city": city}, ensure_ascii=False)
    talk = f"Here is your JSON object: {right} Let me know if you need more!"
    quoted = right.replace('"', "'")
    wrong = draw.one([f"Name: {name}, age: {age}, city: {city}", quoted, talk])
    return _asked("json", question, right, wrong, "wrong form")


def bullets(draw: Draw) -> Item:
    """Write a sentence's things as a list."""
    things = draw.words(banks.THINGS, draw.rng.randint(3, 4))
    (name,) = draw.words(banks.NAMES, 1)
    said = f"{', '.join(f'the {thing}' for thing in things[:-1])} and the {things[-1]}"
    question = (f"Make a bullet list of what {name} needs, one thing a line and nothing else: "
                f"{name} needs {said}.")  # fmt: skip
    return _asked("bullets", question, "\n".join(f"- {thing}" for thing in things),
                  f"{name} needs these things: {said}.", "wrong form")  # fmt: skip


def extract(draw: Draw) -> Item:
    """Find one of two numbers in a message."""
    (name,), (thing,) = draw.words(banks.NAMES, 1), draw.words(banks.THINGS, 1)
    order, customer = draw.rng.sample(range(1000, 9999), 2)
    message = (f"Dear shop, my {thing} has not arrived. My order number is {order} and my customer "
               f"number is {customer}. Regards, {name}")  # fmt: skip
    what, right, wrong = draw.rng.choice(
        [("order number", order, customer), ("customer number", customer, order)]
    )
    return _asked("extract", f"What is the {what} in this message?\n\n{message}", str(right),
                  str(wrong), "wrong result")  # fmt: skip


def unsaid(draw: Draw) -> Item:
    """Ask for what a text does not say."""
    (name,), (city,) = draw.words(banks.NAMES, 1), draw.words(banks.CITIES, 1)
    room = draw.one(banks.ROOMS)
    said = f"{name} moved to {city} in {draw.one(banks.MONTHS)} and painted the {room}."
    what, made_up = draw.rng.choice([
        ("phone number", str(draw.rng.randint(200_000, 999_999))),
        ("age", str(draw.rng.randint(19, 78))),
        ("favourite colour", draw.one(["blue", "green", "red", "yellow"])),
    ])  # fmt: skip
    question = f"{said}\n\nAccording to this text, what is {name}'s {what}?"
    return _asked("unsaid", question, f"The text does not say what {name}'s {what} is.",
                  f"{name}'s {what} is {made_up}.", "made up")  # fmt: skip


def mood(draw: Draw) -> Item:
    """Tell praise from blame in one word."""
    (thing,) = draw.words(banks.THINGS, 1)
    right, wrong = draw.rng.sample(["positive", "negative"], 2)
    review = f"The {thing} {draw.one(banks.PRAISE if right == 'positive' else banks.BLAME)}."
    question = f"Is this review positive or negative? Answer with one word.\n\n{review}"
    if draw.rng.random() < 0.5:
        return _asked("mood", question, right, wrong, "wrong result")
    talk = f"After reading the review carefully, I would say that it is {right}."
    return _asked("mood", question, right, talk, "talk around the answer")


def polite(draw: Draw) -> Item:
    """Turn an order into a request."""
    request = draw.one(banks.REQUESTS)
    (name,) = draw.words(banks.NAMES, 1)
    question = f"Make this polite, in one sentence: {name}, {request}!"
    return _asked("polite", question, f"{name}, could you please {request}?",
                  f"{name}, {request} now, please!", "not what was asked")  # fmt: skip


def note(draw: Draw) -> Item:
    """Write a note that moves an event, with the reason."""
    (name,) = draw.words(banks.NAMES, 1)
    old, new, other = draw.rng.sample(banks.DAYS, 3)
    event, reason = draw.one(banks.EVENTS), draw.one(banks.REASONS)
    question = (f"Write a note of two sentences to {name}: the {event} moves from {old} to {new} "
                f"because {reason}.")  # fmt: skip
    right = f"Dear {name}, the {event} moves from {old} to {new}. The reason is that {reason}."
    wrong, flaw = draw.rng.choice([
        (f"Dear {name}, the {event} moves from {old} to {new}. I hope you are well.", "left out"),
        (right.replace(f"to {new}", f"to {other}"), "wrong result"),
    ])  # fmt: skip
    return _asked("note", question, right, wrong, flaw)


def day(draw: Draw) -> Item:
    """Count days on from a day of the week."""
    start, steps = draw.rng.randrange(7), draw.rng.randint(2, 20)
    right = banks.DAYS[(start + steps) % 7]
    wrong = banks.DAYS[(start + steps + draw.rng.choice((-1, 1))) % 7]
    question = f"Today is {banks.DAYS[start]}. Which day is it in {steps} days?"
    return _asked("day", question, f"In {steps} days it is {right}.",
                  f"In {steps} days it is {wrong}.", "wrong result")  # fmt: skip


def opposite(draw: Draw) -> Item:
    """Name the opposite of a word, in a second turn after one that was answered."""
    pairs = [pair.split() for pair in banks.OPPOSITES.split(";")]
    (word, right), (other, answer) = draw.rng.sample(pairs, 2)
    turns = (("user", f"What is the opposite of {other}?"), ("assistant", answer),
             ("user", f"And of {word}?"))  # fmt: skip
    return Item(kind="opposite", turns=turns, chosen=right, rejected=word, flaw="wrong result")


def backwards(draw: Draw) -> Item:
    """Turn a sorted list round, in a second turn."""
    words = draw.things(4)
    right = sorted(words)
    turns = (("user", f"Sort these words from A to Z: {', '.join(words)}."),
             ("assistant", ", ".join(right)), ("user", "Now the other way round."))  # fmt: skip
    return Item(kind="backwards", turns=turns, chosen=", ".join(right[::-1]),
                rejected=", ".join(right), flaw="not what was asked")  # fmt: skip


KINDS: tuple[Callable[[Draw], Item], ...] = (
    sort, longest, count, convert, problem, as_json, bullets, extract, unsaid, mood, polite, note,
    day, opposite, backwards,
)  # fmt: skip
