"""What ran is read from what each process holds."""

import pytest
import torch

from labkit.train.sharded.held import Held, held, held_plainly, ran


def holding(weights: int, gradients: int, moment: int) -> Held:
    return Held(weights_bytes=4 * weights, gradients_bytes=4 * gradients,
                optimizer_state_bytes=8 * moment, weights=weights, gradients=gradients,
                moment=moment)  # fmt: skip


@pytest.mark.parametrize(
    ("weights", "gradients", "moment", "by_dtensor", "expected"),
    [(100, 60, 60, False, "none"), (100, 60, 30, False, "zero1"), (100, 30, 30, False, "zero2"),
     (50, 30, 30, False, "zero3"), (50, 30, 30, True, "fsdp2"),
     # No state to tell by: nothing is claimed.
     (100, 60, 0, False, "none"),
     # ZeRO-1 keeps whole gradients and its part of their sum.
     (100, 90, 30, False, "zero1")],
)  # fmt: skip
def test_the_sharding_is_what_no_process_has_all_of(
    weights: int, gradients: int, moment: int, by_dtensor: bool, expected: str
) -> None:
    both = [holding(weights, gradients, moment), holding(weights // 2, gradients // 2, moment // 2)]
    assert ran(both, total=100, trained=60, by_dtensor=by_dtensor) == expected


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


def test_copies_that_are_stepped_are_optimizer_state() -> None:
    found = held([torch.ones(4, dtype=torch.bfloat16)], [], [], copies=[torch.ones(2)])
    assert (found.weights_bytes, found.optimizer_state_bytes) == (8, 8)
