"""Adapter folders with damaged or foreign parts: the right model, or one sentence that says why."""

import json
import math
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from damaged import ANYTHING, damaged, fuzz, one_sentence
from hypothesis import example, given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from labkit.cli import main
from labkit.errors import LabkitError
from labkit.inference import batching, export, generate
from labkit.models import adapter_weights, load

pytestmark = pytest.mark.usefixtures("runs")
SAFE, PICKLED = adapter_weights.FILES
LORA = {"peft_type": "LORA", "r": 2}
A, B = (f"base_model.model.layer.lora_{each}.weight" for each in "AB")
HEADER: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    A: {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
    B: {"dtype": "F32", "shape": [4, 2], "data_offsets": [32, 64]},
}
NUMBERS = torch.arange(16.0).numpy().tobytes()


def written(header: Any, data: bytes = NUMBERS, length: int | None = None) -> bytes:
    """Return a safetensors file: the header's length in eight bytes, the header, the numbers."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def changed(**changes: Any) -> dict[str, Any]:
    return HEADER | {B: HEADER[B] | changes}


@fuzz
@given(
    header=damaged(HEADER) | damaged(HEADER, 1) | ANYTHING,
    length=st.none() | st.none() | st.integers(0, 2**64 - 1),
    kept=st.none() | st.integers(0, 300),
)
@example(header=HEADER, length=None, kept=None)
def test_any_file_is_read_or_refused_in_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, header: Any, length: int | None, kept: int | None
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    content = written(header, length=length)[:kept]
    (folder / SAFE).write_bytes(content)
    try:
        found = adapter_weights.shapes(folder, LORA)
    except LabkitError as error:
        one_sentence(error)
    else:
        # Nothing is claimed that the file does not hold: half a byte is the smallest number.
        assert 0 < sum(map(math.prod, found.values())) <= 2 * len(content)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is damaged"),
        (written(HEADER)[:-8], "is damaged"),
        (written(HEADER)[:20], "is damaged"),
        (written(HEADER, length=2**63), "is damaged"),
        (written(b"[" * 100_000), "is damaged"),
        (written(b'{"a":' * 100_000), "is damaged"),
        (written(changed(data_offsets=[16, 48])), "is damaged"),
        (written(changed(data_offsets=[64, 32])), "is damaged"),
        (written(changed(shape=[2**40, 2**40])), "is damaged"),
        (written(changed(dtype="F12")), "is damaged"),
        (written(changed(dtype="I32")), "holds int32 in .*lora_B.* where weights are float"),
        (written({"__metadata__": {"format": "pt"}}, b""), "holds no tensors"),
        (written(changed(shape=[0], data_offsets=[32, 32]), NUMBERS[:32]), "size 0 .*ZeRO-3"),
        (written(HEADER, NUMBERS[:-4] + struct.pack("<f", math.nan)), "NaN or inf.* in .*lora_B"),
        (written(HEADER, struct.pack("<f", math.inf) + NUMBERS[4:]), "NaN or inf.* in .*lora_A"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / SAFE).write_bytes(content)
    with pytest.raises(LabkitError, match=says) as caught:
        adapter_weights.shapes(tmp_path, LORA)
    one_sentence(caught.value)


def test_a_name_that_stands_twice_is_one_tensor_or_one_sentence(tmp_path: Path) -> None:
    first, second = (json.dumps(HEADER[name])[1:-1] for name in (A, B))
    text = f'{{"{A}": {{{first}}}, "{A}": {{{second}}}}}'.encode()
    (tmp_path / SAFE).write_bytes(written(text))
    try:
        assert set(adapter_weights.shapes(tmp_path, LORA)) == {A}
    except LabkitError as error:
        one_sentence(error)


class Program:
    """What runs a program when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize(
    "value",
    [
        lambda marker: Program(marker),
        lambda marker: {A: Program(marker)},
        lambda marker: [torch.ones(2)],
        lambda marker: {A: 3},
        lambda marker: {A: torch.ones(1).expand(10**6, 10**6)},
    ],
    ids=["a program", "a program for a tensor", "a list", "a number", "a view of one number"],
)
def test_of_a_pickle_only_tensors_are_taken(value: Any, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save(value(marker), tmp_path / PICKLED)
    with pytest.raises(LabkitError, match=f"{PICKLED} is damaged") as caught:
        adapter_weights.shapes(tmp_path, LORA)
    one_sentence(caught.value)
    (tmp_path / PICKLED).write_bytes(pickle.dumps(value(marker)))  # not in torch's own file
    with pytest.raises(LabkitError, match=f"{PICKLED} is damaged"):
        adapter_weights.shapes(tmp_path, LORA)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"peft_type": "LORA", "r": 10**9}, "has r 1000000000, and no stored tensor has more than"),
        ({"peft_type": "LORA", "r": 2, "rank_pattern": {"q_proj": 5}}, "has rank_pattern 5"),
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 10**400}, "has num_virtual_tokens"),
        ({"peft_type": "LORA", "r": 2, "lora_alpha": math.nan}, "has lora_alpha nan"),
        ({"peft_type": "LORA", "alpha_pattern": {"k_proj": -math.inf}}, "has alpha_pattern -inf"),
    ],
)
def test_a_configuration_may_not_ask_for_more_than_is_stored(
    settings: dict[str, Any], says: str, tmp_path: Path
) -> None:
    (tmp_path / SAFE).write_bytes(written(HEADER))
    with pytest.raises(LabkitError, match=says) as caught:
        adapter_weights.shapes(tmp_path, settings)
    one_sentence(caught.value)
    assert adapter_weights.shapes(tmp_path, {"peft_type": "LOKR", "r": 10**9}) == {
        A: (2, 4), B: (4, 2)}  # fmt: skip


