r"""Chat templates by name: how the makers of a family write its turns, as facts with their source.

A run uses the template that comes with its model. `template_name` puts one of these in its place,
as older projects did for base models, which come with none; it is stored with what was trained, so
that the model is asked in the form it was taught.

    chatml      <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n
    llama2      <s>[INST] Hi [/INST]
    alpaca      Below is an instruction … ### Instruction:\nHi\n\n### Response:

What a template lacks is made up for in `encode`: a system message that it refuses opens the first
question, and an answer that it leaves without an end gets the tokenizer's.
"""

from dataclasses import dataclass
from typing import Any

from labkit.errors import LabkitError, nearest

ALPACA_INPUT = "\n\n### Input:\n"
"""What stands between an instruction and its input in Alpaca's prompt."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """A chat template in Jinja, as `tokenizer.chat_template` holds it.

    `end` ends an answer; "" is the tokenizer's own end token. With `start` the text begins as
    the tokenizer begins every text, because the makers left that to it.
    """

    source: str
    jinja: str
    end: str = ""
    start: bool = False


_PROMPT = "{% if add_generation_prompt %}{{ 'HERE' }}{% endif %}"
_FIRST = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = DEFAULT %}{% set turns = messages %}{% endif %}"
)
"""The system message apart, and what stands for it where there is none."""
_NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
)
_CHATML = (
    r"{% for turn in messages %}"
    r"{{ '<|im_start|>' + turn['role'] + '\n' + turn['content'] + '<|im_end|>\n' }}{% endfor %}"
) + _PROMPT.replace("HERE", r"<|im_start|>assistant\n")
_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_FIREFLY = (
    "YeungNLP, Firefly's templates: github.com/yangjianxin1/Firefly/blob/master/component/"
    "template.py"
)
_ALPACA_TASK = "Below is an instruction that describes a task"
_ALPACA_WRITE = r"Write a response that appropriately completes the request.\n\n"

# Templates by name; other names that older projects have for them are in ALIASES.
TEMPLATES = {
    "chatml": Template(
        source="OpenAI, chatml.md: github.com/openai/openai-python/blob/v0.28.1/chatml.md",
        jinja=_CHATML,
        end="<|im_end|>",
    ),
    "qwen": Template(
        source="Qwen Team, Qwen1.5's tokenizer_config.json: ChatML with a system message of its "
        "own where none is given",
        jinja=(
            r"{% if messages[0]['role'] != 'system' %}"
            r"{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
        )
        + _CHATML,
        end="<|im_end|>",
    ),
    "llama2": Template(
        source="Meta, Llama 2's chat_completion: github.com/meta-llama/llama/blob/main/llama/"
        "generation.py",
        jinja=_FIRST.replace("DEFAULT", "''")
        + r"{% for turn in turns %}{% if turn['role'] == 'user' %}{{ bos_token }}"
        r"{% if loop.first and system %}"
        r"{{ '[INST] <<SYS>>\n' + system + '\n<</SYS>>\n\n' + turn['content'].rstrip()"
        r" + ' [/INST]' }}{% else %}{{ '[INST] ' + turn['content'].strip() + ' [/INST]' }}"
        r"{% endif %}{% else %}{{ ' ' + turn['content'].strip() + ' ' }}{{ eos_token }}"
        r"{% endif %}{% endfor %}",
    ),
    "llama3": Template(
        source="Meta, Llama 3 model card and prompt formats: llama.com/docs/model-cards-and-"
        "prompt-formats/meta-llama-3",
        jinja=r"{{ bos_token }}{% for turn in messages %}{{ '<|start_header_id|>' + turn['role'] "
        r"+ '<|end_header_id|>\n\n' + turn['content'].strip() + '<|eot_id|>' }}{% endfor %}"
        + _PROMPT.replace("HERE", r"<|start_header_id|>assistant<|end_header_id|>\n\n"),
        end="<|eot_id|>",
    ),
    "gemma": Template(
        source="Google, Gemma formatting and system instructions: ai.google.dev/gemma/docs/"
        "formatting",
        jinja=r"{{ bos_token }}"
        + _NO_SYSTEM
        + r"{% for turn in messages %}{{ '<start_of_turn>' "
        r"+ ('model' if turn['role'] == 'assistant' else turn['role']) + '\n' "
        r"+ turn['content'].strip() + '<end_of_turn>\n' }}{% endfor %}"
        + _PROMPT.replace("HERE", r"<start_of_turn>model\n"),
        end="<end_of_turn>",
    ),
    "mistral": Template(
        source="Mistral AI, Mistral-7B-Instruct-v0.1's card: huggingface.co/mistralai/"
        "Mistral-7B-Instruct-v0.1",
        jinja=r"{{ bos_token }}"
        + _NO_SYSTEM
        + r"{% for turn in messages %}{% if turn['role'] == 'user' %}"
        r"{{ '[INST] ' + turn['content'] + ' [/INST]' }}{% else %}"
        r"{{ turn['content'] }}{{ eos_token }}{{ ' ' }}{% endif %}{% endfor %}",
    ),
    "zephyr": Template(
        source="Hugging Face H4, zephyr-7b-beta's card: huggingface.co/HuggingFaceH4/"
        "zephyr-7b-beta",
        jinja=r"{% for turn in messages %}{{ '<|' + turn['role'] + '|>\n' + turn['content'] }}"
        r"{{ eos_token }}{{ '\n' }}{% endfor %}" + _PROMPT.replace("HERE", r"<|assistant|>\n"),
    ),
    "vicuna": Template(
        source="LMSYS, vicuna_v1.1 in FastChat: github.com/lm-sys/FastChat/blob/main/fastchat/"
        "conversation.py",
        jinja=_FIRST.replace("DEFAULT", f'"{_VICUNA_SYSTEM}"')
        + r"{{ system + ' ' }}{% for turn in turns %}{% if turn['role'] == 'user' %}"
        r"{{ 'USER: ' + turn['content'] + ' ' }}{% else %}{{ 'ASSISTANT: ' + turn['content'] }}"
        r"{{ eos_token }}{% endif %}{% endfor %}" + _PROMPT.replace("HERE", "ASSISTANT:"),
        start=True,
    ),
    "alpaca": Template(
        source="Stanford, PROMPT_DICT of Alpaca's train.py: github.com/tatsu-lab/stanford_alpaca",
        jinja=_FIRST.replace("DEFAULT", "''")
        + r"{% for turn in turns %}{% if turn['role'] == 'user' %}"
        r"{% if not loop.first %}{{ '\n\n' }}{% elif system %}{{ system + '\n\n' }}"
        r"{% elif '\n\n### Input:\n' in turn['content'] %}{{ '" + _ALPACA_TASK
        + r", paired with an input that provides further context. " + _ALPACA_WRITE
        + r"' }}{% else %}{{ '" + _ALPACA_TASK + ". " + _ALPACA_WRITE + r"' }}{% endif %}"
        r"{{ '### Instruction:\n' + turn['content'] + '\n\n### Response:' }}{% else %}"
        r"{{ turn['content'] }}{{ eos_token }}{% endif %}{% endfor %}",
        start=True,
    ),
    "phi3": Template(
        source="Microsoft, Phi-3-mini-4k-instruct's card: huggingface.co/microsoft/"
        "Phi-3-mini-4k-instruct",
        jinja=r"{% for turn in messages %}{{ '<|' + turn['role'] + '|>\n' + turn['content'] "
        r"+ '<|end|>\n' }}{% endfor %}" + _PROMPT.replace("HERE", r"<|assistant|>\n"),
        end="<|end|>",
    ),
    "default": Template(
        source=_FIREFLY,
        jinja=_FIRST.replace("DEFAULT", "''")
        + r"{% if system %}{{ 'System: ' + system + '\n\n' }}{% endif %}{% for turn in turns %}"
        r"{% if turn['role'] == 'user' %}{{ 'User: ' + turn['content'] + '\nAssistant: ' }}"
        r"{% else %}{{ turn['content'] + ' ' }}{{ eos_token }}{% endif %}{% endfor %}",
        start=True,
    ),
}  # fmt: skip
for _name, _before, _after in (
    ("deepseek", "User: ", r"\n\nAssistant: "),
    ("xverse", "Human: ", r"\n\nAssistant: "),
    ("minicpm", "<用户>", "<AI>"),
    ("ziya2", "<human>:", " <bot>:"),
    ("baichuan", "<reserved_102>", "<reserved_103>"),
    ("baichuan2", "<reserved_106>", "<reserved_107>"),
):
    TEMPLATES[_name] = Template(
        source=_FIREFLY,
        jinja=_NO_SYSTEM
        + r"{% for turn in messages %}{% if turn['role'] == 'user' %}{{ '"
        + _before + r"' + turn['content'] + '" + _after
        + r"' }}{% else %}{{ turn['content'] }}{{ eos_token }}{% endif %}{% endfor %}",
        start=True,
    )  # fmt: skip

ALIASES = {"yi": "chatml", "mixtral": "mistral", "chat-ml": "chatml", "llama-2": "llama2",
           "llama-3": "llama3", "qwen2": "qwen", "qwen1.5": "qwen"}  # fmt: skip


def find(name: str) -> Template:
    """Return the template of a name.

    Raises:
        LabkitError: there is none.
    """
    known = ALIASES.get(name.strip().lower(), name.strip().lower())
    if known not in TEMPLATES:
        raise LabkitError(f"template_name {name!r} is unknown: {nearest(name, TEMPLATES)}; leave "
                          "it out for the template that comes with the model")  # fmt: skip
    return TEMPLATES[known]


def use(tokenizer: Any, name: str) -> Any:
    """Return the tokenizer with the template of a name; its own with none, "".

    Its end token becomes the one that ends the template's answers, so that a model taught with it
    stops there.

    Raises:
        LabkitError: there is no such template, or its end is no token of this tokenizer.
    """
    if not name:
        return tokenizer
    template = find(name)
    if template.end and template.end not in tokenizer.get_vocab():
        raise LabkitError(
            f"template_name {name} ends an answer with {template.end}, which is no token of this "
            "model's tokenizer, so it could not stop: choose a template that ends with the "
            f"tokenizer's own end token ({', '.join(k for k, t in TEMPLATES.items() if not t.end)})"
        )
    begins = "{{ bos_token }}" if template.start and _begins_texts(tokenizer) else ""
    tokenizer.chat_template = begins + template.jinja
    if template.end:
        tokenizer.eos_token = template.end
    return tokenizer


def _begins_texts(tokenizer: Any) -> bool:
    return tokenizer.bos_token_id is not None and (
        list(tokenizer("")["input_ids"])[:1] == [tokenizer.bos_token_id]
    )
