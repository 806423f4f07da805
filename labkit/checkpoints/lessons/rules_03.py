"""Rules of lesson 03 on what was measured here: lines through points, variants, a limit."""

import json
from collections.abc import Iterator
from typing import Any

from labkit.checkpoints.rules import (
    CHANGE,
    Evidence,
    Finding,
    Values,
    close,
    closest,
    compare,
    positive,
    quotient,
    reasoned,
)

NEAR = 0.10
TIE = 0.01
TIME_CHANGE = 0.10
# What the whole process held, by whoever counted it.
HELD = ("resident_bytes", "device_used_bytes", "process_peak_bytes")
TRIED = ("done", "out of memory")

Point = dict[str, Any]


def _measured(evidence: Evidence, name: str) -> list[Point]:
    return [p for p in evidence.points if p.get("status") == "done" and p.get(name)]


def _alike(points: list[Point], *but: str) -> list[list[Point]]:
    """Return the points in groups that share every setting except those named."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        rest = {k: v for k, v in point["settings"].items() if k not in but}
        groups.setdefault(json.dumps(rest, sort_keys=True), []).append(point)
    return list(groups.values())


def memory_line(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 03.1: two peaks of one sweep, and the line through them."""
    small, large = values["small_batch"], values["large_batch"]
    low, high = values["small_bytes"], values["large_bytes"]
    yield from positive(values, "small_batch", "small_bytes", "large_bytes")
    if None not in (small, large) and small >= large:
        yield Finding("contradicts", "large_batch is not above small_batch")
    elif None not in (small, large, low, high):
        found = False
        sweeps = _alike(_measured(evidence, "peak_bytes"), "batch_size")
        for group in sweeps:
            peaks = [(p["settings"]["batch_size"], p["peak_bytes"]) for p in group]
            found |= all(
                any(size == batch and close(claimed, peak) for batch, peak in peaks)
                for size, claimed in ((small, low), (large, high))
            )
        if found:
            yield Finding("consistent", "both peaks are those of points of one sweep")
        elif not any(len(group) > 1 for group in sweeps):
            yield Finding("missing", "no two of your points differ in the batch size alone")
        else:
            yield Finding("contradicts", "no sweep of yours has these peaks at these batch sizes")
        slope = (high - low) / (large - small)
        source = "what the two peaks give"
        yield from compare("bytes_per_sample", values["bytes_per_sample"], slope, source)
        constant = low - slope * small
        yield from compare("constant_bytes", values["constant_bytes"], constant, source)
    yield from reasoned(values)


