"""fw.Meter against truth written by hand, on a clock that only tests move."""

import pytest

import flopwatch as fw
from flopwatch.errors import InputError
from meter_clock import LINEAR, PAIR, Clock, make_meter, run_steps

FLOPS_PER_TOKEN = LINEAR + 5 * PAIR  # in sequences of 5 tokens each query sees 5 keys


def test_a_plain_loop():
    """35 tokens each 0.5 s: 70 tokens/s, times the FLOPs of a token, over 1 GFLOP/s."""
    clock = Clock()
    meter = make_meter(clock)
    found = run_steps(meter, clock, [0.5] * 4)
    assert found == pytest.approx(
        {
            "perf/step_s": 0.5,
            "perf/tokens_per_s": 70,
            "perf/tokens_per_s_per_device": 70,
            "perf/model_flops_per_s_per_device": 70 * FLOPS_PER_TOKEN,
            "perf/mfu": 70 * FLOPS_PER_TOKEN / 1e9,
            "perf/hfu": 70 * FLOPS_PER_TOKEN / 1e9,
            "perf/goodput": 1.0,
        },
        rel=1e-12,
    )
    assert found == meter.metrics()


def test_sequences_are_tokens_of_the_meters_length():
    """7 sequences of 5 tokens are 35 tokens; 3 of 9 tokens see 9 keys each."""
    clock = Clock()
    meter = make_meter(clock)
    clock.pass_s(1)
    meter.step(sequences=7)
    clock.pass_s(1)
    found = meter.step(tokens=27, sequences=3)
    flops = 35 * FLOPS_PER_TOKEN + 27 * (LINEAR + 9 * PAIR)
    assert found["perf/tokens_per_s"] == pytest.approx((35 + 27) / 2)
    assert found["perf/mfu"] == pytest.approx(flops / 2 / 1e9, rel=1e-12)


def test_accumulation_of_four_micro_batches_is_one_step():
    """Four micro-batches of 0.25 s and the optimizer's 0.1 s: one step of 1.1 s with the tokens of all four."""
    clock = Clock()
    meter = make_meter(clock)
    for _ in range(3):
        for tokens in (5, 10, 15, 25):
            clock.pass_s(0.25)
            meter.add(tokens=tokens)
        clock.pass_s(0.1)
        found = meter.step()
    assert meter.n_steps == 3
    assert found["perf/step_s"] == pytest.approx(1.1)
    assert found["perf/tokens_per_s"] == pytest.approx(55 / 1.1)
    assert found["perf/mfu"] == pytest.approx(55 * FLOPS_PER_TOKEN / 1.1 / 1e9, rel=1e-12)


def test_the_last_micro_batch_may_come_with_the_step():
    """add, add, step(tokens) is three micro-batches."""
    clock = Clock()
    meter = make_meter(clock)
    meter.add(tokens=5)
    meter.add(sequences=2)
    clock.pass_s(2)
    assert meter.step(tokens=15)["perf/tokens_per_s"] == pytest.approx(30 / 2)


def test_variable_lengths_cost_the_sum_of_their_squares():
    """Lengths 3, 11, 20: 34 tokens, and 9 + 121 + 400 pairs."""
    clock = Clock()
    meter = make_meter(clock)
    clock.pass_s(0.25)
    found = meter.step(lengths=[3, 11, 20])
    assert found["perf/tokens_per_s"] == pytest.approx(34 * 4)
    assert found["perf/mfu"] == pytest.approx((34 * LINEAR + 530 * PAIR) * 4 / 1e9, rel=1e-12)


def test_padding_is_work_for_the_hardware_and_not_for_the_model():
    """Lengths 3, 11, 20 padded to 20: the model's 530 pairs, the hardware's 60 tokens with 20 keys each."""
    clock = Clock()
    meter = make_meter(clock)
    clock.pass_s(0.25)
    found = meter.step(lengths=[3, 11, 20], padded_to=20)
    assert found["perf/tokens_per_s"] == pytest.approx(34 * 4)
    assert found["perf/mfu"] == pytest.approx((34 * LINEAR + 530 * PAIR) * 4 / 1e9, rel=1e-12)
    assert found["perf/hfu"] == pytest.approx(60 * (LINEAR + 20 * PAIR) * 4 / 1e9, rel=1e-12)


def test_packed_documents_cost_less_than_the_row_they_fill():
    """A row of 90 tokens: documents of 13, 27 and 50 have 3398 pairs, one sequence of 90 would have 8100."""
    clock = Clock()
    meter = make_meter(clock, window_steps=1)
    clock.pass_s(1)
    packed = meter.step(lengths=[13, 27, 50])
    clock.pass_s(1)
    whole = meter.step(tokens=90, sequences=1)
    assert packed["perf/mfu"] == pytest.approx((90 * LINEAR + 3398 * PAIR) / 1e9, rel=1e-12)
    assert whole["perf/mfu"] == pytest.approx((90 * LINEAR + 8100 * PAIR) / 1e9, rel=1e-12)


