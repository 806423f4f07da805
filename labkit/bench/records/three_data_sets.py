"""Make `three_data_sets.json`: what SwitchBack saves on three data sets, and what it costs a score.

    python -m labkit.bench.records.three_data_sets --output data/results/three_data_sets.json

The seed project fine-tuned TinyLlama-1.1B on OASST1, LongForm and a Russian set of its own, with
and without SwitchBack, and found 9.76, 10.08 and 9.46 % less time. Here the same is asked of this
processor, as `bench.paired` measures: for each data set rounds of three runs of full fine-tuning,
each in a process of its own, in alternating order and from one seed a round: linear layers,
SwitchBack, and linear layers again as the control. A run is worth the median of its later steps.
p-values are adjusted together (Holm), those of the controls apart.

Three sets are made here where none is named: the embedded instructions as OASST1's trees, texts of
the synthetic corpus as LongForm's rows, and its Russian half as `labkit build-dataset` builds it.
Answers of the last two are cut to how the text begins, for the sake of time; what is still too
long for a sample is left out, of real sets too.
`--oasst1`, `--longform` and `--russian` name real ones. The model is a Llama of two layers, wide
enough for int8 to be worth it, with random weights: time does not depend on those. `--model` names
a real one. Scores are those of lm-eval before and after, on tasks whose data are here, or any named
by `--tasks`; equal is claimed only within the margin.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from textwrap import shorten
from typing import Any

from labkit import plots, stats
from labkit.bench import paired
from labkit.console import run_tool, say
from labkit.datasets import tatqa
from labkit.datasets.corpus import build, instructions, synthetic
from labkit.datasets.corpus.unit import Settings
from labkit.errors import LabkitError
from labkit.files import expanded, write_json, write_text
from labkit.inference.lm_eval_tasks.run import evaluate_tasks
from labkit.models import tiny
from labkit.runs import records
from labkit.runs.config import RunConfig
from labkit.train.run import train

ARMS = ("linear", "switchback", "linear_again")
DATA_SETS = ("oasst1", "longform", "russian")
PUBLISHED = {"oasst1": "OASST1", "longform": "LongForm", "russian": "custom RU"}
"""what the seed project's table calls them (`data/switchback_published.json`)"""
WIDE = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 2,
        "num_attention_heads": 16, "num_key_value_heads": 4}  # fmt: skip
