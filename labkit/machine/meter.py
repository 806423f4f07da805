"""The meter: what a training step costs in time and memory, and nothing else.

Time is the wall clock from the moment a batch is ready until its optimizer step is done. The
first steps pay for things that never come back (allocator, kernel selection, compilation), so
the summary drops them. Evaluation and saving happen outside the window; the meter refuses to
end a step in which an evaluation ran.

Memory is three numbers, and they are not the same:

    allocated   what tensors asked the allocator for, at its highest point
    reserved    what the caching allocator holds from the device (CUDA only)
    rss         resident set: what the operating system gave this process (the highest point)

On CUDA the first two are kept by the caching allocator. The CPU allocator keeps no statistics,
so `allocator.CpuRecorder` listens to every allocation and release of a step, to the byte. The
first step is recorded, and since the optimizer has its state from then on and a step's peak
depends on the shape of its batch alone, later ones only when their batch is larger than all
since; the others are not slowed down.
"""

import time
from pathlib import Path
from statistics import median
from typing import Any

WARMUP_STEPS = 3


class Meter:
    """Collects one entry per optimizer step; `summary()` says what they amount to."""

    def __init__(self, steps: list[dict[str, Any]] | None = None) -> None:
        """Start empty, or with the `steps` of the same run before it was interrupted."""
        import torch

        self.steps: list[dict[str, Any]] = list(steps or [])
        # What was measured before an interruption counts: the largest batch may lie there.
        known = [step["peak_bytes"] for step in self.steps if "peak_bytes" in step]
        highest: dict[str, int] = {}
        for step in self.steps:
            highest |= step.get("highest_bytes", {})
        self.peak_allocated: int | None = highest.get("allocated", max(known, default=None))
        self.peak_reserved: int | None = highest.get("reserved")
        self.peak_rss: int | None = highest.get("rss")
        self.cuda = torch.cuda.is_available()
        self._started: float | None = None
        self._tokens = self._padded = self._samples = 0
        self._largest = 0
        self._recorder: Any = None
        self._rss_reset = False
        self._began_with = len(self.steps)
        self._optimizer_has_state = False

    def begin_step(self) -> None:
        """Open the window of one optimizer step."""
        self._tokens = self._padded = self._samples = 0
        if self.cuda:
            import torch

            # Evaluations between steps have peaks of their own, which are not training's.
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        self._rss_reset = reset_peak_rss()
        self._started = time.perf_counter()

    def see_batch(self, tokens: int, *, padded: int, samples: int) -> None:
        """Count a batch: its samples, and `tokens` real ones out of `padded` positions computed.

        Called before its forward pass; starts the memory recorder when the batch is the largest.
        """
        if self._started is None:
            raise RuntimeError("the meter was shown a batch outside a step: is it an evaluation?")
        self._tokens += tokens
        self._padded += padded
        self._samples += samples
        if not self.cuda and self._recorder is None and padded > self._largest:
            from labkit.machine.cpu_allocator import CpuRecorder

            self._largest = padded
            before = time.perf_counter()
            self._recorder = CpuRecorder().start()
            self._started += time.perf_counter() - before

    def evaluation_begins(self) -> None:
        """Refuse an evaluation inside the window of a step."""
        if self._started is not None:
            raise RuntimeError("an evaluation began inside the measured window of a step")

    def end_step(self, step: int, loss: float) -> dict[str, Any]:
        """Close the window and return the step's entry: step, loss, seconds, tokens, padded."""
        if self._started is None:
            raise RuntimeError("the meter's step ended before it began")
        before = self._peaks()
        if self.cuda:
            import torch

            torch.cuda.synchronize()
            self.peak_allocated = _larger(torch.cuda.max_memory_allocated(), self.peak_allocated)
            self.peak_reserved = _larger(torch.cuda.max_memory_reserved(), self.peak_reserved)
        seconds = time.perf_counter() - self._started
        if self._rss_reset and (rss := peak_rss()) is not None:
            self.peak_rss = _larger(rss, self.peak_rss)
        peak: int | None = None
        if self._recorder is not None:
            peak = self._recorder.stop().peak_bytes
            self._recorder = None
            self.peak_allocated = _larger(peak, self.peak_allocated)
        self._started = None
        if not self._optimizer_has_state:
            # The next step holds it as well: its peak may be larger with a smaller batch.
            self._optimizer_has_state = True
            self._largest = 0
        entry: dict[str, Any] = {
            "step": step, "loss": loss, "seconds": seconds, "tokens": self._tokens,
            "padded_tokens": self._padded, "samples": self._samples,
        }  # fmt: skip
        if peak is not None:
            entry["peak_bytes"] = peak
        # For whoever goes on after an interruption: new heights, and that this was no warm step.
        if higher := {k: v for k, v in self._peaks().items() if v is not None and v != before[k]}:
            entry["highest_bytes"] = higher
        if len(self.steps) - self._began_with < WARMUP_STEPS:
            entry["cold"] = True
        self.steps.append(entry)
        return entry

    def abandon_step(self) -> None:
        """Drop an open window (interruption, error)."""
        if self._recorder is not None:
            self._recorder.stop()
            self._recorder = None
        self._started = None

    def timed_steps(self) -> list[dict[str, Any]]:
        """Return the steps that stand for the run's speed: warm, and not under the recorder."""
        warm = [
            step
            for index, step in enumerate(self.steps)
            if not self._began_with <= index < self._began_with + WARMUP_STEPS
            and index >= WARMUP_STEPS
            and "cold" not in step
        ]
        return [s for s in warm if "peak_bytes" not in s] or warm

    def summary(self) -> dict[str, Any]:
        """Return tokens/s, median step time and peaks; null for what was not measured."""
        timed = self.timed_steps()
        seconds = sum(step["seconds"] for step in timed)
        return {
            "tokens_per_second": sum(s["tokens"] for s in timed) / seconds if timed else None,
            "samples_per_second": sum(s["samples"] for s in timed) / seconds if timed else None,
            "step_seconds_median": median(s["seconds"] for s in timed) if timed else None,
            "train_seconds": sum(step["seconds"] for step in self.steps),
            "peak_bytes": self._peaks(),
        }

    def _peaks(self) -> dict[str, int | None]:
        return {
            "allocated": self.peak_allocated,
            "reserved": self.peak_reserved,
            "rss": self.peak_rss,
        }


def _larger(new: int, known: int | None) -> int:
    return new if known is None else max(new, known)


def reset_peak_rss() -> bool:
    """Make the kernel forget this process's earlier peak (Linux); False where it cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        return True
    except OSError:
        return False


def peak_rss() -> int | None:
    """Return the highest resident set of this process in bytes; None where nobody counts it."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    kib = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")), None)
    return int(kib) * 1024 if kib else None
