"""Score one day: plan the chunks, run them on an engine, close the books, commit.

Parts of the same job that are already on disk and whole are not done again. It knows
neither Dagster nor how a day is served.
"""

import gc
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from batch_assets.incremental.baseline import find_baseline
from batch_assets.incremental.reuse import ReuseError
from batch_assets.lake.books import carried_of, scored_of, totals_by_shard
from batch_assets.lake.commits import BaselineDecision, ScoringCommit
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.parts import Part
from batch_assets.lake.raw import job_of
from batch_assets.lake.receipts import DeadLettersReceipt, PredictionsReceipt
from batch_assets.lake.reconciliation import ControlTotal, must_close, total_of
from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.quality.gates import after_validation
from batch_assets.quality.nights import record_night
from batch_assets.quality.verdict import must_be_open
from batch_assets.scoring.chunk_parts import dead_letter_schema
from batch_assets.scoring.chunk_task import ChunkTask
from batch_assets.scoring.done_chunks import DoneChunks
from batch_assets.scoring.engines.base import Engine
from batch_assets.scoring.failed_shards import run_shards
from batch_assets.scoring.plan import Plan, ScoringSettings, plan_night
from batch_assets.scoring.resume import completed_chunk
from batch_assets.storage import COPYING, each

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """Where the time of a night went, in seconds.

    `load` and `score` are wall time, to load the release and to score with it; `stages`
    is where the workers' seconds went, summed over them, and `model` those of them in
    the model.
    """

    load: float = 0.0
    score: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    model: float = 0.0

    def shares(self, workers: int) -> dict[str, float]:
        """Return the share of the workers' wall time of each stage; the rest is `idle`."""
        whole = self.score * workers
        if not whole:
            return {}
        shares = {stage: spent / whole for stage, spent in self.stages.items()}
        return {**shares, "idle": max(1 - sum(shares.values()), 0.0)}


@dataclass(frozen=True)
class ScoredDay:
    """A day as it is committed: its job, its predictions and its dead letters."""

    job: str
    parts: Sequence[Part[PredictionsReceipt]]
    dead: Sequence[Part[DeadLettersReceipt]]

    @property
    def total(self) -> ControlTotal:
        return total_of(part.receipt.total for part in self.parts)

    @property
    def dead_letters(self) -> ControlTotal:
        return total_of(part.receipt.total for part in self.dead)

    @property
    def data_version(self) -> str:
        """Its rows by name: its job, and the replays merged into it."""
        receipt = self.parts[0].receipt
        replays = sorted(
            (part.shard, part.receipt.chunk)
            for part in self.parts
            if part.receipt.replayed
        )
        return job_of(receipt.day, receipt.job, replays) if replays else receipt.job


@dataclass(frozen=True)
class Night(ScoredDay):
    """What a night left behind; `scored_rows` are those that this run has scored.

    `failed` are the shards that could not be scored, and why.
    """

    release: Release
    unchanged: bool
    decision: BaselineDecision = field(default_factory=BaselineDecision)
    resumed_chunks: int = 0
    scored_rows: int = 0
    timing: Timing = field(default_factory=Timing)
    failed: dict[int, str] = field(default_factory=dict)

    @property
    def carried(self) -> ControlTotal:
        """The rows that took over last night's prediction."""
        return total_of(carried_of(part.receipt) for part in self.parts)

    @property
    def rescored_rows(self) -> int:
        """How many of these were scored all the same, and were equal."""
        return sum(part.receipt.rescored for part in self.parts)

    @property
    def rows_per_second(self) -> float:
        """Rows scored now over the seconds it took; 0 if nothing was left to score."""
        return self.scored_rows / self.timing.score if self.timing.score else 0.0