TEXTS = 300
BEGINNING = {"en": 320, "ru": 70}
"""characters of a made text that are an answer: whole ones need 400 to 6,000 tokens"""
WARMUP = 2
MARGIN = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is run: model and data sets by name or path, and how much."""

    model: str
    data: dict[str, str]
    pairs: int = 6
    steps: int = 8
    batch_size: int = 8
    max_length: int = 256
    min_features: int = 1024
    first_seed: int = 42
    tasks: tuple[str, ...] = ("tables_choice",)
    questions: int = 120
    margin: float = MARGIN

    def config(self, data_set: str, arm: str, number: int) -> RunConfig:
        """Return the run of an arm in a round."""
        return RunConfig().replace(
            method="full", model=self.model, data=self.data[data_set], task="sft",
            max_steps=self.steps, per_device_train_batch_size=self.batch_size,
            max_length=self.max_length, seed=self.first_seed + number, learning_rate=5e-5,
            use_switchback=arm == "switchback", switchback_min_features=self.min_features,
            eval_steps=0, torch_compile="off", bad_rows="skip",
            keep_weights=number == 0 and arm != ARMS[2], name=f"{data_set}-{arm}-{number}",
        )  # fmt: skip


def measure(plan: Plan, ledger: Path) -> dict[str, Any]:
    """Run what is missing and return every measurement: facts, plan, runs and scores.

    runs: [{data_set, round, position, arm, seed, seconds, tokens, losses}], scores:
    [{data_set, arm, task, right}], `right` a digit a question; the untouched model has no data set.
    """
    kept = paired.Ledger(ledger, settings=dataclasses.asdict(plan))
    runs = []
    for data_set in plan.data:
        for number, order in enumerate(paired.orders(ARMS, plan.pairs)):
            for position, arm in enumerate(order):
                case = f"{data_set} {number} {arm}"
                if kept.get(case) is None:
                    say(f"{data_set}, round {number + 1} of {plan.pairs}: {arm}")
                    config = plan.config(data_set, arm, number)
                    kept.put(case, paired.in_fresh_process(
                        f"{__name__}:one_run", say=say, settings=config.to_dict()))  # fmt: skip
                runs.append({"data_set": data_set, "round": number, "position": position,
                             "arm": arm, **kept.get(case)})  # fmt: skip
    models = [("", "untouched", plan.model)]
    models += [(data_set, arm, plan.config(data_set, arm, 0).name)
               for data_set in plan.data for arm in ARMS[:2]]  # fmt: skip
    scores = []
    for data_set, arm, model in models:
        for task in plan.tasks:
            case = f"{data_set} {arm} {task}"
            if kept.get(case) is None:
                kept.put(case, _right(model, task, plan.questions))
            scores.append({"data_set": data_set, "arm": arm, "task": task, "right": kept.get(case)})
    facts = kept.values["facts"]
    return {"schema": 1, "facts": facts, "plan": dataclasses.asdict(plan), "runs": runs,
            "scores": scores}  # fmt: skip


def one_run(settings: dict[str, Any]) -> dict[str, Any]:
    """Train once, in this process, and return its seconds, tokens and losses, step by step."""
    done = train(RunConfig().replace(**settings), fresh=True, quiet=True)
    if done.status != "done":
        raise LabkitError(f"{done.name} is {done.status}, not done: start the same command again")
    return {
        "seed": settings["seed"], "seconds": [step["seconds"] for step in done.steps],
        "tokens": [step["tokens"] for step in done.steps],
        "losses": [round(loss, 4) for loss in done.losses],
        "arithmetic": done.summary["arithmetic"],
        "switchback_layers": done.summary.get("switchback_layers"),
    }  # fmt: skip


def _right(model: str, task: str, questions: int) -> str:
    """Return a digit for each question of a task: 1 where lm-eval has it right."""
    (outcome,) = evaluate_tasks(model, [task], max_samples=questions, quiet=True)
    lines = Path(outcome.predictions).read_bytes().splitlines()
    rows = sorted(map(json.loads, lines), key=lambda row: row["doc_id"])
    if not all(row.get("acc") in (0, 1) for row in rows):
        raise LabkitError(f"--tasks {task} gives no right and wrong answers: name tasks with acc, "
                          "such as tables_choice")  # fmt: skip
    return "".join(str(int(row["acc"])) for row in rows)


def conclude(found: dict[str, Any]) -> dict[str, Any]:
    """Draw every conclusion from the measurements.

    speed: {data set: paired_ratio of linear over switchback, with less_time {value, low, high} in
    percent, p_holm, significant, control (linear over linear again)}; quality: [{data_set, task,
    before, linear, switchback, equivalence}].
    """
    plan = found["plan"]
    speed: dict[str, Any] = {}
    for data_set in plan["data"]:
        times = {arm: _times(found["runs"], data_set, arm) for arm in ARMS}
        row = stats.paired_ratio(times["linear"], times["switchback"])
        ratio = row["ratio"]
        row["less_time"] = {key: 100 * (1 - 1 / ratio[key]) for key in ("value", "low", "high")}
        speed[data_set] = {**row, "control": stats.paired_ratio(times["linear"],
                                                                times["linear_again"])}  # fmt: skip
    for part in (list(speed.values()), [row["control"] for row in speed.values()]):
        for row, p in zip(part, stats.holm([row["p_value"] for row in part]), strict=True):
            row["p_holm"], row["significant"] = p, p < 0.05
    return {"speed": speed, "quality": list(_quality(found))}


def _times(runs: Sequence[dict[str, Any]], data_set: str, arm: str) -> list[float]:
    mine = [run for run in runs if run["data_set"] == data_set and run["arm"] == arm]
    return [median(run["seconds"][WARMUP:]) for run in sorted(mine, key=lambda run: run["round"])]


def _quality(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    bits = {(row["data_set"], row["arm"], row["task"]): list(map(int, row["right"]))
            for row in found["scores"]}  # fmt: skip
    for data_set in found["plan"]["data"]:
        for task in found["plan"]["tasks"]:
            before = bits["", "untouched", task]
            linear, int8 = bits[data_set, "linear", task], bits[data_set, "switchback", task]
            yield {
                "data_set": data_set, "task": task, "n": len(before),
                "before": sum(before) / len(before), "linear": sum(linear) / len(linear),
                "switchback": sum(int8) / len(int8),
                "equivalence": stats.equivalence(linear, int8, margin=found["plan"]["margin"]),
            }  # fmt: skip


def published() -> dict[str, float]:
    """Return the percent of time that the seed project's table saves, by data set."""
    text = (tatqa.data_dir() / "switchback_published.json").read_text(encoding="utf-8")
    rows = {row["data"]: row for row in json.loads(text)["fine_tuning"]["rows"]}
    return {
        name: 100 * (1 - rows[called]["switchback_minutes"] / rows[called]["linear_minutes"])
        for name, called in PUBLISHED.items()
    }


