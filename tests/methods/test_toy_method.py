"""A method is one file and one line in the registry: everything else works without a change."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# A process of its own: the method has to be there before RunConfig collects its settings.
PROGRAM = """
import json, sys
from pathlib import Path
from labkit import methods
from toy_method import Toy, Unmergeable
methods.METHODS["toy"] = Toy()

from labkit.errors import LabkitError
from labkit.inference.evaluate import evaluate
from labkit.inference.export import merge
from labkit.memory.estimates import estimate, table
from labkit.models import load
from labkit.runs import records
from labkit.runs.config import describe_fields, load_config
from labkit.train.run import train

folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
answer = {}
(folder / "toy.yaml").write_text(json.dumps(settings))
config = load_config(folder / "toy.yaml", {"stretched_modules": "v_proj"})
record = train(config, quiet=True)
answer["again"] = train(config, quiet=True).id == record.id
answer["named"] = record.name
answer["trained"] = record.summary["trainable_parameters"]
answer["losses"] = record.losses
answer["stored"] = record.config["stretched_modules"]
answer["described"] = describe_fields()["stretched_modules"]
answer["n"] = evaluate(record.name, data=settings["data"], quiet=True).n
merge(record.name, folder / "merged", dtype="float32")
weights = {}
for name, path in (("base", settings["model"]), ("merged", folder / "merged")):
    weights[name] = load.load_model(path, dtype="float32").state_dict()
adapter = load.load_model(record.model_path, dtype="float32")
scale = next(v for k, v in adapter.state_dict().items() if "layers.1" in k and "ia3" in k)
key = "model.layers.1.self_attn.v_proj.weight"
exact = weights["base"][key] * scale.reshape(-1, 1)
answer["merge_error"] = float((weights["merged"][key] - exact).abs().max())
answer["merge_change"] = float((weights["merged"][key] - weights["base"][key]).abs().max())
found = estimate("tiny-llama", device="cpu", method="toy", seq_len=64, dtype="float32")
answer["peaks"], answer["estimated"] = found.peak_bytes, found.trainable_parameters
answer["rows"] = sorted({row.method for row in table("tiny-llama", seq_len=64)})
methods.METHODS["toy"] = Unmergeable()
for name, bad in (
    ("refused", lambda: merge(record.name, folder / "other")),
    ("unknown", lambda: config.replace(method="toi")),
    ("empty", lambda: config.replace(stretched_modules=[])),
):
    try:
        bad()
    except LabkitError as error:
        answer[name] = str(error)
answer["left"] = (folder / "other").exists()
answer["method"] = json.loads((record.model_path / "trained_on.json").read_text())["method"]
answer["nobody said"] = methods.of_adapter(folder, "IA3").name
print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def answer(
    tiny_llama: Path, few_reports: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Run everything once, with the toy registered, and return what came out."""
    folder = tmp_path_factory.mktemp("toy")
    settings = {
        "method": "toy", "model": str(tiny_llama), "data": str(few_reports), "max_steps": 3,
        "learning_rate": 1e-2, "dtype": "float32", "torch_compile": "off", "max_train_samples": 6,
    }  # fmt: skip
    (folder / "program.py").write_text(PROGRAM)
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(paths), "LABKIT_RUNS": str(folder / "runs"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(folder / "program.py"), str(folder), json.dumps(settings)],
        capture_output=True, text=True, env=environment, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_it_trains_under_its_own_settings_and_is_found_again(answer: dict[str, Any]) -> None:
    assert answer["trained"] == 2 * 32  # two layers, values of 2 heads of 16
    assert answer["named"].startswith("tiny-llama-toy-")
    assert answer["losses"][-1] != answer["losses"][0]
    assert answer["stored"] == ["v_proj"]
    assert answer["described"].startswith("linear layers whose outputs")
    assert answer["again"]


def test_it_is_evaluated_and_merged_exactly(answer: dict[str, Any]) -> None:
    assert answer["n"] > 0
    assert answer["merge_error"] == pytest.approx(0, abs=1e-6)
    assert answer["merge_change"] > 1e-6


def test_it_is_estimated_by_formula_and_by_trace(answer: dict[str, Any]) -> None:
    assert answer["estimated"] == 2 * (32 + 32)
    peaks = answer["peaks"]
    assert peaks["analytic"] == pytest.approx(peaks["traced"], rel=0.1)
    assert "toy" in answer["rows"]


def test_what_it_cannot_do_is_one_sentence(answer: dict[str, Any]) -> None:
    assert "cannot be merged" in answer["refused"] and "\n" not in answer["refused"]
    assert not answer["left"]
    # Another method is saved under the same type, and can be merged.
    assert answer["method"] == "toy" and answer["nobody said"] == "ia3"
    assert "method must be one of lora, full, prefix, " in answer["unknown"]
    assert "toy, got 'toi'" in answer["unknown"]
    assert "stretched_modules is empty" in answer["empty"]
