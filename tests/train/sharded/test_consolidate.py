"""Sharded checkpoints put together: equal to what the libraries gather, and damage is named.

Checkpoints of torch.distributed are written by two gloo ranks, those of DeepSpeed in its layout.
"""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import zero
import zero_layout
from safetensors.torch import load_file

from labkit.cli.program import main
from labkit.errors import LabkitError
from labkit.models import load
from labkit.train.sharded.consolidate import consolidate

RANK = """
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from transformers import AutoModelForCausalLM
from peft import LoraConfig, get_peft_model

torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{out}/store", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))

def sharded(adapter):
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    layers = model.model.layers
    if adapter:
        torch.manual_seed(1)
        model = get_peft_model(model, LoraConfig(
            r=3, target_modules=["q_proj", "down_proj"], use_dora=True, init_lora_weights=False))
        if rank == 0:
            model.save_pretrained(f"{out}/peft")
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model

for name, adapter in (("whole", False), ("lora", True)):
    model = sharded(adapter)
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for step in range(2):
        ids = torch.arange(8)[None] + step + rank
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    state, optim = get_state_dict(model, optimizer)
    dcp.save({"model": state, "optim": optim}, checkpoint_id=f"{out}/{name}")
    full = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    if rank == 0:
        torch.save(full, f"{out}/{name}.pt")

torch.manual_seed(2)
matrix = torch.randn(6, 10)
columns = distribute_tensor(matrix, mesh, [Shard(1)])
dcp.save({"columns.weight": columns, "step": 3}, checkpoint_id=f"{out}/columns")
if rank == 0:
    torch.save({"columns.weight": matrix}, f"{out}/columns.pt")
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """Return a folder of checkpoints that two ranks wrote, each with the gathered state beside."""
    out = tmp_path_factory.mktemp("sharded")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "peft"])
    ranks = [context.Process(target=exec, args=(RANK, {
        "rank": rank, "out": str(out), "tiny": str(tiny_llama)})) for rank in range(2)]  # fmt: skip
    for each in ranks:
        each.start()
    for each in ranks:
        each.join(240)
        assert each.exitcode == 0
    return out


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that copies a checkpoint, to be damaged."""
    return lambda name: Path(shutil.copytree(saved / name, tmp_path / "copies" / name))


