"""Write the data card: what a data set is of, what was removed and by which rule, with examples.

The front matter is that of a data set on the Hugging Face Hub, so that the folder can be put there
as it is. Every number is one of `build.json`'s.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from labkit.datasets.corpus.quality import RULES

SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"),
         (1e7, "1M<n<10M"), (1e8, "10M<n<100M"))  # fmt: skip
SAYS = {
    "empty": "no letter or digit left",
    "language": "not one of the languages asked for, or not surely",
    "no_instruction": "neither a title nor questions with answers",
    "contaminated": "shares 13 words in a row with a test item (shorter parts: all of it)",
    "foreign_paragraph": "English prose in a Cyrillic text",
    "c4_line_few_words": "fewer than three words",
    "c4_line_long_word": "a word of more than 1,000 characters",
    "c4_line_javascript": "the word javascript",
    "c4_line_policy": "terms of use, privacy or cookies",
}
FORMS = {"question": "question and answer, from a list of them",
         "conversation": "question and answer, or more turns, as the source has them",
         "title": "title and text, asked for in words of ours", "text": "running text"}  # fmt: skip


def render(report: Mapping[str, Any]) -> str:
    """Return the card of a build, as Markdown with front matter."""
    settings = report["settings"]
    total = sum(report["records"].values())
    parts = [
        _front_matter(report, total),
        f"# {' + '.join(report['sources'])}\n",
        f"{total:,} records, {report['characters']:,} characters, made by `labkit build-dataset` "
        f"(seed {settings['seed']}) from {report['files']:,} files.\n",
        "## Splits\n\nBy source: what came from one document, or was asked in the same words, is "
        "in one split.\n",
        _table(("split", "records", "file", "sha256"), [
            (split, f"{count:,}", file, f"`{report['sha256'][file]}`" if count else "")
            for split, count in report["records"].items()
            for file in [f"{split}.{'parquet' if settings['parquet'] else 'jsonl'}"]
        ]),
        "## What it is of\n",
        _table(("form", "records before de-duplication"),
               [(FORMS[form], f"{n:,}") for form, n in sorted(report["forms"].items())]),
        _table(("language", "records"), _counted(report["languages"])),
        "## Lengths\n",
        _histogram(report["lengths"]),
        "## From the sources to the records\n",
        _table(("step", "texts"), [
            ("read", f"{report['read']:,}"),
            *((f"removed by {name}", f"{n:,}") for name, n in _counted_raw(report["removed"])),
            ("records made of the rest", f"{sum(report['forms'].values()):,}"),
            ("removed as exact duplicates", f"{report['exact_duplicates']:,}"),
            (f"removed as near-duplicates (Jaccard {settings['near']:g} of 5-grams)",
             f"{report['near_duplicates']:,}"),
            ("kept", f"{total:,}"),
        ]),
        "## Filters\n",
        _filters(report),
        "## Lines, characters, personal data\n",
        _table(("what", "how many"), [
            *((f"line dropped: {SAYS.get(k, k)}", v) for k, v in _counted(report["lines"])),
            *((f"texts repaired: {k}", v) for k, v in _counted(report["repaired"])),
            *((f"masked: {k}", v) for k, v in _counted(report["masked"])),
        ]),
        "## Near-duplicates\n",
        *(f"Jaccard {e['likeness']:g}. Kept:\n\n{_quoted(e['kept'])}\nRemoved:\n\n"
          f"{_quoted(e['removed'])}" for e in report["near_examples"]),
        "## Contamination\n",
        _contamination(report["tests"]),
        "## Licences\n",
        _licences(report),
        "## What was not read\n",
        f"{report['refused']:,} files or places.\n",
        _table(("where", "why"), [tuple(each) for each in report["refused_places"][:50]]),
    ]  # fmt: skip
    return "\n".join(part for part in parts if part)


def _front_matter(report: Mapping[str, Any], total: int) -> str:
    settings = report["settings"]
    size = next((name for most, name in SIZES if total < most), "n>100M")
    kinds = "parquet" if settings["parquet"] else "jsonl"
    names = {"train": "train", "dev": "validation", "test": "test"}
    values: dict[str, Any] = {
        "language": [code for code in sorted(report["languages"]) if code != "und"],
        "license": settings["licence"].lower() or "other",
        "size_categories": [size],
        "task_categories": ["text-generation"],
        "configs": [{"config_name": "default", "data_files": [
            {"split": names[split], "path": f"{split}.{kinds}"}
            for split, count in report["records"].items() if count
        ]}],
    }  # fmt: skip
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---\n"


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [[_cell(value) for value in row] for row in rows]
    if not lines:
        return "None.\n"
    bars = [list(head), ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in bars)


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _counted_raw(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))


def _counted(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    return [(name, f"{count:,}") for name, count in _counted_raw(counts) if count]


def _histogram(lengths: Mapping[str, int]) -> str:
    most = max(lengths.values(), default=1)
    rows = [f"{int(low):>9,} {count:>9,} {'#' * max(1, round(40 * count / most))}"
            for low, count in sorted(lengths.items(), key=lambda each: int(each[0]))]  # fmt: skip
    return (
        "```text\ncharacters   records (from that length to twice as many)\n"
        + "\n".join(rows)
        + "\n```\n"
    )


def _filters(report: Mapping[str, Any]) -> str:
    rules = {rule.name: rule for rule in RULES}
    limits = report["settings"]["limits"]
    rows = []
    for name, count in _counted_raw(report["removed"]):
        says = SAYS.get(name, "")
        if rule := rules.get(name):
            says = f"{rule.says}: {'at least' if rule.at_least else 'at most'} {limits[name]:g}"
        rows.append((f"`{name}`", says, f"{count:,}", f"{report['removed_bytes'][name]:,}"))
    shown = "".join(
        f"\nRemoved by `{name}`:\n\n{_quoted(report['examples'][name][0][2])}"
        for name, _ in _counted_raw(report["removed"])
    )
    off = sorted(set(rules) - set(limits))
    says_off = f"\nSwitched off: {', '.join(off)}.\n" if off else ""
    return _table(("filter", "keeps", "removed", "bytes"), rows) + says_off + shown


def _quoted(text: str) -> str:
    return "".join(f"> {line}\n" for line in text.split("\n")) + "\n"


def _contamination(tests: Mapping[str, Any]) -> str:
    if not tests["names"]:
        return "No test was kept out.\n"
    found = tests["found"]
    named = "".join(f"- {name}\n" for name in found[:20])
    return (
        f"Kept out: {', '.join(tests['names'])}, {tests['items']:,} items, of which "
        f"{tests['unchecked']:,} have no part of eight words and could not be looked for. "
        f"Found in the sources, and removed with the texts: {len(found):,} items.\n\n{named}"
    )


def _licences(report: Mapping[str, Any]) -> str:
    named = [(name or "not stated", count) for name, count in _counted(report["licences"])]
    files = [(each["file"], f"`{each['sha256']}`") for each in report["licence_files"]]
    return _table(("licence, by record", "records before de-duplication"), named) + (
        "\n" + _table(("licence file", "sha256"), files) if files else ""
    )
