"""What each of two ranks runs under torchrun: a loop on a clock of its own, and what the meter says of both."""

import json
import os
import sys
from pathlib import Path

import torch.distributed as dist

from meter_clock import Clock, make_meter


def main(folder):
    dist.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    clock = Clock()
    meter = make_meter(clock, warmup_steps=rank, window_steps=4)  # the ranks' warm-ups end at different steps
    for step in range(10):
        clock.pass_s((0.5, 0.8)[rank] + (5 if step == 0 else 0))
        own = meter.step(tokens=(35, 20)[rank])
    with meter.pause("eval"):
        clock.pass_s(2)
    found = {"own": own, "gather": meter.gather(), "summary": meter.summary(), "line": meter.line()}
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
