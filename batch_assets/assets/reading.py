"""The IO manager by which assets downstream take a pipeline's tables as arguments.

    @dg.asset(ins={"predictions": dg.AssetIn(["churn", "predictions"])}, ...)
    def letters(predictions: pl.LazyFrame) -> pl.DataFrame: ...

An argument's annotation says as what its rows come. It only reads: nights write.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
from dagster import InputContext, OutputContext

from batch_assets.assets.pipeline import TABLES
from batch_assets.errors import LakeError, NotServedError, PipelineError, SnapshotError
from batch_assets.lake.delta_table import Table
from batch_assets.lake.tables import Lake
from batch_assets.resources import StorageResource
from batch_assets.snapshots.flattening import assembled
from batch_assets.snapshots.reader import Snapshot
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.snapshots.version import Version

DAY, SHARD, SNAPSHOT = "day", "shard", "serving_snapshot"


class TablesIOManager(dg.IOManager):
    """Reads what nights have committed, and what is served; it writes nothing."""

    def load_input(self, context: InputContext) -> Any:
        """Return the rows of the days that are asked for, as the argument is annotated.

        Raises:
            LakeError: a day is not committed, or nothing is.
            SnapshotError: no version of a day is there any more.
            PipelineError: the asset has no rows to hand out, or not as this type.
        """
        storage: StorageResource = context.resources.storage
        *_, pipeline, name = context.asset_key.path
        taken, every = f"{pipeline}/{name}", _takes_all(context)
        days, wanted = _days_of(context), context.dagster_type.typing_type
        if name == SNAPSHOT:
            store = storage.snapshots(pipeline)
            return _served(store, None if every else days, wanted, taken)
        table = _table_of(storage.lake(pipeline), name)
        days = _committed(table, days, taken, every)
        dataset = table.dataset()
        assert dataset is not None  # A day is committed, so the table is there.
        return _as(wanted, dataset.filter(ds.field(DAY).isin(days)), taken)

    def handle_output(self, context: OutputContext, obj: Any) -> None:
        """Refuse to write.

        Raises:
            PipelineError: always.
        """
        msg = (
            f"{TABLES} reads what a pipeline's nights have written, and writes nothing: "
            f"give {context.asset_key.to_user_string()} an IO manager of its own"
        )
        raise PipelineError(msg)


@dg.io_manager(required_resource_keys={"storage"})
def tables_io_manager(_: dg.InitResourceContext) -> TablesIOManager:
    """Read a pipeline's tables as arguments of the assets downstream."""
    return TablesIOManager()


def _days_of(context: InputContext) -> list[str] | None:
    """Return the days that are asked for; None without any."""
    return list(context.asset_partition_keys) if context.has_asset_partitions else None


def _takes_all(context: InputContext) -> bool:
    """Tell whether an asset without days of its own asks: it gets what there is."""
    try:
        step = context.step_context
    except dg.DagsterInvariantViolationError:
        return not context.has_asset_partitions  # Loaded by hand, outside of a run.
    layer: Any = step.job_def.asset_layer
    keys = layer.get_selected_entity_keys_for_node(step.node_handle)
    asking = [key for key in keys if isinstance(key, dg.AssetKey)]
    return all(layer.get(key).partitions_def is None for key in asking)


def _table_of(lake: Lake, name: str) -> Table[Any, Any]:
    tables = {
        one.name: one
        # Of the others a day without rows leaves nothing that tells it from no day.
        for one in (lake.predictions, lake.validated_features)
    }
    if name not in tables:
        msg = (
            f"{lake.pipeline}/{name} has no rows to take as an argument. Take one of "
            f"{', '.join([*tables, SNAPSHOT])}, or name it under `deps`"
        )
        raise PipelineError(msg)
    return tables[name]


