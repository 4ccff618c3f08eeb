"""The page's calculator: the coefficients of a report's models, every device, and where the reader starts from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, get_args

import msgspec

from flopwatch.compare.whatif.coefficients import DTYPES, OPTIMIZERS, PHASES, Coefficients, coefficients_of
from flopwatch.compare.whatif.evaluate import MOST_BATCH, Reason
from flopwatch.compare.whatif.memory import LEAST_SEQ_LEN, PARTS
from flopwatch.compare.whatif.packed import packed
from flopwatch.compare.whatif.target import target_of
from flopwatch.device.catalog import catalog_devices
from flopwatch.device.device import Device
from flopwatch.errors import SpecError
from flopwatch.measure.limit import card_limit
from flopwatch.model.spec import ModelSpec, spec_from_fields
from flopwatch.record import Record, ReportResult, RooflineResult
from flopwatch.report.messages import Words
from flopwatch.workload import DTYPE_BYTES, Workload

_HERE: Final = "here"  # the machine that made the report, beside the numbers of the catalogue's cards
_CUDA_KINDS: Final = ("cuda", "rocm")
# A GPU's allocator takes up to 1.27 times the tensors of a training step (replays of gpt-small to gemma-2-2b on cards
# of 40 and 80 GB): what takes no more than this share of the limit fits, as `fit` means it.
_SURE_FRACTION: Final = 0.75
_FIGURES: Final = (
    *("params", "model_flops", "again_flops", "flops_per_token", "peak_bytes", "limit_bytes", "margin_bytes"),
    *("largest_batch", "time_s", "tokens_per_s", "highest_mfu", "compute_bound_fraction"),
)
# Messages that the page fills in itself.
_SAID: Final = (
    *("tokens_value", "mfu_value", "limit_value", "bound_value", "batch_more", "batch_none"),
    *("batch_steps", "batch_below", "batch_at_most", "choice", "choice_train", "bad_number", "unknown"),
    *("fits", "fits_not", "fits_tensors", "fits_unknown", "memory_unknown", "time_said", "time_unknown"),
)


class Menu(msgspec.Struct, frozen=True, kw_only=True):
    """One menu: what it chooses, its label, its groups of (value, text), and what is chosen at first."""

    name: str
    label: str
    groups: Sequence[tuple[str, Sequence[tuple[str, str]]]]
    chosen: str


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """The calculator: its menus, the two sizes, its figures, and what it works with: numbers, words of a language."""

    menus: Sequence[Menu]
    batch: int
    seq_len: int
    most_batch: int
    most_seq_len: int
    figures: Sequence[tuple[str, str]]
    notes: Sequence[str]
    numbers: dict[str, Any]
    said: dict[str, Any]


def panel_of(record: Record, words: Words) -> Panel | str:
    """The calculator of a report; where its record does not tell what the models are, why there is none."""
    described = record.request.get("models")
    if not isinstance(described, list) or not described or not all(isinstance(item, dict) for item in described):
        return words("whatif.no_models")
    specs = []
    for fields in described:
        try:
            specs.append(spec_from_fields(fields))
        except SpecError as error:
            return words("whatif.bad_model", model=str(fields.get("name")), why=str(error))
    try:
        base = msgspec.convert(record.request.get("workload"), Workload)
    except (msgspec.ValidationError, SpecError):
        return words("whatif.no_models")
    return _panel(specs, base, record, words)


def _panel(specs: Sequence[ModelSpec], base: Workload, record: Record, words: Words) -> Panel:
    results: list[ReportResult] = record.typed_results()
    here = _here(record, results)
    cards = {str(number): card for number, card in enumerate(catalog_devices())}
    start = _start(record, results, specs[0], base)
    # What is not chosen on the page.
    bare = Workload(ops=base.ops, precision=base.precision, loss=base.loss, adamw=base.adamw)
    device_types = tuple(dict.fromkeys(("cuda", here["device_type"])))
    models = [coefficients_of(spec, bare, device_types) for spec in specs]
    return Panel(
        menus=[*_menus(specs, start, words), _device_menu(cards, here["label"], words)],
        batch=start.batch,
        seq_len=start.seq_len,
        most_batch=MOST_BATCH,
        most_seq_len=specs[0].max_seq_len,
        figures=[(name, words(f"whatif.{name}")) for name in _FIGURES],
        notes=[words("whatif.note_memory"), words("whatif.note_time")],
        numbers={
            "models": [packed(model) for model in models],
            "devices": {_HERE: here} | {number: _numbers_of(card) for number, card in cards.items()},
            "element_bytes": {dtype: DTYPE_BYTES[dtype] for dtype in DTYPES},
            "ops": base.ops,
            "parts": PARTS,
            "least_seq_len": LEAST_SEQ_LEN,
            "most_batch": MOST_BATCH,
            "sure_fraction": _SURE_FRACTION,
        },
        said={
            "devices": {_HERE: _here_said(results, words)}
            | {number: _card_said(card, words) for number, card in cards.items()},
            "parts": [words.said(part) for part in PARTS],
            "sentences": {why: words.said(why) for model in models for why in _whys(model)},
            "words": {name: words.template(f"whatif.{name}") for name in _SAID},
            "reasons": {name: words.template(f"whatif.why_{name}") for name in get_args(Reason)},
            "na": words("na"),
        },
    )


def _whys(model: Coefficients) -> Iterator[str]:
    """What has no closed form, as the coefficients say it."""
    for why in (model.why_no_ops, *(step.why_not for step in model.memory.values())):
        if why is not None:
            yield why


def _start(record: Record, results: Sequence[ReportResult], spec: ModelSpec, base: Workload) -> Workload:
    """The step that the reader starts from: the report's own, at the batch that was found to fit, or was timed."""
    asked = record.request.get("phases") or ["train"]
    phase = "train" if "train" in asked else asked[0]
    own = [result for result in results if result.model == spec.name]
    fits = [fit.batch for result in own for fit in result.fits if fit.phase == phase]
    timed = [bench.batch for result in own for bench in result.benches if bench.phase == phase]
    batch = next(filter(None, [*fits, *timed]), 1)
    recompute = base.recompute if phase == "train" else "none"
    return msgspec.structs.replace(base, phase=phase, batch=min(batch, MOST_BATCH), recompute=recompute)


