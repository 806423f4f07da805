"""Instructions written backwards: what stays, what is refused, and going on where it stopped."""

import json
import shutil

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


def cut_off(source, out, monkeypatch, **options):
    """Leave the first row of three in OUT.part; return what was asked."""
    monkeypatch.setattr(reversing, "AT_ONCE", 1)
    asked = []

    def once(examples):
        if asked:
            raise KeyboardInterrupt
        asked.extend(examples)
        return good(examples)

    with pytest.raises(KeyboardInterrupt):
        reversing.reverse(source, out, once, **options)
    return asked


def test_a_call_that_was_cut_off_goes_on(source, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    asked = cut_off(source, out, monkeypatch)
    assert not out.exists()
    later = []
    reversing.reverse(source, out, lambda examples: later.extend(examples) or good(examples))
    assert len(asked) == 1 and len(later) == 2 and len(out.read_text().splitlines()) == 3


@pytest.mark.parametrize("with_id", [True, False])
def test_what_was_written_to_other_texts_is_never_paired_with_these(
    source, tmp_path, monkeypatch, with_id
):
    given = rows() if with_id else [{"text": row["text"]} for row in rows()]
    source.write_text("".join(json.dumps(row) + "\n" for row in given))
    out = tmp_path / "out.jsonl"
    cut_off(source, out, monkeypatch)
    given[0]["text"] = "Interest rates were raised by the central bank in autumn."
    source.write_text("".join(json.dumps(row) + "\n" for row in given))
    with pytest.raises(LabkitError, match=r"out.jsonl.part is of other texts: remove it"):
        reversing.reverse(source, out, good)
    assert not out.exists()


def test_what_one_model_wrote_another_does_not_go_on_with(source, tmp_path, monkeypatch):
    out, first = tmp_path / "out.jsonl", {"model": "a", "server": "http://127.0.0.1:1/v1"}
    cut_off(source, out, monkeypatch, asked=first)
    for other in ({**first, "model": "b"}, {**first, "server": "http://127.0.0.1:2/v1"}, {}):
        with pytest.raises(LabkitError, match=r"out.jsonl.part is of another model"):
            reversing.reverse(source, out, good, asked=other)
    assert reversing.reverse(source, out, good, asked=first).written == 3


def test_where_no_request_stands_the_next_call_asks_again(source, tmp_path):
    out = tmp_path / "out.jsonl"
    with pytest.raises(LabkitError, match=r"another model.* in .*out.jsonl.refused"):
        reversing.reverse(source, out, lambda examples: ["?"] * len(examples))
    assert '"?"' in (tmp_path / "out.jsonl.refused").read_text()
    assert reversing.reverse(source, out, good, asked={"model": "another"}).written == 3


def test_a_model_of_ours_is_told_by_its_weights(tmp_path, tiny_llama):
    copy = tmp_path / "model"
    shutil.copytree(tiny_llama, copy)
    before = reversing.identity(str(copy))
    (weights,) = copy.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert reversing.identity(str(copy)) != before
    served = reversing.identity("m", "http://127.0.0.1:1/v1/")
    assert served == reversing.identity("m", "http://127.0.0.1:1/v1")


def test_what_cannot_be_done_is_a_sentence(source, tmp_path):
    out = tmp_path / "out.jsonl"
    with pytest.raises(LabkitError, match="there is no file"):
        reversing.reverse(tmp_path / "nothing", out, good)
    with pytest.raises(LabkitError, match="no text was given a request that can stand"):
        reversing.reverse(source, out, lambda examples: ["?"] * len(examples))
    assert not out.exists()
    for other in ("", "[]\n", '{"of": "x", "request": "", "why": ""}\n', '{"asked": {}}\n[1]\n'):
        (tmp_path / "out.jsonl.part").write_text(other)
        with pytest.raises(LabkitError, match=r"out.jsonl.part is of (other texts|another model)"):
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
