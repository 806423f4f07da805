"""Batch requests: those that wait together are generated together.

Writing a token reads every weight once, whatever the number of sequences it is written for
(lesson 00). A server that answers its requests one after the other reads all weights for each
of them; one that puts B waiting requests into a batch reads them once for all:

    seconds = tokens · bytes of weights / bytes per second     one after the other: B times that
                                                               in a batch: once, and little more

The scheme here is *static* batching: whoever waits when the model becomes free goes in the next
batch, padded on the left. A request that ends early is sent off at once, but its place stays
empty until the batch ends. Filling that place at once is *continuous* batching (Yu et al., Orca,
OSDI 2022); transformers has it too, with one setting of the sampling for all requests, which
does not suit a server that several people share.

A stop string is no part of the answer: the text ends before it, and what might be the beginning of
one is held back until more is known.

Requests batch only with requests of the same sampling settings. One that brings a seed or stop
strings is generated alone, so that its answer does not depend on who else was there. Random
numbers come from a generator of the batch's own: torch's is shared by all threads, and transformers
seeds it when a request arrives, in the middle of what others are being answered.
"""

import asyncio
import copy
import itertools
import json
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers.decoders import DecodeStream
from transformers.cli.serving.utils import (
    BaseGenerateManager,
    DirectStreamer,
    GenerationState,
    _GenerationCancelled,
    _StreamError,
)

GATHER_SECONDS = 0.01
_alone = itertools.count()


class GenerationFailed(Exception):
    """A batch that could not be generated, and why."""


class ServerStops(Exception):
    """The server ends before the answer was complete."""

    def __str__(self) -> str:
        return "the server is stopping: ask again when it is back"


@dataclass(kw_only=True)
class Job:
    """One request: its prompt, its settings, and where its tokens go."""

    model: Any
    processor: Any
    ids: Any
    """token ids of the prompt, (1, T)"""
    config: Any
    """transformers' GenerationConfig of this request"""
    on_token: Callable[[int], None]
    on_end: Callable[[Exception | None], None]
    stopped: Callable[[], bool] = lambda: False
    """whether the text has come to a stop string, asked after each token"""
    written: int = 0
    ended: bool = False
    group: str = field(init=False)

    def __post_init__(self) -> None:
        settings = {k: v for k, v in self.config.to_dict().items() if k != "max_new_tokens"}
        self.group = json.dumps(settings, sort_keys=True, default=str)
        if getattr(self.config, "seed", None) is not None or self.config.stop_strings:
            self.group += f" alone {next(_alone)}"

    def take(self, token: int, end_tokens: Sequence[int]) -> None:
        """Pass a token on; end after the last one, or when the reader has gone."""
        try:
            self.written += 1
            self.on_token(token)
        except _GenerationCancelled as gone:
            self.end(gone)
        else:
            if token in end_tokens or self.stopped():
                # It ended by itself, be it with the last token allowed.
                self.config.max_new_tokens = None
                self.end()
            elif self.written >= self.config.max_new_tokens:
                self.end()

    def end(self, error: Exception | None = None) -> None:
        """Tell the reader, once, that nothing more comes."""
        if not self.ended:
            self.ended = True
            self.on_end(error)


class StopText:
    """A text that comes in pieces, cut before the first of some strings."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.found = False
        self._stops = [stop for stop in stops if stop]
        self._held = ""

    def feed(self, piece: str) -> str:
        """Return what may be sent on, now that `piece` has come."""
        if self.found:
            return ""
        text = self._held + piece
        places = [text.find(stop) for stop in self._stops if stop in text]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        longest = max(map(len, self._stops), default=1) - 1
        begun = next((n for n in range(min(longest, len(text)), 0, -1)
                      if any(stop.startswith(text[-n:]) for stop in self._stops)), 0)  # fmt: skip
        self._held = text[len(text) - begun :]
        return text[: len(text) - begun]

    def rest(self) -> str:
        """Return what was held back, once nothing more comes."""
        held, self._held = self._held, ""
        return held


class _StopStreamer(DirectStreamer):
    """transformers' streamer, whose text ends before a stop string."""

    def __init__(self, cut: StopText, *args: Any) -> None:
        self._cut = cut
        super().__init__(*args)

    def _enqueue(self, item: Any) -> None:
        if item is None and (rest := self._cut.rest()):
            super()._enqueue(rest)
        if type(item) is str:  # reasoning and calls of tools are other classes
            item = self._cut.feed(item)
            if not item:
                return
        super()._enqueue(item)


