"""A real Lightning Trainer with the callback: its logged figures against the test's own clock and FLOPs by hand."""

import csv
import time
import warnings

import pytest
import torch
from torch.nn import functional as F

import flopwatch as fw

lightning = pytest.importorskip("lightning.pytorch")
from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402 - only where lightning is installed
from lightning.pytorch.loggers import CSVLogger  # noqa: E402

from flopwatch.integrations.lightning import MeterCallback  # noqa: E402

WIDTH, VOCABULARY, LENGTH, N_SEQUENCES, N_ACCUMULATE = 33, 97, 31, 4, 2
PEAK = 1e11
# An embedding, one hidden layer and a head: 6 FLOPs a weight in matmuls and token, no attention.
FLOPS_PER_TOKEN = 6 * (WIDTH * 2 * WIDTH + 2 * WIDTH * VOCABULARY)
WARNINGS = pytest.mark.filterwarnings(
    "ignore:The .* does not have many workers.*",
    "ignore:You defined a `validation_step` but have no.*",
    "ignore:.*isinstance.treespec, LeafSpec.*",
)


class Tiny(lightning.LightningModule):
    """The next token from the one before it."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Embedding(VOCABULARY, WIDTH),
            torch.nn.Linear(WIDTH, 2 * WIDTH),
            torch.nn.GELU(),
            torch.nn.Linear(2 * WIDTH, VOCABULARY),
        )

    def training_step(self, batch, index):
        time.sleep(0.01)
        return F.cross_entropy(self.layers(batch).flatten(0, 1), batch.flatten())

    def validation_step(self, batch, index):
        time.sleep(0.01)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class OwnClock(lightning.Callback):
    """When each batch ended and the next began, and how long validation took, by a clock of the test's own."""

    def __init__(self):
        self.ended_s = []
        self.paused_s = []

    def on_train_start(self, *_):
        self._began_s = time.perf_counter()
        self.ended_s.append(self._began_s)

    def on_train_batch_end(self, *_):
        self.ended_s.append(time.perf_counter())

    def on_validation_start(self, *_):
        self._began_s = time.perf_counter()

    def on_validation_end(self, *_):
        self.paused_s.append(time.perf_counter() - self._began_s)


def make_trainer(folder, *callbacks, **options):
    """A quiet Trainer of 12 batches, two to a step, that validates after the 8th and logs every third step."""
    arguments = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "limit_train_batches": 12,
        "val_check_interval": 8,
        "limit_val_batches": 3,
        "accumulate_grad_batches": N_ACCUMULATE,
        "log_every_n_steps": 3,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        "logger": CSVLogger(folder, name="", version=""),
        **options,
    }
    return lightning.Trainer(callbacks=list(callbacks), default_root_dir=folder, **arguments)


def make_loader():
    """Batches of random tokens."""
    ids = torch.randint(VOCABULARY, (96, LENGTH), generator=torch.Generator().manual_seed(0))
    return torch.utils.data.DataLoader(ids, batch_size=N_SEQUENCES)


@pytest.mark.slow
@WARNINGS
def test_a_trainer_logs_the_mfu_that_a_clock_of_ones_own_gives(tmp_path):
    """Six steps of two batches; the validation between the fourth and the fifth is kept out."""
    before, behind = OwnClock(), OwnClock()
    meter = MeterCallback(flops_per_token=FLOPS_PER_TOKEN, peak_flops_per_s=PEAK, warmup_steps=1, window_steps=4)
    trainer = make_trainer(tmp_path, before, meter, behind)
    trainer.fit(Tiny(), make_loader(), make_loader())
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [2, 5]
    n_tokens = N_ACCUMULATE * N_SEQUENCES * LENGTH
    for row, first, last, paused_s in ((rows[0], 1, 3, 0.0), (rows[1], 2, 6, before.paused_s[-1])):
        least_s = before.ended_s[2 * last] - behind.ended_s[2 * first] - paused_s
        most_s = behind.ended_s[2 * last] - before.ended_s[2 * first] - paused_s
        flops = n_tokens * (last - first) * FLOPS_PER_TOKEN
        assert 0.99 * flops / most_s / PEAK <= float(row["perf/mfu"]) <= 1.01 * flops / least_s / PEAK
    assert float(rows[1]["perf/mfu"]) == pytest.approx(meter.meter.metrics()["perf/mfu"], rel=0.01)
    assert meter.meter.summary()["perf/paused_s/eval"] == pytest.approx(sum(before.paused_s[1:]), rel=0.1)
    assert before.paused_s[0] > 0.015  # the check before training, which is no pause of it


