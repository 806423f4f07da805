"""Parity of tiny models: each cause made on purpose, on its own, and named."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from labkit.cli import main
from labkit.errors import LabkitError
from labkit.inference import export, generate, parity, parity_reading
from labkit.models import load

TOKENS = 8


def changed_config(folder: Path, file: str, **values: Any) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def adapter(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parity") / "adapter"
    torch.manual_seed(0)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear",
                      init_lora_weights=False)  # fmt: skip
    get_peft_model(load.load_model(tiny_llama, dtype="float32"), lora).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(tiny_llama: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny model that a test may change."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "copy"))


@pytest.fixture(scope="module")
def held(few_reports: Path) -> Callable[..., parity.Pair]:
    """Return a function that holds two models against each other on two questions."""

    def pair(a: Path | str, b: Path | str, **settings: Any) -> parity.Pair:
        found = parity.compare([str(a), str(b)], data=str(few_reports), max_samples=2,
                               max_new_tokens=TOKENS, **settings)  # fmt: skip
        json.dumps(found.to_json(), allow_nan=False)
        assert found.same == found.pairs[0].same
        return found.pairs[0]

    return pair


# --- the same, or as good as ---------------------------------------------------------------


def test_a_model_is_itself(held: Any, tiny_llama: Path, copy: Path) -> None:
    for again in (tiny_llama, copy):
        found = held(tiny_llama, again)
        assert (found.same, found.cause, found.largest_difference) == (True, None, 0)
        assert found.differences == ()


@pytest.mark.parametrize(
    ("dtype", "cause"), [("float32", "arithmetic"), ("bfloat16", "dtype"), ("float16", "dtype")]
)
def test_a_merged_adapter_is_the_same_within_its_types_rounding(
    dtype: str, cause: str, held: Any, adapter: Path, tmp_path: Path
) -> None:
    export.merge(str(adapter), tmp_path / "merged", dtype=dtype)
    found = held(adapter, tmp_path / "merged")
    assert (found.same, found.cause, found.types) == (True, cause, ("float32", dtype))
    assert 0 < found.largest_difference <= found.tolerance
    assert f"to {dtype}" in found.tolerance_from


def test_the_largest_difference_is_that_of_the_logits(
    held: Any, tiny_llama: Path, copy: Path, few_reports: Path
) -> None:
    # The head is the embedding; a row that no prompt reads moves its own logit and nothing else.
    change_weights(copy, lambda t: t["model.embed_tokens.weight"][700].mul_(3))
    a, b = (generate.load_generator(str(p), dtype="float32") for p in (tiny_llama, copy))
    asked = parity.datasets.find(str(few_reports))[0].load(str(few_reports), "test")[:2]
    largest = 0.0
    for example in asked:
        ids = parity.encode.prompt_ids(a.tokenizer, example, 2048 - TOKENS)
        assert 700 not in ids
        answer = parity_reading.write(a, ids, TOKENS)
        whole = torch.tensor([ids + answer])
        with torch.inference_mode():
            x, y = (m.model(input_ids=whole).logits[0, len(ids) - 1 : -1] for m in (a, b))
        largest = max(largest, float((x - y).abs().max()))
    assert held(tiny_llama, copy).largest_difference == pytest.approx(largest, rel=1e-3)


# --- numbers ------------------------------------------------------------------------------


def test_8_bits_are_another_model_and_the_type_says_why(
    held: Any, adapter: Path, tmp_path: Path
) -> None:
    export.merge(str(adapter), tmp_path / "merged")
    export.quantize(str(adapter), tmp_path / "small", to="8bit")
    for other in (adapter, tmp_path / "merged"):
        found = held(other, tmp_path / "small")
        assert (found.same, found.cause) == (False, "dtype")
        assert "8bit" in found.types[1]
    accepted = held(tmp_path / "merged", tmp_path / "small", tolerance=1.0)
    assert (accepted.same, accepted.cause, accepted.tolerance_from) == (True, "dtype", "given")


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["model.layers.1.mlp.down_proj.weight"].mul_(1.5),
        lambda t: t["model.layers.0.self_attn.v_proj.weight"].zero_(),
        lambda t: t["model.norm.weight"].fill_(float("nan")),
    ],
    ids=["scaled", "lost", "nan"],
)
def test_other_weights(change: Any, held: Any, tiny_llama: Path, copy: Path) -> None:
    change_weights(copy, change)
    found = held(tiny_llama, copy)
    assert (found.same, [c.name for c in found.causes]) == (False, ["weights"])
    assert found.largest_difference is None or found.largest_difference > found.tolerance


def test_an_adapter_that_was_not_loaded_shows_both_candidates(
    held: Any, tiny_llama: Path, adapter: Path
) -> None:
    found = held(adapter, tiny_llama)
    assert (found.same, found.cause, len(found.differences)) == (False, "weights", 2)
    for each in found.differences:
        assert each.a_token != each.b_token
        # Both are greedy, so each prefers its own candidate.
        assert each.a_logits[0] > each.a_logits[1] and each.b_logits[1] > each.b_logits[0]


def test_an_adapter_on_a_changed_base(held: Any, adapter: Path, copy: Path, tmp_path: Path) -> None:
    change_weights(copy, lambda t: t["model.layers.0.mlp.up_proj.weight"].mul_(2))
    other = Path(shutil.copytree(adapter, tmp_path / "other"))
    changed_config(other, "adapter_config.json", base_model_name_or_path=str(copy))
    assert held(adapter, other).cause == "weights"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma", "tiny-phi"])
def test_the_yardstick_is_what_rounding_the_weights_does(
    name: str, dtype: str, tiny_model: Callable[[str], Path]
) -> None:
    model: Any = load.load_model(tiny_model(name), dtype="float32")
    ids, answer = list(range(5, 60)), list(range(100, 112))
    rows = parity_reading.rows_of(model, ids, answer)
    with parity_reading.rounding(model, dtype):
        moved = parity_reading.largest(rows, parity_reading.rows_of(model, ids, answer))
    for parameter in model.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype)).float()
    rounded = parity_reading.largest(rows, parity_reading.rows_of(model, ids, answer))
    # Neither too strict for a model that was only rounded, nor so lax that it holds anything else.
    assert moved / 4 < rounded < parity_reading.MARGIN * moved


def test_what_a_sum_in_float32_loses_grows_with_its_length() -> None:
    assert parity_reading.step_of("float32", 1024) == 32 * 2**-24
    # In 16 bit the type itself is the coarser one, whatever the length.
    assert parity_reading.step_of("bfloat16", 2**20) == 2**-8


@pytest.mark.parametrize("factor", [1.25, 0.75])
def test_an_adapter_at_another_scale_is_another_model(
    factor: float, held: Any, adapter: Path, tmp_path: Path
) -> None:
    export.merge(str(adapter), tmp_path / "merged")
    other = Path(shutil.copytree(adapter, tmp_path / "other"))
    alpha = json.loads((other / "adapter_config.json").read_text())["lora_alpha"]
    changed_config(other, "adapter_config.json", lora_alpha=factor * alpha)
    assert held(tmp_path / "merged", adapter).same
    found = held(tmp_path / "merged", other)
    assert (found.same, found.cause) == (False, "weights")


# --- text ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}",
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' "
        "}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        None,
    ],
    ids=["other", "one line break", "lost"],
)
def test_another_template(template: Any, held: Any, tiny_llama: Path, copy: Path) -> None:
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    changed_config(copy, "tokenizer_config.json", chat_template=template)
    found = held(tiny_llama, copy)
    assert (found.same, [c.name for c in found.causes]) == (False, ["template"])
    assert found.largest_difference == 0  # on the same ids: the weights are not to blame


def swapped(tokenizer: dict[str, Any]) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]


def unmerged(tokenizer: dict[str, Any]) -> None:
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:50]


def added(tokenizer: dict[str, Any]) -> None:
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 768, "content": "<x>"})


@pytest.mark.parametrize("change", [swapped, unmerged, added])
def test_another_tokenizer(change: Any, held: Any, tiny_llama: Path, copy: Path) -> None:
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    change(tokenizer)
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    found = held(tiny_llama, copy)
    assert (found.same, [c.name for c in found.causes]) == (False, ["tokenizer"])
    assert found.largest_difference == 0


def first_written(folder: Path, data: Path) -> int:
    """Return the first token the model writes after the first question."""
    generator = generate.load_generator(str(folder), dtype="float32")
    example = parity.datasets.find(str(data))[0].load(str(data), "test")[0]
    ids = parity.encode.prompt_ids(generator.tokenizer, example, 2048 - TOKENS)
    return parity_reading.write(generator, ids, 1)[0]


@pytest.mark.parametrize("ends", [[2], None, 0])
def test_a_lost_end_token(
    ends: Any, held: Any, tiny_llama: Path, copy: Path, few_reports: Path, tmp_path: Path
) -> None:
    stops = Path(shutil.copytree(tiny_llama, tmp_path / "stops"))
    token = first_written(tiny_llama, few_reports)
    changed_config(stops, "generation_config.json", eos_token_id=[2, token])
    changed_config(copy, "generation_config.json", eos_token_id=ends)
    changed_config(copy, "config.json", eos_token_id=ends)
    found = held(stops, copy)
    assert (found.same, [c.name for c in found.causes]) == (False, ["stop"])
    assert found.largest_difference == 0
    each = found.differences[0]
    # One ended with that token, the other wrote it and went on.
    assert (each.index, each.a_token) == (1, None) and each.b_token is not None


# --- behind a server ----------------------------------------------------------------------


class Fake(ThreadingHTTPServer):
    """A server in OpenAI's form that answers with a model of this process, or as it is told."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.generator = generate.load_generator(str(folder), dtype="float32")
        self.names, self.change = ["one"], lambda reply: reply
        self.address = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Any

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.send({"data": [{"id": name} for name in self.server.names]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model = self.server.generator
        ids = model.tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True)
        ids = ids["input_ids"]
        written = parity_reading.write(model, ids, body["max_tokens"])
        self.send(self.server.change({
            "choices": [{
                "message": {"content": model.tokenizer.decode(written, skip_special_tokens=True)},
                "finish_reason": "stop" if written[-1] == 2 else "length",
            }],
            "usage": {"prompt_tokens": len(ids)},
        }))  # fmt: skip

    def send(self, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def fake(tiny_llama: Path) -> Iterator[Fake]:
    server = Fake(tiny_llama)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_served_model_is_the_same_and_says_what_it_cannot_show(
    held: Any, fake: Fake, tiny_llama: Path
) -> None:
    for models in ((tiny_llama, fake.address), (f"{fake.address}#one", tiny_llama)):
        found = held(*models)
        assert (found.same, found.cause, found.a) == (True, None, str(tiny_llama))
        assert found.largest_difference is None
        assert "no logits" in found.notes[0]


def prompt_of(tokens: int) -> Callable[[Any], Any]:
    return lambda reply: reply | {"usage": {"prompt_tokens": tokens}}


def says(text: Callable[[str], str], reason: str = "length") -> Callable[[Any], Any]:
    def change(reply: Any) -> Any:
        said = text(reply["choices"][0]["message"]["content"])
        return reply | {"choices": [{"message": {"content": said}, "finish_reason": reason}]}

    return change


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (prompt_of(7), "template"),
        (says(lambda text: "What else? 12"), "weights"),
        (says(lambda text: text, "stop"), "stop"),
    ],
)
def test_a_served_model_that_differs(
    change: Any, cause: str, held: Any, fake: Fake, tiny_llama: Path
) -> None:
    fake.change = change
    found = held(tiny_llama, fake.address)
    assert (found.same, found.cause) == (False, cause)
    if cause == "weights":
        each = found.differences[0]
        assert each.a_token != each.b_token and each.a_logits[0] > each.a_logits[1]
        assert each.b_logits is None


