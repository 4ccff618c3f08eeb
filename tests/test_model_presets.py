"""Every preset has its published size, its source, and its line in docs/models.md."""

import tomllib
from pathlib import Path

import pytest

from flopwatch import units
from flopwatch.model.load import load_spec
from flopwatch.model.params import count_active_params, count_params
from flopwatch.model.presets import find_preset, preset_names
from flopwatch.model.spec import spec_from_fields

ANCHORS = tomllib.loads((Path(__file__).parent / "data" / "model_anchors.toml").read_text(encoding="utf-8"))
DOCS = Path(__file__).parents[1] / "docs" / "models.md"


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_has_its_published_parameter_count(name):
    """To the integer where a checkpoint's count is known, else within the rounding of the published figure."""
    anchor = ANCHORS[name]
    total = count_params(load_spec(name)).total
    assert abs(total - anchor["total"]) <= anchor["tolerance"] * anchor["total"], (
        f"{total:,} is not {anchor['total']:,}"
    )


@pytest.mark.parametrize("name", sorted(name for name, anchor in ANCHORS.items() if "active_tolerance" in anchor))
def test_a_mixture_has_its_published_active_parameter_count(name):
    """Within the rounding of the published figure, which leaves the embedding table out where the anchor says so."""
    anchor, spec = ANCHORS[name], load_spec(name)
    published = anchor.get("active", anchor.get("active_without_table"))
    table = 0 if "active" in anchor else count_params(spec)["embedding.tokens"]
    assert abs(count_active_params(spec) - table - published) <= anchor["active_tolerance"] * published


def test_every_preset_has_an_anchor_and_a_source():
    """No geometry without a figure that confirms it, no figure without a geometry."""
    assert set(ANCHORS) == set(preset_names())
    for name in preset_names():
        preset = find_preset(name)
        assert preset is not None
        assert preset.source
        assert ANCHORS[name]["source"]


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_gives_no_field_that_would_be_derived_to_the_same_value(name):
    """What --set changes must reach the derived fields: a preset writes only what it must."""
    preset = find_preset(name)
    assert preset is not None
    spec = load_spec(name)
    for field in ("n_kv_heads", "d_head", "d_ff", "padded_vocab_size", "d_embed"):
        if field in preset.fields:
            without = {key: value for key, value in preset.fields.items() if key != field}
            assert spec_from_fields({"name": name, **without}) != spec, f"{name} gives {field} needlessly"


def test_the_docs_list_every_preset_with_its_size_and_source():
    """docs/models.md keeps in step; the table below is what it must hold."""
    rows = []
    for name in preset_names():
        preset = find_preset(name)
        assert preset is not None
        n_params = units.format_count(count_params(load_spec(name)).total)
        rows.append(f"| `{name}` | {n_params} | {preset.source} |")
    table = DOCS.read_text(encoding="utf-8").partition("## Presets")[2]
    assert [line for line in table.splitlines() if line.startswith("| `")] == rows
