"""Preference tuning: of two answers to the same turns, one is better.

Direct Preference Optimization (Rafailov et al. 2023, arXiv:2305.18290) needs no reward model: the
reward of an answer y to x is by how much the policy π finds it likelier than the reference does,

    reward(x, y) = β·(log π(y | x) - log π_ref(y | x))
    loss = -log σ(reward(x, chosen) - reward(x, rejected))

and the reference is the model before the first step. So the first rewards are 0 and the first loss
is ln 2, whatever the data.

input_ids  [ turns ............ ][ chosen ...... ][ end ]
           [ turns ............ ][ rejected .... ][ end ]      log-probabilities of the answers only

Where the reference comes from is `reference`:

    adapter_off   the same weights with the adapter switched off: one more forward pass, no memory.
                  It asks for an adapter that begins at zero beside a base that stays what it was
    copy          a second model: one more set of weights
    precomputed   its log-probabilities of every answer, once before the first step: later steps
                  make one forward pass

A model that was fine-tuned with an adapter is merged before it is tuned on preferences (`labkit
merge`): then it is the base, and the reference is it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from labkit.datasets import encode
from labkit.datasets.base import DataSet, Example
from labkit.errors import LabkitError
from labkit.runs.config import RunConfig
from labkit.runs.task_settings import PREFERENCES, reference_of
from labkit.train.tasks.base import Task

GIB = 2**30


def rows(
    tokenizer: Any, examples: Sequence[Example], config: RunConfig, *, shared: bool
) -> list[dict[str, Any]]:
    """Return `prompt_ids`, `chosen_ids` and `rejected_ids`; no answer with its prompt is too long.

    Raises:
        LabkitError: an example without two answers, or one that does not fit.
    """
    return [_row(tokenizer, example, config.max_length) for example in examples]


def _row(tokenizer: Any, example: Example, max_length: int) -> dict[str, Any]:
    if not example.rejected:
        raise LabkitError(
            f"{example.called} {example.uid} has no rejected answer: task {PREFERENCES} needs data "
            "with a better and a worse answer to each prompt"
        )
    fitting = [encode.fitted(tokenizer, each, max_length) for each in (example, _worse(example))]
    # The longer answer says how much of the prompt has to go: both are answers to what is left.
    prompt_ids = max(fitting, key=lambda each: each[2])[0]
    (_, chosen_ids, _), (_, rejected_ids, _) = fitting
    return {"prompt_ids": prompt_ids, "chosen_ids": chosen_ids, "rejected_ids": rejected_ids}


def _worse(example: Example) -> Example:
    """Return the example with the rejected answer as its last turn."""

    def swapped(turns: Sequence[dict[str, str]]) -> tuple[dict[str, str], ...]:
        return (*turns[:-1], {"role": "assistant", "content": example.rejected})

    whole = cuts = example.cuts
    if whole is not None:
        cuts = replace(whole, without=lambda count: swapped(whole.without(count)))
    return replace(example, messages=swapped(example.messages), cuts=cuts)


def sequence(row: dict[str, Any]) -> dict[str, Any]:
    """Return the longer of a pair's two sequences, which the other is padded to.

    It has as many labels as the two have on average.
    """
    answers = row["chosen_ids"], row["rejected_ids"]
    ids = row["prompt_ids"] + max(answers, key=len)
    unlabelled = len(ids) - -(-sum(map(len, answers)) // 2)
    return {"input_ids": ids, "labels": [encode.IGNORED] * unlabelled + ids[unlabelled:]}


def collator(tokenizer: Any, shared: bool) -> None:
    """Leave the batch to TRL: chosen answers in its first half, rejected ones in the second."""


def trainer() -> type:
    """Return TRL's DPOTrainer with the meter in its loop."""
    from labkit.train.preference_trainer import PreferenceTrainer

    return PreferenceTrainer


def reference(model: Any, config: RunConfig) -> Any:
    """Return a frozen copy of the loaded model if the run asks for one."""
    if reference_of(config) != "copy":
        return None
    import copy

    return copy.deepcopy(model).requires_grad_(False).eval()


def notes(reference: Any, config: RunConfig) -> list[str]:
    """Say what the reference costs, and that nothing is dropped: both models must read alike."""
    said = []
    if reference is not None:
        size = sum(weight.nbytes for weight in reference.parameters())
        said.append(f"the reference is a copy of the model: {size / GIB:.2f} GiB more, which "
                    "reference precomputed does without")  # fmt: skip
    elif reference_of(config) == "precomputed":
        said.append("the reference's log-probabilities were computed once, before the first step")
    if config.lora_dropout:
        said.append("lora_dropout is off: policy and reference have to read the same")
    return said


def score(dataset: DataSet, example: Example, prediction: Any) -> dict[str, float]:
    """Mark an answer as its data set does."""
    return dataset.score(example, prediction)


DPO = Task(
    name=PREFERENCES,
    rows=rows,
    collator=collator,
    trainer=trainer,
    prompt=encode.prompt_ids,
    score=score,
    sequence=sequence,
    reference=reference,
    notes=notes,
    compiles=False,
)
