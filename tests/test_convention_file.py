"""Conventions by name and from a user's file."""

import os

import pytest

from flopwatch.cost.convention import Convention, convention_names, find_convention, flops_per_token, load_conventions
from flopwatch.errors import InputError
from flopwatch.model.load import load_spec

SHIPPED = (
    "matmul matmul-causal palm nanogpt llm-c llm-foundry megatron megatron-2021 korthikanti torchtitan torchtitan-2024"
    " maxtext flash-attention llmq bloom 6n notebook"
)
GOOD = """
[mine]
title = "all parameters, half the attention, twice the scores again"
source = "our own wiki"
attention = "causal"
weights = "no-positions"

[mine.again]
full = { layers = 1, attention = 1, head = 0.5, rest = "1/3" }
twice = { attention = 2 }
"""


@pytest.fixture
def file_of(tmp_path):
    """A function that writes a convention file and gives its path."""

    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_every_documented_name_ships_with_a_title_and_a_source():
    """The default is the first."""
    names = convention_names()
    assert set(SHIPPED.split()) <= set(names)
    assert names[0] == "matmul"
    for name in names:
        rule = find_convention(name)
        assert rule.title
        assert rule.source
        assert rule.formula


def test_an_unknown_name_gets_the_nearest_ones():
    """A typing slip is not a new convention."""
    with pytest.raises(InputError, match="no convention is called 'megatorn'; did you mean megatron"):
        find_convention("megatorn")
    with pytest.raises(InputError, match="no convention is called 'zzz'; there are matmul, "):
        find_convention("zzz")


def test_a_users_convention_counts_as_it_says(file_of):
    """6(N - position table) + 6LaT for GPT-2, and 4LaT x 2 / 2 again with recompute `twice`."""
    own = load_conventions(file_of(GOOD))
    rule = find_convention("mine", own)
    assert rule.recomputes == ("none", "full", "twice")
    gpt2 = load_spec("gpt2")
    once = flops_per_token(gpt2, 1024, rule)
    assert once == 6 * 123_653_376 + 6 * 12 * 768 * 1024
    assert flops_per_token(gpt2, 1024, rule, recompute="twice") - once == 4 * 12 * 768 * 1024


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mine.toml holds no convention"),
        ("[mine", "mine.toml is not valid TOML"),
        ("mine = 3", "mine.toml: mine is not a table"),
        (GOOD.replace("mine", "matmul"), "mine.toml: matmul is a convention that flopwatch ships; give yours another"),
        (GOOD.replace('"causal"', '"casual"'), "mine.toml: mine.attention: invalid enum value 'casual'"),
        (GOOD.replace('"causal"', "true"), r"mine.toml: mine.attention: expected `str`, got `bool`"),
        (GOOD.replace("attention =", "atention =", 1), "mine.toml: mine: .*`atention`"),
        (GOOD.replace('source = "our own wiki"\n', ""), "mine.toml: mine: .*`source`"),
        (GOOD.replace("attention = 2", "attention = -2"), "mine.toml: mine.again.*: attention is -2, not a share"),
        (GOOD.replace("attention = 2", "attention = nan"), "mine.toml: mine.again.*: nan is not a share"),
        (GOOD.replace('"1/3"', '"1/0"'), "mine.toml: mine.again.*: '1/0' is not a share"),
        (GOOD.replace("twice = { attention = 2 }", "twice = 2"), "mine.toml: mine.again"),
        (GOOD.replace("[mine.again]", "router = false\n[mine.again]"), "mine.toml: mine: weights=no-positions counts"),
        (
            GOOD.replace("[mine.again]", 'head = "sc21"\n[mine.again]'),
            "mine.toml: mine: head=sc21 needs weights=matmul",
        ),
        (
            GOOD.replace("[mine.again]", 'assumes = "half"\n[mine.again]'),
            "assumes=half is not one of none, full, twice",
        ),
        (GOOD.replace("[mine.again]", 'name = "x"\n[mine.again]'), "mine.toml: mine.name: the name is the table's"),
        (GOOD.replace("mine", "all"), "the name 'all' is not"),
        (GOOD.replace("mine", "Mine"), "the name 'Mine' is not"),
    ],
)
def test_a_wrong_file_is_refused_with_file_key_and_reason(file_of, text, message):
    """One line that says where and why."""
    with pytest.raises(InputError, match=message) as caught:
        load_conventions(file_of(text))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path):
    """A missing path, a folder, and bytes that are no UTF-8."""
    with pytest.raises(InputError, match="No such file"):
        load_conventions(tmp_path / "none.toml")
    with pytest.raises(InputError, match="Is a directory"):
        load_conventions(tmp_path)
    path = tmp_path / "latin.toml"
    path.write_bytes(b'[mine]\ntitle = "\xe9"\n')
    with pytest.raises(InputError, match="is not valid TOML"):
        load_conventions(path)


def test_a_pipe_is_refused_at_once(tmp_path):
    """Reading it would wait for ever."""
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(InputError, match="is not a regular file"):
        load_conventions(tmp_path / "pipe.toml")


def test_a_convention_made_in_python_is_checked_as_one_of_a_file():
    """An attention that nobody knows would count as causal."""
    with pytest.raises(InputError, match="attention='half' is not one of full, causal"):
        Convention(name="mine", title="t", source="s", attention="half", weights="matmul")
