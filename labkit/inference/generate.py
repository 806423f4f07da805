"""Generate answers: batched, deterministic, with one prefill for what prompts have in common.

Generation has two parts. *Prefill* reads the prompt in one pass; *decoding* then makes one token
a pass. All questions on a report have the same first tokens (that is why the question stands
last), so labkit reads each report once: the keys and values of the common prefix are computed a
single time and copied to every question; those of worked examples serve all reports of a batch.

    report ──prefill once──► keys, values ──copy──► question 1 ──► answer 1
                                            └─────► question 2 ──► answer 2

Prompts in a batch are padded on the left, so that every last token is a real one. Greedy
decoding of the same batches gives the same answers; `choice` says when it is not greedy.

Across *different* batches arithmetic matters. A bfloat16 result has 8 bits of mantissa, so two
tokens that are nearly equally likely change places with the order of a sum: with a model that is
often unsure, one answer in ten then depends on which questions shared its batch, and a merged
adapter seems to answer differently. It is the arithmetic, not the weights: rounded to bfloat16
and multiplied in float32 they give the same answers. That is `exact`: weights of the type they are
kept in, arithmetic in float32 where there is no GPU. It takes four bytes a weight and, on a
processor with units for bfloat16, twice the time. Whatever is scored or shown side by side is
exact; `labkit eval --no-exact` is for models that do not fit then, and moves a score over hundreds
of questions by less than its interval. Where float32 is the faster type, all arithmetic is exact.

Shape suffixes: G groups, N prompts; tokens: V virtual, C common, P prefix, S rest, T all;
1 broadcast.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labkit.datasets import encode, reasoning, sharing, tatqa
from labkit.datasets.base import Example
from labkit.datasets.registry import reports
from labkit.datasets.report_questions import worked_examples
from labkit.datasets.tatqa import Sample
from labkit.errors import LabkitError
from labkit.inference import decoding
from labkit.inference.batching import (
    batches,
    end_as_taught,
    end_tokens,
    fit_tokenizer,
    pad_left,
)
from labkit.inference.replies import Reply, read_reply
from labkit.inference.show import SideBySide
from labkit.methods import virtual_tokens
from labkit.models import registry
from labkit.runs import measurements, records

MAX_NEW_TOKENS = 64
SEQUENCES_PER_BATCH = 96
PROMPT_MAX_LENGTH = 2048
MOST_KEPT = 20
"""replies of one comparison that are kept: who asks for more wants a score"""
GREEDY = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
STAGE_TOKENS = 8
"""New tokens after which finished answers leave a batch; most of them are shorter."""


@dataclass(frozen=True, kw_only=True)
class Generator:
    """A model that is ready to answer."""

    name: str
    tokenizer: Any = field(repr=False)
    model: Any = field(repr=False)
    choice: Mapping[str, Any] = field(default_factory=lambda: GREEDY, repr=False)
    """how a next token is chosen, in transformers' words"""

    @property
    def reader(self) -> Any:
        """What reads on after a cache: the base where the cache begins with virtual tokens."""
        return self.model.get_base_model() if virtual_tokens.count(self.model) else self.model

    def complete(
        self, prompt_ids: Sequence[list[int]], *, max_new_tokens: int = MAX_NEW_TOKENS
    ) -> list[str]:
        """Return the greedy continuation of each prompt (token ids); one prefix per call.

        What all prompts of the call begin with is computed once.
        """
        return self._complete_groups([list(prompt_ids)], max_new_tokens=max_new_tokens)[0]

    def answer(
        self,
        samples: Sequence[Sample],
        *,
        examples: Sequence[Sample] = (),
        max_new_tokens: int = MAX_NEW_TOKENS,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[Reply]:
        """Answer every question, in order; `examples` are solved ones shown before each.

        `progress` is told how many are done, after each batch.
        """
        texts = self.write(
            [encode.example(sample, examples) for sample in samples],
            max_new_tokens=max_new_tokens,
            progress=progress,
        )
        return [read_reply(sample, text) for sample, text in zip(samples, texts, strict=True)]

    def write(
        self,
        examples: Sequence[Example],
        *,
        prompt: Callable[[Any, Example, int], list[int]] = encode.prompt_ids,
        max_new_tokens: int = MAX_NEW_TOKENS,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[str]:
        """Return what the model writes after the prompt of every example, in order.

        `prompt(tokenizer, example, max_length)` gives its token ids. `progress` is told how many
        examples are done, after each batch.
        """
        limit = self._prompt_limit(max_new_tokens)
        groups: dict[str, list[int]] = {}
        for index, example in enumerate(examples):
            groups.setdefault(example.group, []).append(index)
        encoded = [prompt(self.tokenizer, example, limit) for example in examples]
        # Groups of like length share a batch, so that little is padded.
        order = sorted(groups.values(), key=lambda g: max(len(encoded[i]) for i in g))
        written: dict[int, str] = {}
        for batch in batches(order, SEQUENCES_PER_BATCH):
            texts = self._complete_groups(
                [[encoded[i] for i in group] for group in batch], max_new_tokens=max_new_tokens
            )
            for group, found in zip(batch, texts, strict=True):
                written.update(zip(group, found, strict=True))
            progress(len(written))
        return [written[index] for index in range(len(examples))]

    def chat(self, message: str, *, max_new_tokens: int = 128) -> str:
        """Return the model's reply to one user message, without a system prompt of labkit's."""
        turns = [{"role": "user", "content": message}]
        text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self.complete([ids], max_new_tokens=max_new_tokens)[0]

    def _prompt_limit(self, max_new_tokens: int) -> int:
        window = getattr(self.model.config, "max_position_embeddings", None) or PROMPT_MAX_LENGTH
        return min(PROMPT_MAX_LENGTH, window - max_new_tokens)

    def _complete_groups(
        self, groups: list[list[list[int]]], *, max_new_tokens: int
    ) -> list[list[str]]:
        """Continue groups of prompts, reading what prompts begin with once.

        First what all groups begin with (instructions, worked examples), then what each group does
        (its report), then every prompt's rest. Prefixes and rests are padded left.
        """
        import torch

        device = self.model.device
        pad = self.tokenizer.pad_token_id
        shared = _has_kv_cache(self.model)
        lengths = [sharing.common_prefix_length(group) if shared else 0 for group in groups]
        begins = [group[0][:n] for group, n in zip(groups, lengths, strict=True)]
        common = sharing.common_prefix_length(begins) if len(groups) > 1 else 0
        common_1C = torch.tensor([begins[0][:common]], dtype=torch.long)
        prefix_GP, prefix_mask_GP = pad_left([ids[common:] for ids in begins], pad)
        rest_NS, rest_mask_NS = pad_left(
            [p[n:] for group, n in zip(groups, lengths, strict=True) for p in group], pad
        )
        owner_N = torch.tensor([g for g, group in enumerate(groups) for _ in group])
        every_G = torch.zeros(len(groups), dtype=torch.long)
        # Virtual tokens have no ids, but places in the cache before everything else.
        virtual_1V = torch.zeros((1, virtual_tokens.count(self.model)), dtype=torch.long)
        begin_1C = torch.cat([virtual_1V, common_1C], dim=1)
        ids_GT = torch.cat([begin_1C[every_G], prefix_GP], dim=1)
        mask_GT = torch.cat([torch.ones_like(begin_1C[every_G]), prefix_mask_GP], dim=1)
        ids_NT = torch.cat([ids_GT[owner_N], rest_NS], dim=1).to(device)
        mask_NT = torch.cat([mask_GT[owner_N], rest_mask_NS], dim=1).to(device)
        with torch.inference_mode():
            cache = virtual_tokens.cache_of(self.model)
            if common:
                cache = self._read(common_1C, torch.ones_like(begin_1C), cache)
            if cache is not None:
                cache.batch_select_indices(every_G.to(device))
            if prefix_GP.shape[1]:
                cache = self._read(prefix_GP, mask_GT, cache)
            if cache is not None:
                cache.batch_select_indices(owner_N.to(device))
            written = self._write(ids_NT, mask_NT, cache, max_new_tokens=max_new_tokens)
        texts = reasoning.decode(self.tokenizer, written)
        answers = iter(text.strip() for text in texts)
        return [[next(answers) for _ in group] for group in groups]

    def _read(self, ids: Any, mask: Any, cache: Any) -> Any:
        """Read `ids`, the end of what `mask` covers, after `cache`; return all keys and values."""
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return self.reader(
            input_ids=ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            position_ids=positions.to(self.model.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).past_key_values

    def _write(
        self, ids_NT: Any, mask_NT: Any, cache: Any, *, max_new_tokens: int
    ) -> list[list[int]]:
        """Return the new tokens of each of N prompts (N, T), padded left; `cache` may be None.

        Most answers are short and a few are long, and `generate` goes on with every row of a
        batch until the last one ends. So it writes in stages, and rows that ended are dropped.
        """
        import torch

        ends = torch.tensor(end_tokens(self.model), device=ids_NT.device)
        written: list[list[int]] = [[] for _ in ids_NT]
        open_rows = torch.arange(len(ids_NT), device=ids_NT.device)
        left = max_new_tokens
        while left and len(open_rows):
            stage = min(STAGE_TOKENS, left) if _has_kv_cache(self.model) else left
            out = self.reader.generate(
                input_ids=ids_NT,
                attention_mask=mask_NT,
                past_key_values=cache,
                max_new_tokens=stage,
                **self.choice,
                pad_token_id=self.tokenizer.pad_token_id,
                return_dict_in_generate=True,
            )
            new_NS = out.sequences[:, ids_NT.shape[1] :]
            for row, tokens in zip(open_rows.tolist(), new_NS.tolist(), strict=True):
                written[row] += tokens
            left -= stage
            goes_on = (~torch.isin(new_NS, ends).any(dim=1)).nonzero().squeeze(1)
            open_rows, ids_NT = open_rows[goes_on], out.sequences[goes_on]
            mask_NT = torch.cat([mask_NT[goes_on], torch.ones_like(new_NS[goes_on])], dim=1)
            cache = out.past_key_values
            if left and len(goes_on):
                cache.batch_select_indices(goes_on)
        return written


def model_path(name: str) -> Path:
    """Return the folder of a model, run or adapter by registry name, run name or path.

    Raises:
        LabkitError: there is no such model.
    """
    run = records.runs_dir() / name
    return registry.resolve(str(run) if (run / "record.json").is_file() else name)


def check_writes(name: str, config: Any) -> None:
    """Raise LabkitError for the configuration of an encoder-decoder."""
    if config.is_encoder_decoder:
        raise LabkitError(
            f"{name} is an encoder-decoder: labkit generates with decoder-only models, such as "
            "smollm2-135m-instruct"
        )


def load_generator(name: str, *, dtype: str = "auto", exact: bool = False) -> Generator:
    """Load a model, run or adapter by registry name, run name or path, ready to answer.

    `dtype` auto is the type that is fast here. `exact` keeps the weights at the precision of
    `dtype` and, on a CPU, calculates in float32 (see above). A quantised model computes in the type
    it was quantised for, either way.

    Raises:
        LabkitError: there is no such model, it is an encoder-decoder, or its tokenizer another's.
    """
    from labkit.machine import arithmetic
    from labkit.machine.heap import keep_heap
    from labkit.models import load

    path = model_path(name)
    import torch

    dtype = arithmetic.resolve(dtype)
    if exact and not torch.cuda.is_available() and load.quantised_when_loaded(path):
        dtype = "float32"  # what its bits stand for is multiplied in it, unrounded

    if not torch.cuda.is_available():
        keep_heap()
    model = load.load_model(path, dtype=dtype)
    if load.quantisation(path) is None:
        # Adapters are stored in float32, but training multiplied them in the compute type too.
        computes_in = model.get_input_embeddings().weight.dtype
        if exact and not torch.cuda.is_available():
            computes_in = torch.float32
        model = model.to(computes_in)
    else:  # what was added, which some of PEFT's layers multiply in its own type
        for parameter in model.parameters():
            if parameter.dtype == torch.float32:
                parameter.data = parameter.data.to(model.get_input_embeddings().weight.dtype)
    decoding.contiguous_head(model)
    if not torch.cuda.is_available():
        decoding.group_queries(model)
    virtual_tokens.crop_logits(model)
    virtual_tokens.place_text(model)
    check_writes(name, model.config)
    if torch.cuda.is_available() and model.device.type != "cuda":
        model = model.to("cuda")
    tokenizer = load.load_tokenizer(path)
    fit_tokenizer(name, tokenizer, model)
    end_as_taught(model, tokenizer)
    return Generator(name=name, tokenizer=tokenizer, model=model)


def compare(
    models: Sequence[str],
    sids: Sequence[int],
    *,
    data: str = "tables",
    split: str = "test",
    examples: int = 0,
    dtype: str = "auto",
) -> SideBySide:
    """Return, for each sample id, the question, its gold answer and every model's reply.

    A list of JSON objects that a notebook shows as tables (`show`). `examples` solved ones are
    shown before each question. What each reply is worth is kept as a measurement, `reply`.

    Raises:
        LabkitError: an id outside the split, a model or data set that is not there.
    """
    pool = tatqa.samples(reports(data, split))
    for sid in sids:
        if not 0 <= sid < len(pool):
            raise LabkitError(
                f"there is no sample {sid}: the {split} split of {data} has 0 to {len(pool) - 1}"
            )
    models = list(dict.fromkeys(models))
    for name in models:  # a misspelt last name should not cost the answers of the first
        model_path(name)
    chosen = [pool[sid] for sid in sids]
    worked = worked_examples(data, examples)
    replies = {
        name: load_generator(name, dtype=dtype, exact=True).answer(chosen, examples=worked)
        for name in models
    }
    with contextlib.suppress(LabkitError):  # replies are shown where nothing can be kept, too
        for name, sid, reply in [
            (n, *pair)
            for n, given in replies.items()
            for pair in zip(sids[:MOST_KEPT], given, strict=False)
        ]:
            measurements.keep(
                "reply", {"em": reply.em, "f1": reply.f1, "text": reply.text},
                model=name, sid=sid, data=data, split=split, examples=examples,
            )  # fmt: skip
    return SideBySide(
        {
            "sid": sid,
            "uid": sample.question.uid,
            "report": encode.render_report(sample.report),
            "table": [list(row) for row in sample.report.table],
            "paragraphs": list(sample.report.paragraphs),
            "question": sample.question.text,
            "gold": {"answer": list(sample.question.answer), "scale": sample.question.scale,
                     "answer_type": sample.question.answer_type},
            "answers": [
                {"model": name, "text": reply[i].text, "values": list(reply[i].values),
                 "scale": reply[i].scale, "em": reply[i].em, "f1": reply[i].f1,
                 **({"cut_off": True} if reply[i].cut_off else {})}
                for name, reply in replies.items()
            ],
        }
        for i, (sid, sample) in enumerate(zip(sids, chosen, strict=True))
    )  # fmt: skip


def _has_kv_cache(model: Any) -> bool:
    """Whether keys and values of a prefix can be reused: attention, no recurrent state."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return not getattr(base, "_is_stateful", False)
