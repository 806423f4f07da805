"""From a folder to a tokenizer and a model, without noise and without network.

Three kinds of folder are models here. A *plain* one holds `config.json` and weights. A
*full run* of ours is the same, written by training. An *adapter* holds only what training
changed, W = W₀ + (α/r)·B·A in LoRA's case, and names the base that W₀ comes from; the base is
looked up by its name first, so an adapter can be given to someone whose models lie elsewhere.

bf16 weights take half the bytes of fp32 and are what inference wants; for training with
full fine-tuning load fp32 (small updates vanish in bf16's 8 bits of mantissa).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.console import quiet, quiet_bitsandbytes
from labkit.errors import LabkitError, brief, nearest, read_json, said
from labkit.models import adapter_weights, adapters, bottleneck, quantised, registry

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("bfloat16", "float16", "float32")
MOST_QUOTED = 300
"""characters of a library's own words in an error"""


def adapter_config(folder: Path) -> dict[str, Any] | None:
    """Return the PEFT configuration in `folder`, or None when it is not an adapter."""
    return adapters.read_config(folder)


def base_folder(folder: Path) -> Path:
    """Return where the base model of the adapter in `folder` is; `folder` itself if plain."""
    adapter = adapter_config(folder)
    return folder if adapter is None else adapters.base_of(folder, adapter)


def fingerprint_with_base(folder: Path) -> str:
    """Return a hash that changes with what a model answers: an adapter's base is in it.

    Raises:
        LabkitError: the base is not on this machine.
    """
    own, base = registry.fingerprint_of(folder), base_folder(folder)
    return own if base == folder else f"{own} on {registry.fingerprint_of(base)}"


def load_tokenizer(path: str | Path) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a model, run or adapter folder (or registry name).

    An adapter without a tokenizer of its own uses its base's. A tokenizer without a padding
    token pads with its end token.

    Raises:
        LabkitError: there is no tokenizer, or it has neither of these tokens.
    """
    from transformers import AutoTokenizer

    folder = registry.resolve(str(path))
    if not (folder / "tokenizer_config.json").is_file():
        folder = base_folder(folder)
    with quiet(), one_sentence(folder, what="tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise LabkitError(f"the tokenizer in {folder} has neither an end nor a padding token: "
                              "set eos_token in its tokenizer_config.json")  # fmt: skip
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    path: str | Path, *, dtype: str = "bfloat16", dequantised: bool = False, **kw: Any
) -> "PreTrainedModel":
    """Load the model in a folder (or of a registry name) in evaluation mode, from disk only.

    `dtype` is bfloat16, float16 or float32; `kw` goes to `from_pretrained`
    (`attn_implementation`, `device_map`, `quantization_config`). An adapter folder gives a
    `PeftModel` on its base. A base in fewer bits is quantised as it was for training, or, with
    `dequantised`, holds what those bits stand for as plain weights. Raises `LabkitError`
    when the folder holds no loadable model.
    """
    if dtype not in DTYPES:
        raise LabkitError(f"dtype {dtype!r} is not known: {nearest(dtype, DTYPES)}")
    folder = registry.resolve(str(path))
    import torch
    import transformers

    base = base_folder(folder)
    adapter_weights.refuse_ungathered(base)
    shapes = {}
    if base != folder:
        settings = adapter_config(folder) or {}
        adapters.refuse_unrepeatable(folder, settings)
        shapes = adapter_weights.shapes(folder, settings)
    form = None if base == folder else quantised.trained_on(folder)
    if form and form.quantised and "quantization_config" not in kw and _stored_in(base) is None:
        kw["quantization_config"] = quantisation_settings(
            form.base, dtype=dtype, double_quant=form.double_quant
        )
    elif form:
        form = None
    if "quantization_config" in kw or _stored_in(base) is not None:
        quiet_bitsandbytes()
    held = quantised.dtype_of_base(folder, adapter_config(folder) or {}, dtype)
    with quiet(), one_sentence(base):
        config = transformers.AutoConfig.from_pretrained(base, local_files_only=True)
        model = auto_class(config).from_pretrained(
            base, dtype=getattr(torch, held), local_files_only=True, **kw
        )
        if form:
            quantised.keep_unpacked(model)
        if form and dequantised:
            model = quantised.dequantise(model, dtype)
    if base != folder:
        from peft import PeftModel

        adapters.fit_vocabulary(model, folder, shapes)
        bottleneck.register()
        with (
            quiet(),
            quantised.loftq_on_any_device(),
            one_sentence(folder, advice=f"was it trained on {base}?"),
        ):
            model = PeftModel.from_pretrained(model, folder, local_files_only=True)
        refuse_foreign(model, folder, base, stored=set(shapes))
        adapters.keep_precision(model, folder)
        quantised.stretch_in_its_type(model)
        if held != dtype:
            quantised.cast_base(model, dtype)
    model = model.eval()
    if form and not dequantised and dtype == "float32":
        quantised.multiply_as_trained(model)
    return model


@contextmanager
def one_sentence(folder: Path, *, what: str = "model", advice: str = "") -> Iterator[None]:
    """Turn what loading damaged or foreign files raises into a `LabkitError` naming `folder`.

    Libraries raise anything: of a file that is none of theirs whatever they stumble over.
    """
    try:
        yield
    except (LabkitError, ImportError):
        raise  # a library that is missing is none of the folder's faults
    except Exception as error:
        # Out of memory is not for us to rename.
        known = isinstance(error, RecursionError) or "size mismatch" in str(error)
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and not known):
            raise
        first = said(error)[:MOST_QUOTED]
        if isinstance(error, KeyError | TypeError | AttributeError):
            first = f"{type(error).__name__}: {first}"
        advice = advice or (
            f"the folder is damaged or not a {what} of transformers; fetch or train it again"
        )
        raise LabkitError(f"no {what} can be loaded from {folder} ({first}): {advice}") from error


def refuse_foreign(model: "PreTrainedModel", folder: Path, base: Path, *, stored: set[str]) -> None:
    """Raise LabkitError when the adapter's stored tensors are not those its base has places for.

    PEFT leaves out what does not fit (an adapter of a deeper model, say) without an error.
    """
    from peft import get_peft_model_state_dict

    places = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    # An embedding or a head that was resized, or trained whole, is stored as it is.
    whole = [f".{name.split('base_model.model.')[-1]}."
             for name, module in model.named_modules() if module in ends]  # fmt: skip
    wrong = (places - stored) | {
        key for key in stored - places if "embed" not in key and not any(w in key for w in whole)
    }
    if wrong:
        raise LabkitError(
            f"the adapter in {folder} does not fit {base}, which has {len(places)} places for "
            f"{len(stored)} tensors ({brief(min(wrong))}): was it trained on another model?"
        )


def quantisation_settings(to: str, *, dtype: str = "bfloat16", double_quant: bool = True) -> Any:
    """Return what bitsandbytes is told: LLM.int8() for "8bit", QLoRA's 4 bits for "nf4".

    `dtype` is what 4-bit weights are multiplied in; with `double_quant` their scales are quantised
    once more.
    """
    from transformers import BitsAndBytesConfig

    if to == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=dtype,
    )  # fmt: skip


def quantisation(path: str | Path, *, stored: bool = False) -> str | None:
    """Return "8bit", "nf4" or another type a model's weights are held in, None if plain.

    With `stored` that of the files: an adapter may be beside a base that is quantised when it is
    loaded, and stored plain.
    """
    folder = registry.resolve(str(path))
    form = None if stored or adapter_config(folder) is None else quantised.trained_on(folder)
    return form.base if form and form.quantised else _stored_in(base_folder(folder))


def quantised_when_loaded(path: str | Path) -> bool:
    """Return whether an adapter's base is stored plain and quantised as it was for training."""
    return quantisation(path) is not None and quantisation(path, stored=True) is None


