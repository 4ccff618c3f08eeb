# The code of the notebook. `# %% name exact` begins a cell; "exact" cells print the same on every machine (tested).
# The text before each cell stands in en.md and zh-CN.md under the same name.

# %% setup
import flopwatch as fw
from flopwatch.device.detect import detect
from flopwatch.measure.dtype import default_dtype
from flopwatch.units import format_bytes, format_count, format_flops, format_percent, format_rate

machine = detect("auto")  # a GPU where there is one, else the processor
dtype = default_dtype(machine)  # the number format that is fast on it
print(f"{machine.name}, numbers in {dtype}")


def table(*rows):
    """Print rows as columns that line up: the first to the left, the others to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(*texts)]
    for first, *others in texts:
        line = [first.ljust(widths[0]), *(text.rjust(width) for text, width in zip(others, widths[1:]))]
        print("  ".join(line).rstrip())


# %% flop exact
def multiply(left, right):
    """The product of two matrices (lists of rows), written out, with every operation counted."""
    multiplications = additions = 0
    product = [[0.0] * len(right[0]) for _ in left]
    for i in range(len(left)):
        for j in range(len(right[0])):
            for k in range(len(right)):
                product[i][j] += left[i][k] * right[k][j]
                multiplications += 1
                additions += 1
    return product, multiplications, additions


left = [[1.0] * 5 for _ in range(3)]  # 3 rows, 5 columns
right = [[1.0] * 7 for _ in range(5)]  # 5 rows, 7 columns
product, multiplications, additions = multiply(left, right)
print(f"{multiplications} multiplications + {additions} additions = {multiplications + additions} FLOPs")
print(f"2 x 3 x 5 x 7 = {2 * 3 * 5 * 7}")

# %% job1 exact
MODELS = ("gpt-small", "gpt-medium", "gpt-large", "gpt-xl")
two = fw.Workload(batch=2, seq_len=1024, phase="forward")
counts = {name: fw.count(name, two) for name in MODELS}
table(
    ("model", "parameters", "FLOPs of a forward pass", "as people say it"),
    *(
        (name, format_count(found.params.total), f"{found.flops.total:,}", format_flops(found.flops.total))
        for name, found in counts.items()
    ),
)

# %% job1_why exact
PRINTED_FLOPS = {"gpt-small": 5.1e11, "gpt-medium": 1.4e12, "gpt-large": 3.2e12, "gpt-xl": 6.4e12}
rows = [("model", "original", "counted its way", "counted in full", "missing")]
for name in MODELS:
    linear = fw.count(name, two, convention="notebook").flops.total
    full = counts[name].flops.total
    rows.append((name, f"{PRINTED_FLOPS[name]:.1e}", f"{linear:.3e}", f"{full:.3e}", format_percent(1 - linear / full)))
table(*rows)

# %% attention exact
layers, tokens, width, batch = 12, 1024, 768, 2  # gpt-small
scores = batch * layers * 2 * tokens * width * tokens  # every token with every token
values = batch * layers * 2 * tokens * tokens * width  # the weighted sum of the values
linear = fw.count("gpt-small", two, convention="notebook").flops.total
print(f"{scores + values:,} by hand")
print(f"{counts['gpt-small'].flops.total - linear:,} is the difference above")

# %% trace exact
import torch
from flopwatch.reference.model import build_model

model = build_model(fw.load_spec("gpt-small"), device="meta")  # the network without its numbers: nothing is computed
token_ids = torch.zeros(2, 1024, dtype=torch.int64, device="meta")
traced = fw.count(model, two, inputs=(token_ids,))
print(f"{traced.flops.total:,} by running the network and writing down every operation")
print(f"{counts['gpt-small'].flops.total:,} by formula; operations without a formula: {len(traced.uncounted)}")

# %% causal exact
rows = [("tokens", "attention's share", "causal / full")]
for length in (1024, 4096, 16384, 65536, 131072):
    work = fw.Workload(seq_len=length)
    full = fw.count("llama-3.2-1b", work).flops
    half = fw.count("llama-3.2-1b", work, convention="matmul-causal").flops
    attention = sum(flops for part, flops in full.parts.items() if part.endswith(("scores", "values")))
    rows.append((f"{length:,}", format_percent(attention / full.total), f"{half.total / full.total:.3f}"))
table(*rows)

# %% rule exact
CASES = (("gpt-xl", 1024), ("gpt2", 1024), ("gpt-small", 1024), ("llama-3.2-1b", 1024), ("llama-3.2-1b", 131072), ("mixtral-8x7b", 4096))
rows = [("model", "tokens", "parameters N", "6N a token", "counted", "6N is")]
for name, length in CASES:
    found = fw.count(name, fw.Workload(seq_len=length, phase="train"))
    guess = 6 * found.params.total
    rows.append((
        name, f"{length:,}", format_count(found.params.total), format_flops(guess),
        format_flops(found.flops.per_token), f"{guess / found.flops.per_token:.2f} x",
    ))
table(*rows)

# %% backward exact
def traced_step(trained):
    """One training step of gpt-small in which only the parameters whose name begins with `trained` learn."""
    model = build_model(fw.load_spec("gpt-small"), device="meta")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(trained))

    def step():
        model(token_ids).sum().backward()

    return fw.trace(step, model=model)


rows = [("what learns", "forward", "backward", "the step is")]
for label, trained in (("everything", ""), ("the output head", "head"), ("the token table", "tokens")):
    step = traced_step(trained)
    forward, backward = step.forward.total, step.backward.total
    rows.append((label, format_flops(forward), format_flops(backward), f"{(forward + backward) / forward:.3f} x forward"))
table(*rows)

# %% recompute exact
rows = [("gpt-xl, batch 2", "model FLOPs", "hardware FLOPs", "ratio")]
for recompute in ("none", "full"):
    flops = fw.count("gpt-xl", fw.Workload(batch=2, phase="train", recompute=recompute)).flops
    rows.append((
        f"recompute {recompute}", format_flops(flops.total), format_flops(flops.total + flops.recompute),
        f"{(flops.total + flops.recompute) / flops.total:.3f}",
    ))
table(*rows)

# %% peaks exact
a100 = fw.find_device("NVIDIA A100-SXM4-40GB")
rows = [("A100 SXM4 40GB", "unit", "dense", "sparse 2:4", "divide by it")]
for peak in a100.peaks:
    if peak.dtype in ("fp32", "tf32", "bf16", "fp16"):
        sparse = "" if peak.sparse_flops_per_s is None else format_rate(peak.sparse_flops_per_s)
        rows.append((peak.dtype, peak.unit, format_rate(peak.dense_flops_per_s), sparse, "yes" if peak.is_default else ""))
table(*rows)

# %% names exact
from flopwatch.device.catalog import notebook_peak

NAMES = ("NVIDIA A100-SXM4-40GB", "NVIDIA L40S", "NVIDIA L4", "NVIDIA T400", "NVIDIA GeForce RTX 3090", "NVIDIA B9000")
rows = [("name", "original's table", "the card's dense bf16 peak")]
for name in NAMES:
    old, card = notebook_peak(name, "bf16"), fw.find_device(name)
    new = card.peak("bf16") if card is not None else None
    rows.append((
        name,
        "no such card" if old is None else format_rate(old.dense_flops_per_s),
        "not known" if new is None else format_rate(new.dense_flops_per_s),
    ))
table(*rows)

# %% peak_here
import tempfile
from pathlib import Path
from flopwatch.store import Store

store = Store(Path(tempfile.mkdtemp()) / "notebook.db")  # what is measured is kept here, and used again below
here = fw.peak(dtype, quick=True, store=store)
print(f"{dtype} matmuls: {format_rate(here.flops_per_s)} measured, at {' x '.join(str(size) for size in here.shape)}")
if here.fraction is not None:
    print(f"that is {format_percent(here.fraction)} of the datasheet's {format_rate(here.datasheet_flops_per_s)}")

# %% leak exact
class Block:
    """Stands for a large piece of a GPU's memory."""

    alive = 0

    def __init__(self):
        Block.alive += 1

    def __del__(self):
        Block.alive -= 1


