"""Which night tonight builds on, if any: the last committed one, if it can be trusted.

It knows the lake and the release, and reads no row.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from batch_assets.incremental.reuse import Incremental, Origin, ReuseSource
from batch_assets.lake.books import books_of
from batch_assets.lake.commits import BaselineDecision
from batch_assets.lake.delta_table import digest_of
from batch_assets.lake.parts import Part
from batch_assets.lake.receipts import LayoutHint, PredictionsReceipt, ValidatedReceipt
from batch_assets.lake.side_tables import digests_of, side_tables_of
from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.storage import StoragePath

# Tonight's rows of a part lie in a few of last night's: in one of each kind, or where
# the source has grown, two. In more they lie anywhere, and a shard is loaded whole, once
# for all of its parts.
MOST_PARTS = 4


@dataclass(frozen=True)
class Baseline:
    """A night that unchanged rows are taken over from.

    `rescored_share` of the rows that can be taken over are scored all the same.
    """

    day: str
    validated: list[Part[ValidatedReceipt]]
    predictions: list[Part[PredictionsReceipt]]
    rescored_share: float

    @property
    def inputs(self) -> list[object]:
        """What of it changes the job: its very bytes, and how many rows are rescored."""
        both = digest_of(self.validated) + digest_of(self.predictions)
        digest = hashlib.sha256(both.encode()).hexdigest()
        return [[self.day, digest, self.rescored_share]]

    def sources_of(
        self, parts: Sequence[Part[ValidatedReceipt]], job: str
    ) -> dict[StoragePath, ReuseSource]:
        """Return where the rows of tonight's parts are taken over from.

        Args:
            parts: tonight's validated parts; those of which nothing can be taken over
                are left out.
            job: the night's.
        """
        sources = self._all_sources(parts)
        groups_of = {part.path: part.groups for part in parts}
        groups = [(path, i) for path, source in sources.items() for i in source.groups]
        drawn = _drawn(groups, job, self.rescored_share)
        wanted = sum(groups_of[path][i] for path, i in groups) * self.rescored_share
        rows_each = math.ceil(wanted / max(len(drawn), 1))
        return {
            path: replace(
                source,
                rescored=tuple(i for other, i in drawn if other == path),
                rescored_rows=rows_each,
            )
            for path, source in sources.items()
        }

    def _all_sources(
        self, parts: Sequence[Part[ValidatedReceipt]]
    ) -> dict[StoragePath, ReuseSource]:
        of, shards = digest_of(self.validated), self._origins()
        sources: dict[StoragePath, ReuseSource] = {}
        for part in parts:
            hint = part.receipt.hint
            if hint is None:
                continue
            origins = shards.get(part.shard, {})
            if hint.of != of:
                # Not validated beside this night: any row may have been there.
                hint = LayoutHint(of, list(range(len(part.groups))), list(origins))
            if len(hint.parts) <= MOST_PARTS:
                origins = {name: origins[name] for name in hint.parts}
            if hint.groups and origins:
                sources[part.path] = ReuseSource(
                    tuple(origins.values()), tuple(hint.groups)
                )
        return sources

    def _origins(self) -> dict[int, dict[str, Origin]]:
        """Its parts by shard and name."""
        made_of: dict[tuple[int, str], list[StoragePath]] = {}
        for part in self.predictions:
            validated = part.shard, part.receipt.validated
            made_of.setdefault(validated, []).append(part.path)
        origins: dict[int, dict[str, Origin]] = {}
        for before in self.validated:
            name = before.path.name
            predictions = tuple(made_of[before.shard, name])
            by_name = origins.setdefault(before.shard, {})
            by_name[name] = Origin(before.path, predictions)
        return origins


def find_baseline(
    lake: Lake, release: Release, day: str, arithmetic: str, incremental: Incremental
) -> tuple[Baseline | None, BaselineDecision]:
    """Return the night before, or None, and why.

    Args:
        lake: the pipeline's tables.
        release: of tonight.
        day: tonight's.
        arithmetic: what else decides the last bits of an output (`Device.arithmetic`).
        incremental: how nights build on each other.
    """
    before = max((d for d in lake.predictions.rows_by_day() if d < day), default=None)
    if before is None:
        return None, BaselineDecision(why="no night was committed before it")
    parts = lake.predictions.parts(before)
    made_by = {(part.receipt.release, part.receipt.arithmetic) for part in parts}
    if made_by != {(release.digest, arithmetic)}:
        why = (
            f"{before} was scored by another release, or otherwise than in {arithmetic}"
        )
        return None, BaselineDecision(why=why)
    side = digests_of(side_tables_of(lake, day, release.side_tables))
    if any(part.receipt.side != side for part in parts):
        # A row that has not changed may have another ranking all the same.
        return None, BaselineDecision(why=f"the side tables of {before} were others")
    validated = lake.validated_features.parts(before)
    if why := _why_not(lake, before, parts, validated):
        return None, BaselineDecision(why=why)
    commit = lake.predictions.last_commit(before)
    nights = (commit.facts.decision.nights_since_full if commit else 0) + 1
    if nights >= incremental.full_every:
        why = f"each {incremental.full_every}th night scores every row"
        return None, BaselineDecision(why=why)
    baseline = Baseline(before, validated, parts, incremental.rescored_share)
    return baseline, BaselineDecision(before, nights, f"unchanged since {before}")


def _why_not(
    lake: Lake,
    before: str,
    parts: list[Part[PredictionsReceipt]],
    validated: list[Part[ValidatedReceipt]],
) -> str:
    """Why the rows of a night can't be built on; empty if they can."""
    # Of the scoring alone: it is what tonight builds on.
    dead = lake.dead_letters.parts(before)
    books = books_of(before, validated=validated, scored=parts, dead=dead)
    if books.open_after_scoring():
        return f"{before} was validated again since it was scored"
    if not all(part.receipt.has_fingerprints for part in validated):
        return f"{before} was validated without fingerprints"
    return ""


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
