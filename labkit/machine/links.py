"""What joins the cards of a machine, and machines to each other: rates in one direction a card.

Makers add both directions up ("600 GB/s" of an A100); what a collective operation is limited by is
one of them. A ring moves data to one neighbour and takes as much from another at the same time, so
half of the headline is the rate it can reach. PCIe loses 2 of 130 bits to its encoding, and packet
headers on top. NVLink's protocol takes about a fifth: NCCL's ring reaches 370 of NVLink 4's
450 GB/s (its maintainer in NVIDIA/nccl-tests, issue 212), and on A100 users measured about 200 of
300 (issues 149 and 178). `SHARE` is the range; its lower end is an assumption, for cards that
cannot reach each other and go through the processor's memory.

The tests recompute each rate from lanes or links and the rate of one.
"""

from dataclasses import dataclass

from labkit.errors import LabkitError, nearest
from labkit.machine.datasheets import Device

SHARE = (0.8, 0.4)
"""Of the rate, what a ring reaches at best and where things are not at their best."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """One way from a card to others; the rate is one direction's."""

    name: str
    label: str
    bytes_per_second: float
    source: str


def _link(name: str, label: str, gb_per_second: float, source: str) -> Link:
    return Link(name=name, label=label, bytes_per_second=gb_per_second * 1e9, source=source)


LINKS: dict[str, Link] = {
    each.name: each
    for each in (
        _link("pcie-3", "PCIe 3.0 x16", 15.754, "PCI-SIG, PCI Express Base 3.0: 8 GT/s a lane"),
        _link("pcie-4", "PCIe 4.0 x16", 31.508, "PCI-SIG, PCI Express Base 4.0: 16 GT/s a lane"),
        _link("pcie-5", "PCIe 5.0 x16", 63.015, "PCI-SIG, PCI Express Base 5.0: 32 GT/s a lane"),
        _link("nvlink-3", "NVLink 3, 12 links", 300.0,
              "NVIDIA A100 datasheet: 600 GB/s, both directions of 12 links"),
        _link("nvlink-4", "NVLink 4, 18 links", 450.0,
              "NVIDIA H100 datasheet: 900 GB/s, both directions of 18 links"),
        _link("hdr", "InfiniBand HDR, a port a card", 25.0, "NVIDIA ConnectX-6: 200 Gb/s"),
        _link("ndr", "InfiniBand NDR, a port a card", 50.0, "NVIDIA ConnectX-7: 400 Gb/s"),
    )
}  # fmt: skip
"""Name → link."""

OF_DEVICES = {
    "t4": "pcie-3", "rtx-2060s": "pcie-3", "quadro-rtx-5000": "pcie-3",
    "a100-40gb": "nvlink-3", "a100-80gb": "nvlink-3", "h100": "nvlink-4", "h200": "nvlink-4",
}  # fmt: skip
"""Links of cards that have another than PCIe 4.0; those with NVLink in their SXM form."""


def find(name: str) -> Link:
    """Return the link of the table called `name`. Raises `LabkitError` with the nearest names."""
    key = "-".join(name.lower().replace("_", " ").split())
    if key not in LINKS:
        raise LabkitError(f"no link is called {name!r}: {nearest(key, LINKS)}")
    return LINKS[key]


def of_device(card: Device) -> Link | None:
    """Return what joins cards of this kind in one machine; None for a processor."""
    if card.compute_capability is None:
        return None
    return LINKS[OF_DEVICES.get(card.name, "pcie-4")]


def between(card: Device, count: int, name: str | None = None) -> Link | None:
    """Return what joins `count` devices: the link called `name`, or what such cards come with.

    None: it is one device, or nothing is known of it. Raises `LabkitError` for a link of nothing.
    """
    if count > 1:
        return find(name) if name else of_device(card)
    if name:
        raise LabkitError(f"link {name} joins several devices: set num_gpus to 2 or more")
    return None
