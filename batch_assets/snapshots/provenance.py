"""What stands behind one row: from the served value down to the source's identity.

It reads what the nights have left and proves nothing anew; it knows neither Dagster nor
how any of it is printed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from batch_assets.errors import (
    CorruptPartError,
    LakeError,
    NotServedError,
    ReleaseError,
    SnapshotError,
)
from batch_assets.lake.commits import ScoringCommit
from batch_assets.lake.delta_table import DayCommit, Table, digest_of
from batch_assets.lake.parts import open_part, read_open
from batch_assets.lake.reconciliation import Page
from batch_assets.lake.shards import hash_key
from batch_assets.lake.tables import Lake
from batch_assets.lake.texts import NOT_UTF8
from batch_assets.models.contract import Contract
from batch_assets.models.registry import ApprovalEvent, Registry
from batch_assets.quality.verdict_record import JudgedDay, read_verdicts
from batch_assets.snapshots.history import HistoryEntry
from batch_assets.snapshots.manifest import SnapshotManifest, day_of
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.snapshots.version import Version, integer_of

Fate = Literal["predicted", "dead letter", "quarantined", "kept", "not in the source"]


@dataclass(frozen=True)
class Step:
    """One table's day as it was committed: when, by which run of which code.

    `version` is that of the Delta table. Days of before 0.2.0 may tell neither.
    """

    table: str
    version: int
    committed_at: datetime
    job: str
    run: str | None
    code: str | None


@dataclass(frozen=True)
class ServedValue:
    """What readers get for the key, of which version, and who published it when and why.

    `of_these_predictions` is False where the day was scored again and not published.
    """

    outputs: Mapping[str, Any]
    manifest: SnapshotManifest
    is_served: bool
    of_these_predictions: bool
    is_fallback: bool = False
    published: HistoryEntry | None = None


@dataclass(frozen=True)
class ReleaseRecord:
    """The release that scored, and who approved or revoked it, the oldest first."""

    name: str
    digest: str
    contract: str
    approvals: tuple[ApprovalEvent, ...]


@dataclass(frozen=True)
class Provenance:
    """What is known of one key on one day.

    Attributes:
        pipeline: its name.
        key: as the source has it.
        day: the day.
        fate: where the row ended; it is kept where its shard could not be scored.
        shard: the row's, of `shards`.
        served: what readers get; None where no version of the day is there.
        row: of predictions, dead letters or quarantine: where it ended.
        features: as the model got them, if the row was validated; categories by name.
        source_row: as the source gave it, where the lake has a copy.
        source: what names the rows that the source held: digests, or a table's version.
        steps: the commits, from raw features on.
        release: that scored the day.
        page: the books of the row's shard, and `day_page` those of the whole day.
        books_close: of the whole day.
        judged: what the gates said when the day was last to be published.
    """

    pipeline: str
    key: int | str
    day: str
    fate: Fate
    shard: int
    shards: int
    served: ServedValue | None
    row: Mapping[str, Any] | None
    features: Mapping[str, Any] | None
    source_row: Mapping[str, Any] | None
    source: Any
    steps: tuple[Step, ...]
    release: ReleaseRecord | None
    page: Page
    day_page: Page
    books_close: bool
    judged: JudgedDay | None
    notes: tuple[str, ...] = field(default=())


def explain_key(
    lake: Lake,
    registry: Registry,
    store: SnapshotStore,
    key: str,
    day: str | None = None,
) -> Provenance:
    """Find what stands behind a key.

    Args:
        lake: the pipeline's tables.
        registry: the models.
        store: of the pipeline's versions.
        key: as it is typed.
        day: the day; of what is served, if left out.

    Raises:
        LakeError: nothing of the day is in the lake.
        NotServedError: nothing is served, and no day was named.
        SnapshotError: the key is of the wrong type.
    """
    day = day or _served_day(store)
    row, shards = _row(lake, day, key)
    scoring = lake.predictions.last_commit(day)
    predicted = lake.predictions.paths(day)
    release, contract, note = None, None, None
    if predicted and scoring:
        release, contract, note = _release(registry, scoring)
    books, notes = lake.books(day), [note] if note else []
    fate, ended = _fate(lake, row)
    source_row = row.of(lake.raw_features) or {}
    source_row.pop(NOT_UTF8, None)  # It is among the rules that it broke.
    if source_row and not ended and row.shard in books.kept:
        fate = "kept"
        notes.append(
            f"its shard could not be scored: {lake.failed_shards(day)[row.shard]}"
        )
    features = _features(lake, row, notes)
    source = lake.raw_features.last_commit(day)
    return Provenance(
        pipeline=lake.pipeline,
        key=row.key,
        day=day,
        fate=fate,
        shard=row.shard,
        shards=shards,
        served=_served(lake, store, day, row.key),
        row=ended,
        features=_named(features, contract),
        # Of a pinned source the lake has the keys alone.
        source_row=source_row if len(source_row) > 1 else None,
        source=source.facts.source if source else None,
        steps=_steps(lake, day),
        release=release,
        page=books.pages[row.shard],
        day_page=books.total,
        books_close=books.closed if predicted else not books.open_after_validation(),
        judged=read_verdicts(lake, day),
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Row:
    """One key of a day, to be found in the tables."""

    day: str
    shard: int
    column: str
    key: int | str

    def of(self, table: Table[Any, Any]) -> dict[str, Any] | None:
        """Return its row of a table, None if it has none; of each group the key first."""
        for part in table.of_shards([self.shard]).parts(self.day):
            _, file = open_part(part.path)
            with file:
                for group in range(len(part.groups)):
                    keys = read_open(part, file, [self.column], [group])[self.column]
                    at = pc.index(keys, pa.scalar(self.key, keys.type)).as_py()
                    if at >= 0:
                        rows = read_open(part, file, None, [group])
                        return dict(rows.slice(at, 1).to_pylist()[0])
        return None


def _row(lake: Lake, day: str, key: str) -> tuple[_Row, int]:
    """Return where a key is to be found, and of how many shards.

    Raises:
        LakeError: nothing of the day is in the lake.
        SnapshotError: the key is of another type.
    """
    raw = lake.raw_features.parts(day)
    if not raw:
        known = sorted(lake.raw_features.rows_by_day())
        span = f"its days are {known[0]} to {known[-1]}" if known else "it has no day"
        msg = f"{lake.pipeline} has nothing of {day}; {span}"
        raise LakeError(msg)
    # Wherever rows lie, the key comes first.
    column = open_part(raw[0].path)[1].schema_arrow.field(0)
    typed = _typed(key, column)
    shards = len({part.shard for part in raw})
    return _Row(day, hash_key(typed) % shards, column.name, typed), shards


def _served_day(store: SnapshotStore) -> str:
    served = store.served()
    if served is None:
        msg = f"nothing of {store.pipeline} is served: name a day with --day"
        raise NotServedError(msg)
    return day_of(served)


def _typed(key: str, column: pa.Field) -> int | str:
    """Return a key as its column has it.

    Raises:
        SnapshotError: it is of another type.
    """
    if not pa.types.is_integer(column.type):
        return key
    number = integer_of(key)
    if number is None:
        msg = f"the key '{column.name}' is an integer, got '{key[:80]}'"
        raise SnapshotError(msg)
    return number


def _fate(lake: Lake, row: _Row) -> tuple[Fate, dict[str, Any] | None]:
    """Return where a row ended, and as what."""
    tables: list[tuple[Fate, Table[Any, Any]]] = [
        ("predicted", lake.predictions),
        ("dead letter", lake.dead_letters),
        ("quarantined", lake.quarantined_rows),
    ]
    for fate, table in tables:
        if found := row.of(table):
            return fate, found
    return "not in the source", None


def _features(lake: Lake, row: _Row, notes: list[str]) -> dict[str, Any] | None:
    """Return the row as it was validated; note it where its part can't be read."""
    try:
        return row.of(lake.validated_features)
    except CorruptPartError as error:
        notes.append(str(error))
        return None


