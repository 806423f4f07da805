"""How long a step takes, as a range, from its arithmetic and its traffic.

A matrix product costs 2 operations per weight and token. A forward pass is one product per
weight, a backward pass two (for the input and for the weight), so for P weights and N tokens

    full fine-tuning             6·P·N        with full checkpointing   8·P·N
    frozen base (LoRA …)         4·P·N                                  6·P·N

(Kaplan et al. 2020, arXiv:2001.08361, section 2.1), and attention adds 12·L·q·s per token, half of
it when the kernel skips what causality masks (Chowdhery et al. 2022, PaLM, appendix B).

Three things take the rest of the time, and a percentage of peak FLOP/s says nothing of which:

* large products reach a share of a datasheet's dense rate that differs between cards, some 70 to
  87 % (`Device.matmul_share`);
* everything between products (norms, rotary embedding, activation, casts, the loss) is limited
  by memory: what a layer keeps for backward is written once, and passed over several times;
* every operation of an eager model has to be launched: below some thousand tokens a fast GPU waits
  for Python, and a step takes the same time for one sample as for two.

So the lower end of the range is the sum of the first two, or the third where that is longer, and
one pass of the optimizer over its state. Real runs lie above it by what is not modelled: imperfect
overlap, small products, power limits, data loading. Published runs give the width: `SPREAD`.

Several devices exchange weights and gradients besides (`communication`): the lower end hides it
behind the rest wherever it is shorter, the upper end adds it. What they shard of the optimizer's
state each steps alone.
"""

from labkit.machine.datasheets import Device
from labkit.machine.links import Link
from labkit.memory import communication
from labkit.memory.activations import kept_per_token
from labkit.memory.architectures import Shape, adapted, block_weights, parameters
from labkit.memory.formula import added_parameters, optimizer_state_bytes, sizes_of
from labkit.memory.settings import BYTES, StepSettings
from labkit.memory.sharding import state_bytes, trained_bytes

BANDWIDTH_SHARE = 0.8
# Passes over what is kept: written and read in forward, read in backward, its gradient written
# and read, and as much again for results that are not kept.
PASSES = 8
# What the host takes to launch one operation; how many a layer launches, methods say.
LAUNCH_SECONDS = 12e-6
SPREAD = 2.4
TWICE = ("adapter_off", "copy")
"""References that take one more forward pass."""


def step_flops(shape: Shape, settings: StepSettings) -> float:
    """Return the floating-point operations of one optimizer step on one device."""
    tokens = settings.sequences * settings.seq_len
    scored = settings.sequences * settings.scored_tokens
    full = settings.tuner.trains_base
    passes = (6 if full else 4) + (2 if settings.gradient_checkpointing else 0)
    of_head = 6 if full else 4
    if settings.reference in TWICE:  # a forward pass without a backward
        passes, of_head = passes + 2, of_head + 2
    layers: float = passes * block_weights(shape) * tokens
    if shape.decoder_linears:  # each stack has its own tokens
        written = sum(each.inputs * each.outputs for each in shape.decoder_linears) * shape.layers
        layers -= passes * written * tokens * (1 - settings.target_share)
    head = of_head * shape.vocab * shape.hidden * scored
    if settings.loss == "chunked":
        head += 2 * shape.vocab * shape.hidden * scored  # its products are made again
    attention = passes * 2 * shape.layers * shape.queries * settings.seq_len * tokens / 2
    if shape.state:
        attention = passes * 6 * shape.layers * shape.mlp * shape.state * tokens
    # Virtual tokens multiply nothing.
    added = 0 if settings.tuner.virtual_tokens else added_parameters(shape, settings)
    adapters = 6 * added * tokens
    return (layers + head + attention + adapters) * settings.gradient_accumulation_steps


def step_traffic_bytes(shape: Shape, settings: StepSettings) -> float:
    """Return the bytes that one optimizer step moves between its products, on one device."""
    tokens = settings.sequences * settings.seq_len
    scored = settings.sequences * settings.scored_tokens
    again = 1.4 if settings.gradient_checkpointing else 1.0
    layers = PASSES * again * shape.layers * kept_per_token(shape, settings) * tokens
    logits = (6 if settings.loss == "chunked" else 40) * shape.vocab * scored
    micro = layers + logits + 2 * _streamed_weights(shape, settings)
    if settings.reference in TWICE:  # what is written, and read once
        micro += 2 / PASSES * layers + _streamed_weights(shape, settings)
    total = parameters(shape)
    trainable = total if settings.tuner.trains_base else added_parameters(shape, settings)
    state, own = optimizer_state_bytes(shape, settings, trainable), float(trainable)
    if settings.sharding != "none":
        own /= settings.num_gpus
        state = state_bytes(settings, sizes_of(shape, settings))["optimizer_state"]
    step = 2 * state + 3 * trained_bytes(settings) * own
    return micro * settings.gradient_accumulation_steps + step


def step_seconds(
    shape: Shape, settings: StepSettings, device: Device, link: Link | None = None
) -> tuple[float, float]:
    """Return the lowest and the highest time that one optimizer step should take, in seconds.

    `link` joins the devices; without one, what they exchange is not in the time.
    """
    rate = device.matmul_share * device.peak_flops(settings.dtype)
    products = step_flops(shape, settings) / rate
    bandwidth = BANDWIDTH_SHARE * device.bandwidth_bytes_per_second
    traffic = step_traffic_bytes(shape, settings) / bandwidth
    launches = 0.0
    if device.compute_capability is not None:
        layers = shape.layers * (2 if shape.decoder_linears else 1)
        again = 1.3 if settings.gradient_checkpointing else 1.0
        per_layer = (settings.tuner.launches + settings.base_weights.launches) * again
        if linears := adapted(shape, settings):
            per_layer += 18 * (len(linears) - 2)
        if shape.state:
            per_layer += 25 * settings.seq_len  # the scan's loop, without the mamba_ssm kernel
        if settings.reference in TWICE:
            per_layer *= 4 / 3  # forward is a third of forward and backward
        launches = LAUNCH_SECONDS * layers * per_layer * settings.gradient_accumulation_steps
    low = max(products + traffic, launches)
    if link is None or settings.num_gpus == 1:
        return low, SPREAD * low
    fast, slow = communication.seconds(exchanged(shape, settings), link)
    return max(low, fast), SPREAD * low + slow


def exchanged(shape: Shape, settings: StepSettings) -> communication.Exchange:
    """Return what a device sends to others in one optimizer step."""
    return communication.exchange(settings, sizes_of(shape, settings))


def _streamed_weights(shape: Shape, settings: StepSettings) -> float:
    """Return the bytes of weights that products read, and that casts or dequantisation write."""
    weights = block_weights(shape) + shape.vocab * shape.hidden
    size = BYTES[settings.dtype]
    if settings.base_weights.quantised:
        return (0.5 + 2 * size) * weights
    if settings.tuner.trains_base and settings.autocast:
        return (4 + 2 * size) * weights
    return size * weights
