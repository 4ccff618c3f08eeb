"""`flopwatch devices`: the datasheet peaks of known devices, and what this machine is."""

from __future__ import annotations

from typing import Any

from flopwatch.api.peak import stored_peaks
from flopwatch.cli.options import DTypeOption, OutputOptions, StoreOptions
from flopwatch.cli.output import emit
from flopwatch.cli.request import request
from flopwatch.device.catalog import all_devices, load_candidates
from flopwatch.device.detect import detect, environment
from flopwatch.device.machine import Machine
from flopwatch.device.result import device_result, machine_result
from flopwatch.errors import StoreError
from flopwatch.record import DeviceResult, make_record


def devices(
    name: str | None = None,
    /,
    *,
    dtype: DTypeOption = None,
    store: StoreOptions | None = None,
    output: OutputOptions | None = None,
) -> None:
    """Published peaks of known devices, dense, with their sources; without NAME also what this machine is and reached.

    Parameters
    ----------
    name
        A device as its driver reports it ("NVIDIA L40S") or a short name (l40s, h100-sxm). A100 shows all its variants.
    dtype
        Only peaks of this dtype.
    """
    machine = detect() if name is None else None
    found = all_devices() if name is None else load_candidates(name)
    results: list[DeviceResult] = []
    unread: list[str] = []
    if machine is not None:
        measured, unread = _measured(machine, store or StoreOptions())
        results.append(machine_result(machine, dtype=dtype, measured=measured))
    results += [device_result(d, dtype=dtype) for d in found if name is not None or dtype is None or d.peak(dtype)]
    missing = [d.why_no_peak(dtype) for d in found] if name is not None and dtype is not None else []
    record = make_record(
        "devices",
        environment=environment(machine),
        request=request(name=name, dtype=dtype),
        results=results,
        warnings=[*unread, *(reason for reason in missing if reason)],
    )
    emit(record, output or OutputOptions())


def _measured(machine: Machine, options: StoreOptions) -> tuple[list[dict[str, Any]], list[str]]:
    """The peaks that were measured here and still hold, or the reason why they cannot be read."""
    try:
        return [peak.summary() for peak in stored_peaks(machine, store=options.store)], []
    except StoreError as error:
        return [], [f"measured peaks are n/a: {error.message}"]