def test_an_evaluation_is_kept_out_of_the_rates_and_shows_in_the_goodput():
    """Ten steps of 1 s with 6 s of evaluation and 4 s of a checkpoint between them: 1 s a step, goodput 10/20."""
    clock = Clock()
    meter = make_meter(clock)
    for step in range(10):
        clock.pass_s(0.75)
        if step == 3:
            with meter.pause("eval"):
                clock.pass_s(2)
                with meter.pause("save"):
                    clock.pass_s(4)
        clock.pass_s(0.25)
        found = meter.step(tokens=35)
        if step in {6, 8}:
            clock.pass_s(2)
            meter.skip("save")
    assert found["perf/step_s"] == pytest.approx(1)
    assert found["perf/tokens_per_s"] == pytest.approx(35)
    assert found["perf/goodput"] == pytest.approx(10 / 20)
    summary = meter.summary()
    assert summary["perf/paused_s/eval"] == pytest.approx(6)  # the checkpoint within it belongs to it
    assert summary["perf/paused_s/save"] == pytest.approx(4)
    assert summary["perf/paused_s"] == pytest.approx(10)
    assert summary["perf/step_s"] == pytest.approx(1)


def test_a_pause_that_raises_is_still_a_pause():
    """The time until the error is kept out, and the next step counts again."""
    clock = Clock()
    meter = make_meter(clock)

    def fail():
        with meter.pause("eval"):
            clock.pass_s(3)
            raise KeyError("in the evaluation")

    with pytest.raises(KeyError):
        fail()
    clock.pass_s(1)
    assert meter.step(tokens=35)["perf/step_s"] == pytest.approx(1)


def test_a_window_shows_the_latest_steps_and_the_summary_all_of_them():
    """Four steps of 1 s, then three of 2 s in a window of three: 2 s a step; 10 s over 7 steps in all."""
    clock = Clock()
    meter = make_meter(clock, window_steps=3)
    found = run_steps(meter, clock, (1, 1, 1, 1, 2, 2, 2))
    assert found["perf/step_s"] == pytest.approx(2)
    summary = meter.summary()
    assert summary["perf/step_s"] == pytest.approx(10 / 7)
    assert summary["perf/n_steps"] == 7


def test_warm_up_ends_when_two_steps_are_not_much_faster_than_all_before():
    """30 s of compiling, 4 s, then steps of 1 s: five steps of warm-up, which the goodput shows."""
    clock = Clock()
    meter = make_meter(clock, warmup_steps=None)
    seen = []
    for seconds in (30, 4, 1, 1.1, 1.05, 1, 1):
        clock.pass_s(seconds)
        seen.append(meter.step(tokens=35))
    assert [bool(found) for found in seen] == [False] * 5 + [True] * 2
    assert seen[-1]["perf/step_s"] == pytest.approx(1)
    assert seen[-1]["perf/goodput"] == pytest.approx(2 / (30 + 4 + 1 + 1.1 + 1.05 + 2))
    summary = meter.summary()
    assert summary["perf/n_warmup_steps"] == 5
    assert summary["perf/warmup_s"] == pytest.approx(37.15)
    assert not meter.notes


def test_warm_up_of_batches_of_all_lengths_goes_by_their_tokens():
    """1 s for 10 tokens, 3 s for 30, 2 s for 20 are alike: 0.1 s a token."""
    clock = Clock()
    meter = make_meter(clock, warmup_steps=None)
    for tokens in (10, 30, 20):
        clock.pass_s(tokens / 10)
        meter.step(tokens=tokens)
    assert meter.is_warm


def test_a_loop_that_goes_on_getting_faster_is_counted_after_thirty_steps_and_says_so():
    """Each step takes 0.7 of the one before."""
    clock = Clock()
    meter = make_meter(clock, warmup_steps=None)
    assert run_steps(meter, clock, [0.7**step for step in range(29)]) == {}
    clock.pass_s(0.7**29)
    with pytest.warns(fw.MeterWarning, match="30 warm-up steps went on getting faster"):
        meter.step(tokens=35)
    assert meter.is_warm


def test_a_noisy_loop_is_not_taken_for_one_that_warms_up():
    """Steps of 1 s and 3 s in turn: the third begins no new record."""
    clock = Clock()
    meter = make_meter(clock, warmup_steps=None)
    run_steps(meter, clock, (1, 3, 1))
    assert meter.is_warm


