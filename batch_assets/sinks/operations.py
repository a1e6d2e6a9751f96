"""What an operator asks of all sinks of a pipeline: they are looked at one by one."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from batch_assets.errors import BatchAssetsError
from batch_assets.sinks.base import Sink
from batch_assets.sinks.declared import declared_sinks
from batch_assets.sinks.factory import open_sink
from batch_assets.sinks.sync import (
    SyncResult,
    prove,
    push_denylist,
    swap_lock,
    sync_sink,
)
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.snapshots.version import Version


@dataclass(frozen=True)
class SinkCopy:
    """A version in a sink; `served_at` is when it was swapped in last, if ever."""

    sink: str
    version: str
    rows: int
    served_at: datetime | None
    served: bool


@dataclass(frozen=True)
class SinkStatus:
    """What a sink serves, and which versions it holds, the oldest first."""

    sink: str
    served: str | None
    copies: list[SinkCopy]


@dataclass(frozen=True)
class SyncOutcome:
    """What came of telling a sink to follow: a result, or why there is none."""

    sink: str
    result: SyncResult | None
    error: str | None = None


def sink_statuses(store: SnapshotStore) -> list[SinkStatus]:
    """Ask each sink of a pipeline what it holds and serves.

    Raises:
        ConfigError: a variable is not set, or a client library is not installed.
        SinkError: a store can't be reached.
    """
    return [_status(name, sink) for name, sink in _opened(store)]


def sync_sinks(store: SnapshotStore) -> Iterator[SyncOutcome]:
    """Let each sink serve what is served here, if it is older, too.

    One that fails stops no other: what is served here is what was asked for.
    """
    for target in declared_sinks(store):
        try:
            with closing(open_sink(target, store.pipeline)) as sink:
                result = sync_sink(sink, store, keep=target.keep, back=True)
        except BatchAssetsError as error:
            yield SyncOutcome(target.name, None, str(error))
        else:
            yield SyncOutcome(target.name, result)


def deny_in_sinks(store: SnapshotStore) -> Iterator[tuple[str, str | None]]:
    """Let each sink deny what is denied here; yield each sink, and why it does not.

    One that fails stops no other; the next night tells it again.
    """
    for target in declared_sinks(store):
        try:
            with (
                closing(open_sink(target, store.pipeline)) as sink,
                swap_lock(store),
            ):
                push_denylist(sink, store)
        except BatchAssetsError as error:
            yield target.name, str(error)
        else:
            yield target.name, None


def prove_sinks(store: SnapshotStore) -> Iterator[tuple[str, str]]:
    """Read every row that the sinks serve back; yield each sink with its proved version.

    Raises:
        SinkError: a store can't be reached, or holds other rows than the files.
    """
    version = Version.current(store)
    for name, sink in _opened(store):
        prove(sink, version)
        yield name, version.name


def drop_from_sinks(store: SnapshotStore, version: str) -> Iterator[str]:
    """Remove a version from each sink; yield the sinks.

    Raises:
        SinkError: a store can't be reached, or serves the version.
    """
    for name, sink in _opened(store):
        sink.drop(version)
        yield name


def _opened(store: SnapshotStore) -> Iterator[tuple[str, Sink]]:
    for target in declared_sinks(store):
        with closing(open_sink(target, store.pipeline)) as sink:
            yield target.name, sink


def _status(name: str, sink: Sink) -> SinkStatus:
    served = sink.current()
    stored = sorted(sink.stored_versions(), key=lambda version: version.began_at)
    copies = [
        SinkCopy(
            sink=name,
            version=version.about.name,
            rows=version.about.rows,
            served_at=version.served_at,
            served=version.about.name == served,
        )
        for version in stored
    ]
    return SinkStatus(name, served, copies)
