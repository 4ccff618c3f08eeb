"""The user's device file: it wins and is shown as the user's; a malformed one is refused with file, key and reason."""

import pytest

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


def test_without_a_file_the_catalogue_stands_alone(monkeypatch, tmp_path):
    """The config folder may be empty."""
    monkeypatch.delenv("FLOPWATCH_DEVICES", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert catalog.all_devices() == catalog.catalog_devices()
