"""Replay a day's dead letters: score those rows alone, and merge what is scored.

Dead letters are kept as the model got them, so they are chunks like any other: the
same scoring over the parts of dead letters, with the day's own release. What is scored
now is added to the predictions in one commit; what still fails stays a dead letter. It
knows neither Dagster nor how a day is served.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import pyarrow as pa

from batch_assets.errors import LakeError, ReleaseError
from batch_assets.lake.parts import Part, open_part, read_columns
from batch_assets.lake.reconciliation import ControlTotal, must_close, total_of
from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.scoring.chunk import ChunkTask, Scored, dead_letter_schema
from batch_assets.scoring.night import Engine, data_version_of
from batch_assets.spec import CHUNK_SECONDS
from batch_assets.storage import StoragePath

# A few rows get at least this long, however short a chunk's share of them is.
LEAST_SECONDS = 10.0
# Of the night's commit, in that of a replay.
KEPT = ("grounds", "carried", "rescored")


@dataclass(frozen=True)
class Replayed:
    """The day as a replay left it, and what the replay did.

    `found` rows were dead letters before, `rescued` of them are scored now.
    """

    job: str
    parts: list[Part]
    dead: list[Part]
    found: ControlTotal
    rescued: ControlTotal

    @property
    def total(self) -> ControlTotal:
        return total_of(part.receipt.total for part in self.parts)

    @property
    def dead_letters(self) -> ControlTotal:
        return total_of(part.receipt.total for part in self.dead)

    @property
    def content(self) -> str:
        return data_version_of(self.parts)


def release_of(lake: Lake, day: str) -> tuple[str, str]:
    """The model and the digest of the release that scored a day.

    Raises:
        LakeError: the day has no predictions.
    """
    parts = lake.predictions.parts(day)
    if not parts:
        msg = f"predictions has no {day}: there is nothing to replay; run the day first"
        raise LakeError(msg)
    facts = parts[0].receipt.facts
    return facts["model"], facts["release"]


def letters_of(lake: Lake, day: str) -> pa.Table:
    """The committed dead letters of a day: whole rows, with their shard and reason."""
    pieces = [
        read_columns(part.path).append_column(
            "shard", pa.repeat(pa.scalar(part.receipt.shard), part.receipt.total.rows)
        )
        for part in lake.dead_letters.parts(day)
    ]
    return (
        pa.concat_tables(pieces, promote_options="default") if pieces else pa.table({})
    )


def replay_day(
    lake: Lake,
    release: Release,
    day: str,
    engine: Engine,
    *,
    chunk_rows: int,
    chunk_seconds: float = CHUNK_SECONDS,
    guard: Callable[[], None] = lambda: None,
    progress: Callable[[int], None] = lambda rows: None,
) -> Replayed:
    """Score the dead letters of a day again, and merge those that are scored now.

    A second replay finds only what still fails. One that was killed between its two
    commits is finished by the next.

    Args:
        lake: the pipeline's tables.
        release: the one that scored the day, approved, its bytes verified.
        day: the day.
        engine: where to run.
        chunk_rows: rows of a chunk of a night; `chunk_seconds` is for so many.
        chunk_seconds: how long the model may take over a chunk.
        guard: raises if this run may not commit.
        progress: called with the rows of each part of dead letters that is done.

    Raises:
        LakeError: the day has no predictions, or was validated again since.
        ReleaseError: it was scored by another release.
        BooksError: its books don't close; nothing is committed.
    """
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
    tasks = [
        _task(lake, part, parts, number, chunk_rows, chunk_seconds)
        for number, part in enumerate(dead)
    ]
    # A part of which nothing could be scored stays as it is.
    rescued = [s.part for s in _scored(tasks, dead, release, engine, progress)]
    parts += [part for part in rescued if part.receipt.total.rows]
    dead = _still_dead(lake, parts, dead)
    return _merge(lake, release, day, parts, dead, before, guard)


def _scored(
    tasks: list[ChunkTask],
    dead: list[Part],
    release: Release,
    engine: Engine,
    progress: Callable[[int], None],
) -> list[Scored]:
    """What each part of dead letters became; every row of it is in one of the two."""
    if not tasks:
        return []
    engine.load(release)
    done: dict[StoragePath, Scored] = {}
    with closing(engine.run(tasks)) as run:
        for scored in run:
            done[scored.part.path] = scored
            progress(scored.part.receipt.total.rows + scored.dead_rows)
    for task, part in zip(tasks, dead, strict=True):
        one = done.get(task.predictions)
        must_close(
            task.day,
            task.shard,
            part.receipt.total,
            scored=one.part.receipt.total if one else ControlTotal(),
            dead=one.dead.receipt.total if one and one.dead else ControlTotal(),
        )
    return list(done.values())


def _task(
    lake: Lake,
    dead: Part,
    parts: list[Part],
    number: int,
    chunk_rows: int,
    chunk_seconds: float,
) -> ChunkTask:
    """A part of dead letters as a chunk, numbered on from those of its shard."""
    day, shard, job = dead.receipt.day, dead.receipt.shard, dead.receipt.job
    taken = max(p.receipt.chunk for p in parts if p.receipt.shard == shard)
    chunk, rows = taken + 1 + number, dead.receipt.total.rows
    return ChunkTask(
        day=day,
        shard=shard,
        chunk=chunk,
        job=job,
        validated=dead.path,
        row_groups=(0, len(dead.groups)),
        rows=rows,
        predictions=lake.predictions.part_path(day, shard, job, chunk),
        dead_letters=lake.dead_letters.part_path(day, shard, job, chunk),
        max_faults=rows,
        max_seconds=max(
            min(chunk_seconds, LEAST_SECONDS), chunk_seconds * rows / chunk_rows
        ),
        replay_of=dead.receipt.facts["validated"],
    )


def _merge(
    lake: Lake,
    release: Release,
    day: str,
    parts: list[Part],
    dead: list[Part],
    before: ControlTotal,
    guard: Callable[[], None],
) -> Replayed:
    """Close the books, and commit what the day consists of now."""
    whole = lake.validated_features.parts(day)
    for shard in sorted({part.receipt.shard for part in whole}):
        must_close(
            day,
            shard,
            total_of(p.receipt.total for p in whole if p.receipt.shard == shard),
            scored=total_of(p.receipt.total for p in parts if p.receipt.shard == shard),
            dead=total_of(p.receipt.total for p in dead if p.receipt.shard == shard),
        )
    still = total_of(part.receipt.total for part in dead)
    rescued = before - still
    commit = lake.predictions.last_commit(day)
    facts = {
        # What the night was built on stays true of it.
        **{k: v for k, v in (commit.facts if commit else {}).items() if k in KEPT},
        "job": parts[0].receipt.job,
        "model": release.name,
        "release": release.digest,
        "scored": sum(part.receipt.total.rows for part in parts),
        "dead": still.rows,
        "rescued": rescued.rows,
    }
    contract = release.contract
    # Killed between the two, rows are in both tables and the books are open: the next
    # replay sees from the predictions which dead letters they came from.
    lake.predictions.commit_day(
        day, parts, contract.prediction_schema(), facts, guard=guard
    )
    lake.dead_letters.commit_day(
        day, dead, dead_letter_schema(contract), facts, guard=guard
    )
    return Replayed(parts[0].receipt.job, parts, dead, before, rescued)


def _still_dead(lake: Lake, parts: list[Part], dead: list[Part]) -> list[Part]:
    """The dead letters that are left when these are the predictions."""
    rests = [
        lake.dead_letters.part_path(
            part.receipt.day, part.receipt.shard, part.receipt.job, part.receipt.chunk
        )
        for part in parts
        if part.receipt.facts.get("replayed") and part.receipt.facts["dead"]
    ]
    found = {part.path: part for part in dead} | {p: open_part(p)[0] for p in rests}
    replayed = _replayed(parts)
    return [part for part in found.values() if _place(part) not in replayed]


def _replayed(parts: list[Part]) -> set[tuple[int, str]]:
    """The parts of dead letters that these predictions were made of."""
    return {
        (part.receipt.shard, name)
        for part in parts
        if (name := part.receipt.facts.get("replayed"))
    }


def _place(part: Part) -> tuple[int, str]:
    return part.receipt.shard, part.path.name