def test_launches_that_run_ahead_of_the_device_are_warm_up():
    """On a GPU the first steps only queue work: 10 ms each, until the queue is full and steps take their 100 ms."""
    clock = Clock()
    meter = make_meter(clock, warmup_steps=None)
    run_steps(meter, clock, (3, 0.01, 0.1, 0.1))
    assert run_steps(meter, clock, (0.1,) * 5)["perf/step_s"] == pytest.approx(0.1)


def test_a_fixed_warm_up_is_as_long_as_told():
    """Two steps, whatever they take."""
    clock = Clock()
    meter = make_meter(clock, warmup_steps=2)
    for seconds in (9, 7):
        clock.pass_s(seconds)
        assert meter.step(tokens=35) == {}
        assert "warming up" in meter.line()
    clock.pass_s(1)
    assert meter.step(tokens=35)["perf/step_s"] == pytest.approx(1)


def test_recomputation_is_work_for_the_hardware():
    """Every layer forward again but its last matmul (6 x 24 weights a layer): early stop, as torch checkpoints."""
    clock = Clock()
    meter = make_meter(clock, recompute="full")
    clock.pass_s(1)
    found = meter.step(tokens=35)
    again = 2 * 2 * (4 * 36 + 144) + 5 * PAIR / 3
    assert found["perf/mfu"] == pytest.approx(35 * FLOPS_PER_TOKEN / 1e9, rel=1e-12)
    assert found["perf/hfu"] == pytest.approx(35 * (FLOPS_PER_TOKEN + again) / 1e9, rel=1e-12)


def test_a_flash_kernels_own_recomputation_is_work_for_the_hardware():
    """The scores once more: 2 layers x 2 FLOPs x width 6 a pair."""
    clock = Clock()
    meter = make_meter(clock, uses_flash=True)
    clock.pass_s(1)
    found = meter.step(lengths=[3, 20])
    model = 23 * LINEAR + 409 * PAIR
    assert found["perf/mfu"] == pytest.approx(model / 1e9, rel=1e-12)
    assert found["perf/hfu"] == pytest.approx((model + 409 * 2 * 2 * 6) / 1e9, rel=1e-12)


def test_start_forgets_what_was_before():
    """A meter that was made long before the loop."""
    clock = Clock()
    meter = make_meter(clock)
    clock.pass_s(100)
    meter.step(tokens=35)
    clock.pass_s(100)
    meter.start()
    clock.pass_s(1)
    assert meter.step(tokens=35)["perf/step_s"] == pytest.approx(1)
    assert meter.summary()["perf/n_steps"] == 1


def test_a_traced_number_can_stand_in_for_a_model():
    """7000 FLOPs a token of 5, of them 100 a pair: 6500 + 100 x length for any other length."""
    clock = Clock()
    meter = fw.Meter(
        flops_per_token=7000,
        hardware_flops_per_token=8000,
        attention_flops_per_pair=100,
        seq_len=5,
        peak_flops_per_s=1e9,
        warmup_steps=0,
        window_steps=1,
        clock=clock,
    )
    clock.pass_s(1)
    found = meter.step(tokens=35)
    assert found["perf/mfu"] == pytest.approx(35 * 7000 / 1e9)
    assert found["perf/hfu"] == pytest.approx(35 * 8000 / 1e9)
    clock.pass_s(1)
    assert meter.step(lengths=[3, 20])["perf/mfu"] == pytest.approx((23 * 6500 + 100 * 409) / 1e9)


def test_without_a_model_there_are_tokens_and_no_guess():
    """No FLOPs, no MFU, and the reason."""
    clock = Clock()
    meter = fw.Meter(peak_flops_per_s=1e9, warmup_steps=0, clock=clock)
    clock.pass_s(2)
    found = meter.step(lengths=[3, 7])
    assert found["perf/tokens_per_s"] == 5
    assert not {"perf/mfu", "perf/hfu", "perf/model_flops_per_s_per_device"} & found.keys()
    assert meter.why_no_mfu == "no model and no flops_per_token was given"
    assert meter.line().startswith("step 1: 2.00 s, 5 tokens/s, mfu n/a (no model and no flops_per_token was given)")


def test_the_line_names_what_the_percentage_is_of():
    """As nanoGPT prints it, and the denominator with its source."""
    clock = Clock()
    meter = make_meter(clock, peak_flops_per_s=1e9, dtype="fp32")
    clock.pass_s(0.5)
    meter.step(tokens=3500)
    share = 100 * 7000 * FLOPS_PER_TOKEN / 1e9
    assert meter.line() == (
        f"step 1: 500 ms, 7,000 tokens/s, mfu {share:.2f} % of 1.000 GFLOP/s (fp32, given), goodput 100.0 %"
    )


