"""Fine-tune a model: one run from its configuration to its record.

run         the run as a whole, resumable
by_hand     LoRA on plain PyTorch, in a page
prepare     the run's identity: model, data, hash, folder
artifacts   its files: checkpoint, weights
tasks/      how an example becomes what is trained on, and how an answer is marked
trainer     what labkit changes in transformers' Trainer, and the one of fine-tuning
text_trainer, preference_trainer    those of pretraining and of preference tuning
sharded/    several processes that share a step
scaling     what they share and what that costs, shown; a run that loses one
fast_step   what makes a step fast on the processor that is here
"""

from labkit.train.run import train

__all__ = ["train"]
