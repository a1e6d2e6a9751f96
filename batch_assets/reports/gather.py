"""Gather what a report shows of a night, from what the night left on disk.

The lake, the registry, sweeps and snapshots are read, and a few rows of what was left out.
What can't be read is told on the page, and takes no other part of it down. It loads no
model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from batch_assets.errors import LakeError
from batch_assets.lake.delta_table import Table
from batch_assets.lake.parts import Part
from batch_assets.lake.receipts import PredictionsReceipt
from batch_assets.lake.reconciliation import Books, total_of
from batch_assets.lake.stages import stages_of
from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.nights import profile_of
from batch_assets.reports.drift import drift_of
from batch_assets.reports.facts import (
    CommitLine,
    Drift,
    Histogram,
    LeftOut,
    NightFacts,
    Rightness,
)
from batch_assets.reports.flow import flow_of
from batch_assets.reports.headline import headline_of
from batch_assets.reports.histograms import histograms_of
from batch_assets.reports.left_out import dead_letters_of, quarantined_of
from batch_assets.reports.rightness import rightness_of
from batch_assets.reports.served import Served, served_of
from batch_assets.reports.verdicts import UNREADABLE, gate_lines
from batch_assets.reports.wording import plain
from batch_assets.scoring.sweep_results import Sweep, Sweeps
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.spec import PipelineSpec
from batch_assets.storage import StoragePath

T = TypeVar("T")
Parts = list[Part[PredictionsReceipt]]


@dataclass
class _Attempts:
    """What was tried to be read, and what could not be."""

    problems: list[str] = field(default_factory=list)

    def read(self, what: str, read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except UNREADABLE as error:
            self.problems.append(plain(f"{what}: {error}"))
            return otherwise


def newest_day(lake: Lake) -> str | None:
    """Return the newest day that a pipeline has rows of, if it has any."""
    return max(lake.raw_features.rows_by_day(), default=None)


def gather_night(root: StoragePath, spec: PipelineSpec, day: str) -> NightFacts:
    """Return what there is to show of a night.

    Args:
        root: `<root>`.
        spec: the pipeline.
        day: the day.

    Raises:
        LakeError: nothing of the day is in the lake.
    """
    lake, registry = Lake(root, spec.name), Registry(root)
    store = SnapshotStore(root, spec.name)
    must_have_run(lake, day)
    attempts = _Attempts()
    read = attempts.read
    no_parts: Parts = []
    parts = read("predictions", lambda: lake.predictions.parts(day), no_parts)
    validated = _is_there(lake.validated_features, lake.quarantined_rows, day=day)
    scored = _is_there(lake.predictions, lake.dead_letters, day=day)
    release = read("the release", lambda: _release_of(registry, spec, parts), None)
    served = read("what is served", lambda: served_of(store, day, parts), Served())
    books = read("the books", lambda: lake.books(day), Books(day, {}))
    flow = flow_of(books, validated=validated, scored=scored, in_version=served.rows)
    evidence = DayEvidence.of_day(lake, registry, day, spec.gates)
    gates = gate_lines(
        evidence, lake, store, spec, validated=validated, scored=scored and bool(parts)
    )
    by = release if parts else None
    night = NightFacts(
        pipeline=spec.name,
        day=day,
        made_at=datetime.now(UTC),
        timezone=spec.timezone,
        release=f"{by.name} {by.short}" if by else None,
        headline=headline_of(spec.name, day, flow, gates, served),
        flow=flow,
        gates=tuple(gates),
        served=served,
        sweep=_newest_sweep(root, release),
        commits=tuple(read("commits", lambda: _commits(lake, day), [])),
        forced_at=read("commits", lambda: lake.forced_at(day), None),
    )
    return _with_pictures(night, attempts, lake, spec, by, parts)


def _with_pictures(
    night: NightFacts,
    attempts: _Attempts,
    lake: Lake,
    spec: PipelineSpec,
    release: Release | None,
    parts: Parts,
) -> NightFacts:
    """Add what is drawn of a night, by the release that scored it, if any has."""
    read, day = attempts.read, night.day
    contract = release.contract if release else None
    outputs = contract.written_names if contract else []

    def scores() -> tuple[Histogram, ...]:
        if release is None:
            return ()
        return histograms_of(parts, profile_of(parts), release.manifest)

    return replace(
        night,
        histograms=read("how scores are distributed", scores, ()),
        drift=read("drift", lambda: drift_of(lake, day, outputs, night.gates), Drift()),
        quarantined=read("quarantine", lambda: quarantined_of(lake, day), LeftOut()),
        dead=read("dead letters", lambda: dead_letters_of(lake, day), LeftOut()),
        rightness=read(
            "outcomes",
            lambda: rightness_of(lake, day, spec, contract),
            Rightness(why_not="What is known of outcomes can't be read."),
        ),
        times=tuple(read("times", lambda: stages_of(lake, day), [])),
        problems=tuple(dict.fromkeys(attempts.problems)),
    )


def _is_there(*tables: Table[Any, Any], day: str) -> bool:
    """Whether any of the tables has something of a day."""
    return any(table.paths(day) for table in tables)


def must_have_run(lake: Lake, day: str) -> None:
    """Refuse a day of which there is nothing to show.

    Raises:
        LakeError: nothing of it is in the lake.
    """
    days = lake.raw_features.rows_by_day()
    if day in days or lake.predictions.paths(day):
        return
    span = f"; there are {len(days):,} days, the newest is {max(days)}" if days else ""
    msg = (
        f"nothing of {lake.pipeline} {day} is in the lake, so there is nothing to "
        f"report{span}. Run the day: batch-assets run {lake.pipeline} --day {day}"
    )
    raise LakeError(msg)


def _release_of(
    registry: Registry, spec: PipelineSpec, parts: Sequence[Part[PredictionsReceipt]]
) -> Release | None:
    """The release that scored a day, or else would: it is swept, too."""
    if not parts:
        return registry.resolve(spec.model.name)
    receipt = parts[0].receipt
    return registry.verify(receipt.model, receipt.release)


def _newest_sweep(root: StoragePath, release: Release | None) -> Sweep | None:
    found = Sweeps(root).of_release(release) if release else []
    return max(found, key=lambda one: one.at, default=None)


def _commits(lake: Lake, day: str) -> list[CommitLine]:
    tables: list[Table[Any, Any]] = [
        lake.raw_features,
        lake.validated_features,
        lake.quarantined_rows,
        lake.predictions,
        lake.dead_letters,
    ]
    found = []
    for table in tables:
        commit, parts = table.last_commit(day), table.parts(day)
        if commit is not None and parts:
            total = total_of(part.receipt.total for part in parts)
            found.append(
                CommitLine(
                    table.name,
                    total.rows,
                    f"{total.keys:016x}",
                    commit.version,
                    commit.at,
                    commit.facts.job[:16],
                )
            )
    return found
