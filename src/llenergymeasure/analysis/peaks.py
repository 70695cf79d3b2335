"""What could this device do at most, and who says so?"""

from __future__ import annotations

from dataclasses import dataclass

from llenergymeasure.config.section import Precision


@dataclass(frozen=True, slots=True)
class Peak:
    """Dense matrix throughput by precision, without sparsity, and memory bandwidth, of one device."""

    flops: dict[Precision, float]
    bytes_per_second: float
    source: str


def _peak(tera_16_bit: float, tera_32_bit: float, tb_per_s: float, source: str) -> Peak:
    return Peak(
        {"bf16": tera_16_bit * 1e12, "fp16": tera_16_bit * 1e12, "fp32": tera_32_bit * 1e12},
        tb_per_s * 1e12,
        source,
    )


# By words of the driver's product name, the more particular ones first. 32 bit: not TF32, since PyTorch
# computes fp32 in full unless told otherwise.
_PEAKS: tuple[tuple[tuple[str, ...], Peak], ...] = (
    (("H200",), _peak(989.4, 67.0, 4.8, "NVIDIA H200 datasheet, SXM")),
    (("H100", "NVL"), _peak(835.0, 60.0, 3.9, "NVIDIA H100 datasheet, NVL")),
    (("H100", "PCIe"), _peak(756.0, 51.0, 2.0, "NVIDIA H100 datasheet, PCIe")),
    (("H100",), _peak(989.4, 67.0, 3.35, "NVIDIA H100 datasheet, SXM")),
    (("A100", "80GB", "PCIe"), _peak(312.0, 19.5, 1.935, "NVIDIA A100 datasheet, 80 GB PCIe")),
    (("A100", "80GB"), _peak(312.0, 19.5, 2.039, "NVIDIA A100 datasheet, 80 GB SXM")),
    (("A100",), _peak(312.0, 19.5, 1.555, "NVIDIA A100 datasheet, 40 GB")),
    (("L40S",), _peak(362.05, 91.6, 0.864, "NVIDIA L40S datasheet")),
    (("L4",), _peak(121.0, 30.3, 0.3, "NVIDIA L4 datasheet, half of the sparse figures")),
    (("RTX 4090",), _peak(165.2, 82.6, 1.008, "NVIDIA Ada architecture whitepaper, fp32 accumulate")),
    (("RTX 3090",), _peak(71.0, 35.6, 0.936, "NVIDIA GA102 whitepaper, fp32 accumulate")),
)


def peak_of(device: str | None) -> Peak | None:
    """The published peak of a device by its driver's name; None where no figure with a source is known."""
    words = (device or "").upper().replace("-", " ")
    parts = set(words.split())
    for names, peak in _PEAKS:
        if all(_in(name.upper(), words, parts) for name in names):
            return peak
    return None


def _in(name: str, words: str, parts: set[str]) -> bool:
    """Whole words only: an L40 is no L4."""
    return name in parts if " " not in name else f"{name} " in f"{words} "
