"""Faults of Delta's log, which reaches a disk by code of its own, past the store.

Its commits are laid hold of where this project asks for them.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from batch_assets.lake import delta_log, metrics
from batch_assets_tests.faults.plan import Fault, Faults
from batch_assets_tests.faults.store import broken

COMMIT = (Fault.FAIL, Fault.LOST, Fault.LIE, Fault.DELAY)
LOOK = (Fault.FAIL, Fault.DELAY, Fault.STALE)


def install_delta(faults: Faults) -> None:
    """Lay them under every table; only ever in a process of its own."""

    def commits(
        label: str, path_of: Callable[..., Any], call: Callable[..., Any]
    ) -> Callable[..., Any]:
        @functools.wraps(call)
        def committed(*args: Any, **kwargs: Any) -> Any:
            path = path_of(*args, **kwargs)
            fault = faults.draw(label, path, COMMIT)
            if fault is Fault.FAIL:
                raise broken(path)
            if fault is Fault.LIE:
                return None
            done = call(*args, **kwargs)
            if fault is Fault.LOST:
                raise broken(path)
            return done

        return committed

    DeltaTable.create_write_transaction = commits(  # type: ignore[method-assign]
        "commit",
        lambda table, *_, **__: table.table_uri.rstrip("/"),
        DeltaTable.create_write_transaction,
    )
    metrics.write_deltalake = commits(
        "write", lambda path, *_, **__: path, metrics.write_deltalake
    )

    def opened(path: str, **options: Any) -> DeltaTable:
        fault = faults.draw("log of", path, LOOK)
        if fault is Fault.FAIL:
            raise broken(path)
        table = DeltaTable(path, **options)
        if fault is Fault.STALE and table.version() > 0:
            table.load_as_version(table.version() - 1)
        return table

    delta_log.DeltaTable = opened  # type: ignore[assignment,misc]


def newest_entry(table: Path) -> Path:
    """The newest entry of a table's log."""
    return max((table / "_delta_log").glob("*.json"))