def best_batch(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 03.2: the smallest batch within a tenth of the highest throughput of its sweep."""
    highest, batch = values["highest_tokens_per_second"], values["best_batch_size"]
    speed = values["best_tokens_per_second"]
    yield from positive(
        values, "highest_tokens_per_second", "best_tokens_per_second", "highest_bytes",
        "best_bytes", "held_bytes",
    )  # fmt: skip
    if highest is not None:
        sweeps = [
            {p["settings"]["batch_size"]: p for p in group}
            for group in _alike(_measured(evidence, "tokens_per_second"), "batch_size")
        ]
        swept = [sweep for sweep in sweeps if len(sweep) > 1]
        # A search under a limit leaves points of another length, which may be nearly as fast.
        near = [sweep for sweep in swept if close(highest, max(_rates(sweep).values()))]
        match = min(near, key=lambda s: abs(max(_rates(s).values()) - highest), default=None)
        if match is not None:
            yield Finding("consistent", "highest_tokens_per_second is the highest of a sweep")
            yield from _smallest_near(_rates(match), batch, speed)
            yield from _memory_of(values, match)
        elif not swept:
            yield Finding("missing", "no two of your points differ in the batch size alone")
        else:
            yield Finding(
                "contradicts", "highest_tokens_per_second is not the highest of any of your sweeps"
            )
    yield from quotient(
        values, "share_percent", "best_tokens_per_second", "highest_tokens_per_second", times=100.0
    )
    yield from reasoned(values)


def _rates(sweep: dict[int, Point]) -> dict[int, float]:
    return {batch: point["tokens_per_second"] for batch, point in sweep.items()}


def _memory_of(values: Values, sweep: dict[int, Point]) -> Iterator[Finding]:
    """Hold what the answer says of memory against the points of the two batches."""
    rates = _rates(sweep)
    claimed, highest = values["highest_bytes"], max(rates.values())
    peaks = [sweep[b]["peak_bytes"] for b in rates if rates[b] >= (1 - TIE) * highest]
    # Where batches are equally fast, any of them is the one with the highest throughput.
    peak = next((each for each in peaks if claimed and each and close(claimed, each)), peaks[0])
    source = "the peak of the batch with the highest throughput"
    yield from compare("highest_bytes", claimed, peak, source)
    best = sweep.get(values["best_batch_size"] or 0)
    if best is None:
        return
    source = "the peak of best_batch_size"
    yield from compare("best_bytes", values["best_bytes"], best["peak_bytes"], source)
    claimed, held = values["held_bytes"], [best[name] for name in HELD if best.get(name)]
    if claimed is None:
        return
    if not held:
        yield Finding("missing", "held_bytes cannot be checked: your sweep did not look")
    elif any(close(claimed, each) for each in held):
        yield Finding("consistent", "held_bytes is what the process of best_batch_size held")
    else:
        yield Finding("contradicts", "held_bytes is not what the process of best_batch_size held: "
                      "neither resident, nor counted by a limit, nor on the card")  # fmt: skip


def _smallest_near(
    sweep: dict[int, float], batch: int | None, speed: float | None
) -> Iterator[Finding]:
    if batch is None:
        return
    if batch not in sweep:
        yield Finding("contradicts", "best_batch_size is not a batch of that sweep")
        return
    yield from compare("best_tokens_per_second", speed, sweep[batch], "what the sweep has there")
    smallest = min(b for b, rate in sweep.items() if rate >= (1 - NEAR) * max(sweep.values()))
    if batch < smallest:
        yield Finding("contradicts", "best_batch_size is more than a tenth below the highest")
    elif batch > smallest:
        yield Finding("contradicts", "a batch smaller than best_batch_size is within a tenth too")
    else:
        yield Finding("consistent", "best_batch_size is the smallest within a tenth")


def variants(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 03.3: no two points that differ in this alone show the opposite."""
    points = _measured(evidence, "peak_bytes")
    again = [
        (one, other)
        for group in _alike(points, "gradient_checkpointing")
        for one in group
        for other in group
        if not one["settings"]["gradient_checkpointing"]
        and other["settings"]["gradient_checkpointing"]
    ]
    summed = [
        (one, other)
        for group in _alike(points, "batch_size", "gradient_accumulation_steps")
        for one in group
        for other in group
        if one["settings"]["gradient_accumulation_steps"] == 1
        and other["settings"]["gradient_accumulation_steps"] > 1
        and _samples(one) == _samples(other)
    ]
    for name, pairs, key, least in (
        ("checkpointing_memory", again, "peak_bytes", CHANGE),
        ("checkpointing_time", again, "step_seconds", TIME_CHANGE),
        ("accumulation_memory", summed, "peak_bytes", CHANGE),
    ):
        claim = values[name]
        if claim is None:
            continue
        changes = [other[key] / one[key] - 1 for one, other in pairs if one[key] and other[key]]
        effects = {
            "no change" if abs(c) < least else "grows" if c > 0 else "shrinks" for c in changes
        }
        if not effects:
            yield Finding("missing", f"{name}: no two of your points differ in it alone")
        elif claim in effects:
            yield Finding("consistent", f"{name}: your points show it")
        else:
            yield Finding("contradicts", f"{name}: your points show otherwise")
    yield from reasoned(values)


def _samples(point: Point) -> int:
    settings = point["settings"]
    return settings["batch_size"] * settings["gradient_accumulation_steps"]


def under_a_limit(values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check 03.5: it ran, nothing as small failed, nothing larger ran, in one search."""
    limit, largest = values["memory_limit_bytes"], values["largest_batch_size"]
    yield from positive(values, "memory_limit_bytes")
    if largest is not None and largest < 0:
        yield Finding("contradicts", "largest_batch_size is below zero")
    if None not in (limit, largest):
        points = [p for p in evidence.points if p.get("memory_limit_bytes") == limit]
        # Only points that differ in the batch alone are one search for the largest.
        searches = _alike([p for p in points if p.get("status") in TRIED], "batch_size")
        yield from closest(
            [[*_searched(each, largest), *_was_predicted(each, values, evidence)]
             for each in sorted(searches, key=len) or [[]]],
            "the largest batch",
        )  # fmt: skip
    yield from reasoned(values)


def _searched(search: list[Point], largest: float) -> Iterator[Finding]:
    batches = {word: [p["settings"]["batch_size"] for p in search if p["status"] == word]
               for word in TRIED}  # fmt: skip
    ran, failed = batches["done"], batches["out of memory"]
    if not search:
        yield Finding("missing", "no point of yours was run under this limit")
    elif any(batch <= largest for batch in failed):
        yield Finding("contradicts", "your own points ran out of memory at largest_batch_size, "
                      "or at a smaller batch")  # fmt: skip
    elif any(batch > largest for batch in ran):
        yield Finding("contradicts", "a larger batch than largest_batch_size ran")
    elif largest and largest not in ran:
        yield Finding("missing", "none of your points shows largest_batch_size running")
    elif not failed:
        yield Finding("missing", "none of your points shows a batch that does not fit")
    else:
        said = "largest_batch_size ran, and the next one tried did not"
        yield Finding("consistent", said if largest else "not one sample ran")


def _was_predicted(search: list[Point], values: Values, evidence: Evidence) -> Iterator[Finding]:
    """Check a search's prediction: of this limit, and with the settings of its points."""
    claimed, limit = values["predicted_batch_size"], values["memory_limit_bytes"]
    if claimed is None:
        return
    shared = dict(search[0]["settings"]) if search else {}
    shared.pop("batch_size", None)
    kept = [m["values"].get("predicted") for m in evidence.measured("largest_batch")
            if m["settings"].get("memory_limit_bytes") == limit
            and all(m["settings"].get(k, v) == v for k, v in shared.items())]  # fmt: skip
    if not kept:
        yield Finding("missing", "predicted_batch_size cannot be checked: no search for the "
                      "largest batch under this limit is kept")  # fmt: skip
    elif claimed in kept:
        yield Finding("consistent", "predicted_batch_size is what was predicted")
    else:
        yield Finding("contradicts", "predicted_batch_size is not what was predicted under "
                      "this limit")  # fmt: skip


RULES = {
    "03.1": memory_line,
    "03.2": best_batch,
    "03.3": variants,
    "03.5": under_a_limit,
}
