"""What the makers say their cards can do, in numbers that mean the same for every card.

A time estimate by the roofline model (Williams, Waterman & Patterson 2009) needs two peaks,

    seconds ≥ max(FLOPs / peak FLOP/s, bytes moved / peak bytes/s),

and datasheets make it easy to be wrong by two or four:

* *Dense, not sparse.* From Ampere on the large number is for weights with half their entries
  zero. Training has no such weights; the dense number is half.
* *fp32 accumulation.* On GeForce cards fp16 products summed in fp32, which is how PyTorch
  does it, run at half the rate of the headline. bf16 always accumulates in fp32.
* *bf16 needs Ampere.* Turing cards (T4, RTX 20, Quadro RTX) have no bf16 units; PyTorch then
  converts to fp32 and back, so the fp32 rate applies.
* *Memory.* "40 GB" is 40 · 2³⁰ bytes of chips. The driver and, on cards with GDDR6, error
  correction take some: `usable_bytes` is what CUDA reports as its total, rounded down.

The tests recompute each rate from the number of units and the boost clock, and each bandwidth
from bus width and data rate.

No matrix product reaches a peak. `matmul_share` is how much of it large ones do: for some cards the
best that was measured over many shapes (`MEASURED_SHARES`), else what was seen of such cards.
"""

from dataclasses import dataclass

from labkit.errors import LabkitError, nearest

