"""Which night tonight builds on, if any: the last committed one, if it can be trusted.

It knows the lake and the release, and reads no row.
"""

import hashlib
import math
from dataclasses import dataclass, replace

from batch_assets.incremental.previous_day import FINGERPRINT, LayoutHint
from batch_assets.incremental.reuse import Incremental, Origin, ReuseSource
from batch_assets.lake.parts import Part
from batch_assets.lake.tables import Lake, books_of, digest_of
from batch_assets.models.release import Release
from batch_assets.storage import StoragePath

# Tonight's rows of a part lie in a few of last night's: in one of each kind, or where
# the source has grown, two. In more they lie anywhere, and a shard is loaded whole, once
# for all of its parts.
MOST_PARTS = 4


@dataclass(frozen=True)
class Baseline:
    """A night that unchanged rows are taken over from.

    `nights` says how many in a row have built on a full one, tonight included.
    """

    day: str
    nights: int
    validated: list[Part]
    predictions: list[Part]

    @property
    def content(self) -> str:
        """Names its very bytes."""
        both = digest_of(self.validated) + digest_of(self.predictions)
        return hashlib.sha256(both.encode()).hexdigest()

    def sources_of(
        self, parts: list[Part], job: str, share: float
    ) -> dict[StoragePath, ReuseSource]:
        """Where the rows of tonight's parts are taken over from; some have none to take.

        Args:
            parts: tonight's validated parts.
            job: the night's.
            share: of the rows that can be taken over, how many are scored all the same.
        """
        of, shards = digest_of(self.validated), self._origins()
        found: dict[StoragePath, ReuseSource] = {}
        for part in parts:
            if not part.receipt.facts.get(FINGERPRINT):
                continue
            origins = shards.get(part.receipt.shard, {})
            hint = LayoutHint.in_receipt(part)
            if hint.of != of:
                # Not validated beside this night: any row may have been there.
                hint = LayoutHint(of, list(range(len(part.groups))), list(origins))
            if len(hint.parts) <= MOST_PARTS:
                origins = {name: origins[name] for name in hint.parts}
            if hint.groups and origins:
                found[part.path] = ReuseSource(
                    tuple(origins.values()), tuple(hint.groups)
                )
        rows = {part.path: part.groups for part in parts}
        groups = [(path, i) for path, source in found.items() for i in source.groups]
        drawn = _drawn(groups, job, share)
        wanted = sum(rows[path][i] for path, i in groups) * share
        each = math.ceil(wanted / max(len(drawn), 1))
        return {
            path: replace(
                source,
                rescored=tuple(i for other, i in drawn if other == path),
                rescored_rows=each,
            )
            for path, source in found.items()
        }

    def _origins(self) -> dict[int, dict[str, Origin]]:
        """Its parts by shard and name."""
        made_of: dict[tuple[int, str], list[Part]] = {}
        for part in self.predictions:
            place = part.receipt.shard, part.receipt.facts["validated"]
            made_of.setdefault(place, []).append(part)
        found: dict[int, dict[str, Origin]] = {}
        for part in self.validated:
            shard, name = part.receipt.shard, part.path.name
            paths = tuple(p.path for p in made_of[shard, name])
            found.setdefault(shard, {})[name] = Origin(part.path, paths)
        return found


@dataclass(frozen=True)
class BaselineDecision:
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
    validated = lake.validated_features.parts(before)
    dead = lake.dead_letters.parts(before)
    # Of the scoring alone: it is what tonight builds on.
    books = books_of(
        before, raw=[], validated=validated, quarantined=[], scored=parts, dead=dead
    )
    if books.open_after_scoring():
        return None, f"{before} was validated again since it was scored"
    if not all(part.receipt.facts.get(FINGERPRINT) for part in validated):
        return None, f"{before} was validated without fingerprints"
    commit = lake.predictions.last_commit(before)
    decision = commit.facts.get("grounds", {}) if commit else {}
    nights = decision.get("nights_since_full", 0) + 1
    if nights >= incremental.full_every:
        return None, f"each {incremental.full_every}th night scores every row"
    return Baseline(before, nights, validated, parts), f"unchanged since {before}"


def _drawn(
    groups: list[tuple[StoragePath, int]], job: str, share: float
) -> list[tuple[StoragePath, int]]:
    """The row groups in which rows are rescored.

    They are drawn by the job's id: at random, and the same for the same job.
    """

    def draw(group: tuple[StoragePath, int]) -> bytes:
        text = f"{job} {group[0].parent.name} {group[0].name} {group[1]}"
        return hashlib.sha256(text.encode()).digest()

    return sorted(groups, key=draw)[: math.ceil(len(groups) * share)]
