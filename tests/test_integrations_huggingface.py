"""A real Hugging Face Trainer with the callback: its logged figures against the test's own clock and FLOPs by hand."""

import subprocess
import sys
import time
import warnings

import pytest
import torch

import flopwatch as fw

transformers = pytest.importorskip("transformers")
from flopwatch.integrations import huggingface  # noqa: E402 - only where transformers is installed

N_LAYERS, WIDTH, VOCABULARY, LENGTH = 3, 36, 97, 31
N_SEQUENCES, N_ACCUMULATE = 2, 3
PEAK = 1e11
CHECKPOINTING = next(  # renamed in transformers 5
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in transformers.TrainingArguments.__dataclass_fields__
)
# 6 FLOPs a weight in matmuls (12 d^2 a layer, the head) and token, 12 L d T of attention.
FLOPS_PER_TOKEN = 6 * (N_LAYERS * 12 * WIDTH**2 + WIDTH * VOCABULARY) + 12 * N_LAYERS * WIDTH * LENGTH


def make_model(kind=transformers.GPT2LMHeadModel, **fields):
    """GPT-2, tiny, with random weights."""
    config = transformers.GPT2Config(
        n_layer=N_LAYERS, n_embd=WIDTH, n_head=3, vocab_size=VOCABULARY, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    config.update({"pad_token_id": 0, **fields})
    return kind(config)


def make_trainer(model, folder, **options):
    """A quiet Trainer of 15 steps on random tokens, on the CPU."""
    ids = torch.randint(VOCABULARY, (90, LENGTH), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": row, "labels": row} for row in ids]
    arguments = {
        "output_dir": str(folder),
        "per_device_train_batch_size": N_SEQUENCES,
        "gradient_accumulation_steps": N_ACCUMULATE,
        "max_steps": 15,
        "logging_steps": 5,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        **options,
    }
    return transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(**arguments),
        train_dataset=rows,
        eval_dataset=rows[:12],
    )


class OwnClock(transformers.TrainerCallback):
    """When each step began and ended by a clock of the test's own; a step begins anew after evaluation and checkpoint.

    One stands before the callback under test and one behind it: what that one read lies between them, however long
    the machine does something else meanwhile.
    """

    def __init__(self):
        self.began_s = []
        self.ended_s = []

    def on_train_begin(self, *_, **__):
        self.began_s.append(time.perf_counter())

    def on_step_end(self, *_, **__):
        self.ended_s.append(time.perf_counter())
        self.began_s.append(self.ended_s[-1])

    def on_evaluate(self, *_, **__):
        self.began_s[-1] = time.perf_counter()

    def on_save(self, *_, **__):
        self.began_s[-1] = time.perf_counter()


class Reporter(transformers.TrainerCallback):
    """What a reporter such as TensorBoard sees."""

    def __init__(self):
        self.seen = []

    def on_log(self, args, state, control, logs=None, **_):
        self.seen.append(dict(logs))


@pytest.mark.slow
def test_a_trainer_logs_the_mfu_that_a_clock_of_ones_own_gives(tmp_path, capsys):
    """Window of 4 steps, an evaluation and a checkpoint after step 12 between the last log and the one before."""
    trainer = make_trainer(
        make_model(), tmp_path, eval_strategy="steps", eval_steps=12, save_strategy="steps", save_steps=12
    )
    reporter, before, behind = Reporter(), OwnClock(), OwnClock()
    trainer.add_callback(reporter)
    callback = huggingface.add_meter(trainer, peak_flops_per_s=PEAK, warmup_steps=2, window_steps=4)
    trainer.callback_handler.callbacks.insert(0, before)
    trainer.add_callback(behind)
    trainer.train()
    capsys.readouterr()
    logged = {row["step"]: row for row in trainer.state.log_history if "loss" in row}
    assert sorted(logged) == [5, 10, 15]
    for last, n_steps in ((5, 3), (10, 4), (15, 4)):
        steps = range(last - n_steps, last)
        least_s = sum(before.ended_s[i] - behind.began_s[i] for i in steps)
        most_s = sum(behind.ended_s[i] - before.began_s[i] for i in steps)
        n_tokens = n_steps * N_SEQUENCES * N_ACCUMULATE * LENGTH
        assert 0.99 * n_tokens / most_s <= logged[last]["perf/tokens_per_s"] <= 1.01 * n_tokens / least_s
        flops = n_tokens * FLOPS_PER_TOKEN
        assert 0.99 * flops / most_s / PEAK <= logged[last]["perf/mfu"] <= 1.01 * flops / least_s / PEAK
    assert logged[15]["perf/mfu"] == pytest.approx(callback.meter.metrics()["perf/mfu"], rel=0.01)
    assert [row["perf/mfu"] for row in reporter.seen if "loss" in row] == [row["perf/mfu"] for row in logged.values()]
    summary = callback.meter.summary()
    assert summary["perf/paused_s/eval"] > 0
    assert summary["perf/paused_s/save"] > 0
    assert not any("perf/mfu" in row for row in trainer.state.log_history if "eval_loss" in row)


class Failing(transformers.TrainerCallback):
    """Stops the first training after its second step."""

    has_failed = False

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 2 and not self.has_failed:
            self.has_failed = True
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_training_after_one_that_failed_counts_its_tokens_once(tmp_path):
    """2 x 3 sequences of 31 a step; no hook told that the first one was over."""
    trainer = make_trainer(make_model(), tmp_path, max_steps=4)
    trainer.add_callback(Failing())
    callback = huggingface.add_meter(trainer, peak_flops_per_s=PEAK, warmup_steps=0)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.train()
    summary = callback.meter.summary()
    assert summary["perf/tokens_per_s"] * summary["perf/step_s"] == pytest.approx(N_SEQUENCES * N_ACCUMULATE * LENGTH)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        ("classifier", "parameters and its config describes"),
        ("frozen", "parameters are not trained"),
    ],
)
def test_a_model_that_its_config_does_not_tell_of_has_tokens_and_no_mfu(tmp_path, capsys, make, reason):
    """Another head, or frozen weights: n/a with the reason, and training goes on."""
    model = make_model()
    if make == "frozen":
        model.transformer.wte.requires_grad_(False)
    else:
        model.adapter = torch.nn.Linear(5, 5)
    trainer = make_trainer(model, tmp_path, max_steps=3, logging_steps=3)
    callback = huggingface.MeterCallback(peak_flops_per_s=PEAK, warmup_steps=0)
    trainer.add_callback(callback)
    trainer.train()
    capsys.readouterr()
    (row,) = [row for row in trainer.state.log_history if "loss" in row]
    assert row["perf/tokens_per_s"] > 0
    assert "perf/mfu" not in row
    assert reason in callback.meter.why_no_mfu
    assert "flops_per_token" in callback.meter.why_no_mfu


