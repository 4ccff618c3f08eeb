"""A run of the command line that measures: kept in the results store from its start, and continued with --resume."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from flopwatch.cli.options import OutputOptions, RunOptions
from flopwatch.cli.output import note
from flopwatch.cli.progress import progress_bar
from flopwatch.errors import StoreError
from flopwatch.measure.journal import StoreJournal, resume_key
from flopwatch.measure.series import ProbeSeries
from flopwatch.record import Kind, Record
from flopwatch.store import Store


@dataclasses.dataclass(kw_only=True)
class Session:
    """One run: its store, its number there, and the series of probes that writes into it."""

    store: Store
    run_id: int
    series: ProbeSeries
    record: Record | None = None

    def finish(self, record: Record) -> Record:
        """The record, now kept with the run."""
        self.store.end_run(self.run_id, "done", record=record.to_dict())
        self.record = record
        return record


@contextlib.contextmanager
def session(
    kind: Kind,
    *,
    asked: dict[str, Any],
    environment: dict[str, Any],
    options: RunOptions,
    output: OutputOptions,
) -> Iterator[Session]:
    """A new run of `kind`, or with --resume the one that ended too early and was asked the same; with a progress bar.

    However the block ends, the store says so: done, failed or interrupted. What was measured stays in either case.
    """
    key = resume_key(kind, asked, environment)
    with Store(options.store) as store:
        run_id = _continued(store, key, output) if options.resume else None
        if run_id is None:
            run_id = store.start_run(kind, request=asked, environment=environment, resume_key=key)
        with progress_bar(output) as watch:
            made = Session(
                store=store, run_id=run_id, series=ProbeSeries(journal=StoreJournal(store, run_id), watch=watch)
            )
            try:
                yield made
            except BaseException as error:
                status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                if made.record is None:
                    with contextlib.suppress(StoreError):  # the first error is the one to be told
                        store.end_run(run_id, "interrupted" if status == "interrupted" else "failed")
                raise


def check_store(options: RunOptions) -> None:
    """Open the store and close it again: what cannot keep a measurement is refused before anything is started."""
    Store(options.store).close()


def _continued(store: Store, key: str, output: OutputOptions) -> int | None:
    """The number of the run that is taken up again, or None when there is none to take up."""
    found = store.find_unfinished(key)
    if found is None:
        note("nothing to resume: no unfinished run was asked the same; starting anew", output)
        return None
    note(f"resuming run {found.id}: {found.n_items} measurements are there already", output)
    store.continue_run(found.id)
    return found.id
