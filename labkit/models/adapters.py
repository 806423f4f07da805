"""Adapter folders that somebody else wrote: which base they mean, and whether they fit it.

A PEFT folder names its base as it was called where it was trained: a path, a Hub id, or a
quantised copy such as `unsloth/NAME-bnb-4bit`. Where that is a model of the registry under
another name, it is used, and that is said; `--base` decides otherwise.

What is stored may also not be what was trained (`adapter_weights` reads it). A vocabulary that was
enlarged before training needs a base with as many rows. A LoRA that starts at the principal
components of a weight (PiSSA and its like) takes them out of the base, and has to take out the same
again.
"""

import contextlib
import contextvars
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.console import quiet_bitsandbytes, say
from labkit.errors import LabkitError, brief, nearest, read_json
from labkit.files import expanded
from labkit.models import bottleneck, registry
from labkit.models.specs import MODELS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BASE: contextvars.ContextVar[str] = contextvars.ContextVar("base", default="")
_QUANTISED = re.compile(
    r"[-_.](unsloth|bnb|4bit|8bit|[248]bits?|nf4|int[48]|fp8|awq|gptq|gguf|mlx|dynamic|q\d\w*|"
    r"dwq|w\d+a\d+|quantized|bf16|fp16)$"
)
_SAID: set[str] = set()
RANDOM_STARTS = ("pissa_niter_", "corda", "lora_ga")
"""Starts that change the base by what can't be calculated again from the base alone."""


@contextlib.contextmanager
def on_base(base: str | None) -> Iterator[None]:
    """Load adapters on this base (name, folder or Hub id), whatever they name."""
    token = _BASE.set(base or "")
    try:
        yield
    finally:
        _BASE.reset(token)


def read_config(folder: Path) -> dict[str, Any] | None:
    """Return the PEFT configuration in `folder`, or None when there is none.

    Raises LabkitError for what is no configuration of PEFT: another shape, another library's, or a
    method that the installed PEFT does not know.
    """
    path = folder / "adapter_config.json"
    if not path.is_file():
        return None
    try:
        settings = read_json(path)
    except LabkitError as error:
        reason = str(error).removeprefix(f"{path} ")
        raise LabkitError(f"{path} is not readable as JSON ({reason}): save it again") from None
    if not isinstance(settings, dict):
        raise LabkitError(f"{path} holds {brief(settings)}, where PEFT has an object of settings")
    kind = settings.get("peft_type")
    mlx = {"lora_parameters", "fine_tune_type", "num_layers", "lora_layers"} & set(settings)
    if kind is None and (mlx or (folder / "adapters.safetensors").is_file()):
        raise LabkitError(
            f"{folder} holds an adapter of MLX, whose tensors PEFT cannot read: merge it there "
            "(mlx_lm.fuse) and use the merged model"
        )
    if kind is None:
        raise LabkitError(f"{path} has no peft_type, which says what kind of adapter it is: "
                          "save it with PEFT again")  # fmt: skip
    quiet_bitsandbytes()  # PEFT imports it
    from peft import PeftType

    known = [*(str(each.value) for each in PeftType), bottleneck.PEFT_TYPE]
    if kind not in known:
        raise LabkitError(f"{path} has peft_type {brief(kind)}: "
                          f"{nearest(str(kind), [each.lower() for each in known])}")  # fmt: skip
    return settings


def base_of(folder: Path, settings: dict[str, Any]) -> Path:
    """Return the folder of the base that an adapter's configuration names.

    Raises LabkitError when it is not on this machine, with what to do.
    """
    given = settings.get("base_model_name_or_path")
    named = _BASE.get() or (given if isinstance(given, str) else "")
    if not named:
        raise LabkitError(f"the adapter in {folder} needs its base model, and does not say which "
                          "that is: name it with --base")  # fmt: skip
    if _BASE.get():
        return registry.resolve(named)
    known = registered(named)
    try:
        if known is None or expanded(named).is_dir() or named in registry.known_names():
            return registry.resolve(named)
        with contextlib.suppress(LabkitError):
            return registry.resolve(named, fetch=False)
        if named not in _SAID:
            _SAID.add(named)
            say(f"{folder.name}: its base {named} is taken to be {known} (--base NAME for another)")
        return registry.resolve(known)
    except LabkitError as error:
        raise LabkitError(f"the adapter in {folder} needs its base model: {error}") from error