def test_a_model_without_a_head_is_not_counted_with_the_one_that_its_config_ties():
    """As many parameters as with the head, whose table is the input's: embeddings trained on their own, say."""
    with pytest.raises(fw.FlopwatchError, match="GPT2Model has no output head"):
        huggingface.spec_of_model(make_model(transformers.GPT2Model))


def test_the_spec_of_a_model_is_the_one_of_its_config():
    """As many parameters as the model has: 2 tables, 3 layers, one norm."""
    spec = huggingface.spec_of_model(make_model())
    assert (spec.n_layers, spec.d_model, spec.vocab_size, spec.tied_head) == (N_LAYERS, WIDTH, VOCABULARY, True)


def test_a_module_without_a_config_says_so():
    """Any nn.Module can be given to a Trainer."""
    with pytest.raises(fw.FlopwatchError, match="Linear has no config"):
        huggingface.spec_of_model(torch.nn.Linear(3, 5))


def _watching(model, *, spec=None, **options):
    named = {} if spec is None else {"model": spec}
    callback = huggingface.MeterCallback(peak_flops_per_s=1e30, warmup_steps=0, **named, **options)
    arguments = transformers.TrainingArguments(output_dir="unused", use_cpu=True, report_to=[])
    callback.on_train_begin(arguments, None, None, model=model)
    return callback