def _stored_in(folder: Path) -> str | None:
    try:
        config = read_json(folder / "config.json")
    except LabkitError:
        return None
    stored = config.get("quantization_config") if isinstance(config, dict) else None
    if not isinstance(stored, dict) or not stored:
        return None
    if stored.get("load_in_8bit"):
        return "8bit"
    if stored.get("load_in_4bit"):
        return str(stored.get("bnb_4bit_quant_type", "4bit"))
    return str(stored.get("quant_method", "quantised"))


def stored_dtype(path: str | Path) -> str:
    """Return the type most weights of a model, or of an adapter's base, are kept in.

    Of a quantised one the type of what stayed unquantised. Files of another form than safetensors
    count as what `config.json` says, or float32.
    """
    from safetensors import safe_open

    folder = base_folder(registry.resolve(str(path)))
    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    numbers = dict.fromkeys(names, 0)
    for file in sorted(folder.glob("*.safetensors")):
        with one_sentence(folder), safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118
                stored = tensors.get_slice(key)
                if stored.get_dtype() in names:
                    numbers[stored.get_dtype()] += math.prod(stored.get_shape())
    if any(numbers.values()):
        return names[max(numbers, key=lambda name: numbers[name])]
    said = str(getattr(config_of(str(folder)), "dtype", None)).removeprefix("torch.")
    return said if said in DTYPES else "float32"


def auto_class(config: "PreTrainedConfig") -> Any:
    """Return transformers' auto class that fits: T5 reads and writes, all others only write on."""
    import transformers

    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModelForCausalLM


def config_of(name_or_path: str) -> "PreTrainedConfig":
    """Return the transformers configuration of a registry name, without weights or network.

    For a folder its own `config.json` is read.
    """
    import transformers

    if name_or_path in registry.known_names():
        spec = registry.spec(name_or_path)
        return transformers.AutoConfig.for_model(spec.architecture, **spec.config)
    folder = base_folder(registry.resolve(name_or_path, fetch=False))
    with quiet(), one_sentence(folder):
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
