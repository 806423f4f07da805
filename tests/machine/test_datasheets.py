"""The datasheet table, recomputed from the chips: units, clocks, bus width, data rate."""

import pytest

from labkit.errors import LabkitError
from labkit.machine.datasheets import DEVICES, GIB, MATMUL_SHARE, find

# Per device: streaming multiprocessors, fp32 lanes in each, boost MHz of the rates, fp16
# multiply-adds with fp32 sums per SM and cycle, memory bus bits, Gbit/s per pin. From the
# whitepapers of the architectures, not from the datasheets that the table quotes.
CHIPS = {
    "t4": (40, 64, 1590, 512, 256, 10.0),
    "rtx-2060s": (34, 64, 1650, 256, 256, 14.0),
    "quadro-rtx-5000": (48, 64, 1815, 512, 256, 14.0),
    "rtx-3070": (46, 128, 1725, 256, 256, 14.0),
    "rtx-3090": (82, 128, 1695, 256, 384, 19.5),
    "rtx-4090": (128, 128, 2520, 256, 384, 21.0),
    "a10": (72, 128, 1695, 512, 384, 12.5),
    "a40": (84, 128, 1740, 512, 384, 14.5),
    "a100-40gb": (108, 64, 1410, 1024, 5120, 2.43),
    "a100-80gb": (108, 64, 1410, 1024, 5120, 3.186),
    "l4": (58, 128, 2040, 512, 192, 12.5),
    "l40s": (142, 128, 2520, 512, 384, 18.0),
    "h100": (132, 128, 1980, 2048, 5120, 5.23),
    "h200": (132, 128, 1980, 2048, 6144, 6.25),
}
# Hopper's datasheet gives tensor rates at a lower clock than its fp32 rate.
TENSOR_MHZ = {"h100": 1830, "h200": 1830}


def test_every_device_is_checked_and_named() -> None:
    assert set(CHIPS) == set(DEVICES)
    for name, entry in DEVICES.items():
        assert entry.name == name
        assert entry.sources


@pytest.mark.parametrize("name", CHIPS)
def test_rates_follow_from_the_chip(name: str) -> None:
    sms, lanes, mhz, multiply_adds, bus_bits, gbit = CHIPS[name]
    entry = DEVICES[name]
    assert entry.flops["float32"] == pytest.approx(2 * sms * lanes * mhz * 1e6, rel=0.02)
    tensor = 2 * sms * multiply_adds * TENSOR_MHZ.get(name, mhz) * 1e6
    assert entry.flops["float16"] == pytest.approx(tensor, rel=0.02)
    assert entry.bandwidth_bytes_per_second == pytest.approx(bus_bits / 8 * gbit * 1e9, rel=0.02)


@pytest.mark.parametrize("name", CHIPS)
def test_types_that_an_architecture_has(name: str) -> None:
    entry = DEVICES[name]
    assert entry.compute_capability is not None
    assert ("bfloat16" in entry.flops) == (entry.compute_capability >= (8, 0))
    assert ("float8" in entry.flops) == (entry.compute_capability >= (8, 9))
    if "bfloat16" in entry.flops:
        assert entry.peak_flops("bfloat16") == entry.flops["float16"]
        assert entry.flops["tf32"] == pytest.approx(entry.flops["float16"] / 2, rel=0.02)
    else:
        assert entry.peak_flops("bfloat16") == entry.flops["float32"]
    # int8 multiplies at twice the fp16 rate; GeForce halves fp16 with fp32 sums, so four times.
    ratio = 4 if entry.label.startswith("GeForce") else 2
    assert entry.flops["int8"] == pytest.approx(ratio * entry.flops["float16"], rel=0.02)


def test_products_reach_what_was_measured_and_else_what_is_usual() -> None:
    shares = {name: round(DEVICES[name].matmul_share, 3) for name in CHIPS}
    a100, h100 = 0.869, 0.803  # the source's column "Efficiency"
    assert (shares.pop("a100-40gb"), shares.pop("a100-80gb")) == (a100, a100)
    assert (shares.pop("h100"), shares.pop("h200")) == (h100, h100)
    assert set(shares.values()) == {MATMUL_SHARE}


@pytest.mark.parametrize("name", CHIPS)
def test_usable_memory_is_a_little_less(name: str) -> None:
    # Error correction in GDDR6 takes a sixteenth, the driver a few hundred MiB.
    entry = DEVICES[name]
    assert entry.memory_bytes * 15 / 16 - GIB < entry.usable_bytes < entry.memory_bytes


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("A100-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("NVIDIA GeForce RTX 2060 SUPER", "rtx-2060s"),
        ("rtx3090", "rtx-3090"),
        ("4090", "rtx-4090"),
        ("Tesla T4", "t4"),
        ("Quadro RTX 5000", "quadro-rtx-5000"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A10G", "a10"),
    ],
)
def test_spelling_is_forgiving(spelling: str, name: str) -> None:
    assert find(spelling) is DEVICES[name]


def test_unknown_and_ambiguous_devices() -> None:
    with pytest.raises(LabkitError, match="it is a100-40gb or a100-80gb"):
        find("a100")
    with pytest.raises(LabkitError, match="did you mean .*'rtx-3090'"):
        find("rtx 3080")
    with pytest.raises(LabkitError, match="'h100'"):
        find("NVIDIA H100 PCIe")  # a slower chip than the one in the table
