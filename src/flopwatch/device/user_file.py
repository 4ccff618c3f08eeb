"""The user's own devices: a TOML file in the config folder that wins over the catalogue and is shown as the user's.

[[device]]
name = "Lab H100, 500 W"
names = ["NVIDIA H100 80GB HBM3"]   # what the driver reports; the name itself when left out
memory = "80GiB"                    # optional, like bandwidth_gb_per_s and sm_count
[[device.peaks]]
dtype = "bf16"
dense_tflops = 850.0
source = "our own sweep"            # optional
"""

from __future__ import annotations

import functools
import os
import stat
from pathlib import Path
from typing import Annotated, Final, Literal, NoReturn

import msgspec

from flopwatch import units
from flopwatch.device.device import Device, Peak, name_key
from flopwatch.errors import DeviceFileError, InputError

VARIABLE: Final = "FLOPWATCH_DEVICES"
"""The environment variable that names another file."""

_PERMISSIONS: Final = "correct its permissions"
_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Positive = Annotated[float, msgspec.Meta(gt=0, lt=1e7)]
_DType = Literal["fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp6", "fp4"]


class _UserPeak(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    dtype: _DType
    dense_tflops: _Positive
    source: _Text = "the user's device file"
    unit: _Text = "as given"
    accumulate: _Text | None = None
    note: _Text | None = None


class _UserDevice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: _Text
    peaks: Annotated[tuple[_UserPeak, ...], msgspec.Meta(min_length=1)]
    names: tuple[_Text, ...] = ()
    vendor: _Text = "user"
    memory: _Text | None = None
    bandwidth_gb_per_s: _Positive | None = None
    sm_count: Annotated[int, msgspec.Meta(gt=0)] | None = None
    note: _Text | None = None


class _UserFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    device: tuple[_UserDevice, ...] = ()


def user_file_path() -> Path:
    """Where the user's devices are read from: `FLOPWATCH_DEVICES`, or devices.toml in the config folder."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    import platformdirs

    return platformdirs.user_config_path("flopwatch") / "devices.toml"


def user_devices() -> tuple[Device, ...]:
    """The devices of the user's file (none when there is no file); raises DeviceFileError with file, key and reason."""
    path = user_file_path()
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if os.environ.get(VARIABLE) or path.is_symlink():
            raise DeviceFileError(f"{path} is not a file", hint=f"{VARIABLE} must name a device file") from None
        return ()
    except OSError as error:
        raise DeviceFileError(f"{path} cannot be read: {error.strerror}", hint=_PERMISSIONS) from error
    if not stat.S_ISREG(status.st_mode):
        raise DeviceFileError(f"{path} is not a file", hint="correct it or move it away")
    return _load(path, status.st_mtime_ns)


@functools.cache
def _load(path: Path, _changed_ns: int) -> tuple[Device, ...]:
    import tomllib

    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DeviceFileError(f"{path} is not valid TOML: {error}", hint="correct it or move it away") from error
    except OSError as error:
        raise DeviceFileError(f"{path} cannot be read: {error.strerror}", hint=_PERMISSIONS) from error
    try:
        content = msgspec.convert(table, _UserFile)
    except msgspec.ValidationError as error:
        reason, _, key = str(error).partition(" - at `$.")
        _refuse(path, key.rstrip("`") or "the file", reason[0].lower() + reason[1:])
    devices = tuple(_device(path, index, entry) for index, entry in enumerate(content.device))
    _check_names(path, devices)
    return devices


def _refuse(path: Path, key: str, reason: str) -> NoReturn:
    said = " ".join(f"{key}: {reason}".split())
    raise DeviceFileError(f"{path}: {said}", hint="the keys of a device file are in docs/hardware.md")


def _device(path: Path, index: int, entry: _UserDevice) -> Device:
    seen: set[str] = set()
    for number, peak in enumerate(entry.peaks):
        if peak.dtype in seen:
            _refuse(path, f"device[{index}].peaks[{number}].dtype", f"{peak.dtype} is given twice for {entry.name!r}")
        seen.add(peak.dtype)
    memory_gib = None
    if entry.memory is not None:
        try:
            memory_gib = units.parse_bytes(entry.memory) / 2**30
        except InputError as error:
            _refuse(path, f"device[{index}].memory", str(error))
        if not memory_gib:
            _refuse(path, f"device[{index}].memory", f"{entry.memory!r} leaves no memory")
    bandwidth = entry.bandwidth_gb_per_s
    return Device(
        vendor=entry.vendor,
        device=entry.name,
        names=entry.names or (entry.name,),
        sm_count=entry.sm_count,
        memory_gib=memory_gib,
        bandwidth_bytes_per_s=None if bandwidth is None else bandwidth * 1e9,
        note=entry.note,
        peaks=tuple(_peak(peak) for peak in entry.peaks),
        origin="user",
    )


def _peak(peak: _UserPeak) -> Peak:
    return Peak(
        dtype=peak.dtype,
        unit=peak.unit,
        accumulate=peak.accumulate,
        source=peak.source,
        is_default=True,
        dense_flops_per_s=peak.dense_tflops * 1e12,
        note=peak.note,
        kind="user",
    )


def _check_names(path: Path, devices: tuple[Device, ...]) -> None:
    """Refuse a name that two devices of the file claim: one of them would be the wrong one."""
    owner: dict[str, int] = {}
    for index, device in enumerate(devices):
        for name in {name_key(name): name for name in (device.device, *device.names)}.values():
            if not name_key(name):
                _refuse(path, f"device[{index}].names", f"{name!r} has neither a letter nor a digit")
            first = owner.setdefault(name_key(name), index)
            if first != index:
                both = f"{devices[first].device!r} and {device.device!r}"
                _refuse(path, f"device[{index}].names", f"{name!r} matches both {both}")
