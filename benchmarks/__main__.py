"""Run the benchmarks one after the other, print their tables, and keep them with the command that made them.

python -m benchmarks                      # all of them, printed
python -m benchmarks trace peak           # some of them
python -m benchmarks --write docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import datetime as dt
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Print every wanted table; a benchmark that fails stops the run with its exit code."""
    known = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(known)} (all when left out)")
    parser.add_argument("--write", type=Path, help="write the tables to this file too (one section a benchmark)")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(known))
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(known)}")
    sections = [_section(name) for name in options.names or known]
    if options.write:
        _merge(options.write, sections)


def _section(name: str) -> tuple[str, str]:
    command = [sys.executable, "-m", f"benchmarks.bench_{name}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"benchmark {name} ended with {done.returncode}")
    made = f"Made by `python -m benchmarks {name}` on {dt.datetime.now(dt.UTC):%Y-%m-%d}, {_machine()}."
    text = f"{made}\n\n{done.stdout.strip()}\n"
    print(f"## {name}\n\n{text}", flush=True)
    return name, text


def _machine() -> str:
    cpu = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return f"{cpu}, torch {version('torch')}, Python {platform.python_version()}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _merge(path: Path, sections: list[tuple[str, str]]) -> None:
    """Replace the sections that were run and keep the others."""
    old = path.read_text(encoding="utf-8") if path.exists() else "# Benchmarks\n\n"
    head, *rest = old.split("\n## ")
    kept = dict(part.split("\n", 1) for part in rest)
    kept |= {name: f"\n{text}" for name, text in sections}
    body = "".join(f"\n## {name}\n{text.rstrip()}\n" for name, text in sorted(kept.items()))
    path.write_text(head.rstrip() + "\n" + body, encoding="utf-8")


if __name__ == "__main__":
    main()