@pytest.mark.parametrize("n_rows", [1, 3])
@pytest.mark.parametrize(
    "packed",
    [
        {"position_ids": torch.arange(LENGTH)[None]},
        {"cu_seq_lens_q": torch.arange(3)},
        {"attention_mask": torch.ones((1, 1, LENGTH, LENGTH))},
        {"attention_mask": {"full_attention": None}},
    ],
    ids=["positions", "offsets", "mask of pairs", "masks by layer"],
)
def test_packed_rows_are_not_taken_for_one_long_sequence(packed, n_rows, tmp_path, monkeypatch):
    """Their lengths are on the device: no MFU, and the way to give them."""
    monkeypatch.chdir(tmp_path)
    model = make_model().train()
    callback = _watching(model)
    ids = torch.zeros((n_rows, LENGTH), dtype=torch.int64)
    callback._see(model, (), {"input_ids": ids, **packed})
    callback.on_step_end(None, None, None)
    assert "perf/mfu" not in callback.meter.metrics()
    assert "give count=" in callback.meter.why_no_mfu
    counted = _watching(model, count=lambda inputs: {"lengths": [7, 24]})
    counted._see(model, (), {"input_ids": ids, **packed})
    counted.on_step_end(None, None, None)
    assert "perf/mfu" in counted.meter.metrics()


def test_a_mask_of_padding_is_no_packing(tmp_path, monkeypatch):
    """[sequences, length], with the positions beside it or not."""
    monkeypatch.chdir(tmp_path)
    model = make_model().train()
    callback = _watching(model)
    rows = {"input_ids": torch.zeros((2, LENGTH), dtype=torch.int64), "attention_mask": torch.ones((2, LENGTH))}
    callback._see(model, (), rows)
    callback._see(model, (), {**rows, "position_ids": torch.arange(LENGTH)[None]})
    callback.on_step_end(None, None, None)
    assert "perf/mfu" in callback.meter.metrics()


@pytest.mark.slow
def test_padding_that_counts_as_tokens_is_warned_of_once(tmp_path):
    """Rows of 31 of which 5 are padding: 16.1 % of the tokens/s are none; whoever gives the lengths is not told."""

    class Padded(torch.utils.data.Dataset):
        def __len__(self):
            return 90

        def __getitem__(self, n):
            ids = torch.full((LENGTH,), n % VOCABULARY)
            return {"input_ids": ids, "labels": ids, "attention_mask": (torch.arange(LENGTH) < LENGTH - 5).long()}

    for count, n_told in ((None, 1), (lambda _inputs: {"lengths": [LENGTH - 5] * N_SEQUENCES}, 0)):
        trainer = make_trainer(make_model(), tmp_path)
        trainer.train_dataset = Padded()
        callback = huggingface.add_meter(trainer, count=count, peak_flops_per_s=PEAK)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", fw.MeterWarning)
            trainer.train()
        told = [str(warning.message) for warning in caught if issubclass(warning.category, fw.MeterWarning)]
        assert len(told) == len(callback.meter.notes) == n_told
        assert all(text.startswith("16.1 % of the positions are padding") for text in told)


def test_an_evaluation_in_the_middle_of_a_step_is_a_pause(tmp_path, monkeypatch):
    """And does not end the training: 7 s between two micro-batches of 1 s each are none of the step's."""
    monkeypatch.chdir(tmp_path)
    now_s = [0.0]
    model = make_model().train()
    callback = _watching(model, clock=lambda: now_s[0])
    rows = {"input_ids": torch.zeros((2, LENGTH), dtype=torch.int64)}

    def forward(seconds):
        callback._see(model, (), rows)
        now_s[0] += seconds

    forward(1)
    model.eval()
    forward(3)
    forward(4)
    callback.on_evaluate(None, None, None)
    model.train()
    forward(1)
    callback.on_step_end(None, None, None)
    assert callback.meter.metrics()["perf/step_s"] == pytest.approx(2)
    assert callback.meter.summary()["perf/paused_s/eval"] == pytest.approx(7)


