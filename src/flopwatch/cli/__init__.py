"""The command line: one file a command, and the only place that prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cyclopts

import flopwatch
from flopwatch import errors

COMMANDS: Final = {
    "bench": "How fast a step runs here: tokens/s, FLOP/s, MFU, HFU, peak memory.",
    "compare": "What changed between two records, beyond the noise or not.",
    "count": "Parameters and FLOPs of a model, by part.",
    "devices": "Published peaks of known devices, and what this machine is.",
    "fit": "The largest batch that fits, predicted and then proved by running it.",
    "memory": "Peak memory of a step by part, predicted; whether it fits a device.",
    "mfu": "MFU and HFU of a run that you already have.",
    "runs": "What was measured before.",
    "report": "All of it for each model, on one HTML page: the main job.",
    "show": "The record of an earlier run, rendered again.",
    "peak": "Matmul FLOP/s and memory bandwidth, measured here.",
    "roofline": "How fast a step could be on a device, and what binds it.",
    "doctor": "What is here, what will be n/a, and how to get it; --selftest.",
}
"""Every command and what it answers; `flopwatch NAME` runs the function `NAME` of `flopwatch/cli/NAME.py`."""


def build_app() -> cyclopts.App:
    """The application with all commands, each loaded only when it is run."""
    app = cyclopts.App(
        name="flopwatch",
        help="How much work a PyTorch model is, whether it fits, how fast it runs here, and how fast it could.",
        version=flopwatch.__version__,
        help_format="markdown",
        suppress_keyboard_interrupt=False,  # `run` says what is kept
        default_parameter=cyclopts.Parameter(show_env_var=False),
    )
    for name, answers in COMMANDS.items():
        app.command(f"flopwatch.cli.{name}:{name}", name=name, help=answers)
    return app


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code; an expected error is one line on stderr."""
    _open_closed_streams()
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def _open_closed_streams() -> None:
    """Where the shell has closed a stream, write into nothing: else errors would be printed among the data."""
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as long as the process lives
    if sys.stdout is None:
        sys.exit(
            _say("standard output is closed; send it to a file, or to /dev/null with -o FILE", errors.EXIT_FAILURE)
        )


def run(argv: Sequence[str]) -> int:
    """The exit code of one command (product.md): 0, 1 failure, 2 usage, 3 does not fit, 4 missing, 130 interrupted."""
    from flopwatch.cli.request import remember
    from flopwatch.cli.settings import settings

    remember(tuple(argv))
    app = build_app()
    try:
        app.config = settings()
        code = app(list(argv), exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except errors.FlopwatchError as error:
        return _say(str(error), error.exit_code)
    except cyclopts.CycloptsError as error:
        command = " ".join(["flopwatch", *(error.command_chain or ())])
        return _say(f"{_one_line(str(error))}; see `{command} --help`", errors.EXIT_USAGE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on: end quietly
        return errors.EXIT_OK
    except KeyboardInterrupt:
        return _say("interrupted; what was measured is kept", errors.EXIT_INTERRUPTED)
    except OSError as error:
        return _say(f"{error.strerror or error}: {error.filename or 'standard output'}", errors.EXIT_FAILURE)
    return code if isinstance(code, int) else errors.EXIT_OK


def _say(text: str, code: int) -> int:
    print(f"flopwatch: {text}", file=sys.stderr)
    return code


def _one_line(text: str) -> str:
    return " ".join(text.split())
