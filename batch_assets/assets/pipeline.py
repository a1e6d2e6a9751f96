"""What the assets of one pipeline share: their keys, their looks, their guard."""

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from batch_assets.assets.partitions import day_of
from batch_assets.code_version import code_version
from batch_assets.errors import CommitError
from batch_assets.incremental.reuse import Incremental
from batch_assets.lake.claims import claimed
from batch_assets.lake.commits import Producer
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.reconciliation import ControlTotal
from batch_assets.lake.tables import Lake
from batch_assets.progress import tracked
from batch_assets.root import project_folder
from batch_assets.scoring.plan import ScoringSettings
from batch_assets.spec import PipelineSpec

# The resource by which assets downstream take a pipeline's tables as arguments.
TABLES = "batch_assets_tables"
# A run in one of these states can't commit, whatever its process still does.
OVER = {
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
    dg.DagsterRunStatus.CANCELING,
}


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

    @property
    def scoring_settings(self) -> ScoringSettings:
        """What the YAML says of scoring, as the night takes it."""
        spec = self.spec
        incremental = (
            Incremental(spec.full_every, spec.rescored_share)
            if spec.incremental
            else None
        )
        return ScoringSettings(
            spec.gates,
            spec.chunk_rows,
            spec.chunk_seconds,
            incremental,
            tuple(spec.segments),
            keep_failed=spec.on_failed_shard == "keep_previous",
        )

    def key(self, name: str) -> dg.AssetKey:
        """Return the key of one of the pipeline's assets."""
        return dg.AssetKey([self.spec.name, name])

    def needs(self, *resources: str) -> set[str]:
        """Return the resources of an asset that runs on the engine, its cluster too."""
        return {*resources, *self.spec.engine.needs}

    def address(self, of_yaml: str) -> str:
        """Return where something lies that the YAML names relative to the project."""
        return of_yaml if "://" in of_yaml else str(self.project / of_yaml)

    def look(
        self, name: str, *kinds: str, partitioned: bool = True, table: bool = False
    ) -> dict[str, Any]:
        """Return the arguments that every asset of the pipeline is declared with.

        Args:
            name: of the asset, and of its table.
            kinds: in Dagster's words, so that it has a picture of each.
            partitioned: whether each day has its own.
            table: whether it is a table of the lake.
        """
        look = {
            "key": self.key(name),
            "group_name": self.spec.name,
            "owners": self.spec.owners or None,
            "kinds": set(kinds),
            "partitions_def": self.partitions if partitioned else None,
            "io_manager_key": TABLES,
        }
        if table:
            look["metadata"] = {"dagster/table_name": f"{self.spec.name}.{name}"}
        return look


def as_spec(look: dict[str, Any], **more: Any) -> dg.AssetSpec:
    """Return a look as the spec of one of the assets that a function makes."""
    arguments = look | more
    io_manager = arguments.pop("io_manager_key")
    return dg.AssetSpec(**arguments).with_io_manager_key(io_manager)


@contextmanager
def day_run(
    context: dg.AssetExecutionContext, lake: Lake, what: str, rows: int | None
) -> Iterator[DayRun]:
    """Claim the day that is being made, and show how far it is.

    Args:
        context: of the asset.
        lake: the pipeline's tables.
        what: is made of the day, in a few words.
        rows: how many it will be, if that is known.
    """
    day = day_of(context)
    with (
        sole_run(context, lake) as guard,
        tracked(f"{day} {what}", rows, context.log.info) as progress,
    ):
        producer = Producer(context.run.run_id, code_version(project_folder()))
        yield DayRun(lake, day, guard, progress, producer)


@contextmanager
def sole_run(
    context: dg.AssetExecutionContext, lake: Lake
) -> Iterator[Callable[[], None]]:
    """Claim the day of a pipeline that is being made; give the guard of its commits.

    The guard refuses a commit once the run is over (cancelled, failed, or given up for
    dead), and once another run has taken the day over.
    """

    def state(run_id: str) -> dg.DagsterRunStatus | None:
        run = context.instance.get_run_by_id(run_id)
        return run.status if run else None

    run_id, day = context.run.run_id, day_of(context)
    with claimed(
        lake.folder, day, run_id, lambda other: state(other) in OVER
    ) as must_hold_claim:
        lake.remove_leftovers(day)

        def guard() -> None:
            status = state(run_id)
            if status is None or status in OVER:
                msg = (
                    f"run {run_id} is {status.value if status else 'gone'}, so it may "
                    "not commit; what it wrote stays invisible. Start the day again."
                )
                raise CommitError(msg)
            must_hold_claim()

        yield guard


def picture_metadata(about: str, png: bytes) -> dg.MarkdownMetadataValue:
    """Return a PNG as the catalog shows it."""
    data = base64.b64encode(png).decode()
    return dg.MetadataValue.md(f"![{about}](data:image/png;base64,{data})")


def total_metadata(name: str, total: ControlTotal) -> dict[str, Any]:
    """Return a total: its rows as a number to plot, its checksum as text to compare."""
    return {f"{name}_rows": total.rows, f"{name}_keys": f"{total.keys:016x}"}
