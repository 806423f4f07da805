"""What we rely on in transformers 5, TRL 1, PEFT and others: names, signatures, defaults.

A course breaks most often because a library renamed something. The lock pins exact versions;
when one is raised, this file says in a second what changed, before a lesson does.
"""

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import accelerate.data_loader
import peft
import pytest
import torch
import transformers
import trl
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from labkit.runs.config import RunConfig
from labkit.train import fast_step, trainer


def parameters(function: Any) -> dict[str, Any]:
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
    }


def defaults(cls: type) -> dict[str, Any]:
    return {
        f.name: f.default if f.default is not dataclasses.MISSING else f.default_factory()
        for f in dataclasses.fields(cls)
        if f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
    }


# --- transformers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_get_train_sampler", ["self", "train_dataset"]),
        ("_set_signature_columns_if_needed", ["self"]),
        ("_save_checkpoint", ["self", "model", "trial"]),
        ("_load_from_checkpoint", ["self", "resume_from_checkpoint", "model"]),
        ("compute_loss", ["self", "model", "inputs", "return_outputs", "num_items_in_batch"]),
        ("training_step", ["self", "model", "inputs", "num_items_in_batch"]),
        # What several processes change (labkit.train.sharded.trainer).
        ("get_train_dataloader", ["self"]),
        ("_get_num_items_in_batch", ["self", "batch_samples", "device"]),
        (
            "_prepare_for_training",
            ["self", "max_steps", "train_dataloader", "resume_from_checkpoint"],
        ),
        ("_clip_grad_norm", ["self", "model"]),
        ("_get_grad_norm", ["self", "model", "grad_norm"]),
        ("save_model", ["self", "output_dir", "_internal_call"]),
        ("_save_optimizer_and_scheduler", ["self", "output_dir"]),
        ("prediction_step", ["self", "model", "inputs", "prediction_loss_only", "ignore_keys"]),
    ],
)
def test_methods_of_the_trainer_that_we_override(name: str, expected: list[str]) -> None:
    assert list(parameters(getattr(transformers.Trainer, name))) == expected
    assert hasattr(trl.SFTTrainer, name)


def test_the_trainer_asks_whether_a_loss_is_scaled_for_accumulation() -> None:
    assert transformers.Trainer.loss_is_scaled_for_ga is None
    assert "loss_is_scaled_for_ga" in inspect.getsource(transformers.Trainer.training_step)


def test_every_callback_that_we_write_is_one_the_trainer_calls() -> None:
    ours = {n for n in vars(trainer.MeterCallback) if n.startswith("on_")}
    assert ours and ours <= set(vars(transformers.TrainerCallback))


def test_evaluation_and_saving_come_after_the_step_has_ended() -> None:
    """The meter's window is closed by on_step_end; what follows is not timed."""
    source = inspect.getsource(transformers.Trainer._run_epoch)
    assert source.index("on_step_end(") < source.index("self._maybe_log_save_evaluate(")
    assert source.index("on_step_begin(") < source.index("self.training_step(")
    inner = inspect.getsource(transformers.Trainer._maybe_log_save_evaluate)
    assert inner.index("self._evaluate(") < inner.index("self._save_checkpoint(")
    assert inner.index("self._save_checkpoint(") < inner.index("on_save(")


def test_what_a_checkpoint_s_state_holds() -> None:
    state = transformers.TrainerState()
    assert (state.global_step, state.log_history) == (0, [])
    assert callable(transformers.TrainerState.load_from_json)


def test_the_sampler_that_groups_by_length_takes_lengths_and_a_generator() -> None:
    found = parameters(LengthGroupedSampler)
    assert list(found) == ["batch_size", "dataset", "lengths", "model_input_name", "generator"]


def test_the_epoch_reaches_our_sampler() -> None:
    """Also through the loader that skips what a resumed run has seen."""
    sampler = trainer.EpochSampler(lengths=list(range(40)), group=2, seed=1)
    loader = torch.utils.data.DataLoader(list(range(40)), sampler=sampler, batch_size=2)
    prepared = accelerate.data_loader.prepare_data_loader(loader, num_processes=1, process_index=0)
    prepared.set_epoch(3)
    assert sampler.epoch == 3
    accelerate.data_loader.skip_first_batches(prepared, 2).set_epoch(5)
    assert sampler.epoch == 5


