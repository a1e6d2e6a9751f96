"""A version in SQL, beside the history of its pipeline's predictions.

    <version's folder>/audit.duckdb    tables: snapshot, version; view: predictions

The copy is made when it is first asked for, of files that have just been hashed, and
goes with its version. Its path never holds anything else: DuckDB keeps a file that it
has open by its path, and would go on showing what was there before. It knows nothing of
what is served.
"""

from pathlib import Path
from typing import Any

import duckdb

from batch_assets.errors import SnapshotError
from batch_assets.lake.tables import Lake
from batch_assets.snapshots.fetch import fetched
from batch_assets.snapshots.flattening import assembled
from batch_assets.snapshots.layout import KEY_HASH
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.snapshots.version import Version
from batch_assets.storage import is_local, written_beside

COPY = "audit.duckdb"


def audit_copy(lake: Lake, store: SnapshotStore, version: str) -> Path:
    """Return the DuckDB file of a version, on this machine; it is made once.

    The view `predictions` shows the days that were committed when it was made, if the
    lake is in a directory.

    Args:
        lake: the pipeline's tables.
        store: of the pipeline's versions.
        version: its name.

    Raises:
        SnapshotError: there is no such version, it is not whole, or there is no room.
    """
    path = fetched(store, version) / COPY
    if path.exists():
        return path
    opened = Version.open(store, version)
    opened.verify()
    try:
        with written_beside(path) as beside:
            try:
                with duckdb.connect(str(beside)) as connection:
                    _fill(connection, opened)
                    _add_history(connection, lake)
            finally:
                beside.with_name(f"{beside.name}.wal").unlink(missing_ok=True)
    except (duckdb.Error, OSError) as error:
        msg = f"{path} can't be made: {error}. Make room, or give the permission"
        raise SnapshotError(msg) from error
    return path


def ask(
    lake: Lake, store: SnapshotStore, version: str, query: str
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return the columns and rows that a query gives; it can change nothing.

    It sees `snapshot` and `version`, and `predictions`: all days that are committed
    now, wherever the lake is.

    Raises:
        SnapshotError: as `audit_copy`, or the query is wrong.
    """
    path = audit_copy(lake, store, version)
    with duckdb.connect() as connection:
        try:
            quoted = str(path).replace("'", "''")
            connection.execute(f"ATTACH '{quoted}' AS audit (READ_ONLY)")
            for name in ("snapshot", "version"):
                connection.execute(f"CREATE VIEW {name} AS FROM audit.{name}")
            if (history := lake.predictions.dataset()) is not None:
                connection.register("predictions", history)
            result = connection.execute(query)
            return [column[0] for column in result.description], result.fetchall()
        except duckdb.Error as error:
            # Without the picture of where in the query, which spans lines of its own.
            reason = " ".join(str(error).split("\n\nLINE ")[0].split())
            msg = f"the query can't be answered: {reason}"
            raise SnapshotError(msg) from error


def _fill(connection: duckdb.DuckDBPyConnection, version: Version) -> None:
    manifest = version.manifest
    for number in range(len(manifest.files)):
        rows = assembled(version.shard(number).table, manifest)
        names = ", ".join(f'"{n}"' for n in rows.column_names if n != KEY_HASH)
        connection.register("shard", rows)
        if number == 0:
            connection.execute(
                f"CREATE TABLE snapshot AS SELECT {names} FROM shard LIMIT 0"
            )
        connection.execute(f"INSERT INTO snapshot SELECT {names} FROM shard")
        connection.unregister("shard")
    about = manifest.model_dump(
        mode="json", exclude={"files", "outputs", "forms", "fallback"}
    )
    columns = ", ".join(f'? AS "{name}"' for name in about)
    # Of Python's text, a time is a time in SQL.
    values = [
        *(manifest.created_at if n == "created_at" else v for n, v in about.items())
    ]
    connection.execute(f"CREATE TABLE version AS SELECT {columns}", values)


def _add_history(connection: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    paths = [str(path) for path in lake.predictions.all_paths()]
    if not paths or not is_local(lake.folder):
        return
    listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    connection.execute(
        f"CREATE VIEW predictions AS FROM read_parquet([{listed}], "
        "hive_partitioning = true, hive_types_autocast = false, union_by_name = true)"
    )
