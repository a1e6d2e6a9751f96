"""What must hold whether a night runs or not: looked at every few minutes.

A condition is a function that returns an alert for each thing that is not as it should be
now, or was and is not well yet. It knows no Dagster, and nothing of who is told.
"""

import logging
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from batch_assets.alerts import commands
from batch_assets.alerts.alert import Alert, Identity, Served
from batch_assets.alerts.words import spoken
from batch_assets.errors import ConfigError, SinkError, SnapshotError
from batch_assets.sinks.factory import open_sink
from batch_assets.sinks.sync import serves_the_same
from batch_assets.snapshots.manifest import SnapshotManifest
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.spec import PipelineSpec, Target
from batch_assets.spec.alerts import AlertKind, AlertsSpec
from batch_assets.storage import StoragePath

log = logging.getLogger(__name__)

SERVED = "serving_snapshot"
# What moves the pointer that sinks follow.
MOVES = ("publish", "rollback", "pin", "unpin")


@dataclass(frozen=True)
class Watched:
    """A pipeline as its conditions see it.

    Attributes:
        spec: as declared, with its alerts.
        root: where everything lies.
        now: the moment of this look.
        open: the alerts that were raised and are not over.
    """

    spec: PipelineSpec
    root: StoragePath
    now: datetime
    open: Collection[Identity] = ()

    @property
    def store(self) -> SnapshotStore:
        return SnapshotStore(self.root, self.spec.name)

    @property
    def alerts(self) -> AlertsSpec:
        """What is declared of alerts."""
        assert self.spec.alerts is not None
        return self.spec.alerts

    def newest_day(self) -> str:
        """Return the newest day that has ended, and can be run."""
        today = self.now.astimezone(ZoneInfo(self.spec.timezone)).date()
        newest: date = today - timedelta(days=1)
        return str(min(newest, self.spec.end_day or newest))


@dataclass(frozen=True)
class Condition:
    """A function that looks, and the kinds of alerts that it alone raises.

    An open alert of these kinds that it does not return is over. One that raises says
    nothing of what is over.
    """

    look: Callable[[Watched], list[Alert]]
    kinds: tuple[AlertKind, ...]


def snapshot_is_fresh(watched: Watched) -> list[Alert]:
    """Look whether what is served is younger than its manifest says that it may be."""
    store, name = watched.store, watched.spec.name

    def alert(summary: str, numbers: dict[str, float], served: Served) -> list[Alert]:
        command = commands.of_look(name)
        if not served.problem:
            command = commands.of_stale(name, store, watched.newest_day())
        return [
            Alert(
                kind="snapshot_stale",
                pipeline=name,
                day=None,
                subject=SERVED,
                summary=summary,
                details=_held_back(store),
                numbers=numbers,
                served=served,
                next_command=command,
                at=watched.now,
            )
        ]

    served = Served.of(store, watched.now)
    if served.problem:
        summary = "nobody can tell how old it is: what is served can't be read"
        return alert(summary, {}, served)
    if served.version is None or served.age_seconds is None:
        return []  # Nothing was ever served, so nothing is old.
    manifest = store.manifest(served.version)
    limit = manifest.stale_after_seconds
    if watched.now <= manifest.stale_at:
        return []
    if served.age_seconds <= limit:
        return alert(_override_ended(manifest, watched.now), {}, served)
    summary = (
        f"what is served is {spoken(served.age_seconds)} old, and stale from "
        f"{spoken(limit)} on"
    )
    return alert(
        summary, {"age": served.age_seconds, "stale_after_seconds": limit}, served
    )


def _override_ended(manifest: SnapshotManifest, now: datetime) -> str:
    ended = next(one for one in manifest.overrides if one.until < now)
    return (
        f"the override of {ended.gate} by {ended.by} ended {ended.until:%Y-%m-%d %H:%M} "
        "UTC, and what it let pass is still served"
    )


def sinks_follow(watched: Watched) -> list[Alert]:
    """Look whether each sink serves what is served here, or not for long another version.

    One that can't be reached serves nobody. One that is behind is left alone as long as a
    night may take to load it, unless it has been told of already.
    """
    if watched.store.served() is None:
        return []
    found = (_of_sink(watched, target) for target in watched.spec.sinks)
    return [alert for alert in found if alert]


def _of_sink(watched: Watched, target: Target) -> Alert | None:
    store, name = watched.store, watched.spec.name
    alert = Alert(
        kind="sink_lags",
        pipeline=name,
        day=None,
        subject=target.name,
        summary="",
        served=Served.of(store, watched.now),
        next_command=commands.of_sink(name),
        at=watched.now,
    )
    try:
        with closing(open_sink(target, name)) as sink:
            verdict = serves_the_same(sink, store)
    except (SinkError, ConfigError) as error:
        return _said(alert, f"the sink can't be asked: {error}")
    if verdict.passed:
        return None
    behind = (watched.now - _moved_at(store)).total_seconds()
    patience = watched.alerts.sink_lag_minutes * 60
    if behind < patience and alert.identity not in watched.open:
        return None
    return _said(alert, verdict.why, behind_seconds=behind, allowed_seconds=patience)


def _said(alert: Alert, why: str, **numbers: float) -> Alert:
    first, _, _ = why.partition("\n")
    return replace(alert, summary=first, details=why, numbers=numbers)


def _moved_at(store: SnapshotStore) -> datetime:
    """When it was last decided what is served; long ago, if nobody knows."""
    entries, _ = store.history()
    moves = [entry.at for entry in entries if entry.act in MOVES]
    return moves[-1] if moves else datetime.min.replace(tzinfo=UTC)


def _held_back(store: SnapshotStore) -> str:
    """Why the nights do not publish, if a person wants it so."""
    try:
        if pinned := store.pinned():
            return f"readers are pinned to {pinned}, whatever is published"
        block = store.block()
    except SnapshotError as error:
        return str(error)
    return str(block) if block else ""


# What is looked at. One more is one more line.
CONDITIONS: tuple[Condition, ...] = (
    Condition(snapshot_is_fresh, ("snapshot_stale",)),
    Condition(sinks_follow, ("sink_lags",)),
)


def look(
    watched: Watched, conditions: tuple[Condition, ...] = CONDITIONS
) -> tuple[list[Alert], set[Identity]]:
    """Look at all conditions; return what is wrong, and what was and is well again.

    One that can't be looked at is in the log, and stops no other.
    """
    raised: list[Alert] = []
    over: set[Identity] = set()
    for condition in conditions:
        try:
            found = condition.look(watched)
        except Exception:
            what = ", ".join(condition.kinds)
            log.exception("%s: nobody can tell about %s", watched.spec.name, what)
            continue
        raised += found
        wrong = {alert.identity for alert in found}
        over |= {
            identity
            for identity in watched.open
            if identity.kind in condition.kinds and identity not in wrong
        }
    return raised, over