def forward_pass(batch):
    activations = [Block() for _ in range(batch)]
    raise MemoryError(f"{len(activations)} blocks are too many")


kept = None
try:
    forward_pass(batch=7)
except MemoryError as error:
    kept = error  # what a notebook does for you: the last error can be looked at
print(f"after the failed try {Block.alive} blocks are still alive")
kept = None
print(f"when the error is forgotten: {Block.alive}")

# %% job2
tiny = fw.ModelSpec(name="tiny-gpt", n_layers=4, d_model=128, n_heads=4, vocab_size=512, max_seq_len=128)
LIMIT_BYTES = 96 * 2**20  # 96 MiB: small, so that the search is quick


def tell(found):
    """The answer of a search, and every try that led to it."""
    table(
        ("batch", "outcome", "peak memory"),
        *((row.batch, row.outcome, "" if row.peak_bytes is None else format_bytes(row.peak_bytes)) for row in found.probes),
    )
    print(f"predicted {found.predicted_batch}, found {found.batch}; batch {found.next.batch}: {found.next.outcome}")


found_forward = fw.fit(tiny, fw.Workload(seq_len=128, phase="forward", dtype=dtype), limit_bytes=LIMIT_BYTES)
tell(found_forward)

# %% job2_a100 exact
from flopwatch.trace.replay import predict_batch