class Batcher(BaseGenerateManager):
    """Generate one model's waiting requests on one thread, batch by batch.

    It stands where transformers' server has its sequential `GenerateManager`.
    """

    def __init__(self, *, max_batch: int, stopping: threading.Event) -> None:
        self._max_batch = max_batch
        self._stopping = stopping
        self._arrived: queue.Queue[Job | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="generation", daemon=True)
        self._thread.start()

    def generate_streaming(
        self, model: Any, processor: Any, inputs: dict, gen_config: Any, request_id: str,
        response_parser: Any = None,
    ) -> tuple[asyncio.Queue, DirectStreamer]:  # fmt: skip
        """Start a request whose text is put on the returned queue piece by piece."""
        import torch

        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue = asyncio.Queue()
        cut = StopText(gen_config.stop_strings or [])
        streamer = _StopStreamer(cut, processor._tokenizer, loop, pieces, response_parser)
        streamer.put(inputs["input_ids"])  # the first thing put is the prompt, which it leaves out

        def on_end(error: Exception | None) -> None:
            if error is None:
                streamer.end()
            elif isinstance(error, _GenerationCancelled):
                _tell(loop, pieces.put_nowait, None)
            else:
                # It is put between the quotes of a JSON text as it is.
                _tell(loop, pieces.put_nowait, _StreamError(json.dumps(str(error))[1:-1]))

        self._arrived.put(Job(
            model=model, processor=processor, ids=inputs["input_ids"], config=gen_config,
            on_token=lambda token: streamer.put(torch.tensor([token])), on_end=on_end,
            stopped=lambda: cut.found,
        ))  # fmt: skip
        return pieces, streamer

    async def generate_non_streaming(
        self, model: Any, processor: Any, inputs: dict, gen_config: Any, request_id: str
    ) -> tuple[str, int, list[int]]:
        """Return (text, tokens of the prompt, token ids of the answer) once all is written."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        tokens: list[int] = []
        cut = StopText(gen_config.stop_strings or [])
        stream = DecodeStream([], skip_special_tokens=True)

        def take(token: int) -> None:
            if done.cancelled():
                raise _GenerationCancelled
            tokens.append(token)
            if gen_config.stop_strings:
                cut.feed(stream.step(processor._tokenizer, token) or "")

        def resolve(error: Exception | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        self._arrived.put(Job(
            model=model, processor=processor, ids=inputs["input_ids"], config=gen_config,
            on_token=take, on_end=lambda error: _tell(loop, resolve, error),
            stopped=lambda: cut.found,
        ))  # fmt: skip
        await done
        text = processor.decode(tokens, skip_special_tokens=True)
        text = StopText(gen_config.stop_strings or []).feed(text) if cut.found else text
        return text, inputs["input_ids"].shape[-1], tokens

    def stop(self) -> None:
        """Wait for the thread to end; `stopping` is set, so it does after the token at hand."""
        self._arrived.put(None)
        self._thread.join(timeout=60)

    def _work(self) -> None:
        waiting: list[Job] = []
        while not self._stopping.is_set():
            if not waiting:
                waiting += _some(self._arrived.get())
                self._stopping.wait(GATHER_SECONDS)  # those who came with it go with it
            while not self._arrived.empty():
                waiting += _some(self._arrived.get_nowait())
            alike = [job for job in waiting if job.group == waiting[0].group]
            jobs = alike[: self._max_batch]
            waiting = [job for job in waiting if not any(job is taken for taken in jobs)]
            error: Exception | None = None
            try:
                if jobs:
                    _generate(jobs, self._stopping)
            except Exception as failure:  # these requests failed; the thread serves the next ones
                error = GenerationFailed(f"{type(failure).__name__}: {failure}")
            for job in jobs:
                job.end(ServerStops() if self._stopping.is_set() else error)
        for job in waiting:
            job.end(ServerStops())


class _Spread:
    """A streamer in transformers' sense that gives each row of a batch to its own request."""

    def __init__(self, jobs: Sequence[Job], end_tokens: Sequence[int]) -> None:
        self._jobs, self._end_tokens = jobs, end_tokens
        self._prompt = True

    def put(self, value: Any) -> None:
        if self._prompt:
            self._prompt = False
            return
        for job, token in zip(self._jobs, value.tolist(), strict=True):
            if not job.ended:
                job.take(token, self._end_tokens)

    def end(self) -> None:
        pass


