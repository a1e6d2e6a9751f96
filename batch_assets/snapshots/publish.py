"""Publish a day: build a version, prove it, swap it in. Forward only.

What speaks for a day is read again for the very day that is published: its books, its gates,
its release. If anything is wrong, yesterday stays up. It knows no Dagster.
"""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import filelock
import pyarrow as pa

from batch_assets.errors import (
    CommitError,
    CorruptPartError,
    LakeError,
    SnapshotError,
    StorageError,
)
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.delta_table import digest_of
from batch_assets.lake.overrides import Override
from batch_assets.lake.parts import read_columns, sealed_part
from batch_assets.lake.tables import Lake
from batch_assets.models.contract import Contract
from batch_assets.models.registry import Registry
from batch_assets.parallel import on_cores
from batch_assets.quality.gates import after_scoring
from batch_assets.quality.verdict import Verdict, must_be_open
from batch_assets.quality.verdict_record import record_verdicts
from batch_assets.snapshots.build import MAKE_ROOM, build_version
from batch_assets.snapshots.fallback import Fallback
from batch_assets.snapshots.fallback_table import fallback_of
from batch_assets.snapshots.fetch import fetched, must_be_whole
from batch_assets.snapshots.flattening import columns_of, forms_of
from batch_assets.snapshots.history import new_entry
from batch_assets.snapshots.kept import FailedShard
from batch_assets.snapshots.manifest import (
    MANIFEST,
    NAMED,
    SnapshotManifest,
    day_of,
)
from batch_assets.snapshots.proof import STAYS
from batch_assets.snapshots.retention import collect
from batch_assets.snapshots.store import CURRENT, SnapshotStore
from batch_assets.snapshots.version import Version
from batch_assets.spec import GateLimits, Serving
from batch_assets.storage import has_links, local, put_folder

log = logging.getLogger(__name__)

BUILDING = ".building-"


@dataclass(frozen=True)
class Published:
    """The day's version, what is served by now, and whether that was swapped in now.

    `current` is the manifest of what CURRENT names, if that can be read, and `contract`
    that of the day's release. `built` says that the version was built now, and was not
    there before.
    """

    version: str
    current: SnapshotManifest | None
    swapped: bool
    why: str
    verdicts: list[Verdict]
    contract: Contract
    built: bool = False


def publish_day(
    run: DayRun,
    registry: Registry,
    store: SnapshotStore,
    *,
    gates: GateLimits,
    serving: Serving,
    why: str = "a night was published",
) -> Published:
    """Build a version from a day's predictions and serve it, if nothing speaks against.

    It is not served if a newer day is, if publishing is blocked, or if this version was
    taken back: then it is only built. What the gates say is kept, open or shut.

    Args:
        run: the day, and whether this run may still publish it.
        registry: the models.
        store: of the pipeline's versions.
        gates: the limits that the day must keep.
        serving: how many versions stay on disk, and when one is stale.
        why: the reason that the history gives.

    Raises:
        GateError: a gate of that day is shut.
        LakeError: the day has no predictions.
        SnapshotError: the version that was built is not what was predicted.
    """
    workshop = local(store.folder)
    workshop.mkdir(parents=True, exist_ok=True)
    # One publisher at a time. An operator does not wait for it: what is served changes
    # under a lock of its own. In a bucket there may be others, on other machines: there
    # CURRENT is swapped only if it is still the one that was judged by.
    with filelock.FileLock(workshop / ".publishing"):
        scored = _ScoredDay(run.lake, registry, run.day, gates)
        scored.must_be_proved()
        scored.must_be_committed()
        if newer := _newer(store, run.day):
            built = store.versions_of(scored.digest)
            name = built[-1] if built else _free_name(store, scored)
            return _published(store, name, scored, swapped=False, why=newer)
        _remove_leftovers(workshop)
        contract = scored.release.contract
        fallback = fallback_of(run.lake, run.day, serving.fallback, contract)
        version = _whole_version(store, scored.digest, fallback, scored.overrides)
        new = version is None
        if version is None:
            manifest = _build(store, scored, serving, fallback)
            # It took a while: the day may be another by now, an override have ended.
            scored.must_be_proved()
            _put(store, manifest)
            version = manifest.version
        with store.lock(), _explained(store):
            swapped, outcome = swap(store, version, why, run.guard)
        try:
            collect(store, serving.keep, timedelta(minutes=serving.keep_minutes))
        except (OSError, StorageError) as error:
            # The day is published; what could not go goes after the next one.
            log.warning("old versions of %s can't be removed: %s", store, error)
    found = _published(store, version, scored, swapped=swapped, why=outcome)
    return replace(found, built=new)


