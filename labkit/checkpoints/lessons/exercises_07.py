"""Exercises of lesson 07: a pair of answers, their log-probability, DPO's loss and its pull.

Shape suffixes: N pairs, T tokens of prompt and answer, V vocabulary.
"""

import math
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from labkit.checkpoints.exercises import Exercise, Student
from labkit.console import quiet, quiet_bitsandbytes
from labkit.inference.preferences import pair

# pair_of(texts, right) -> (chosen, rejected) or None


def _pair(*cases: str) -> Callable[[Student], bool]:
    """Compare on answers of one letter; capital letters are right."""

    def holds(student: Student) -> bool:
        for case in cases:
            right = [letter.isupper() for letter in case]
            found = student(list(case), list(right))
            if (tuple(found) if found else None) != pair(list(case), right):
                return False
        return True

    return holds


PAIR_OF = Exercise(
    signature="pair_of(texts, right)",
    parameters=2,
    properties=(
        ("of one right and one wrong answer the right one comes first", _pair("Ab", "bA")),
        (
            "without a right answer, or without a wrong one, there is no pair",
            _pair("ab", "AB", "aaa"),
        ),
        ("of several wrong answers the most frequent is rejected", _pair("Abcc", "bccA", "cbAbcb")),
        ("of several right answers the most frequent is chosen", _pair("AABc", "BAAc", "cABAcA")),
        ("of equally frequent ones it is the first", _pair("CAbd", "dbAC", "bdAAdb")),
    ),
)

# answer_logp(logits, ids, prompt_length) -> a number


def reference_answer_logp(logits_TV: Any, ids_T: Any, prompt_length: int) -> Any:
    """Return log p(answer | prompt): position t has the logits of token t + 1."""
    import torch

    of_token = torch.nn.functional.cross_entropy(logits_TV[:-1], ids_T[1:], reduction="none")
    return -of_token[prompt_length - 1 :].sum()


def _sequence(length: int, vocabulary: int = 11) -> tuple[Any, Any]:
    import torch

    draw = torch.Generator().manual_seed(length)
    logits = 3 * torch.randn(length, vocabulary, generator=draw, dtype=torch.float64)
    return logits, torch.randint(vocabulary, (length,), generator=draw)


def _logp(length: int, prompt: int, *, flat: bool = False) -> Callable[[Student], bool]:
    def holds(student: Student) -> bool:
        logits, ids = _sequence(length)
        logits = 0 * logits if flat else logits
        found = float(student(logits.clone(), ids.clone(), prompt))
        return math.isclose(found, float(reference_answer_logp(logits, ids, prompt)), rel_tol=1e-6)

    return holds


def _prompt_is_no_answer(student: Student) -> bool:
    """What the model makes of the prompt changes nothing."""
    logits, ids = _sequence(9)
    before = float(student(logits.clone(), ids, 5))
    logits[:4] *= -1
    return math.isclose(float(student(logits, ids, 5)), before, rel_tol=1e-6)


def _has_gradient(student: Student) -> bool:
    logits, ids = _sequence(6)
    logits.requires_grad_()
    found = student(logits, ids, 3)
    return bool(getattr(found, "requires_grad", False))


ANSWER_LOGP = Exercise(
    signature="answer_logp(logits, ids, prompt_length)",
    parameters=3,
    properties=(
        ("where all tokens are equally likely, each token of the answer costs log of their number",
         _logp(7, 4, flat=True)),
        ("an answer of one token has the logits of the position before it", _logp(5, 4)),
        ("the tokens of the prompt do not count", _prompt_is_no_answer),
        ("it is the sum over the answer's tokens", _logp(12, 5)),
        ("it can be trained: the result has a gradient", _has_gradient),
    ),
    modules=("torch",),
)  # fmt: skip

# dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta) -> a number


def reference_dpo_loss(
    chosen_N: Any, rejected_N: Any, ref_chosen_N: Any, ref_rejected_N: Any, beta: float
) -> Any:
    """Return the mean of -log σ(β·((log π - log π_ref)(chosen) - the same of rejected)).

    Source: Rafailov et al. 2023, arXiv:2305.18290, equation 7.
    """
    from torch.nn import functional

    margin_N = (chosen_N - ref_chosen_N) - (rejected_N - ref_rejected_N)
    return functional.softplus(-beta * margin_N).mean()


Rows = list[list[float]]


def _given(rows: Rows) -> list[Any]:
    import torch

    return [torch.tensor(row, dtype=torch.float64) for row in rows]


def _loss(rows: Rows, beta: float = 0.1) -> Callable[[Student], bool]:
    """Compare with the reference on log-probabilities of policy and reference, a list each."""

    def holds(student: Student) -> bool:
        chosen, rejected, ref_chosen, ref_rejected = _given(rows)
        expected = float(reference_dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta))
        return math.isclose(float(student(*_given(rows), beta)), expected, rel_tol=1e-6)

    return holds


