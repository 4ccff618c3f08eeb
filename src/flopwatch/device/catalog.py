"""The catalogue of devices: from the name that a driver reports, or that a person types, to its published peaks.

A name is matched whole and never by part of it: an unknown card is None, not its neighbour.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from flopwatch import errors
from flopwatch.device import user_file
from flopwatch.device.device import Device, Peak, name_key

_FOLDER: Final = Path(__file__).parent
_LEAST_SM_SHARE: Final = 0.95  # fewer than this share of the SMs: a slice, a partition or a cut-down card
_LEAST_MEMORY_SHARE: Final = 0.75  # drivers and ECC take some of the nominal memory, a slice takes more
# Words that people add to, or leave out of, a card's name without meaning another card.
_VENDORS: Final = {
    **dict.fromkeys(("nvidia", "tesla", "geforce"), "NVIDIA"),
    **dict.fromkeys(("amd", "instinct"), "AMD"),
    **dict.fromkeys(("intel", "habana"), "Intel"),
    "apple": "Apple",
    "google": "Google",
    "aws": "AWS",
}
_FILLERS: Final = frozenset({*_VENDORS, "generation", "edition", "gpu"})
_OPTIONAL_WORDS: Final = frozenset(("rtx", "tpu", "data", "center"))
_WAY_OUT: Final = "give --peak-tflops, or measure with `flopwatch peak`"
_PARTS: Final = (
    (r"\bMIG\b", "a MIG slice"),
    (r"(?i)laptop|mobile|max-q", "a laptop part or a power-limited one"),
    (r"^GRID\b|-\d+[ABCQ]$", "a virtual GPU, a share of a card"),
)


class _Catalog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sources: dict[str, str]
    devices: tuple[Device, ...]


class _NotebookRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    fp32: float
    fp16: float
    bf16: float
    source: str
    note: str


@functools.cache
def _catalog() -> _Catalog:
    return msgspec.json.decode((_FOLDER / "catalog.json").read_bytes(), type=_Catalog)


_NO_DTYPE: Final = "name another dtype, or give --peak-tflops"


def catalog_devices() -> tuple[Device, ...]:
    """The devices that the package ships, without the user's own."""
    return _catalog().devices


def source_codes() -> dict[str, str]:
    """What each source code of the catalogue stands for, and where it was read."""
    return dict(_catalog().sources)


def all_devices() -> tuple[Device, ...]:
    """Every known device, the user's own first; raises DeviceFileError for a device file that cannot be used."""
    return (*user_file.user_devices(), *catalog_devices())


def find_device(name: str, *, sm_count: int | None = None, memory_bytes: int | None = None) -> Device | None:
    """The device of that name, or None: unknown, ambiguous, or contradicted by its SMs or memory.

    `name` is what a driver reports or a label of the catalogue. A device in the user's file wins over the catalogue.
    """
    candidates = find_candidates(name, sm_count=sm_count, memory_bytes=memory_bytes)
    return candidates[0] if len(candidates) == 1 else None


def find_candidates(name: str, *, sm_count: int | None = None, memory_bytes: int | None = None) -> tuple[Device, ...]:
    """Every device that `name` can mean: none, one, or variants that only SMs or memory tell apart."""
    named = _by_name(name, user_file.user_devices())
    if not named:
        named = _by_name(name, catalog_devices()) or _by_label(name, catalog_devices())
    return tuple(_told_apart(named, sm_count=sm_count, memory_bytes=memory_bytes))


def load_device(name: str, *, dtype: str | None = None) -> Device:
    """The device that a person named; raises InputError with candidates when it is unknown or ambiguous.

    Variants that agree on the peak of `dtype` are answered by one Device without what they differ in.
    """
    candidates = load_candidates(name)
    if len(candidates) == 1:
        return candidates[0]
    peaks = {candidate.label: candidate.peak(dtype) if dtype else None for candidate in candidates}
    rates = {peak.dense_flops_per_s if peak else None for peak in peaks.values()}
    if len(rates) == 1 and None not in rates and len({candidate.device for candidate in candidates}) == 1:
        return _merged(candidates)
    listed = ", ".join(_candidate_text(label, peak) for label, peak in peaks.items())
    if dtype is not None and rates == {None}:  # naming one of them would not help
        raise errors.AmbiguousDeviceError(f"no variant of {name!r} has a {dtype} matmul peak: {listed}", hint=_NO_DTYPE)
    raise errors.AmbiguousDeviceError(f"{name!r} can be {listed}", hint="name the variant")


def load_candidates(name: str) -> tuple[Device, ...]:
    """Every device that a person's `name` can mean; raises InputError with the nearest names when there is none."""
    candidates = find_candidates(name)
    if candidates:
        return candidates
    for pattern, what in _PARTS:
        if re.search(pattern, name):
            raise errors.UnknownDeviceError(f"{name!r} is {what}, whose peak is not the card's", hint=_WAY_OUT)
    raise errors.UnknownDeviceError(f"no device is called {name!r}", hint=_nearest(name))


def notebook_peak(name: str, dtype: str) -> Peak | None:
    """The peak that the teaching notebook's table gives for a device name, by its own rule, or None.

    The rule is a case-sensitive substring, first hit in the table's order; it takes an L40S for an L4.
    """
    for row in _notebook_rows():
        if row.key in name:
            rates = {"fp32": row.fp32, "fp16": row.fp16, "bf16": row.bf16}
            if dtype not in rates:
                return None
            return Peak(
                dtype=dtype,
                unit="as the notebook has it",
                source=f"notebook table, {row.key} ({row.source})",
                is_default=True,
                dense_flops_per_s=rates[dtype],
                note=row.note,
                kind="notebook",
            )
    return None