GIB = 2**30
MATMUL_SHARE = 0.7
MEASURED_SHARES = {
    "a100-40gb": 271.2 / 312, "a100-80gb": 271.2 / 312, "h100": 794.5 / 989, "h200": 794.5 / 989,
}  # fmt: skip
"""Tera operations a second of bf16 products over the datasheet's, SXM cards: the table "Maximum
Achievable Matmul FLOPS" of S. Bekman, ml-engineering, compute/accelerator/README.md."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """One device; `flops` holds dense peak rates in operations per second by data type."""

    name: str
    label: str
    compute_capability: tuple[int, int] | None  # None for a CPU
    memory_bytes: int
    usable_bytes: int
    bandwidth_bytes_per_second: float
    flops: dict[str, float]
    sources: tuple[str, ...]
    matmul_share: float = MATMUL_SHARE
    """of a peak rate, what large products reach"""

    def peak_flops(self, dtype: str) -> float:
        """Return the rate at which matrices of this type are multiplied here.

        A type without units of its own runs at the rate of fp32, which it is converted to.
        """
        return self.flops.get(dtype, self.flops["float32"])


def _gpu(
    name: str,
    label: str,
    compute_capability: tuple[int, int],
    memory_gib: tuple[int, float],  # on the card, usable
    gb_per_second: float,
    tera: dict[str, float],
    *sources: str,
) -> Device:
    return Device(
        name=name,
        label=label,
        compute_capability=compute_capability,
        memory_bytes=memory_gib[0] * GIB,
        usable_bytes=int(memory_gib[1] * GIB),
        bandwidth_bytes_per_second=gb_per_second * 1e9,
        flops={dtype: rate * 1e12 for dtype, rate in tera.items()},
        sources=sources,
        matmul_share=MEASURED_SHARES.get(name, MATMUL_SHARE),
    )


def _turing(fp32: float, fp16: float, int8: float) -> dict[str, float]:
    return {"float32": fp32, "float16": fp16, "int8": int8}


def _ampere(fp32: float, tf32: float, half: float, int8: float) -> dict[str, float]:
    return {"float32": fp32, "tf32": tf32, "float16": half, "bfloat16": half, "int8": int8}


def _ada(fp32: float, tf32: float, half: float, fp8: float, int8: float) -> dict[str, float]:
    return {**_ampere(fp32, tf32, half, int8), "float8": fp8}


_T = "NVIDIA Turing GPU Architecture whitepaper"
_GA102 = "NVIDIA Ampere GA102 GPU Architecture whitepaper v2.0, appendix A"
_AD102 = "NVIDIA Ada GPU Architecture whitepaper v2.0, appendix A"
_A100 = _ampere(19.5, 156, 312, 624)
_H100 = _ada(67, 494.5, 989.5, 1979, 1979)


def _sheet(card: str) -> str:
    return f"NVIDIA {card} datasheet"


_ALL = [
    _gpu("t4", "T4", (7, 5), (16, 14.5), 320, _turing(8.1, 65, 130), _sheet("T4")),
    _gpu(
        *("rtx-2060s", "GeForce RTX 2060 SUPER", (7, 5), (8, 7.6), 448, _turing(7.2, 28.7, 114.9)),
        *("NVIDIA product page: 272 tensor cores, 1650 MHz", f"{_T}: rates per tensor core"),
    ),
    _gpu(
        *("quadro-rtx-5000", "Quadro RTX 5000", (7, 5), (16, 15.4), 448),
        *(_turing(11.2, 89.2, 178.4), _sheet("Quadro RTX 5000"), f"{_T}: int8 at twice fp16"),
    ),
    _gpu(
        *("rtx-3070", "GeForce RTX 3070", (8, 6), (8, 7.6), 448),
        *(_ampere(20.3, 20.3, 40.6, 162.6), _GA102),
    ),
    _gpu(
        *("rtx-3090", "GeForce RTX 3090", (8, 6), (24, 23.5), 936),
        *(_ampere(35.6, 35.6, 71, 284), _GA102),
    ),
    _gpu(
        *("rtx-4090", "GeForce RTX 4090", (8, 9), (24, 23.5), 1008),
        *(_ada(82.6, 82.6, 165.2, 330.3, 660.6), _AD102),
    ),
    _gpu("a10", "A10", (8, 6), (24, 22.0), 600, _ampere(31.2, 62.5, 125, 250), _sheet("A10")),
    _gpu(
        *("a40", "A40", (8, 6), (48, 44.3), 696, _ampere(37.4, 74.8, 149.7, 299.3)),
        _sheet("A40"),
    ),
    _gpu("a100-40gb", "A100 40GB SXM", (8, 0), (40, 39.3), 1555, _A100, _sheet("A100")),
    _gpu("a100-80gb", "A100 80GB SXM", (8, 0), (80, 79.1), 2039, _A100, _sheet("A100 80GB")),
    _gpu(
        *("l4", "L4", (8, 9), (24, 22.0), 300, _ada(30.3, 60, 121, 242.5, 242.5)),
        f"{_sheet('L4')}, whose tensor rates are with sparsity: halved",
    ),
    _gpu(
        *("l40s", "L40S", (8, 9), (48, 44.3), 864, _ada(91.6, 183, 362.05, 733, 733)),
        _sheet("L40S"),
    ),
    _gpu(
        *("h100", "H100 80GB SXM", (9, 0), (80, 79.1), 3350, _H100),
        f"{_sheet('H100')}, whose tensor rates are with sparsity: halved",
    ),
    _gpu(
        *("h200", "H200 141GB SXM", (9, 0), (141, 139.7), 4800, _H100),
        f"{_sheet('H200')}, whose tensor rates are with sparsity: halved",
    ),
]
DEVICES: dict[str, Device] = {device.name: device for device in _ALL}
"""Name → device."""

_ALIASES = {
    "rtx-2060-super": "rtx-2060s",
    "a10g": "a10",
    "h100-80gb": "h100",
    "h200-141gb": "h200",
}


def find(name: str) -> Device:
    """Return the device of the table called `name`.

    Spelling is forgiving ("RTX 3090", "A100-SXM4-40GB" as CUDA reports it). Raises
    `LabkitError` with the nearest names, also for a name that fits two sizes of a card.
    """
    key = "-".join(name.lower().replace("_", " ").replace("-", " ").split())
    for word in ("nvidia-", "tesla-", "geforce-", "-sxm4", "-sxm5", "-sxm", "-hbm3"):
        key = key.replace(word, "")
    if key.startswith("a100"):  # the same chip; an H100 on PCIe is a slower one
        key = key.replace("-pcie", "")
    for candidate in (key, _ALIASES.get(key), f"rtx-{key}", key.replace("rtx", "rtx-")):
        if candidate in DEVICES:
            return DEVICES[candidate]
    sizes = [known for known in DEVICES if known.startswith(f"{key}-")]
    hint = f"it is {' or '.join(sizes)}" if sizes else nearest(key, [*DEVICES, "cpu"])
    raise LabkitError(f"no device is called {name!r}: {hint}")
