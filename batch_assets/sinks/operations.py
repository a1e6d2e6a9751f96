"""What an operator asks of all sinks of a pipeline: they are looked at one by one."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from batch_assets.errors import BatchAssetsError
from batch_assets.sinks.base import Sink
from batch_assets.sinks.declared import declared_sinks
from batch_assets.sinks.factory import open_sink
from batch_assets.sinks.sync import SyncResult, prove, sync_sink
from batch_assets.snapshots.version import Version
from batch_assets.storage import StoragePath


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


def sink_statuses(snapshots: StoragePath) -> list[SinkStatus]:
    """Ask each sink of a pipeline what it holds and serves.

    Raises:
        ConfigError: a variable is not set, or a client library is not installed.
        SinkError: a store can't be reached.
    """
    return [_status(name, sink) for name, sink in _opened(snapshots)]


def sync_sinks(snapshots: StoragePath) -> Iterator[SyncOutcome]:
    """Let each sink serve what is served here, if it is older, too.

    One that fails stops no other: what is served here is what was asked for.
    """
    for target in declared_sinks(snapshots):
        try:
            with closing(open_sink(target, snapshots.name)) as sink:
                result = sync_sink(sink, snapshots, keep=target.keep, back=True)
        except BatchAssetsError as error:
            yield SyncOutcome(target.name, None, str(error))
        else:
            yield SyncOutcome(target.name, result)


def prove_sinks(snapshots: StoragePath) -> Iterator[tuple[str, str]]:
    """Read every row that the sinks serve back; yield each sink with its proved version.

    Raises:
        SinkError: a store can't be reached, or holds other rows than the files.
    """
    version = Version.current(snapshots)
    for name, sink in _opened(snapshots):
        prove(sink, version)
        yield name, version.name


def drop_from_sinks(snapshots: StoragePath, version: str) -> Iterator[str]:
    """Remove a version from each sink; yield the sinks.

    Raises:
        SinkError: a store can't be reached, or serves the version.
    """
    for name, sink in _opened(snapshots):
        sink.drop(version)
        yield name


def _opened(snapshots: StoragePath) -> Iterator[tuple[str, Sink]]:
    for target in declared_sinks(snapshots):
        with closing(open_sink(target, snapshots.name)) as sink:
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
