"""Turn documents into instructions: question and answer where there are some, else title and text.

A document in which at least two lines of their own end in a question mark, each with text before
the next one, is a list of questions with their answers. Any other is the answer to the request to
write about its title, worded one of several ways (LIMA and LongForm do so); one without a title
teaches nothing about being asked, and is left out.
"""

import re

from labkit.datasets.corpus.readers import Turns

QUESTION_CHARACTERS = 250
LEAST_QUESTIONS = 2

WORDINGS = {
    "ru": (
        "Напиши статью на тему «{}».",
        "Расскажи подробно: {}.",
        "Напиши текст под заголовком «{}».",
        "Что ты знаешь о теме «{}»? Ответь развёрнуто.",
    ),
    "en": (
        'Write an article titled "{}".',
        "Tell me in detail about: {}.",
        'Write a text under the heading "{}".',
        'What do you know about "{}"? Give a full answer.',
    ),
}
_NUMBERED = re.compile(
    r"^(?:\d{1,3}(?:\.\d{1,3}){0,3}[.)]|\d{1,3}(?:\.\d{1,3}){1,3}(?=\s)|[QВ][.:])\s*"
)


def questions(text: str) -> list[Turns]:
    """Return the questions of a text with what stands below each; none for any other text."""
    found: list[tuple[str, list[str]]] = []
    for line in text.split("\n"):
        stripped = line.strip()
        if stripped.endswith("?") and len(stripped) <= QUESTION_CHARACTERS:
            found.append((_NUMBERED.sub("", stripped), []))
        elif found:
            found[-1][1].append(line)
    pairs = [(question, "\n".join(body).strip()) for question, body in found]
    pairs = [(question, answer) for question, answer in pairs if answer]
    if len(pairs) < LEAST_QUESTIONS:
        return []
    return [(("user", question), ("assistant", answer)) for question, answer in pairs]


def from_title(title: str, text: str, language: str, choice: int) -> Turns:
    """Return the request to write about a title and the text; `choice` picks the wording."""
    wordings = WORDINGS.get(language, WORDINGS["en"])
    return (("user", wordings[choice % len(wordings)].format(title)), ("assistant", text))