def test_another_model_behind_the_name(held: Any, fake: Fake, adapter: Path) -> None:
    found = held(adapter, fake.address)
    assert (found.same, found.cause) == (False, "weights")


@pytest.mark.parametrize(
    ("names", "asked", "message"),
    [
        (["a", "b"], "", "say which one"),
        (["a", "b"], "#c", "does not serve c: it has a, b"),
        ([], "", "serves nothing"),
    ],
)
def test_a_server_without_that_model(
    names: list[str], asked: str, message: str, held: Any, fake: Fake, tiny_llama: Path
) -> None:
    fake.names = names
    with pytest.raises(LabkitError, match=message):
        held(tiny_llama, fake.address + asked)


@pytest.mark.parametrize(
    "reply", [[], {"choices": []}, {"choices": [{"message": {"content": 3}}]}, None]
)
def test_an_answer_in_another_form_is_one_sentence(
    reply: Any, held: Any, fake: Fake, tiny_llama: Path
) -> None:
    fake.change = lambda given: reply
    with pytest.raises(LabkitError, match=r"no answer of OpenAI's API"):
        held(tiny_llama, fake.address)


# --- the command --------------------------------------------------------------------------


def run(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["parity", *arguments])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_exit_codes_and_json(
    capsys: Any, tiny_llama: Path, adapter: Path, few_reports: Path
) -> None:
    settings = ("--data", str(few_reports), "--max-samples", "1", "--max-new-tokens", "2")
    code, out, _ = run(capsys, str(tiny_llama), str(tiny_llama), *settings)
    assert code == 0 and "the same within the tolerance" in out
    code, out, _ = run(capsys, str(adapter), str(tiny_llama), *settings, "--json")
    found = json.loads(out)
    assert code == 1 and found["same"] is False
    assert found["pairs"][0]["cause"] == "weights" and found["n"] == 1
    code, out, _ = run(capsys, str(adapter), str(tiny_llama), *settings)
    assert code == 1 and "likely cause               weights" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny-llama"], "name two or more"),
        (["tiny-llama", "tiny-llama", "--tolerance", "-1"], "give 0 or more"),
        (["tiny-llama", "tiny-llama", "--tolerance", "nan"], "give 0 or more"),
        (["tiny-llama", "tiny-llama", "--dtype", "int3"], "is not known"),
        (["http://127.0.0.1:9/v1#a", "http://127.0.0.1:9/v1#b"], "on this machine"),
        (["tiny-llama", "http://127.0.0.1:9/v1#a"], "does not answer"),
        (["tiny-llama", "http://"], "is not an address"),
        (["tiny-llama", "nothing-of-this-name"], "nothing-of-this-name"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], message: str, capsys: Any, tiny_llama: Path
) -> None:
    named = [str(tiny_llama) if word == "tiny-llama" else word for word in arguments]
    code, out, err = run(capsys, *named)
    assert (code, out) == (2, "")
    assert message in err and len(err.strip().splitlines()) == 1