@contextmanager
def _loaded_for_good() -> Iterator[None]:
    """Leave what is loaded by now out of the collections of garbage in the meantime.

    Every thread stops for those, and torch alone has a quarter of a million objects to
    look at: 0.14 of a night's 5.6 s.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@_loaded_for_good()
def score_day(
    run: DayRun, release: Release, engine: Engine, settings: ScoringSettings
) -> Night:
    """Score a day and commit it.

    Args:
        run: the day to make.
        release: approved for `batch`, its bytes verified.
        engine: where to run.
        settings: of the pipeline.

    Raises:
        GateError: the day's validation must not be built on.
        BooksError: rows in and rows out don't agree; nothing is committed.
        ScoringError: more rows are dead letters than may be, or the engine came back
            with other chunks than were planned. What is done stays on disk.
    """
    lake, day, device = run.lake, run.day, engine.device
    validated = lake.validated_features.parts(day)
    books = lake.books(day, scoring=False, validated=validated)
    verdicts = after_validation(lake, books, settings.gates)
    must_be_open(
        day,
        verdicts,
        pipeline=run.lake.pipeline,
        then="nothing was scored or committed",
    )
    baseline, decision = None, BaselineDecision()
    if settings.incremental:
        baseline, decision = find_baseline(
            lake, release, day, device.arithmetic, settings.incremental
        )
    plan = plan_night(
        lake,
        release,
        validated,
        settings,
        day=day,
        computes_in=device.computes_in,
        baseline=baseline,
    )
    try:
        night = _score_plan(run, plan, engine, decision)
    except ReuseError as error:
        # What can't be trusted is not built on; the night itself need not stop.
        why = f"{error}. Every row is scored instead."
        log.error("%s: %s", day, why)  # noqa: TRY400
        plan = plan_night(
            lake, release, validated, settings, day=day, computes_in=device.computes_in
        )
        refused = BaselineDecision(why=why, refused=True)
        night = _score_plan(run, plan, engine, refused)
    run.guard()
    record_night(lake, day, night.parts, release.manifest, settings.gates)
    return night


def _score_plan(
    run: DayRun, plan: Plan, engine: Engine, decision: BaselineDecision
) -> Night:
    """Run what is left of a plan, close the books, and commit."""
    if night := _committed(run.lake, plan, decision):
        return night
    begin = time.perf_counter()
    done = _completed_before(run.lake, plan)
    left = [task for task in plan.tasks if not done.has(task)]
    if resumed := len(plan.tasks) - len(left):
        log.info(
            "%s: %d of %d chunks were done before", plan.day, resumed, len(plan.tasks)
        )
    run.progress(plan.rows - sum(task.rows for task in left))
    if left:
        engine.load(plan.release)
    loaded = time.perf_counter()
    _run_chunks(run, plan, engine, left, done)
    seconds = time.perf_counter() - loaded
    done.must_be_as_planned()
    validated = totals_by_shard(plan.validated)
    must_close(
        plan.day,
        {
            shard: total
            for shard, total in validated.items()
            if shard not in done.failed
        },
        scored=totals_by_shard(done.parts, scored_of),
        carried=totals_by_shard(done.parts, carried_of),
        dead=totals_by_shard(done.dead),
    )
    _commit(run, plan, done, decision)
    return Night(
        plan.job,
        done.parts,
        done.dead,
        plan.release,
        unchanged=False,
        decision=decision,
        resumed_chunks=resumed,
        scored_rows=sum(task.rows for task in left),
        timing=Timing(loaded - begin, seconds, dict(done.stages), done.model_seconds),
        failed=done.failed,
    )


def _committed(lake: Lake, plan: Plan, decision: BaselineDecision) -> Night | None:
    """The day as it is committed, if this very job has made all of it."""
    key = plan.release.contract.key.name
    parts = lake.predictions.done(plan.day, plan.job, key)
    if parts is None:
        return None
    books = lake.books(plan.day)
    # Both sides: a run may have died between the two commits. A shard that could not be
    # scored is tried again.
    if books.open_after_scoring() or books.kept:
        return None
    dead = lake.dead_letters.parts(plan.day)
    return Night(plan.job, parts, dead, plan.release, unchanged=True, decision=decision)


def _completed_before(lake: Lake, plan: Plan) -> DoneChunks:
    """The chunks that earlier runs of the job left whole."""
    completed = each(
        lake.predictions.path,
        lambda task: completed_chunk(task, plan.release),
        plan.tasks,
        at_once=COPYING,
    )
    chunks = [scored for scored in completed if scored]
    if sum(scored.dead_rows for scored in chunks) > plan.max_dead:
        # Over this a night has stopped. Somebody has mended something since, or the
        # device was at fault: try the chunks with dead letters again, keep the others.
        chunks = [scored for scored in chunks if not scored.dead]
    return DoneChunks(plan, chunks)


def _run_chunks(
    run: DayRun,
    plan: Plan,
    engine: Engine,
    left: Sequence[ChunkTask],
    done: DoneChunks,
) -> None:
    """Score the chunks that are left; what is done stays on disk, whatever happens."""
    if not left:
        return
    try:
        run_shards(run, plan, engine, left, done)
    except BaseException as error:
        on_disk = sum(
            each(
                run.lake.predictions.path,
                lambda task: task.predictions.exists(),
                plan.tasks,
            )
        )
        error.add_note(
            f"{on_disk} of {len(plan.tasks)} chunks of {plan.day} are done and stay on "
            "disk, nothing was committed; the next run of the day goes on from there."
        )
        raise


def _commit(
    run: DayRun, plan: Plan, done: DoneChunks, decision: BaselineDecision
) -> None:
    contract, parts, dead = plan.release.contract, done.parts, done.dead
    facts = ScoringCommit(
        plan.job,
        plan.release.name,
        plan.release.digest,
        scored=sum(part.rows for part in parts),
        dead=sum(part.rows for part in dead),
        carried=sum(carried_of(part.receipt).rows for part in parts),
        rescored=sum(part.receipt.rescored for part in parts),
        decision=decision,
        failed=done.failed,
    )
    # Predictions come last: their commit is what makes the day.
    run.commit(run.lake.dead_letters, dead, dead_letter_schema(contract), facts)
    run.commit(run.lake.predictions, parts, contract.prediction_schema(), facts)
