"""Make a remote store serve what is served here. It knows no store in particular.

The snapshot on disk is the source: a version is loaded from its files, which are hashed
before, shard by shard. Shards that an earlier load has recorded are not loaded again.
Then every row is read back from the store, and must add up to what the files hold;
only then the store's pointer is swapped.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import filelock

from batch_assets.errors import SinkError
from batch_assets.lake.reconciliation import ControlTotal
from batch_assets.quality.verdict import Verdict
from batch_assets.sinks.base import (
    STAYS,
    Evidence,
    Sink,
    SinkVersion,
    StoredVersion,
    must_be_newer,
)
from batch_assets.snapshots.history import withdrawn
from batch_assets.snapshots.pointers import pinned_version, served_version
from batch_assets.snapshots.version import Version
from batch_assets.storage import StoragePath, local

log = logging.getLogger(__name__)

# Somebody may still read a version that was served until a moment ago, and a load that
# has not ended after a day is given up.
READERS = timedelta(minutes=10)
GIVEN_UP = timedelta(days=1)


@dataclass(frozen=True)
class SyncResult:
    """What a store serves now, and what was done for it."""

    version: str
    rows: int
    swapped: bool
    why: str
    loaded_shards: int = 0
    seconds: float = 0.0
    dropped: list[str] = field(default_factory=list)


def sync_sink(
    sink: Sink,
    snapshots: StoragePath,
    *,
    keep: int,
    back: bool = False,
    guard: Callable[[], None] = lambda: None,
) -> SyncResult:
    """Load the version that is served here into a store, prove it, and swap it in.

    Args:
        sink: the store.
        snapshots: `<root>/snapshots/<pipeline>`.
        keep: how many versions that were served stay in the store, at least 2.
        back: an operator asks for it, so it may be an older version. One that was
            rolled back to, or pinned, may be older without that.
        guard: raises if this run may not publish any more.

    Raises:
        NotServedError: nothing is served here.
        SinkError: the store can't be reached, holds other rows than the snapshot, or
            serves a newer version.
        SnapshotError: the version here can't be trusted.
    """
    began = time.monotonic()
    locks = local(snapshots)
    locks.mkdir(parents=True, exist_ok=True)
    here = Version.current(snapshots)
    about = SinkVersion.of(here)
    held = _stored(sink)
    there = held.get(sink.current() or "")
    back = back or _taken_back(snapshots, about.name, there)
    # The store asks again in the act of the swap; asked now, to load nothing in vain.
    must_be_newer(about, there.about if there else None, back=back)
    loaded = 0
    if not _is_ready(held.get(about.name), about):
        # Two loads of one version at once do no harm, but twice the work. Not the lock
        # of the swap: whoever rolls back does not wait for a load.
        with filelock.FileLock(locks / ".sinks-load.lock"):
            mine = _stored(sink).get(about.name)
            if not _is_ready(mine, about):
                loaded = _load(sink, here, about, mine)
    # To look at what is served here and to swap is one act, or a slow load could undo
    # a rollback.
    with filelock.FileLock(locks / ".sinks-swap.lock"):
        guard()
        if served_version(snapshots) != about.name:
            msg = (
                f"{about.name} is not served here any more, so {sink.address} was not "
                f"swapped to it; {STAYS}. Start it again."
            )
            raise SinkError(msg)
        swapped = sink.current() != about.name
        if swapped:
            sink.swap(about, back=back)
        dropped = _collect(sink, about, keep)
    return SyncResult(
        version=about.name,
        rows=about.rows,
        swapped=swapped,
        why="swapped in" if swapped else "this very version is served already",
        loaded_shards=loaded,
        seconds=time.monotonic() - began,
        dropped=dropped,
    )


def _taken_back(
    snapshots: StoragePath, served: str, there: StoredVersion | None
) -> bool:
    """Whether an operator took back what a store serves, or pinned what is served."""
    if there is None or there.about.name == served:
        return False
    return served == pinned_version(snapshots) or there.about.name in withdrawn(
        snapshots
    )


def serves_the_same(sink: Sink, snapshots: StoragePath) -> Verdict:
    """Judge whether a store serves the version that is served on disk."""
    served, stored = served_version(snapshots), sink.current()
    return Verdict(
        served == stored,
        f"{sink.address} serves {stored or 'nothing'}, here {served or 'nothing'} is served",
        facts={"served": served or "nothing", "served_there": stored or "nothing"},
    )


def prove(sink: Sink, here: Version) -> None:
    """Read every row of a version back from a store, and compare with the files.

    Raises:
        SinkError: they differ; the shards are named.
    """
    about = SinkVersion.of(here)
    expected = [_expected(here, shard) for shard in range(about.shards)]
    if unlike := _unlike(sink, about, expected):
        raise SinkError(unlike)


def _unlike(sink: Sink, about: SinkVersion, expected: Sequence[Evidence]) -> str:
    """In what the rows in a store differ from those expected; empty if in nothing."""
    found = sink.finish(about)
    wrong = [n for n, one in enumerate(expected) if found.get(n, Evidence()) != one]
    if not wrong:
        return ""
    return (
        f"{sink.address} holds other rows of {about.name} than its files; the shards "
        f"that differ: {', '.join(map(str, wrong))}"
    )


def _stored(sink: Sink) -> dict[str, StoredVersion]:
    return {one.about.name: one for one in sink.stored_versions()}


def _is_ready(mine: StoredVersion | None, about: SinkVersion) -> bool:
    """Whether a version was proved already: it was served before."""
    return bool(mine and mine.served_at and mine.about.is_alike(about))


def _load(
    sink: Sink, here: Version, about: SinkVersion, mine: StoredVersion | None
) -> int:
    """Load the shards that are not recorded, and prove all: how many were loaded."""
    if mine and not mine.about.is_alike(about):
        log.warning("%s holds something else as %s", sink.address, about.name)
        sink.drop(about.name)
    records = sink.begin(about)
    expected, loaded = [], 0
    for shard in range(about.shards):
        evidence = _expected(here, shard)
        expected.append(evidence)
        if records.get(shard) != evidence:
            sink.load(about, shard, here.shard(shard).table, evidence)
            loaded += 1
            log.info("%s: shard %d of %d", sink.address, shard + 1, about.shards)
    if unlike := _unlike(sink, about, expected):
        # What is wrong is not mended in place: the next load begins anew.
        sink.drop(about.name)
        msg = f"{unlike}. It was dropped there; {STAYS}. Load it again."
        raise SinkError(msg)
    return loaded


def _expected(here: Version, shard: int) -> Evidence:
    """What a shard's file holds; the file is hashed before its first use."""
    hashed = here.shard(shard)
    file = here.manifest.files[shard]
    if file.content is not None:
        return Evidence(ControlTotal(file.rows, file.keys), file.content)
    keys = hashed.packed[here.manifest.key].combine_chunks()
    return Evidence.of(keys, list(hashed.columns.values()))


def _collect(sink: Sink, about: SinkVersion, keep: int) -> list[str]:
    """Drop all but the versions served last, and loads that were given up."""
    now, held = datetime.now(UTC), sink.stored_versions()
    served = sorted(
        ((one.served_at, one.about.name) for one in held if one.served_at),
        reverse=True,
    )
    # A version was read until the one that came after it was swapped in.
    after = zip(served[keep - 1 :], served[keep:], strict=False)
    old = [version for (until, _), (_, version) in after if now - until > READERS]
    old += [
        one.about.name
        for one in held
        if one.served_at is None
        and one.about.order < about.order
        and now - one.began_at > GIVEN_UP
    ]
    dropped = []
    for version in old:
        try:
            sink.drop(version)
        except SinkError as error:
            # The night is served; the next one tries again.
            log.warning("%s was not dropped: %s", version, error)
        else:
            dropped.append(version)
    return dropped
