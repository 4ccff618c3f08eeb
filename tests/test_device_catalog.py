"""The catalogue: the right row or none for every name, dense figures only, each with a source and its derivation."""

import csv
import re
from pathlib import Path

import pytest

from flopwatch.device import catalog
from flopwatch.errors import AmbiguousDeviceError, UnknownDeviceError

NAME_LIST = (Path(__file__).parent / "data" / "device_names.csv").read_text(encoding="utf-8")
NAMES = list(csv.DictReader(NAME_LIST.splitlines()))
# Where SMs x clock x FLOPs per clock is not the listed figure within its rounding, and why.
NOT_DERIVED = {
    ("H100 SXM5 80GB", "fp64", "vector"): "listed 34 where the clock gives 33.5: rounded up",
    ("H100 SXM5 94GB HBM2e", "fp64", "vector"): "as H100 SXM5 80GB",
    ("H200 SXM5 141GB", "fp64", "vector"): "as H100 SXM5 80GB",
    ("GH200 96GB HBM3", "fp64", "vector"): "as H100 SXM5 80GB",
    ("GH200 144GB HBM3e", "fp64", "vector"): "as H100 SXM5 80GB",
    ("B200 SXM6 180GB", "fp64", "tensor"): "listed with the vector figure, at the vector clock",
    ("B200 SXM6 180GB", "tf32", "tensor"): "listed as 2.2 PFLOP/s sparse, rounded down to two digits",
    ("B300 SXM6", "fp32", "vector"): "listed 75, the figure of a B200 at its lower clock",
    ("GB200 per GPU (half a superchip)", "fp64", "vector"): "the superchip's 80 halved, rounded",
    ("GB200 per GPU (half a superchip)", "fp64", "tensor"): "the superchip's 80 halved, rounded",
    ("GB200 per GPU (half a superchip)", "fp32", "vector"): "the superchip's 160 halved, rounded",
    ("T4 PCIe", "fp64", "vector"): "0.25 is rounded to two digits",
}


@pytest.fixture(autouse=True)
def _no_user_file(monkeypatch, tmp_path):
    """The user's own device file must not decide these tests."""
    empty = tmp_path / "devices.toml"
    empty.write_text("")
    monkeypatch.setenv("FLOPWATCH_DEVICES", str(empty))


def _reported(row):
    return {
        "sm_count": int(row["sm_count"]) if row["sm_count"] else None,
        "memory_bytes": int(float(row["memory_gib"]) * 2**30) if row["memory_gib"] else None,
    }


def test_the_list_of_real_names_is_long_and_mostly_without_a_row():
    """At least 200 names, many of them traps."""
    assert len({row["name"] for row in NAMES}) >= 200
    assert sum(not row["device"] for row in NAMES) >= 100


@pytest.mark.parametrize("row", NAMES, ids=lambda row: f"{row['name']}-{row['sm_count']}-{row['memory_gib']}")
def test_a_reported_name_finds_its_own_row_or_none(row):
    """Never a neighbour's row: an unknown card, a slice, a laptop part is None."""
    found = catalog.find_device(row["name"], **_reported(row))
    assert (found.label if found else "") == row["device"]


def test_every_variant_that_has_a_driver_name_is_on_the_list():
    """All 92 variants: each found from a name of the list, or one that no driver reports."""
    listed = {row["device"] for row in NAMES if row["device"]}
    unlisted = [d for d in catalog.catalog_devices() if d.label not in listed]
    assert len(catalog.catalog_devices()) == 92
    assert {d.device for d in unlisted} == {"Gaudi3", "Data Center GPU Max 1550 (PVC)", "CPU"}
    assert not [d.label for d in unlisted if d.names]


def test_no_name_belongs_to_two_rows_that_nothing_tells_apart():
    """Rows that share a name differ in an exact SM count."""
    owners = {}
    for device in catalog.catalog_devices():
        for name in device.names:
            owners.setdefault(name.casefold(), []).append(device)
    shared = {name: devices for name, devices in owners.items() if len(devices) > 1}
    assert set(shared) == {
        "nvidia geforce rtx 3080",
        "geforce rtx 3080",
        "amd instinct mi250x / mi250",
        "intel(r) data center gpu max 1550",
        "intel data center gpu max 1550",
    }
    for devices in shared.values():
        assert all(device.exact_sm_count for device in devices)
        assert len({device.sm_count for device in devices}) == len(devices)


