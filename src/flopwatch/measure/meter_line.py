"""The one line of a meter: step time, tokens/s, MFU with what it is of, goodput."""

from __future__ import annotations

from collections.abc import Mapping

from flopwatch.measure.meter_peak import MeterPeak
from flopwatch.units import format_rate, format_seconds


def format_line(found: Mapping[str, float], peak: MeterPeak, *, n_devices: int, reason: str | None) -> str:
    """The figures of a window as text; HFU only where it is not MFU, and `reason` where there is no MFU."""
    unit = "tokens/s a device" if n_devices > 1 else "tokens/s"
    parts = [format_seconds(found["perf/step_s"]), f"{found['perf/tokens_per_s_per_device']:,.0f} {unit}"]
    if "perf/mfu" in found and peak.flops_per_s is not None:
        shares = f"mfu {100 * found['perf/mfu']:.2f} %"
        if found["perf/hfu"] != found["perf/mfu"]:
            shares += f", hfu {100 * found['perf/hfu']:.2f} %"
        parts.append(f"{shares} of {format_rate(peak.flops_per_s)} ({peak.source})")
    else:
        parts.append("mfu n/a" if reason is None else f"mfu n/a ({reason})")
    parts.append(f"goodput {100 * found['perf/goodput']:.1f} %")
    return ", ".join(parts)
