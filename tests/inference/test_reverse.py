"""Instructions written backwards: what stays, what is refused, and going on where it stopped."""

import json

import pytest

from labkit.errors import LabkitError
from labkit.inference import reverse as reversing

ENGLISH = "The old bridge leads over the river to the quiet part of the town."
RUSSIAN = "Старый мост ведёт через реку в тихую часть города, где никто не спешит."
GOOD = {"en": "Describe where the bridge of this town leads.",
        "ru": "Расскажи, куда ведёт мост в этом городе."}  # fmt: skip


def rows(count=3):
    return [
        {"id": f"r{n}", "text": f"{RUSSIAN if n % 2 else ENGLISH} {n}", "title": "Bridge",
         "form": "text", "language": "ru" if n % 2 else "en", "licence": "CC0-1.0"}
        for n in range(count)
    ]  # fmt: skip


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows()))
    return file


def good(examples):
    return [GOOD["ru" if "Ниже" in each.messages[0]["content"] else "en"] for each in examples]


def test_a_row_is_the_request_and_the_text_as_it_was(source, tmp_path):
    found = reversing.reverse(source, tmp_path / "out.jsonl", good)
    assert found == reversing.Reversed(written=3, refused={})
    for row, line in zip(rows(), (tmp_path / "out.jsonl").read_text().splitlines(), strict=True):
        made = json.loads(line)
        assert made["messages"] == [{"role": "user", "content": GOOD[row["language"]]},
                                    {"role": "assistant", "content": row["text"]}]  # fmt: skip
        assert (made["id"], made["licence"]) == (row["id"], "CC0-1.0") and "text" not in made
    assert not (tmp_path / "out.jsonl.part").exists()


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (GOOD["en"], ""),
        ("Bridge?", "not 3 to 60 words"),
        ("word " * 61, "not 3 to 60 words"),
        ("Write about it.\nHere is the text:", "more than a line"),
        ("Say that the old bridge leads over the river to the sea.", "copied from the text"),
        (GOOD["ru"], "in another script"),
    ],
)
def test_what_cannot_be_a_request_is_refused_with_its_reason(request_, says):
    assert reversing.why_not(request_, rows()[0]) == says


def test_a_call_that_was_cut_off_goes_on(source, tmp_path, monkeypatch):
    monkeypatch.setattr(reversing, "AT_ONCE", 1)
    asked = []

    def once(examples):
        if asked:
            raise KeyboardInterrupt
        asked.extend(examples)
        return good(examples)

    out = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        reversing.reverse(source, out, once)
    assert not out.exists()
    later = []
    reversing.reverse(source, out, lambda examples: later.extend(examples) or good(examples))
    assert len(asked) == 1 and len(later) == 2 and len(out.read_text().splitlines()) == 3


def test_what_cannot_be_done_is_a_sentence(source, tmp_path):
    out = tmp_path / "out.jsonl"
    with pytest.raises(LabkitError, match="there is no file"):
        reversing.reverse(tmp_path / "nothing", out, good)
    with pytest.raises(LabkitError, match="no text was given a request that can stand"):
        reversing.reverse(source, out, lambda examples: ["?"] * len(examples))
    assert not out.exists()
    (tmp_path / "out.jsonl.part").write_text('{"of": "x", "request": "", "why": ""}\n')
    with pytest.raises(LabkitError, match=r"out.jsonl.part is of other texts"):
        reversing.reverse(source, out, good)
    source.write_text('{"messages": []}\n')
    with pytest.raises(LabkitError, match=r"train.jsonl:1 has no text: build with --form text"):
        reversing.reverse(source, tmp_path / "new.jsonl", good)
    source.rename(out)
    with pytest.raises(LabkitError, match="exists: name a new file"):
        reversing.reverse(source, out, good)


def test_a_model_of_ours_is_asked(source, tmp_path, tiny_llama):
    ask = reversing.asking(str(tiny_llama))
    found = ask([reversing._question(row, n) for n, row in enumerate(rows())])
    assert len(found) == 3 and all(isinstance(each, str) for each in found)
