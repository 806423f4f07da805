"""Words for the synthetic corpus: stems and endings, so that a few lines make thousands of forms.

The sentences made of them mean nothing, but their letters, words and endings are those of the
language, which is all that language identification, filters and n-grams look at.
"""

_NOUNS_RU = (
    "город стол завод народ язык вопрос ответ закон поезд мост сад берег ветер голос дом остров "
    "замок рынок праздник учебник мастер писатель строитель музей театр вокзал магазин журнал"
)
_NOUNS_RU_A = (
    "рек гор школ улиц книг стран машин работ картин дорог вод земл зим весн комнат газет "
    "станци истори территори библиотек крепост деревн площад област площадк традици систем"
)
_ADJECTIVES_RU = (
    "стар нов больш мал красив известн древн широк узк глубок светл тёмн тих громк северн южн "
    "восточн западн деревянн каменн железн зелён красн бел чёрн важн народн местн главн особ"
)
_VERBS_RU = (
    "строи говори ходи носи вози люби виде слыша писа чита дела зна дума работа гуля игра "
    "рассказыва показыва открыва закрыва поднима спуска находи проходи приходи уходи смотре"
)
_OTHER_RU = (
    "и и и и в в в не не на на что с "
    "и в не на что с как это но по из у за от так же для или когда где потом здесь там всегда "
    "иногда очень ещё уже только после перед между через около вместе часто почти также этот эти"
)

_NOUNS_EN = (
    "house river town street school book table garden market bridge station letter question "
    "answer window mountain island teacher student worker builder story village winter summer "
    "morning evening machine engine paper picture museum theatre journal forest field harbour "
    "castle kitchen library doctor farmer sailor lesson number system country region tradition"
)
_ADJECTIVES_EN = (
    "old new large small quiet loud bright dark narrow wide deep famous ancient wooden green "
    "white black northern southern eastern western local public early late simple common strange"
)
_VERBS_EN = (
    "build walk open close follow watch visit paint carry remember describe explain discover "
    "collect repair gather answer listen travel return produce deliver measure protect notice"
)
_OTHER_EN = (
    "the the the the of of of and and and to to in in that with from are this "
    "the be to of and that have with a in is it for on as was at by this from or which but not "
    "are they there when where often always never very still also between after before around"
)

_OTHER_DE = (
    "der die das und ist nicht ein eine mit von zu auf für sich dem den auch nach wird bei einer "
    "aus noch wie durch aber haben wurde zwischen immer wieder unter gegen"
)
_NOUNS_DE = (
    "Haus Fluss Stadt Straße Schule Buch Tisch Garten Markt Brücke Bahnhof Brief Frage Antwort "
    "Fenster Gebirge Insel Lehrer Schüler Arbeiter Geschichte Dorf Winter Sommer Morgen Abend"
)


def _with(stems: str, endings: str) -> list[str]:
    return [stem + ending.strip("-") for stem in stems.split() for ending in endings.split()]


VOCABULARY: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ru": (
        tuple(_OTHER_RU.split()),
        tuple(
            dict.fromkeys(
                _with(_NOUNS_RU, "- а у ом е ы ов ам ами ах")
                + _with(_NOUNS_RU_A, "а ы у ой ам ами ах")
                + _with(_ADJECTIVES_RU, "ый ая ое ые ого ому ым ых ую ой")
                + _with(_VERBS_RU, "т л ла ли ть")
            )
        ),
    ),
    "en": (
        tuple(_OTHER_EN.split()),
        tuple(
            dict.fromkeys(
                _with(_NOUNS_EN, "- s")
                + _with(_ADJECTIVES_EN, "- ly")
                + _with(_VERBS_EN, "- s ed ing er")
            )
        ),
    ),
    "de": (tuple(_OTHER_DE.split()), tuple(_with(_NOUNS_DE, "- s n"))),
}
"""By language: words that hold a sentence together, and words that it is about."""

HEADINGS = {
    "ru": ("Записки", "Заметки", "Рассказ", "Очерк", "Письма", "Обзор"),
    "en": ("Notes", "Remarks", "A story", "An essay", "Letters", "A survey"),
}
QUESTIONS = {
    "ru": ("Что такое {}", "Как устроен {}", "Зачем нужен {}", "Где находится {}"),
    "en": ("What is the {}", "How does the {} work", "Why is there a {}", "Where is the {}"),
}
