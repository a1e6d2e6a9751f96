"""The assets of the user's that a pipeline is behind: whether they are there, their rows.

Dagster's own graph says which of their partitions a day is made of: the same day, its
hours, or all there is of an asset without partitions. It knows no kind of source.
"""

import difflib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
from dagster import DagsterInstance

from batch_assets.assets.pipeline import Pipeline
from batch_assets.assets.source_tables import as_key
from batch_assets.errors import PipelineError, SourceError
from batch_assets.lake.handed_rows import HandedRows, handed_rows
from batch_assets.lake.sources import ReadContext, Source
from batch_assets.planner.clock import NightClock
from batch_assets.spec import PipelineSpec

# Dagster's mark of an asset that is but named as a dependency.
STUB = "dagster/auto_created_stub_asset"
# So many missing partitions of an asset are named.
NAMED = 3


@dataclass(frozen=True)
class Missing:
    """An asset that is not there for a day: why, and what makes it, if that is known."""

    why: str
    command: str | None


@dataclass(frozen=True)
class Upstream:
    """What an asset of a pipeline is behind, as a graph of Dagster has it.

    Attributes:
        spec: of the pipeline.
        graph: of the code location, or of the job that runs.
        asset: whose days are made.
    """

    spec: PipelineSpec
    graph: Any  # Dagster exports no type of it.
    asset: dg.AssetKey

    def missing(
        self, instance: DagsterInstance, names: Sequence[str], day: str
    ) -> list[Missing]:
        """Return which of the assets that a day needs are not there.

        An asset without partitions is there once it was made after the day had ended.

        Raises:
            PipelineError: Dagster can't tell which partitions are of the day.
        """
        found = [self._missing_of(instance, name, day) for name in names]
        return [one for one in found if one]

    def partitions_of(self, name: str, day: str) -> list[str] | None:
        """Return the partitions of an asset that a day needs; None if it has none.

        Raises:
            PipelineError: Dagster can't tell.
        """
        own, theirs = self._node(self.asset), self._node(as_key(name))
        if theirs is None or theirs.partitions_def is None:
            return None
        mapping = self.graph.get_partition_mapping(self.asset, as_key(name))
        days = own.partitions_def.subset_with_partition_keys([day])
        try:
            mapped = mapping.get_upstream_mapped_partitions_result_for_partitions(
                days, own.partitions_def, theirs.partitions_def, datetime.now(UTC)
            )
        except dg.DagsterError as error:
            msg = (
                f"which partitions of {name} are of {day} can't be told: {error}. "
                f"{self.spec.name} has days of {self.spec.timezone}, {name} is partitioned "
                f"as: {theirs.partitions_def}. Give one of them the other's `timezone`"
            )
            raise PipelineError(msg) from error
        there = list(mapped.partitions_subset.get_partition_keys())
        return there or [day]

    def _missing_of(
        self, instance: DagsterInstance, name: str, day: str
    ) -> Missing | None:
        made = instance.get_materialized_partitions(as_key(name))
        needed = self.partitions_of(name, day)
        if needed is None and made:
            needed = [
                day
            ]  # It is of another code location, which knows its partitions.
        if needed is None:
            return self._missing_whole(instance, name, day)
        left = [one for one in needed if one not in made]
        if not left:
            return None
        if len(needed) == 1:
            why = f"{name} of {left[0]} was never materialised"
            return Missing(why, self._command(name, f" --partition {left[0]}"))
        shown = ", ".join(left[:NAMED]) + (", …" if len(left) > NAMED else "")
        return Missing(
            f"{len(left)} of {len(needed)} partitions of {name} were never materialised "
            f"({shown})",
            f"a backfill of {name} in the UI",
        )

    def _missing_whole(
        self, instance: DagsterInstance, name: str, day: str
    ) -> Missing | None:
        event = instance.get_latest_materialization_event(as_key(name))
        if event is None:
            why = f"{name} was never materialised"
            if not self._is_made_here(name):
                known = [
                    key.to_user_string() for key in self.graph.get_all_asset_keys()
                ]
                close = difflib.get_close_matches(name, set(known) - {name}, n=1)
                why += " and nothing in this code location makes it"
                why += f"; is '{close[0]}' meant?" if close else ""
            return Missing(why, self._command(name))
        ended = NightClock.of_nights(self.spec).ended(day)
        at = datetime.fromtimestamp(event.timestamp, UTC)
        if at >= ended:
            return None
        why = (
            f"{name} was last materialised at {at:%Y-%m-%d %H:%M} UTC, before {day} had "
            "ended"
        )
        return Missing(why, self._command(name))

    def _command(self, name: str, partition: str = "") -> str | None:
        if not self._is_made_here(name):
            return None
        return f"`dg launch --assets '{name}'{partition}`"

    def _is_made_here(self, name: str) -> bool:
        node = self._node(as_key(name))
        return node is not None and STUB not in node.metadata

    def _node(self, key: dg.AssetKey) -> Any:
        return self.graph.get(key) if self.graph.has(key) else None


