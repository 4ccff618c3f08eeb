"""The charts' points are the record's figures: each is set against the JSON of a kept record, read by hand."""

import json
import math
from pathlib import Path

import pytest

from flopwatch.record import load_record
from flopwatch.report.charts import charts_of
from flopwatch.report.messages import Words

RECORDS = Path(__file__).parent / "data" / "records"
GIB = 2**30
HOSTILE = "</script><img src=x onerror=alert(1)><b>bold</b>&lt;i&gt;"
ESCAPED = "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;&lt;b&gt;bold&lt;/b&gt;&amp;lt;i&amp;gt;"


def _data(name):
    return json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))


def _charts(data, lang="en"):
    return {chart.id: chart for chart in charts_of(load_record(json.dumps(data)), Words(lang))}


@pytest.fixture(scope="module")
def report():
    return _data("report_full")


@pytest.fixture(scope="module")
def charts(report):
    return _charts(report)


def _traces(chart, view=0):
    return chart.views[view].figure["data"]


def test_an_icicle_has_every_part_with_its_exact_flops(report, charts):
    """One view a model, of the training step; what a block is worth is its own FLOPs, its text the sum below it."""
    chart = charts["modules"]
    assert len(chart.views) == len(report["results"])
    for result, view in zip(report["results"], chart.views, strict=True):
        (count,) = [count for count in result["counts"] if count["phase"] == "train"]
        (trace,) = view.figure["data"]
        shown = dict(zip(trace["ids"], trace["customdata"], strict=True))
        own = dict(zip(trace["ids"], trace["values"], strict=True))
        for part, flops in count["flops"]["parts"].items():
            assert shown[f"/{part}"] == [part, f"{flops:,}"]
            assert own[f"/{part}"] == flops
        assert shown["/"][1] == f"{count['flops']['total']:,}"
        assert sum(trace["values"]) == count["flops"]["total"]


def test_an_icicle_of_a_trace_has_the_modules():
    """Forward and backward of each module path, and what the layers have in common in one colour."""
    data = _data("count_trace")
    (trace,) = _traces(_charts(data)["modules"])
    own = dict(zip(trace["ids"], trace["values"], strict=True))
    modules = data["results"][0]["modules"]
    for path, row in modules.items():
        if row.get("forward") or row.get("backward"):
            assert own[f"/{path}"] == row.get("forward", 0) + row.get("backward", 0)
    assert sum(own.values()) == data["results"][0]["flops"]["total"]
    roles = dict(zip(trace["ids"], trace["meta"]["roles"], strict=True))
    by_name = {}
    for path in modules:
        if own.get(f"/{path}"):
            by_name.setdefault(path.rpartition(".")[2], set()).add(roles[f"/{path}"])
    assert all(len(colours) == 1 for colours in by_name.values())


def test_predicted_parts_stand_beside_the_measured_total(report, charts):
    """Bars in GiB of every search and timing that was measured, and the error in percent of what was measured."""
    cases = [
        (item["predicted_parts"], item["measured_peak_bytes"], "all that was taken")
        for result in report["results"]
        for item in result["fits"]
        if item["measured_peak_bytes"] is not None
    ]
    cases += [
        (item["predicted_parts"], item["peak_memory_bytes"], "the tensors")
        for result in report["results"]
        for item in result["benches"]
    ]
    *parts, measured = _traces(charts["memory"])
    assert measured["x"] == [n_bytes / GIB for _, n_bytes, _ in cases]
    assert measured["text"] == [
        f"prediction {100 * (sum(predicted.values()) / n_bytes - 1):+.1f} %, of {what}"
        for predicted, n_bytes, what in cases
    ]
    for trace in parts:
        assert trace["x"] == [predicted.get(trace["name"], 0) / GIB for predicted, _, _ in cases]
    assert {trace["name"] for trace in parts} == {name for predicted, _, _ in cases for name in predicted}


def test_the_curve_of_a_batch_search_has_every_point():
    """Tokens/s with its interval, MFU in percent and memory in GiB, each against the batch."""
    data = _data("bench_full")
    curve = data["results"][0]["batch_search"]["curve"]
    rate, mfu, memory = _traces(_charts(data)["batch_curve"])
    timed = [point for point in curve if point["tokens_per_s"] is not None]
    timed.sort(key=lambda point: point["batch"])
    assert rate["x"] == mfu["x"] == [point["batch"] for point in timed]
    assert rate["y"] == [point["tokens_per_s"] for point in timed]
    low = [y - error for y, error in zip(rate["y"], rate["error_y"]["arrayminus"], strict=True)]
    assert low == pytest.approx([point["tokens_per_s_interval"][0] for point in timed])
    assert mfu["y"] == [100 * point["mfu"] for point in timed]
    assert memory["y"] == [point["peak_memory_bytes"] / GIB for point in timed]