# Menus.


def _menus(specs: Sequence[ModelSpec], start: Workload, words: Words) -> list[Menu]:
    attentions = ("auto", "flash", "math") if start.ops == "fused" else ("auto", "math")
    return [
        _menu("model", [(str(number), spec.name) for number, spec in enumerate(specs)], "0", words),
        _menu("phase", [(phase, words(f"phase.{phase}")) for phase in PHASES], start.phase, words),
        _menu("dtype", [(dtype, dtype) for dtype in DTYPES], start.dtype, words),
        _menu("optimizer", [(name, words.said(name)) for name in OPTIMIZERS], start.optimizer, words),
        _menu("recompute", _named("recompute", ("none", "full"), words), start.recompute, words),
        _menu("attention", _named("attention", attentions, words), start.attention, words),
    ]


def _named(name: str, values: Sequence[str], words: Words) -> list[tuple[str, str]]:
    return [(value, words(f"whatif.{name}_{value}")) for value in values]


def _menu(name: str, options: Sequence[tuple[str, str]], chosen: str, words: Words) -> Menu:
    return Menu(name=name, label=words(f"whatif.{name}"), groups=[("", options)], chosen=chosen)


def _device_menu(cards: Mapping[str, Device], here: str, words: Words) -> Menu:
    by_vendor: dict[str, list[tuple[str, str]]] = {}
    for number, card in cards.items():
        by_vendor.setdefault(card.vendor, []).append((number, card.label))
    groups = [(words("whatif.here"), [(_HERE, here)]), *by_vendor.items()]
    return Menu(name="device", label=words("whatif.device"), groups=groups, chosen=_HERE)


# Devices.


def _numbers_of(card: Device) -> dict[str, Any]:
    return {**msgspec.to_builtins(target_of(card)), "label": card.label}


def _card_said(card: Device, words: Words) -> dict[str, Any]:
    """Where a card's figures come from, and why some are not known."""
    known = [dtype for dtype in DTYPES if card.peak(dtype) is not None]
    return {
        "limit_source": None if card.memory_bytes is None else words.said(card_limit(card).source),
        "peak_sources": {dtype: words.said(card.peak_source(dtype)) for dtype in known},
        "why_no_peak": {dtype: words.said(card.why_no_peak(dtype)) for dtype in DTYPES if dtype not in known},
    }


def _roof_here(results: Sequence[ReportResult]) -> RooflineResult | None:
    """A roofline of the machine with all that is needed for another step: older records lack the cache."""
    return next((item for result in results for item in result.rooflines if "cache_bytes" in item.details), None)


def _here(record: Record, results: Sequence[ReportResult]) -> dict[str, Any]:
    """The machine that made the report: the limit of its searches, and the roof that its record tells of."""
    name = record.environment.get("device") or record.environment.get("cpu") or ""
    roof = _roof_here(results)
    return {
        "label": str(name.get("name", "") if isinstance(name, dict) else name),
        "device_type": "cuda" if record.environment.get("device_kind") in _CUDA_KINDS else "cpu",
        "flops_per_s": {} if roof is None else {roof.dtype: roof.peak_flops_per_s},
        "bandwidth_bytes_per_s": None if roof is None else roof.bandwidth_bytes_per_s,
        "cache_bytes": 0 if roof is None else roof.details["cache_bytes"],
        "limit_bytes": next((fit.limit_bytes for result in results for fit in result.fits), None),
    }


def _here_said(results: Sequence[ReportResult], words: Words) -> dict[str, Any]:
    roof = _roof_here(results)
    source = next((fit.limit_source for result in results for fit in result.fits), None)
    lacks_cache = roof is None and any(result.rooflines for result in results)
    why = "whatif.no_cache_here" if lacks_cache else "whatif.no_peak_here"
    return {
        "limit_source": None if source is None else words.said(source),
        "peak_sources": {} if roof is None else {roof.dtype: words.said(roof.peak_source)},
        "why_no_peak": {dtype: words(why, dtype=dtype) for dtype in DTYPES},
    }
