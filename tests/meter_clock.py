"""A clock that tests move by hand, and a network small enough to count by hand."""

import flopwatch as fw

# 2 layers of width 6 with 3 heads of 2, FFN 24, vocabulary 7. Weights in matmuls: 2 * (4 * 36 + 2 * 144) + 42 = 906.
SPEC = fw.ModelSpec(name="tiny", n_layers=2, d_model=6, n_heads=3, vocab_size=7, max_seq_len=100)
LINEAR = 6 * 906  # FLOPs of a training step for a token: forward 2, backward 4 a weight
PAIR = 3 * 2 * (2 * 6 + 2 * 6)  # training x layers x (scores and values, 2 FLOPs x width 6) a (query, key) pair


class Clock:
    """Seconds that pass only when told."""

    def __init__(self, now_s=1000.0):
        self.now_s = now_s

    def __call__(self):
        return self.now_s

    def pass_s(self, seconds):
        self.now_s += seconds


def make_meter(clock, **options):
    """A meter of SPEC over a peak of 1 GFLOP/s without warm-up, unless told otherwise."""
    defaults = {"seq_len": 5, "peak_flops_per_s": 1e9, "warmup_steps": 0, "window_steps": 1000, "clock": clock}
    return fw.Meter(SPEC, **{**defaults, **options})


def run_steps(meter, clock, steps_s, *, tokens=35):
    """One step of `tokens` for each of the durations; what the last one gave."""
    found = {}
    for seconds in steps_s:
        clock.pass_s(seconds)
        found = meter.step(tokens=tokens)
    return found
