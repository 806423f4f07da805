"""One frozen `RunConfig` says everything about a run.

A run is its settings: change one and it is another run, keep them all and labkit returns the
record it already has. So there is one flat dataclass, with the names the field uses: those of
`transformers.TrainingArguments`, `trl.SFTConfig` and `peft.LoraConfig` wherever they have one.
A docstring line under each field says what it does; `labkit train --settings` prints them.

Settings come from a YAML or JSON file, then from `--key value` on the command line. The JSON
files of the older course projects are read too (`older_projects`).
"""

import dataclasses
import json
import typing
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from labkit import methods
from labkit.datasets import templates
from labkit.errors import LabkitError, brief, nearest, parse_json
from labkit.runs import task_settings
from labkit.runs.older_projects import RENAMED, RETIRED, RETIRED_OPTIM, as_meant
from labkit.runs.values import read

if TYPE_CHECKING:
    from labkit.methods.bottleneck import BottleneckSettings
    from labkit.methods.ia3 import IA3Settings
    from labkit.methods.llama_adapter import LlamaAdapterSettings
    from labkit.methods.lora import LoraSettings
    from labkit.methods.virtual_tokens import VirtualTokens

CONFIGS = Path(__file__).with_name("configs")
LARGEST_SEED = 2**32 - 1
LONGEST_NAME = 200
MOST_CONFIG_BYTES = 2**20
# PyYAML turns a tag without a value, such as `!!int ""`, or with a wrong one into any of these.
_UNREAD = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError)


@dataclass(frozen=True, kw_only=True)
class _What:
    """The settings that come first: what is trained, on what."""

    name: str = ""
    """folder under runs/; empty: model, method and a hash of the settings"""
    model: str = "smollm2-135m-instruct"
    """registry name, local folder, or Hub id of the pretrained model"""
    data: str = "tables"
    """a data set: its name, NAME:PATH, or a file or folder; see labkit data list"""
    template_name: str = ""
    """chat template by name, as chatml or llama2; empty: the one that comes with the model"""
    bad_rows: Literal["refuse", "skip"] = "refuse"
    """rows that cannot be trained on or do not fit: 'refuse' to start, or 'skip' and count"""
    method: str = "lora"
    """what is trained: full for every weight, or a method that adds to a frozen base, as lora"""
    base: str = "plain"
    """how frozen weights are stored: plain, 8bit (int8) or nf4 (4 bits, QLoRA's)"""
    double_quant: bool = True
    """with base nf4: quantise the scales of its blocks once more, 4.13 bits a weight, not 4.5"""
    task: str = "sft"
    """what is learned: 'sft' answers, 'seq2seq' T5's, 'pretrain' all text, 'dpo' preferences"""


_COLLECTED = (*methods.settings_of_training(), *task_settings.OF_TASKS)
if TYPE_CHECKING:  # a checker cannot follow bases that are collected

    class _OfMethods(
        LoraSettings, VirtualTokens, IA3Settings, LlamaAdapterSettings, BottleneckSettings,
        task_settings.TextSettings, task_settings.PreferenceSettings, _What,
    ): ...  # fmt: skip

else:
    # Fields of the first method come first, and a dataclass collects those of the last base first.
    _OfMethods = type("_OfMethods", (*_COLLECTED[::-1], _What), {})


