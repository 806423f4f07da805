"""Compare a run that a student took by hand with the record of the same run.

Nothing is as good a test of a training loop as the losses of another one: the first depends on
tokens, labels and mask alone, since B is zero; the second on the update and the optimizer's first
step; the ones after it on what is carried from step to step.
"""

from collections.abc import Sequence

from labkit.checkpoints.card import Verdict
from labkit.errors import LabkitError
from labkit.runs.records import RunRecord

CLOSE = 2e-3
"""Sums in another order, in float32 on a processor or a card, differ by less."""

CAUSES = (
    "it is still the untouched model's: look at the tokens, the labels, the mask and the shift",
    "look at what the first step did: where A starts, the scale alpha / r, the learning rate, "
    "the weight decay",
    "look at what is carried from step to step: gradients that are not cleared, an optimizer that "
    "is made anew, the clipping",
)


def against(record: RunRecord, *, trained: int, losses: Sequence[float]) -> Verdict:
    """Return where a run by hand and a record agree: trained parameters, then loss after loss.

    The verdict stops at the first loss that is not the record's within 0.2 %.

    Raises:
        LabkitError: no losses, or more than the record has steps.
    """
    if not 0 < len(losses) <= len(record.losses):
        raise LabkitError(
            f"{len(losses)} losses cannot be compared with the {len(record.losses)} steps of "
            f"{record.name}: give one for each step that was taken"
        )
    verdict = Verdict(title=f"By hand and {record.name}")
    expected = record.summary["trainable_parameters"]
    if trained == expected:
        verdict.consistent.append("as many numbers are trained as in the run")
    else:
        side = "more" if trained > expected else "fewer"
        verdict.contradicts.append(
            f"{side} numbers are trained than in the run: look at which layers have an adapter, "
            "at the rank, and at what is frozen"
        )
    for step, (ours, theirs) in enumerate(zip(losses, record.losses, strict=False), start=1):
        if not abs(ours - theirs) <= CLOSE * abs(theirs):
            cause = CAUSES[min(step, len(CAUSES)) - 1]
            verdict.contradicts.append(f"the loss of step {step} is not the run's: {cause}")
            break
        verdict.consistent.append(f"the loss of step {step} is the run's")
    return verdict
