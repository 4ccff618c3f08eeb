"""Work, fit, speed and ceiling of PyTorch models, each number proved against an independent one.

`import flopwatch as fw` loads no torch; each name below is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from flopwatch.api.bench import bench
    from flopwatch.api.count import count
    from flopwatch.api.fit import fit, predict_fit
    from flopwatch.api.fit_step import FitWarning
    from flopwatch.api.memory import memory
    from flopwatch.api.meter import Meter, MeterWarning
    from flopwatch.api.mfu import mfu
    from flopwatch.api.peak import peak
    from flopwatch.api.roofline import roofline
    from flopwatch.cost.convention import find_convention
    from flopwatch.device.catalog import find_device
    from flopwatch.errors import FlopwatchError
    from flopwatch.model.load import load_spec
    from flopwatch.model.spec import ModelSpec
    from flopwatch.trace.api import trace
    from flopwatch.workload import Workload

__all__ = [
    "FitWarning",
    "FlopwatchError",
    "Meter",
    "MeterWarning",
    "ModelSpec",
    "Workload",
    "bench",
    "count",
    "find_convention",
    "find_device",
    "fit",
    "load_spec",
    "memory",
    "mfu",
    "peak",
    "predict_fit",
    "roofline",
    "trace",
]

_WHERE = {
    "FitWarning": "flopwatch.api.fit_step",
    "FlopwatchError": "flopwatch.errors",
    "Meter": "flopwatch.api.meter",
    "MeterWarning": "flopwatch.api.meter",
    "ModelSpec": "flopwatch.model.spec",
    "Workload": "flopwatch.workload",
    "bench": "flopwatch.api.bench",
    "count": "flopwatch.api.count",
    "find_convention": "flopwatch.cost.convention",
    "find_device": "flopwatch.device.catalog",
    "fit": "flopwatch.api.fit",
    "load_spec": "flopwatch.model.load",
    "predict_fit": "flopwatch.api.fit",
    "trace": "flopwatch.trace.api",
    "memory": "flopwatch.api.memory",
    "mfu": "flopwatch.api.mfu",
    "peak": "flopwatch.api.peak",
    "roofline": "flopwatch.api.roofline",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'flopwatch' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
