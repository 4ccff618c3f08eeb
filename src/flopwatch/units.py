"""Sizes, counts and rates as people write and read them.

Memory is binary (GiB), rates are decimal (TFLOP/s), amounts of work are decimal FLOPs.
"""

from __future__ import annotations

import re
from typing import Final

from flopwatch.errors import InputError

_NUMBER = re.compile(r"\s*([0-9][0-9_,]*(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*([a-zA-Z]*)\s*")

_BYTES: Final = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgtp", start=1):
    _BYTES[_letter] = 1024**_power  # as ls -h, ps and docker write it
    _BYTES[_letter + "ib"] = 1024**_power
    _BYTES[_letter + "i"] = 1024**_power
    _BYTES[_letter + "b"] = 1000**_power

_DECIMAL: Final = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12, "ki": 1 << 10, "mi": 1 << 20}
_CONTEXT: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "ki": 1 << 10, "mi": 1 << 20}
_SECONDS: Final = {"": 1, "s": 1, "min": 60, "m": 60, "h": 3600}
# No amount that flopwatch is asked for comes near this; past it, a float is no longer an exact integer.
_MOST: Final = 1 << 62


def _scaled(text: str, scales: dict[str, int], what: str, examples: str) -> float:
    match = _NUMBER.fullmatch(text)
    scale = scales.get(match.group(2).lower()) if match else None
    if match is None or scale is None:
        raise InputError(f"{text!r} is not {what}", hint=f"write it like {examples}")
    value = float(match.group(1).replace(",", "").replace("_", "")) * scale
    if value > _MOST:
        raise InputError(f"{text!r} is too large for {what}", hint=f"write it like {examples}")
    return value


def _whole(text: str, scales: dict[str, int], what: str, examples: str) -> int:
    plain = text.strip().replace("_", "").replace(",", "")
    if plain.isascii() and plain.isdecimal() and len(plain) < 19:
        return int(plain)
    value = _scaled(text, scales, what, examples)
    if value != int(value):
        raise InputError(f"{text!r} is not a whole number", hint=f"write it like {examples}")
    return int(value)


def parse_bytes(text: str) -> int:
    """Bytes from `2GiB`, `39800MiB`, `80G` (binary without a B, as `ls -h` has it), `80GB` (decimal) or `1024`."""
    value = _scaled(text, _BYTES, "a size in bytes", "2GiB, 512MiB or 80GB")
    if value != int(value) and value < 1024:
        raise InputError(f"{text!r} is no whole number of bytes", hint="write it like 2GiB, 512MiB or 80GB")
    return int(value)


def parse_count(text: str) -> int:
    """A whole number from `8`, `1k` (1000), `4M` (4,000,000), `1.5B` or `4Mi` (4,194,304)."""
    return _whole(text, _DECIMAL, "a count", "8, 1k (1000) or 4M")


def parse_seq_len(text: str) -> int:
    """Tokens from `1024`, or as context lengths are written: `1k` is 1024, `128k` is 131,072, `1M` is 1,048,576."""
    return _whole(text, _CONTEXT, "a sequence length", "1024 or 8k (8192)")


def parse_rate(text: str) -> float:
    """A number a second from `6779.92`, `12.5k` (12,500) or `1.2M`."""
    return _scaled(text, _DECIMAL, "a number a second", "6779.92 or 12.5k")


def parse_seconds(text: str) -> float:
    """Seconds from `90`, `90s`, `8min` or `1.5h`."""
    return _scaled(text, _SECONDS, "a time", "90s, 8min or 1h")


def _significant(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    from math import floor, log10

    decimals = max(0, digits - 1 - floor(log10(abs(value))))
    return f"{value:.{decimals}f}"


def format_bytes(n_bytes: float) -> str:
    """Memory in the binary unit that reads best: `6.40 GiB`, `512 MiB`, `37 B`."""
    size = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024 or unit == "GiB":
            return f"{size:.0f} B" if unit == "B" else f"{_significant(size, 4)} {unit}"
        size /= 1024
    raise AssertionError("the loop returns at GiB")


def _decimal(value: float, digits: int) -> tuple[str, str]:
    for limit, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return _significant(value / limit, digits), prefix
    return _significant(value, digits), ""


def format_flops(flops: float) -> str:
    """An amount of work: `583.3 GFLOPs`."""
    number, prefix = _decimal(flops, 4)
    return f"{number} {prefix}FLOPs"


def format_rate(flops_per_s: float) -> str:
    """A rate of work: `312.0 TFLOP/s`."""
    number, prefix = _decimal(flops_per_s, 4)
    return f"{number} {prefix}FLOP/s"


def format_bandwidth(bytes_per_s: float) -> str:
    """A memory bandwidth, decimal as datasheets print it: `1555 GB/s`."""
    return f"{_significant(bytes_per_s / 1e9, 4)} GB/s"


def format_count(n: float) -> str:
    """A count of parameters: `163.0M`."""
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(n) >= limit:
            return f"{_significant(n / limit, 4)}{suffix}"
    return f"{n:.0f}"


def format_seconds(seconds: float) -> str:
    """A duration: `1.23 s`, `45.6 ms`, `7.8 us`."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= scale or unit == "us":
            return f"{_significant(seconds / scale, 3)} {unit}"
    raise AssertionError("the loop returns at us")


def format_percent(fraction: float) -> str:
    """A fraction as a percentage: `21.3 %`."""
    return f"{100 * fraction:.1f} %"
