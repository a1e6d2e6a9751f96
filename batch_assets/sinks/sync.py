"""Make a sink, a remote store, serve what is served here. It knows none in particular.

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
    RowChecksums,
    Sink,
    SinkVersion,
    StoredVersion,
    must_be_newer,
)
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.snapshots.version import Version
from batch_assets.storage import local

log = logging.getLogger(__name__)

# Somebody may still read a version that was served until a moment ago, and a load that
# has not ended after a day is given up.
READERS = timedelta(minutes=10)
GIVEN_UP = timedelta(days=1)


@dataclass(frozen=True)
class SyncResult:
    """What a sink serves now, and what was done for it."""

    version: str
    rows: int
    swapped: bool
    why: str
    loaded_shards: int = 0
    seconds: float = 0.0
    dropped: list[str] = field(default_factory=list)


def sync_sink(
    sink: Sink,
    store: SnapshotStore,
    *,
    keep: int,
    back: bool = False,
    guard: Callable[[], None] = lambda: None,
) -> SyncResult:
    """Load the version that is served here into a sink, prove it, and swap it in.

    Args:
        sink: the remote store.
        store: of the pipeline's versions.
        keep: how many versions that were served stay in the sink, at least 2.
        back: an operator asks for it, so it may be an older version. One that was
            rolled back to, or pinned, may be older without that.
        guard: raises if this run may not publish any more.

    Raises:
        NotServedError: nothing is served here.
        SinkError: the sink can't be reached, holds other rows than the snapshot, or
            serves a newer version.
        SnapshotError: the version here can't be trusted.
    """
    began = time.monotonic()
    locks = local(store.folder)
    locks.mkdir(parents=True, exist_ok=True)
    version = Version.current(store)
    about = SinkVersion.of(version)
    stored = _stored(sink)
    remote = stored.get(sink.current() or "")
    back = back or _taken_back(store, about.name, remote)
    # The sink asks again in the act of the swap; asked now, to load nothing in vain.
    must_be_newer(about, remote.about if remote else None, back=back)
    loaded = 0
    if not _is_ready(stored.get(about.name), about):
        # Two loads of one version at once do no harm, but twice the work. Not the lock
        # of the swap: whoever rolls back does not wait for a load.
        with filelock.FileLock(locks / ".sinks-load.lock"):
            loaded = _load(sink, version)
    # To look at what is served here and to swap is one act, or a slow load could undo
    # a rollback.
    with swap_lock(store):
        guard()
        _must_still_be_served(store, about, sink)
        push_denylist(sink, store)
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


def swap_lock(store: SnapshotStore) -> filelock.BaseFileLock:
    """Return the lock of whoever changes what the sinks of a pipeline show."""
    locks = local(store.folder)
    locks.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(locks / ".sinks-swap.lock")


def push_denylist(sink: Sink, store: SnapshotStore) -> bool:
    """Let a sink deny what is denied here; return whether that is news to it.

    Under `swap_lock`, or a slow one could undo what came after it.

    Raises:
        SinkError: the sink can't be reached, or refuses.
        SnapshotError: what is denied here can't be read.
    """
    denylist = store.denylist()
    if sink.denied() == denylist:
        return False
    sink.deny(denylist)
    return True


def _must_still_be_served(store: SnapshotStore, about: SinkVersion, sink: Sink) -> None:
    if store.served() != about.name:
        msg = (
            f"{about.name} is not served here any more, so {sink.address} was not "
            f"swapped to it; {STAYS}. Start it again."
        )
        raise SinkError(msg)


def _taken_back(
    store: SnapshotStore, served: str, remote: StoredVersion | None
) -> bool:
    """Tell whether an operator took back what a sink serves, or pinned what is served."""
    if remote is None or remote.about.name == served:
        return False
    return served == store.pinned() or remote.about.name in store.withdrawn()


def serves_the_same(sink: Sink, store: SnapshotStore) -> Verdict:
    """Judge whether a sink serves the version that is served on disk, less the same items."""
    served, remote = store.served(), sink.current()
    here, there = store.denylist(), sink.denied()
    why = f"{sink.address} serves {remote or 'nothing'}, here {served or 'nothing'} is served"
    if here != there:
        why += (
            f"; {len(there.items)} items are denied there, {len(here.items)} here: "
            f"batch-assets sinks follow {store.pipeline}"
        )
    return Verdict(
        served == remote and here == there,
        why,
        facts={"served": served or "nothing", "served_there": remote or "nothing"},
    )


def prove(sink: Sink, version: Version) -> None:
    """Read every row of a version back from a sink, and compare with the files.

    Raises:
        SinkError: they differ; the shards are named.
    """
    about = SinkVersion.of(version)
    expected = [_expected(version, shard) for shard in range(about.shards)]
    if unlike := _unlike(sink, about, expected):
        raise SinkError(unlike)


def _unlike(sink: Sink, about: SinkVersion, expected: Sequence[RowChecksums]) -> str:
    """Return in what a sink's rows differ from those expected; empty if in nothing."""
    loaded = sink.finish(about)
    wrong = [
        n for n, rows in enumerate(expected) if loaded.get(n, RowChecksums()) != rows
    ]
    if not wrong:
        return ""
    return (
        f"{sink.address} holds other rows of {about.name} than its files; the shards "
        f"that differ: {', '.join(map(str, wrong))}"
    )


