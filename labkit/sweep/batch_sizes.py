"""Sweep batch sizes: memory and throughput of each, and the largest that fits.

Prediction comes first: a point's memory is traced before it is measured. Then it runs in a process
of its own under a limit (`memory.process.isolated`), so that running out of memory is a result and
not a dead kernel. What the process needs besides its tensors is in `memory.process.needs`.

Memory grows with the batch B as `constant + B · slope`: weights, gradients and optimizer state do
not care, activations and logits do. Throughput B·s/t(B) rises while the step waits for
something that does not grow with B (launching operations, reading the weights, the optimizer
step) and saturates when the arithmetic itself is what takes the time: from there on a larger batch
costs memory and buys nothing. With t(B) = a + b·B the throughput is s·B/(a + b·B): half of what
it can reach at B = a/b, and nine tenths at 9a/b.

The step is the one of the model's own class in transformers, without the shortcuts of
`labkit train`. Each point is a file; a sweep that was stopped goes on, and two that are started at
once share the work. Devices that are not here are predicted and not measured.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError
from labkit.files import lock_folder, sha256_file, write_json
from labkit.machine.datasheets import DEVICES, GIB
from labkit.machine.hardware import gpus, memory_available_bytes, thread_count
from labkit.memory.architectures import config_folder, shape_of
from labkit.memory.estimates import find_device, settings_for, target_of
from labkit.memory.of_run import of_run
from labkit.memory.process.isolated import DONE, FAILED, OUT_OF_MEMORY, run_in_process
from labkit.memory.process.needs import check_limit, predict_largest, process_needs
from labkit.memory.settings import StepSettings
from labkit.memory.step_time import step_seconds
from labkit.models import registry
from labkit.runs import measurements, records
from labkit.runs.config import RunConfig
from labkit.sweep.points import PREDICTED, Largest, Point

HERE = ("cpu", "cuda")
HELD = ("resident_bytes", "reserved_bytes", "device_used_bytes")
LATER = ("base", "use_dora", "ia3_modules", "adapter_len", "adapter_layers", "bottleneck_size",
         "bottleneck_after")  # fmt: skip
"""Settings that points of before did not have."""
# What a point without a limit may take of the memory that is free, so that nobody else's ends.
GUARD = 0.9
MUCH_MORE = 1.1
"""Free memory that differs by less is no reason to try again what did not fit."""
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30}


def sweep(
    model: str,
    *,
    batch_sizes: Iterable[int] = (1, 2, 4, 8, 16),
    variants: Sequence[Mapping[str, Any]] = ({},),
    device: str = "cpu",
    memory_limit: int | None = None,
    steps: int = 3,
    directory: str | Path | None = None,
    fresh: bool = False,
    run: RunConfig | None = None,
    **choices: Any,
) -> Iterator[Point]:
    """Yield a point for each variant and batch size, measured now or read from `directory`.

    `choices` are fields of `StepSettings`, `variants` changes to them such as
    `{"gradient_checkpointing": True}`; a `run` decides what they leave open. `memory_limit` is in
    bytes. A device that is not here is predicted. After the first point of a variant that runs out
    of memory the larger ones are not tried. Raises `LabkitError` for settings that cannot be,
    before anything is run.
    """
    device = device.lower()
    plan = [
        _settings(model, device, run, batch_size=1, **{**choices, **variant})
        for variant in variants
    ]
    sizes = sorted(set(batch_sizes))
    for size in sizes:
        dataclasses.replace(plan[0], batch_size=size)
    _check_bytes(memory_limit, device)
    if memory_limit is not None and device in HERE:
        for settings in plan:
            check_limit(settings, limit=memory_limit)

    def points() -> Iterator[Point]:
        for settings in plan:
            for size in sizes:
                point = point_of(
                    dataclasses.replace(settings, batch_size=size), device=device, steps=steps,
                    limit=memory_limit, directory=directory, fresh=fresh,
                )  # fmt: skip
                yield point
                if not point.fits:
                    break

    return points()


def largest_batch(
    model: str,
    *,
    memory_limit: int | None = None,
    device: str = "cpu",
    directory: str | Path | None = None,
    measure: bool = True,
    run: RunConfig | None = None,
    **choices: Any,
) -> Largest:
    """Find the largest batch that fits: by prediction, then by bisection on real steps.

    `memory_limit` is in bytes; without one it is what is free here, or what the device has. Raises
    `LabkitError` when it is below what weights and process take.
    """
    _check_bytes(memory_limit, device)
    settings = _settings(model, device, run, batch_size=1, **choices)
    if device not in HERE:
        measure = False
    limit = memory_limit or _available(device)
    found = Largest(
        settings=settings,
        memory_limit_bytes=limit,
        predicted=predict_largest(settings, limit=limit),
    )
    if not measure:
        return found
    points: dict[int, Point] = {}

    def runs(batch_size: int) -> bool:
        if batch_size not in points:
            changed = dataclasses.replace(settings, batch_size=batch_size)
            points[batch_size] = point_of(
                changed, device=device, limit=limit, steps=1, directory=directory
            )
        return points[batch_size].status == DONE

    measured = bisect(runs, start=found.predicted)
    tried = tuple(points[each] for each in sorted(points))
    # Points are single steps: what was predicted before them is said nowhere else.
    measurements.keep(
        "largest_batch", {"predicted": found.predicted, "measured": measured},
        device=device, memory_limit_bytes=limit, **dataclasses.asdict(settings),
    )  # fmt: skip
    return dataclasses.replace(found, measured=measured, points=tried)


def bisect(runs: Callable[[int], bool], *, start: int) -> int:
    """Return the largest number that `runs`; 0 when 1 does not. Looks around `start` first.

    Away from it in steps of 1, 1, 2, 4 … until one runs and one does not, then halving between.
    """
    fits, fails, step, next_step = 0, 0, 1, 1
    guess = max(1, start)
    while not fails or fails - fits > 1:
        if runs(guess):
            fits = guess
        else:
            fails = guess
        if fits and fails:
            guess = (fits + fails) // 2
        else:
            guess = max(1, guess + step if fits else guess - step)
            step, next_step = next_step, 2 * next_step
    return fits


def point_of(
    settings: StepSettings,
    *,
    device: str = "cpu",
    limit: int | None = None,
    steps: int = 3,
    directory: str | Path | None = None,
    fresh: bool = False,
) -> Point:
    """Return one point: predicted, then measured in a process of its own, or read if it was.

    Raises `LabkitError` when the step fails for another reason than memory; nothing is kept then.
    """
    peak, need = process_needs(settings)
    if device not in HERE:
        card, shape = find_device(device), shape_of(settings)
        return Point(
            settings=settings,
            status=PREDICTED,
            predicted_peak_bytes=peak,
            predicted_process_bytes=need,
            memory_limit_bytes=limit or card.usable_bytes,
            predicted_step_seconds=step_seconds(shape, settings, card) if shape else None,
        )
    folder = Path(directory) if directory else records.runs_dir() / "sweeps"
    file = folder / f"point-{_key(settings, limit)}.json"
    with _locked(folder):
        kept = None if fresh else _read(file, settings)
        if kept and kept.status == OUT_OF_MEMORY and limit is None and device == "cpu":
            # It was so of what was free then; an hour later that may be more.
            more = _available(device) > MUCH_MORE * (kept.memory_limit_bytes or 0)
            kept = None if more else kept
        if kept and (kept.status == OUT_OF_MEMORY or kept.steps >= steps):
            # The prediction is today's: what the process holds may have changed since.
            return dataclasses.replace(
                kept, predicted_peak_bytes=peak, predicted_process_bytes=need
            )
        under = limit or (_available(device) if device == "cpu" else None)
        result = run_in_process(settings, limit=under, steps=steps, need=need)
        if result["status"] == FAILED:
            raise LabkitError(
                f"a step of {settings.model} with batch {settings.batch_size} failed: "
                f"{result['detail']}"
            )
        point = Point(
            settings=settings,
            status=result["status"],
            predicted_peak_bytes=peak,
            predicted_process_bytes=need,
            memory_limit_bytes=under,
            peak_bytes=result.get("peak_bytes"),
            process_peak_bytes=result.get("process_peak_bytes"),
            **{name: result.get(name) for name in HELD},
            step_seconds=result.get("step_seconds"),
            steps=steps if result["status"] == DONE else 0,
            detail=result.get("detail", ""),
        )
        write_json(file, {**point.to_json(), "versions": records.versions()})
    return point


def here() -> str:
    """Return where a sweep measures on this machine: `cuda` where there is one, else `cpu`."""
    return "cuda" if gpus() else "cpu"


def _settings(model: str, device: str, run: RunConfig | None, **choices: Any) -> StepSettings:
    # Any card will do here: the target is given. A CPU's would be measured first, for seconds.
    card = DEVICES["t4"] if device in HERE else find_device(device)
    if device in HERE:
        choices["target"] = device
    if run is None:
        settings = settings_for(card, model, **choices)
    else:
        choices = {"target": target_of(card), "compute_capability": card.compute_capability,
                   **choices}  # fmt: skip
        settings = of_run(run, **{**choices, "model": model})
    if device in HERE and settings.num_gpus > 1:
        raise LabkitError(
            f"num_gpus {settings.num_gpus} is for a device that is predicted: here a sweep "
            "runs on one; name one such as a100-40gb, or leave num_gpus out"
        )
    return settings


def _available(device: str) -> int:
    if device == "cpu":
        return int(GUARD * memory_available_bytes())
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    return find_device(device).usable_bytes


def parse_bytes(text: str) -> int:
    """Return the bytes that a text such as 3GiB, 800MB or 2000000 stands for."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", text)
    unit = UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise LabkitError(
            f"memory limit {text!r} is not a size: write a number with B, MB, GB, MiB or GiB, "
            "such as 3GiB"
        )
    return int(float(match[1]) * unit)


