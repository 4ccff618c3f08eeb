"""`import flopwatch as fw`: what it offers, and that it costs nothing to import."""

import ast
from pathlib import Path

import pytest

import flopwatch as fw


@pytest.mark.parametrize("name", fw.__all__)
def test_every_name_that_is_offered_can_be_used(name):
    """The lazy table leads to something real."""
    assert getattr(fw, name) is not None
    assert name in dir(fw)


def test_what_type_checkers_see_is_what_is_offered():
    """The TYPE_CHECKING imports, __all__ and the lazy table name the same things."""
    tree = ast.parse(Path(fw.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == fw._WHERE
    assert sorted(fw.__all__) == sorted(seen)


def test_a_wrong_name_is_an_attribute_error():
    """As for any module."""
    with pytest.raises(AttributeError, match="no attribute 'cuont'"):
        _ = fw.cuont


def test_count_of_a_spec_of_ones_own():
    """2 layers, width 6, 3 heads, FFN 24, vocabulary 7, batch 1 x 5: 2*5*(2*(4*36 + 2*144) + 42) + 4*25*6*2."""
    spec = fw.ModelSpec(n_layers=2, d_model=6, n_heads=3, vocab_size=7, max_seq_len=5)
    result = fw.count(spec)
    assert result.flops.total == 2 * 5 * (2 * (4 * 36 + 2 * 144) + 42) + 4 * 25 * 6 * 2
    assert result.seq_len == 5