def test_a_label_of_the_catalogue_finds_its_row():
    """What `flopwatch devices` prints can be typed back."""
    for device in catalog.catalog_devices():
        assert catalog.find_device(device.label) is device


@pytest.mark.parametrize(
    ("typed", "label"),
    [
        ("h100-sxm", "H100 SXM5 80GB"),
        ("A100 SXM4 40GB", "A100 SXM4 40GB"),
        ("a100-sxm-80gb", "A100 SXM4 80GB"),
        ("3090", "RTX 3090 24GB"),
        ("M1 Max", "M1 Max 32-core GPU"),
        ("l40s", "L40S PCIe"),
        ("tpu v5e", "TPU v5e per chip"),
        ("MI250X", "MI250X per GCD (half OAM)"),
        ("gaudi3", "Gaudi3 as shipped (1.6 GHz)"),
    ],
)
def test_a_short_name_that_can_mean_one_card_finds_it(typed, label):
    """A person need not type what a driver prints."""
    assert catalog.load_device(typed).label == label


def test_an_ambiguous_name_lists_the_candidates_with_their_peaks():
    """`H100` is three different cards: 989.4, 756 and 835.5 TFLOP/s."""
    with pytest.raises(AmbiguousDeviceError, match=r"H100 PCIe 80GB \(756 TFLOP/s bf16\).*NVL.*name the variant"):
        catalog.load_device("H100", dtype="bf16")
    assert catalog.find_device("H100") is None


def test_variants_that_agree_on_the_peak_are_answered_together():
    """`A100` has one bf16 peak, 312 TFLOP/s, but two memories: what differs is unknown."""
    device = catalog.load_device("A100", dtype="bf16")
    assert device.peak("bf16").dense_flops_per_s == 312e12
    assert device.memory_bytes is None
    assert device.bandwidth_bytes_per_s is None
    with pytest.raises(AmbiguousDeviceError):
        catalog.load_device("A100")


def test_a_dtype_that_no_variant_has_is_no_question_of_the_variant():
    """No A100 has fp8 units: to ask which one it is would lead nowhere."""
    with pytest.raises(AmbiguousDeviceError, match="no variant of 'A100' has a fp8 matmul peak: A100 SXM4 40GB, "):
        catalog.load_device("A100", dtype="fp8")


def test_an_unknown_name_is_an_error_with_the_nearest_names():
    """A typing slip gets a suggestion, never a card."""
    with pytest.raises(UnknownDeviceError, match="no device is called 'L4s'; the nearest names are L4"):
        catalog.load_device("L4s")


def test_why_unknown_names_slices_laptops_and_shared_names():
    """The reason that stands beside n/a."""
    assert "MIG slice" in catalog.why_unknown("NVIDIA A100-SXM4-40GB MIG 1g.5gb")
    assert "laptop" in catalog.why_unknown("NVIDIA GeForce RTX 4090 Laptop GPU")
    assert "virtual GPU" in catalog.why_unknown("GRID T4-16Q")
    assert "RTX 3080 10GB, RTX 3080 12GB" in catalog.why_unknown("NVIDIA GeForce RTX 3080")
    assert "fewer SMs" in catalog.why_unknown("AMD Instinct MI300X", sm_count=38)
    assert "not in the catalogue" in catalog.why_unknown("NVIDIA L20")
    assert catalog.why_unknown("NVIDIA L40S") is None


PEAKS = [(device, peak) for device in catalog.catalog_devices() for peak in device.peaks]


def test_every_peak_has_a_source_that_is_explained():
    """523 rows, each citing a code of the source table, a whitepaper, or its arithmetic."""
    assert len(PEAKS) == 523
    codes = {*catalog.source_codes(), "whitepaper", "Tom's Hardware", "Google Cloud docs", "verl", "derived"}
    for device, peak in PEAKS:
        is_arithmetic = re.search(r"\d+ lanes x \d x 2|FMA width|same G[AH]100", peak.source)
        assert is_arithmetic or any(code in peak.source for code in codes), (device.label, peak)