def render(found: dict[str, Any]) -> str:
    """Return the conclusions as text."""
    concluded, lines = conclude(found), []
    cpu = found["facts"]["hardware"].get("cpu")
    lines.append(f"on {cpu}, and no other processor:")
    for name, row in concluded["speed"].items():
        less, control = row["less_time"], row["control"]
        lines.append(
            f"{name:<10}{less['value']:+6.1f} % less time ({less['low']:+.1f} to "
            f"{less['high']:+.1f}; Holm p = {row['p_holm']:.2g}), control "
            f"{paired.interval(control['ratio'])}, "
            f"{'FAILED' if control['significant'] else 'clean'}"
        )
    for row in concluded["quality"]:
        test = row["equivalence"]
        verdict = "equal" if test["equivalent"] else "not shown to be equal"
        lines.append(
            f"{row['data_set']:<10}{row['task']}: before {row['before']:.3f}, linear "
            f"{row['linear']:.3f}, SwitchBack {row['switchback']:.3f}; {verdict} within "
            f"{test['margin']:g} ({row['n']} questions)"
        )
    return "\n".join(lines)


def draw(found: dict[str, Any]) -> tuple[Any, str]:
    """Draw less time with its interval beside the seed project's; return figure and alt text."""
    speed, theirs = conclude(found)["speed"], published()
    figure, axes = plots.new_figure(width=6.4, height=2.6)
    said = []
    for place, (name, row) in enumerate(speed.items()):
        less = row["less_time"]
        error = [[less["value"] - less["low"]], [less["high"] - less["value"]]]
        axes.errorbar([less["value"]], [place], xerr=error, fmt="D", capsize=4,
                      color=plots.COLOURS["blue"], label="here" if not place else None)  # fmt: skip
        said.append(f"{name} {less['value']:.1f} % ({less['low']:.1f} to {less['high']:.1f})")
        if name in theirs:
            axes.plot([theirs[name]], [place + 0.2], "o", color=plots.COLOURS["orange"],
                      label="seed project, A40" if not place else None)  # fmt: skip
            said[-1] += f", seed project {theirs[name]:.2f} %"
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(speed)), list(speed))
    axes.set_ylim(len(speed) - 0.4, -0.6)
    axes.set_xlabel("less time with SwitchBack (percent of a step), 95 % interval")
    axes.legend(fontsize="small")
    return figure, "Time that SwitchBack saves by data set: " + "; ".join(said) + "."


def make_data(folder: Path, named: dict[str, str]) -> dict[str, str]:
    """Return each data set as a run names it, made in `folder` where none is named.

    Raises:
        LabkitError: a named one is not there.
    """
    for name, path in named.items():
        if not expanded(path).exists():
            raise LabkitError(f"--{name} {path} does not exist: name a file or folder")
    formats = {"oasst1": "oasst1:", "longform": "longform:", "russian": "jsonl:"}
    made: dict[str, str] = {}
    for name, prefix in formats.items():
        made[name] = prefix + (named.get(name) or str(_MAKERS[name](folder)))
    return made


