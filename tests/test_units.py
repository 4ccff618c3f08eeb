"""Sizes, counts and rates as people write and read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopwatch import units
from flopwatch.errors import InputError


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("2GiB", 2147483648),
        ("39800MiB", 41733324800),
        ("80GB", 80_000_000_000),
        ("80G", 85899345920),
        ("1.5 GiB", 1610612736),
        ("512mib", 536870912),
        ("1024", 1024),
        ("7B", 7),
        ("4M", 4194304),
    ],
)
def test_bytes_are_read_as_people_write_them(text, n_bytes):
    """Binary with i or without B, decimal with a plain B, in any case."""
    assert units.parse_bytes(text) == n_bytes


@pytest.mark.parametrize(("text", "n"), [("1k", 1000), ("4M", 4_000_000), ("1.5B", 1_500_000_000), ("4Mi", 4194304)])
def test_counts_are_decimal(text, n):
    """A million tokens is a million."""
    assert units.parse_count(text) == n


@pytest.mark.parametrize(("text", "n"), [("1k", 1024), ("128k", 131072), ("1M", 1048576), ("4096", 4096)])
def test_context_lengths_are_binary(text, n):
    """An 8k context has 8192 tokens, everywhere in the field."""
    assert units.parse_seq_len(text) == n


@pytest.mark.parametrize("text", ["", "x", "-1", "1e400", "2GiBs", "1..2", "٣", "1 2", "nan", "inf", "9" * 400, "1e30"])
@pytest.mark.parametrize("parse", [units.parse_bytes, units.parse_count, units.parse_seq_len])
def test_what_is_no_size_is_refused_with_an_example(parse, text):
    """One line: the value, the rule, how to write it."""
    with pytest.raises(InputError, match="write it like"):
        parse(text)


@pytest.mark.parametrize("text", ["1.5", "0.5", "2.5B"])
def test_half_a_byte_is_refused(text):
    """Who writes 1.5 means another unit, and is not given one byte."""
    with pytest.raises(InputError, match="is no whole number of bytes"):
        units.parse_bytes(text)


@pytest.mark.parametrize(("text", "rate"), [("6779.92", 6779.92), ("12.5k", 12500.0), ("1.2M", 1_200_000.0)])
def test_rates_may_have_a_fraction_and_a_suffix(text, rate):
    """Tokens a second, as people write them."""
    assert units.parse_rate(text) == pytest.approx(rate)


def test_half_a_sequence_is_refused():
    """Counts are whole."""
    with pytest.raises(InputError, match=r"'1\.5' is not a whole number"):
        units.parse_count("1.5")


@given(st.integers(min_value=0, max_value=10**18 - 1))
def test_plain_integers_stay_exact(n):
    """No float in between: 2**53 + 1 stays odd."""
    assert units.parse_count(str(n)) == n


@given(st.text(max_size=20))
def test_no_text_breaks_the_parsers(text):
    """Anything at all gives a number or an InputError."""
    for parse in (units.parse_bytes, units.parse_count, units.parse_seq_len):
        try:
            assert parse(text) >= 0
        except InputError:
            continue


def test_sizes_are_printed_in_their_own_units():
    """Memory binary, rates decimal, FLOPs never FLOPS."""
    assert units.format_bytes(6552.71 * 1024**2) == "6.399 GiB"
    assert units.format_bytes(37) == "37 B"
    assert units.format_flops(583_296_614_400) == "583.3 GFLOPs"
    assert units.format_rate(312e12) == "312.0 TFLOP/s"
    assert units.format_count(163_037_184) == "163.0M"
    assert units.format_seconds(0.0456) == "45.6 ms"
    assert units.format_percent(0.213) == "21.3 %"
    assert units.format_bandwidth(1.555e12) == "1555 GB/s"
