"""Run stock fine-tuning as TRL documents it: `SFTTrainer`, and nothing of labkit.

`labkit bench step` runs this file by its path, in a process of its own, so that not even labkit's
environment variables are there. The arguments are one JSON object: model (a folder), data (a JSON
lines file of input_ids and labels), lora (a PEFT configuration or null), bf16, batch_size, steps,
learning_rate, seed, and where they are wanted arguments (more of SFTConfig) and save (a folder for
what was trained). One JSON object comes out on stdout: seconds and losses of every step, and
peak_rss_bytes, the largest resident set while training.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main(spec: dict[str, Any]) -> dict[str, Any]:
    """Train for `steps` steps; return seconds, losses and peak_rss_bytes."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback, set_seed
    from trl import SFTConfig, SFTTrainer

    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            seconds.append(time.perf_counter() - self.started)

    text = Path(spec["data"]).read_text(encoding="utf-8")
    samples = [json.loads(line) for line in text.splitlines()]
    set_seed(spec["seed"])
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=spec["model"],
            args=SFTConfig(
                use_cpu=True,
                activation_checkpointing=False,
                bf16=spec["bf16"],
                per_device_train_batch_size=spec["batch_size"],
                max_steps=spec["steps"],
                learning_rate=spec["learning_rate"],
                train_sampling_strategy="sequential",
                seed=spec["seed"],
                output_dir=folder,
                logging_steps=1,
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
                **spec.get("arguments", {}),
            ),
            train_dataset=Dataset.from_list(samples),
            peft_config=LoraConfig(**spec["lora"]) if spec["lora"] else None,
            callbacks=[Clock()],
        )
        Path("/proc/self/clear_refs").write_bytes(b"5")  # forget the peak of loading
        trainer.train()
    if "save" in spec:
        trainer.save_model(spec["save"])
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    return {"seconds": seconds, "losses": losses, "peak_rss_bytes": peak}


if __name__ == "__main__":
    result, stdout = main(json.loads(sys.argv[1])), sys.__stdout__
    print("\n" + json.dumps(result), file=stdout, flush=True)
