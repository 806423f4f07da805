"""The link table, recomputed from lanes or links and the rate of one."""

import pytest

from labkit.errors import LabkitError
from labkit.machine import links
from labkit.machine.datasheets import DEVICES

# Lanes or links, gigabits per second and direction of each, useful of sent bits. From the
# specifications, and for NVLink from the whitepapers of A100 and H100: eight wires of 50 Gb/s in a
# link of NVLink 3, four of 100 Gb/s in one of NVLink 4.
MADE_OF = {
    "pcie-3": (16, 8, 128 / 130),
    "pcie-4": (16, 16, 128 / 130),
    "pcie-5": (16, 32, 128 / 130),
    "nvlink-3": (12, 4 * 50, 1),
    "nvlink-4": (18, 2 * 100, 1),
    "hdr": (4, 50, 1),
    "ndr": (4, 100, 1),
}


@pytest.mark.parametrize("name", links.LINKS)
def test_a_rate_is_that_of_one_direction_of_all_lanes(name):
    count, gigabits, useful = MADE_OF[name]
    expected = count * gigabits * 1e9 / 8 * useful
    assert links.LINKS[name].bytes_per_second == pytest.approx(expected, rel=1e-3)


def test_cards_come_with_a_link_and_processors_with_none():
    assert {links.of_device(card).name for card in DEVICES.values()} == {
        "pcie-3", "pcie-4", "nvlink-3", "nvlink-4",
    }  # fmt: skip
    assert set(links.OF_DEVICES) <= set(DEVICES)
    assert links.between(DEVICES["a100-40gb"], 4).name == "nvlink-3"
    assert links.between(DEVICES["a100-40gb"], 4, "PCIe 4").name == "pcie-4"
    assert links.between(DEVICES["a100-40gb"], 1) is None


def test_what_joins_nothing_is_refused():
    with pytest.raises(LabkitError, match="did you mean 'nvlink-3'"):
        links.find("nvlink3")
    with pytest.raises(LabkitError, match="num_gpus to 2"):
        links.between(DEVICES["h100"], 1, "nvlink-4")
