"""Languages: told offline, by letters where those decide; English left in Russian text is found."""

import pytest

from labkit.datasets.corpus import language

TEXTS = {
    "ru": "Каждый вечер старый мастер закрывал двери лавки и шёл вдоль реки домой.",
    "uk": "Щовечора старий майстер зачиняв двері крамниці і йшов уздовж річки додому.",
    "bg": "Всяка вечер старият майстор затваряше вратите на магазина и тръгваше по реката.",
    "kk": "Ескі шебер күн сайын кешке дүкеннің есігін жауып, өзен бойымен үйіне қайтатын.",
    "en": "Every evening the old craftsman closed the doors of his shop and walked home.",
    "de": "Jeden Abend schloss der alte Meister die Türen seines Ladens und ging nach Hause.",
    "fr": "Chaque soir, le vieux maître fermait les portes de sa boutique et rentrait chez lui.",
    "es": "Cada noche el viejo maestro cerraba las puertas de su tienda y caminaba a su casa.",
}


@pytest.mark.parametrize("code", TEXTS)
def test_languages_are_told(code: str) -> None:
    found, confidence = language.identify(TEXTS[code])
    assert found == code and confidence > 0.5


def test_short_text_is_not_guessed() -> None:
    assert language.identify("ok, 12 345 !") == ("und", 0.0)


def test_letters_decide_before_the_model_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "_identifier", lambda: pytest.fail("asked"))
    assert language.identify(TEXTS["ru"]) == ("ru", 1.0)
    assert (
        language.identify("The colour of the wall and of the door is that of the sea.")[0] == "en"
    )


@pytest.mark.parametrize(("paragraph", "left_in"), [
    (TEXTS["en"], True), (TEXTS["ru"], False), ("Команда `the` и `of` из набора the tools", False),
    ("apt-get install --no-install-recommends debian-faq", False),
    ("the end of it", True),
])  # fmt: skip
def test_english_prose_in_russian_text(paragraph: str, left_in: bool) -> None:
    assert language.foreign(paragraph, "ru") is left_in
    assert not language.foreign(paragraph, "en")