def test_a_named_device_gives_its_published_peak():
    """A100: 312 TFLOP/s dense in bf16, from its datasheet."""
    clock = Clock()
    meter = make_meter(clock, device="A100 SXM4 80GB", peak_flops_per_s=None)
    clock.pass_s(0.5)
    assert meter.step(tokens=35)["perf/mfu"] == pytest.approx(70 * FLOPS_PER_TOKEN / 312e12, rel=1e-12)
    assert meter.why_no_mfu is None


def test_a_device_without_a_published_peak_gives_the_reason_and_no_mfu():
    """A CPU's peak is not known: the rate stands, the share has no key."""
    clock = Clock()
    meter = make_meter(clock, device="cpu", peak_flops_per_s=None)
    clock.pass_s(0.5)
    found = meter.step(tokens=35)
    assert "perf/mfu" not in found
    assert found["perf/model_flops_per_s_per_device"] == pytest.approx(70 * FLOPS_PER_TOKEN)
    assert "clock under load" in meter.why_no_mfu
    assert "peak_flops_per_s" in meter.why_no_mfu
    assert "mfu n/a (a CPU's peak" in meter.line()
    assert "mfu n/a, goodput" in meter.line()  # the reason is told once


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"peak_flops_per_s": 312}, "is 312e12 meant"),
        ({"peak_flops_per_s": float("inf")}, "not above zero"),
        ({"dtype": "bfloat16"}, "no dtype"),
        ({"device": "A1000000", "peak_flops_per_s": None}, "no device is called"),
        ({"seq_len": 101}, "longer than the context"),
        ({"seq_len": 0}, "no length"),
        ({"window_steps": 0}, "no numbers of steps"),
        ({"recompute": "some"}, "does not say what recompute some costs"),
        ({"flops_per_token": 5.0}, "both say the FLOPs"),
        ({"attention_flops_per_pair": 5.0}, "without flops_per_token"),
        ({"n_devices": 0}, "n_devices=0"),
    ],
)
def test_what_cannot_be_honoured_is_refused_when_the_meter_is_made(options, text):
    """Before the first step, not after the first hour."""
    with pytest.raises(InputError, match=text):
        make_meter(Clock(), **options)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ({"flops_per_token": 0}, "not above zero"),
        ({"flops_per_token": 10, "hardware_flops_per_token": 9}, "below flops_per_token"),
        ({"flops_per_token": 10, "attention_flops_per_pair": 1}, "without seq_len"),
        ({"flops_per_token": 10, "attention_flops_per_pair": 3, "seq_len": 4}, "is not within"),
        ({"flops_per_token": 10, "recompute": "full"}, "hardware_flops_per_token"),
        ({"flops_per_token": 10, "uses_flash": True}, "hardware_flops_per_token"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(numbers, text):
    """Each with the way out."""
    with pytest.raises(InputError, match=text):
        fw.Meter(peak_flops_per_s=1e9, **numbers)


@pytest.mark.parametrize(
    ("options", "work", "text"),
    [
        ({}, {}, "a step without tokens"),
        ({}, {"tokens": -1}, "tokens=-1"),
        ({}, {"tokens": 3.5}, "tokens=3.5"),
        ({}, {"tokens": True}, "tokens=True"),
        ({}, {"tokens": 7, "sequences": 2}, "not of one length"),
        ({}, {"tokens": 7, "lengths": [7]}, "give one of them"),
        ({}, {"tokens": 7, "padded_to": 9}, "hides the padding"),
        ({}, {"lengths": [3, 0]}, "0 is no length"),
        ({}, {"lengths": [3, 9], "padded_to": 8}, "shorter than 9"),
        ({"seq_len": None}, {"tokens": 7}, "no known length"),
        ({"seq_len": None}, {"sequences": 7}, "no known length"),
    ],
)
def test_work_that_cannot_be_counted_is_refused(options, work, text):
    """With the value and the remedy; the step is not half counted."""
    meter = make_meter(Clock(), **options)
    with pytest.raises(InputError, match=text):
        meter.step(**work)
    assert meter.n_steps == 0


def test_one_number_a_token_says_nothing_about_other_lengths():
    """Attention grows with the square of the length, and how much of the number is attention is not known."""
    meter = fw.Meter(flops_per_token=7000, seq_len=5, peak_flops_per_s=1e9, clock=Clock())
    with pytest.raises(InputError, match="attention_flops_per_pair"):
        meter.step(lengths=[3])


def test_skip_in_the_middle_of_a_step_is_refused():
    """The micro-batch's time would be lost and its tokens kept."""
    meter = make_meter(Clock())
    meter.add(tokens=5)
    with pytest.raises(InputError, match="in the middle of a step"):
        meter.skip("eval")