def test_text_that_a_callback_lets_the_model_write_is_a_pause(tmp_path, monkeypatch):
    """No hook tells of it but the model's own forward in eval mode; the next step's begins when it trains again."""
    monkeypatch.chdir(tmp_path)
    now_s = [0.0]
    model = make_model().train()
    callback = _watching(model, clock=lambda: now_s[0])
    rows = {"input_ids": torch.zeros((2, LENGTH), dtype=torch.int64)}
    for generates_s in (0, 5):
        model.eval()
        if generates_s:
            callback._see(model, (), rows)
            now_s[0] += generates_s
        model.train()
        callback._see(model, (), rows)
        now_s[0] += 1
        callback.on_step_end(None, None, None)
    assert callback.meter.metrics()["perf/step_s"] == pytest.approx(1)
    assert callback.meter.summary()["perf/paused_s"] == pytest.approx(5)


def test_frozen_weights_of_a_model_that_the_user_names_are_warned_of(tmp_path, monkeypatch):
    """The name says that all are trained: 97 x 36 of the embedding are not."""
    monkeypatch.chdir(tmp_path)
    model = make_model()
    spec = huggingface.spec_of_model(model)
    model.transformer.wte.weight.requires_grad_(False)
    with pytest.warns(fw.MeterWarning, match=f"^{VOCABULARY * WIDTH:,} of .* parameters are not trained"):
        callback = _watching(model, spec=spec)
    assert len(callback.meter.notes) == 1


@pytest.mark.parametrize("options", [{"uses_flash": True}, {"convention": "palm"}, {"recompute": "full"}])
def test_a_model_that_cannot_be_counted_trains_on_whatever_was_asked_of_its_count(options, tmp_path, monkeypatch):
    """n/a, and why."""
    monkeypatch.chdir(tmp_path)
    callback = _watching(make_model(transformers.GPT2ForSequenceClassification), **options)
    assert "parameters and its config describes" in callback.meter.why_no_mfu


@pytest.mark.parametrize(
    ("dtype", "device_type", "precision", "expected"),
    [
        ("fp32", "cuda", "tf32", "tf32"),
        ("fp32", "cuda", "ieee", "fp32"),
        ("fp32", "cpu", "tf32", "fp32"),
        ("bf16", "cuda", "tf32", "bf16"),
    ],
)
def test_fp32_matmuls_that_torch_runs_in_tf32_are_of_its_peak(dtype, device_type, precision, expected):
    """`torch.set_float32_matmul_precision("high")` makes an A100 8 times as fast: 156 of 19.5 TFLOP/s is no MFU."""
    from flopwatch.integrations.module import matmul_dtype

    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = precision
    try:
        assert matmul_dtype(dtype, device_type) == expected
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def test_an_evaluations_forwards_are_not_counted(tmp_path, monkeypatch):
    """The model says that it is not training."""
    monkeypatch.chdir(tmp_path)
    model = make_model().eval()
    callback = _watching(model)
    callback._see(model, (), {"input_ids": torch.zeros((2, LENGTH), dtype=torch.int64)})
    assert not callback.meter.has_work


