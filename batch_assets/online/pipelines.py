"""A pipeline as it is served online: its snapshot, and the release that scores for it.

The release that scores is the one of the version that is served, if it is approved for
`online`. Both are followed in the background: a new release is loaded beside the old
one, which scores until the new one is proved. It knows no HTTP.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from batch_assets.errors import BatchAssetsError, ReleaseError
from batch_assets.models.registry import Registry
from batch_assets.online.batcher import Batch
from batch_assets.online.scoring import Limits, LiveRelease
from batch_assets.scoring.device import Device
from batch_assets.snapshots.manifest import ReleaseName
from batch_assets.snapshots.reader import Snapshot
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.snapshots.version import Version
from batch_assets.storage import StoragePath

# How soon an approval, a revocation or the release of another version is noticed.
FOLLOW_SECONDS = 1.0
# A release that could not be loaded is tried again after so long.
RETRY_SECONDS = 60.0

log = logging.getLogger(__name__)


class Served:
    """One pipeline. What is served and what scores may change from line to line: take
    `opened` and `live` once for each request.
    """

    def __init__(
        self,
        root: StoragePath,
        name: str,
        device: Device,
        limits: Limits,
        observe: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        """Nothing is opened.

        Args:
            root: `<root>`.
            name: of the pipeline.
            device: where the model runs.
            limits: of batches and waiting.
            observe: is told of each batch.
        """
        self.name = name
        self.limits = limits
        self.snapshot: Snapshot | None = None
        self.live: LiveRelease | None = None
        self.why_not_served = "its snapshot is not open yet"
        self.why_not_scored = "no release is loaded yet"
        self.settled = False
        self._store = SnapshotStore(root, name)
        self._registry = Registry(root)
        self._device = device
        self._observe = observe
        # When a release that can't be loaded is tried again.
        self._retry: dict[str, float] = {}
        self._over = threading.Event()

    @property
    def opened(self) -> Version | None:
        """The version that lookups come from now, if there is one."""
        return self.snapshot.opened if self.snapshot else None

    async def follow(self) -> None:
        """Follow what is served and who may score, until cancelled."""
        await self._open_snapshot()
        await self._follow_release()

    async def close(self) -> None:
        """Answer the rows that wait, and take no more. Nothing follows any more."""
        live, self.live = self.live, None
        self.why_not_scored = "the service is shutting down"
        if live:
            await live.close()
        # What is being loaded is given up, but not what was still to score.
        self._over.set()
        if self.snapshot:
            await asyncio.to_thread(self.snapshot.close)

    async def _open_snapshot(self) -> None:
        while self.snapshot is None:
            try:
                # It hashes every file; from then on it follows in a thread of its own.
                self.snapshot = await asyncio.to_thread(Snapshot, self._store)
            except (BatchAssetsError, OSError) as error:
                self._log_once("why_not_served", str(error))
                await asyncio.sleep(FOLLOW_SECONDS)

    async def _follow_release(self) -> None:
        while self.snapshot:
            try:
                await self._load_release(self.snapshot.release)
            except (BatchAssetsError, OSError) as error:
                # Who may score can't be read now: what was decided stays.
                self._log_once("why_not_scored", str(error))
            self.settled = True
            await asyncio.sleep(FOLLOW_SECONDS)

    async def _load_release(self, wanted: ReleaseName) -> None:
        """Let the release that is wanted score, or none, if it may not."""
        name, digest = wanted.name, wanted.digest
        live = self.live
        if live and (why := await self._forbids(name, live.release.digest)):
            await self._stop(why)
        if live and live.release.digest == digest:
            return
        if why := await self._forbids(name, digest):
            await self._stop(why)
            return
        if time.monotonic() < self._retry.get(digest, 0.0):
            return
        try:
            new = await asyncio.to_thread(self._load, name, digest)
        except BatchAssetsError as error:
            self._retry = {digest: time.monotonic() + RETRY_SECONDS}
            await self._stop(f"{error} It is tried again every {RETRY_SECONDS:.0f} s.")
            return
        old, self.live = self.live, new
        log.info("%s scores with %s %s", self.name, name, new.release.short)
        if old:
            await old.close()

    async def _forbids(self, name: str, digest: str) -> str | None:
        """Return why a release may not score, if it may not."""
        try:
            await asyncio.to_thread(
                self._registry.must_be_approved, name, digest, "online"
            )
        except ReleaseError as error:
            return str(error)
        return None

    def _load(self, name: str, digest: str) -> LiveRelease:
        release = self._registry.require(name, digest, "online")
        live = LiveRelease(
            release,
            self._device,
            self.limits,
            observe=self._observe,
            is_over=self._over.is_set,
        )
        live.start()
        return live

    async def _stop(self, why: str) -> None:
        self._log_once("why_not_scored", why)
        live, self.live = self.live, None
        if live:
            await live.close()

    def _log_once(self, name: str, why: str) -> None:
        if getattr(self, name) != why:
            setattr(self, name, why)
            log.warning("%s: %s", self.name, why)