def test_the_denominator_is_dense_and_there_is_one_for_a_dtype():
    """Sparse is twice dense where both are known (FP4 of Blackwell Ultra excepted), and never the peak."""
    for device in catalog.catalog_devices():
        for dtype in {peak.dtype for peak in device.peaks}:
            defaults = [peak for peak in device.peaks if peak.dtype == dtype and peak.is_default]
            assert len(defaults) <= 1, (device.label, dtype)
    for device, peak in PEAKS:
        if peak.sparse_flops_per_s and (device.device, peak.dtype) != ("B300", "fp4"):
            assert peak.sparse_flops_per_s / peak.dense_flops_per_s > 1.9, (device.label, peak)


@pytest.mark.parametrize(
    ("name", "dtype", "tflops"),
    [
        ("NVIDIA A100-SXM4-40GB", "bf16", 312),
        ("NVIDIA A100-SXM4-40GB", "fp64", 19.5),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 80GB HBM3", "fp8", 1979),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA L40S", "bf16", 366.4),
        ("Tesla T4", "fp16", 65),
        ("NVIDIA A10G", "bf16", 70.04),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("NVIDIA GeForce RTX 3090", "tf32", 35.6),
        ("NVIDIA B200", "bf16", 2250),
        ("AMD Instinct MI300X", "bf16", 1307.4),
        ("AMD Instinct MI210", "fp32", 45.3),
        ("TPU v5p", "bf16", 459),
    ],
)
def test_the_peak_is_the_vendors_dense_figure(name, dtype, tflops):
    """Published dense figures, typed here from the vendors' datasheets."""
    assert catalog.find_device(name).peak(dtype).dense_flops_per_s == pytest.approx(tflops * 1e12, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "dtype"), [("Tesla T4", "bf16"), ("Tesla V100-SXM2-16GB", "bf16"), ("NVIDIA A100-SXM4-40GB", "fp8")]
)
def test_a_dtype_that_the_device_lacks_has_no_peak_but_a_reason(name, dtype):
    """bf16 on a T4 is n/a, not the fp16 number."""
    device = catalog.find_device(name)
    assert device.peak(dtype) is None
    assert f"has no {dtype} matmul peak" in device.why_no_peak(dtype)


def test_a_cpu_row_is_a_formula_that_waits_for_a_clock():
    """The generic CPU rows give FLOPs per clock; no figure is made up from a nominal clock."""
    device = catalog.load_device("CPU AVX-512, 2 FMA ports")
    assert device.peak("fp32") is None
    assert "measure it with `flopwatch peak`" in device.why_no_peak("fp32")
    assert device.peaks[0].flops_per_clock == 64


def test_each_peak_follows_from_sms_clock_and_flops_per_clock():
    """dense = SMs x clock x FLOPs per clock within 1.1 %; every exception is known, with its reason."""
    checked, off = 0, {}
    for device, peak in PEAKS:
        units = device.sm_count or device.n_matrix_engines
        if peak.dense_flops_per_s and peak.flops_per_clock and peak.clock_hz and units:
            checked += 1
            derived = units * peak.clock_hz * peak.flops_per_clock
            if abs(derived / peak.dense_flops_per_s - 1) > 0.011:
                off[device.label, peak.dtype, peak.unit] = derived / peak.dense_flops_per_s
    assert checked > 400
    assert set(off) == set(NOT_DERIVED), off


def test_a_published_unit_says_how_many_framework_devices_it_is():
    """A TPU v3 chip is two JAX devices; an MI250X row is already one GCD."""
    assert catalog.find_device("TPU v3").framework_devices_per_unit == 2
    assert catalog.find_device("TPU v4").framework_devices_per_unit == 1
    assert catalog.find_device("trn2").framework_devices_per_unit == 4
    assert catalog.find_device("AMD Instinct MI250X").framework_devices_per_unit == 1


def test_the_notebooks_table_is_kept_with_its_own_rule():
    """A case-sensitive substring: right for A100 by its own figure, and an L40S taken for an L4."""
    assert catalog.notebook_peak("NVIDIA A100-SXM4-40GB", "bf16").dense_flops_per_s == 77.97e12
    assert catalog.notebook_peak("NVIDIA L40S", "bf16").dense_flops_per_s == 30.29e12
    assert catalog.notebook_peak("Tesla T4", "bf16").dense_flops_per_s == 65.13e12
    assert catalog.notebook_peak("NVIDIA GeForce RTX 3090", "bf16") is None
    assert catalog.notebook_peak("NVIDIA A100-SXM4-40GB", "fp8") is None
    assert catalog.notebook_peak("a100", "bf16") is None
