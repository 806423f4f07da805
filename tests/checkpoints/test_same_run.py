"""A run by hand is the run of the record, or the first thing in which it is not is named."""

import pytest

from labkit.checkpoints.lessons.same_run import against
from labkit.errors import LabkitError

pytestmark = pytest.mark.usefixtures("no_runs")
LOSSES = [3.3628, 1.6538, 0.9626, 0.7]


@pytest.fixture
def run(record):
    return record("short", peak=None, losses=LOSSES, trainable=500)


def test_the_same_losses_agree_though_sums_round_otherwise(run):
    verdict = against(run, trained=500, losses=[loss * 1.0005 for loss in LOSSES[:3]])
    assert verdict and len(verdict.consistent) == 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"trained": 501}, "more numbers are trained than in the run"),
        ({"trained": 499}, "fewer numbers are trained than in the run"),
        ({"losses": [3.1, 1.4, 0.9]}, "step 1 is not the run's: it is still the untouched model's"),
        ({"losses": [3.3628, 3.3628, 3.3628]}, "step 2 is not the run's: look at what the first"),
        ({"losses": [3.3628, 1.6538, 1.1, 0.7]}, "step 3 is not the run's: look at what is carr"),
        ({"losses": [*LOSSES[:3], 0.8]}, "step 4 is not the run's: look at what is carried"),
        ({"losses": [3.3628, float("nan")]}, "step 2 is not the run's"),
    ],
)
def test_the_first_difference_is_named(run, change, says):
    verdict = against(run, **{"trained": 500, "losses": LOSSES[:3], **change})
    assert verdict.state == "contradicts" and len(verdict.contradicts) == 1
    assert says in verdict.contradicts[0]


@pytest.mark.parametrize("losses", [[], [1.0] * 5])
def test_losses_that_cannot_be_compared_are_a_sentence(run, losses):
    with pytest.raises(LabkitError, match=r"cannot be compared with the 4 steps of short"):
        against(run, trained=500, losses=losses)
