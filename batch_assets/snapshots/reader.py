"""The reader: looks keys up in what is served, and follows it in the background.

    with Snapshot(root / "snapshots" / "churn") as snapshot:
        answer = snapshot.get(12345)

A version is admitted only when every file of it has been hashed; until then, and
whenever one is refused, lookups come from the last good one. From a bucket it is copied
down first. A swap is one assignment, so that no lookup waits for another, and none sees
two versions. It imports neither Dagster nor torch.
"""

import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterable
from datetime import timedelta
from types import TracebackType
from typing import Self

from batch_assets.errors import BatchAssetsError, SnapshotError
from batch_assets.snapshots.denylist import Denylist
from batch_assets.snapshots.manifest import ReleaseName, SnapshotManifest
from batch_assets.snapshots.store import CURRENT, SnapshotStore
from batch_assets.snapshots.version import Answer, Version, age_of
from batch_assets.storage import StoragePath

log = logging.getLogger(__name__)

# How long a version that was refused is left alone, at most: it may be mended in place.
RETRY_SECONDS = 60.0
_following: weakref.WeakSet["Snapshot"] = weakref.WeakSet()


class Snapshot:
    """What is served now, for many threads; close it, or use it as a context manager.

    A process that is forked goes on following by itself.
    """

    def __init__(
        self,
        snapshots: SnapshotStore | StoragePath | str,
        *,
        poll_seconds: float = 1.0,
    ) -> None:
        """Open what is served, every file hashed, and follow it from then on.

        Args:
            snapshots: `<root>/snapshots/<pipeline>`, a directory or `s3://…`.
            poll_seconds: how often it is asked what is served.

        Raises:
            NotServedError: nothing is published.
            SnapshotError: the version can't be trusted. There is no last good one yet,
                and another one than the operator's is not taken silently.
        """
        self.store = SnapshotStore.at(snapshots)
        self.poll_seconds = poll_seconds
        self._problem: str | None = None
        self._refused: tuple[str | None, float, float] | None = None
        # Lookups read this one reference, once each.
        self._opened = self._admit_served()
        self._follow()
        _following.add(self)

    def get(self, key: int | str, segment: int | str | None = None) -> Answer | None:
        """Return the outputs of a key, or None if the night has no prediction for it.

        Args:
            key: of the pipeline's type.
            segment: whose fallback the key gets, if the pipeline has one.

        Raises:
            SnapshotError: the key is of the wrong type.
        """
        return self._opened.get(key, segment)

    def get_many(
        self,
        keys: Iterable[int | str],
        segments: Iterable[int | str | None] | None = None,
    ) -> list[Answer | None]:
        """Do the same for many keys, in their order, all from one version."""
        return self._opened.get_many(keys, segments)

    @property
    def denylist(self) -> Denylist:
        """The items that no ranking shows now."""
        return self._opened.denylist

    @property
    def opened(self) -> Version:
        """The version that lookups come from now; what is taken here stays as it is."""
        return self._opened

    @property
    def manifest(self) -> SnapshotManifest:
        return self._opened.manifest

    @property
    def version(self) -> str:
        """Its name."""
        return self.manifest.version

    @property
    def day(self) -> str:
        """The day that it is of."""
        return self.manifest.day

    @property
    def release(self) -> ReleaseName:
        """The model's name and digest."""
        return self.manifest.release

    @property
    def age(self) -> timedelta:
        """How long ago it was made."""
        return age_of(self.manifest)

    @property
    def is_stale(self) -> bool:
        """Whether it is older than `serving.stale_hours`, or than an override allows."""
        return self.manifest.is_stale

    @property
    def coverage(self) -> float:
        """The share of the night's raw rows that have an answer, in 0..1."""
        return self.manifest.coverage

    @property
    def problem(self) -> str | None:
        """Why lookups don't come from what should be served; None if they do."""
        return self._problem

    def refresh(self) -> bool:
        """Look what is served now, and take it; return whether lookups come from it.

        The background does this every `poll_seconds`. What can't be trusted is
        refused, and `problem` says why.
        """
        version = None
        with self._turn:
            try:
                version = self.store.served()
                if version is None:
                    msg = f"{self.store} has no {CURRENT} any more"
                    raise SnapshotError(msg)
                denylist = self.store.denylist()
                if denylist != self._opened.denylist:
                    self._opened = self._opened.denying(denylist)
                    log.info("%s: %d items denied", self.store, len(denylist.items))
                if version != self._opened.name and not self._is_left_alone(version):
                    self._opened = self._admit(version)
                    log.info("%s: %s is served", self.store, version)
            except (BatchAssetsError, OSError) as error:
                self._refuse(version, str(error))
            else:
                if version == self._opened.name:
                    self._problem = self._refused = None
            return self._problem is None

    def close(self) -> None:
        """Stop following. Lookups still come from the version that is open."""
        _following.discard(self)
        self._over.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _admit_served(self) -> Version:
        """Open what is served; what was a moment ago may be gone before it is hashed."""
        while True:
            version = self.store.must_serve()
            try:
                return self._admit(version)
            except SnapshotError:
                if self.store.served() == version:
                    raise

    def _admit(self, version: str) -> Version:
        opened = Version.open(self.store, version)
        opened.verify()
        return opened

    def _refuse(self, version: str | None, why: str) -> None:
        """Stay on the last good one, and say so; once for each reason in the log."""
        kept = self._opened
        problem = f"{why}. Lookups come from {kept.name}, as before"
        if problem != self._problem:
            log.error("%s", problem)
        self._problem = problem
        last = self._refused
        waits = 2 * last[2] if last and last[0] == version else self.poll_seconds
        waits = min(waits, RETRY_SECONDS)
        self._refused = (version, time.monotonic() + waits, waits)

    def _is_left_alone(self, version: str) -> bool:
        """Tell whether it was refused a moment ago: to hash it costs more than to ask."""
        refused = self._refused
        return (
            refused is not None
            and refused[0] == version
            and time.monotonic() < refused[1]
        )

    def _follow(self) -> None:
        self._turn, self._over = threading.Lock(), threading.Event()
        # Weakly: a reader that nobody holds any more must not be kept by its thread.
        me = weakref.ref(self)
        self._thread = threading.Thread(
            target=_keep_fresh,
            args=(me, self._over, self.poll_seconds),
            name="snapshot",
            daemon=True,
        )
        self._thread.start()


def _keep_fresh(
    reader: "weakref.ref[Snapshot]", over: threading.Event, seconds: float
) -> None:
    while not over.wait(seconds):
        snapshot = reader()
        if snapshot is None:
            return
        try:
            snapshot.refresh()
        # Whatever it is: a thread that dies would leave lookups on an old version.
        except Exception as error:  # noqa: BLE001
            with contextlib.suppress(Exception):
                snapshot._refuse(None, f"{type(error).__name__}: {error}")
        del snapshot


def _after_fork() -> None:
    # Threads don't live on in a child.
    for snapshot in list(_following):
        snapshot._follow()


os.register_at_fork(after_in_child=_after_fork)