def _release(
    registry: Registry, commit: DayCommit[ScoringCommit]
) -> tuple[ReleaseRecord, Contract | None, str | None]:
    """Return the release of a day, its contract, and what is wrong with it, if anything."""
    name, digest = commit.facts.model, commit.facts.release
    contract, note = None, None
    try:
        contract = registry.verify(name, digest).contract
    except ReleaseError as error:
        note = str(error)
    approvals = [e for e in registry.events(name) if e.digest == digest]
    asked = contract.digest if contract else ""
    return ReleaseRecord(name, digest, asked, tuple(approvals)), contract, note


def _served(
    lake: Lake, store: SnapshotStore, day: str, key: int | str
) -> ServedValue | None:
    """Return what the served version says if it is of the day; else the day's newest."""
    served = store.served()
    digest = digest_of(lake.predictions.parts(day))
    name = served if served and day_of(served) == day else None
    if name is None:
        built = store.versions_of(digest)
        if not built:
            return None
        name = built[-1]
    version = Version.open(store, name)
    answer = version.get(key)
    entries, _ = store.history()
    published = [e for e in entries if (e.act, e.version) == ("publish", name)]
    return ServedValue(
        outputs=answer.plain_outputs if answer else {},
        manifest=version.manifest,
        is_served=name == served,
        of_these_predictions=version.manifest.predictions == digest,
        is_fallback=bool(answer and answer.is_fallback),
        published=published[-1] if published else None,
    )


def _steps(lake: Lake, day: str) -> tuple[Step, ...]:
    tables: list[Table[Any, Any]] = [
        lake.raw_features,
        lake.validated_features,
        lake.predictions,
    ]
    steps = []
    for table in tables:
        if commit := table.last_commit(day):
            by = commit.producer
            steps.append(
                Step(
                    table.name,
                    commit.version,
                    commit.at.astimezone(UTC),
                    commit.facts.job,
                    by.run if by else None,
                    by.code if by else None,
                )
            )
    return tuple(steps)


def _named(
    features: dict[str, Any] | None, contract: Contract | None
) -> dict[str, Any] | None:
    """Return the features with the names of their categories, which the model gets as
    positions."""
    if features is None or contract is None:
        return features
    named = dict(features)
    for feature in contract.features:
        at = named.get(feature.name)
        if feature.categories and at is not None and at == at:
            named[feature.name] = feature.categories[int(at)]
    return named
