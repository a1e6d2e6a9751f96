"""What the assets of one pipeline share: their keys, their looks, their guard."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa

from batch_assets.errors import CommitError
from batch_assets.lake.books import Tally
from batch_assets.spec import PipelineSpec


@dataclass(frozen=True)
class Pipeline:
    """A pipeline as its assets see it.

    `base` is the folder of its YAML, `project` the folder that data files are relative
    to.
    """

    spec: PipelineSpec
    base: Path
    project: Path
    partitions: dg.DailyPartitionsDefinition

    def key(self, name: str) -> dg.AssetKey:
        """The key of one of the pipeline's assets."""
        return dg.AssetKey([self.spec.name, name])

    def look(self, name: str, *kinds: str, partitioned: bool = True) -> dict[str, Any]:
        """The arguments that every asset of the pipeline is declared with."""
        return {
            "key": self.key(name),
            "group_name": self.spec.name,
            "owners": self.spec.owners or None,
            "kinds": set(kinds),
            "partitions_def": self.partitions if partitioned else None,
        }


def guard_of(context: dg.AssetExecutionContext) -> Callable[[], None]:
    """Refuses a commit once the run is over: cancelled, failed, or given up for dead."""

    def guard() -> None:
        run = context.instance.get_run_by_id(context.run.run_id)
        if (
            run is None
            or run.is_finished
            or run.status == dg.DagsterRunStatus.CANCELING
        ):
            state = run.status.value if run else "gone"
            msg = (
                f"run {context.run.run_id} is {state}, so it may not commit; what it "
                "wrote stays invisible. Start the day again."
            )
            raise CommitError(msg)

    return guard


def table_metadata(path: Path, schema: pa.Schema, rows: int) -> dict[str, Any]:
    """What the catalog shows of a table's day."""
    return {
        "dagster/uri": str(path),
        "dagster/partition_row_count": rows,
        "dagster/column_schema": column_schema(schema),
    }


def column_schema(schema: pa.Schema) -> dg.TableSchema:
    """An Arrow schema as the catalog shows it."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                field.name,
                str(field.type),
                constraints=dg.TableColumnConstraints(nullable=field.nullable),
            )
            for field in schema
        ]
    )


def tally_metadata(name: str, tally: Tally) -> dict[str, Any]:
    """A tally: its rows as a number to plot, its checksum as text to compare."""
    return {f"{name}_rows": tally.rows, f"{name}_keys": f"{tally.keys:016x}"}
