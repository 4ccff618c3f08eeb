"""A progress bar with an estimate of the time left, on standard error and only on a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from flopwatch.cli.options import OutputOptions
from flopwatch.measure.series import Progress, Watch, watch_nothing
from flopwatch.units import format_seconds


@contextlib.contextmanager
def progress_bar(output: OutputOptions) -> Iterator[Watch]:
    """What is told of each step of a long measurement: a bar on a terminal, nothing elsewhere or with --quiet."""
    if output.quiet or not sys.stderr.isatty():
        yield watch_nothing
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn()]
    with Bar(*columns, TextColumn("{task.fields[left]}"), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None, left="")

        def show(progress: Progress) -> None:
            left = "" if progress.left_s is None else f"about {format_seconds(progress.left_s)} left"
            fraction = progress.done_fraction
            bar.update(task, description=progress.label, total=None if fraction is None else 1.0, left=left)
            if fraction is not None:
                bar.update(task, completed=fraction)

        yield show
