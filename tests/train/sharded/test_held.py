"""What ran is read from what each process holds."""

import pytest
import torch

from labkit.train.sharded.held import Held, held, held_plainly, ran


def holding(weights: int, gradients: int, moment: int) -> Held:
    return Held(weights_bytes=4 * weights, gradients_bytes=4 * gradients,
                optimizer_state_bytes=8 * moment, weights=weights, gradients=gradients,
                moment=moment)  # fmt: skip


@pytest.mark.parametrize(
    ("weights", "moment", "by_dtensor", "parts_gradients", "expected"),
    [(100, 60, False, False, "none"), (100, 30, False, False, "zero1"),
     (100, 30, False, True, "zero2"), (50, 30, False, True, "zero3"),
     (50, 30, True, False, "fsdp2"),
     # An engine's word counts for nothing where every process has everything.
     (100, 60, True, True, "none"),
     # No state to tell by: nothing is claimed.
     (100, 0, False, True, "none")],
)  # fmt: skip
def test_the_sharding_is_what_no_process_has_all_of(
    weights: int, moment: int, by_dtensor: bool, parts_gradients: bool, expected: str
) -> None:
    both = [holding(weights, 60, moment), holding(weights // 2, 60, moment // 2)]
    found = ran(both, total=100, trained=60, by_dtensor=by_dtensor,
                parts_gradients=parts_gradients)  # fmt: skip
    assert found == expected


def test_bytes_and_elements_of_an_adam_step() -> None:
    layer = torch.nn.Linear(3, 5)
    layer.bias.requires_grad_(False)
    optimizer = torch.optim.AdamW([layer.weight])
    layer(torch.ones(2, 3)).sum().backward()
    before = held_plainly(layer.parameters(), optimizer)
    assert (before.weights, before.gradients, before.moment) == (20, 15, 0)
    optimizer.step()
    optimizer.zero_grad()
    after = held_plainly(layer.parameters(), optimizer)
    assert (after.gradients, after.moment, after.optimizer_state_bytes) == (0, 15, 2 * 15 * 4)
    most = before.larger(after)
    assert (most.weights_bytes, most.gradients_bytes, most.optimizer_state_bytes) == (80, 60, 120)


def test_a_weight_that_is_one_number_has_its_moments_too() -> None:
    """As the gates of LLaMA-Adapter are: without theirs a process seemed to lack a share."""
    gate = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([gate])
    gate.sum().backward()
    optimizer.step()
    found = held_plainly([gate], optimizer)
    assert (found.weights, found.moment, found.optimizer_state_bytes) == (1, 1, 2 * 4)


def test_copies_that_are_stepped_are_optimizer_state() -> None:
    found = held([torch.ones(4, dtype=torch.bfloat16)], [], [], copies=[torch.ones(2)])
    assert (found.weights_bytes, found.optimizer_state_bytes) == (8, 8)
