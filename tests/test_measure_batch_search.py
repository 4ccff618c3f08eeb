"""The search finds what an exhaustive search finds, in few tries, whatever the memory and the prediction look like."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopwatch.errors import InputError
from flopwatch.measure.batch_search import MOST, Grid, Try, search_batch


def run(peak_of, *, limit, predict=None, grid=None, outcome="oom", report_peak=True, pin_bytes=None):
    """The Found and the batches tried, on a fake device whose memory is `limit`."""
    search = search_batch(limit_bytes=limit, grid=grid, predict=predict, pin_bytes=pin_bytes)
    tried = []
    try:
        batch = next(search)
        while True:
            assert batch not in tried, "a batch was tried twice"
            tried.append(batch)
            fits = peak_of(batch) <= limit
            peak = peak_of(batch) if fits and report_peak else None
            batch = search.send(Try(batch=batch, outcome="ok" if fits else outcome, peak_bytes=peak))
    except StopIteration as end:
        return end.value, tried


def exhaustive(peak_of, *, limit, batches):
    return max((batch for batch in batches if peak_of(batch) <= limit), default=None)


def check(found, tried, peak_of, limit, batches):
    """The claim of a search: the best ran, is the largest that does, and the allowed one after it was seen to fail."""
    best = exhaustive(peak_of, limit=limit, batches=batches)
    assert (found.best.batch if found.best else None) == best
    assert best is None or best in tried
    after = next((batch for batch in batches if batch > (best or 0)), None)
    assert (found.worst.batch if found.worst else None) == after
    assert found.n_tries == len(tried)


def line(fixed, each, floor=0):
    return lambda batch: max(floor, fixed + each * batch)


def bent(batch):
    """With checkpointing: the highest of several lines (memory.md: a line from 1 and 2 is 33 % low at 16)."""
    return max(4000 + 100 * batch, 3000 + 290 * batch, 2590 + 331 * batch)


@pytest.mark.parametrize("error", [-0.01, -0.003, 0.0, 0.004, 0.01])
@pytest.mark.parametrize("limit", [2_907, 3_333, 40_000, 391_117])
def test_a_prediction_within_a_percent_needs_three_tries_or_four(error, limit):
    """The prediction, its correction, the neighbour; one more when the first try was one too many."""
    truth = line(1866, 1171 / 7)
    found, tried = run(truth, limit=limit, predict=lambda batch: int(truth(batch) * (1 + error)))
    check(found, tried, truth, limit, range(1, 5000))
    assert len(tried) <= (4 if limit < 100_000 else 5)  # a percent of the last limit is 23 batches
    assert found.is_proved


def test_an_exact_prediction_needs_two_tries_when_the_steps_are_large():
    """The answer and its neighbour, when 99.5 % and all of the limit hold the same batch."""
    truth = line(1866, 1172)
    found, tried = run(truth, limit=13_500, predict=truth)
    assert (found.best.batch, tried) == (9, [9, 10])


@pytest.mark.parametrize("constant", [-97, 0, 190])
@pytest.mark.parametrize("limit", [40_009, 391_117])
def test_a_prediction_that_is_off_by_a_constant_is_pinned_by_a_small_batch(constant, limit):
    """An eighth of the answer shows the constant; then come the answer and its neighbour."""
    truth = line(1866, 167)
    found, tried = run(truth, limit=limit, predict=lambda batch: truth(batch) + constant, pin_bytes=0)
    check(found, tried, truth, limit, range(1, 5000))
    assert tried[1:] == [found.best.batch, found.best.batch + 1]
    assert tried[0] <= found.best.batch / 8 + 2


def test_the_small_batch_lies_on_the_line_of_the_answer():
    """Its peak grows as the answer's does: from another of the lines the constant would be that line's."""
    found, tried = run(bent, limit=9_001, predict=bent, pin_bytes=0)
    check(found, tried, bent, 9_001, range(1, 100))
    assert bent(tried[0] + 1) - bent(tried[0]) == 331
    assert len(tried) == 3


@pytest.mark.parametrize("error", [-0.9, -0.5, -0.2, 0.3, 1.0, 9.0])
def test_a_wrong_prediction_costs_tries_and_never_the_answer(error):
    """Far too low or too high: the measurements win."""
    truth = line(977, 53)
    found, tried = run(truth, limit=20_011, predict=lambda batch: int(truth(batch) * (1 + error)))
    check(found, tried, truth, 20_011, range(1, 5000))
    assert len(tried) <= 9


@pytest.mark.parametrize("truth", [line(1866, 1172), bent, line(0, 37, floor=2874), lambda b: 50 + b * b])
@pytest.mark.parametrize("limit", [2874, 2999, 9_001, 33_333])
@pytest.mark.parametrize("report_peak", [True, False])
def test_without_a_prediction_the_answer_is_the_same(truth, limit, report_peak):
    """Lines, bends, a flat start and a parabola; with measured peaks and, where nothing tells them, without."""
    found, tried = run(truth, limit=limit, report_peak=report_peak)
    check(found, tried, truth, limit, range(1, 2000))
    assert len(tried) <= 22


@settings(max_examples=300, deadline=None)
@given(
    fixed=st.integers(0, 5000),
    each=st.integers(1, 900),
    floor=st.integers(0, 6000),
    bend=st.integers(0, 500),
    limit=st.integers(1, 50_000),
    scale=st.one_of(st.none(), st.floats(0.2, 5.0)),
    top=st.integers(1, 700),
    multiple=st.integers(1, 9),
    kind=st.sampled_from(["all", "power-of-two"]),
    pin_bytes=st.one_of(st.none(), st.integers(0, 9000)),
)
def test_any_rising_memory_gives_the_exhaustive_answer(
    fixed, each, floor, bend, limit, scale, top, multiple, kind, pin_bytes
):
    """Over random memories, limits, predictions and grids, the search and the exhaustive search agree."""
    multiple = 1 if kind == "power-of-two" else min(multiple, top)
    grid = Grid(kind=kind, multiple_of=multiple, max_batch=top)
    batches = [b for b in range(multiple, top + 1, multiple) if kind == "all" or b & (b - 1) == 0]

    def truth(batch):
        return max(floor, fixed + each * batch, fixed - 300 + (each + bend) * batch)

    predict = None if scale is None else lambda batch: int(truth(batch) * scale)
    found, tried = run(truth, limit=limit, predict=predict, grid=grid, pin_bytes=pin_bytes)
    check(found, tried, truth, limit, batches)
    assert set(tried) <= set(batches)


def test_a_maximum_that_runs_is_not_called_proved():
    """Nothing after it was tried: the record says so."""
    found, tried = run(line(10, 1), limit=1000, predict=line(10, 1), grid=Grid(max_batch=37))
    assert found.best.batch == 37
    assert found.worst is None
    assert not found.is_proved
    assert tried == [37]


def test_memory_that_never_grows_ends_at_the_most():
    """A step that needs no memory does not search for ever."""
    found, tried = run(lambda _batch: 5, limit=1000)
    assert found.best.batch == MOST
    assert len(tried) <= 20


def test_when_nothing_fits_the_smallest_was_tried():
    """Never an answer without a try, not even "none"."""
    for predict in (None, line(5000, 1), line(1, 1)):
        found, tried = run(line(2000, 10), limit=1999, predict=predict)
        assert found.best is None
        assert found.worst.batch == 1
        assert 1 in tried


@pytest.mark.parametrize("outcome", ["crashed", "killed", "timeout"])
def test_every_kind_of_failure_bounds_the_search(outcome):
    """But a batch that was too slow is no proof that it does not fit."""
    found, _tried = run(line(100, 10), limit=500, outcome=outcome)
    assert found.best.batch == 40
    assert found.worst == Try(batch=41, outcome=outcome)
    assert found.is_proved == (outcome != "timeout")


def test_the_notebooks_search_is_found_in_a_fraction_of_its_tries():
    """389 of 4096: the notebook took 12 tries with 8 out-of-memory, accelerate 24 with 23 (memory.md)."""
    mib = 1 << 20
    truth = line(int(400 * mib), 101 * mib)
    found, tried = run(truth, limit=39_800 * mib, predict=lambda b: int(truth(b) * 0.994), grid=Grid(max_batch=4096))
    assert found.best.batch == (39_800 - 400) // 101 == 390
    assert len(tried) <= 4
    assert sum(truth(batch) > 39_800 * mib for batch in tried) <= 2


@pytest.mark.parametrize(
    "fields",
    [
        {"max_batch": 0},
        {"multiple_of": 0},
        {"kind": "power-of-two", "multiple_of": 8},
        {"multiple_of": 9, "max_batch": 8},
    ],
)
def test_a_grid_without_a_batch_is_bad_input(fields):
    """Refused when it is made, exit code 2."""
    with pytest.raises(InputError):
        Grid(**fields)
