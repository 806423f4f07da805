"""Sentences about films: three formats read, splits by words, damage named by its line."""

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from labkit.datasets import registry, sentiment
from labkit.errors import LabkitError

RATED = (
    (2.5, "A splendid film ."),
    (-3.25, "Dull from the first minute to the last ."),
    (0.4, "It has two hours ."),
    (1.0, "Good enough , some say ."),
    (1.2, "Caf\u00e9 scenes charm ."),
)


@pytest.fixture
def rated(tmp_path: Path) -> Path:
    """A file as the distribution has it: number, mean rating, sentence; lines end in CR LF."""
    file = tmp_path / "rated.txt"
    lines = [f"{n}\t{rating}\t{text}" for n, (rating, text) in enumerate(RATED, start=1)]
    file.write_bytes(("\r\n".join(lines) + "\r\n").encode())
    return file


def test_clear_sentences_are_examples_and_others_are_left_out(rated: Path) -> None:
    dataset, path = registry.find(f"reviews:{rated}")
    found = dataset.load(path, "all")
    assert [(e.messages[0]["content"], e.answer) for e in found] == [
        ("sst2 sentence: A splendid film .", "positive"),
        ("sst2 sentence: Dull from the first minute to the last .", "negative"),
        ("sst2 sentence: Caf\u00e9 scenes charm .", "positive"),
    ]
    assert dataset.task == "seq2seq"
    assert dataset.score(found[0], "Positive") == {"em": 1.0, "f1": 1.0}
    assert dataset.score(found[0], "negative")["em"] == 0.0


def test_every_sentence_is_in_one_split_and_one_that_is_there_twice_counts_once(
    tmp_path: Path,
) -> None:
    file = tmp_path / "many.txt"
    texts = [f"Sentence number {n} about a film ." for n in range(300)]
    rows = [f"{n}\t{2 if n % 2 else -2}\t{text}" for n, text in enumerate(texts)]
    again = [row.replace("Sentence", "sentence  ") for row in rows[:40]]
    file.write_text("\n".join(rows + again))
    parts = {name: sentiment.load_reviews(str(file), name) for name in ("train", "dev", "test")}
    uids = [e.uid for part in parts.values() for e in part]
    assert len(uids) == len(set(uids)) == len(sentiment.load_reviews(str(file), "all")) == 300
    # 8 : 1 : 1 of 300; three standard deviations of a binomial are 21 and 16.
    assert abs(len(parts["train"]) - 240) < 21
    assert all(abs(len(parts[name]) - 30) < 16 for name in ("dev", "test"))
    # What else the file holds moves no sentence.
    file.write_text("\n".join(rows[:7]))
    for name, part in parts.items():
        assert {e.uid for e in sentiment.load_reviews(str(file), name)} <= {e.uid for e in part}


def test_other_answers_are_other_data(rated: Path) -> None:
    dataset, path = registry.find(f"reviews:{rated}")
    before = dataset.sha256(path, "all")
    assert dataset.sha256(path, "all") == before
    rated.write_text(rated.read_text().replace("-3.25", "3.25"))
    assert dataset.sha256(path, "all") != before