def upstream_of(context: dg.AssetExecutionContext, pipeline: Pipeline) -> Upstream:
    """Return what the asset that runs is behind."""
    graph = context.job_def.asset_layer.asset_graph
    return Upstream(pipeline.spec, graph, context.asset_key)


def must_be_there(
    context: dg.AssetExecutionContext,
    pipeline: Pipeline,
    sources: Sequence[Source],
    day: str,
) -> None:
    """Refuse to read a day before what it is made of is there.

    Raises:
        SourceError: with what is missing, and what to select.
    """
    names = list(dict.fromkeys(name for one in sources for name in one.asset_names))
    upstream = upstream_of(context, pipeline)
    missing = upstream.missing(context.instance, names, day)
    if missing:
        own = context.asset_key.to_user_string()
        commands = ", ".join(one.command for one in missing if one.command)
        msg = (
            f"{day} waits for what it is made of: {in_words(missing)}. Nothing was read. "
            + (f"Materialise it first: {commands}. Or select" if commands else "Select")
            + f" it together with {own}, or say `upstream: include` in the YAML, with "
            "which each night makes it"
        )
        raise SourceError(msg)


def in_words(missing: Sequence[Missing]) -> str:
    """Say what is missing."""
    return "; ".join(one.why for one in missing)


@contextmanager
def with_rows(
    context: dg.AssetExecutionContext,
    pipeline: Pipeline,
    sources: Sequence[Source],
    read: ReadContext,
) -> Iterator[tuple[ReadContext, list[Source]]]:
    """Hand over the rows that sources take from assets; give the sources, told of them.

    Raises:
        SourceError: what the day is made of is not there yet.
        SourceError: an asset's value can't be loaded, or is none of rows.
        PipelineError: Dagster can't tell which partitions are of the day.
    """
    must_be_there(context, pipeline, sources, read.day)
    upstream = upstream_of(context, pipeline)
    given: dict[str, HandedRows] = {}
    told: list[Source] = []
    with TemporaryDirectory(prefix="batch-assets-given-") as folder:
        for source in sources:
            tables = [table for table in source.read_from() if table.by_name]
            for table in tables:
                keys = upstream.partitions_of(table.address, read.day)
                parts: Sequence[str | None] = keys or [None]
                source = source.handed_by_day(by_day=keys is not None)
                own = Path(folder) / str(len(given))
                own.mkdir()
                values = [
                    _value(context, table.address, key, source.handed_as)
                    for key in parts
                ]
                what = f"{table.address} of {read.day}"
                given[table.address] = handed_rows(values, what, own)
            told.append(source)
        yield replace(read, handed=given), told


def _value(
    context: dg.AssetExecutionContext,
    name: str,
    partition: str | None,
    python_type: type | None,
) -> Any:
    of, muted = f" of {partition}" if partition else "", logging.root.manager.disable
    # Dagster tells the console of each step of it, whichever log level a run has.
    logging.disable(logging.DEBUG)
    try:
        return context.load_asset_value(
            as_key(name), python_type=python_type, partition_key=partition
        )
    # The IO manager is the user's: it may raise anything.
    except Exception as error:
        msg = (
            f"{name}{of} can't be loaded by its IO manager: {type(error).__name__}: "
            f"{error}. Nothing was read. Its function must be in this code location and "
            "return its rows: of one that returns a MaterializeResult or None nothing is "
            "kept; name the files that it writes as the source instead, and the asset "
            "under `deps`"
        )
        raise SourceError(msg) from error
    finally:
        logging.disable(muted)
