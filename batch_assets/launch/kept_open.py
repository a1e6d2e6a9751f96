"""Keep the files of Dagster's log open while a run writes them.

Dagster opens and closes SQLite's files for each of a run's hundred events, and whoever
closes the last connection has to copy what was written from one file into another, and
sync both. One more connection, which writes nothing, leaves that to the end of the run:
what is written, and when it is on disk, stays as it is.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

from dagster import DagsterInstance

# The file that holds what is looked up across runs; each run has one of its own, too.
INDEX = "index"


@contextmanager
def log_kept_open(instance: DagsterInstance, run_id: str) -> Iterator[None]:
    """Keep what Dagster writes of a run open, if it is in SQLite's files."""
    storage: Any = instance.event_log_storage
    path_of = getattr(storage, "path_for_shard", None)
    with ExitStack() as opened:
        if path_of is not None:
            with storage.run_connection(run_id):
                pass  # From now on the run's own file is there.
            for shard in (INDEX, run_id):
                kept = sqlite3.connect(path_of(shard), isolation_level=None)
                opened.enter_context(closing(kept))
                # It is no connection before it has read something.
                kept.execute("SELECT 1 FROM sqlite_master").fetchone()
        yield
