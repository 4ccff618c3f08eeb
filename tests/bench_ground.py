"""A pretended machine and a small network, for tests of benchmarks that run no step."""

from flopwatch.api.bench_series import BenchSeries
from flopwatch.cost.convention import DEFAULT, find_convention
from flopwatch.device.accelerator import Accelerator
from flopwatch.device.cpu import Cpu
from flopwatch.device.machine import Machine
from flopwatch.measure.series import ProbeSeries
from flopwatch.model.spec import ModelSpec

SPEC = ModelSpec(name="odd", n_layers=2, d_model=44, n_heads=4, vocab_size=701, max_seq_len=80)
SPEC_FILE = 'name = "odd"\nn_layers = 2\nd_model = 44\nn_heads = 4\nvocab_size = 701\nmax_seq_len = 80\n'
CPU = Cpu(
    model="Pretended CPU",
    n_logical_cores=2,
    n_physical_cores=2,
    n_affinity_cores=2,
    quota_cores=None,
    instruction_sets=(),
    cache_bytes=None,
    memory_total_bytes=24 << 30,
    memory_free_bytes=22 << 30,
    memory_limit="pretended",
)
MACHINE = Machine(kind="cpu", name="Pretended CPU", cpu=CPU, why_no_device="it is pretended")
CARD = Machine(
    kind="cuda",
    name="Pretended card",
    cpu=CPU,
    accelerator=Accelerator(kind="cuda", index=0, name="Pretended card", memory_free_bytes=40 << 30),
)


def benches_on(hardware, journal=None, machine=MACHINE, timeout_s=60.0):
    """A BenchSeries whose probes are answered by `hardware`; its measured peak has to be pretended too."""
    series = ProbeSeries(run=hardware, journal=journal)
    return BenchSeries(series=series, machine=machine, convention=find_convention(DEFAULT), timeout_s=timeout_s)
