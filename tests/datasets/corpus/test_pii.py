"""Personal data: documented example numbers are masked, numbers that only look alike stay."""

import pytest

from labkit.datasets.corpus.pii import mask


@pytest.mark.parametrize(("secret", "kind"), [
    ("anna.ivanova+work@mail.example.org", "email"), ("a@b.co", "email"),
    ("+7 (495) 123-45-67", "phone"), ("8 (800) 555-35-35", "phone"), ("+44 20 7946 0958", "phone"),
    ("(202) 555-0143", "phone"), ("202-555-0143", "phone"), ("8-912-345-67-89", "phone"),
    ("4111 1111 1111 1111", "card"), ("5500-0000-0000-0004", "card"), ("378282246310005", "card"),
    ("112-233-445 95", "snils"), ("93.184.216.34", "ip"),
    ("GB82 WEST 1234 5698 7654 32", "iban"), ("DE89370400440532013000", "iban"),
    ("BE68 5390 0754 7034", "iban"), ("ES91 2100 0418 4502 0005 1332", "iban"),
    ("MA64011519000001205000534921", "iban"),
])  # fmt: skip
def test_what_names_a_person_is_masked(secret: str, kind: str) -> None:
    for around in ("{}", "Звоните: {}.", "({})", "see {}, please", "{}\n\nNext", "{} BIC AB"):
        if around == "({})" and secret.startswith("("):
            continue
        text, found = mask(around.format(secret))
        assert text == around.format(f"[{kind.upper()}]") and found == {kind: 1}


def test_each_of_two_accounts_is_masked() -> None:
    text = "BE68 5390 0754 7034 BE68539007547034, ES91 2100 0418 4502 0005 1332 BIC CAIXESBB"
    assert mask(text) == ("[IBAN] [IBAN], [IBAN] BIC CAIXESBB", {"iban": 3})


@pytest.mark.parametrize(("text", "masked"), [
    ("паспорт 45 06 123456", "паспорт [PASSPORT]"), ("ИНН: 7707083893", "ИНН: [INN]"),
    ("Passport No. 123456789", "Passport No. [PASSPORT]"),
])  # fmt: skip
def test_a_word_before_a_number_names_it(text: str, masked: str) -> None:
    assert mask(text)[0] == masked


@pytest.mark.parametrize("text", [
    "В 1987 году 1 200 000 000 человек", "10.0.0.1 and 127.0.0.1", "version 3.11.7", "2019-2020",
    "4111 1111 1111 1112", "112-233-445 96", "ISBN 978-5-17-118366-0", "12.10.2020", "3.14159265",
    "rows 1, 2, 3 and 4", "@property def f(self)", "GB82 WEST 1234 5698 7654 33",
    "x = 1234567890123", "999.999.999.999", "№ 7707083893",
])  # fmt: skip
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert mask(text) == (text, {})
