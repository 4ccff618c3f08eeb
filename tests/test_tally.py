"""Tally: exact parts, and a total that is always their sum."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopwatch.tally import Tally

PARTS = st.dictionaries(st.text("abc.", min_size=1, max_size=6), st.integers(-(2**80), 2**80), max_size=8)


@given(PARTS, PARTS)
def test_adding_tallies_adds_their_totals(a, b):
    """No part is lost, none counted twice, whatever the names."""
    assert (Tally(a) + Tally(b)).total == sum(a.values()) + sum(b.values())


@given(PARTS, st.integers(1, 4))
def test_merging_names_keeps_the_total(parts, depth):
    """Rows at any depth sum to the same figure."""
    assert Tally(parts).at_depth(depth).total == sum(parts.values())


def test_parts_are_chosen_by_whole_names():
    """`layers.ffn` is below `layers`; `layers2` is not."""
    tally = Tally({"layers.ffn.up": 5, "layers2": 7, "layers": 11})
    assert tally.only("layers").total == 16
    assert tally.without("layers").to_dict() == {"layers2": 7}


def test_a_float_is_no_count():
    """Counts are exact: 1.0 is refused."""
    with pytest.raises(TypeError, match="whole numbers only"):
        Tally({"x": 1.0})
