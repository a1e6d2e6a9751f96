"""The plan of a night: which chunks a day is cut into, the same on every engine.

It scores nothing.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from batch_assets.errors import ContractError, LakeError
from batch_assets.incremental.baseline import Baseline
from batch_assets.incremental.reuse import Incremental
from batch_assets.lake.parts import Part
from batch_assets.lake.raw import job_of
from batch_assets.lake.receipts import ValidatedReceipt
from batch_assets.lake.side_tables import SideTable, digests_of, side_tables_of
from batch_assets.lake.tables import Lake
from batch_assets.models.profiling import segment_columns
from batch_assets.models.release import Release
from batch_assets.quality.gates import most_dead_letters
from batch_assets.quality.validation import contract_of
from batch_assets.scoring.chunk_profile import profiled_one_in
from batch_assets.scoring.chunk_task import ChunkTask
from batch_assets.spec import CHUNK_SECONDS, GateLimits


@dataclass(frozen=True)
class ScoringSettings:
    """What a pipeline declares of its scoring.

    Attributes:
        gates: what must hold before a day is scored, and how many rows may be dead.
        chunk_rows: rows of a chunk.
        chunk_seconds: how long the model may take over a chunk.
        incremental: how nights build on each other; each stands alone if left out.
        segments: the columns whose values a night is profiled by.
        keep_failed: whether a shard that can't be scored keeps what an earlier night left,
            and the others are committed; if not, the night stops.
    """

    gates: GateLimits
    chunk_rows: int
    chunk_seconds: float = CHUNK_SECONDS
    incremental: Incremental | None = None
    segments: tuple[str, ...] = ()
    keep_failed: bool = False


@dataclass(frozen=True)
class Plan:
    """The chunks of a day under one release; the same input gives the same plan.

    `most_failed` shards may fail before the night stops.
    """

    day: str
    job: str
    release: Release
    validated: Sequence[Part[ValidatedReceipt]]
    tasks: list[ChunkTask]
    max_dead: int
    most_failed: int = 0

    @property
    def rows(self) -> int:
        return sum(task.rows for task in self.tasks)


def plan_night(
    lake: Lake,
    release: Release,
    validated: Sequence[Part[ValidatedReceipt]],
    settings: ScoringSettings,
    *,
    day: str,
    computes_in: str,
    baseline: Baseline | None = None,
) -> Plan:
    """Cut a validated day into chunks; a shard of a pinned source has several parts.

    Args:
        lake: the pipeline's tables.
        release: that scores.
        validated: the day's validated parts.
        settings: of the pipeline.
        day: the day.
        computes_in: the device's settings that change an output; they are in the job.
        baseline: the night that unchanged rows are taken over from.

    Raises:
        LakeError: the day has no validated features.
        ContractError: it was validated under another contract than the release's.
    """
    _must_be_validated_for(release, day, validated)
    inputs = [[part.path.name, part.size] for part in validated]
    side = side_tables_of(lake, day, release.side_tables)
    # Before a row is scored: what they name may not be there.
    segment_columns(release.contract, settings.segments)
    asked = (release.digest, settings.chunk_rows, computes_in)
    job = job_of(day, inputs, *asked, *_built_on(baseline, side, settings))
    sources = baseline.sources_of(validated, job) if baseline else {}
    rows = sum(part.rows for part in validated)
    max_dead = most_dead_letters(lake, day, rows, settings.gates)
    numbers: defaultdict[int, Iterator[int]] = defaultdict(itertools.count)
    tasks = [
        ChunkTask(
            day=day,
            shard=part.shard,
            chunk=number,
            job=job,
            validated=part.path,
            row_groups=groups,
            rows=of_chunk,
            predictions=lake.predictions.part_path(day, part.shard, job, number),
            dead_letters=lake.dead_letters.part_path(day, part.shard, job, number),
            max_faults=max_dead,
            max_seconds=settings.chunk_seconds,
            reuse=sources.get(part.path),
            side=side,
            segments=settings.segments,
            profiled_one_in=profiled_one_in(rows),
        )
        for part in validated
        for groups, of_chunk in chunks_of(part.groups, settings.chunk_rows)
        for number in [next(numbers[part.shard])]
    ]
    failing = _most_failed(validated, settings)
    return Plan(day, job, release, validated, tasks, max_dead, failing)


def _most_failed(
    validated: Sequence[Part[ValidatedReceipt]], settings: ScoringSettings
) -> int:
    """How many shards may fail before the night stops."""
    if not settings.keep_failed:
        return 0
    shards = {part.shard for part in validated}
    return math.floor(len(shards) * settings.gates.max_kept_share)


def _built_on(
    baseline: Baseline | None, side: tuple[SideTable, ...], settings: ScoringSettings
) -> list[Any]:
    """What else is in the job; of a night without any of it, the job stays as it was."""
    found = list(baseline.inputs) if baseline else []
    if side:
        found.append(digests_of(side))
    if settings.segments:
        # No output depends on them, but what a chunk leaves of its columns does.
        found.append({"segments": list(settings.segments)})
    return found


def _must_be_validated_for(
    release: Release, day: str, validated: Sequence[Part[ValidatedReceipt]]
) -> None:
    if not validated:
        msg = f"validated_features has no {day}: materialise it first"
        raise LakeError(msg)
    validated_under = contract_of(validated)
    if validated_under != release.contract.digest:
        msg = (
            f"{day} was validated under contract {validated_under[:12]}, but release "
            f"{release.name} {release.short} has {release.contract.digest[:12]}. "
            "Materialise raw_features and validated_features of that day again."
        )
        raise ContractError(msg)


def chunks_of(
    row_groups: Sequence[int], chunk_rows: int
) -> Iterator[tuple[tuple[int, int], int]]:
    """Cut a part into runs of row groups of about `chunk_rows` rows.

    Args:
        row_groups: the rows of each.
        chunk_rows: of a chunk, unless a row group has more.

    Returns:
        Of each chunk its row groups, from the first to one past the last, and its rows.
    """
    first = rows = 0
    for group, count in enumerate(row_groups):
        if rows and rows + count > chunk_rows:
            yield (first, group), rows
            first, rows = group, 0
        rows += count
    # An empty part is a chunk too: no shard may look done without a receipt.
    yield (first, len(row_groups)), rows
