"""What sharding holds besides shards: at each moment of a step something else.

Whoever shares weights or gradients gathers the ones that are needed, and copies them on the way
into flat buffers and out of them. In elements, with R outside the layers, Λ in a layer, T trained:

FSDP2 (`_fsdp_param_group.py`, `_fsdp_collectives.py` in torch/distributed/fsdp/_fully_shard)

    embedding       2R       gathered, and the buffer they came in, which the next gathering frees
    forward, layer  R + 2Λ   the layer too, and its buffer
    loss            R + Λ    the last layer's buffer, until the forward pass of the root ends
    head, backward  R + Λ    the buffer of the last layer, fetched ahead
    layer, backward R + 3Λ   the layer, the buffer of the one before (not in the first), and the
                             flat gradients of the one after (not in the last; of trained ones)
    embedding       R + Λ    the first layer's flat gradients
    reduction       R        the root's gradients, and their flat copy; its weights are gone

DeepSpeed, stages 1 and 2 (zero/stage_1_and_2.py): from the first gradient until the optimizer steps
a bucket of min(5·10⁸, T) (`setup_buckets`, `_release_ipg_buffers`). In stage 2 gradients move into
it one by one; shards of gradients are made when it is first full (`copy_grads_in_partition`).

Stage 3 (zero/stage3.py, partitioned_param_coordinator.py, comm/coalesced_collectives.py): the
bucket and shards of gradients are always there (`_setup_for_real_optimizer`), and weights of up to
100,000 elements are whole. Others stay from their use in the forward pass on if no more than 10⁹
elements are used before they are needed again, which near the end are those with half as many
after them; and 5·10⁷ are fetched ahead into a buffer and copied out of it
(`fetch_sub_module`, `__params_to_release`). The bucket's content is copied before it is sent
(`reduce_scatter_coalesced`).

In all stages the step flattens a copy of the gradients that it uses, and makes another in fp32.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from labkit.memory.settings import BYTES, StepSettings
from labkit.memory.sharding import PERSISTENT, Sizes, state_bytes, trained_bytes

# Defaults of DeepSpeed (zero/config.py), which labkit leaves as they are.
BUCKET_ELEMENTS = 500_000_000
REUSED_WITHIN = 1_000_000_000
FETCHED_AHEAD = 50_000_000
SUB_GROUP = 1_000_000_000

Phase = Literal["embedding", "forward", "loss", "head", "backward", "end", "reduction", "optimizer"]


@dataclass(frozen=True)
class Moment:
    """A place in a step; `layer` is counted from 0 where the phase goes through layers."""

    phase: Phase
    layer: float = 0


def moment_of(window: str, index: int | None, *, depth: int, stacks: int) -> Moment:
    """Return the place in a step of a trace's window; `depth` layers of two stacks count as one.

    `index` is the layer of windows such as `backward.0`, of which the 0 is the stack.
    """
    if index is not None:
        phase, stack = window.split(".")
        place = (int(stack) * depth + index) / stacks
        return Moment("forward" if phase == "forward" else "backward", place)
    if window.startswith("backward.embedding"):
        place = int(window.split(".")[2]) * depth / stacks
        return Moment("backward", place) if place else Moment("end")
    named: dict[str, Phase] = {"forward": "embedding", "backward.head": "head",
                               "optimizer": "optimizer"}  # fmt: skip
    return Moment(named.get(window, "loss"))


def buffers(settings: StepSettings, sizes: Sizes, moment: Moment) -> int:
    """Return the bytes that one device holds besides shards and gradients; see the essay."""
    if settings.sharding == "fsdp2":
        return round(_fsdp2(settings, sizes, moment))
    stage, size = int(settings.sharding[-1]), BYTES[settings.dtype]
    bucket = size * min(BUCKET_ELEMENTS, sizes.trainable)
    share = sizes.trainable / settings.num_gpus
    stepped = min(SUB_GROUP, share) if stage == 3 else share
    copies = (size + (4 if size < 4 else 0)) * stepped if moment.phase == "optimizer" else 0
    if stage == 3:
        copied = bucket if _sends(sizes, moment) else 0
        return round(bucket + copied + copies + size * (sizes.small + _fetched(sizes, moment)))
    begun = ("backward", "end", "reduction", *(() if sizes.tied else ("head",)))
    return round((bucket if moment.phase in begun else 0) + copies)


def _fsdp2(settings: StepSettings, sizes: Sizes, moment: Moment) -> float:
    size = BYTES[settings.dtype]
    root, layer = size * sizes.root, size * (sizes.layer + sizes.added / sizes.layers)
    reduced = 4 if keeps_masters(settings, sizes) else size
    sent = reduced * sizes.trained_layer
    accumulated = settings.gradient_accumulation_steps > 1
    unsent = size * (sizes.trained_root + sizes.trained_layer) if accumulated else 0
    match moment.phase:
        case "embedding":
            return 2 * root
        case "forward":
            return root + 2 * layer
        case "loss" | "head":
            return root + layer
        case "backward":
            ahead = layer if moment.layer > 0 else 0
            after = sent if moment.layer < sizes.layers - 1 else 0
            return root + layer + ahead + after + unsent
        case "end":
            return root + sent + unsent
        case "reduction":  # beside the gradients, or beside the shards they become
            return reduced * sizes.trained_root + unsent
    return 0


def _sends(sizes: Sizes, moment: Moment) -> bool:
    """Return whether stage 3 empties its bucket: whenever it is full, and at the end."""
    full = sizes.trainable > BUCKET_ELEMENTS and moment.phase in ("backward", "end")
    return full or moment.phase == "reduction"


def _fetched(sizes: Sizes, moment: Moment) -> float:
    """Return the elements that stage 3 has gathered of what it shares, and of their buffer."""
    shared = max(sizes.total - (sizes.small - sizes.added), 0)
    scale = shared / sizes.total
    bunch: int = FETCHED_AHEAD
    if sizes.weight > PERSISTENT:  # whole weights, until there are enough
        bunch = sizes.weight * math.ceil(FETCHED_AHEAD / sizes.weight)
    reach = scale * (sizes.first + (moment.layer + 1) * sizes.layer)
    if moment.phase in ("loss", "head"):
        reach = shared
    kept = min(reach, max(0.0, reach + REUSED_WITHIN / 2 - shared))
    match moment.phase:
        case "embedding" | "forward":
            ahead: float = min(shared, bunch)
            return min(shared, kept + sizes.weight + ahead) + ahead
        case "loss":
            return max(kept, scale * (sizes.root - (0 if sizes.tied else sizes.first)))
        case "head" | "backward":
            head = sizes.root if sizes.tied else sizes.root - sizes.first
            needed: float = head if moment.phase == "head" else sizes.weight
            ahead = min(reach - kept, bunch)
            return min(reach, max(kept, needed) + ahead) + ahead
        case "end":
            return scale * sizes.first
    return 0


def gradients(settings: StepSettings, sizes: Sizes, there: int, moment: Moment) -> int:
    """Return the bytes of gradients on one device.

    `there` is what a device with everything has of them at that moment.
    """
    stage = 2 if settings.sharding == "fsdp2" else int(settings.sharding[-1])
    size = BYTES[settings.dtype]
    kept = 4 if keeps_masters(settings, sizes) else size
    share = kept * sizes.trainable / settings.num_gpus
    if moment.phase == "optimizer":
        return round(share)
    if stage == 1:
        return there
    accumulated = settings.gradient_accumulation_steps > 1
    fresh = max(0, there - size * sizes.trainable) if accumulated else there
    if settings.sharding == "fsdp2":
        if accumulated:
            return round(share + fresh)
        after = {"backward": sizes.layers - 1 - moment.layer, "end": sizes.layers,
                 "reduction": sizes.layers}  # fmt: skip
        done = min(after.get(moment.phase, 0) * sizes.trained_layer, there / size)
        return round(there - size * done + kept * done / settings.num_gpus)
    # Each goes into the bucket as soon as it is whole; a tied head's is a temporary until then.
    whole: float = fresh if moment.phase == "head" else 0
    begun = sizes.trainable > BUCKET_ELEMENTS and moment.phase in ("backward", "end")
    if stage == 3 or accumulated or begun or moment.phase == "reduction":
        whole += share
    return round(whole)


def keeps_masters(settings: StepSettings, sizes: Sizes) -> bool:
    """Return whether FSDP2 shards weights in fp32 and computes with 16-bit ones."""
    full = sizes.trainable >= sizes.total
    return settings.sharding == "fsdp2" and full and settings.master_weights is not False


def shard(
    settings: StepSettings, sizes: Sizes, parts: Mapping[str, int], moment: Moment
) -> dict[str, int]:
    """Return the parts of one moment on one of N devices, from those of a device with everything.

    At the end of the backward pass, either the embedding gets its gradient or gradients are sent:
    the larger of the two counts.
    """
    after = _at(settings, sizes, parts, moment)
    if moment.phase != "end" or settings.sharding == "none":
        return after
    left = {name: parts[name] for name in ("gradients", "inputs")}
    sent = _at(settings, sizes, dict.fromkeys(parts, 0) | left, Moment("reduction"))
    return max(after, sent, key=lambda each: sum(each.values()))


def _at(
    settings: StepSettings, sizes: Sizes, parts: Mapping[str, int], moment: Moment
) -> dict[str, int]:
    whole = sizes.trainable * trained_bytes(settings)
    if settings.sharding == "none":
        return {**parts, "sharding_buffers": whole}
    states = state_bytes(settings, sizes)
    share = states["gradients"] / whole if whole else 1.0
    return {
        **parts,
        "weights": states["weights"],
        "added_weights": states["added_weights"],
        "optimizer_state": states["optimizer_state"],
        "optimizer_temporary": round(parts["optimizer_temporary"] * share),
        "gradients": gradients(settings, sizes, parts["gradients"], moment),
        "sharding_buffers": buffers(settings, sizes, moment),
    }


def most(settings: StepSettings, sizes: Sizes, parts: Mapping[str, int]) -> dict[str, int]:
    """Return each part's own highest value on one of N devices; they are not there together."""
    last = sizes.layers - 1
    phases: tuple[Phase, ...] = ("embedding", "loss", "head", "end", "reduction", "optimizer")
    moments = [Moment("forward", last), Moment("backward", last), Moment("backward", min(1, last)),
               *map(Moment, phases)]  # fmt: skip
    none_yet = {**parts, "gradients": 0}
    found = [_at(settings, sizes, none_yet if each.phase in ("embedding", "forward", "loss", "head")
                 else parts, each) for each in moments]  # fmt: skip
    return {name: max(each[name] for each in found) for name in found[0]}