def _stored(sink: Sink) -> dict[str, StoredVersion]:
    return {stored.about.name: stored for stored in sink.stored_versions()}


def _is_ready(copy: StoredVersion | None, about: SinkVersion) -> bool:
    """Tell whether a version was proved already: it was served before."""
    return bool(copy and copy.served_at and copy.about.is_alike(about))


def _load(sink: Sink, version: Version) -> int:
    """Load the shards that are not recorded, prove all; return how many were loaded."""
    about = SinkVersion.of(version)
    copy = _stored(sink).get(about.name)
    if _is_ready(copy, about):
        return 0
    if copy and not copy.about.is_alike(about):
        log.warning("%s holds something else as %s", sink.address, about.name)
        sink.drop(about.name)
    records = sink.begin(about)
    expected, loaded = [], 0
    for shard in range(about.shards):
        evidence = _expected(version, shard)
        expected.append(evidence)
        if records.get(shard) != evidence:
            sink.load(about, shard, version.shard(shard).table, evidence)
            loaded += 1
            log.info("%s: shard %d of %d", sink.address, shard + 1, about.shards)
    if unlike := _unlike(sink, about, expected):
        # What is wrong is not mended in place: the next load begins anew.
        sink.drop(about.name)
        msg = f"{unlike}. It was dropped there; {STAYS}. Load it again."
        raise SinkError(msg)
    return loaded


def _expected(version: Version, shard: int) -> RowChecksums:
    """Return what a shard's file holds; the file is hashed before its first use."""
    hashed = version.shard(shard)
    file = version.manifest.files[shard]
    if file.content is not None:
        return RowChecksums(ControlTotal(file.rows, file.keys), file.content)
    keys = hashed.packed[version.manifest.key].combine_chunks()
    return RowChecksums.of(keys, list(hashed.columns.values()))


def _collect(sink: Sink, about: SinkVersion, keep: int) -> list[str]:
    """Drop all but the versions served last, and loads that were given up; their names."""
    now, versions = datetime.now(UTC), sink.stored_versions()
    served = sorted(
        (
            (stored.served_at, stored.about.name)
            for stored in versions
            if stored.served_at
        ),
        reverse=True,
    )
    # A version was read until the one that came after it was swapped in.
    after = zip(served[keep - 1 :], served[keep:], strict=False)
    old = [version for (until, _), (_, version) in after if now - until > READERS]
    old += [
        stored.about.name
        for stored in versions
        if stored.served_at is None
        and stored.about.order < about.order
        and now - stored.began_at > GIVEN_UP
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