@functools.cache
def _notebook_rows() -> tuple[_NotebookRow, ...]:
    return msgspec.json.decode((_FOLDER / "notebook_peaks.json").read_bytes(), type=tuple[_NotebookRow, ...])


def _by_name(name: str, devices: Iterable[Device]) -> list[Device]:
    """The devices that report exactly this name, or are labelled so."""
    key = name_key(name)
    return [d for d in devices if key == name_key(d.label) or any(key == name_key(own) for own in d.names)]


def _words(name: str) -> set[str]:
    return set(name_key(name).split()) - _FILLERS


def _by_label(name: str, devices: Iterable[Device]) -> list[Device]:
    """The devices whose label has every word of `name`, and whose own name is wholly among them.

    `h100-sxm` finds `H100 SXM5 80GB`; `RTX 3080 Ti` does not find `RTX 3080`, which lacks a word; `Tesla M4` is no
    `Apple M4`.
    """
    words = _words(name)
    vendors = {_VENDORS[word] for word in name_key(name).split() if word in _VENDORS}
    found = []
    for device in devices:
        if vendors - {device.vendor}:
            continue
        own = _words(re.sub(r"\(.*?\)", "", device.device)) - _OPTIONAL_WORDS
        label = _words(device.label)
        known = label | {word.rstrip("0123456789") for word in label}
        if words and own and own <= words <= known:
            found.append(device)
    return found


def _told_apart(candidates: Sequence[Device], *, sm_count: int | None, memory_bytes: int | None) -> list[Device]:
    """The candidates that the reported SMs and memory do not contradict."""
    return [d for d in candidates if _sm_count_fits(d, sm_count) and _memory_fits(d, memory_bytes, candidates)]


def _sm_count_fits(device: Device, sm_count: int | None) -> bool:
    if sm_count is None or device.sm_count is None:
        return True
    if device.exact_sm_count:
        return sm_count == device.sm_count
    return sm_count >= _LEAST_SM_SHARE * device.sm_count


def _memory_fits(device: Device, memory_bytes: int | None, candidates: Sequence[Device]) -> bool:
    """Whether the memory is at least most of the device's, and no namesake's is nearer."""
    own = device.memory_bytes
    if memory_bytes is None or own is None:
        return True
    distances = [abs(d.memory_bytes - memory_bytes) for d in candidates if d.memory_bytes is not None]
    return memory_bytes >= _LEAST_MEMORY_SHARE * own and abs(own - memory_bytes) == min(distances)


def _merged(candidates: Sequence[Device]) -> Device:
    """One Device for variants of one card; what they differ in is left unknown."""
    first = candidates[0]
    memory_gib = {candidate.memory_gib for candidate in candidates}
    bandwidth = {candidate.bandwidth_bytes_per_s for candidate in candidates}
    return Device(
        vendor=first.vendor,
        device=first.device,
        variant="(all variants)",
        unit=first.unit,
        framework_devices_per_unit=first.framework_devices_per_unit,
        memory_gib=first.memory_gib if len(memory_gib) == 1 else None,
        bandwidth_bytes_per_s=first.bandwidth_bytes_per_s if len(bandwidth) == 1 else None,
        note=f"variants with the same peak: {', '.join(candidate.label for candidate in candidates)}",
        peaks=tuple(peak for peak in first.peaks if peak.is_default and _all_agree(peak, candidates)),
    )


def _all_agree(peak: Peak, candidates: Sequence[Device]) -> bool:
    peaks = [candidate.peak(peak.dtype) for candidate in candidates]
    return all(other is not None and other.dense_flops_per_s == peak.dense_flops_per_s for other in peaks)


def _candidate_text(label: str, peak: Peak | None) -> str:
    if peak is None or peak.dense_flops_per_s is None:
        return label
    return f"{label} ({peak.dense_flops_per_s / 1e12:g} TFLOP/s {peak.dtype})"


def why_unknown(name: str, *, sm_count: int | None = None, memory_bytes: int | None = None) -> str | None:
    """Why `find_device` has no answer for a name, as a clause with the way out; None when it has one."""
    if find_device(name, sm_count=sm_count, memory_bytes=memory_bytes) is not None:
        return None
    candidates = find_candidates(name)
    if len(candidates) > 1:
        return f"{name!r} is shared by {', '.join(c.label for c in candidates)}; {_WAY_OUT}"
    if candidates:
        return f"{name!r} shows fewer SMs or less memory than a whole {candidates[0].label}; {_WAY_OUT}"
    for pattern, what in _PARTS:
        if re.search(pattern, name):
            return f"{name!r} is {what}, whose peak is not the card's; {_WAY_OUT}"
    return f"{name!r} is not in the catalogue; {_WAY_OUT}"


def _nearest(name: str) -> str:
    """The labels nearest to a name that nothing matches, and where all of them are."""
    import difflib

    labels = {name_key(device.label): device.label for device in all_devices()}
    labels |= {name_key(device.device): device.device for device in all_devices()}
    near = difflib.get_close_matches(name_key(name), labels, n=3, cutoff=0.6)
    if not near:
        return f"see `flopwatch devices`, or {_WAY_OUT}"
    return f"the nearest names are {', '.join(dict.fromkeys(labels[key] for key in near))}: see `flopwatch devices`"