@pytest.mark.slow
@WARNINGS
def test_a_checkpoint_is_a_pause(tmp_path, monkeypatch):
    """On a clock that moves by 1 s a batch and 50 s a save: two saves, in the middle and at the end of validation."""
    now_s = 0.0

    def pass_time(seconds):
        nonlocal now_s
        now_s += seconds

    class Clocked(Tiny):
        def training_step(self, batch, index):
            pass_time(1.0)
            return super().training_step(batch, index)

    save = lightning.Trainer.save_checkpoint

    def slow_save(*args, **kwargs):
        save(*args, **kwargs)
        pass_time(50.0)

    monkeypatch.setattr(lightning.Trainer, "save_checkpoint", slow_save)
    options = {"flops_per_token": FLOPS_PER_TOKEN, "peak_flops_per_s": PEAK, "warmup_steps": 0}
    meter = MeterCallback(**options, clock=lambda: now_s)
    checkpoint = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=2, save_top_k=-1)
    trainer = make_trainer(tmp_path, meter, checkpoint, limit_train_batches=10)
    trainer.fit(Clocked(), make_loader(), make_loader())
    summary = meter.meter.summary()
    assert summary["perf/paused_s/save"] == 100.0
    assert summary["perf/step_s"] == N_ACCUMULATE


@pytest.mark.slow
@WARNINGS
def test_a_batch_of_another_form_is_counted_by_the_users_function(tmp_path):
    """Pairs of floats and labels; two tokens a row, says the user."""
    meter = MeterCallback(
        flops_per_token=7e6, peak_flops_per_s=1e15, warmup_steps=0, count=lambda batch: {"tokens": 2 * len(batch)}
    )
    trainer = make_trainer(tmp_path, meter, limit_val_batches=0)
    trainer.fit(Tiny(), make_loader())
    summary = meter.meter.summary()
    assert summary["perf/tokens_per_s"] * summary["perf/step_s"] == pytest.approx(2 * N_SEQUENCES * N_ACCUMULATE)


@pytest.mark.slow
@WARNINGS
def test_a_batch_without_token_ids_is_refused_with_the_option_that_helps(tmp_path):
    """At the first batch, not after the first hour."""
    floats = torch.utils.data.DataLoader([(torch.zeros(3), torch.zeros(3))] * 40, batch_size=2)

    class OnFloats(Tiny):
        def training_step(self, batch, index):
            return self.layers[1].weight.sum()

    trainer = make_trainer(tmp_path, MeterCallback(), limit_val_batches=0)
    with pytest.raises(fw.FlopwatchError, match=r"no token ids .* give the callback count="):
        trainer.fit(OnFloats(), floats)


@pytest.mark.parametrize(
    ("batch", "tokens"),
    [
        ({"pixels": torch.zeros(2, 9), "input_ids": torch.zeros(3, 7, dtype=torch.int64)}, 21),
        ((torch.zeros(5, 5), torch.zeros(3, 11, dtype=torch.int32)), 33),
        (torch.zeros(2, 13, dtype=torch.int64), 26),
    ],
)
def test_tokens_are_counted_by_the_shape_of_the_token_ids(batch, tokens):
    """A dict by its input_ids, else the first tensor of whole numbers with two dimensions."""
    from flopwatch.integrations.lightning import _by_shape

    meter = fw.Meter("gpt-small", peak_flops_per_s=1e15)
    assert _by_shape(batch, meter)["tokens"] == tokens


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("32-true", "fp32"), ("bf16-mixed", "bf16"), ("16-mixed", "fp16"), ("bf16-true", "bf16"), ("64-true", "fp64")],
)
def test_the_dtype_follows_the_trainers_precision(precision, dtype):
    """The peak is the one of what autocast or the weights are in."""
    from flopwatch.integrations.lightning import _dtype

    class Trainer:
        pass

    trainer = Trainer()
    trainer.precision = precision
    assert _dtype(trainer) == dtype


@pytest.mark.slow
@WARNINGS
def test_frozen_weights_of_a_named_model_are_warned_of(tmp_path):
    """The name says that all are trained."""
    module = Tiny()
    module.layers[0].weight.requires_grad_(False)
    trainer = make_trainer(tmp_path, MeterCallback("gpt-small", seq_len=LENGTH), limit_val_batches=0)
    with pytest.warns(fw.MeterWarning, match=f"^{VOCABULARY * WIDTH:,} of .* parameters are not trained"):
        trainer.fit(module, make_loader())


class OnIds(Tiny):
    """Tiny on the token ids of a batch that is a dict."""

    def training_step(self, batch, index):
        return super().training_step(batch["input_ids"], index)


