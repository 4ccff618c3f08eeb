"""Jobs for the tests of the probe: each goes wrong in one way. Run in children only."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path


def allocate(arguments):
    import torch

    kept = [torch.ones(1 << 18) for _ in range(arguments["mib"])]  # 1 MiB each
    return {"n_kept": len(kept)}


def pid(arguments):
    return {"pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0), "torch": "torch" in sys.modules}


def threads(arguments):
    import torch

    return {"n_threads": torch.get_num_threads()}


def hang(arguments):
    for name in ("SIGTERM", "SIGINT"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    time.sleep(600)


def report_then_hang(arguments):
    for n in range(arguments["n_rows"]):
        yield {"row": n}
    time.sleep(600)


def report(arguments):
    for n in range(arguments["n_rows"]):
        time.sleep(0.3)
        yield {"row": n}


def report_nothing(arguments):
    yield from ()


def die_by(arguments):
    print("about to go")
    sys.stdout.flush()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), getattr(signal, arguments["signal"]))
    time.sleep(60)


def exit_without_a_word(arguments):
    os._exit(arguments["code"])


def write_rubbish(arguments):
    for folder in Path(arguments["root"]).glob("*/probe-*"):
        (folder / "answer.json").write_bytes(bytes.fromhex(arguments["hex"]))
    os._exit(0)


def answer_with_no_data(arguments):
    return {"socket": object()}


def raise_named(arguments):
    raise {
        "MemoryError": MemoryError,
        "SystemError": SystemError,
        "SystemExit": SystemExit,
        "ZeroDivisionError": ZeroDivisionError,
    }[arguments["name"]](arguments.get("text", ""))


def print_much(arguments):
    for _ in range(arguments["mib"]):
        sys.stdout.write("x" * ((1 << 20) - 1) + "\n")
        sys.stderr.write("y" * 100 + "\n")
    os.write(2, b"z" * (1 << 20))
    return {"done": 1}


def leave_a_grandchild(arguments):
    process = subprocess.Popen(["sleep", "600"])
    return {"pid": process.pid}


def escape_the_limit(arguments):
    import torch

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    return {"sum": float(torch.ones(arguments["mib"] << 18).sum())}


def layout(arguments):
    return {"is_fixed": "FLOPWATCH_PROBE_LAYOUT" in os.environ}
