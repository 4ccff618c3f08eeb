"""`flopwatch devices`: the datasheet peaks of known devices, and what this machine is."""

from __future__ import annotations

from flopwatch.cli.options import DTypeOption, OutputOptions
from flopwatch.cli.output import emit
from flopwatch.cli.request import request
from flopwatch.device.catalog import all_devices, load_candidates
from flopwatch.device.detect import detect, environment
from flopwatch.device.result import device_result, machine_result
from flopwatch.record import make_record


def devices(
    name: str | None = None,
    /,
    *,
    dtype: DTypeOption = None,
    output: OutputOptions | None = None,
) -> None:
    """Published peaks of known devices, dense, with their sources; without NAME also what this machine is.

    Parameters
    ----------
    name
        A device as its driver reports it ("NVIDIA L40S") or a short name (l40s, h100-sxm). A100 shows all its variants.
    dtype
        Only peaks of this dtype.
    """
    machine = detect() if name is None else None
    found = all_devices() if name is None else load_candidates(name)
    results = [machine_result(machine, dtype=dtype)] if machine is not None else []
    results += [device_result(d, dtype=dtype) for d in found if name is not None or dtype is None or d.peak(dtype)]
    missing = [d.why_no_peak(dtype) for d in found] if name is not None and dtype is not None else []
    record = make_record(
        "devices",
        environment=environment(machine),
        request=request(name=name, dtype=dtype),
        results=results,
        warnings=[reason for reason in missing if reason],
    )
    emit(record, output or OutputOptions())