def test_arguments_of_a_run_keep_their_values(tmp_path: Path) -> None:
    config = RunConfig(
        dtype="bfloat16", seed=7, warmup_steps=0.25, eval_steps=3, lr_scheduler_type="cosine"
    )
    plan = fast_step.plan(config, steps=9, longest=9, cuda=False)
    found = trainer.trainer_arguments(config, tmp_path, plan, cuda=False)
    assert isinstance(found, transformers.TrainingArguments)
    for name in ("max_steps", "learning_rate", "weight_decay", "max_grad_norm", "seed",
                 "gradient_accumulation_steps", "per_device_train_batch_size", "num_train_epochs",
                 "warmup_steps", "eval_steps", "save_steps"):  # fmt: skip
        assert getattr(found, name) == getattr(config, name), name
    assert found.optim == config.optim and found.lr_scheduler_type == "cosine"
    assert (found.bf16, found.fp16, found.data_seed, found.report_to) == (True, False, 7, [])
    assert found.train_sampling_strategy == "group_by_length"
    assert found.get_warmup_steps(100) == 25
    assert found.device.type == "cpu"
    # Both spellings of gradient checkpointing mean one thing, and it is off unless asked for.
    assert not found.activation_checkpointing
    again = trainer.trainer_arguments(
        config.replace(gradient_checkpointing=True), tmp_path, plan, cuda=False
    )
    assert again.activation_checkpointing


def test_arguments_that_are_gone() -> None:
    """Their keys are in RETIRED or RENAMED of older_projects because of this."""
    known = set(defaults(trl.SFTConfig))
    gone = {"warmup_ratio", "overwrite_output_dir", "logging_dir", "no_cuda", "max_seq_length"}
    assert not gone & known
    assert "adamw_hf" not in [member.value for member in OptimizerNames]
    assert "tokenizer" not in parameters(transformers.Trainer)
    assert "processing_class" in parameters(transformers.Trainer)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_prepare_dataset", ["self", "dataset", "processing_class", "args", "dataset_name"]),
        ("_precompute_ref_logps", ["self", "dataset", "name", "batch_size"]),
        ("compute_ref_log_probs", ["self", "model", "inputs"]),
    ],
)
def test_methods_of_the_preference_trainer_that_we_override(name: str, expected: list[str]) -> None:
    assert list(parameters(getattr(trl.DPOTrainer, name))) == expected


def test_what_a_reference_model_is_asked_for() -> None:
    """`AdapterOff` is given TRL's forward, which reads these, and no other attribute."""
    source = inspect.getsource(trl.trainer.utils.add_fused_lm_head)
    assert "getattr(self, backbone_attr)" in source and 'backbone_attr = "base_model"' in source
    assert "compact = _use_triton(" in source and "self.get_output_embeddings()" in source
    found = defaults(trl.DPOConfig)
    assert (found["beta"], found["loss_type"], found["label_smoothing"]) == (0.1, ["sigmoid"], 0.0)
    assert found["disable_dropout"] is True and found["precompute_ref_log_probs"] is False


def test_optimizers_and_schedules_that_the_course_names() -> None:
    optimizers = {member.value for member in OptimizerNames}
    assert {"adamw_torch_fused", "adamw_torch", "sgd", "adafactor", "adamw_bnb_8bit"} <= optimizers
    schedules = {member.value for member in SchedulerType}
    assert {"linear", "cosine", "constant", "constant_with_warmup"} <= schedules


def test_models_take_what_the_fast_step_and_the_shared_prefix_give_them() -> None:
    for name in ("Llama", "Gemma", "Phi", "Mistral", "Qwen2"):
        cls = getattr(transformers, f"{name}ForCausalLM")
        wanted = {"input_ids", "attention_mask", "position_ids", "past_key_values", "use_cache",
                  "logits_to_keep", "labels"}  # fmt: skip
        assert wanted <= set(parameters(cls.forward)), name
        assert not getattr(cls, "_is_stateful", False)
    assert transformers.MambaForCausalLM._is_stateful
    assert list(parameters(transformers.DynamicCache.batch_select_indices)) == ["self", "indices"]
    from transformers.modeling_layers import GradientCheckpointingLayer
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    assert issubclass(LlamaDecoderLayer, GradientCheckpointingLayer)