def registered(named: str) -> str | None:
    """Return the registry's name of a model that goes by a path, a Hub id, or a quantised copy's.

    >>> registered("unsloth/SmolLM2-135M-Instruct-bnb-4bit")
    'smollm2-135m-instruct'
    """
    names = {name.lower(): name for name in registry.known_names()}
    for name in registry.known_names():
        hub_id = MODELS[name].hub_id if name in MODELS else None
        if hub_id:
            names.setdefault(hub_id.rsplit("/", 1)[-1].lower(), name)
    last = re.split(r"[/\\]", named.rstrip("/\\"))[-1].lower()
    for part in re.split(r"[/\\]", named):
        # The Hub's cache, on the machine where it was trained.
        if part.startswith("models--"):
            last = part.rsplit("--", 1)[-1].lower()
    while last not in names and (found := _QUANTISED.search(last)):
        last = last[: found.start()]
    return names.get(last)


def refuse_unrepeatable(folder: Path, settings: dict[str, Any]) -> None:
    """Raise LabkitError for an adapter whose start took from the base what can't be known again."""
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(RANDOM_STARTS):
        raise LabkitError(
            f"the adapter in {folder} began as {start}, which changed its base by an approximation "
            "that comes out differently each time: save it with "
            "path_initial_model_for_weight_conversion, or train with pissa"
        )


def fit_vocabulary(
    model: "PreTrainedModel", folder: Path, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Resize a base to the rows of the embedding or head among an adapter's stored shapes."""
    inner, outer = model.get_input_embeddings(), model.get_output_embeddings()
    names = {id(module): name for name, module in model.named_modules()}
    rows = set()
    for key, shape in shapes.items():
        for module in (inner, outer):
            name = names.get(id(module), "")
            if not name or f".{name}." not in key:
                continue
            end = key.rsplit(f".{name}.", 1)[-1]
            if end in ("weight", "base_layer.weight", "modules_to_save.weight"):
                rows.add(shape[0])
            elif end.startswith("lora_embedding_A"):
                rows.add(shape[-1])
            elif end.startswith("lora_B") and module is outer:
                rows.add(shape[0])
    if len(rows) > 1:
        raise LabkitError(f"the adapter in {folder} stores an embedding and a head of different "
                          f"sizes ({', '.join(map(str, sorted(rows)))} rows)")  # fmt: skip
    if rows and next(iter(rows)) != inner.weight.shape[0]:
        # What the new rows begin as does not matter: the stored ones replace them.
        model.resize_token_embeddings(next(iter(rows)), mean_resizing=False)


def keep_precision(model: Any, folder: Path) -> None:
    """Hold an adapter's numbers in the type they are stored in, where PEFT took the base's.

    LLaMA-Adapter's are made in the type of the layer beside them.
    """
    from safetensors import safe_open

    narrow = {n: p for n, p in model.named_parameters() if p.dtype.itemsize < 4}
    for file in sorted(folder.glob("adapter_model*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in narrow.keys() & set(tensors.keys()):
                narrow[name].data = tensors.get_tensor(name).to(narrow[name].device)


def untie_trained(model: Any) -> None:
    """Give a tied head its own weight where an adapter is about to change one of the two.

    Beside a tied embedding an adapter changes one use of the weight; merged into it, both.
    """
    import torch

    base = model.get_base_model()
    inner, outer = base.get_input_embeddings(), base.get_output_embeddings()
    if inner is None or outer is None:
        return
    held = [getattr(module, "base_layer", None) or getattr(module, "original_module", module)
            for module in (inner, outer)]  # fmt: skip
    touched = any(hasattr(m, "base_layer") or hasattr(m, "modules_to_save") for m in (inner, outer))
    if touched and held[0].weight is held[1].weight:
        held[1].weight = torch.nn.Parameter(held[0].weight.detach().clone(), requires_grad=False)


def untie_layers(model: Any) -> None:
    """Give layers that an adapter repeats (`layer_replication`) weights of their own.

    They share those of one layer, and what is merged into one would be in all of them.
    """
    import torch

    if not any(getattr(each, "layer_replication", None) for each in model.peft_config.values()):
        return
    base, seen = model.get_base_model(), set()
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    for module in base.modules():
        for name, weight in module.named_parameters(recurse=False):
            if id(weight) in seen and module not in ends:
                copy = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)
                setattr(module, name, copy)
            seen.add(id(weight))


def mark_untied(model: Any) -> None:
    """Say in a model's configuration that its head is its own, where it is."""
    inner, outer = model.get_input_embeddings(), model.get_output_embeddings()
    if inner is None or outer is None or inner.weight is outer.weight:
        return
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    # Where tied names were settled when the model was built.
    if getattr(model, "all_tied_weights_keys", None):
        model.all_tied_weights_keys = {}
