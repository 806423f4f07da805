"""Mask personal data: what names a person or lets one be reached or charged.

Mail addresses and public IP addresses are masked in FineWeb (Penedo et al. 2024); telephone
numbers, payment cards, IBANs and Russian SNILS, INN and passport numbers are added here. A number
is masked when its form says what it is (+7 …, (495) 123-45-67), its check digits hold (Luhn for
cards, ISO 7064 for IBANs, the SNILS sum) or a word before it names it (паспорт, ИНН). Sums, years,
versions of three parts and ISBNs stay. Names of people stay: to find them takes a model.
"""

import ipaddress
import re
from collections import Counter

from labkit.datasets.corpus.characters import DIGIT, has

_MAIL = re.compile(r"[A-Za-z0-9][\w.+-]*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}")
_NUMBER = re.compile(r"(?<![\w.,+-])(?:\+|\()?\d[\d ().-]{5,}\d(?![\w-]|\.\d)")
_IBAN_COUNTRIES = {
    15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
}  # fmt: skip
"""Characters of a country's numbers: SWIFT's IBAN registry (ISO 13616). Others use such numbers
too, of which what is written in groups of four or without a space is taken whole."""
_IBAN = re.compile(r"\b(?:" + "|".join([
    *(rf"(?:{names.replace(' ', '|')})\d{{2}}(?: ?[A-Z0-9]){{{length - 4}}}"
      for length, names in _IBAN_COUNTRIES.items()),
    rf"(?!{'|'.join(_IBAN_COUNTRIES.values()).replace(' ', '|')})"
    r"[A-Z]{2}\d{2}(?:[A-Z0-9]{11,30}|(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,4})?)",
]) + r")\b")  # fmt: skip
_NAMED = re.compile(
    r"(?i)\b(?P<word>паспорт\w*|ИНН|passport)(?P<between>[\s:№]{1,3}(?:серии |номер |no\.? )?)"
    r"(?P<number>\d{2} ?\d{2}[ №]{0,3}\d{6}|\d{10,12}|[A-Z]?\d{8,9})\b"
)
_PHONES = re.compile(
    r"\+\d[\d ().-]{8,17}|[78][ -]?\(?\d{3}\)?[ -]\d{3}[ -]?\d{2}[ -]?\d{2}"
    r"|\(\d{3}\) ?\d{3}-?\d{2}-?\d{2}|\d{3}[-.]\d{3}[-.]\d{4}"
)
_SNILS = re.compile(r"\d{3}-\d{3}-\d{3}[ -]\d{2}")
_CARD = re.compile(r"\d{4}([ -]?)\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{5}")


def mask(text: str) -> tuple[str, Counter[str]]:
    """Return the text with personal data replaced by [EMAIL], [PHONE] …, and counts by kind."""
    found: Counter[str] = Counter()

    def masked(kind: str) -> str:
        found[kind] += 1
        return f"[{kind.upper()}]"

    def number(match: re.Match[str]) -> str:
        written = match[0]
        before = "(" if written[0] == "(" and written.count("(") > written.count(")") else ""
        kind = kind_of(written.removeprefix(before))
        return before + masked(kind) if kind else written

    def named(match: re.Match[str]) -> str:
        kind = "inn" if match["word"].lower() == "инн" else "passport"
        return match["word"] + match["between"] + masked(kind)

    if "@" in text:
        text = _MAIL.sub(lambda _: masked("email"), text)
    if has(text, DIGIT):
        low = text.lower()
        if "паспорт" in low or "инн" in low or "passport" in low:
            text = _NAMED.sub(named, text)
        text = _IBAN.sub(lambda m: masked("iban") if _is_iban(m[0]) else m[0], text)
        text = _NUMBER.sub(number, text)
    return text, found


def kind_of(number: str) -> str:
    """Return what a written number is: card, snils, ip, phone, or "" for none of those."""
    digits = [int(c) for c in number if c.isdigit()]
    if _SNILS.fullmatch(number) and _is_snils(digits):
        return "snils"
    if _CARD.fullmatch(number) and 13 <= len(digits) <= 19 and _luhn(digits):
        return "card"
    if number.count(".") == 3 and not set(number) - set("0123456789."):
        return "ip" if _is_public(number) else ""
    if _PHONES.fullmatch(number) and 10 <= len(digits) <= 15:
        return "phone"
    return ""


def _luhn(digits: list[int]) -> bool:
    doubled = [d * 2 - 9 * (d > 4) for d in digits[-2::-2]]
    return digits[0] > 0 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_snils(digits: list[int]) -> bool:
    total = sum(weight * d for weight, d in zip(range(9, 0, -1), digits, strict=False)) % 101
    return total % 100 == digits[9] * 10 + digits[10]


def _is_iban(text: str) -> bool:
    compact = text.replace(" ", "")
    moved = compact[4:] + compact[:4]
    return int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def _is_public(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False