def _draws(seed: int | None) -> Any:
    """Return a logits processor that draws the next token itself and leaves only that one.

    Scores [B, V] as sampling's other processors leave them. `seed` None: another draw every time.
    """
    import torch
    from transformers import LogitsProcessor

    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)

    class Draw(LogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            weights = scores.float().softmax(-1).cpu()
            drawn = torch.multinomial(weights, 1, generator=generator).to(scores.device)
            return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)

    return Draw()


def _generate(jobs: Sequence[Job], stopping: threading.Event) -> None:
    """Run one batch to its end, sending every token to its request as it comes.

    Shapes: B requests, prompts padded left to T.
    """
    import torch
    from transformers import StoppingCriteria

    model, processor, config = jobs[0].model, jobs[0].processor, jobs[0].config
    rows = {"input_ids": [job.ids[0].tolist() for job in jobs]}
    padded = processor.pad(rows, padding_side="left", return_tensors="pt").to(model.device)
    end_tokens = _as_list(config.eos_token_id)
    # A special token leaves no text that a stop string could be found in.
    names = set(processor.all_special_tokens) & set(config.stop_strings or [])
    end_tokens += processor.convert_tokens_to_ids(sorted(names))

    class AllEnded(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **kw: Any) -> Any:
            ended = [
                stopping.is_set() or job.ended or job.written + 1 >= job.config.max_new_tokens
                for job in jobs
            ]
            return torch.tensor(ended, device=input_ids.device)

    settings = copy.deepcopy(config)
    settings.max_new_tokens = max(job.config.max_new_tokens for job in jobs)
    settings.pad_token_id = processor.pad_token_id
    settings.stop_strings = None  # `Job.stopped` sees to them
    with torch.inference_mode():
        model.generate(
            input_ids=padded["input_ids"],
            attention_mask=padded["attention_mask"],
            generation_config=settings,
            logits_processor=[_draws(getattr(config, "seed", None))] if config.do_sample else [],
            streamer=_Spread(jobs, end_tokens),
            stopping_criteria=[AllEnded()],
            tokenizer=processor,
        )


class Batchers(GenerationState):
    """One `Batcher` per model, made at its first request; `stopping` ends what they generate."""

    def __init__(self, *, max_batch: int) -> None:
        super().__init__()
        self.stopping = threading.Event()
        self._max_batch = max_batch
        self._batchers: dict[str, Batcher] = {}

    def get_manager(self, model_id: str, use_cb: bool = False) -> Batcher:
        """Return the batcher of a model."""
        if model_id not in self._batchers:
            self._batchers[model_id] = Batcher(max_batch=self._max_batch, stopping=self.stopping)
        return self._batchers[model_id]

    def shutdown(self) -> None:
        """End what is being generated, after the token at hand, and wait until it has."""
        self.stopping.set()
        for batcher in self._batchers.values():
            batcher.stop()


def _tell(loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *values: Any) -> None:
    """Call a function on the server's loop, unless the server has stopped meanwhile."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(function, *values)


def _some(job: Job | None) -> list[Job]:
    return [] if job is None else [job]


def _as_list(ids: int | list[int] | None) -> list[int]:
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
