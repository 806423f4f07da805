"""What decides the memory of a training step, in one frozen dataclass.

All three columns of the memory table answer the same question about the same `StepSettings`:
`formula` on paper, `trace` with tensors that have shapes and no storage, `measured` by running it.
Every field is something a published figure must state before it can be reproduced; figures
that differ by a factor of two usually differ in one of these and say nothing of it.

Names are those of Hugging Face's `TrainingArguments` and PEFT's `LoraConfig` where they have one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from labkit import methods
from labkit.errors import LabkitError, nearest
from labkit.methods import BASES, Base, Method
from labkit.runs.task_settings import Reference, check_reference

OPTIMIZERS = (
    "adamw_torch_fused", "adamw_torch", "adamw_torch_foreach", "adamw_torch_loop",
    "adamw_bnb_8bit", "sgd", "adafactor",
)  # fmt: skip
SHARDINGS = ("none", "zero1", "zero2", "zero3", "fsdp2")
MOST = 2**24  # of anything that is counted: above, sizes leave the range of 64-bit integers
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

# Names that the same thing goes by elsewhere.
ALIASES = {
    "adamw_8bit": "adamw_bnb_8bit", "paged_adamw_8bit": "adamw_bnb_8bit", "adamw": "adamw_torch",
    "bf16": "bfloat16", "fp16": "float16", "fp32": "float32",
    "int8": "8bit", "lora-8bit": "8bit", "prefix-tuning": "prefix", "prompt-tuning": "prompt",
}  # fmt: skip
# What settings of methods are called here: names that say whose they are.
METHOD_FIELDS = {"r": "lora_r", "target_modules": "lora_target_modules"}


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """One optimizer step on one device, as far as its memory depends on it."""

    model: str
    """registry name, local folder or Hub id; only its configuration is read"""
    method: str = "lora"
    """what is trained: one of `methods.names()`; qlora and 8bit are LoRA on a quantised base"""
    base: str | None = None
    """how frozen weights are stored: plain, 8bit or nf4; None: as the method's name says"""
    batch_size: int = 1
    """samples in one forward and backward pass on one device; with a reference, pairs of answers"""
    seq_len: int = 1024
    """tokens of every sample, padding included"""
    target_len: int | None = None
    """tokens that an encoder-decoder's decoder writes of a sample; None: seq_len"""
    target: Literal["cuda", "cpu"] = "cuda"
    """whose code paths and allocator the step stands for"""

    dtype: str = "bfloat16"
    """compute type"""
    master_weights: bool | None = None
    """fp32 weights under autocast; None: for full fine-tuning in 16 bit, as labkit trains"""
    adapter_dtype: str | None = None
    """type of added weights; None: float32 as PEFT makes them, the compute type on a quantised base
    and where sharding gathers them in it"""
    cast_adapter_input: bool = True
    """copy an adapter's input to the adapter's type first, PEFT's default; labkit train does not"""
    optim: str = "adamw_torch_fused"
    """optimizer by its transformers name; adamw_torch is foreach on CUDA and the loop on a CPU"""
    gradient_checkpointing: bool = False
    """keep layer inputs only, and compute the rest again in the backward pass"""
    gradient_accumulation_steps: int = 1
    """above 1, gradients are already there when the next forward pass starts"""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """sdpa never stores the probabilities; eager stores batch × heads × length² of them"""
    padding: bool = False
    """whether the batch carries a padding mask, which keeps the fastest kernel from being used"""
    repeat_kv: bool = False
    """copy key and value heads to as many as query heads, as code without GQA support does"""
    loss: Literal["full", "chunked"] = "full"
    """chunked: head and cross-entropy in tiles that are computed again, as TRL does on CUDA"""
    upcast_logits: bool = True
    """cross-entropy on an fp32 copy of the logits, as transformers does; full loss only"""
    hold_logits: bool = False
    """whether a loop has a name for the fp32 logits and so keeps them until its next step, as
    torchtitan's had before pull request 391; transformers drops them; with upcast_logits only"""
    labelled_tokens: int | None = None
    """positions of one sequence that have a label and get logits; None: all of them"""
    reference: Reference = "none"
    """what preference tuning compares the model with: adapter_off, a copy of it, or precomputed
    numbers; its loss is TRL's, in tiles. none: no preference tuning"""

    lora_r: int = 16
    """rank of the adapters"""
    lora_dropout: float = 0.0
    """dropout before the adapters; above 0 it stores a copy and a mask of their input"""
    lora_target_modules: tuple[str, ...] = ("all-linear",)
    """linear layers that get an adapter"""
    use_dora: bool = False
    """DoRA: lengths of weight rows trained apart from their directions"""
    double_quant: bool = True
    """nf4 with its scales quantised once more"""
    num_virtual_tokens: int = 20
    """length of the prefix or prompt that is trained"""
    ia3_modules: tuple[str, ...] = ("default",)
    """linear layers that (IA)³ stretches"""
    adapter_len: int = 10
    """trained tokens of each layer of LLaMA-Adapter"""
    adapter_layers: int = 0
    """upper layers that LLaMA-Adapter adapts; 0: all"""
    bottleneck_size: int = 64
    """inner width of a bottleneck adapter"""
    bottleneck_after: tuple[str, ...] = ("attention", "mlp")
    """sublayers that a bottleneck adapter follows"""

    sharding: str = "none"
    """one of `SHARDINGS`: what is spread over the devices"""
    num_gpus: int = 1
    """devices; without sharding each holds everything, and buckets for the gradients' exchange"""
    compute_capability: tuple[int, int] | None = None
    """of the card; None: one before 9.0 (Hopper), where cuBLAS keeps a smaller workspace"""
    config_overrides: Mapping[str, Any] = field(default_factory=dict)
    """changes to the model's configuration, such as another activation function"""

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        for key in ("method", "dtype", "adapter_dtype", "optim", "sharding"):
            value = getattr(self, key)
            set_(self, key, ALIASES.get(value, value))
        self._join_base()
        modules = self.lora_target_modules
        if isinstance(modules, str):
            modules = tuple(name.strip() for name in modules.split(",") if name.strip())
        set_(self, "lora_target_modules", tuple(modules))
        if self.compute_capability is not None:
            set_(self, "compute_capability", tuple(self.compute_capability))
        set_(self, "config_overrides", dict(self.config_overrides))
        for key in ("ia3_modules", "bottleneck_after"):
            set_(self, key, tuple(getattr(self, key)))
        if self.reference != "none":
            set_(self, "loss", "chunked")
        self._check_choices()
        self._check_numbers()
        self._check_combinations()

    def _join_base(self) -> None:
        """Bring method and base into one form: the name that says both, where there is one."""
        if self.base is None or self.method not in methods.names():
            return
        if self.base not in methods.BASES:
            raise LabkitError(f"base {self.base!r} is unknown: {nearest(self.base, methods.BASES)}")
        method, base = methods.split(self.method)
        if base.quantised and base.name != self.base:
            raise LabkitError(
                f"method {self.method} is {method.name} on {base.name}, not on {self.base}: "
                f"set method {method.name}, or leave base out"
            )
        name = methods.joined(method.name, self.base)
        plain = not methods.BASES[self.base].quantised
        object.__setattr__(self, "method", name)
        object.__setattr__(self, "base", None if plain or name != method.name else self.base)

    @property
    def tuner(self) -> Method:
        """The method itself, of which everyone asks what it does."""
        return methods.split(self.method)[0]

    @property
    def base_weights(self) -> Base:
        """How the pretrained weights are stored."""
        return methods.BASES[self.base] if self.base else methods.split(self.method)[1]

    @property
    def of_method(self) -> methods.Settings:
        """The method's own settings, as far as they are among these; defaults for the others."""
        kind = self.tuner.Settings
        here = {name: METHOD_FIELDS.get(name, name) for name in kind.names()}
        return kind(**{n: getattr(self, own) for n, own in here.items() if hasattr(self, own)})

    @property
    def sequences(self) -> int:
        """Sequences that go through the model at once: of preferences, two a sample."""
        return self.batch_size * (1 if self.reference == "none" else 2)

    @property
    def positions(self) -> int:
        """Positions of a sequence, virtual tokens at the input included."""
        virtual = self.num_virtual_tokens if self.tuner.virtual_tokens == "input" else 0
        return self.seq_len + virtual

    @property
    def scored_tokens(self) -> int:
        """Positions of a sequence that get logits."""
        if self.target_len is not None:
            return self.target_len
        if self.labelled_tokens is not None or self.loss == "chunked":
            return min(self.labelled_tokens or self.seq_len, self.seq_len - 1)
        return self.positions

    @property
    def target_share(self) -> float:
        """Tokens that a decoder writes for each position that its encoder reads."""
        return (self.target_len or self.seq_len) / self.positions

    @property
    def cublas_workspace_bytes(self) -> int:
        """What cuBLAS keeps on CUDA from its first product on, for two threads, in bytes.

        One for the thread of the forward and one for that of the backward pass: ":4096:2:16:8" KiB
        by default, 32 MiB on Hopper (`CUDABlas` and `CublasHandlePool.cpp` in aten/src/ATen/cuda).
        """
        hopper = self.compute_capability is not None and self.compute_capability >= (9, 0)
        return 2 * (4096 * 8 if hopper else 4096 * 2 + 16 * 8) * 1024

    def _check_choices(self) -> None:
        choices = {
            "method": methods.names(), "optim": OPTIMIZERS, "sharding": SHARDINGS,
            "dtype": tuple(BYTES), "target": ("cuda", "cpu"), "attention": ("sdpa", "eager"),
            "loss": ("full", "chunked"), "reference": get_args(Reference),
        }  # fmt: skip
        for key, allowed in choices.items():
            value = getattr(self, key)
            if value not in allowed:
                raise LabkitError(f"{key} {value!r} is unknown: {nearest(str(value), allowed)}")
        if self.adapter_dtype is not None and self.adapter_dtype not in BYTES:
            raise LabkitError(
                f"adapter_dtype {self.adapter_dtype!r} is unknown: "
                f"{nearest(self.adapter_dtype, BYTES)}"
            )

    def _check_numbers(self) -> None:
        whole = ("batch_size", "seq_len", "gradient_accumulation_steps", "lora_r",
                 "num_virtual_tokens", "num_gpus")  # fmt: skip
        for key in whole:
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise LabkitError(f"{key} must be a whole number above 0, got {value!r}")
            if value > MOST:
                raise LabkitError(f"{key} must be at most {MOST:,}, got {value!r}")
        if not 0 <= self.lora_dropout < 1:
            raise LabkitError(f"lora_dropout must be in [0, 1), got {self.lora_dropout!r}")
        if not self.lora_target_modules:
            raise LabkitError("lora_target_modules is empty: use all-linear or name linear layers")
        if self.target_len is not None and not 1 <= self.target_len <= MOST:
            raise LabkitError(f"target_len must be 1 or more, got {self.target_len!r}")
        if self.labelled_tokens is not None and not 1 <= self.labelled_tokens <= self.seq_len:
            raise LabkitError(
                f"labelled_tokens must be between 1 and seq_len ({self.seq_len}), "
                f"got {self.labelled_tokens!r}"
            )

    def _check_combinations(self) -> None:
        if self.sharding != "none" and self.num_gpus < 2:
            raise LabkitError(
                f"sharding {self.sharding} spreads the training state over several GPUs: "
                "set num_gpus to 2 or more, or sharding to none"
            )
        if self.gradient_checkpointing and not self.tuner.checkpoints:
            raise LabkitError(methods.without_checkpoints(self.tuner))
        if self.sharding != "none" and self.base_weights.quantised:
            raise LabkitError(
                f"{self.method} with {self.sharding}: quantised weights are not sharded here; "
                "use method lora, or sharding none"
            )
        if self.sharding != "none" and self.optim in ("adamw_bnb_8bit", "adafactor"):
            raise LabkitError(
                f"{self.optim} with {self.sharding}: sharded optimizer states are only worked out "
                "for AdamW and SGD; use optim adamw_torch_fused or sgd"
            )
        methods.check_base(self.tuner.name, self.base_weights.name)
        chosen = self.of_method  # which refuses values out of range
        check_reference(self.reference, method=self.tuner.name, base=self.base_weights.name,
                        settings=chosen)  # fmt: skip
        if self.reference != "none" and self.sharding != "none":
            raise LabkitError(
                f"reference {self.reference} with {self.sharding}: preference tuning is worked out "
                "for one device; use sharding none"
            )
        if self.base_weights.quantised:
            self.tuner.check_base(self.base_weights.name, chosen)
        if self.master_weights and not self.tuner.trains_base:
            raise LabkitError(
                f"master_weights are for full fine-tuning, and {self.method} keeps its base frozen"
            )
        if self.keeps_masters is False and self.sharding.startswith("zero"):
            raise LabkitError(
                f"{self.sharding} without master_weights: DeepSpeed steps an fp32 copy of 16-bit "
                "weights; set sharding to fsdp2, or leave master_weights on"
            )

    @property
    def autocast(self) -> bool:
        """Whether the forward pass runs under autocast: some trained weights are in fp32."""
        if self.dtype == "float32" or self.sharding != "none":
            return False
        if self.tuner.trains_base:
            return self.master_weights is not False
        return self.added_dtype == "float32"

    @property
    def weight_dtype(self) -> str:
        """Type in which the pretrained weights are stored when they are not quantised."""
        return "float32" if self.tuner.trains_base and self.autocast else self.dtype

    @property
    def added_dtype(self) -> str:
        """Type of the weights that a parameter-efficient method adds."""
        in_compute_type = self.base_weights.quantised or self.sharding != "none"
        return self.adapter_dtype or (self.dtype if in_compute_type else "float32")

    @property
    def keeps_masters(self) -> bool | None:
        """Whether trained 16-bit weights have an fp32 master; None: frozen, or all is fp32."""
        if not self.tuner.trains_base or self.dtype == "float32":
            return None
        return self.master_weights is not False

    @property
    def optimizer_kind(self) -> str:
        """`optim` with what `adamw_torch` means on the target written out."""
        if self.optim == "adamw_torch":
            return "adamw_torch_foreach" if self.target == "cuda" else "adamw_torch_loop"
        return self.optim


def given(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `StepSettings` that are chosen: those that are not None.

    Raises:
        LabkitError: there is no such field.
    """
    known = {each.name for each in fields(StepSettings)}
    for name in choices:
        if name not in known:
            raise LabkitError(f"unknown setting {name!r}: {nearest(name, known)}")
    return {name: value for name, value in choices.items() if value is not None}


def on_quantised(chosen: Mapping[str, Any]) -> bool:
    """Return whether these choices put a method on a quantised base; False for unknown names."""
    method, base = chosen.get("method", StepSettings.method), chosen.get("base")
    method = ALIASES.get(method, method)
    if base is None and method in methods.names():
        return methods.split(method)[1].quantised
    return base in BASES and BASES[base].quantised
