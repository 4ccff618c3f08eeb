"""The user's device file: it wins and is shown as the user's; a malformed one is refused with file, key and reason."""

import os

import pytest

from flopwatch.cli import run
from flopwatch.device import catalog
from flopwatch.errors import DeviceFileError

GOOD = """
[[device]]
name = "Lab H100"
names = ["NVIDIA H100 80GB HBM3"]
memory = "80GiB"
bandwidth_gb_per_s = 3350
[[device.peaks]]
dtype = "bf16"
dense_tflops = 850.5
source = "our own sweep"
"""


@pytest.fixture
def write(monkeypatch, tmp_path):
    """Writes a device file that flopwatch reads."""
    path = tmp_path / "my-devices.toml"
    monkeypatch.setenv("FLOPWATCH_DEVICES", str(path))

    def _write(text):
        path.write_text(text)
        return path

    return _write


def test_the_users_device_wins_over_the_catalogue_and_is_shown_as_the_users(write):
    """The same driver name now means the user's figure."""
    write(GOOD)
    device = catalog.find_device("NVIDIA H100 80GB HBM3")
    assert device.label == "Lab H100"
    assert device.origin == "user"
    assert device.memory_bytes == 80 * 2**30
    assert device.bandwidth_bytes_per_s == 3350e9
    peak = device.peak("bf16")
    assert (peak.dense_flops_per_s, peak.kind, peak.source) == (850.5e12, "user", "our own sweep")
    assert device.peak_source("bf16") == "Lab H100 bf16, user's device file"
    assert device.peak("fp8") is None
    assert catalog.find_device("NVIDIA H100 PCIe").origin == "catalogue"


def test_a_users_device_is_found_by_its_own_name(write):
    """`names` may be left out: the name is what the driver reports."""
    write('[[device]]\nname = "Accel 7"\npeaks = [{ dtype = "fp16", dense_tflops = 12 }]\n')
    assert catalog.load_device("accel 7").peak("fp16").dense_flops_per_s == 12e12
    assert catalog.all_devices()[0].label == "Accel 7"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[device]\nname = 3", r"is not valid TOML: .*line 1"),
        (GOOD.replace("850.5", "-850.5"), r"device\[0\].peaks\[0\].dense_tflops: expected `float` > 0"),
        (GOOD.replace("850.5", "0"), r"device\[0\].peaks\[0\].dense_tflops: expected"),
        (GOOD.replace("850.5", "nan"), r"device\[0\].peaks\[0\].dense_tflops: "),
        (GOOD.replace("850.5", "inf"), r"device\[0\].peaks\[0\].dense_tflops: "),
        (GOOD.replace("850.5", '"fast"'), r"device\[0\].peaks\[0\].dense_tflops: expected"),
        (GOOD.replace('dtype = "bf16"\n', ""), r"device\[0\].peaks\[0\]: .*missing required field `dtype`"),
        (GOOD.replace('"bf16"', '"bfloat16"'), r"device\[0\].peaks\[0\].dtype: invalid enum value 'bfloat16'"),
        (GOOD.replace('"80GiB"', '"eighty"'), r"device\[0\].memory: 'eighty' is not a size in bytes"),
        (GOOD.replace("memory", "memorie"), r"device\[0\]: .*unknown field `memorie`"),
        ('[[device]]\nname = "empty"\n', r"device\[0\]: .*missing required field `peaks`"),
        ("[devices]\n", r"the file: .*unknown field `devices`"),
        (GOOD + '[[device.peaks]]\ndtype = "bf16"\ndense_tflops = 1\n', r"peaks\[1\].dtype: bf16 is given twice"),
        (
            GOOD + GOOD.replace("Lab H100", "Other H100"),
            r"device\[1\].names: 'NVIDIA H100 80GB HBM3' matches both 'Lab H100' and 'Other H100'",
        ),
        (
            GOOD + GOOD.replace("NVIDIA H100 80GB HBM3", "lab h100").replace('name = "Lab H100"', 'name = "B"'),
            r"device\[1\].names: 'lab h100' matches both 'Lab H100' and 'B'",
        ),
        (
            GOOD + GOOD.replace("NVIDIA H100 80GB HBM3", "NVIDIA-H100 (80GB) HBM3").replace("Lab", "Other"),
            r"device\[1\].names: 'NVIDIA-H100 \(80GB\) HBM3' matches both 'Lab H100' and 'Other H100'",
        ),
        (GOOD + GOOD.replace("NVIDIA H100 80GB HBM3", "other"), r"'Lab H100' matches both 'Lab H100' and 'Lab H100'"),
        (GOOD.replace("NVIDIA H100 80GB HBM3", " - "), r"device\[0\].names: ' - ' has neither a letter nor a digit"),
        (GOOD.replace("NVIDIA H100 80GB HBM3", ""), r"device\[0\].names\[0\]: expected `str` of length >= 1"),
        (GOOD.replace("850.5", "true"), r"device\[0\].peaks\[0\].dense_tflops: expected `float`"),
        (GOOD.replace("850.5", "1e400"), r"device\[0\].peaks\[0\].dense_tflops: "),
        (GOOD.replace("850.5", "989_400_000_000_000"), r"device\[0\].peaks\[0\].dense_tflops: expected `float` < "),
        (GOOD.replace("850.5", "9" * 400), r"device\[0\].peaks\[0\].dense_tflops: "),
        (GOOD.replace("850.5", "[850.5]"), r"device\[0\].peaks\[0\].dense_tflops: expected `float`"),
        (GOOD.replace("850.5", "2026-01-01"), r"device\[0\].peaks\[0\].dense_tflops: expected `float`"),
        (GOOD.replace("dense_tflops", "tflops"), r"device\[0\].peaks\[0\]: .*(missing required field|unknown field)"),
        (GOOD + "sparse_tflops = 1700\n", r"device\[0\].peaks\[0\]: .*unknown field `sparse_tflops`"),
        (GOOD + "note = ''\n", r"device\[0\].peaks\[0\].note: expected `str` of length >= 1"),
        (GOOD.replace('"80GiB"', "80"), r"device\[0\].memory: expected `str"),
        (GOOD.replace('"80GiB"', '"-80GiB"'), r"device\[0\].memory: '-80GiB' is not a size in bytes"),
        (GOOD.replace('"80GiB"', '"0GiB"'), r"device\[0\].memory: '0GiB' leaves no memory"),
        (GOOD.replace("3350", "nan"), r"device\[0\].bandwidth_gb_per_s: "),
        (GOOD.replace("3350", "-1"), r"device\[0\].bandwidth_gb_per_s: expected `float"),
        (GOOD.replace("bandwidth_gb_per_s = 3350", "sm_count = 0"), r"device\[0\].sm_count: expected `int"),
        (GOOD.replace("bandwidth_gb_per_s = 3350", "sm_count = 1.5"), r"device\[0\].sm_count: expected `int"),
        (GOOD.replace('name = "Lab H100"', "name = 100"), r"device\[0\].name: expected `str`"),
        (GOOD.replace('["NVIDIA H100 80GB HBM3"]', '"NVIDIA H100 80GB HBM3"'), r"device\[0\].names: expected `array`"),
        (
            GOOD.replace("[[device]]", "[device]").replace("[[device.peaks]]", "[[device.peaks]]"),
            r"device: expected `array`",
        ),
        (GOOD.replace("[[device.peaks]]", "[device.peaks]"), r"device\[0\].peaks: expected `array`"),
        ('[[device]]\nname = "none"\npeaks = []\n', r"device\[0\].peaks: expected `array` of length >= 1"),
        ("device = 3\n", r"device: expected `array`"),
        (GOOD.replace("memory", '"memo\\nry"'), r"device\[0\]: .*unknown field `memo ry`"),
        (GOOD + 'dtype = "bf16"\n', r"is not valid TOML: Cannot overwrite a value"),
        ("x = " + "[" * 5000, r"is not valid TOML: "),
        ("<xml>", r"is not valid TOML: "),
    ],
)
def test_a_malformed_file_is_refused_with_file_key_and_reason(write, text, reason):
    """Bad TOML, a negative peak, a missing dtype, two names that both match: each says where and why."""
    path = write(text)
    with pytest.raises(DeviceFileError, match=reason) as caught:
        catalog.find_device("NVIDIA L4")
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_file_that_is_named_but_absent_is_an_error(monkeypatch, tmp_path):
    """A typing slip in FLOPWATCH_DEVICES must not fall back to the catalogue in silence."""
    monkeypatch.setenv("FLOPWATCH_DEVICES", str(tmp_path / "nowhere.toml"))
    with pytest.raises(DeviceFileError, match=r"nowhere\.toml is not a file"):
        catalog.all_devices()


