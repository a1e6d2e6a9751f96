"""Which night tonight builds on, if any: the last committed one, if it can be trusted.

It knows the lake and the release, and reads no row.
"""

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path

from batch_assets.lake.parts import Part
from batch_assets.lake.tables import Lake, digest_of
from batch_assets.models.release import Release
from batch_assets.quality.before import FINGERPRINT, SAME
from batch_assets.scoring.carry import Incremental, Source


@dataclass(frozen=True)
class Baseline:
    """A night that unchanged rows are taken over from.

    `content` names its very bytes, `nights` says how many in a row have built on a full
    one, tonight included.
    """

    day: str
    content: str
    nights: int
    sources: dict[int, Source]

    def source_of(
        self, part: Part, rescored: dict[Path, list[int]], rows: int
    ) -> Source:
        """Where a part's rows are taken over from; a new shard has nothing to take."""
        source = self.sources.get(part.receipt.shard, Source((), ()))
        mine = tuple(rescored.get(part.path, ()))
        return replace(source, rescored=mine, rescored_rows=rows)


@dataclass(frozen=True)
class Grounds:
    """Which night a night was built on, and why on that one or on none.

    `refused` says that it was to be built on one whose rows came out differently.
    """

    built_on: str | None = None
    nights_since_full: int = 0
    why: str = ""
    refused: bool = False


def find_baseline(
    lake: Lake,
    release: Release,
    day: str,
    *,
    arithmetic: str,
    incremental: Incremental,
) -> tuple[Baseline | None, str]:
    """The night before, or None, and why."""
    before = max((d for d in lake.predictions.rows_by_day() if d < day), default=None)
    if before is None:
        return None, "no night was committed before it"
    parts = lake.predictions.parts(before)
    made_by = {
        (p.receipt.facts["release"], p.receipt.facts.get("arithmetic")) for p in parts
    }
    if made_by != {(release.digest, arithmetic)}:
        return (
            None,
            f"{before} was scored by another release, or otherwise than in {arithmetic}",
        )
    if lake.books(before).open_after_scoring():
        return None, f"{before} was validated again since it was scored"
    validated = lake.validated_features.parts(before)
    if not all(part.receipt.facts.get(FINGERPRINT) for part in validated):
        return None, f"{before} was validated without fingerprints"
    commit = lake.predictions.last_commit(before)
    grounds = commit.facts.get("grounds", {}) if commit else {}
    nights = grounds.get("nights_since_full", 0) + 1
    if nights >= incremental.full_every:
        return None, f"each {incremental.full_every}th night scores every row"
    sources = {
        shard: Source(_paths(validated, shard), _paths(parts, shard))
        for shard in {part.receipt.shard for part in parts}
    }
    content = hashlib.sha256(
        (digest_of(validated) + digest_of(parts)).encode()
    ).hexdigest()
    return Baseline(before, content, nights, sources), f"unchanged since {before}"


def rescored_groups(
    parts: list[Part], job: str, share: float
) -> tuple[dict[Path, list[int]], int]:
    """The row groups in which rows are rescored, and how many rows in each.

    They are drawn by the job's id: at random, and the same for the same job.
    """
    # Where rows that have not changed lie apart, there are none to rescore elsewhere.
    parts = [part for part in parts if part.receipt.facts.get(SAME)] or parts
    groups = [(part.path, i) for part in parts for i in range(len(part.groups))]
    rows = sum(part.receipt.tally.rows for part in parts)

    def draw(group: tuple[Path, int]) -> bytes:
        text = f"{job} {group[0].parent.name} {group[0].name} {group[1]}"
        return hashlib.sha256(text.encode()).digest()

    drawn = sorted(groups, key=draw)[: math.ceil(len(groups) * share)]
    found: dict[Path, list[int]] = {}
    for path, group in drawn:
        found.setdefault(path, []).append(group)
    return found, math.ceil(rows * share / max(len(drawn), 1))


def _paths(parts: list[Part], shard: int) -> tuple[Path, ...]:
    return tuple(part.path for part in parts if part.receipt.shard == shard)