class _ScoredDay:
    """What speaks for a day, which is read again whenever it is asked for."""

    def __init__(
        self, lake: Lake, registry: Registry, day: str, gates: GateLimits
    ) -> None:
        self.lake, self.registry, self.day, self.gates = lake, registry, day, gates
        self.parts = lake.predictions.parts(day)
        if not self.parts:
            msg = f"predictions has no {day}: materialise it first; {STAYS}"
            raise LakeError(msg)
        self.digest = digest_of(self.parts)
        receipt = self.parts[0].receipt
        self.release = registry.verify(receipt.model, receipt.release)
        self.verdicts: list[Verdict] = []

    @property
    def overrides(self) -> tuple[Override, ...]:
        """By which of the day's overrides it passes gates that are shut."""
        return tuple(one.override for one in self.verdicts if one.override)

    def must_be_proved(self) -> None:
        """Judge every gate, and refuse a day that was scored again meanwhile.

        Raises:
            GateError: a gate is shut.
            SnapshotError: its predictions are others by now.
        """
        manifest = self.registry.verify(self.release.name, self.release.digest).manifest
        self.verdicts = after_scoring(
            self.lake, self.registry, manifest, self.day, self.gates
        )
        self._keep_verdicts()
        must_be_open(self.day, self.verdicts, pipeline=self.lake.pipeline, then=STAYS)
        if self.lake.predictions.paths(self.day) != [part.path for part in self.parts]:
            msg = f"{self.day} was scored again while its version was built; {STAYS}"
            raise SnapshotError(msg)

    def _keep_verdicts(self) -> None:
        try:
            record_verdicts(self.lake, self.day, self.digest, self.verdicts, self.gates)
        except CommitError as error:
            msg = f"what the gates say can't be kept: {error}; {STAYS}. {MAKE_ROOM}"
            raise SnapshotError(msg) from error

    def must_be_committed(self) -> None:
        """Refuse parts whose bytes are not those that were committed.

        Raises:
            CorruptPartError: they are not.
        """
        commit = self.lake.predictions.last_commit(self.day)
        if commit is None or commit.parts != self.digest:
            msg = (
                f"the predictions of {self.day} are not the bytes that were committed; "
                f"{STAYS}. Run the day again: what was changed is made again."
            )
            raise CorruptPartError(msg)
        # Their keys are proved where they end: in what was built of them.
        on_cores(lambda part, _: sealed_part(part.path), self.parts)


def _build(
    store: SnapshotStore,
    scored: _ScoredDay,
    serving: Serving,
    fallback: Fallback | None,
) -> SnapshotManifest:
    """Build a version on this machine, under a name that nobody reads."""
    contract, books = scored.release.contract, scored.lake.books(scored.day)
    plan = SnapshotManifest(
        pipeline=scored.lake.pipeline,
        version=_free_name(store, scored),
        day=scored.day,
        created_at=datetime.now(UTC),
        stale_after_seconds=serving.stale_hours * 3600,
        key=contract.key.name,
        key_dtype=contract.key.dtype,
        outputs=columns_of(contract),
        model_name=scored.release.name,
        model_version=scored.release.digest,
        job=scored.parts[0].receipt.job,
        predictions=scored.digest,
        files=(),
        parent=store.pointer(CURRENT).version_or_none(),
        forced_at=scored.lake.forced_at(scored.day),
        forms=forms_of(contract),
        fallback=fallback,
        overrides=scored.overrides,
    )
    earlier: list[tuple[Path, SnapshotManifest]] = []
    if has_links(store.folder):
        earlier = [
            (local(store.version_folder(manifest.version)), manifest)
            for manifest in reversed(store.versions())
        ]
    raw_rows = {shard: page.raw.rows for shard, page in books.pages.items()}
    folder = _building_folder(store, plan)
    failed = _failed(store, scored, plan, books.kept)
    return build_version(folder, plan, scored.parts, raw_rows, earlier, failed)