def random_model() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    shapes = {"embed.weight": (11, 6), "a.weight": (5, 7), "a.bias": (5,), "scale": (), "b": (3, 3)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def test_fsdp_s_shards_become_the_model_that_the_library_gathers(saved, tmp_path, tiny_llama):
    made = consolidate(saved / "whole", tmp_path / "out", like=str(tiny_llama))
    gathered = torch.load(saved / "whole.pt")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert made.left_out == ("lm_head.weight",) and made.configured and made.format == "dcp"
    assert set(stored) == set(gathered) - {"lm_head.weight"}
    assert all(torch.equal(stored[name], gathered[name]) for name in stored)
    model = load.load_model(tmp_path / "out", dtype="float32")
    assert torch.equal(model.lm_head.weight, gathered["lm_head.weight"])
    start = load.load_model(tiny_llama, dtype="float32").state_dict()
    assert not torch.equal(stored["model.norm.weight"], start["model.norm.weight"])  # it trained
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"


def test_an_adapter_s_shards_become_an_adapter_that_peft_loads(saved, tmp_path, tiny_llama):
    made = consolidate(saved / "lora", tmp_path / "out", like=str(saved / "peft"))
    assert made.kind == "adapter"
    theirs = load_file(saved / "peft" / "adapter_model.safetensors")
    ours = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {name: each.shape for name, each in ours.items()} == {
        name: each.shape for name, each in theirs.items()
    }
    loaded = load.load_model(tmp_path / "out", dtype="float32").state_dict()
    gathered = torch.load(saved / "lora.pt")
    assert all(torch.equal(loaded[name], gathered[name]) for name in gathered)
    assert not all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_pieces_that_are_columns_fall_into_place(saved, tmp_path):
    made = consolidate(saved / "columns", tmp_path / "out", dtype="bfloat16")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    expected = torch.load(saved / "columns.pt")["columns.weight"].bfloat16()
    assert torch.equal(stored["columns.weight"], expected)
    assert not made.configured and made.bytes == 2 * 60


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_zero_s_shards_become_the_weights_they_are_of(stage, ranks, tmp_path):
    trained = random_model()
    frozen = {"base.weight": torch.randn(4, 5).bfloat16()}
    buffers = {"steps": torch.tensor([3, 4])}
    zero_layout.save(tmp_path / "ds", trained, stage=stage, ranks=ranks, frozen=frozen,
                     buffers=buffers, shared={"head.weight": "embed.weight"})  # fmt: skip
    consolidate(tmp_path / "ds", tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert set(stored) == {*trained, *frozen, *buffers}
    assert all(torch.equal(stored[name], each) for name, each in (trained | buffers).items())
    assert torch.equal(stored["base.weight"], frozen["base.weight"].float())
    alone = consolidate(tmp_path / "ds", tmp_path / "some", tag="global_step2", exclude_frozen=True)
    assert alone.tensors == len(trained) + len(buffers)


THEIRS = """
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
for folder in folders:
    torch.save(get_fp32_state_dict_from_zero_checkpoint(folder), folder + ".pt")
"""


@zero.needed
def test_deepspeed_s_own_script_reads_the_layout_alike(tmp_path):
    folders = [zero_layout.save(tmp_path / f"zero{stage}", random_model(), stage=stage, ranks=2)
               for stage in (1, 3)]  # fmt: skip
    with zero.within_reach():
        process = multiprocessing.get_context("forkserver").Process(
            target=exec, args=(THEIRS, {"folders": [str(each) for each in folders]})
        )
        process.start()
    process.join(120)
    assert process.exitcode == 0
    for folder in folders:
        theirs = torch.load(f"{folder}.pt")
        consolidate(folder, out := tmp_path / "out" / folder.name)
        ours = load_file(out / "model.safetensors")
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_many_files_have_an_index_that_transformers_reads(saved, tmp_path, tiny_llama):
    made = consolidate(saved / "whole", tmp_path / "out", like=str(tiny_llama),
                       max_shard_size="100KB")  # fmt: skip
    assert len(made.files) > 2
    model = load.load_model(tmp_path / "out", dtype="float32").state_dict()
    gathered = torch.load(saved / "whole.pt")
    assert all(torch.equal(model[name], gathered[name]) for name in gathered)


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_what_is_damaged_is_named_and_nothing_is_left(copied, saved, tmp_path):
    place = copied("whole")
    shard = place / "__1_0.distcp"
    whole = shard.read_bytes()

    def refused(name: str, *words: str, **choices: Any) -> None:
        with pytest.raises(LabkitError) as found:
            consolidate(name, tmp_path / "out", **choices)
        assert all(word in str(found.value) for word in words), str(found.value)
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))

    data = whole.index(b"archive/data/0") + 200
    flip(shard, data)
    refused(place, "__1_0.distcp", "corrupt")
    shard.write_bytes(whole[:-3000])
    refused(place, "__1_0.distcp", "truncated")
    shutil.copyfile(place / "__0_0.distcp", shard)
    refused(place, "__1_0.distcp", "checkpoint")
    shard.unlink()
    refused(place, "__1_0.distcp", "missing")
    (place / ".metadata").unlink()
    refused(place, ".metadata", "not whole")
    refused(tmp_path, "holds no sharded checkpoint")
    refused(saved / "columns", "no tags", tag="global_step2")
    refused(saved / "columns", "fp8", dtype="fp8")


