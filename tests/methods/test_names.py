"""No code outside `labkit.methods` decides by a method's name: it asks the method."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import labkit
from labkit import methods

ROOT = Path(labkit.__file__).parent

LOSS = "a loss over all logits, of `StepSettings.loss`"
MODE = "an int8 product whose weight trains, beside frozen ones"
FORMAT = "a format in which a model is stored on disk"
ROWS = "which runs a committed record, or a benchmark, is made of"

FIELD = "a field of published data: what is asked"
CASES = "the cases of an exercise: settings whose memory a student works out"
FIGURE = "which runs a committed record is of, and their colours in its figure"

HOMONYMS = {
    ("course/preview.py", "full", "modes ="): MODE,
    ("bench/gpu/kernels.py", "full", "for mode in"): MODE,
    ("bench/gpu/memory.py", "full", "for loss in"): LOSS,
    ("bench/gpu/report.py", "full", 'r["mode"] =='): MODE,
    ("bench/switchback/grid.py", "full", "MODES ="): MODE,
    ("bench/switchback/report.py", "full", "frozen"): MODE,
    ("bench/switchback/report.py", "full", 'r["mode"] =='): MODE,
    ("bench/switchback/ways.py", "full", "mode =="): MODE,
    ("memory/settings.py", "full", '"loss": ('): LOSS,
    ("memory/settings.py", "full", "loss: Literal"): LOSS,
    ("memory/calculator.py", "full", 'description="loss"'): LOSS,
    ("memory/step/training_step.py", "full", "settings.loss =="): LOSS,
    ("inference/export.py", "8bit", "FORMATS ="): FORMAT,
    ("models/load.py", "8bit", "to =="): FORMAT,
    ("models/quantised.py", "8bit", "kinds ="): FORMAT,
    ("inference/cost.py", "full", "-fft"): "the label of a row, of a folder called NAME-FFT",
    ("inference/parity_reading.py", "8bit", ""): FORMAT,
    ("inference/served.py", "prompt", "asked"): "a field of OpenAI's completions",
    ("inference/served.py", "prompt", "completions"): "a field of OpenAI's completions",
    ("inference/lm_eval_tasks/documents.py", "prompt", "user"): "the text a document asks with",
    ("inference/preferences.py", "prompt", '"uid"'): FIELD,
    ("checkpoints/lessons/exercises_07.py", "prompt", '"chosen"'): FIELD,
    ("datasets/chat/jsonl.py", "prompt", "in keys"): FIELD,
    ("datasets/chat/self_instruct.py", "prompt", "in row"): FIELD,
    ("datasets/chat/oasst1.py", "prompt", "node"): FIELD,
    ("datasets/instructions/generate.py", "prompt", "role"): FIELD,
    ("datasets/corpus/readers.py", "prompt", "completion"): FIELD,
    ("bench/records/three_data_sets.py", "prompt", "tree_state"): FIELD,
    ("plots.py", "full", "face =="): "a marker that is filled, in matplotlib's words",
    ("bench/step/compare.py", "lora", "peft_settings"): "a key of both arms' spec: PEFT's settings",
    ("bench/step/stages.py", "lora", "peft_settings"): "a key of both arms' spec: PEFT's settings",
    ("runs/older_projects.py", "full", "train_mode"): "a word of another program's files",
    ("bench/records/stock_run.py", "lora", "trains_base"): "a key of the spec of stock TRL",
}
"""Words that are also the name of a method, a piece of their line, and what they are there."""

CHOICES = {
    ("bench/step/compare.py", "lora", "METHODS ="): ROWS,
    ("bench/step/compare.py", "full", "METHODS ="): ROWS,
    ("bench/step/compare.py", "lora", "HEADLINE ="): ROWS,
    ("bench/records/largest_batch.py", "lora", "GIB"): ROWS,
    ("bench/records/largest_batch.py", "full", "GIB"): ROWS,
    ("bench/records/memory_validation.py", "lora", "(False, True)"): ROWS,
    ("bench/records/memory_validation.py", "full", "(False, True)"): ROWS,
    ("bench/records/sharded_runs.py", "full", '{"method":'): ROWS,
    ("bench/records/sharded_runs.py", "lora", '{"method":'): ROWS,
    ("bench/records/sharded_runs.py", "ia3", '{"method":'): ROWS,
    ("checkpoints/lessons/exercises_01.py", "full", '{"method":'): CASES,
    ("checkpoints/lessons/exercises_01.py", "lora", '{"method":'): CASES,
    ("checkpoints/lessons/exercises_01.py", "qlora", '{"method":'): CASES,
    ("course/preview.py", "full", "looks ="): FIGURE,
    ("course/preview.py", "lora", "looks ="): FIGURE,
    ("course/preview.py", "full", "lora_vs_full"): FIGURE,
    ("course/preview.py", "lora", "lora_vs_full"): FIGURE,
    ("course/preview.py", "full", "vermilion"): FIGURE,
    ("course/preview.py", "lora", "vermilion"): FIGURE,
    ("course/preview.py", "full", "score_bars"): FIGURE,
    ("doctor/machine.py", "lora", ""): "the two runs of the course that a student asks about",
    ("doctor/machine.py", "full", ""): "the two runs of the course that a student asks about",
}
"""Places that choose what is run by the name of a method, and decide nothing else by it."""


def decisions(tree: ast.AST) -> Iterator[ast.Constant]:
    """Yield the constants that code can decide by: compared, matched, keys, members of a group."""
    for node in ast.walk(tree):
        parts: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.Dict):
            parts = [*filter(None, node.keys)]
        elif isinstance(node, ast.Tuple | ast.List | ast.Set):
            parts = list(node.elts)
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        yield from (part for part in parts if isinstance(part, ast.Constant))


def places(root: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (file, name, line) of every decision by a method's name outside the methods' room."""
    for file in sorted(root.rglob("*.py")):
        name = file.relative_to(root).as_posix()
        if name.startswith("methods/"):
            continue
        text = file.read_text(encoding="utf-8")
        for constant in decisions(ast.parse(text)):
            if constant.value in methods.names():
                line = text.splitlines()[constant.lineno - 1]
                yield name, str(constant.value), line.strip()


def test_no_code_outside_methods_decides_by_a_method_s_name() -> None:
    allowed = HOMONYMS | CHOICES
    used = {
        place: [each for each in allowed if place[:2] == each[:2] and each[2] in place[2]]
        for place in places(ROOT)
    }
    assert [place for place, exceptions in used.items() if not exceptions] == []
    unused = set(allowed).difference(*used.values())
    assert not unused, "an exception for a place that is no longer there"


@pytest.mark.parametrize(
    "line",
    ['x = method == "qlora"', 'x = method in ("full", other)', 'x = {"lora": 1}[method]',
     'match method:\n    case "prefix":\n        pass', 'x = method not in ["prompt"]'],
)  # fmt: skip
def test_a_switch_on_a_name_is_seen(tmp_path: Path, line: str) -> None:
    (tmp_path / "switch.py").write_text(line)
    assert [place[0] for place in places(tmp_path)] == ["switch.py"]
