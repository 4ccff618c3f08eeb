"""fit on eight small searches that differ: the answer is the truth, in three tries."""

import tomllib
from pathlib import Path

import pytest

from flopwatch.measure.fit import FitRequest, fit_batch
from flopwatch.measure.limit import given_limit
from flopwatch.measure.series import ProbeSeries
from flopwatch.model.spec import ModelSpec
from flopwatch.probe.runner import ProbeRunner
from flopwatch.workload import Workload

DATA = tomllib.loads((Path(__file__).parent / "data" / "fit_cases.toml").read_text(encoding="utf-8"))


def request(case):
    return FitRequest(
        spec=ModelSpec(name=case["model"], **DATA["models"][case["model"]]),
        workload=Workload(dtype="fp32", **case["workload"]),
        limit=given_limit(case["limit_mib"] << 20),
        n_threads=1,
    )


@pytest.mark.slow
def test_eight_searches_find_the_truth_in_three_tries():
    """B runs and B + 1 does not, each seen again in a fresh process; at most 3 tries in 7 of 8, never more than 5."""
    n_tries = []
    with ProbeRunner() as runner:
        for case in DATA["cases"]:
            wanted = request(case)
            found = fit_batch(wanted, ProbeSeries(run=runner.run))
            assert (found.verified, found.next.batch, found.next.how) == (True, found.batch + 1, "ran"), case
            assert runner.run(wanted.probe(found.batch)).outcome == "ok", case
            assert runner.run(wanted.probe(found.batch + 1)).outcome == "oom", case
            n_tries.append(len(found.probes))
    assert len(n_tries) == 8
    assert max(n_tries) <= 5
    assert sum(n <= 3 for n in n_tries) >= 7