@pytest.fixture
def sst2(tmp_path: Path) -> Path:
    folder = tmp_path / "SST-2"
    folder.mkdir()
    rows = [f"a fine film number {n} \t{n % 2}" for n in range(200)]
    (folder / "train.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    (folder / "dev.tsv").write_text("sentence\tlabel\nunlike the others \t0\nas good \t1\n")
    return folder


def test_sst2_is_read_from_glue_s_folder(sst2: Path) -> None:
    train, dev, test = (sentiment.load_sst2(str(sst2), n) for n in ("train", "dev", "test"))
    assert len(train) + len(dev) == 200 and 1 <= len(dev) <= 25
    assert not {e.uid for e in train} & {e.uid for e in dev}
    assert [(e.messages[0]["content"], e.answer) for e in test] == [
        ("sst2 sentence: unlike the others", "negative"), ("sst2 sentence: as good", "positive"),
    ]  # fmt: skip
    assert len(sentiment.load_sst2(str(sst2), "all")) == 202


@pytest.fixture
def imdb(tmp_path: Path) -> Path:
    folder = tmp_path / "aclImdb"
    for part in ("train", "test"):
        for name in ("pos", "neg"):
            (folder / part / name).mkdir(parents=True)
            for n in range(60 if part == "train" else 2):
                text = f"{part} {name} {n}.<br /><br />Second   part."
                (folder / part / name / f"{n}_7.txt").write_text(text)
    return folder


def test_imdb_is_read_from_its_folder(imdb: Path) -> None:
    train, dev, test = (sentiment.load_imdb(str(imdb), n) for n in ("train", "dev", "test"))
    assert len(train) + len(dev) == 120 and len(dev) >= 1
    assert {(e.messages[0]["content"], e.answer) for e in test} == {
        (f"sst2 sentence: test {name} {n}. Second part.", answer)
        for name, answer in (("pos", "positive"), ("neg", "negative")) for n in (0, 1)
    }  # fmt: skip


@pytest.mark.parametrize(("content", "message"), [
    (b"1\t2.0\ta\n2\t2.0\n", "rated.txt: line 2 has 2 columns"),
    (b"1\t5.0\ta\n", "line 1: '5.0' is no rating from -4 to 4"),
    (b"1\tnan\ta\n", "line 1: 'nan' is no rating"),
    (b"1\tgood\ta\n", "line 1: 'good' is no rating"),
    (b"1\t2.0\t  \n", "line 1 has no sentence"),
    (b"1\t2.0\t\xe9\n", "is not UTF-8 text"),
])  # fmt: skip
def test_a_damaged_file_is_one_sentence_that_names_the_line(
    rated: Path, content: bytes, message: str
) -> None:
    rated.write_bytes(content)
    with pytest.raises(LabkitError, match=message) as caught:
        sentiment.load_reviews(str(rated), "all")
    assert "\n" not in str(caught.value)


def test_damage_of_the_others_is_one_sentence(sst2: Path, imdb: Path, tmp_path: Path) -> None:
    cases: list[tuple[Callable[[str, str], object], str, str]] = [
        (sentiment.load_sst2, str(tmp_path / "none"), "sst2:FOLDER"),
        (sentiment.load_imdb, "", "imdb:FOLDER"),
        (sentiment.load_reviews, str(tmp_path / "none"), "cannot be read: No such file"),
    ]
    (sst2 / "dev.tsv").write_text("sentence\tlabel\ngood\t2\n")
    cases.append((sentiment.load_sst2, str(sst2), "dev.tsv: line 2 is not a sentence"))
    for file in (imdb / "test" / "neg").iterdir():
        file.unlink()
    cases.append((sentiment.load_imdb, str(imdb), "has no .txt file"))
    for load, path, message in cases:
        with pytest.raises(LabkitError, match=message):
            load(path, "test")
    (sst2 / "train.tsv").write_text("good\t1\n")
    with pytest.raises(LabkitError, match=r"train.tsv: line 1 is not the heading"):
        sentiment.load_sst2(str(sst2), "train")
    with pytest.raises(LabkitError, match="there is no split 'tset'.*'test'"):
        sentiment.load_sst2(str(sst2), "tset")


def packed(files: dict[str, bytes]) -> bytes:
    """Return a .tar.gz of these files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A source distribution of ours where pip would get the real one, and an empty cache."""
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    files = {name: f"1\t2.0\t{name}\n".encode() for name in sentiment.SHA256}
    inner = packed({f"hutto_ICWSM_2014/{name}": content for name, content in files.items()})
    sdist = packed({sentiment.INNER: inner})
    for key, value in (
        ("SDIST_BYTES", len(sdist)),
        ("SDIST_SHA256", hashlib.sha256(sdist).hexdigest()),
        ("SHA256", {n: hashlib.sha256(c).hexdigest() for n, c in files.items()}),
    ):
        monkeypatch.setattr(sentiment, key, value)  # fmt: skip
    served = {"sdist": sdist}

    def pip_download(requirement: str, folder: Path, show: object, **options: object) -> None:
        assert requirement == sentiment.SDIST and options["source"] is True
        (folder / "vaderSentiment-3.3.2.tar.gz").write_bytes(served["sdist"])

    monkeypatch.setattr(sentiment, "pip_download", pip_download)
    return served


def test_what_is_fetched_is_verified_and_kept(
    index: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LabkitError, match="run `labkit fetch reviews` first"):
        sentiment.load_reviews("", "all")
    folder = sentiment.fetch_reviews(progress=False)
    assert {file.name for file in folder.iterdir()} == set(sentiment.SHA256)
    assert [e.messages[0]["content"] for e in sentiment.load_reviews("", "all")] == [
        f"{sentiment.TASK_WORDS}{sentiment.RATED}"
    ]
    monkeypatch.setattr(sentiment, "pip_download", None)  # asked again, nothing is downloaded
    assert sentiment.fetch_reviews(progress=False) == folder


def test_what_is_not_the_published_distribution_leaves_nothing(
    index: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = index["sdist"]
    index["sdist"] = right[:-1] + bytes([right[-1] ^ 1])
    with pytest.raises(LabkitError, match="is corrupt"):
        sentiment.fetch_reviews(progress=False)
    index["sdist"] = right
    monkeypatch.setitem(sentiment.SHA256, sentiment.RATED, "0" * 64)
    with pytest.raises(LabkitError, match="GroundTruth.txt is corrupt"):
        sentiment.fetch_reviews(progress=False)
    left = [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and "locks" not in p.parts]
    assert not left
