"""A record as CSV: one row a result, raw figures in base units, the record's own names as columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any, Final

from flopwatch.record import Record
from flopwatch.report.content.fields import flat

# A report's results hold results: each of them is a row, so that all rows are alike.
_INNER: Final = {"counts": "count", "fits": "fit", "benches": "bench"}
_LISTS: Final = ("modules", "operators", "details")  # as many entries as a model has modules: no columns of a table

_OF_CHANGES: Final = ("before", "after", "change_fraction", "beyond_noise")


def to_csv(record: Record) -> str:
    """One header and one row a result (of a report: one a count, fit and benchmark); lists are in the JSON only.

    The percentages of a benchmark are columns of their own, named by ratio, convention and denominator; so are the
    changes of a comparison, named by figure.
    """
    rows = [row for result in record.results for row in _rows(record.kind, result)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_plain(row.get(name)) for name in names] for row in rows)
    return out.getvalue().rstrip("\n")


def _rows(kind: str, result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if kind != "report":
        yield {"kind": kind, **_figures(result)}
        return
    for name, inner in _INNER.items():
        for item in result.get(name, []):
            yield {"kind": inner, **_figures(item)}


def _figures(result: Mapping[str, Any]) -> dict[str, Any]:
    one_by_one = {name: value for name, value in result.items() if name not in _LISTS}
    figures = {name: value for name, value in flat(one_by_one).items() if not isinstance(value, list)}
    for row in result.get("utilization") or []:
        name = f"{row['name']}.{row['convention']}.{row['peak_kind']}"
        figures[f"{name}.fraction"] = row["fraction"]
        figures[f"{name}.peak_flops_per_s"] = row["peak_flops_per_s"]
    for row in result.get("changes") or []:
        low, high = row["interval_fraction"] or (None, None)
        figures |= {f"{row['figure']}.{key}": row[key] for key in _OF_CHANGES}
        figures |= {f"{row['figure']}.low_fraction": low, f"{row['figure']}.high_fraction": high}
    return figures


def _plain(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
