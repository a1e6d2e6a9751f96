"""What sweeps have found, and where it is kept: under `<root>/sweeps/`.

A sweep is kept for its release, device and precision. This measures nothing.
"""

import hashlib
import json
import logging
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from batch_assets.models.release import Release
from batch_assets.storage import StoragePath, local, write_whole

if TYPE_CHECKING:  # A device is torch's; what was found is read without it.
    from batch_assets.scoring.device import Device

# The smallest batch whose rate is at most this share below the best is the knee.
NEAR_BEST = 0.03
# Where sweeps lie under a root.
SWEEPS = "sweeps"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """A batch size, with its rows per second and the MiB that its batches took."""

    batch_rows: int
    rows_per_second: float
    memory_mb: float | None


@dataclass(frozen=True)
class WorkerPoint:
    """A number of workers, with the rows per second of whole chunks."""

    workers: int
    rows_per_second: float


@dataclass(frozen=True)
class Sweep:
    """The curve of a release on a device.

    `edge` says why it ends where it ends; `precision`, whether it was compiled too.
    `workers` scored at once; `by_workers` is of whole chunks, where it was measured.
    """

    model: str
    digest: str
    device: str
    precision: str
    workers: int
    torch: str
    at: float
    edge: str
    points: tuple[Point, ...]
    by_workers: tuple[WorkerPoint, ...] = ()

    @property
    def best(self) -> Point:
        return max(self.points, key=lambda point: point.rows_per_second)

    @property
    def knee(self) -> Point:
        """The smallest batch that is nearly as fast as the best."""
        enough = self.best.rows_per_second * (1 - NEAR_BEST)
        return min(
            (point for point in self.points if point.rows_per_second >= enough),
            key=lambda point: point.batch_rows,
        )

    @property
    def best_workers(self) -> int | None:
        """The fewest workers that are nearly as fast as the best, if it was measured."""
        if not self.by_workers:
            return None
        best = max(point.rows_per_second for point in self.by_workers)
        enough = best * (1 - NEAR_BEST)
        return min(p.workers for p in self.by_workers if p.rows_per_second >= enough)


class Sweeps:
    """The sweeps under a root: the newest of each release, device and precision."""

    def __init__(self, root: StoragePath) -> None:
        # A machine's own: of an object store, they lie here.
        self._folder = local(root) / SWEEPS

    def keep(self, curve: Sweep) -> Path:
        """Write a sweep, in one step, in place of an older one."""
        path = self._path(curve.model, curve.digest, curve.device, curve.precision)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(curve), indent=1).encode() + b"\n")
        return path

    def find(self, release: Release, device: "Device") -> Sweep | None:
        """Read the sweep of a release on a device, if there is one that can be read."""
        return _read(
            self._path(release.name, release.digest, device.label, device.computes_in)
        )

    def of_release(self, release: Release) -> list[Sweep]:
        """Read the sweeps of a release on any device that can be read."""
        paths = sorted((self._folder / release.name).glob(f"{release.digest}-*.json"))
        return [curve for curve in map(_read, paths) if curve]

    def tuned(self, release: Release, device: "Device") -> "Device":
        """Give a device the knee of its sweep, unless a size was set by hand."""
        if device.batch_rows_from != "default":
            return device
        curve = self.find(release, device)
        if curve is None:
            return device
        return replace(
            device, batch_rows=curve.knee.batch_rows, batch_rows_from="sweep"
        )

    def workers(self, release: Release, device: "Device") -> int | None:
        """Return how many workers the device should have, if that was measured."""
        curve = self.find(release, device)
        return curve.best_workers if curve else None

    def _path(self, model: str, digest: str, device: str, precision: str) -> Path:
        name, precision = (
            re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
            for text in (device, precision)
        )
        # Two names that look the same as a file are two devices all the same.
        mark = hashlib.sha256(device.encode()).hexdigest()[:8]
        return self._folder / model / f"{digest}-{name}-{mark}-{precision}.json"


def _read(path: Path) -> Sweep | None:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        points = tuple(Point(**point) for point in fields.pop("points"))
        by_workers = tuple(WorkerPoint(**p) for p in fields.pop("by_workers", ()))
        curve = Sweep(**fields, points=points, by_workers=by_workers)
        return curve if curve.knee.batch_rows > 0 else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        # A night does not fail for want of a hint.
        log.warning("%s can't be read and is ignored: %s", path, error)
        return None