@pytest.mark.parametrize("stage", [2, 3])
def test_damaged_shards_of_zero_are_named(stage, tmp_path):
    folder = zero_layout.save(tmp_path / "ds", random_model(), stage=stage, ranks=2)
    place = folder / "global_step2"
    shard = place / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
    whole = shard.read_bytes()

    def refused(*words: str, **choices: Any) -> None:
        with pytest.raises(LabkitError) as found:
            consolidate(folder, tmp_path / "out", **choices)
        assert all(word in str(found.value) for word in words), str(found.value)
        assert not (tmp_path / "out").exists()

    first = place / shard.name.replace("rank_1", "rank_0")
    shutil.copyfile(first, shard)
    refused(shard.name, "holds the same as", first.name)
    other = zero_layout.save(tmp_path / "later", random_model(), stage=stage, ranks=2, steps=3.0)
    shutil.copyfile(other / "global_step2" / shard.name, shard)
    refused("rank 1", "step 3", "not stage")
    shard.write_bytes(whole[: len(whole) // 2])
    refused(shard.name, "truncated")
    shard.write_bytes(whole)
    key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
    stored = torch.load(shard, weights_only=False)["optimizer_state_dict"][key][0]
    flip(shard, whole.index(stored.numpy().tobytes()[:16]) + 5)
    refused(shard.name, "corrupt")
    shard.unlink()
    refused("zero_pp_rank_1", "2 ranks")
    refused("nowhere", "global_step2", tag="nowhere")


def test_a_run_s_newest_whole_checkpoint_is_taken(saved, tmp_path):
    places = [tmp_path / "run" / "checkpoints" / f"checkpoint-{n}" for n in (2, 10, 12)]
    for place in places:
        shutil.copytree(saved / "columns", place)
    for place in places[:2]:
        (place / "labkit_steps.json").write_text("[]")
    (places[2] / ".metadata").unlink()  # cut off
    made = consolidate(tmp_path / "run", tmp_path / "out")
    assert made.checkpoint == str(places[1])


def test_an_output_that_holds_something_stays(saved, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("three years")
    with pytest.raises(LabkitError, match="not empty"):
        consolidate(saved / "columns", out)
    assert (out / "thesis.txt").read_text() == "three years"


def test_a_pickle_that_asks_for_more_than_data_gets_nothing(tmp_path):
    folder = zero_layout.save(tmp_path / "ds", random_model(), stage=3, ranks=1)
    (shard,) = (folder / "global_step2").glob("*optim*")
    saved = torch.load(shard, weights_only=False)
    saved["ds_config"] = _Bomb()
    torch.save(saved, shard)
    with pytest.raises(ZeroDivisionError):  # what torch's own reader would do
        torch.load(shard, weights_only=False)
    assert consolidate(folder, tmp_path / "out").tensors == 5


class _Bomb:
    def __reduce__(self) -> Any:
        return exec, ("1 / 0",)


BIG = """
import resource, sys, torch
from pathlib import Path
from labkit.train.sharded import consolidate, dcp_folder, deepspeed_folder, naming
import transformers, peft, safetensors, huggingface_hub
import peft.mapping
naming.adapter({})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
consolidate.consolidate(sys.argv[1], sys.argv[2])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_memory_stays_at_the_largest_tensor(tmp_path):
    """192 MiB of weights, the largest tensor 48 MiB: with all in memory it would be four times."""
    megabyte = 2**18
    weights = {f"layer.{n}": torch.randn(48 * megabyte // 1024, 1024) for n in range(4)}
    folder = zero_layout.save(tmp_path / "ds", weights, stage=3, ranks=2)
    del weights
    found = subprocess.run([sys.executable, "-c", BIG, str(folder), str(tmp_path / "out")],
                           capture_output=True, text=True, check=True)  # fmt: skip
    assert int(found.stdout.split()[-1]) < 2 * 48 * 2**20


SLOW = """
import time
from labkit.train.sharded import consolidate
from labkit.train.sharded.pieces import Whole
original = Whole.put_together
def slowly(self, dtype):
    time.sleep(0.3)
    return original(self, dtype)
Whole.put_together = slowly
consolidate.consolidate(checkpoint, out)
"""


def test_killed_in_the_middle_it_leaves_nothing_that_looks_whole(saved, tmp_path):
    out = tmp_path / "out"
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=exec, args=(SLOW, {
        "checkpoint": str(saved / "whole"), "out": str(out)}))  # fmt: skip
    process.start()
    limit = time.monotonic() + 120
    while not (begun := list(tmp_path.glob(".out.*/out/model.safetensors"))):
        assert time.monotonic() < limit and process.is_alive()
        time.sleep(0.02)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert not out.exists()
    with pytest.raises(Exception, match="(?i)incomplete|invalid|header"):
        load_file(begun[0])
    assert consolidate(saved / "whole", out).tensors > 10  # and it can be done again


def test_the_command_says_what_it_made(saved, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["consolidate", str(saved / "columns"), str(tmp_path / "out"), "--json", "-d"])
    shown = capsys.readouterr()
    assert ended.value.code == 0
    made = json.loads(shown.out)
    assert made["parameters"] == 60 and made["files"] == ["model.safetensors"]
    assert "columns.weight: 6 × 10" in shown.err
    with pytest.raises(SystemExit) as ended:
        main(["consolidate", str(saved / "columns"), str(tmp_path / "out")])
    assert ended.value.code == 2 and "not empty" in capsys.readouterr().err
