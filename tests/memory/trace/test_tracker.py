"""The log of storages against tensors whose sizes and lives are known."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from labkit.memory.measured import measure
from labkit.memory.settings import StepSettings
from labkit.memory.trace.tracing import trace
from labkit.memory.trace.tracker import StorageTracker, replay

KIB = 1024


def run(tracker, weight):
    """Forward: a product kept for backward and a temporary; backward by hand; optimizer."""
    tracker.mark("forward")
    kept = weight * 2  # 4 KiB
    torch.add(kept, 1)  # 4 KiB for a moment
    tracker.mark("backward.head")
    gradient = kept * 3
    tracker.watch([gradient], "gradients")
    del kept
    tracker.mark("optimizer")
    torch.zeros(KIB // 2)  # 2 KiB for a moment
    tracker.mark("end")


def windows_of(mode):
    with mode, StorageTracker() as tracker:
        weight = torch.zeros(KIB)
        tracker.watch([weight], "weights")
        run(tracker, weight)
    return {window.name: window for window in replay(tracker)}


def test_parts_are_told_apart_by_what_becomes_of_them():
    for mode in (FakeTensorMode(), torch.no_grad()):  # the same on real tensors
        windows = windows_of(mode)
        forward, backward, optimizer = windows.values()
        assert forward.parts["weights"] == 4 * KIB
        assert forward.parts["activations"] == 4 * KIB
        assert forward.parts["temporary"] == 4 * KIB
        assert backward.parts["gradients"] == 4 * KIB
        assert optimizer.parts["activations"] == 0
        assert optimizer.parts["optimizer_temporary"] == 2 * KIB


def test_the_peak_is_one_moment_and_its_parts_add_up():
    windows = windows_of(FakeTensorMode())
    for window in windows.values():
        assert window.peak_bytes == sum(window.parts.values())
    assert windows["forward"].peak_bytes == 12 * KIB
    assert windows["backward.head"].peak_bytes == 12 * KIB
    assert windows["optimizer"].peak_bytes == 10 * KIB
    assert windows["forward"].operation == "aten.add.Tensor"


def test_views_share_a_storage():
    with FakeTensorMode(), StorageTracker() as tracker:
        tensor = torch.zeros(KIB)
        tensor.view(32, 32).t()[1:]
    assert tracker.sizes == [4 * KIB]


def test_an_allocator_that_rounds():
    with FakeTensorMode(), StorageTracker(round_to=512) as tracker:
        torch.zeros(1)
        torch.zeros(129)
    assert tracker.sizes == [512, 1024]


def test_what_an_operation_takes_inside_counts_at_its_moment():
    inside = {torch.ops.aten.mul.Tensor: lambda *_: 100 * KIB}
    with FakeTensorMode(), StorageTracker(workspaces=inside) as tracker:
        weight = torch.zeros(KIB)
        run(tracker, weight)
    forward = replay(tracker)[0]
    assert forward.peak_bytes == (4 + 4 + 100) * KIB


def test_gradients_that_meet_are_added_in_place():
    """Autograd adds into the first gradient if nobody else holds it, but never into a fake one."""
    with FakeTensorMode(), StorageTracker() as tracker:
        leaf = torch.zeros(KIB, requires_grad=True)
        tracker.watch([leaf], "weights")
        tracker.mark("forward")
        x = leaf * 1
        loss = (x * 2).sum() + (x * 3).sum()
        tracker.mark("backward.head")
        loss.backward()
        tracker.mark("end")
    backward = replay(tracker)[1]
    # The two gradients of x and a few scalars, but nothing for their sum.
    assert 2 * 4 * KIB <= backward.parts["logits_and_loss"] < 2 * 4 * KIB + 64


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_of_a_tied_table_meet_in_a_trace_as_they_do_on_real_tensors(dtype):
    # A vocabulary of which one gradient outweighs the rest of the model.
    settings = StepSettings(
        model="tiny-llama", method="full", target="cpu", batch_size=2, seq_len=8, dtype=dtype,
        config_overrides={"vocab_size": 40_000, "tie_word_embeddings": True},
    )  # fmt: skip
    place = "backward.embedding.0.0"
    traced = {window.name: window.peak_bytes for window in trace(settings).windows}[place]
    real = measure(settings).phases[place]
    table = 40_000 * 64 * 4
    assert abs(traced - real) < table / 20
