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


def segfault(arguments):
    import ctypes

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


def recurse(arguments):
    return recurse(arguments)


def overflow_the_stack(arguments):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.setrecursionlimit(1 << 30)
    nested = []
    for _ in range(1 << 20):
        nested = [nested]
    return {"text": repr(nested)}  # calls itself in C for each list


def stop_itself(arguments):
    os.kill(os.getpid(), signal.SIGSTOP)
    return {"done": 1}


def stop_its_parent(arguments):
    os.kill(os.getppid(), signal.SIGSTOP)
    return {"done": 1}


def close_its_streams(arguments):
    sys.stdout.close()
    sys.stderr.close()
    for fd in (0, 1, 2):
        os.close(fd)
    if arguments.get("then") == "fail":
        raise MemoryError("no room")
    return {"done": 1}


def leave_a_daemon(arguments):
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    if arguments.get("then") == "die":
        Path(arguments["note"]).write_text(str(process.pid))
        os._exit(0)
    return {"pid": process.pid}


def leave_a_twin(arguments):
    if os.fork() == 0:
        os.setsid()
        time.sleep(arguments["lag_s"])
        return {"twin": True}
    return {"twin": False}


def fill_the_disk(arguments):
    """Its answer goes to a device that is always full."""
    for folder in Path(arguments["root"]).glob("*/probe-*"):
        (folder / "answer.json.unfinished").symlink_to("/dev/full")
    return {"done": 1}


def write_no_more_files(arguments):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    return {"done": 1}


def delete_its_folder(arguments):
    import shutil

    for folder in Path(arguments["root"]).glob(arguments["pattern"]):
        shutil.rmtree(folder)
    return {"done": 1}


def put_a_folder_where_the_answer_goes(arguments):
    for folder in Path(arguments["root"]).glob("*/probe-*"):
        (folder / "answer.json").mkdir()
        (folder / "progress.jsonl").mkdir()
    os._exit(0)


def answer_with(arguments):
    return {
        "nan": lambda: {"loss": float("nan"), "rates": [float("inf"), 1.0]},
        "lambda": lambda: {"step": lambda: None},
        "surrogate": lambda: {"name": "\udcff"},
        "huge": lambda: {"n": 1 << 100},
        "circle": _circle,
    }[arguments["what"]]()


def _circle():
    found = {}
    found["itself"] = found
    return found


class _SilentError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def raise_kind(arguments):
    raise {
        "KeyboardInterrupt": KeyboardInterrupt(),
        "SystemExit": SystemExit(arguments.get("code")),
        "GeneratorExit": GeneratorExit(),
        "silent": _SilentError(),
        "surrogate": OSError("cannot read \udcff"),
        "group": ExceptionGroup("two", [MemoryError(), ValueError("x")]),
    }[arguments["kind"]]


def leave_a_thread(arguments):
    import threading

    threading.Thread(target=time.sleep, args=(600,)).start()
    return {"done": 1}


def leave_other_ways(arguments):
    os.chdir("/")
    os.umask(0o777)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    os.environ.clear()
    sys.path.clear()
    return {"done": 1}


def replace_itself(arguments):
    os.execv("/bin/sh", ["sh", "-c", "echo another program; exit 0"])


def exit_at_exit(arguments):
    import atexit

    atexit.register(lambda: time.sleep(600))
    return {"done": 1}


def leave_a_daemon_and_hang(arguments):
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    Path(arguments["note"]).write_text(str(process.pid))
    time.sleep(600)