def make_dicts(**more):
    """Batches of token ids and what stands beside them."""
    rows = [{"input_ids": row, **more} for row in torch.randint(VOCABULARY, (96, LENGTH))]
    return torch.utils.data.DataLoader(rows, batch_size=N_SEQUENCES)


@pytest.mark.slow
@WARNINGS
def test_padding_that_counts_as_tokens_is_warned_of_once(tmp_path):
    """Rows of 31 of which 5 are padding."""
    callback = MeterCallback(flops_per_token=FLOPS_PER_TOKEN, peak_flops_per_s=PEAK)
    trainer = make_trainer(tmp_path, callback, limit_val_batches=0)
    with pytest.warns(fw.MeterWarning, match=r"^16.1 % of the positions are padding"):
        trainer.fit(OnIds(), make_dicts(attention_mask=(torch.arange(LENGTH) < LENGTH - 5).long()))
    assert len(callback.meter.notes) == 1


@pytest.mark.slow
@WARNINGS
def test_packed_rows_are_not_taken_for_one_long_sequence(tmp_path):
    """Positions that begin anew, and no mask: no MFU, and the way to give the lengths."""
    callback = MeterCallback("gpt-small", peak_flops_per_s=1e15, warmup_steps=0)
    trainer = make_trainer(tmp_path, callback, limit_val_batches=0)
    trainer.fit(OnIds(), make_dicts(position_ids=torch.arange(LENGTH) % 7))
    assert "perf/mfu" not in callback.meter.metrics()
    assert "give count=" in callback.meter.why_no_mfu


class Saving(lightning.Callback):
    """Writes a checkpoint at the end of every third batch."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx % 3 == 0:
            trainer.save_checkpoint(f"{trainer.default_root_dir}/third.ckpt")


@pytest.mark.slow
@WARNINGS
def test_a_checkpoint_within_a_batch_loses_no_step(tmp_path):
    """Twelve steps of one batch; a callback that stands before this one saves in four of them."""
    callback = MeterCallback(flops_per_token=FLOPS_PER_TOKEN, peak_flops_per_s=PEAK, warmup_steps=0)
    trainer = make_trainer(tmp_path, Saving(), callback, limit_val_batches=0, accumulate_grad_batches=1)
    with pytest.warns(fw.MeterWarning, match="^a checkpoint was written within a batch: its time counts as training"):
        trainer.fit(Tiny(), make_loader())
    assert len(callback.meter.notes) == 1
    assert callback.meter.n_steps == 12
    behind = MeterCallback(flops_per_token=FLOPS_PER_TOKEN, peak_flops_per_s=PEAK, warmup_steps=0)
    make_trainer(tmp_path / "behind", behind, Saving(), limit_val_batches=0, accumulate_grad_batches=1).fit(
        Tiny(), make_loader()
    )
    assert behind.meter.notes == []
    assert behind.meter.n_steps == 12
    assert behind.meter.summary()["perf/paused_s/save"] > 0


@pytest.mark.slow
@WARNINGS
def test_the_dtype_that_is_given_is_not_looked_for(tmp_path):
    """The hint of the refusal helps."""
    for options in ({}, {"dtype": "fp8"}):
        callback = MeterCallback(flops_per_token=FLOPS_PER_TOKEN, peak_flops_per_s=PEAK, **options)
        trainer = make_trainer(tmp_path, callback, limit_val_batches=0)
        trainer.strategy.precision_plugin.precision = "nf4"
        if options:
            trainer.fit(Tiny(), make_loader())
            assert "fp8" in callback.meter.peak.source
        else:
            with pytest.raises(fw.FlopwatchError, match="'nf4' has no known dtype; give the callback dtype="):
                trainer.fit(Tiny(), make_loader())


@pytest.mark.slow
@WARNINGS
def test_layers_that_are_computed_again_are_warned_of_unless_they_are_counted(tmp_path):
    """A transformers model within the module, told to checkpoint its activations, marks its layers so."""
    for options, n_told in (({}, 1), ({"hardware_flops_per_token": 8e6}, 0)):
        module = Tiny()
        module.layers[1].gradient_checkpointing = True
        callback = MeterCallback(flops_per_token=7e6, peak_flops_per_s=1e15, **options)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", fw.MeterWarning)
            make_trainer(tmp_path / str(n_told), callback, limit_val_batches=0).fit(module, make_loader())
        told = [str(warning.message) for warning in caught if issubclass(warning.category, fw.MeterWarning)]
        assert len(told) == n_told
        assert all(text.startswith("layers are computed again") for text in told)