PRINTED_BATCH = {"gpt-small": (389, 24), "gpt-medium": (263, 7), "gpt-large": (256, 8), "gpt-xl": (143, 4)}
rows = [("A100 40GB", "forward: original", "clean search", "training: original", "clean search", "real training step")]
for name in MODELS:
    spec = fw.load_spec(name)
    found = {}
    for phase in ("forward", "train"):
        work = fw.Workload(phase=phase, dtype="bf16", ops="elementary", loss="sum", optimizer="none")
        found[phase] = predict_batch(spec, work, 39_800 * 2**20).batch
    real = fw.predict_fit(spec, fw.Workload(phase="train", dtype="bf16"), device="A100 SXM4 40GB").batch
    old_forward, old_train = PRINTED_BATCH[name]
    rows.append((name, old_forward, found["forward"], old_train, found["train"], real))
table(*rows)

# %% warmup
import time
from flopwatch.reference.step import build_step

step = build_step(tiny, fw.Workload(batch=4, seq_len=128, phase="train", dtype=dtype), device=machine.torch_device)


def wait():
    """Return when the device has finished; a GPU works on while Python has gone on."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


times_ms = []
for _ in range(8):
    began = time.perf_counter()
    step()
    wait()
    times_ms.append(1000 * (time.perf_counter() - began))
print("ms a step:", ", ".join(f"{ms:.1f}" for ms in times_ms))

# %% job3
found_train = fw.fit(tiny, fw.Workload(seq_len=128, phase="train", dtype=dtype), limit_bytes=LIMIT_BYTES)
tell(found_train)
largest = fw.Workload(batch=found_train.batch, seq_len=128, phase="train", dtype=dtype)
speed = fw.bench(tiny, largest, store=store)
print(f"{format_flops(fw.count(tiny, largest).flops.total)} a step, {1000 * speed.step_s.median:.1f} ms "
      f"(10 % to 90 %: {1000 * speed.step_s.p10:.1f} to {1000 * speed.step_s.p90:.1f}, {len(speed.step_s.samples)} samples)")
print(f"{speed.tokens_per_s:,.0f} tokens/s, {format_rate(speed.model_flops_per_s)}")
for row in speed.utilization:
    if row.fraction is not None:
        print(f"{row.name.upper()} {format_percent(row.fraction)} of {format_rate(row.peak_flops_per_s)} ({row.peak_source})")

# %% job3_old_new exact
PRINTED_RUNS = (  # model, batch, tokens/s and MFU as the original prints them, on an A100 of 40 GB
    ("gpt-small", 16, 34248.82, 0.3256),
    ("gpt-small", 24, 62568.34, 0.5948),
    ("gpt-medium", 4, 20159.93, 0.5483),
    ("gpt-medium", 6, 21717.66, 0.5907),
    ("gpt-medium", 7, 22536.25, 0.6130),
    ("gpt-large", 8, 12465.21, 0.7406),
    ("gpt-xl", 4, 6779.92, 0.8113),
)
CARD = "NVIDIA A100-SXM4-40GB"
rows = [("model", "batch", "original", "its way", "+ tensor-core peak", "+ attention", "causal half")]
for name, batch, tokens_per_s, printed in PRINTED_RUNS:
    its_way = fw.mfu(name, tokens_per_s=tokens_per_s, device=CARD, convention="notebook", peak_set="notebook")
    right_peak = fw.mfu(name, tokens_per_s=tokens_per_s, device=CARD, convention="notebook")
    in_full = fw.mfu(name, tokens_per_s=tokens_per_s, device=CARD)
    causal = fw.mfu(name, tokens_per_s=tokens_per_s, device=CARD, convention="matmul-causal")
    rows.append((name, batch, f"{printed:.4f}", *(f"{run.mfu:.4f}" for run in (its_way, right_peak, in_full, causal))))
table(*rows)

# %% hfu exact
run = fw.mfu("gpt-xl", tokens_per_s=6779.92, device=CARD, recompute="full")
print(f"MFU {format_percent(run.mfu)}, HFU {format_percent(run.hfu)} of {format_rate(run.peak_flops_per_s)} ({run.peak_source})")

# %% same_flops
n = 1024 if machine.kind == "cpu" else 4096
matrix, vectors = (torch.randn(n, n, device=machine.torch_device) for _ in range(2))


def seconds(work):
    """The fastest of three runs."""
    best = float("inf")
    for _ in range(3):
        wait()
        began = time.perf_counter()
        work()
        wait()
        best = min(best, time.perf_counter() - began)
    return best


together = seconds(lambda: matrix @ vectors)
one_by_one = seconds(lambda: [matrix @ vectors[:, i] for i in range(n)])
print(f"{format_flops(2 * n**3)} as one product:  {1000 * together:8.1f} ms, {format_rate(2 * n**3 / together)}")
print(f"{format_flops(2 * n**3)} vector by vector: {1000 * one_by_one:8.1f} ms, {format_rate(2 * n**3 / one_by_one)}")

# %% roofline exact
rows = [("gpt-xl on an A100 40GB, bf16", "FLOPs", "least time", "tokens/s at most", "MFU at most", "bound by compute")]
for phase, batch in (("train", 4), ("forward", 1), ("decode", 1), ("decode", 64)):
    best = fw.roofline("gpt-xl", fw.Workload(phase=phase, batch=batch, dtype="bf16"), device=CARD)
    rows.append((
        f"{phase}, batch {batch}", format_flops(best.model_flops), f"{1000 * best.time_s:.2f} ms",
        f"{best.tokens_per_s:,.0f}", format_percent(best.highest_mfu), format_percent(best.compute_bound_fraction),
    ))
table(*rows)

# %% text exact
import random

random.seed(1)
WHO, DOES, WHERE = ("the cat", "a small dog", "my old friend"), ("sleeps", "sings", "waits"), ("here", "at home", "in the rain")
text = " ".join(f"{random.choice(WHO)} {random.choice(DOES)} {random.choice(WHERE)}." for _ in range(3000))
letters = sorted(set(text))
print(f"{len(text):,} letters, {len(letters)} different ones: {text[:60]}...")

# %% train
writer = fw.ModelSpec(name="writer", n_layers=4, d_model=128, n_heads=4, vocab_size=len(letters), max_seq_len=64)
torch_dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
torch.manual_seed(1)
model = build_model(writer, device=machine.torch_device, dtype=torch_dtype)
numbers = torch.tensor([letters.index(letter) for letter in text], device=machine.torch_device)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
meter = fw.Meter(writer, seq_len=64, dtype=dtype, peak_flops_per_s=here.flops_per_s)

losses = []
for step in range(1, 121):
    starts = torch.randint(len(numbers) - 65, (16,)).tolist()
    pieces = torch.stack([numbers[start : start + 65] for start in starts])  # 16 pieces of 65 letters
    guesses = model(pieces[:, :-1])  # for every letter: how likely is each letter to be the next one?
    loss = torch.nn.functional.cross_entropy(guesses.flatten(0, 1).float(), pieces[:, 1:].flatten())
    loss.backward()  # in which direction should every weight move?
    optimizer.step()  # move them a little
    optimizer.zero_grad()
    losses.append(loss.item())
    meter.step(sequences=16)
    if step % 30 == 0:
        print(f"step {step:3}: loss {losses[-1]:.3f} | {meter.line()}")
assert losses[-1] < losses[0] / 2

# %% write
written = [letters.index(letter) for letter in "the "]
with torch.no_grad():
    for _ in range(60):
        context = torch.tensor([written[-64:]], device=machine.torch_device)
        likely = torch.softmax(model(context)[0, -1].float(), dim=-1)
        written.append(int(torch.multinomial(likely, 1)))
print("".join(letters[number] for number in written))

# %% check exact
ANSWERS = {
    1: lambda: 2 * 64 * 128 * 256,
    2: lambda: 1 - fw.count("gpt-medium", two, convention="notebook").flops.total / fw.count("gpt-medium", two).flops.total,
    3: lambda: fw.mfu("gpt-medium", tokens_per_s=22536.25, device=CARD).mfu,
    4: lambda: 0.21 * a100.peak("bf16").sparse_flops_per_s / a100.peak("bf16").dense_flops_per_s,
    5: lambda: 1 + fw.count("gpt-medium", two).flops.parts["head"] / fw.count("gpt-medium", two).flops.total,
    6: lambda: 10e9 * fw.count("gpt-xl", fw.Workload(phase="train")).flops.per_token / (0.4 * 312e12) / 86400,
    7: lambda: a100.peak("bf16").dense_flops_per_s / a100.bandwidth_bytes_per_s,
}


def check(number, answer):
    """Whether an answer is right to one percent; three dots mean that there is none yet."""
    if answer is ...:
        print(f"exercise {number}: your turn")
        return None
    is_right = abs(answer / ANSWERS[number]() - 1) <= 0.01
    print(f"exercise {number}: {'right' if is_right else 'not yet'}")
    return is_right


# %% exercises exact
answer_1 = ...
check(1, answer_1)
answer_2 = ...
check(2, answer_2)
answer_3 = ...
check(3, answer_3)
answer_4 = ...
check(4, answer_4)
answer_5 = ...
check(5, answer_5)
answer_6 = ...
check(6, answer_6)
answer_7 = ...
check(7, answer_7)

# %% solutions exact
check(1, 2 * 64 * 128 * 256)  # 64 x 256 results, each from 128 multiply-adds of 2 FLOPs
medium = fw.count("gpt-medium", two).flops
check(2, (medium.parts["layers.attention.scores"] + medium.parts["layers.attention.values"]) / medium.total)
check(3, 22536.25 * fw.count("gpt-medium", fw.Workload(phase="train")).flops.per_token / 312e12)
check(4, 0.42)  # the dense peak is half the sparse one, so the share doubles
check(5, (medium.total + medium.parts["head"]) / medium.total)  # forward, and the gradient of one matrix
check(6, 10e9 * 10.27e9 / (0.4 * 312e12) / (24 * 60 * 60))
check(7, 312e12 / 1555e9)  # 2 FLOPs a sequence for each weight of 2 bytes: FLOPs for each byte = batch
store.close()
