"""Publish a day: build a version, prove it, swap it in. Forward only.

The evidence is read again for the very day that is published: its books, its gates,
its release. If anything is wrong, yesterday stays up. It knows no Dagster.
"""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import filelock

from batch_assets.errors import CorruptPartError, LakeError, SnapshotError
from batch_assets.lake.delta_table import digest_of
from batch_assets.lake.parts import Part, sealed_part
from batch_assets.lake.receipts import PredictionsReceipt
from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.parallel import on_cores
from batch_assets.quality.gates import after_scoring
from batch_assets.quality.verdict import Verdict, must_be_open
from batch_assets.snapshots.build import (
    MAKE_ROOM,
    STAYS,
    build_version,
)
from batch_assets.snapshots.fetch import must_be_whole
from batch_assets.snapshots.history import new_entry, record, withdrawn
from batch_assets.snapshots.manifest import (
    MANIFEST,
    SnapshotManifest,
    day_of,
    version_folder,
    versions,
)
from batch_assets.snapshots.pointers import (
    CURRENT,
    block_of,
    lock_pointers,
    named,
    point,
)
from batch_assets.snapshots.retention import collect
from batch_assets.snapshots.version import Version
from batch_assets.spec import Gates, Serving
from batch_assets.storage import (
    Seen,
    StoragePath,
    has_links,
    local,
    put_folder,
    read_seen,
)

log = logging.getLogger(__name__)

BUILDING = ".building-"
# A version's name begins with its day and a digest of its predictions: 10 + 1 + 12.
NAMED = 23


@dataclass(frozen=True)
class Published:
    """The day's version, what is served by now, and whether that was swapped in now.

    `current` is the manifest of what CURRENT names, if that can be read.
    """

    version: str
    current: SnapshotManifest | None
    swapped: bool
    why: str
    verdicts: list[Verdict]


def publish_day(
    lake: Lake,
    registry: Registry,
    snapshots: StoragePath,
    day: str,
    *,
    gates: Gates,
    serving: Serving,
    why: str = "a night was published",
    guard: Callable[[], None] = lambda: None,
) -> Published:
    """Build a version from a day's predictions and serve it, if nothing speaks against.

    It is not served if a newer day is, if publishing is blocked, or if this version was
    taken back: then it is only built.

    Args:
        lake: the pipeline's tables.
        registry: the models.
        snapshots: `<root>/snapshots/<pipeline>`.
        day: the day.
        gates: the limits that the day must keep.
        serving: how many versions stay on disk, and when one is stale.
        why: the reason that the history gives.
        guard: raises if this run may not publish any more.

    Raises:
        GateError: a gate of that day is shut.
        LakeError: the day has no predictions.
        SnapshotError: the version that was built is not what was predicted.
    """
    here = local(snapshots)
    here.mkdir(parents=True, exist_ok=True)
    # One publisher at a time. An operator does not wait for it: what is served changes
    # under a lock of its own. In a store there may be others, on other machines: there
    # CURRENT is swapped only if it is still the one that was judged by.
    with filelock.FileLock(here / ".publishing"):
        night = _Night(lake, registry, day, gates)
        night.must_be_proved()
        _must_be_committed(lake, day, night.parts)
        if newer := _newer(snapshots, day):
            there = built_versions(lake, snapshots, day)
            version = there[-1] if there else _free_name(snapshots, day, night.digest)
            return _published(snapshots, version, night, swapped=False, why=newer)
        # What a killed publisher left; nobody else builds under the lock.
        for leftover in here.glob(f"{BUILDING}*"):
            shutil.rmtree(leftover)
        whole = _whole_version(snapshots, night.digest)
        version = whole or _free_name(snapshots, day, night.digest)
        building = here / f"{BUILDING}{version}"
        if whole is None:
            manifest = _build(snapshots, building, version, night, serving)
            # It took a while: the evidence may be another by now.
            night.must_be_proved()
            with _explained(snapshots):
                _put(building, version_folder(snapshots, version), manifest)
        with lock_pointers(snapshots), _explained(snapshots):
            swapped, said = swap(snapshots, version, why, guard)
        try:
            collect(snapshots, serving.keep, timedelta(minutes=serving.keep_minutes))
        except OSError as error:
            # The day is published; what could not go goes after the next one.
            log.warning("old versions of %s can't be removed: %s", snapshots, error)
    return _published(snapshots, version, night, swapped=swapped, why=said)


class _Night:
    """The evidence of a day, which is read again whenever it is asked for."""

    def __init__(self, lake: Lake, registry: Registry, day: str, gates: Gates) -> None:
        self.lake, self.registry, self.day, self.gates = lake, registry, day, gates
        self.parts = lake.predictions.parts(day)
        if not self.parts:
            msg = f"predictions has no {day}: materialise it first; {STAYS}"
            raise LakeError(msg)
        self.digest = digest_of(self.parts)
        receipt = self.parts[0].receipt
        self.release = registry.verify(receipt.model, receipt.release)
        self.verdicts: list[Verdict] = []

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
        must_be_open(self.day, self.verdicts, then=STAYS)
        if self.lake.predictions.paths(self.day) != [part.path for part in self.parts]:
            msg = f"{self.day} was scored again while its version was built; {STAYS}"
            raise SnapshotError(msg)


