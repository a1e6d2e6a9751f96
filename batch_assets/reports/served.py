"""What became of a day's version: served, held back, gone, or never made."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from batch_assets.lake.delta_table import digest_of
from batch_assets.lake.parts import Part
from batch_assets.lake.receipts import PredictionsReceipt
from batch_assets.snapshots.manifest import SnapshotManifest, day_of
from batch_assets.snapshots.store import SnapshotStore

State = Literal[
    "served", "newer", "pinned", "held", "outdated", "gone", "built", "none"
]


@dataclass(frozen=True)
class Served:
    """What readers get, and what there is of the day.

    Attributes:
        state: `served` if readers get the day; `newer`, if a later one; `pinned`, if a
            person wants another; `held`, if one held the day back; `outdated`, if they get
            it as it was scored before; `gone`, if it was published and lies no more;
            `built`, if it is there and not published; `none`, if nothing is.
        readers: the version that readers get.
        version: that was made of the day's predictions, if it is on disk.
        rows: of that version, without those that it keeps of an earlier night.
        published_at: when a version of the day was published last.
        why: it is held back or pinned.
    """

    state: State = "none"
    readers: str | None = None
    version: str | None = None
    rows: int | None = None
    published_at: datetime | None = None
    why: str = ""

    @property
    def was_published(self) -> bool:
        """Whether readers get the day, or once did."""
        return self.published_at is not None or self.state == "served"


def served_of(
    store: SnapshotStore, day: str, parts: list[Part[PredictionsReceipt]]
) -> Served:
    """Return what became of a day's predictions.

    Raises:
        SnapshotError: a pointer can't be read.
    """
    current, pinned = store.current(), store.pinned()
    readers = pinned or current
    built = store.versions_of(digest_of(parts)) if parts else []
    version = readers if readers in built else (built[-1] if built else None)
    entries, _ = store.history()
    published = [
        entry.at
        for entry in entries
        if entry.act == "publish" and entry.version and day_of(entry.version) == day
    ]
    why = store.held_back(day) or ""
    return Served(
        state=_state(
            day, readers, version, pinned, held=bool(why), was=bool(published)
        ),
        readers=readers,
        version=version,
        rows=_rows_of_the_day(store.manifest(version)) if version else None,
        published_at=published[-1] if published else None,
        why=why,
    )


def _state(
    day: str,
    readers: str | None,
    version: str | None,
    pinned: str | None,
    *,
    held: bool,
    was: bool,
) -> State:
    if version and readers == version:
        return "served"
    if pinned:
        return "pinned"
    if readers and day_of(readers) == day:
        return "outdated"
    if readers and day_of(readers) > day:
        return "newer" if version or not was else "gone"
    if held:
        return "held"
    if version:
        return "built"
    return "gone" if was else "none"


def _rows_of_the_day(manifest: SnapshotManifest) -> int:
    return sum(file.rows for file in manifest.files if not file.kept)