def test_a_report_has_the_curve_of_its_probes_and_timings(report, charts):
    """Memory of every try that ran and of the timing, in the third row."""
    (result,) = [result for result in report["results"] if result["benches"]][:1]
    phase = result["benches"][0]["phase"]
    (fit,) = [item for item in result["fits"] if item["phase"] == phase]
    name = f"{result['model']}, {'training' if phase == 'train' else phase}"
    held = next(t for t in _traces(charts["batch_curve"]) if t["name"] == name and t.get("yaxis") == "y3")
    tried = [(probe["batch"], probe["peak_bytes"]) for probe in fit["probes"] if probe["peak_bytes"] is not None]
    tried.append((result["benches"][0]["batch"], result["benches"][0]["peak_memory_bytes"]))
    assert sorted(zip(held["x"], held["y"], strict=True)) == sorted((b, n / GIB) for b, n in tried)


def test_a_roofline_holds_the_operators_at_intensity_and_rate(report, charts):
    """x = FLOPs / bytes, y = FLOPs / least time, every operator with FLOPs once; the roofs go through their ridges."""
    lines = [line for result in report["results"] for line in result["rooflines"]]
    assert len(charts["roofline"].views) == len(lines) > 0
    for line, view in zip(lines, charts["roofline"].views, strict=True):
        traces = view.figure["data"]
        roof = traces[0]
        assert roof["x"][1] == line["peak_flops_per_s"] / line["bandwidth_bytes_per_s"]
        assert roof["y"][1:] == [line["peak_flops_per_s"]] * 2
        assert roof["y"][0] == pytest.approx(roof["x"][0] * line["bandwidth_bytes_per_s"])
        points = [trace for trace in traces if "text" in trace]
        drawn = sorted((x, y) for t in points for x, y in zip(t["x"], t["y"], strict=True))
        rows = [row for row in line["operators"] if row["flops"] and row["bytes"]]  # others stay in the cache
        assert drawn == sorted((row["flops_per_byte"], row["flops"] / row["time_s"]) for row in rows)
        for x, y in drawn:
            assert y <= 1.0001 * min(line["peak_flops_per_s"], x * line["bandwidth_bytes_per_s"])


def test_a_timed_step_stands_below_its_roofline(report, charts):
    """All the step's FLOPs over the median step."""
    line = report["results"][0]["rooflines"][0]
    (bench,) = [
        b for b in report["results"][0]["benches"] if (b["phase"], b["batch"]) == (line["phase"], line["batch"])
    ]
    star = _traces(charts["roofline"])[-1]
    flops = sum(row["flops"] for row in line["operators"])
    assert star["y"] == [flops / bench["step_s"]["median"]]
    assert star["x"] == [flops / sum(row["bytes"] for row in line["operators"])]


def test_a_second_roof_is_drawn_beside_the_first():
    """A roofline of a measured roof with the datasheet's beside it: two lines, each with its own ridge."""
    data = _data("roofline")
    data["results"][0]["other_roofs"] = [
        {"kind": "datasheet", "flops_per_s": 3e14, "bandwidth_bytes_per_s": 2e12, "source": "card, datasheet"}
    ]
    first, second = _traces(_charts(data)["roofline"])[:2]
    assert second["x"][1] == 150.0
    assert second["y"][1] == 3e14
    assert first["x"][0] == second["x"][0]
    assert second["line"]["dash"] == "dash"


def test_each_convention_has_its_flops_and_mfu(report, charts):
    """One view a timed step; the bars are the conventions' FLOPs, the text the MFU that follows."""
    view = charts["conventions"].views[0]
    rows = report["results"][0]["conventions"]
    first = [row for row in rows if (row["phase"], row["batch"]) == (rows[0]["phase"], rows[0]["batch"])]
    (trace,) = view.figure["data"]
    drawn = dict(zip(trace["y"], zip(trace["x"], trace["customdata"], trace["text"], strict=True), strict=True))
    assert len(drawn) == len(first) >= 20
    for row in first:
        flops, exact, text = drawn[row["convention"]]
        assert (flops, exact) == (row["model_flops"], f"{row['model_flops']:,}")
        assert text.startswith(f"MFU {100 * row['mfu']['measured']:.1f} %")
    assert trace["x"] == sorted(trace["x"], reverse=True)