@pytest.mark.parametrize(
    ("main", "inputs"),
    [
        ("input_ids", {"pixels": torch.zeros(3)}),
        ("pixel_values", {"pixel_values": torch.zeros(2, 3, 32, 32)}),
        ("input_features", {"input_features": torch.zeros(2, 80, 300)}),
        ("input_values", {"input_values": torch.zeros(2, 16_000)}),
    ],
    ids=["no main input", "images", "spectra", "sound"],
)
def test_inputs_without_token_ids_are_refused(main, inputs, tmp_path, monkeypatch):
    """With the option that tells how to count; channels, bins and samples are no tokens."""
    monkeypatch.chdir(tmp_path)
    model = make_model().train()
    model.main_input_name = main
    with pytest.raises(fw.FlopwatchError, match=f"no {main} of whole numbers .* give the callback count="):
        _watching(model)._see(model, (), inputs)


@pytest.mark.parametrize(
    "inputs",
    [
        {"inputs_embeds": torch.zeros(2, LENGTH, WIDTH)},
        {"input_ids": None, "inputs_embeds": torch.zeros(2, LENGTH, WIDTH)},
        {"pixel_values": torch.zeros(2, 3, 8, 8), "input_ids": torch.zeros((2, LENGTH), dtype=torch.int64)},
    ],
    ids=["embeddings", "embeddings beside None", "a picture's text"],
)
def test_tokens_are_found_beside_what_are_none(inputs, tmp_path, monkeypatch):
    """2 x 31."""
    monkeypatch.chdir(tmp_path)
    model = make_model().train()
    if "pixel_values" in inputs:
        model.main_input_name = "pixel_values"
    callback = _watching(model)
    callback._see(model, (), inputs)
    assert callback.meter._pending[0] == 2 * LENGTH


@pytest.mark.parametrize(
    ("options", "dtype"),
    [({}, "fp32"), ({"bf16": True}, "bf16"), ({CHECKPOINTING: True}, "fp32")],
)
def test_dtype_and_recomputation_follow_the_trainers_arguments(options, dtype, tmp_path, monkeypatch):
    """bf16 autocast divides by the bf16 peak; checkpointing is work for HFU."""
    monkeypatch.chdir(tmp_path)
    model = make_model()
    arguments = transformers.TrainingArguments(output_dir="unused", use_cpu=True, report_to=[], **options)
    callback = huggingface.MeterCallback(device="A100 SXM4 80GB")
    callback.on_train_begin(arguments, None, None, model=model)
    assert dtype in callback.meter.peak.source
    table = callback.meter.cost
    assert (table.hardware[LENGTH] > table.model[LENGTH]) == bool(options.get(CHECKPOINTING))
    callback.on_train_end(arguments, None, None)


def _checkpointing(model):
    getattr(model, f"{CHECKPOINTING}_enable")()
    return model


def _begun(module, folder, *, arguments=None, **options):
    callback = huggingface.MeterCallback(peak_flops_per_s=1e30, **options)
    told = transformers.TrainingArguments(output_dir=str(folder), use_cpu=True, report_to=[], **(arguments or {}))
    callback.on_train_begin(told, None, None, model=module)
    return callback.meter


@pytest.mark.parametrize("is_named", [False, True])
@pytest.mark.parametrize("by", ["arguments", "model"])
def test_checkpointing_is_work_for_hfu_whoever_asked_for_it(by, is_named, tmp_path):
    """The Trainer's arguments or the model itself, of a model that the callback finds or the user names."""
    model = make_model()
    named = {"model": huggingface.spec_of_model(model)} if is_named else {}
    if by == "model":
        model = _checkpointing(model)
    meter = _begun(model, tmp_path, arguments={CHECKPOINTING: by == "arguments"}, **named)
    again = 2 * (N_LAYERS * 8 * WIDTH**2) + 4 * N_LAYERS * WIDTH * LENGTH  # all matmuls of a layer but its last
    assert meter.cost.model[LENGTH] == pytest.approx(LENGTH * FLOPS_PER_TOKEN)
    assert meter.cost.hardware[LENGTH] == pytest.approx(LENGTH * (FLOPS_PER_TOKEN + again))
    assert meter.notes == []


