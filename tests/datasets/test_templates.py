"""Named chat templates: the strings that their makers write out, and what is trained of them."""

from pathlib import Path
from typing import Any

import pytest
import trl

from labkit.datasets import encode, templates
from labkit.datasets.base import Example
from labkit.errors import LabkitError
from labkit.models import tiny

TURNS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi?"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye?"},
]
# Written out by hand from the documents that `source` names, with Llama's <s> and </s>. A template
# without a system message is given the turns after it.
WRITTEN = {
    "chatml": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi?<|im_end|>\n"
    "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye?<|im_end|>\n"
    "<|im_start|>assistant\n",
    "qwen": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi?<|im_end|>\n"
    "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye?<|im_end|>\n"
    "<|im_start|>assistant\n",
    "llama2": "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi? [/INST] Hello. </s>"
    "<s>[INST] Bye? [/INST]",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nBye?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma": "<s><start_of_turn>user\nHi?<end_of_turn>\n<start_of_turn>model\nHello.<end_of_turn>\n"
    "<start_of_turn>user\nBye?<end_of_turn>\n<start_of_turn>model\n",
    "mistral": "<s>[INST] Hi? [/INST]Hello.</s> [INST] Bye? [/INST]",
    "zephyr": "<|system|>\nBe kind.</s>\n<|user|>\nHi?</s>\n<|assistant|>\nHello.</s>\n"
    "<|user|>\nBye?</s>\n<|assistant|>\n",
    "vicuna": "Be kind. USER: Hi? ASSISTANT: Hello.</s>USER: Bye? ASSISTANT:",
    "alpaca": "Be kind.\n\n### Instruction:\nHi?\n\n### Response:Hello.</s>\n\n"
    "### Instruction:\nBye?\n\n### Response:",
    "phi3": "<|system|>\nBe kind.<|end|>\n<|user|>\nHi?<|end|>\n<|assistant|>\nHello.<|end|>\n"
    "<|user|>\nBye?<|end|>\n<|assistant|>\n",
    "default": "System: Be kind.\n\nUser: Hi?\nAssistant: Hello. </s>User: Bye?\nAssistant: ",
    "deepseek": "User: Hi?\n\nAssistant: Hello.</s>User: Bye?\n\nAssistant: ",
    "xverse": "Human: Hi?\n\nAssistant: Hello.</s>Human: Bye?\n\nAssistant: ",
    "minicpm": "<用户>Hi?<AI>Hello.</s><用户>Bye?<AI>",
    "ziya2": "<human>:Hi? <bot>:Hello.</s><human>:Bye? <bot>:",
    "baichuan": "<reserved_102>Hi?<reserved_103>Hello.</s><reserved_102>Bye?<reserved_103>",
    "baichuan2": "<reserved_106>Hi?<reserved_107>Hello.</s><reserved_106>Bye?<reserved_107>",
}
NO_SYSTEM = {"gemma", "mistral", "deepseek", "xverse", "minicpm", "ziya2", "baichuan", "baichuan2"}


@pytest.fixture(scope="module")
def llama_like() -> Any:
    """Return a tokenizer with Llama's start and end, and the ends of all templates."""
    tokenizer = tiny.build_tokenizer()
    ends = sorted({t.end for t in templates.TEMPLATES.values() if t.end})
    tokenizer.add_special_tokens({"additional_special_tokens": ends})
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    return tokenizer


@pytest.fixture
def tokenizer(llama_like: Any) -> Any:
    llama_like.chat_template, llama_like.eos_token = None, "</s>"
    return llama_like


def rendered(tokenizer: Any, template: str, turns: list[dict[str, str]]) -> str:
    text: str = tokenizer.apply_chat_template(
        turns, chat_template=template, add_generation_prompt=True, tokenize=False
    )
    return text


def test_every_template_has_a_source_and_is_written_out_here() -> None:
    assert set(WRITTEN) == set(templates.TEMPLATES)
    assert all(len(template.source) > 20 for template in templates.TEMPLATES.values())
    assert set(templates.ALIASES.values()) <= set(WRITTEN)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_template_writes_what_its_makers_write(tokenizer: Any, name: str) -> None:
    turns = TURNS[1:] if name in NO_SYSTEM else TURNS
    assert rendered(tokenizer, templates.find(name).jinja, turns) == WRITTEN[name]