@dataclass(frozen=True, kw_only=True)
class RunConfig(_OfMethods):
    """Settings of one fine-tuning run. Defaults are the course's LoRA run on two cores.

    What is trained comes first, then the settings of every method that can be trained, each from
    its file in `labkit.methods`, those of tasks (`task_settings`), then those of all runs.
    """

    max_steps: int = 300
    """optimizer steps; -1 trains num_train_epochs epochs instead"""
    num_train_epochs: float = 1.0
    """passes over the training split, used when max_steps is -1 or not given"""
    per_device_train_batch_size: int = 2
    """sequences in one forward and backward pass; a sequence is a report with its questions"""
    gradient_accumulation_steps: int = 1
    """passes whose gradients are added up before each optimizer step"""
    learning_rate: float = 1e-3
    """peak learning rate; LoRA wants about ten times that of full fine-tuning"""
    weight_decay: float = 0.0
    """decoupled weight decay of AdamW, applied to trained weights other than norms and biases"""
    warmup_steps: float = 0.05
    """steps of linear warm-up; below 1 a share of all steps"""
    lr_scheduler_type: str = "linear"
    """shape of the learning rate after warm-up: linear, cosine, constant_with_warmup …"""
    optim: str = "adamw_torch_fused"
    """optimizer, by its transformers name: adamw_torch_fused, adamw_torch, sgd, adafactor …"""
    max_grad_norm: float = 1.0
    """gradients are scaled down to this norm before each step; 0 leaves them alone"""
    max_length: int = 1024
    """longest sample in tokens; longer reports lose paragraphs, then rows, never the question"""
    gradient_checkpointing: bool = False
    """keep only layer inputs for the backward pass and compute the rest again"""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """compute type; 'auto' takes the one that is fast here, and bfloat16 on a GPU"""
    seed: int = 42
    """seed of data order, adapter initialisation and dropout"""
    max_train_samples: int | None = None
    """use only the first samples of the training split"""

    fast: bool = True
    """labkit's faster step: the settings below, logits only where there is a loss, the allocator"""
    share_prompts: bool = True
    """all questions on a report in one sequence that reads it once; false: a sequence each"""
    attn_implementation: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """attention code; 'auto': eager for short samples in bfloat16 on a CPU, else sdpa"""
    torch_compile: Literal["auto", "on", "off"] = "auto"
    """compile decoder layers; 'auto' when a run in bfloat16 is long enough to earn it back"""

    use_switchback: bool = False
    """int8 products in linear layers' forward and input gradient (SwitchBack, lesson 04)"""
    switchback_min_features: int = 1024
    """narrower linear layers stay as they are: quantising them costs more than int8 saves"""
    switchback_weight_scale: Literal["row", "tensor"] = "row"
    """one scale per row of a weight, or one for all of it"""
    switchback_weight_gradient: Literal["torch", "tiles"] = "torch"
    """16-bit weight gradients as nn.Linear's, or faster ones that sum in another order"""

    nproc: int = 1
    """processes that share each step, one a GPU or as many as CPUs can feed; a batch in each"""
    sharding: Literal["none", "fsdp2", "zero1", "zero2", "zero3"] = "none"
    """what they share: no state, all (fsdp2, zero3), Adam's (zero1), and gradients (zero2)"""
    deepspeed: str = ""
    """JSON file of DeepSpeed's settings, whose stage is the sharding; "auto" in it means ours"""

    eval_steps: int = 0
    """loss on the development split every so many steps, outside the measured time; 0: never"""
    max_eval_samples: int | None = None
    """use only the first samples of the development split for that loss"""
    save_steps: int = 100
    """a checkpoint to resume from every so many steps; one is kept, none after the run"""
    keep_weights: bool = True
    """keep what was trained; false for a run that only measures time and memory"""
    report_to: Literal["none", "tensorboard"] = "none"
    """'tensorboard' writes logs to runs/<name>/tensorboard"""

    def __post_init__(self) -> None:
        if self.template_name:
            templates.find(self.template_name)
        for key, hint in HINTS.items():
            if hint is float:  # 0 and 0.0 are one setting, and have to be one in the hash
                object.__setattr__(self, key, float(getattr(self, key)))
        for settings in _COLLECTED:
            settings.check(self)
        methods.check_base(self.method, self.base)
        if self.use_switchback and self.base != "plain":
            raise LabkitError(
                f"use_switchback multiplies plain weights, which base {self.base} has none of: set "
                "one of them to its default"
            )
        methods.check_run(self)
        task_settings.check_run(self)
        positive = ("per_device_train_batch_size", "save_steps", "gradient_accumulation_steps",
                    "num_train_epochs", "max_length", "learning_rate", "nproc")  # fmt: skip
        for key in positive:
            if not getattr(self, key) > 0:
                raise LabkitError(f"{key} must be above 0, got {getattr(self, key)!r}")
        for key in (
            "weight_decay",
            "warmup_steps",
            "max_grad_norm",
            "eval_steps",
            "seed",
            "switchback_min_features",
        ):
            if getattr(self, key) < 0:
                raise LabkitError(f"{key} must be 0 or more, got {getattr(self, key)!r}")
        if self.seed > LARGEST_SEED:
            raise LabkitError(f"seed must be at most {LARGEST_SEED}, got {self.seed}")
        if self.max_steps == 0 or self.max_steps < -1:
            raise LabkitError(f"max_steps must be above 0, or -1 for epochs, got {self.max_steps}")
        for key in ("max_train_samples", "max_eval_samples"):
            count = getattr(self, key)
            if count is not None and count <= 0:
                raise LabkitError(f"{key} must be above 0, got {count}")
        plain = Path(self.name).name == self.name and self.name.isprintable()
        if not plain or self.name.startswith(".") or len(self.name.encode()) > LONGEST_NAME:
            raise LabkitError(f"name {self.name!r} must be a plain folder name such as 'my-run'")

    @property
    def samples_per_step(self) -> int:
        """Samples that one optimizer step sees on one device."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    def replace(self, **changes: Any) -> "RunConfig":
        """Return a copy with some settings changed, checked like the settings of a file."""
        return from_mapping({**self.to_dict(), **changes}, where="replace()")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON and YAML can hold."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


FIELDS = {f.name: f for f in dataclasses.fields(RunConfig)}
HINTS = typing.get_type_hints(RunConfig)
_DEFAULT = RunConfig.method
# Names of the methods there are, the default first.
HINTS["method"] = Literal[tuple(sorted(methods.in_training(), key=lambda name: name != _DEFAULT))]
HINTS["base"] = Literal[tuple(methods.BASES)]


def from_mapping(values: Mapping[str, Any], *, where: str) -> RunConfig:
    """Build a `RunConfig` from plain values; `where` names their source in errors.

    Strings are read as the field's type, so that command-line values need no quoting. Renamed
    keys are taken; retired ones are named in a warning with the reason.

    Raises:
        LabkitError: an unknown key (with the nearest right one), a wrong type or value.
    """
    values = methods.spelt_out(as_meant(values, where), where)
    settings: dict[str, Any] = {}
    for key, value in values.items():
        key = str(key).replace("-", "_")
        if key in RETIRED:
            warnings.warn(f"{where}: {key} is ignored: {RETIRED[key]}", stacklevel=2)
            continue
        new = RENAMED.get(key, key)
        if new not in FIELDS:
            hint = nearest(key[:80], FIELDS)
            raise LabkitError(f"{where}: unknown setting {brief(key)}: {hint}")
        if new in settings:
            raise LabkitError(f"{where}: {key!r} sets {new} a second time: keep one of them")
        if new == "optim" and isinstance(value, str) and value in RETIRED_OPTIM:
            warnings.warn(f"{where}: optim {value} is gone from transformers: "
                          f"{RETIRED_OPTIM[value]} takes its place", stacklevel=2)  # fmt: skip
            value = RETIRED_OPTIM[value]
        settings[new] = read(value, HINTS[new], key=key, where=where)
        if key == "warmup_ratio" and settings[new] >= 1:
            raise LabkitError(f"{where}: warmup_ratio {settings[new]:g} is no share below 1: say "
                              "warmup_steps for a number of steps")  # fmt: skip
    try:
        return RunConfig(**settings)
    except LabkitError as error:
        raise LabkitError(f"{where}: {error}") from None


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a YAML or JSON file, or the name of a shipped configuration, and apply overrides.

    Raises:
        LabkitError: no such file, not a mapping, or anything `from_mapping` refuses.
    """
    import yaml

    file = Path(path)
    if not file.suffix and not file.exists() and (CONFIGS / f"{path}.yaml").exists():
        file = CONFIGS / f"{path}.yaml"
    try:
        with open(file, "rb") as handle:
            content = handle.read(MOST_CONFIG_BYTES + 1)
    except (OSError, ValueError) as error:
        shipped = [p.stem for p in CONFIGS.glob("*.yaml")]
        raise LabkitError(
            f"configuration {str(path)!r} cannot be read ({getattr(error, 'strerror', error)}): "
            f"name a YAML or JSON file, or a shipped one: {', '.join(sorted(shipped))}"
        ) from None
    if len(content) > MOST_CONFIG_BYTES:
        raise LabkitError(f"configuration {file} is larger than {MOST_CONFIG_BYTES / 2**20:g} MiB: "
                          "name the YAML or JSON file of one run")  # fmt: skip
    try:
        # YAML's and JSON's encodings are the same; a byte-order mark goes.
        text = content.decode(json.detect_encoding(content))
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text or (b"\0" in content and ":" not in text):
        raise LabkitError(f"configuration {file} is not a text file")
    try:
        if file.suffix.lower() == ".json":
            values = parse_json(text.encode(), "it", pairs=_once)
        else:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            if isinstance(node, yaml.MappingNode):
                _once((key.value, value) for key, value in node.value
                      if isinstance(key, yaml.ScalarNode))  # fmt: skip
            values = yaml.safe_load(text)
    except RecursionError:
        raise LabkitError(f"configuration {file} is not valid: nested too deeply") from None
    except (LabkitError, yaml.YAMLError, *_UNREAD) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise LabkitError(f"configuration {file} is not valid: {first}") from None
    if not isinstance(values, Mapping):
        raise LabkitError(f"configuration {file} must hold 'key: value' lines")
    if overrides:
        # What the command line decides is no longer the file's to leave out.
        said = _canonical(overrides)
        asked = {key: said[key] for key in ("method", "task_type") if key in said}
        if asked:
            names = {*asked, *(k for k, new in RENAMED.items() if new in asked)}
            values = {k: v for k, v in values.items() if str(k).replace("-", "_") not in names}
            values |= asked
    base = from_mapping(values, where=str(file))
    if not overrides:
        return base
    said = _canonical(overrides)
    if "num_train_epochs" in said:
        said = {"max_steps": -1, **said}
    # Only what the file says and what overrides say: checks that span keys see the sum.
    return from_mapping({**base.to_dict(), **said}, where="command line")


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return a mapping; LabkitError for a key that is given twice, where JSON takes the last."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise LabkitError(f"{brief(key)} is in it twice: keep one of them")
        values[key] = value
    return values


def _canonical(values: Mapping[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for key, value in values.items():
        key = key.replace("-", "_")
        new = RENAMED.get(key, key)
        if new in settings:
            raise LabkitError(f"command line: {key!r} sets {new} a second time: keep one of them")
        settings[new] = value
    return settings


def describe_fields() -> dict[str, str]:
    """Return each setting's one-line description, read from the docstrings under the fields."""
    import ast
    import inspect
    import textwrap

    lines = {}
    for kind in reversed(RunConfig.__mro__):
        if not kind.__dict__.get("__annotations__"):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(tree, ast.ClassDef)
        for node, after in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr):
                assert isinstance(node.target, ast.Name) and isinstance(after.value, ast.Constant)
                lines[node.target.id] = str(after.value.value)
    return lines