def test_a_model_without_a_closed_form_is_told_of_flops_per_token(tmp_path):
    """The way out of a callback, not the command line's."""
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=3, intermediate_size=7
    )
    reason = _begun(transformers.BertForMaskedLM(config), tmp_path).why_no_mfu
    assert "model_type='bert' has no closed form here; give flops_per_token" in reason
    assert "--trace" not in reason


def test_numbers_without_what_checkpointing_computes_again_are_warned_of(tmp_path):
    """flops_per_token are the model's; HFU would be MFU, which it is not."""
    with pytest.warns(fw.MeterWarning, match="^layers are computed again .* hardware_flops_per_token"):
        _begun(make_model(), tmp_path, arguments={CHECKPOINTING: True}, flops_per_token=6e6)
    meter = _begun(
        make_model(), tmp_path, arguments={CHECKPOINTING: True}, flops_per_token=6e6, hardware_flops_per_token=8e6
    )
    assert meter.notes == []


def test_a_number_for_one_length_is_not_taken_for_another_without_a_word(tmp_path):
    """7000 FLOPs a token of 31, of them 100 a pair: of 11 a token costs 3900 + 1100, else who knows."""
    model = make_model().train()
    for split, n_told, flops in (({}, 1, 2 * 11 * 7000), ({"attention_flops_per_pair": 100}, 0, 2 * 11 * 5000)):
        callback = huggingface.MeterCallback(flops_per_token=7000, seq_len=LENGTH, peak_flops_per_s=1e30, **split)
        told = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
        callback.on_train_begin(told, None, None, model=model)
        callback._see(model, (), {"input_ids": torch.zeros((2, LENGTH), dtype=torch.int64)})
        assert callback.meter.notes == []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", fw.MeterWarning)
            for _ in range(2):
                callback.meter.start()
                callback._see(model, (), {"input_ids": torch.zeros((2, 11), dtype=torch.int64)})
        assert [str(warning.message).partition(",")[0] for warning in caught] == n_told * [
            f"flops_per_token holds for sequences of {LENGTH}"
        ]
        assert callback.meter._pending[1] == pytest.approx(flops)


def test_the_dtype_that_is_given_is_not_looked_for(tmp_path):
    """The hint of the refusal helps."""
    model = make_model()
    model.register_parameter("first", torch.nn.Parameter(torch.zeros(3, dtype=torch.uint8), requires_grad=False))
    with pytest.raises(fw.FlopwatchError, match="dtype of the matmuls is not known; give the callback dtype="):
        _begun(model, tmp_path)
    assert "fp32" in _begun(model, tmp_path, dtype="fp32").peak.source


def test_checkpointing_of_some_layers_is_not_taken_for_all_of_them(tmp_path, monkeypatch):
    """Which layers are computed again is not in the closed form: n/a, and why."""
    monkeypatch.chdir(tmp_path)
    options = {CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"every_n_layers": 2}}
    arguments = transformers.TrainingArguments(output_dir="unused", use_cpu=True, report_to=[], **options)
    callback = huggingface.MeterCallback(peak_flops_per_s=1e30)
    callback.on_train_begin(arguments, None, None, model=make_model())
    assert "every_n_layers=2" in callback.meter.why_no_mfu


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "module", "extra"),
    [("transformers", "huggingface", "hf"), ("lightning", "lightning", "lightning")],
)
def test_a_missing_library_is_named_with_the_command_that_brings_it(library, module, extra):
    """Importing the callback is using it."""
    code = (
        f"import sys; sys.modules['{library}'] = None\n"
        "from flopwatch.errors import MissingError\n"
        f"try:\n    import flopwatch.integrations.{module}\n"
        "except MissingError as error:\n    print(error, error.exit_code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"pip install 'flopwatch[{extra}]'" in done.stdout
    assert done.stdout.strip().endswith(" 4")


def test_importing_the_package_of_integrations_loads_neither_library():
    """Only the callback that is used imports its library."""
    code = "import sys, flopwatch.integrations; print([m for m in ('transformers', 'lightning') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