def parse_variants(text: str) -> list[dict[str, Any]]:
    """Return the changes that `plain,checkpointing,accumulation=4` stand for."""
    variants: list[dict[str, Any]] = []
    for word in text.split(","):
        name, equals, value = word.strip().partition("=")
        if name == "accumulation" and value.isdecimal() and int(value) > 0:
            variants.append({"gradient_accumulation_steps": int(value)})
        elif name == "checkpointing" and not equals:
            variants.append({"gradient_checkpointing": True})
        elif name == "plain" and not equals:
            variants.append({})
        else:
            raise LabkitError(
                f"variant {word.strip()!r} is unknown: write plain, checkpointing or "
                "accumulation=N, with commas between them"
            )
    return variants


def parse_sizes(text: str) -> list[int]:
    """Return the batch sizes of a text such as 1,2,4."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise LabkitError(
            f"batch sizes {text!r} are not whole numbers above 0 with commas between: write 1,2,4"
        )
    return sorted({int(word) for word in words})


def _check_bytes(limit: int | None, device: str) -> None:
    if limit is None:
        return
    if limit <= 0:
        raise LabkitError(f"memory limit must be above 0 bytes, got {limit}")
    if device in HERE and limit > (free := _available(device)):
        raise LabkitError(
            f"memory limit {limit / GIB:.2f} GiB is more than a process may take here now "
            f"({free / GIB:.2f} GiB): lower it, or end what uses the memory"
        )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a sweep's folder: one point is measured at a time, or neither time would mean much."""
    lock = lock_folder(folder, timeout=-1)
    try:
        yield
    finally:
        lock.release()


def _read(file: Path, settings: StepSettings) -> Point | None:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        names = {each.name for each in dataclasses.fields(Point)} - {"settings"}
        # What earlier versions did not measure is None, as anything is that was not measured.
        known = {name: values[name] for name in names - set(HELD)}
        return Point(settings=settings, **known, **{name: values.get(name) for name in HELD})
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged: measure it again
        return None


def _key(settings: StepSettings, limit: int | None) -> str:
    """Return the name of what is the same measurement: settings, limit, versions and threads.

    A model outside the registry is told by its configuration too, which is all that a step is built
    from: another may come to stand in the same folder.
    """
    threads = thread_count()
    # What was no setting before counts only where it is not at its default.
    default = {each.name: each.default for each in dataclasses.fields(settings)}
    stated = {k: v for k, v in dataclasses.asdict(settings).items()
              if k not in LATER or v != default[k]}  # fmt: skip
    content = [stated, limit, records.versions(), str(threads)]
    if settings.model not in registry.known_names():
        content.append(sha256_file(config_folder(settings.model) / "config.json"))
    text = json.dumps(content, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