def _committed(
    table: Table[Any, Any], days: Sequence[str] | None, name: str, every: bool
) -> list[str]:
    """Return those days that are asked for and committed; all of them if `every` is not."""
    there = table.rows_by_day()
    asked = list(there) if days is None else list(days)
    found = [day for day in asked if day in there]
    missing = [day for day in asked if day not in there]
    if not found or (missing and not every):
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        what = f"{shown} of {name} is" if shown else f"no day of {name} is"
        newest = f"the newest day that is there is {max(there)}" if there else ""
        msg = (
            f"{what} not committed"
            + (f"; {newest}" if newest else "")
            + f". Run that night first, or select {name.partition('/')[0]}'s assets too"
        )
        raise LakeError(msg)
    return found


def _served(
    store: SnapshotStore, days: Sequence[str] | None, wanted: Any, taken: str
) -> Any:
    """Return the version of each day, or what is served now if no day is asked for."""
    if wanted is Snapshot:
        return _reader(store, days, taken)
    names = [store.must_serve()] if days is None else [_version(store, d) for d in days]
    if wanted is Version:
        if len(names) != 1:
            msg = f"{taken} is asked for as a Version, which is of one day, and {len(names)} days are"
            raise PipelineError(msg)
        return Version.open(store, names[0])
    tables = [_rows_of(Version.open(store, name)) for name in names]
    return _as(wanted, ds.dataset(pa.concat_tables(tables)), taken)


def _reader(store: SnapshotStore, days: Sequence[str] | None, taken: str) -> Snapshot:
    reader = Snapshot(store)
    if days is not None and [reader.day] != list(days):
        served = reader.day
        reader.close()
        msg = (
            f"{taken} is asked for as a Snapshot, which follows what is served: {served}, "
            f"and {', '.join(days[:3])} is asked for. Annotate it with Version, or a frame"
        )
        raise SnapshotError(msg)
    return reader


def _version(store: SnapshotStore, day: str) -> str:
    """Return the version of a day: the one that is served, or the last that was built."""
    of_day = [one.version for one in store.versions() if one.day == day]
    if not of_day:
        msg = (
            f"no version of {day} is at {store}: it was not built, or is older than those "
            "that are kept (`serving.keep`). Take `predictions`, which keeps every day"
        )
        raise NotServedError(msg)
    served = store.served()
    return served if served in of_day else of_day[-1]


def _rows_of(version: Version) -> pa.Table:
    """Return all rows of a version, as predictions have them, with their day."""
    manifest = version.manifest
    shards = [version.shard(number).table for number in range(len(manifest.files))]
    rows = assembled(pa.concat_tables(shards), manifest)
    return rows.append_column(DAY, pa.repeat(pa.scalar(manifest.day), len(rows)))


def _as(wanted: Any, dataset: ds.Dataset, taken: str) -> Any:
    """Return rows as a type; of no annotation, as a DataFrame of Polars."""
    names = [name for name in dataset.schema.names if name != SHARD]
    makers: dict[Any, Callable[[], Any]] = {
        Any: lambda: pl.DataFrame(dataset.to_table(names)),
        pl.DataFrame: lambda: pl.DataFrame(dataset.to_table(names)),
        pl.LazyFrame: lambda: pl.scan_pyarrow_dataset(dataset).select(names),
        pa.Table: lambda: dataset.to_table(names),
        pa.RecordBatchReader: lambda: dataset.scanner(names).to_reader(),
        ds.Dataset: lambda: dataset,
        duckdb.DuckDBPyRelation: lambda: _relation(dataset, names),
    }
    if pandas := sys.modules.get("pandas"):  # Who asks for its frame has imported it.
        makers[pandas.DataFrame] = lambda: dataset.to_table(names).to_pandas()
    if wanted not in makers:
        msg = (
            f"{taken} is asked for as {getattr(wanted, '__name__', wanted)}, and comes "
            "as a DataFrame or LazyFrame of Polars, a pandas DataFrame, a Table, "
            "RecordBatchReader or Dataset of Arrow, or a DuckDBPyRelation; "
            f"{SNAPSHOT} as a Snapshot or Version, too"
        )
        raise PipelineError(msg)
    return makers[wanted]()


def _relation(dataset: ds.Dataset, names: list[str]) -> Any:
    # A connection of its own; the relation keeps it. As an annotation its type would
    # outlive the interpreter, of which it complains at every command's end.
    columns = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
    return duckdb.connect().from_arrow(dataset).project(columns)
