"""The calculator's coefficients: evaluated, they are the closed forms, for any batch, sequence and depth."""

import msgspec
import pytest

from flopwatch.compare.whatif.coefficients import coefficients_of
from flopwatch.compare.whatif.evaluate import MOST_BATCH, Choice, Target, what_if
from flopwatch.compare.whatif.memory import PARTS
from flopwatch.compare.whatif.polynomial import NotPolynomialError, Sizes, value_at
from flopwatch.compare.whatif.target import target_of
from flopwatch.cost.memory import estimate_memory
from flopwatch.device.catalog import catalog_devices, load_device
from flopwatch.errors import InputError
from flopwatch.measure.limit import card_limit
from flopwatch.model.load import load_spec
from flopwatch.workload import Workload
from whatif_truth import choices, largest_batch, model, truth, workload_of

BASE = Workload()


def _close(found, expected):
    if expected is None:
        return found is None
    return found == pytest.approx(expected, rel=1e-9)


def _check(n, seed):
    cards = catalog_devices()
    for name, choice, card in choices(n, seed=seed):
        spec = model(name)
        found = what_if(coefficients_of(spec, BASE, ("cuda",)), choice, target_of(cards[card]))
        for figure, expected in truth(spec, choice, cards[card]).items():
            assert _close(getattr(found, figure), expected), (name, choice, cards[card].label, figure)


def test_the_digits_of_one_evaluation_are_the_coefficients():
    """17 + 3B + 5T + 7BT + 11T² - 13BT², read off its value; what is no such polynomial is refused."""
    sizes = Sizes()
    b, t = sizes.batch, sizes.seq_len
    assert sizes.read(17 + 3 * b + 5 * t + 7 * b * t + 11 * t * t - 13 * b * t * t) == (17, 3, 5, 7, 11, -13)
    with pytest.raises(NotPolynomialError):
        sizes.read(t // 3)
    with pytest.raises(NotPolynomialError):
        sizes.read(t**3)


def test_rows_of_experts_give_fractions():
    """BT/4 rows of 6 bytes, and T/4 of 8, where sizes are multiples of 4."""
    sizes = Sizes(unit=4)
    polynomial = sizes.read(6 * sizes.batch * sizes.seq_len // 4 + 8 * sizes.seq_len // 4)
    assert polynomial == (0, 0, 2, 1.5, 0, 0)
    assert value_at(polynomial, 2, 6) == 30


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_coefficients_give_the_closed_forms(seed):
    """150 choices of model, step and card each: FLOPs, memory, time and MFU to 1e-9."""
    _check(150, seed)


def test_coefficients_give_the_closed_forms_of_a_few():
    """The same for six choices, one a model."""
    _check(6, 77)


@pytest.mark.parametrize("name", ["gpt-xl", "gemma-2-2b", "mixtral-8x7b"])
@pytest.mark.slow
def test_presets_of_many_layers_are_not_off_by_a_byte(name):
    """Two short networks stand for the whole: the peak of the whole is the same, and so are its parts."""
    spec = load_spec(name)
    coefficients = coefficients_of(spec, BASE, ("cuda", "cpu"))
    for device_type in ("cuda", "cpu"):
        for fields in (
            {"phase": "train", "batch": 1, "seq_len": 512},
            {"phase": "train", "batch": 5, "seq_len": 264, "recompute": "full", "optimizer": "sgd"},
            {"phase": "train", "batch": 8, "seq_len": 1024, "attention": "math", "dtype": "fp32"},
            {"phase": "prefill", "batch": 3, "seq_len": 1000},
            {"phase": "decode", "batch": 16, "seq_len": 777},
        ):
            choice = Choice(**({"dtype": "bf16"} | fields))
            expected = estimate_memory(
                spec, workload_of(choice), device_type=device_type, foreach=device_type == "cuda"
            )
            found = what_if(coefficients, choice, Target(device_type=device_type))
            assert found.peak_bytes == expected.peak_bytes, (device_type, fields)
            assert found.parts == {part: expected.parts[part] for part in PARTS}


@pytest.mark.slow
def test_the_largest_batches_on_cards_are_those_of_the_closed_form():
    """Twelve choices of model, step and card, up to millions of sequences: the last batch within the card's limit."""
    cards = catalog_devices()
    for name, choice, number in choices(12, seed=11):
        spec, card = model(name), cards[number]
        found = what_if(coefficients_of(spec, BASE, ("cuda",)), choice, target_of(card))
        if card.memory_bytes is None:
            assert found.largest_batch is None
            continue
        expected = largest_batch(
            spec, choice, card_limit(card).limit_bytes, most=MOST_BATCH // 2, step=found.batch_step
        )
        assert found.largest_batch == expected, (name, choice, card.label)


@pytest.mark.parametrize("phase", ["forward", "train"])
def test_the_largest_batch_is_that_of_the_closed_form(phase):
    """At a limit that the network nearly fills: the last batch whose closed form is within it, and the next is not."""
    spec = model("grouped")
    choice = Choice(batch=1, seq_len=48, phase=phase, dtype="bf16")
    limit_bytes = 9_000_000 if phase == "train" else 2_000_000
    target = Target(device_type="cuda", limit_bytes=limit_bytes)
    found = what_if(coefficients_of(spec, BASE, ("cuda",)), choice, target)
    assert found.largest_batch == largest_batch(spec, choice, limit_bytes, most=500)
    assert 3 < found.largest_batch < 500
    none = msgspec.structs.replace(target, limit_bytes=1000)
    assert what_if(coefficients_of(spec, BASE, ("cuda",)), choice, none).largest_batch == 0


def test_the_largest_batch_of_experts_is_one_with_equal_shares():
    """Two of four experts a token: decoding deals evenly at even batches, of which 26 is the last within the limit."""
    spec = model("experts")
    choice = Choice(batch=1, seq_len=48, phase="decode", dtype="bf16")
    peaks = {n: estimate_memory(spec, workload_of(choice, batch=n), device_type="cuda").peak_bytes for n in (26, 28)}
    target = Target(device_type="cuda", limit_bytes=peaks[28] - 1)
    found = what_if(coefficients_of(spec, BASE, ("cuda",)), choice, target)
    assert (found.largest_batch, found.batch_step) == (26, 2)
    even = msgspec.structs.replace(choice, phase="prefill")
    assert what_if(coefficients_of(spec, BASE, ("cuda",)), even, target).batch_step == 1


def test_what_is_not_known_has_its_reason():
    """Uneven experts, an unknown peak, no memory to fit into: no number, and why."""
    coefficients = coefficients_of(model("experts"), BASE, ("cuda",))
    odd = Choice(batch=3, seq_len=25, phase="train", dtype="bf16")
    found = what_if(coefficients, odd, Target(device_type="cuda"))
    assert (found.peak_bytes, found.largest_batch, found.time_s) == (None, None, None)
    assert found.why == {"memory": "uneven_rows", "batch": "no_limit", "time": "no_peak"}
    one = Choice(batch=3, seq_len=1, phase="train", dtype="bf16")
    found = what_if(coefficients_of(model("gpt"), BASE, ("cuda",)), one, target_of(load_device("A100 SXM4 40GB")))
    assert found.why == {"memory": "too_short", "batch": "too_short"}


def test_a_sequence_beyond_the_context_is_refused():
    """As the closed forms refuse it."""
    long = Choice(batch=1, seq_len=98, phase="train", dtype="bf16")
    with pytest.raises(InputError, match="seq_len=98 is longer than the context of gpt, 97"):
        what_if(coefficients_of(model("gpt"), BASE, ("cuda",)), long, Target(device_type="cuda"))
