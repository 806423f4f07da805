"""Run benchmarks by lm-eval, the harness the field reports its numbers with.

lm-eval turns every task into one of three questions to a language model, and each is a sum of
log-probabilities or a greedy continuation:

* *multiple choice*: which of the given continuations has the largest log-probability (`acc`), or
  the largest per byte (`acc_norm`, which does not favour short ones);
* *generation*: does the continuation match;
* *rolling log-likelihood*: the probability of a text, as perplexity exp(-log p(text) / units).

Three tasks come with labkit and need no network: `tables_choice` and `tables_answer`, the
embedded questions as multiple choice and as generation (scored as TAT-QA is, so it must give what
`labkit eval --task tatqa` gives), and `general_text`, plain prose on everyday things. Fine-tuning
on tables should raise the first two; how much the perplexity of the third rises is what it
forgot. Every task of lm-eval's own works by its name (`hellaswag`, `boolq`, `swag`,
`winogrande`, `xwinograd_en` …) where its data can be reached: on the Hub, or as a copy in the
published form, in a folder of the data set's name (`Rowan/hellaswag`) below the current one.

Tasks are asked as their YAML has them, without a chat template, except `tables_answer`, which is
asked as labkit asks. Result files are lm-eval's own: `results.json` and `samples_TASK.jsonl`.

Source: Biderman et al. 2024, "Lessons from the Trenches on Reproducible Evaluation of Language
Models", arXiv:2405.14782; github.com/EleutherAI/lm-evaluation-harness.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.console import say
from labkit.datasets import encode, registry
from labkit.errors import LabkitError, extra, nearest
from labkit.files import appearing, write_json, write_text
from labkit.inference.generate import load_generator, model_path
from labkit.machine import arithmetic
from labkit.models.load import fingerprint_with_base
from labkit.runs import records
from labkit.stats import Interval, mean_interval, ratio_interval

LOCAL_TASKS = ("tables_choice", "tables_answer", "general_text")
BATCH_SIZE = 8
PROBE_SECONDS = 5
FROM_RATIO: dict[str, Callable[[float], float]] = {
    "word_perplexity": lambda ratio: math.exp(-ratio),
    "byte_perplexity": lambda ratio: math.exp(-ratio),
    "bits_per_byte": lambda ratio: -ratio / math.log(2),
}
"""How a metric follows from log p a word (or byte)."""


@dataclass(frozen=True, kw_only=True)
class TaskScores:
    """What a model scores on a task of lm-eval, in the task's own metrics."""

    model: str
    task: str
    n: int
    metrics: dict[str, Interval]
    results: str
    """lm-eval's own JSON"""
    predictions: str
    """lm-eval's samples"""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON of `labkit eval`."""
        return dataclasses.asdict(self)


def evaluate_tasks(
    model: str,
    tasks: Sequence[str],
    *,
    data: str = "tables",
    split: str = "test",
    max_samples: int | None = None,
    dtype: str = "auto",
    fresh: bool = False,
    quiet: bool = False,
) -> list[TaskScores]:
    """Run lm-eval tasks on a model (name, run or folder: base, adapter, full or merged).

    Intervals are 95 %: reports resampled for the embedded questions, documents for perplexities,
    value ± 1.96 of lm-eval's standard errors else. `data` and `split` say which questions the
    tables_ tasks ask. Kept under runs/evaluations/.

    Raises:
        LabkitError: no such model or task, or a task whose data cannot be reached.
    """
    known = _known_tasks(tasks)
    dtype = arithmetic.resolve(dtype)
    dataset, path = registry.find(data)
    key = {"weights": fingerprint_with_base(model_path(model)), "dtype": dtype, "n": max_samples,
           "data": dataset.sha256(path, split), "versions": records.versions()}  # fmt: skip
    folders = {
        task: records.runs_dir() / "evaluations" / f"{task}-{_digest({**key, 'task': task})}"
        for task in dict.fromkeys(tasks)
    }
    generator: Any = None
    outcomes = []
    for task, folder in folders.items():
        if fresh or not (folder / "outcome.json").is_file():
            loaded = _load_task(known, task, data=data, split=split)
            if generator is None:
                generator = load_generator(model, dtype=dtype, exact=True)
            found = _run(generator, task, loaded, known, max_samples=max_samples, quiet=quiet)
            _write(folder, model, task, found)
        outcome = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
        outcomes.append(TaskScores(**{**outcome, "model": model}))
    return outcomes


def _digest(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]


def _known_tasks(tasks: Sequence[str]) -> Any:
    """Return lm-eval's index of its own tasks and ours; LabkitError for a name in neither."""
    with _silent():
        with extra("eval", "a task of lm-eval"):
            from lm_eval.tasks import TaskManager

        # Reading the thousands of tasks that come with lm-eval takes seconds.
        ours_only = set(tasks) <= set(LOCAL_TASKS)
        manager = TaskManager(
            include_path=str(Path(__file__).parent), include_defaults=not ours_only
        )
    for task in tasks:
        if task not in manager.all_tasks:
            names = [*LOCAL_TASKS, "tatqa", *manager.all_tasks]
            raise LabkitError(f"--task {task!r} is not known: {nearest(task, names)}")
    return manager


def _load_task(known: Any, task: str, *, data: str, split: str) -> Any:
    """Return lm-eval's task with its documents; LabkitError when they cannot be reached."""
    from lm_eval.tasks import TaskManager

    if task in LOCAL_TASKS:
        with _silent():
            manager = TaskManager(
                include_path=str(Path(__file__).parent), include_defaults=False,
                metadata={"data": data, "split": split},
            )  # fmt: skip
            return manager.load([task])
    try:
        with _silent(), _offline(not _hub_answers()):
            return known.load([task])
    except Exception as error:
        # What is raised depends on the layer that noticed: hub, datasets, or a task's own code.
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise LabkitError(
            f"the data of the task {task} are not available ({first}): run where the Hugging Face "
            f"Hub can be reached, or choose from {', '.join(LOCAL_TASKS)}"
        ) from error


