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
from dataclasses import dataclass
from pathlib import Path

from batch_assets.errors import BatchAssetsError, ReleaseError, SnapshotError
from batch_assets.models.registry import Registry
from batch_assets.scoring.device import Device
from batch_assets.serving.batcher import Batch
from batch_assets.serving.live import LiveRelease
from batch_assets.serving.snapshot import Snapshot, current_version

# How soon another version, an approval or a revocation is noticed.
FOLLOW_SECONDS = 1.0
# A release that could not be loaded is tried again after so long.
RETRY_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """How rows are scored: at most `max_batch_size` at once, after `max_wait_ms` at the
    latest while the model is free, `max_queue` waiting; a batch gets `max_seconds`.
    """

    max_batch_size: int = 64
    max_wait_ms: float = 5.0
    max_queue: int = 1024
    max_seconds: float = 10.0


class Served:
    """One pipeline. What is served and what scores may change between two lines that
    await: take `snapshot` and `live` once for each request.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        device: Device,
        limits: Limits,
        observe: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        self.name = name
        self.limits = limits
        self.snapshot: Snapshot | None = None
        self.live: LiveRelease | None = None
        self.why_not_served = "its snapshot is not open yet"
        self.why_not_scored = "no release is loaded yet"
        self.settled = False
        self._folder = root / "snapshots" / name
        self._registry = Registry(root)
        self._device = device
        self._observe = observe
        # When a release that can't be loaded is tried again.
        self._retry: dict[str, float] = {}
        self._over = threading.Event()

    async def follow(self) -> None:
        """Follow what is served and who may score, until cancelled."""
        await asyncio.gather(self._follow_snapshot(), self._follow_release())

    async def close(self) -> None:
        """Answer the rows that wait, and take no more."""
        live, self.live = self.live, None
        self.why_not_scored = "the service is shutting down"
        if live:
            await live.close()
        # What is being loaded is given up; what scores was not to be.
        self._over.set()

    async def _follow_snapshot(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._open_current)
            except SnapshotError as error:
                self._say_once("why_not_served", str(error))
            await asyncio.sleep(FOLLOW_SECONDS)

    def _open_current(self) -> None:
        served = current_version(self._folder)
        if self.snapshot and self.snapshot.version == served:
            return
        snapshot = Snapshot.current(self._folder)
        # Now, and not at a key's first lookup: nobody waits for a file to be hashed.
        snapshot.verify()
        self.snapshot = snapshot
        log.info("%s serves %s", self.name, snapshot.version)

    async def _follow_release(self) -> None:
        while True:
            if self.snapshot:
                await self._load_release_of(self.snapshot)
                self.settled = True
            await asyncio.sleep(FOLLOW_SECONDS if self.settled else 0.05)

    async def _load_release_of(self, snapshot: Snapshot) -> None:
        name, digest = snapshot.manifest.model_name, snapshot.manifest.model_version
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
        """Why a release may not score, if it may not."""
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
            max_batch_size=self.limits.max_batch_size,
            max_wait_ms=self.limits.max_wait_ms,
            max_queue=self.limits.max_queue,
            max_seconds=self.limits.max_seconds,
            observe=self._observe,
            is_over=self._over.is_set,
        )
        live.start()
        return live

    async def _stop(self, why: str) -> None:
        self._say_once("why_not_scored", why)
        live, self.live = self.live, None
        if live:
            await live.close()

    def _say_once(self, what: str, why: str) -> None:
        if getattr(self, what) != why:
            setattr(self, what, why)
            log.warning("%s: %s", self.name, why)