def _build(
    snapshots: StoragePath,
    building: Path,
    version: str,
    night: _Night,
    serving: Serving,
) -> SnapshotManifest:
    contract, served = night.release.contract, readable_current(snapshots)
    pages = night.lake.books(night.day).pages
    plan = SnapshotManifest(
        pipeline=night.lake.pipeline,
        version=version,
        day=night.day,
        created_at=datetime.now(UTC),
        stale_after_seconds=serving.stale_hours * 3600,
        key=contract.key.name,
        key_dtype=contract.key.dtype,
        outputs=tuple(contract.output_names),
        model_name=night.release.name,
        model_version=night.release.digest,
        job=night.parts[0].receipt.job,
        predictions=night.digest,
        files=(),
        parent=served,
        forced_at=night.lake.forced_at(night.day),
    )
    earlier = []
    if has_links(snapshots):
        newest_first = reversed(versions(snapshots))
        earlier = [(local(snapshots) / f"v={m.version}", m) for m in newest_first]
    raw_rows = {shard: page.raw.rows for shard, page in pages.items()}
    return build_version(building, plan, night.parts, raw_rows, earlier)


@contextmanager
def _explained(snapshots: StoragePath) -> Iterator[None]:
    """What the disk says, with what to do next."""
    try:
        yield
    except OSError as error:
        msg = f"{snapshots} can't be written: {error}; {STAYS}. {MAKE_ROOM}"
        raise SnapshotError(msg) from error


def _put(building: Path, target: StoragePath, manifest: SnapshotManifest) -> None:
    """Give a version its place, and prove what was copied there."""
    entries = {entry.name: entry for entry in manifest.files}
    put_folder(
        building,
        target,
        last=MANIFEST,
        prove=lambda path: must_be_whole(path, entries[path.name]),
    )


def swap(
    snapshots: StoragePath, version: str, why: str, guard: Callable[[], None]
) -> tuple[bool, str]:
    """Serve a version from now on, unless something speaks against; under the lock."""
    while True:
        seen = read_seen(snapshots / CURRENT)
        current = readable_current(snapshots, seen)
        if newer := _newer(snapshots, day_of(version)):
            return False, newer
        if current == version:
            return False, "this very version is served already"
        if kept := kept_back(snapshots, version):
            said = f"{kept}. {version} is built and proved, {current} is still served"
            record(snapshots, new_entry("held", version, why=kept, before=current))
            return False, said
        guard()
        record(snapshots, new_entry("publish", version, why=why, before=current))
        if point(snapshots / CURRENT, version, seen):
            return True, "published"
        # Look again: what is there now may be of a newer day, or a rollback.
        lost = "another machine changed what is served at the same moment"
        record(snapshots, new_entry("held", version, why=lost, before=current))


def _newer(snapshots: StoragePath, day: str) -> str | None:
    """Why a day is not served, if a newer one is."""
    current = readable_current(snapshots)
    if current and day_of(current) > day:
        return f"{current} is served already, which is of a newer day"
    return None


def kept_back(snapshots: StoragePath, version: str) -> str | None:
    """Why a person does not want a version (or a day) published, if anybody does not."""
    if block := block_of(snapshots):
        return str(block)
    try:
        acts = withdrawn(snapshots)
    except SnapshotError as error:
        return str(error)
    for taken_back, act in acts.items():
        if taken_back[:NAMED].startswith(version[:NAMED]):
            return (
                f"{taken_back} was rolled back by {act.by} at "
                f"{act.at:%Y-%m-%d %H:%M} UTC: {act.why}"
            )
    return None


def built_versions(lake: Lake, snapshots: StoragePath, day: str) -> list[str]:
    """The versions on disk of the predictions that a day has now, the newest last."""
    parts = lake.predictions.parts(day)
    digest = digest_of(parts) if parts else None
    return [m.version for m in versions(snapshots) if m.predictions == digest]


def _published(
    snapshots: StoragePath, version: str, night: _Night, *, swapped: bool, why: str
) -> Published:
    current = readable_current(snapshots)
    found = {manifest.version: manifest for manifest in versions(snapshots)}
    return Published(version, found.get(current or ""), swapped, why, night.verdicts)


def _must_be_committed(
    lake: Lake, day: str, parts: list[Part[PredictionsReceipt]]
) -> None:
    """Refuse parts whose bytes are not those that were committed."""
    commit = lake.predictions.last_commit(day)
    if commit is None or commit.parts != digest_of(parts):
        msg = (
            f"the predictions of {day} are not the bytes that were committed; {STAYS}. "
            "Run the day again: what was changed is made again."
        )
        raise CorruptPartError(msg)
    # Their keys are proved where they end: in what was built of them.
    on_cores(lambda part, _: sealed_part(part.path), parts)


def readable_current(snapshots: StoragePath, seen: Seen | None = None) -> str | None:
    """What is current; nothing, if CURRENT names nothing: that is no reason to stop."""
    try:
        place = snapshots / CURRENT
        return named(place, seen or read_seen(place))
    except SnapshotError as error:
        log.warning("%s; the next version takes its place", error)
        return None


def _whole_version(snapshots: StoragePath, digest: str) -> str | None:
    """A version of these very predictions that can be served as it is."""
    current = readable_current(snapshots)
    there = [m.version for m in versions(snapshots) if m.predictions == digest]
    for version in sorted(there, key=lambda version: version != current):
        try:
            Version.open(snapshots, version).verify()
        except SnapshotError as error:
            log.warning("%s; it is built again, under another name", error)
            continue
        return version
    return None


def _free_name(snapshots: StoragePath, day: str, digest: str) -> str:
    """A name that no version ever had: readers may still hold one that is damaged."""
    name, number = f"{day}-{digest[: NAMED - len(day) - 1]}", 2
    taken, version = {readable_current(snapshots)}, name
    while version in taken or version_folder(snapshots, version).is_dir():
        version, number = f"{name}-{number}", number + 1
    return version