def _oasst1(folder: Path) -> Path:
    """Write the embedded instructions as trees: the right answer ranked before the flawed one."""
    source = tatqa.data_dir() / "instructions" / "train.jsonl"
    rows = [json.loads(line) for line in source.read_bytes().splitlines()]
    trees = [
        {"message_tree_id": f"t{n}", "tree_state": "ready_for_export", "prompt": {
            "message_id": f"t{n}", "role": "prompter", "lang": "en",
            "text": row["prompt"][-1]["content"],
            "replies": [
                {"message_id": f"t{n}-{rank}", "role": "assistant", "lang": "en", "rank": rank,
                 "text": row[which], "replies": []}
                for rank, which in enumerate(("chosen", "rejected"))
            ],
        }}
        for n, row in enumerate(rows)
    ]  # fmt: skip
    return _lines(folder / "oasst1_ready.trees.jsonl", trees)


def _longform(folder: Path) -> Path:
    """Write how clean English texts of the synthetic corpus begin, as answers to requests."""
    clean = (item for item, truth in synthetic.texts(0)
             if truth["kind"] == "clean" and truth["language"] == "en")  # fmt: skip
    rows = [
        {"input": instructions.from_title(item["title"], item["text"], "en", n)[0][1],
         "output": shorten(item["text"], BEGINNING["en"], placeholder=""),
         "source": "synthetic", "subset": "synthetic"}
        for n, item in enumerate(islice(clean, TEXTS))
    ]  # fmt: skip
    return _lines(folder / "longform.jsonl", rows)


def _russian(folder: Path) -> Path:
    """Build the Russian half of the synthetic corpus into instructions, their answers cut."""
    corpus, out = folder / "corpus", folder / "russian"
    if not corpus.exists():
        synthetic.generate(corpus, 2.0)
    build.build([corpus / "raw"], out, Settings(languages=("ru",), against=("tables",)), workers=1)
    text = (out / "train.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    for row in rows:
        answer = row["messages"][-1]
        answer["content"] = shorten(answer["content"], BEGINNING["ru"], placeholder="")
    return _lines(folder / "russian.jsonl", rows)


_MAKERS = {"oasst1": _oasst1, "longform": _longform, "russian": _russian}


def _lines(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return file


def main(arguments: list[str] | None = None) -> None:
    """Measure and write the record and its figure."""
    parser = argparse.ArgumentParser(prog="python -m labkit.bench.records.three_data_sets")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", help="a name or folder; a wide Llama of two layers without")
    for name in DATA_SETS:
        parser.add_argument(f"--{name}", help="file or folder of the real set")
    parser.add_argument("--pairs", type=int, default=Plan.pairs)
    parser.add_argument("--steps", type=int, default=Plan.steps)
    parser.add_argument("--batch-size", type=int, default=Plan.batch_size)
    parser.add_argument("--tasks", default=",".join(Plan.tasks), help="tasks of lm-eval with acc")
    parser.add_argument("--questions", type=int, default=Plan.questions)
    given = parser.parse_args(arguments)
    if given.pairs < 2 or given.steps <= WARMUP:
        raise LabkitError(f"--pairs is at least 2 and --steps at least {WARMUP + 1}, since the "
                          f"first {WARMUP} steps of a run do not count")  # fmt: skip
    folder = records.runs_dir() / "three-data-sets"
    named = {name: path for name in DATA_SETS if (path := getattr(given, name))}
    model = given.model or str(tiny.build_tiny("tiny-llama", folder / "tiny-llama-wide", **WIDE))
    plan = Plan(
        model=model, data=make_data(folder, named), pairs=given.pairs, steps=given.steps,
        batch_size=given.batch_size, questions=given.questions,
        tasks=tuple(filter(None, given.tasks.split(","))),
    )  # fmt: skip
    found = measure(plan, folder / "measured.json")
    write_json(given.output, without_paths(found))
    figure, alt = draw(found)
    plots.save_figure(figure, given.output.with_suffix(".png"), alt=alt)
    print(render(found))


def without_paths(found: dict[str, Any]) -> dict[str, Any]:
    """Return the measurements with names of files where paths of this machine stood."""
    plan = found["plan"]
    data = {name: f"{value.partition(':')[0]}:{Path(value.partition(':')[2]).name}"
            for name, value in plan["data"].items()}  # fmt: skip
    return {**found, "plan": {**plan, "model": Path(plan["model"]).name, "data": data}}


if __name__ == "__main__":
    run_tool(main)