def test_what_is_no_file_or_cannot_be_read_is_refused_even_where_nobody_named_it(monkeypatch, tmp_path, capsys):
    """Somebody wanted devices of their own: to go on without them would be another denominator, in silence."""
    path = tmp_path / "flopwatch" / "devices.toml"
    monkeypatch.delenv("FLOPWATCH_DEVICES", raising=False)
    monkeypatch.setattr("platformdirs.user_config_path", lambda _: path.parent)
    path.mkdir(parents=True)
    assert refused(capsys) == f"flopwatch: {path} is not a file; correct it or move it away\n"
    path.rmdir()
    path.symlink_to(tmp_path / "gone.toml")
    assert f"{path} is not a file" in refused(capsys)
    path.unlink()
    path.write_bytes("[[device]]".encode("utf-16"))
    assert f"{path} is not valid TOML: 'utf-8' codec can't decode byte 0xff" in refused(capsys)
    path.write_text(GOOD)
    for name in ("read_text", "stat"):
        with monkeypatch.context() as unreadable:
            unreadable.setattr(f"pathlib.Path.{name}", denied)
            with pytest.raises(DeviceFileError) as caught:
                catalog.all_devices()
        assert f"{path} cannot be read: Permission denied" in str(caught.value)


def denied(*_, **__):
    raise PermissionError(13, os.strerror(13))


def refused(capsys):
    assert run(["devices", "NVIDIA L4"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def test_the_mark_that_windows_editors_put_before_a_file_is_no_fault(write):
    """A UTF-8 byte order mark says nothing; TOML 1.1 has it ignored."""
    write("\ufeff" + GOOD)
    assert catalog.find_device("NVIDIA H100 80GB HBM3").label == "Lab H100"


def test_a_name_in_another_script_is_a_name(write):
    """And none matches a driver that says nothing."""
    write('[[device]]\nname = "机房 H100"\npeaks = [{ dtype = "fp16", dense_tflops = 12 }]\n')
    assert catalog.find_device("机房-h100").label == "机房 H100"
    assert catalog.find_device("工作站 H100") is None
    assert catalog.find_device("") is None


def test_without_a_file_the_catalogue_stands_alone(monkeypatch, tmp_path):
    """The config folder may be empty."""
    monkeypatch.delenv("FLOPWATCH_DEVICES", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert catalog.all_devices() == catalog.catalog_devices()