def test_llama_keeps_a_cache_unless_told_otherwise() -> None:
    assert transformers.LlamaConfig().use_cache is True


def test_fused_attention_asks_the_environment_at_every_call() -> None:
    from transformers.integrations import sdpa_attention

    assert "TRANSFORMERS_SDPA_FORCE_GQA" in inspect.getsource(sdpa_attention.use_gqa_in_sdpa)


def test_chat_templates_give_text_or_a_dictionary(tiny_llama: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_llama)
    turns = [{"role": "user", "content": "hello"}]
    assert isinstance(tokenizer.apply_chat_template(turns, tokenize=False), str)
    batch = tokenizer.apply_chat_template(turns, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}


def test_models_are_loaded_by_dtype(tiny_llama: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert model.base_model is model.model
    assert model.get_output_embeddings() is model.lm_head


def test_tensorboard_s_callback_takes_a_writer() -> None:
    from transformers.integrations import TensorBoardCallback

    assert parameters(TensorBoardCallback) == {"tb_writer": None}


# --- TRL -----------------------------------------------------------------------------------


def test_defaults_of_sft_that_lessons_speak_of() -> None:
    found = defaults(trl.SFTConfig)
    assert found["learning_rate"] == 2e-5
    assert found["max_length"] == 1024
    assert found["loss_type"] == "nll"
    assert found["optim"] == "adamw_torch_fused"
    assert found["save_total_limit"] is None
    assert not found["packing"]


def test_sft_trainer_takes_tokenised_samples_and_a_collator() -> None:
    found = parameters(trl.SFTTrainer)
    wanted = {"model", "args", "data_collator", "train_dataset", "eval_dataset",
              "processing_class", "callbacks", "peft_config"}  # fmt: skip
    assert wanted <= set(found)


def test_dpo_has_one_length() -> None:
    assert "max_length" in defaults(trl.DPOConfig)
    assert "max_prompt_length" not in defaults(trl.DPOConfig)


# --- PEFT ----------------------------------------------------------------------------------


def test_defaults_of_lora_that_lessons_speak_of() -> None:
    found = defaults(peft.LoraConfig)
    assert (found["r"], found["lora_alpha"], found["lora_dropout"]) == (8, 8, 0.0)
    assert found["init_lora_weights"] is True
    assert (found["bias"], found["use_rslora"]) == ("none", False)
    settings = {"r", "lora_alpha", "lora_dropout", "target_modules", "bias", "use_rslora",
                "init_lora_weights", "loftq_config", "task_type"}  # fmt: skip
    assert settings <= set(found)
    # All of them are settings of ours, under the same names.
    assert settings - {"task_type"} <= {f.name for f in dataclasses.fields(RunConfig)}


def test_adapters_are_float32_unless_told_otherwise() -> None:
    assert parameters(peft.get_peft_model)["autocast_adapter_dtype"] is True


def test_loftq_has_two_settings() -> None:
    from labkit.methods.lora import LOFTQ_KEYS

    assert set(parameters(peft.LoftQConfig)) == set(LOFTQ_KEYS)


def test_a_lora_layer_says_whether_it_casts_its_input(tiny_llama: Path) -> None:
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama)
    model = peft.get_peft_model(
        base, peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    )
    layers = [m for m in model.modules() if hasattr(m, "cast_input_dtype_enabled")]
    assert len(layers) == 14 and all(layer.cast_input_dtype_enabled for layer in layers)
    assert model.get_base_model() is base
    assert callable(model.merge_and_unload)
    # "all-linear" leaves the output head out.
    assert not any("lm_head" in n for n, _ in model.named_parameters() if "lora_" in n)


# --- torch and scipy -----------------------------------------------------------------------


def test_a_module_compiles_in_place_for_any_shape() -> None:
    assert "dynamic" in parameters(torch.compile)
    assert callable(torch.nn.Module.compile)
    assert isinstance(torch._dynamo.config.recompile_limit, int)


def test_scipy_s_bootstrap_takes_a_generator_and_pairs() -> None:
    from scipy import stats

    found = parameters(stats.bootstrap)
    assert {"paired", "vectorized", "n_resamples", "batch", "confidence_level", "rng"} <= set(found)
    assert found["method"] == "BCa"
