"""A layer's step and its parts: they do the work that is timed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from labkit.bench.switchback import layers, ways

CASE = {"tokens": 24, "in_features": 48, "out_features": 32, "mode": "full"}
KINDS = ["eager", "float32", "row", "tensor", *(
    name for name, way in ways.WAYS.items()
    if way.packed_by and not way.tiles
    and ways.can_prepack(way.packed_by, way.dtype, torch.device("cpu"))
)]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["full", "frozen"])
def test_a_step_does_all_products_of_its_mode(kind: str, mode: str) -> None:
    step, before = layers.build(kind, CASE | {"mode": mode}, backend="reference")
    closure: Any = step.__closure__  # type: ignore[attr-defined]
    names: Any = step.__code__.co_freevars  # type: ignore[attr-defined]
    cells = {name: cell.cell_contents for name, cell in zip(names, closure, strict=True)}
    version = cells["weight"]._version
    before()
    step()
    assert cells["x"].grad.shape == (24, 48)
    assert (cells["weight"].grad is None) == (mode == "frozen")
    assert (cells["weight"]._version > version) == (mode == "full"), "no copy may be kept"


def test_parts_are_those_of_the_published_table_and_compute_the_product() -> None:
    found = layers.parts({k: v for k, v in CASE.items() if k != "mode"}, "reference")
    published = json.loads(
        (Path(__file__).parents[3] / "data" / "switchback_published.json").read_text()
    )["a100_layer"]["rows"][0]["milliseconds"]
    ours = {name.replace("bf16", "fp16") for name in found}
    wide = layers.parts({k: v for k, v in CASE.items() if k != "mode"}, "reference", torch.float32)
    assert {name.replace("float32", "fp16") for name in wide} == ours - {"tiles_dw"}
    assert {n.removesuffix("_tensor").removesuffix("_row") for n in published} <= {
        n.removesuffix("_tensor").removesuffix("_row") for n in ours
    }
    exact, int8 = found["bf16_y"](), found["int8_y"]()
    assert isinstance(exact, torch.Tensor) and isinstance(int8, torch.Tensor)
    error = (exact.float() - int8.float()).norm() / exact.float().norm()
    assert 0 < error < 0.03
