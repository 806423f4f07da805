"""From a 4-bit GGUF file to the bf16 safetensors folder that everything else loads.

GGUF's Q4_1 stores weights in blocks of 32: each block has a scale d and a minimum m
in half precision and 32 four-bit integers q, and a weight is read back as

    w = d · q + m,        q in 0 … 15,

5 bits per weight on disk ((32·4 + 2·16) / 32). Reading back does not undo the rounding:
the weights are near the released bf16 ones (within half a step d), not equal to them.
That is why the folder records "dequantised from Q4_1", and why a score of this model is
not a score of the release it came from.

transformers reads GGUF, but keeps the quantisation in the configuration and then refuses
to save. So the numbers of the architecture come from the registry, the weights from the
file, and what is saved is an ordinary model. The vocabulary, merges and ChatML template
come from the file too.

Source: llama.cpp, ggml-quants (`block_q4_1`); transformers, "GGUF and interaction with
Transformers". `python -m labkit.models.convert GGUF FOLDER CONFIG_JSON` runs this in a
process of its own, so that its memory (fp32 weights, 540 MB) is not counted as the
student's.
"""

import contextlib
import ctypes
import json
import signal
import sys
from pathlib import Path

from labkit.console import quiet


def convert_gguf(gguf_file: Path, folder: Path, config: dict) -> None:
    """Write `folder` with bf16 safetensors, tokenizer and configuration read from `gguf_file`.

    `config` holds the numbers of a `LlamaConfig` (see `registry.MODELS`). Raises
    `ValueError` when the file's tensors do not fill exactly that architecture.
    """
    import torch
    import transformers

    where = {"pretrained_model_name_or_path": str(gguf_file.parent), "gguf_file": gguf_file.name}

    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    if not tokenizer.chat_template:
        raise ValueError(f"{gguf_file.name} carries no chat template")
    tokenizer.model_max_length = config["max_position_embeddings"]
    # Both record how the tokenizer was found here, which no other reader needs.
    for key in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(key, None)
    tokenizer.save_pretrained(folder)

    read = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    plain = transformers.LlamaConfig(**config, dtype="bfloat16")
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(plain)
    weights = {k: v.to(torch.bfloat16) for k, v in read.state_dict().items()}
    del read
    # `strict` is the check that names and number of tensors agree; shapes are checked too.
    try:
        model.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{gguf_file.name} does not hold the model expected: {error}") from error
    model.tie_weights()
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)


def _die_with_parent() -> None:
    """Ask Linux to end this process with the one that started it, which cleans up after it."""
    with contextlib.suppress(AttributeError, OSError):
        pr_set_pdeathsig = 1  # <linux/prctl.h>
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


if __name__ == "__main__":
    _die_with_parent()
    with quiet():
        convert_gguf(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
