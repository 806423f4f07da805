"""Characters: what was read by a wrong table is repaired, what is right stays."""

import pytest

from labkit.datasets.corpus.normalise import normalise, one_script

RUSSIAN = "Съешь же ещё этих мягких французских булок да выпей чаю, говорил старый мастер."


@pytest.mark.parametrize(("right", "wrong"), [
    ("utf-8", "latin-1"), ("utf-8", "cp1251"), ("cp1251", "latin-1"), ("cp1251", "cp1252"),
    ("koi8-r", "latin-1"),
])  # fmt: skip
def test_mojibake_is_repaired(right: str, wrong: str) -> None:
    broken = RUSSIAN.encode(right).decode(wrong, "strict")
    assert broken != RUSSIAN
    text, repaired = normalise(f"{broken}\n{RUSSIAN}\nPlain.")
    assert text == f"{RUSSIAN}\n{RUSSIAN}\nPlain." and repaired["mojibake"] == 1


@pytest.mark.parametrize("text", [
    RUSSIAN, "Où est l'élève ? Déjà parti, à Nîmes.", "Über Straßen und Flüsse, größer als Öl.",
    "Їжак і ґанок: що з'їв їжачок?", "Ђурђевак и њива, љубав и џез.", "Þetta er íslenska, ó já.",
    "«Да», — сказал он. № 5, 20 °C, 3×4 ± 1", "СССР и США", "Kraków, żółć, ĄĘ", "ÀÉÎÕÜ",
])  # fmt: skip
def test_right_text_stays(text: str) -> None:
    assert normalise(text) == (text, {})


@pytest.mark.parametrize(("raw", "clean"), [
    ("“Quoted” and ‘so’", "\"Quoted\" and 'so'"),
    ("co\u00adop\u200beration", "cooperation"),
    ("e\u0301te\u0301", "été"),
    ("Tom &amp; Jerry &#8212; &laquo;да&raquo;", "Tom & Jerry — «да»"),
    ("one\r\ntwo\rthree", "one\ntwo\nthree"),
    ("a \u00a0 b\t\tc  \n\n\n\n  d", "a b c\n\n d"),
    ("bell\x07 and null\x00", "bell and null"),
    ("pair \ud83d\ude00 half \ud83d", "pair 😀 half �"),
    ("cлoвo", "слово"),
])  # fmt: skip
def test_small_repairs(raw: str, clean: str) -> None:
    assert normalise(raw)[0] == clean


CODE = "```python\ndef f(x):\n    if x:\n\treturn  1\n\n\n    return 2\n```"


def test_code_between_fences_keeps_its_layout() -> None:
    assert normalise(f"Some  text:\n\n{CODE}  \n\n\n\n and   more")[0] == (
        f"Some text:\n\n{CODE}\n\n and more"
    )


@pytest.mark.parametrize("text", [
    "~~~\nx  = 1\n~~~", "> ```\n>   x\n> ```", "````\n```\n  x\n````\nend",
    "```\n  a\n``` b\n  c\n```\nend", "- ```sh\n  ls   -l\n  ```",
])  # fmt: skip
def test_fences_are_those_of_commonmark(text: str) -> None:
    assert normalise(text)[0] == text
    for prose in ("a  b", "Title\n~~~~~\n\na  b"):
        assert normalise(f"{prose}\n\n{text}")[0].endswith(f"a b\n\n{text}")
    for prose in ("Title\n~~~~~\n\na  b", "```x\na  b", "> ```\n> a\n\na  b"):
        assert normalise(f"{text}\n\n{prose}")[0].endswith("a b")


@pytest.mark.parametrize("text", [" " * 10**6, "\t" * 10**6, "\n```x\n" * 10**5])
def test_blanks_and_fences_are_looked_at_once(text: str) -> None:
    """This would take an hour where the rest is looked at for each of them."""
    assert normalise(f"a{text}b", layout=True)[0] == f"a{text}b"
    assert normalise(f"a{text}b")[0] == (f"a{text}b" if "x" in text else "a b")


def test_with_layout_all_of_it_stays_but_for_the_ends_of_lines() -> None:
    text = "a:\n  - b\n\t- c\n\n\n| d   |"
    assert normalise(f"\n{text} \n ", layout=True)[0] == text
    assert normalise("    x = 1 \u00a0\n", layout=True)[0] == "    x = 1"


@pytest.mark.parametrize("text", [RUSSIAN, f"a\n{CODE}\n\n\nb", "a  b \n\n\n c", "cлoвo “x”"])
def test_doing_it_twice_changes_nothing(text: str) -> None:
    once = normalise(text)[0]
    assert normalise(once) == (once, {})


@pytest.mark.parametrize(("word", "cyrillic_first", "written"), [
    ("Mосква", True, "Москва"), ("Москвa", False, "Москва"), ("scоre", True, "score"),
    ("сору", True, "сору"), ("cору", True, "сору"), ("cору", False, "copy"),
    ("xфайл", True, "хфайл"), ("wфайл", True, "wфайл"), ("USBшный", True, "USBшный"),
])  # fmt: skip
def test_a_word_is_written_in_one_script_where_it_can_be(
    word: str, cyrillic_first: bool, written: str
) -> None:
    assert one_script(word, cyrillic_first) == written
