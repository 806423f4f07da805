"""Test whether answers depend on how a model is asked, and measure the speed-up of batching.

    python -m labkit.bench.records.answering my-lora --output data/results/answering.json

Three pairs should give the same answers, letter by letter: an adapter beside its base and merged
into it; questions in batches that share prefixes and each on its own; a model as it was and loaded
once more. Each pair is asked in float32, with bfloat16 weights and float32 arithmetic as labkit
scores (`exact`), and with all arithmetic in bfloat16.

The speed of batches is that of labkit's scoring against the plain loop of `generate` in bfloat16,
one question at a time, in alternating rounds with a control.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from labkit.bench import paired
from labkit.console import quiet_bitsandbytes, run_tool, say
from labkit.datasets import encode, tatqa
from labkit.datasets.tatqa import Sample
from labkit.errors import LabkitError
from labkit.files import write_json
from labkit.inference import export
from labkit.inference.generate import MAX_NEW_TOKENS, Generator, load_generator

ARITHMETIC: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16 weights, float32 arithmetic": {"dtype": "bfloat16", "exact": True},
    "bfloat16": {"dtype": "bfloat16"},
}


def plain(generator: Generator, sample: Sample) -> str:
    """Answer one question with transformers' own `generate`, as its documentation shows it."""
    import torch

    ids = encode.encode(
        generator.tokenizer, sample, max_length=generator._prompt_limit(MAX_NEW_TOKENS),
        with_answer=False,
    )["input_ids"]  # fmt: skip
    with torch.inference_mode():
        out = generator.model.generate(
            input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False, temperature=None, top_p=None, top_k=None,
            max_new_tokens=MAX_NEW_TOKENS, pad_token_id=generator.tokenizer.pad_token_id,
        )  # fmt: skip
    return str(generator.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)).strip()


def identical(
    adapter: str, merged: dict[str, Path], samples: Sequence[Sample], *, singles: int
) -> list[dict[str, Any]]:
    """Return [{arithmetic, pair, same, n}]; the first `singles` are also asked one by one."""
    rows = []
    for name, settings in ARITHMETIC.items():
        generator = load_generator(adapter, **settings)
        first = [reply.text for reply in generator.answer(samples)]
        alone = [plain(generator, sample) for sample in samples[:singles]]
        del generator
        again = [reply.text for reply in load_generator(adapter, **settings).answer(samples)]
        folder = merged[settings.get("dtype", "bfloat16")]
        whole = [reply.text for reply in load_generator(str(folder), **settings).answer(samples)]
        for pair, other in (("merged", whole), ("one by one", alone), ("reloaded", again)):
            same = sum(a == b for a, b in zip(first, other, strict=False))
            rows.append({"arithmetic": name, "pair": pair, "same": same, "n": len(other)})
            say(f"{name}, {pair}: {same} of {len(other)} answers the same")
    return rows


def speed(
    adapter: str, samples: Sequence[Sample], *, pairs: int, alone: int = 12, together: int = 192
) -> dict[str, Any]:
    """Return `paired.conclude` of seconds a question: the plain loop over labkit's batches."""
    plainly = load_generator(adapter, dtype="bfloat16")
    scoring = load_generator(adapter, dtype="bfloat16", exact=True)
    few = random.Random(0).sample(list(samples), min(alone, len(samples)))
    many = samples[:together]

    def timed(ask: Callable[[], object], questions: int) -> Callable[[], dict[str, list[float]]]:
        def run() -> dict[str, list[float]]:
            started = time.perf_counter()
            ask()
            return {"seconds": [(time.perf_counter() - started) / questions]}

        return run

    one_by_one = timed(lambda: [plain(plainly, sample) for sample in few], len(few))
    batched = timed(lambda: scoring.answer(many), len(many))
    plain(plainly, few[0])
    scoring.answer(few)
    runs = paired.alternate(
        {paired.BASELINE: one_by_one, "batched": batched, paired.CONTROL: one_by_one}, pairs
    )
    return paired.conclude(runs, "batched")


def measure(adapter: str, *, questions: int, singles: int, pairs: int) -> dict[str, Any]:
    """Return facts, identical and speed of a LoRA run or adapter on the test split.

    Raises:
        LabkitError: no such adapter, no questions, or pairs that cannot be balanced.
    """
    if min(questions, singles) < 1:
        raise LabkitError(f"questions={questions}, singles={singles}: ask one or more of each")
    paired.Plan(pairs=pairs)
    samples = tatqa.samples(tatqa.load("tables", "test"))[:questions]
    with tempfile.TemporaryDirectory() as folder:
        merged = {dtype: Path(folder) / dtype for dtype in ("float32", "bfloat16")}
        for dtype, path in merged.items():
            export.merge(adapter, path, dtype=dtype)
        return {
            "facts": paired.facts(),
            "speed": speed(adapter, samples, pairs=pairs),
            "identical": identical(adapter, merged, samples, singles=singles),
        }


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(prog="python -m labkit.bench.records.answering")
    parser.add_argument("adapter")
    parser.add_argument("--questions", type=int, default=720)
    parser.add_argument("--singles", type=int, default=120)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    if not options.output.parent.is_dir():
        raise LabkitError(f"{options.output.parent} is not a folder: create it first")
    quiet_bitsandbytes()
    found = measure(options.adapter, questions=options.questions, singles=options.singles,
                    pairs=options.pairs)  # fmt: skip
    write_json(options.output, found)
    ratio = found["speed"]["ratio"]
    say(f"in batches {ratio['value']:.2f} times as many questions a second as one by one "
        f"({ratio['low']:.2f} to {ratio['high']:.2f})")  # fmt: skip


if __name__ == "__main__":
    run_tool(main)