def test_what_stands_for_a_system_message_that_is_not_given(tokenizer: Any) -> None:
    said = {name: rendered(tokenizer, templates.find(name).jinja, TURNS[1:2]) for name in WRITTEN}
    assert said["qwen"].startswith(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    )
    assert said["chatml"].startswith("<|im_start|>user\n")
    assert said["vicuna"] == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions. USER: Hi? ASSISTANT:"
    )
    assert said["llama2"] == "<s>[INST] Hi? [/INST]"


# Stanford's PROMPT_DICT, in its own words.
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
WITHOUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)


def test_alpaca_s_rows_become_alpaca_s_prompts(tokenizer: Any, tmp_path: Path) -> None:
    from labkit.datasets.chat.alpaca import ALPACA

    rows = [{"instruction": "Add.", "input": "1, 2", "output": "3"},
            {"instruction": "Greet.", "input": "", "output": "Hi"}]  # fmt: skip
    (tmp_path / "a.json").write_text(str(rows).replace("'", '"'))
    for example, row in zip(ALPACA.load(str(tmp_path / "a.json"), "all"), rows, strict=True):
        prompt = rendered(tokenizer, templates.find("alpaca").jinja, list(example.messages[:-1]))
        assert prompt == (WITH_INPUT if row["input"] else WITHOUT).format(**row)


# TRL carries the templates of some of the makers' own tokenizers.
@pytest.mark.parametrize(
    ("name", "file", "system"),
    [("llama3", "llama3", True), ("gemma", "gemma", False), ("phi3", "phi3", True),
     ("chatml", "qwen2_5", True), ("qwen", "qwen2_5", True)],
)  # fmt: skip
def test_a_template_is_the_tokenizer_s_own(
    tokenizer: Any, name: str, file: str, system: bool
) -> None:
    own = (Path(trl.__file__).parent / "chat_templates" / f"{file}.jinja").read_text()
    for turns in (TURNS, TURNS[:2]) if system else (TURNS[1:], TURNS[1:2]):
        ours = rendered(tokenizer, templates.find(name).jinja, turns)
        assert ours == rendered(tokenizer, own, turns)


@pytest.mark.parametrize("name", ["", "chatml", "ChatML", "yi", " Mixtral "])
def test_names_are_read_in_any_case_and_older_ones_too(tokenizer: Any, name: str) -> None:
    tokenizer.chat_template = "its own"
    templates.use(tokenizer, name)
    wanted = {"": "its own", "yi": templates.TEMPLATES["chatml"].jinja,
              " Mixtral ": templates.TEMPLATES["mistral"].jinja}  # fmt: skip
    assert tokenizer.chat_template == wanted.get(name, templates.TEMPLATES["chatml"].jinja)


def test_a_template_we_do_not_have_is_one_sentence(tokenizer: Any) -> None:
    with pytest.raises(
        LabkitError, match="template_name 'lama2' is unknown: did you mean 'llama2'"
    ):
        templates.use(tokenizer, "lama2")


def test_an_end_that_is_no_token_is_refused() -> None:
    plain = tiny.build_tokenizer()
    own = plain.chat_template
    with pytest.raises(LabkitError, match=r"ends an answer with <\|eot_id\|>, which is no token"):
        templates.use(plain, "llama3")
    assert plain.chat_template == own and plain.eos_token == "<|im_end|>"


EXAMPLE = Example(uid="x", messages=(*TURNS, {"role": "assistant", "content": "Farewell."}))


@pytest.mark.parametrize("name", WRITTEN)
def test_every_template_trains_the_answer_and_its_end_and_asks_as_it_trained(
    tokenizer: Any, name: str
) -> None:
    templates.use(tokenizer, name)
    end = templates.TEMPLATES[name].end or "</s>"
    assert tokenizer.eos_token == end
    row = encode.encode_example(tokenizer, EXAMPLE, max_length=2000)
    trained = [i for i, label in enumerate(row["labels"]) if label != encode.IGNORED]
    assert trained == list(range(row["prompt_length"], len(row["input_ids"])))
    answer = tokenizer.decode([row["labels"][i] for i in trained])
    assert answer.split() == ["Farewell." + end] or answer.split() == ["Farewell.", end]
    assert row["labels"][-1] == tokenizer.convert_tokens_to_ids(end)
    # What the model is asked with is what it was trained to continue; nothing of the turns is lost.
    asked = encode.prompt_ids(tokenizer, EXAMPLE, 2000)
    assert asked == row["input_ids"][: row["prompt_length"]]
    text = tokenizer.decode(asked)
    assert all(turn["content"] in text for turn in TURNS)
    assert text.count("<s>") == (2 if name == "llama2" else 1 if "{{ bos_token }}" in
                                 tokenizer.chat_template else 0)  # fmt: skip
