"""What the CPU can compute with, as far as engines have to be told."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

_VNNI: Final = frozenset({"avx_vnni", "avx512_vnni", "amx_int8"})
_BF16: Final = frozenset({"avx512_bf16", "amx_bf16"})


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The instruction sets that Linux lists for the first CPU; empty where it lists none."""
    if not cpuinfo.is_file():
        return frozenset()
    for line in cpuinfo.read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return frozenset(value.split())
    return frozenset()


def int8_overflows(flags: Collection[str]) -> bool:
    """True on an x86 CPU without VNNI: pairs of int8 products are added up in 16 bits, which can overflow."""
    return "avx2" in flags and not _VNNI & set(flags)


def has_bf16(flags: Collection[str]) -> bool:
    """True where bfloat16 is computed by instructions of its own."""
    return bool(_BF16 & set(flags))