# --- whole folders ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a LoRA adapter of the tiny model that changes its answers."""
    folder = tmp_path_factory.mktemp("made") / "adapter"
    torch.manual_seed(0)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"],
                      init_lora_weights=False)  # fmt: skip
    get_peft_model(load.load_model(tiny_llama, dtype="float32"), lora).save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(made: Path, tmp_path: Path) -> Path:
    """Return a copy of that adapter which a test may damage."""
    return Path(shutil.copytree(made, tmp_path / "adapter"))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, Any]]) -> None:
    save_file(change(load_file(folder / SAFE)), folder / SAFE, metadata={"format": "pt"})


def configure(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def without_safe(folder: Path, content: bytes = b"") -> None:
    (folder / SAFE).unlink()
    if content:
        (folder / PICKLED).write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "list": (lambda f: configure(f, lambda c: [c]), "where PEFT has an object"),
    "no type": (lambda f: configure(f, lambda c: {k: v for k, v in c.items() if k != "peft_type"}),
                "has no peft_type"),
    "unknown type": (lambda f: configure(f, lambda c: c | {"peft_type": "LORAX"}), "did you mean"),
    "MLX": (lambda f: configure(f, lambda c: {"fine_tune_type": "lora", "num_layers": 2}), "MLX"),
    "a base of the Hub": (lambda f: configure(f, lambda c: c | {
        "base_model_name_or_path": "unsloth/none-of-ours-bnb-4bit"}), "needs its base model"),
    "truncated": (lambda f: (f / SAFE).write_bytes((f / SAFE).read_bytes()[:-100]), "is damaged"),
    "empty": (lambda f: (f / SAFE).write_bytes(b""), "is damaged"),
    "no tensors": (lambda f: rewrite(f, lambda t: {}), "holds no tensors"),
    "other shape": (lambda f: rewrite(f, lambda t: {
        k: v.repeat(2, 1) if "lora_A" in k else v.repeat(1, 2) for k, v in t.items()}),
        "size mismatch"),
    "NaN": (lambda f: rewrite(f, lambda t: {k: v / 0 for k, v in t.items()}), "NaN or infinity"),
    "wrong keys": (lambda f: rewrite(f, lambda t: {
        k.removeprefix("base_model."): v for k, v in t.items()}), "does not fit"),
    "keys of a state": (lambda f: rewrite(f, lambda t: {
        k.replace(".weight", ".default.weight"): v for k, v in t.items()}), "does not fit"),
    "too few": (lambda f: rewrite(f, lambda t: {
        k: v for k, v in t.items() if "layers.1" not in k}), "does not fit"),
    "no file": (without_safe, f"no {SAFE}"),
    "a program": (lambda f: without_safe(f, pickle.dumps(Path.cwd)), "is damaged"),
    "a rank too large": (lambda f: configure(f, lambda c: c | {"r": 2**62}), "has r "),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_every_command_says_it_in_one_sentence_and_leaves_nothing(
    kind: str, adapter: Path, tiny_llama: Path, few_reports: Path, tmp_path: Path, capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    damage, says = DAMAGE[kind]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    damage(adapter)
    given, data, out = str(adapter), ["--data", str(few_reports)], tmp_path / "out"
    for arguments in (
        ["infer", given, "--sid", "0", *data], ["eval", given, *data, "--max-samples", "1"],
        ["serve", given, "--port", "0"], ["merge", given, str(out)],
        ["quantize", given, str(out), "--to", "8bit", "--max-samples", "0"],
        ["parity", str(tiny_llama), given, *data, "--max-samples", "1", "--max-new-tokens", "1"],
    ):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        stdout, stderr = capsys.readouterr()
        assert (ended.value.code, stdout) == (2, ""), (arguments, stderr)
        # What a type costs on this processor may be said once before.
        assert [says in line for line in stderr.splitlines() if "float32:" not in line] == [True]
    assert [path.name for path in tmp_path.iterdir() if path.name != "runs"] == ["adapter"]


def test_a_pickle_of_an_older_peft_is_the_same_adapter(
    adapter: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        wanted = load.load_model(adapter, dtype="float32")(input_ids=ids).logits
        plain = load.load_model(tiny_llama, dtype="float32")(input_ids=ids).logits
        torch.save(load_file(adapter / SAFE), adapter / PICKLED)
        (adapter / SAFE).unlink()
        assert torch.equal(load.load_model(adapter, dtype="float32")(input_ids=ids).logits, wanted)
        export.merge(str(adapter), tmp_path / "out", dtype="float32")
        merged = load.load_model(tmp_path / "out", dtype="float32")(input_ids=ids).logits
    assert torch.allclose(merged, wanted, atol=1e-5) and not torch.allclose(
        plain, wanted, atol=1e-2
    )
    kept = torch.load(adapter / PICKLED, weights_only=True)
    torch.save({k.replace("q_proj", "w_proj"): v for k, v in kept.items()}, adapter / PICKLED)
    with pytest.raises(LabkitError, match="does not fit"):
        load.load_model(adapter)


def test_a_tokenizer_that_grew_without_its_embeddings(adapter: Path, tiny_llama: Path) -> None:
    tokenizer: Any = load.load_tokenizer(tiny_llama)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(adapter)
    generator = generate.load_generator(str(adapter), dtype="float32")
    # Padding is masked, so any token does; prompts of two lengths need some.
    alone = [generator.complete([ids], max_new_tokens=4)[0] for ids in ([5, 6, 7], [9])]
    assert generator.complete([[5, 6, 7], [9]], max_new_tokens=4) == alone
    tokenizer.add_tokens(["<turn>", "<never>"], special_tokens=True)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_start|>", "<turn>")
    tokenizer.save_pretrained(adapter)
    with pytest.raises(
        LabkitError, match=r"has <turn> from 768 on.* only 768 embeddings"
    ) as caught:
        generate.load_generator(str(adapter), dtype="float32")
    one_sentence(caught.value)
    model: Any = generator.model
    model.resize_token_embeddings(771)
    batching.fit_tokenizer("grown", tokenizer, model)
    assert tokenizer.pad_token == "<pad>"
