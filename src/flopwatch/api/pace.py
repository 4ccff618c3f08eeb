"""How long a measurement will take, before it is made: from the work in it and the pace of this machine."""

from __future__ import annotations

from typing import Final

import msgspec

from flopwatch.cost.flops import step_flops
from flopwatch.model.params import count_params
from flopwatch.model.spec import ModelSpec
from flopwatch.workload import Workload

_PEAK_SHARE: Final = 0.5  # of the measured matmul peak: what a whole step is taken to reach until one was timed
_START_S: Final = {"cpu": 2.0}  # a fresh process; a device's context besides
_DEVICE_START_S: Final = 10.0
_INIT_S_PER_PARAM: Final = 15e-9  # random weights, made on one core
_UPDATE_BYTES_PER_PARAM: Final = 28  # AdamW in fp32 reads weight, gradient and two moments and writes three of them
_BANDWIDTH_BYTES_PER_S: Final = 15e9  # of a few cores
_DEVICE_BANDWIDTH_BYTES_PER_S: Final = 300e9  # of a small card
_FEWEST_SECONDS: Final = 3.0  # work shorter than this says little of the pace: starting up outweighs it


class Pace(msgspec.Struct, kw_only=True):
    """What this machine is taken to do in a second. It learns from everything that ran (`learn`), phase by phase.

    `flops_per_s` is for phases that nothing is known of: at first a share of the peak, then what ran last.
    """

    flops_per_s: float
    bandwidth_bytes_per_s: float = _BANDWIDTH_BYTES_PER_S
    device_type: str = "cpu"
    learned_flops_per_s: dict[str, float] = {}

    def start_s(self, spec: ModelSpec) -> float:
        """Seconds until a fresh process has the network."""
        start_s = _START_S.get(self.device_type, _DEVICE_START_S)
        return start_s + count_params(spec).total * _INIT_S_PER_PARAM

    def step_s(self, spec: ModelSpec, workload: Workload) -> float:
        """Seconds of one step."""
        update_bytes = count_params(spec).total * _UPDATE_BYTES_PER_PARAM if workload.is_train else 0
        return self._matmuls_s(spec, workload) + update_bytes / self.bandwidth_bytes_per_s

    def _matmuls_s(self, spec: ModelSpec, workload: Workload) -> float:
        rate_flops_per_s = self.learned_flops_per_s.get(workload.phase, self.flops_per_s)
        return step_flops(spec, workload).hardware_flops / rate_flops_per_s

    def tries_s(self, spec: ModelSpec, workload: Workload, *, n_tries: float, n_steps: int) -> float:
        """Seconds of `n_tries` processes that run `n_steps` steps each."""
        return n_tries * (self.start_s(spec) + n_steps * self.step_s(spec, workload))

    def largest_batch(
        self, spec: ModelSpec, workload: Workload, *, within_s: float, n_tries: float, n_steps: int
    ) -> int:
        """The largest batch of which so many tries are done within that time; 0 when not even 1 is."""
        one, two = (self.tries_s(spec, _at(workload, batch), n_tries=n_tries, n_steps=n_steps) for batch in (1, 2))
        return 0 if one > within_s else 1 + int((within_s - one) / (two - one))  # a step's time is linear in the batch

    def learn(self, spec: ModelSpec, workload: Workload, *, n_steps: int, wall_s: float) -> None:
        """Take the pace from a try that ran: the work that was done over the time left after starting up."""
        update_s = self.step_s(spec, workload) - self._matmuls_s(spec, workload)
        worked_s = wall_s - self.start_s(spec) - n_steps * update_s
        if worked_s >= _FEWEST_SECONDS:
            self.flops_per_s = n_steps * step_flops(spec, workload).hardware_flops / worked_s
            self.learned_flops_per_s[workload.phase] = self.flops_per_s


def pace_of(peak_flops_per_s: float, *, device: str) -> Pace:
    """The pace of a machine of which only the matmul peak is known."""
    kind = device.split(":")[0]
    return Pace(
        flops_per_s=_PEAK_SHARE * peak_flops_per_s,
        bandwidth_bytes_per_s=_BANDWIDTH_BYTES_PER_S if kind == "cpu" else _DEVICE_BANDWIDTH_BYTES_PER_S,
        device_type=kind,
    )


def _at(workload: Workload, batch: int) -> Workload:
    return msgspec.structs.replace(workload, batch=batch)
