"""What a run should take on the machine it starts on, to stand beside what it then took.

The peak is the formula's (`formula.analytic`), because a trace would cost the run seconds and the
formula is as close for the architectures it knows. It is that of the largest batch: as many of the
longest sequences as a batch holds, which is the batch whose memory the meter reports. The time is
that of `step_time` at this processor's measured rates, or a card's by its datasheet, for the batch
in the middle, as the meter reports a median.

Both are of the step as transformers runs it: compiled layers keep less and take less time.
"""

from collections.abc import Mapping, Sequence
from statistics import median_low
from typing import Any

from labkit.datasets.encode import IGNORED
from labkit.errors import LabkitError
from labkit.machine import links
from labkit.machine.arithmetic import device
from labkit.machine.datasheets import Device
from labkit.memory.architectures import shape_of
from labkit.memory.estimates import assumed, this_device
from labkit.memory.formula import analytic
from labkit.memory.of_run import of_run
from labkit.memory.step_time import step_seconds
from labkit.runs.config import RunConfig
from labkit.runs.task_settings import reference_of

Sequences = Sequence[Mapping[str, Sequence[int]]]


def predict(
    config: RunConfig,
    sequences: Sequences,
    *,
    attention: str,
    labelled_logits: bool,
    grouped: bool,
    cuda: bool,
    encoder_decoder: bool = False,
) -> dict[str, Any]:
    """Return the `predicted` of a run's record: bytes of the peak, seconds of a step, and of what.

    `sequences` hold `input_ids` and `labels`; `attention` is the implementation that was chosen,
    `grouped` whether batches are of like length, `labelled_logits` whether only labelled positions
    get logits, `encoder_decoder` that labels are a text of their own. What cannot be predicted is
    None, and `reason` says why.
    """
    batches = batches_of(sequences, config.per_device_train_batch_size, grouped=grouped)
    largest = max(batches, key=_padded)
    middle = median_low(_padded(batch) for batch in batches)
    usual = next(batch for batch in batches if _padded(batch) == middle)
    shared = any("segment_ids" in each for each in sequences)
    paired = reference_of(config) != "none"  # the two answers of a pair are of unlike length
    found: dict[str, Any] = {
        "peak_bytes": {"analytic": None}, "step_seconds": None, "reason": None,
    }  # fmt: skip
    try:
        card = _card(cuda)

        def settings_of(batch: Sequences) -> Any:
            lengths = {len(each["input_ids"]) for each in batch}
            return of_run(
                config,
                target="cuda" if cuda else "cpu",
                compute_capability=card.compute_capability if card else None,
                batch_size=len(batch),
                seq_len=_longest(batch, "input_ids"),
                attention="eager" if attention == "eager" else "sdpa",
                padding=shared or paired or len(lengths) > 1,
                loss="full" if labelled_logits or encoder_decoder else "chunked",
                target_len=_longest(batch, "labels") if encoder_decoder else None,
                labelled_tokens=_labelled(batch) if labelled_logits else None,
            )

        peak, step = settings_of(largest), settings_of(usual)
        found["batches"] = {
            name: {"batch_size": each.batch_size, "seq_len": each.seq_len,
                   "labelled_tokens": each.labelled_tokens}
            for name, each in (("largest", peak), ("middle", step))
        }  # fmt: skip
        found["assumed"] = {k: v for k, v in assumed(peak).items() if k != "labelled_tokens"}
        formula, shape = analytic(peak), shape_of(step)
        if formula is None or shape is None:
            found["reason"] = f"there is no formula for the architecture of {config.model}"
            return found
        found["peak_bytes"]["analytic"] = formula.peak_bytes
        if card is None:
            found["reason"] = "the rates of this GPU are not known"
        else:
            low, high = step_seconds(shape, step, card, links.of_device(card))
            found["step_seconds"] = {"low": low, "high": high}
    # A run that cannot be predicted is still a run.
    except LabkitError as error:
        found["reason"] = str(error)
    return found


def batches_of(sequences: Sequences, size: int, *, grouped: bool) -> list[Sequences]:
    """Return batches like those that are trained on: of like length, or as they come."""
    rows = list(sequences)
    if grouped:
        rows.sort(key=lambda each: len(each["input_ids"]), reverse=True)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _longest(batch: Sequences, key: str) -> int:
    return max(len(each[key]) for each in batch)


def _padded(batch: Sequences) -> int:
    """Return the positions of a batch, padding among them."""
    return len(batch) * _longest(batch, "input_ids")


def _labelled(batch: Sequences) -> int:
    """Return the labelled positions of a sample, on average over the batch; at least one."""
    count = sum(label != IGNORED for each in batch for label in each["labels"][1:])
    return max(1, -(-count // len(batch)))


def _card(cuda: bool) -> Device | None:
    """Return this machine's processor or card; None for a card without a datasheet here."""
    if not cuda:
        return device("cpu")
    name = this_device()
    return None if name == "cpu" else device(name)