def _run(
    generator: Any, task: str, loaded: Any, manager: Any, *, max_samples: int | None, quiet: bool
) -> dict[str, Any]:
    with _silent():
        from lm_eval import evaluator, simple_evaluate
        from lm_eval.models.huggingface import HFLM

        harness_model = HFLM(
            pretrained=generator.model, tokenizer=generator.tokenizer, batch_size=BATCH_SIZE
        )
    chat = task == "tables_answer" and bool(generator.tokenizer.chat_template)
    if not quiet:
        say(f"{Path(generator.name).name}: {task}")
    # simple_evaluate takes tasks by name; these are loaded, with documents, already.
    manager.load = lambda names: loaded
    # It asks git about the folder that we happen to be in, and git answers the terminal itself.
    evaluator.get_git_commit_hash = lambda: None
    with _silent():
        found: dict[str, Any] | None = simple_evaluate(
            harness_model, tasks=[task], task_manager=manager, limit=max_samples,
            batch_size=BATCH_SIZE, bootstrap_iters=1000, apply_chat_template=chat,
            system_instruction=encode.SYSTEM if chat else None,
        )  # fmt: skip
    del manager.load
    assert found is not None  # only other ranks of a distributed run get None
    return found


def _write(folder: Path, model: str, task: str, found: dict[str, Any]) -> None:
    """Put lm-eval's files and our outcome into `folder`, all of them or none."""
    from lm_eval.utils import handle_non_serializable

    samples = found.pop("samples")
    with appearing(folder) as partial:
        partial.mkdir()
        plain = json.loads(json.dumps(found, default=handle_non_serializable))
        write_text(partial / "results.json", json.dumps(plain, indent=2, ensure_ascii=False))
        rows = [row for name in samples for row in samples[name]]
        for name, lines in samples.items():
            text = "".join(
                json.dumps(row, default=handle_non_serializable, ensure_ascii=False) + "\n"
                for row in lines
            )
            write_text(partial / f"samples_{name}.jsonl", text)
        first = next(iter(samples))
        outcome = TaskScores(
            model=model,
            task=task,
            n=len({(row["doc_id"], row["doc_hash"]) for row in rows}),
            metrics=_metrics(plain["results"][task], rows),
            results=str(folder / "results.json"),
            predictions=str(folder / f"samples_{first}.jsonl"),
        )
        write_json(partial / "outcome.json", outcome.to_json())


def _metrics(row: dict[str, Any], samples: list[dict[str, Any]]) -> dict[str, Interval]:
    """Return the metrics of lm-eval's results for one task."""
    metrics: dict[str, Interval] = {}
    for name, value in row.items():
        metric, comma, _ = name.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = row.get(name.replace(",", "_stderr,", 1))
        reports = [sample["doc"].get("report_uid") for sample in samples]
        if all(reports) and all(isinstance(s.get(metric), int | float) for s in samples):
            metrics[metric] = mean_interval([float(s[metric]) for s in samples], reports)
            continue
        pairs = [sample.get(metric) for sample in samples]
        if metric in FROM_RATIO and all(isinstance(pair, list | tuple) for pair in pairs):
            metrics[metric] = _perplexity_interval(metric, pairs)
            continue
        wide = 1.96 * error if isinstance(error, int | float) and error == error else 0.0
        metrics[metric] = {"value": float(value), "low": float(value) - wide,
                           "high": float(value) + wide}  # fmt: skip
    return metrics


def _perplexity_interval(metric: str, pairs: Sequence[Any]) -> Interval:
    """Return a metric of sums, from [log p, units] of each document.

    Whole documents are resampled; lm-eval gives these metrics no error.
    """
    import numpy as np

    log_p, units = np.array(pairs, dtype=float).T
    mean = float(log_p.sum() / units.sum())
    low, high = ratio_interval(log_p, units, method="percentile") or (mean, mean)
    of_ratio = FROM_RATIO[metric]
    # The larger the log-likelihood, the smaller the metric.
    return {"value": of_ratio(mean), "low": of_ratio(high), "high": of_ratio(low)}


def render(outcomes: Sequence[TaskScores]) -> str:
    """Return outcomes as lines: task, number of documents, each metric with its interval."""
    lines = [f"{outcomes[0].model} by lm-eval"]
    for outcome in outcomes:
        for name, m in outcome.metrics.items():
            lines.append(f"{outcome.task:<16}{outcome.n:>6}  {name:<18}{m['value']:>10.4f}  "
                         f"({m['low']:.4f} to {m['high']:.4f})")  # fmt: skip
        lines.append(f"{'':<16}{'':>6}  {outcome.results}")
    return "\n".join(lines)


def _hub_answers() -> bool:
    """Whether the Hub's host can be reached within a few seconds; libraries retry for minutes."""
    import urllib.error
    import urllib.request

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    host = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        urllib.request.urlopen(host, timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True


@contextlib.contextmanager
def _offline(yes: bool) -> Iterator[None]:
    """Let datasets and hub look only at what is on this machine, instead of retrying."""
    import datasets
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    if yes:
        datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep lm-eval's log and bars out of stdout and stderr; errors are raised all the same."""
    from labkit.console import quiet

    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    page = io.StringIO()
    try:
        with quiet(), contextlib.redirect_stdout(page), contextlib.redirect_stderr(page):
            yield
    finally:
        logger.setLevel(level)
