"""Instructions: lists of questions are told from texts that ask something in passing."""

import pytest

from labkit.datasets.corpus.instructions import WORDINGS, from_title, questions

FAQ = """Часто задаваемые вопросы.

1.1. Что такое Debian?

Операционная система.
Она свободна.

1.2. Кто её делает?

Добровольцы."""


def test_questions_with_what_stands_below_them() -> None:
    assert questions(FAQ) == [
        (("user", "Что такое Debian?"), ("assistant", "Операционная система.\nОна свободна.")),
        (("user", "Кто её делает?"), ("assistant", "Добровольцы.")),
    ]


@pytest.mark.parametrize("text", [
    "What is it? Nobody knows, and why should they. Who could tell?\n\nNobody.",
    "Who is there?\n\nIt is me.",
    "Who?\nWhat?\nWhere?\n",
    f"{'x ' * 130}?\n\nOne.\n\n{'y ' * 130}?\n\nTwo.",
])  # fmt: skip
def test_other_texts_are_no_such_list(text: str) -> None:
    assert questions(text) == []


@pytest.mark.parametrize("language", ["ru", "en", "de"])
def test_every_wording_asks_for_the_title(language: str) -> None:
    wordings = {from_title("Old bridges", "Text.", language, choice)[0] for choice in range(8)}
    assert len(wordings) == len(WORDINGS.get(language, WORDINGS["en"]))
    assert all("Old bridges" in content and role == "user" for role, content in wordings)
    assert from_title("Old bridges", "Text.", language, 0)[1] == ("assistant", "Text.")