def test_a_report_holds_the_mfu_of_its_own_convention(report):
    """Under `matmul` the row is the benchmark's own figure: FLOPs and MFU."""
    for result in report["results"]:
        for bench in result["benches"]:
            (row,) = [
                r
                for r in result["conventions"]
                if (r["convention"], r["phase"], r["batch"]) == ("matmul", bench["phase"], bench["batch"])
            ]
            measured = next(u for u in bench["utilization"] if (u["name"], u["peak_kind"]) == ("mfu", "measured"))
            assert row["mfu"]["measured"] == pytest.approx(measured["fraction"], rel=1e-12)
            assert row["model_flops"] / bench["step_s"]["median"] == pytest.approx(
                bench["model_flops_per_s"], rel=1e-12
            )


def test_counts_and_runs_under_every_convention_are_bars():
    """`count --convention all` draws FLOPs, `mfu --convention all` MFU in percent."""
    counts = _data("count_conventions")
    (trace,) = _traces(_charts(counts)["conventions"])
    assert dict(zip(trace["y"], trace["x"], strict=True)) == {
        row["convention"]: row["flops"]["total"] for row in counts["results"]
    }
    runs = _data("mfu_all")
    (trace,) = _traces(_charts(runs)["conventions"])
    assert dict(zip(trace["y"], trace["x"], strict=True)) == {
        row["convention"]: 100 * row["mfu"] for row in runs["results"]
    }


def test_changes_and_choices_are_bars_with_their_interval():
    """In percent; a figure that did not change has no bar."""
    compared = _data("compare")
    for result, view in zip(
        [r for r in compared["results"] if any(c["change_fraction"] for c in r["changes"])],
        _charts(compared)["changes"].views,
        strict=True,
    ):
        (trace,) = view.figure["data"]
        rows = [row for row in result["changes"] if row["change_fraction"]]
        assert trace["y"] == [row["figure"] for row in rows]
        assert trace["x"] == [100 * row["change_fraction"] for row in rows]
    bench = _data("bench_full")
    (trace,) = _traces(_charts(bench)["choices"])
    rows = [row for row in bench["results"][0]["choices"] if row["change_fraction"] is not None]
    assert trace["x"] == [100 * row["change_fraction"] for row in rows]
    high = [x + error for x, error in zip(trace["x"], trace["error_x"]["array"], strict=True)]
    assert high == pytest.approx([100 * row["interval_fraction"][1] for row in rows])


def test_a_gap_is_what_parts_took_and_at_best():
    """In milliseconds."""
    bench = _data("bench_full")
    took, least = _traces(_charts(bench)["gap"])
    parts = bench["results"][0]["gap"]["parts"]
    assert took["x"] == [1e3 * part["measured_s"] for part in parts]
    assert least["x"] == [1e3 * part["roofline_s"] for part in parts]


def test_a_memory_estimate_has_its_parts_and_its_timeline():
    """The highest point of the timeline is the peak."""
    data = _data("memory_timeline")
    charts = _charts(data)
    result = data["results"][0]
    assert {t["name"]: t["x"][0] for t in _traces(charts["memory_predicted"])} == {
        name: n / GIB for name, n in result["parts"].items() if n
    }
    (line,) = _traces(charts["timeline"])
    assert line["y"] == [point["alive_bytes"] / GIB for point in result["details"]["timeline"]]
    assert math.isclose(max(line["y"]) * GIB, result["peak_bytes"])


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("path", sorted(RECORDS.glob("*.json")), ids=lambda path: path.stem)
def test_a_hostile_name_is_text_in_every_chart(path, lang):
    """Every model, module, operator, source and convention called markup: no text of a figure holds a bare `<img`."""
    text = path.read_text(encoding="utf-8")
    data = _renamed(json.loads(text))
    figures = [view.figure for chart in _charts(data, lang).values() for view in chart.views]
    shown = json.dumps(figures)
    assert "<img" not in shown
    assert "<b>" not in shown
    if figures and path.stem != "compare":  # whose bars are named by figures; the model is the view's label
        assert ESCAPED[:20] in shown


_NAMES = {"model", "operator", "op", "peak_source", "bandwidth_source", "source_text", "module", "convention", "device"}
_KEYED = {"parts", "modules", "predicted_parts"}


def _renamed(item):
    """The record with names replaced by markup, wherever a name stands."""
    if isinstance(item, list):
        return [_renamed(each) for each in item]
    if not isinstance(item, dict):
        return item
    changed = {}
    for key, value in item.items():
        if key in _NAMES and isinstance(value, str):
            changed[key] = f"{HOSTILE}{value}"
        elif key in _KEYED and isinstance(value, dict):
            changed[key] = {f"{name}{HOSTILE}": _renamed(inner) for name, inner in value.items()}
        else:
            changed[key] = _renamed(value)
    return changed
