"""Replay a day's dead letters: score those rows alone, and merge what is scored.

Dead letters are kept as the model got them, so they are chunks like any other: the
same scoring over the parts of dead letters, with the day's own release. What is scored
now is added to the predictions in one commit; what still fails stays a dead letter. It
knows neither Dagster nor how a day is served.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import pyarrow as pa

from batch_assets.errors import LakeError, ReleaseError
from batch_assets.lake.books import totals_by_shard
from batch_assets.lake.commits import ScoringCommit
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.parts import Part, read_columns
from batch_assets.lake.receipts import DeadLettersReceipt, PredictionsReceipt
from batch_assets.lake.reconciliation import ControlTotal, must_close, total_of
from batch_assets.lake.side_tables import digests_of, side_tables_of
from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.scoring.chunk_parts import dead_letter_schema
from batch_assets.scoring.chunk_task import ChunkTask, Scored
from batch_assets.scoring.engines.base import Engine
from batch_assets.scoring.night import ScoredDay
from batch_assets.scoring.plan import ScoringSettings
from batch_assets.storage import StoragePath

# A few rows get at least this long, however short a chunk's share of them is.
LEAST_SECONDS = 10.0

Predictions = Sequence[Part[PredictionsReceipt]]
DeadLetters = Sequence[Part[DeadLettersReceipt]]


@dataclass(frozen=True)
class Replayed(ScoredDay):
    """The day as a replay left it, and what the replay did.

    `before` are the rows that were dead letters before, `rescued` those of them that are
    scored now.
    """

    before: ControlTotal
    rescued: ControlTotal


def release_of(lake: Lake, day: str) -> tuple[str, str]:
    """Return the model and the digest of the release that scored a day.

    Raises:
        LakeError: the day has no predictions.
    """
    parts = lake.predictions.parts(day)
    if not parts:
        msg = f"predictions has no {day}: there is nothing to replay; run the day first"
        raise LakeError(msg)
    return parts[0].receipt.model, parts[0].receipt.release


def letters_of(lake: Lake, day: str) -> pa.Table:
    """Return the committed dead letters of a day: whole rows, with shard and reason."""
    pieces = [
        read_columns(part.path).append_column(
            "shard", pa.repeat(pa.scalar(part.shard), part.rows)
        )
        for part in lake.dead_letters.parts(day)
    ]
    return (
        pa.concat_tables(pieces, promote_options="default") if pieces else pa.table({})
    )


def replay_day(
    run: DayRun, release: Release, engine: Engine, settings: ScoringSettings
) -> Replayed:
    """Score the dead letters of a day again, and merge those that are scored now.

    A second replay finds only what still fails. One that was killed between its two
    commits is finished by the next.

    Args:
        run: the day.
        release: the one that scored the day, approved, its bytes verified.
        engine: where to run.
        settings: of the pipeline; `chunk_seconds` is for so many rows as a chunk has.

    Raises:
        LakeError: the day has no predictions, or was validated again since.
        ReleaseError: it was scored by another release.
        BooksError: its books don't close; nothing is committed.
    """
    lake, day = run.lake, run.day
    model, digest = release_of(lake, day)
    if digest != release.digest:
        msg = (
            f"{day} was scored by release {model} {digest[:12]}, so its dead letters "
            f"can't be scored by {release.short}: a day has one release. To use another, "
            "run the whole day again."
        )
        raise ReleaseError(msg)
    if lake.books(day).outdated_scored:
        msg = f"{day} was validated again since it was scored: run the whole day again"
        raise LakeError(msg)
    parts = lake.predictions.parts(day)
    dead = _still_dead(lake, parts, lake.dead_letters.parts(day))
    before = total_of(part.receipt.total for part in dead)
    side = side_tables_of(lake, day, release.side_tables)
    if any(part.receipt.side != digests_of(side) for part in parts):
        msg = (
            f"the side tables of {day} were taken again since it was scored: run the "
            "whole day again"
        )
        raise LakeError(msg)
    tasks = [
        replace(_task(lake, part, parts, number, settings), side=side)
        for number, part in enumerate(dead)
    ]
    # A part of which nothing could be scored stays as it is.
    rescued = [scored.part for scored in _scored(run, tasks, dead, release, engine)]
    parts += [part for part in rescued if part.rows]
    return _merge(run, release, parts, _still_dead(lake, parts, dead), before)


def _scored(
    run: DayRun,
    tasks: list[ChunkTask],
    dead: DeadLetters,
    release: Release,
    engine: Engine,
) -> list[Scored]:
    """What each part of dead letters became; every row of it is in one of the two."""
    if not tasks:
        return []
    engine.load(release)
    done: dict[StoragePath, Scored] = {}
    with closing(engine.run(tasks)) as scored_chunks:
        for scored in scored_chunks:
            done[scored.part.path] = scored
            run.progress(scored.part.rows + scored.dead_rows)
    for task, part in zip(tasks, dead, strict=True):
        became = done.get(task.predictions)
        must_close(
            run.day,
            totals_by_shard([part]),
            scored=totals_by_shard([became.part] if became else []),
            dead=totals_by_shard([became.dead] if became and became.dead else []),
        )
    return list(done.values())


def _task(
    lake: Lake,
    dead: Part[DeadLettersReceipt],
    parts: Predictions,
    number: int,
    settings: ScoringSettings,
) -> ChunkTask:
    """A part of dead letters as a chunk, numbered on from those of its shard."""
    day, shard, job = dead.receipt.day, dead.shard, dead.receipt.job
    last = max(part.receipt.chunk for part in parts if part.shard == shard)
    chunk, seconds = last + 1 + number, settings.chunk_seconds
    return ChunkTask(
        day=day,
        shard=shard,
        chunk=chunk,
        job=job,
        validated=dead.path,
        row_groups=(0, len(dead.groups)),
        rows=dead.rows,
        predictions=lake.predictions.part_path(day, shard, job, chunk),
        dead_letters=lake.dead_letters.part_path(day, shard, job, chunk),
        max_faults=dead.rows,
        max_seconds=max(
            min(seconds, LEAST_SECONDS), seconds * dead.rows / settings.chunk_rows
        ),
        replay_of=dead.receipt.validated,
    )


def _merge(
    run: DayRun,
    release: Release,
    parts: Predictions,
    dead: DeadLetters,
    before: ControlTotal,
) -> Replayed:
    """Close the books, and commit what the day consists of now."""
    lake, day, job = run.lake, run.day, parts[0].receipt.job
    must_close(
        day,
        totals_by_shard(lake.validated_features.parts(day)),
        scored=totals_by_shard(parts),
        dead=totals_by_shard(dead),
    )
    still = total_of(part.receipt.total for part in dead)
    rescued = before - still
    scored = sum(part.rows for part in parts)
    facts = ScoringCommit(job, release.name, release.digest, scored, still.rows)
    if commit := lake.predictions.last_commit(day):
        # What the night was built on stays true of it.
        facts = replace(
            facts,
            carried=commit.facts.carried,
            rescored=commit.facts.rescored,
            decision=commit.facts.decision,
            failed=commit.facts.failed,
        )
    facts = replace(facts, rescued=rescued.rows)
    contract = release.contract
    # Killed between the two, rows are in both tables and the books are open: the next
    # replay sees from the predictions which dead letters they came from.
    run.commit(lake.predictions, parts, contract.prediction_schema(), facts)
    run.commit(lake.dead_letters, dead, dead_letter_schema(contract), facts)
    return Replayed(job, parts, dead, before, rescued)


def _still_dead(
    lake: Lake, parts: Predictions, dead: DeadLetters
) -> list[Part[DeadLettersReceipt]]:
    """The dead letters that are left when these are the predictions."""
    rests = [
        lake.dead_letters.read_part(
            part.receipt.day, part.shard, part.receipt.job, part.receipt.chunk
        )
        for part in parts
        if part.receipt.replayed and part.receipt.dead
    ]
    replayed = {(part.shard, part.receipt.replayed) for part in parts}
    by_path = {part.path: part for part in [*dead, *rests]}
    return [
        part
        for part in by_path.values()
        if (part.shard, part.path.name) not in replayed
    ]