MOVED = ("weights", "added_weights", "optimizer_state", "gradients", "sharding_buffers",
         "optimizer_temporary")  # fmt: skip


def shard_phases(
    settings: StepSettings,
    sizes: Sizes,
    parts: Mapping[str, float],
    phases: Mapping[str, float],
    *,
    embedding: float,
    around: float,
    forward: float,
) -> dict[str, float]:
    """Return a formula's phases on one of N devices, from those of a device with everything.

    `embedding` is what the embedding's gradient takes beside the head's, `around` what the forward
    pass keeps outside the layers, `forward` what a layer makes there and releases. Without sharding
    the formula has a margin of both, and peaks elsewhere.
    """
    last, size = sizes.layers - 1, trained_bytes(settings)
    accumulated = settings.gradient_accumulation_steps > 1
    ended = max(parts["temporary"], embedding)
    head = 0.0 if sizes.tied or accumulated else size * (sizes.trained_root - sizes.first)
    # Layers lie on a line between the second and the last; the first has nothing to fetch ahead.
    places: dict[str, list[tuple[Moment, float]]] = {
        "forward": [(Moment("forward", last), forward - parts["temporary"]),
                    (Moment("embedding"), -parts["temporary"] - parts["activations"]
                     - parts["weight_copies"])],
        "backward.head": [(Moment("head"), 0)],
        "backward.layers": [(Moment("backward", layer),
                             (layer - last) * (parts["activations"] - around) / sizes.layers)
                            for layer in {min(1, last), last}],
        "backward.end": [(Moment("backward", 0), parts["temporary"] - ended),
                         (Moment("end"), embedding - ended), (Moment("reduction"), -ended)],
        "optimizer": [(Moment("optimizer"), 0)],
    }  # fmt: skip
    found = {}
    for name, value in phases.items():
        moments = []
        for moment, more in places.get(name, [(Moment("loss"), 0)]):
            held = parts["gradients"] if accumulated or name in ("backward.end", "optimizer") else 0
            there = held
            if name == "backward.layers" and not accumulated:
                if settings.sharding in ("fsdp2", "zero1"):
                    there = size * sizes.trained_layer * (last - moment.layer)
                elif settings.sharding != "none":
                    more -= max(head, 0)
            if name == "backward.layers" and settings.sharding != "none":
                more -= around
            whole = {part: round(each) for part, each in parts.items()}
            after = _at(settings, sizes, whole | {"gradients": round(there)}, moment)
            before = {**parts, "gradients": held}
            counted = MOVED if name == "optimizer" else MOVED[:-1]
            change = sum(after[part] - before.get(part, 0) for part in counted)
            moments.append(value + more + change)
        found[name] = max(moments)
    return found
