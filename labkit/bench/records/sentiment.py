"""Full fine-tuning against methods that add to a frozen model, on an encoder-decoder.

    python -m labkit.bench.records.sentiment --output data/results/sentiment.json

fetches the rated review sentences, pretrains a small T5 on their text (`train.pretrain_t5`), trains
it by each method at two learning rates, takes the better one on the development split, and scores
it on the test split beside two yardsticks: a bag of words with logistic regression, and the more
frequent answer.

Nothing of the development or test split is in the text that the model is pretrained on.
"""

import argparse
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from labkit import stats
from labkit.console import say
from labkit.datasets import sentiment
from labkit.datasets.base import Example
from labkit.files import write_json
from labkit.inference.evaluate import evaluate
from labkit.machine.hardware import describe
from labkit.methods import METHODS, in_training
from labkit.runs import records
from labkit.runs.config import RunConfig
from labkit.train.pretrain_t5 import pretrain
from labkit.train.run import train

COMMAND = "python -m labkit.bench.records.sentiment --output data/results/sentiment.json"
RATES = {True: (5e-4, 1e-3), False: (1e-3, 3e-3), "tokens": (3e-2, 1e-1)}
"""Learning rates by what is trained: all weights, added weights, virtual tokens."""


def text_of(folder: Path) -> list[str]:
    """Return the text to pretrain on: training sentences and the other files of the source."""
    rows = [row for name in sentiment.SHA256 for row in sentiment.rated(folder / name)
            if name != sentiment.RATED or sentiment.split_of(row[1]) == "train"]  # fmt: skip
    return [text for _, text in rows]


def bag_of_words(data: str, split: str) -> dict[str, float]:
    """Return the answers of logistic regression on counts of words and pairs: right (1) or not.

    By uid of the split's examples. Its strength of regularisation is chosen on the development
    split.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    parts = {name: sentiment.load_reviews(data, name) for name in ("train", "dev", split)}
    words = CountVectorizer(ngram_range=(1, 2), binary=True, min_df=2)
    counts = {"train": words.fit_transform(_texts(parts["train"]))}
    counts |= {name: words.transform(_texts(parts[name])) for name in ("dev", split)}
    answers = {name: [each.answer for each in parts[name]] for name in parts}
    fitted = [LogisticRegression(C=c, max_iter=500).fit(counts["train"], answers["train"])
              for c in (0.03, 0.1, 0.3, 1.0)]  # fmt: skip
    best = max(fitted, key=lambda model: model.score(counts["dev"], answers["dev"]))
    found = best.predict(counts[split])
    return {each.uid: float(each.answer == answer)
            for each, answer in zip(parts[split], found, strict=True)}  # fmt: skip


def _texts(examples: Sequence[Example]) -> list[str]:
    return [each.messages[0]["content"].removeprefix(sentiment.TASK_WORDS) for each in examples]


def methods() -> list[str]:
    """Return the methods that are compared: those that need no layer by name."""
    return [name for name in in_training() if not METHODS[name].check("t5")
            and (METHODS[name].trains_base or METHODS[name].virtual_tokens
                 or name == RunConfig.method)]  # fmt: skip


def runs_of(method: str, common: dict[str, Any]) -> list[RunConfig]:
    """Return a method's run at each of its learning rates."""
    asked = METHODS[method]
    key: Any = "tokens" if asked.virtual_tokens else asked.trains_base
    return [RunConfig(method=method, learning_rate=rate, name=f"sentiment-{method}-{rate:g}",
                      **common) for rate in RATES[key]]  # fmt: skip


def compared(common: dict[str, Any], data: str) -> dict[str, Any]:
    """Train every method, choose its rate on the development split, and score it on the test."""
    found: dict[str, Any] = {}
    for method in methods():
        tried = []
        for config in runs_of(method, common):
            record = train(config, quiet=True)
            dev = evaluate(record.name, data=data, split="dev", quiet=True)
            tried.append((dev.metrics["em"]["value"], record))
            say(f"{record.name}: {tried[-1][0]:.3f} on the development split")
        _, best = max(tried, key=lambda pair: pair[0])
        test = evaluate(best.name, data=data, split="test", quiet=True)
        right = right_of(data, json.loads(Path(test.predictions).read_text(encoding="utf-8")))
        found[method] = {
            "learning_rates": {str(r.config["learning_rate"]): em for em, r in tried},
            "learning_rate": best.config["learning_rate"], "right": right,
            "trainable_parameters": best.summary["trainable_parameters"],
            "peak_bytes": best.summary["peak_bytes"]["allocated"],
            "predicted_peak_bytes": best.predicted["peak_bytes"]["analytic"],
            "step_seconds": best.summary["step_seconds_median"],
            "losses": [best.losses[0], best.losses[-1]],
        }  # fmt: skip
    return found


def right_of(data: str, predictions: dict[str, str]) -> dict[str, float]:
    """Return 1 for each right prediction and 0 for each other one, by uid."""
    _, path = data.split(":", 1) if ":" in data else ("", "")
    gold = {each.uid: each.answer for each in sentiment.load_reviews(path, "test")}
    return {uid: float(predictions[uid] == answer) for uid, answer in gold.items()}


def scores(answers: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Return the share of right answers of each, with intervals, and the paired differences."""
    shares = {name: stats.mean_interval(list(right.values()), list(right))
              for name, right in answers.items()}  # fmt: skip
    first, *others = answers
    uids = list(answers[first])
    apart = {
        name: stats.paired_difference([answers[first][uid] for uid in uids],
                                      [answers[name][uid] for uid in uids])
        for name in others
    }  # fmt: skip
    return {"right": shares, "minus": first, "differences": apart}


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare methods on an encoder-decoder.")
    parser.add_argument("--output", type=Path, help="where to write the record")
    parser.add_argument("--pretraining-steps", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=2000)
    arguments = parser.parse_args()
    folder = sentiment.fetch_reviews()
    model = records.runs_dir() / "t5-reviews"
    lines = text_of(folder)
    losses = pretrain(model, lines, steps=arguments.pretraining_steps)
    common: dict[str, Any] = {
        "model": str(model), "data": "reviews", "task": "seq2seq", "max_length": 96,
        "max_steps": arguments.steps, "per_device_train_batch_size": 32, "dtype": "float32",
    }  # fmt: skip
    found = compared(common, "reviews")
    answers = {name: each.pop("right") for name, each in found.items()}
    answers["bag of words"] = bag_of_words("", "test")
    answers["more frequent answer"] = majority("")
    result = {
        "command": COMMAND,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "labkit")},
        "machine": describe(),
        "pretraining": {
            "steps": arguments.pretraining_steps, "lines": len(lines),
            "words": sum(len(line.split()) for line in lines),
            "losses": [sum(part) / len(part) for part in (losses[:20], losses[-20:])],
        },
        "settings": {k: v for k, v in common.items() if k != "model"},
        "methods": found, "scores": scores(answers), "answers": answers,
    }  # fmt: skip
    if arguments.output:
        write_json(arguments.output, result)
    print(json.dumps({k: result[k] for k in ("pretraining", "methods", "scores")}, indent=1))


def majority(path: str) -> dict[str, float]:
    """Return which test answers are right if all are the training split's more frequent one."""
    train_split = [each.answer for each in sentiment.load_reviews(path, "train")]
    common = max(sorted(set(train_split)), key=train_split.count)
    test = sentiment.load_reviews(path, "test")
    return {each.uid: float(each.answer == common) for each in test}


if __name__ == "__main__":
    main()