def _failed(
    store: SnapshotStore, scored: _ScoredDay, plan: SnapshotManifest, kept: list[int]
) -> dict[int, FailedShard]:
    """Return the shards of a day that could not be scored, and what is served of them."""
    lake, day = scored.lake, scored.day
    if not kept:
        return {}
    served = None
    if plan.parent:
        served = fetched(store, plan.parent), store.manifest(plan.parent)

    def keys_of(shard: int) -> pa.ChunkedArray:
        parts = lake.raw_features.of_shards([shard]).parts(day)
        tables = [read_columns(part.path, [plan.key]) for part in parts]
        return pa.concat_tables(tables)[plan.key]

    why = lake.failed_shards(day)
    return {n: FailedShard(why[n], partial(keys_of, n), served) for n in kept}


def _put(store: SnapshotStore, manifest: SnapshotManifest) -> None:
    """Give a version its place, and prove what lies there before anybody is sent to it."""
    entries = {entry.name: entry for entry in manifest.files}
    with _explained(store):
        put_folder(
            _building_folder(store, manifest),
            store.version_folder(manifest.version),
            last=MANIFEST,
            prove=lambda path: must_be_whole(path, entries[path.name]),
        )
    if store.manifest(manifest.version) != manifest:
        msg = f"the manifest of {manifest.version} is not the one that was put; {STAYS}"
        raise SnapshotError(msg)


def _remove_leftovers(workshop: Path) -> None:
    """Remove what a killed publisher left; nobody else builds under the lock."""
    for leftover in workshop.glob(f"{BUILDING}*"):
        shutil.rmtree(leftover)


def _building_folder(store: SnapshotStore, manifest: SnapshotManifest) -> Path:
    return local(store.folder) / f"{BUILDING}{manifest.version}"


@contextmanager
def _explained(store: SnapshotStore) -> Iterator[None]:
    """Raise what the disk says with what to do next."""
    try:
        yield
    except (OSError, StorageError) as error:
        msg = f"{store} can't be written: {error}; {STAYS}. {MAKE_ROOM}"
        raise SnapshotError(msg) from error


def swap(
    store: SnapshotStore, version: str, why: str, guard: Callable[[], None]
) -> tuple[bool, str]:
    """Serve a version from now on, unless something speaks against; under the lock.

    Returns:
        Whether it was swapped in now, and why or why not.
    """
    while True:
        pointer = store.pointer(CURRENT)
        current = pointer.version_or_none()
        if newer := _newer(store, day_of(version)):
            return False, newer
        if current == version:
            return False, "this very version is served already"
        if reason := store.held_back(version):
            store.record(new_entry("held", version, why=reason, before=current))
            return False, (
                f"{reason}. {version} is built and proved, {current} is still served"
            )
        guard()
        store.record(new_entry("publish", version, why=why, before=current))
        if pointer.move(version):
            return True, "published"
        # Look again: what is there now may be of a newer day, or a rollback.
        lost = "another machine changed what is served at the same moment"
        store.record(new_entry("held", version, why=lost, before=current))


def _newer(store: SnapshotStore, day: str) -> str | None:
    """Return why a day is not served, if a newer one is."""
    current = store.pointer(CURRENT).version_or_none()
    if current and day_of(current) > day:
        return f"{current} is served already, which is of a newer day"
    return None


def _published(
    store: SnapshotStore, version: str, scored: _ScoredDay, *, swapped: bool, why: str
) -> Published:
    current = store.pointer(CURRENT).version_or_none()
    manifests = {manifest.version: manifest for manifest in store.versions()}
    served = manifests.get(current or "")
    contract = scored.release.contract
    return Published(version, served, swapped, why, scored.verdicts, contract)


def _whole_version(
    store: SnapshotStore,
    predictions: str,
    fallback: Fallback | None,
    overrides: tuple[Override, ...],
) -> str | None:
    """Return a version of these very predictions that can be served as it is."""
    current = store.pointer(CURRENT).version_or_none()
    manifests = {name: store.manifest(name) for name in store.versions_of(predictions)}
    names = [
        name
        for name, manifest in manifests.items()
        if (manifest.fallback, manifest.overrides) == (fallback, overrides)
    ]
    for version in sorted(names, key=lambda version: version != current):
        try:
            Version.open(store, version).verify()
        except SnapshotError as error:
            log.warning("%s; it is built again, under another name", error)
            continue
        return version
    return None


def _free_name(store: SnapshotStore, scored: _ScoredDay) -> str:
    """Return a name that no version ever had: readers may still hold a damaged one."""
    name = f"{scored.day}-{scored.digest}"[:NAMED]
    current = store.pointer(CURRENT).version_or_none()
    version, number = name, 2
    while version == current or store.version_folder(version).is_dir():
        version, number = f"{name}-{number}", number + 1
    return version