def _falls_with_the_margin(student: Student) -> bool:
    better = _given([[-9.0], [-14.0], [-10.0], [-12.0]])
    worse = _given([[-11.0], [-10.0], [-10.0], [-12.0]])
    return float(student(*better, 0.5)) < math.log(2) < float(student(*worse, 0.5))


@cache
def of_trl() -> tuple[list[Any], float, float]:
    """Return log-probabilities of two tiny models, β, and the loss TRL's own trainer makes of them.

    The four tensors are as `dpo_loss` takes them.
    """
    import datasets
    import torch

    from labkit.models import load, tiny

    quiet_bitsandbytes()  # TRL imports it, and what a cell of points prints is read as points
    from trl import DPOConfig, DPOTrainer

    beta = 0.1
    rows = [{"prompt": f"{a} + {b} =", "chosen": f" {a + b}", "rejected": f" {a * b} or so"}
            for a, b in ((2, 3), (7, 8), (5, 40))]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = tiny.build_tiny("tiny-llama", Path(folder) / "model")
        policy, reference = (load.load_model(path, dtype="float32") for _ in range(2))
        draw = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for weight in policy.parameters():
                weight += 0.3 * torch.randn(weight.shape, generator=draw)
        trainer = DPOTrainer(
            model=policy, ref_model=reference, train_dataset=datasets.Dataset.from_list(rows),
            processing_class=load.load_tokenizer(path),
            args=DPOConfig(output_dir=folder, use_cpu=True, bf16=False, beta=beta, report_to=[],
                           gradient_checkpointing=False),
        )  # fmt: skip
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))])
        with torch.no_grad():
            theirs = float(trainer.compute_loss(trainer.model, batch))
        logps = [each.detach().double() for model in (trainer.model, trainer.ref_model)
                 for each in trainer.compute_ref_log_probs(model, batch)]  # fmt: skip
    return logps, beta, theirs


def _as_trl(student: Student) -> bool:
    logps, beta, theirs = of_trl()
    found = student(*(each.clone() for each in logps), beta)
    return math.isclose(float(found), theirs, rel_tol=1e-4)


DPO_LOSS = Exercise(
    signature="dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta)",
    parameters=5,
    properties=(
        ("a policy that is the reference has a loss of ln 2",
         _loss([[-7.0], [-19.0], [-7.0], [-19.0]])),
        ("the loss falls as the chosen answer gains on the rejected one", _falls_with_the_margin),
        ("both answers are compared with the reference", _loss([[-7.0], [-9.0], [-11.0], [-10.0]])),
        ("the margin is multiplied by beta", _loss([[-3.0], [-9.0], [-5.0], [-5.0]], beta=2.0)),
        ("several pairs have the mean of their losses",
         _loss([[-3.0, -9.0], [-9.0, -4.0], [-5.0, -6.0], [-5.0, -7.0]])),
        ("a large margin of either sign gives a finite loss",
         _loss([[-900.0, 0.0], [0.0, -2000.0], [0.0, 0.0], [0.0, 0.0]], beta=2.0)),
        ("the loss of TRL's own trainer", _as_trl),
    ),
    modules=("torch", "trl", "datasets"),
)  # fmt: skip

# pull(margin, beta) -> a number


def reference_pull(margin: float, beta: float) -> float:
    """Return β·σ(-β·margin), by which a step raises log π(chosen) and lowers log π(rejected)."""
    return beta * (1 - math.tanh(beta * margin / 2)) / 2


def _pull(*cases: tuple[float, float]) -> Callable[[Student], bool]:
    def holds(student: Student) -> bool:
        return all(
            math.isclose(float(student(*case)), reference_pull(*case), rel_tol=1e-6, abs_tol=1e-12)
            for case in cases
        )

    return holds


def _as_gradient(student: Student) -> bool:
    """It is minus the derivative of the loss by log π(chosen)."""
    import torch

    for margin, beta in ((2.5, 0.3), (-4.0, 0.1)):
        chosen = torch.tensor([margin], dtype=torch.float64, requires_grad=True)
        nothing = torch.zeros(1, dtype=torch.float64)
        reference_dpo_loss(chosen, nothing, nothing, nothing, beta).backward()
        if not math.isclose(float(student(margin, beta)), -float(chosen.grad), rel_tol=1e-6):
            return False
    return True


PULL = Exercise(
    signature="pull(margin, beta)",
    parameters=2,
    properties=(
        ("at a margin of 0, where training begins, it is half of beta",
         _pull((0.0, 0.1), (0.0, 2.0))),
        ("a pair that is told apart well is hardly pulled at any more", _pull((80.0, 0.5))),
        ("a pair that is the wrong way round is pulled with nearly beta", _pull((-80.0, 0.5))),
        ("in between it is minus the loss's derivative by log p of the chosen answer",
         _as_gradient),
        ("a margin of thousands gives a number", _pull((9000.0, 1.0), (-9000.0, 1.0))),
    ),
    modules=("torch",),
)  # fmt: skip

EXERCISES = {
    "pair_of": PAIR_OF,
    "answer_logp": ANSWER_LOGP,
    "dpo_loss": DPO_LOSS,
    "pull": PULL,
}
