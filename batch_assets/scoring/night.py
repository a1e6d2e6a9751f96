"""Score one day: plan the chunks, run them on an engine, close the books, commit.

The plan is the same on every engine. Parts of the same job that are already on disk
and whole are not done again. It knows neither Dagster nor how a day is served.
"""

import gc
import itertools
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from batch_assets.errors import ContractError, LakeError, ScoringError
from batch_assets.incremental.baseline import Baseline, BaselineDecision, find_baseline
from batch_assets.incremental.reuse import Incremental, ReuseError, ReuseSource
from batch_assets.lake.parts import Part, read_columns
from batch_assets.lake.raw import job_of
from batch_assets.lake.reconciliation import ControlTotal, must_close, total_of
from batch_assets.lake.tables import Lake
from batch_assets.models.contract import Contract
from batch_assets.models.release import Release
from batch_assets.quality.gates import after_validation, most_dead_letters
from batch_assets.quality.validation import contract_of
from batch_assets.quality.verdict import must_be_open
from batch_assets.scoring.chunk import ChunkTask, Scored, dead_letter_schema
from batch_assets.scoring.resume import completed_chunk
from batch_assets.spec import CHUNK_SECONDS, Gates
from batch_assets.storage import COPYING, StoragePath, each

log = logging.getLogger(__name__)


class Engine(Protocol):
    """Loads a release once, then runs chunks and yields what each of them left.

    Whoever closes the generator ends the run: chunks in flight finish or are abandoned
    within the engine's grace period.
    """

    def load(self, release: Release) -> None: ...

    def run(self, tasks: Sequence[ChunkTask]) -> Generator[Scored, None, None]: ...


@dataclass(frozen=True)
class Plan:
    """The chunks of a day under one release; the same input gives the same plan."""

    day: str
    job: str
    release: Release
    validated: list[Part]
    tasks: list[ChunkTask]
    max_dead: int

    @property
    def rows(self) -> int:
        return sum(task.rows for task in self.tasks)


@dataclass(frozen=True)
class Night:
    """What a night left behind.

    `load_seconds` and `seconds` are wall time, to load the release and to score with
    it; `stages` is where the workers' seconds went, summed over them, and
    `model_seconds` those of them in the model.
    """

    job: str
    release: Release
    parts: list[Part]
    dead: list[Part]
    unchanged: bool
    resumed_chunks: int = 0
    scored_rows: int = 0
    load_seconds: float = 0.0
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    model_seconds: float = 0.0
    decision: BaselineDecision = BaselineDecision()

    @property
    def total(self) -> ControlTotal:
        return total_of(part.receipt.total for part in self.parts)

    @property
    def carried(self) -> ControlTotal:
        """The rows that took over last night's prediction."""
        return total_of(part.carried for part in self.parts)

    @property
    def rescored_rows(self) -> int:
        """How many of these were scored all the same, and were equal."""
        return sum(part.receipt.facts.get("rescored", 0) for part in self.parts)

    @property
    def dead_letters(self) -> ControlTotal:
        return total_of(part.receipt.total for part in self.dead)

    @property
    def content(self) -> str:
        return data_version_of(self.parts)

    def shares(self, workers: int) -> dict[str, float]:
        """What share of the workers' wall time each stage was; the rest is `idle`."""
        whole = self.seconds * workers
        if not whole:
            return {}
        shares = {stage: spent / whole for stage, spent in self.stages.items()}
        return {**shares, "idle": max(1 - sum(shares.values()), 0.0)}

    @property
    def rows_per_second(self) -> float:
        """Rows scored now over the seconds it took; 0 if nothing was left to score."""
        return self.scored_rows / self.seconds if self.seconds else 0.0


def plan_night(
    lake: Lake,
    release: Release,
    day: str,
    *,
    chunk_rows: int,
    chunk_seconds: float = CHUNK_SECONDS,
    precision: str,
    gates: Gates,
    baseline: Baseline | None = None,
    rescored_share: float = 0.0,
    validated: list[Part] | None = None,
) -> Plan:
    """Cut a validated day into chunks; `validated` are its parts, if just read.

    Raises:
        LakeError: the day has no validated features.
        ContractError: it was validated under another contract than the release's.
    """
    parts = lake.validated_features.parts(day) if validated is None else validated
    if not parts:
        msg = f"validated_features has no {day}: materialise it first"
        raise LakeError(msg)
    validated_under = contract_of(parts)
    if validated_under != release.contract.digest:
        msg = (
            f"{day} was validated under contract {validated_under[:12]}, but release "
            f"{release.name} {release.short} has {release.contract.digest[:12]}. "
            "Materialise raw_features and validated_features of that day again."
        )
        raise ContractError(msg)
    rows = sum(part.receipt.total.rows for part in parts)
    inputs = [[part.path.name, part.size] for part in parts]
    built_on = [[baseline.day, baseline.content, rescored_share]] if baseline else []
    job = job_of(day, inputs, release.digest, chunk_rows, precision, *built_on)
    sources: dict[StoragePath, ReuseSource] = {}
    if baseline:
        sources = baseline.sources_of(parts, job, rescored_share)
    max_dead = most_dead_letters(rows, gates)
    # A shard has several validated parts where its source is pinned.
    numbers: defaultdict[int, Iterator[int]] = defaultdict(itertools.count)
    tasks = [
        ChunkTask(
            day=day,
            shard=part.receipt.shard,
            chunk=number,
            job=job,
            validated=part.path,
            row_groups=groups,
            rows=chunk,
            predictions=lake.predictions.part_path(
                day, part.receipt.shard, job, number
            ),
            dead_letters=lake.dead_letters.part_path(
                day, part.receipt.shard, job, number
            ),
            max_faults=max_dead,
            max_seconds=chunk_seconds,
            reuse=sources.get(part.path),
        )
        for part in parts
        for groups, chunk in _chunks(part, chunk_rows)
        for number in [next(numbers[part.receipt.shard])]
    ]
    return Plan(day, job, release, parts, tasks, max_dead)


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
def score_night(
    lake: Lake,
    release: Release,
    day: str,
    engine: Engine,
    *,
    chunk_rows: int,
    chunk_seconds: float = CHUNK_SECONDS,
    precision: str,
    gates: Gates,
    incremental: Incremental | None = None,
    arithmetic: str = "",
    guard: Callable[[], None] = lambda: None,
    progress: Callable[[int], None] = lambda rows: None,
) -> Night:
    """Score a day and commit it.

    Args:
        lake: the pipeline's tables.
        release: approved for `batch`, its bytes verified.
        day: the day.
        engine: where to run.
        chunk_rows: rows of a chunk.
        chunk_seconds: how long the model may take over a chunk.
        precision: of the model's arithmetic; it changes the output, so it is in the job.
        gates: what must hold before a day is scored.
        incremental: how nights build on each other; each stands alone if left out.
        arithmetic: `Device.arithmetic`, which a night to build on must have had.
        guard: raises if this run may not commit any more.
        progress: called with the rows of each chunk that is done.

    Raises:
        GateError: the day's validation must not be built on.
        BooksError: rows in and rows out don't agree; nothing is committed.
        ScoringError: more rows are dead letters than may be, or the engine came back
            with other chunks than were planned. What is done stays on disk.
    """
    validated = lake.validated_features.parts(day)
    books = lake.books(day, scoring=False, validated=validated)
    must_be_open(
        day, after_validation(books, gates), then="nothing was scored or committed"
    )
    arguments: dict[str, Any] = {
        "validated": validated,
        "chunk_rows": chunk_rows,
        "chunk_seconds": chunk_seconds,
        "precision": precision,
        "gates": gates,
    }
    decision = BaselineDecision()
    if incremental:
        baseline, why = find_baseline(
            lake, release, day, arithmetic=arithmetic, incremental=incremental
        )
        if baseline:
            plan = plan_night(
                lake,
                release,
                day,
                **arguments,
                baseline=baseline,
                rescored_share=incremental.rescored_share,
            )
            decision = BaselineDecision(baseline.day, baseline.nights, why)
            try:
                return _score_plan(lake, plan, engine, guard, progress, decision)
            except ReuseError as error:
                # What can't be trusted is not built on; the night itself need not stop.
                why = f"{error}. Every row is scored instead."
                log.error("%s: %s", day, why)  # noqa: TRY400
                decision = BaselineDecision(why=why, refused=True)
        else:
            decision = BaselineDecision(why=why)
    plan = plan_night(lake, release, day, **arguments)
    return _score_plan(lake, plan, engine, guard, progress, decision)


def _score_plan(
    lake: Lake,
    plan: Plan,
    engine: Engine,
    guard: Callable[[], None],
    progress: Callable[[int], None],
    decision: BaselineDecision,
) -> Night:
    """Run what is left of a plan, close the books, and commit."""
    day, release = plan.day, plan.release
    key = release.contract.key.name
    if (there := lake.predictions.done(day, plan.job, key)) is not None and (
        # Both sides: a run may have died between the two commits.
        not lake.books(day).open_after_scoring()
    ):
        dead_there = lake.dead_letters.parts(day)
        return Night(
            plan.job,
            release,
            there,
            dead_there,
            unchanged=True,
            decision=decision,
        )
    begin = time.perf_counter()
    done = _left_before(lake, plan)
    resumed = len(done)
    left = [task for task in plan.tasks if (task.shard, task.chunk) not in done]
    if resumed:
        log.info("%s: %d of %d chunks were done before", day, resumed, len(plan.tasks))
    progress(plan.rows - sum(task.rows for task in left))
    stages: Counter[str] = Counter()
    model_seconds = 0.0
    if left:
        engine.load(release)
    load_seconds = time.perf_counter() - begin
    try:
        with closing(engine.run(left)) as run:
            for scored in run if left else ():
                receipt = scored.part.receipt
                done[receipt.shard, receipt.chunk] = scored
                stages.update(scored.seconds)
                model_seconds += scored.model_seconds
                progress(receipt.total.rows + scored.dead_rows)
                _must_be_few(plan, done)
    except BaseException as error:
        on_disk = sum(
            each(
                lake.predictions.path,
                lambda task: task.predictions.exists(),
                plan.tasks,
            )
        )
        error.add_note(
            f"{on_disk} of {len(plan.tasks)} chunks of {day} are done and stay on disk, "
            "nothing was committed; the next run of the day goes on from there."
        )
        raise
    seconds = time.perf_counter() - begin - load_seconds
    missing = [t for t in plan.tasks if (t.shard, t.chunk) not in done]
    if missing:
        msg = (
            f"{len(missing)} of {len(plan.tasks)} chunks of {day} are missing, though "
            f"the engine reported success; the first: shard {missing[0].shard}, chunk "
            f"{missing[0].chunk}. Nothing was committed; run the day again."
        )
        raise ScoringError(msg)
    strange = sorted(done.keys() - {(t.shard, t.chunk) for t in plan.tasks})
    if strange:
        # The books are closed shard by shard of the plan: they would not see these.
        msg = (
            f"the engine came back with {len(strange)} chunks of {day} that nobody "
            f"planned; the first: shard {strange[0][0]}, chunk {strange[0][1]}. "
            "Nothing was committed; run the day again."
        )
        raise ScoringError(msg)
    parts = [scored.part for scored in done.values()]
    dead = [scored.dead for scored in done.values() if scored.dead]
    for shard, validated in _totals(plan.validated).items():
        must_close(
            day,
            shard,
            validated,
            scored=_totals(parts).get(shard, ControlTotal()) - _carried(parts, shard),
            carried=_carried(parts, shard),
            dead=_totals(dead).get(shard, ControlTotal()),
        )
    _commit(lake, plan, parts, dead, guard, decision)
    return Night(
        plan.job,
        release,
        parts,
        dead,
        unchanged=False,
        resumed_chunks=resumed,
        scored_rows=sum(task.rows for task in left),
        load_seconds=load_seconds,
        seconds=seconds,
        stages=dict(stages),
        model_seconds=model_seconds,
        decision=decision,
    )


def data_version_of(parts: list[Part]) -> str:
    """Names the rows of a scored day: its job, and the replays merged into it."""
    receipt = parts[0].receipt
    replays = sorted(
        (p.receipt.shard, p.receipt.chunk)
        for p in parts
        if p.receipt.facts.get("replayed")
    )
    return job_of(receipt.day, receipt.job, replays) if replays else receipt.job


def _left_before(lake: Lake, plan: Plan) -> dict[tuple[int, int], Scored]:
    """The chunks that earlier runs of the job left whole, by shard and chunk."""
    left = each(
        lake.predictions.path,
        lambda task: completed_chunk(task, plan.release),
        plan.tasks,
        at_once=COPYING,
    )
    found = {
        (task.shard, task.chunk): scored
        for task, scored in zip(plan.tasks, left, strict=True)
        if scored
    }
    if sum(scored.dead_rows for scored in found.values()) <= plan.max_dead:
        return found
    # Over this a night has stopped. Somebody has mended something since, or the device
    # was at fault: try the chunks with dead letters again, keep the others.
    return {place: scored for place, scored in found.items() if not scored.dead}


def _must_be_few(plan: Plan, done: dict[tuple[int, int], Scored]) -> None:
    """Stop a night that has more dead letters than it may have when it is done."""
    dead = sum(scored.dead_rows for scored in done.values())
    if dead <= plan.max_dead:
        return
    reasons: Counter[str] = Counter()
    for scored in done.values():
        if scored.dead:
            column = read_columns(scored.dead.path, ["reason"])["reason"]
            reasons.update(column.to_pylist())
    most = "; ".join(f"{n:,} times: {why}" for why, n in reasons.most_common(3))
    msg = (
        f"the night of {plan.day} stops: {dead:,} of {plan.rows:,} rows are dead letters "
        f"already, and {plan.max_dead:,} may be (gates.max_dead_letter_share). Most "
        f"often, {most}. Nothing was committed, what is served stays. Mend the model or "
        "its features, or allow more, and run the day again."
    )
    raise ScoringError(msg)


def _commit(
    lake: Lake,
    plan: Plan,
    parts: list[Part],
    dead: list[Part],
    guard: Callable[[], None],
    decision: BaselineDecision,
) -> None:
    contract: Contract = plan.release.contract
    facts = {
        "job": plan.job,
        "model": plan.release.name,
        "release": plan.release.digest,
        "scored": sum(part.receipt.total.rows for part in parts),
        "dead": sum(part.receipt.total.rows for part in dead),
        "carried": sum(part.carried.rows for part in parts),
        "rescored": sum(part.receipt.facts.get("rescored", 0) for part in parts),
        "grounds": asdict(decision),
    }
    # Predictions come last: their commit is what makes the day.
    lake.dead_letters.commit_day(
        plan.day, dead, dead_letter_schema(contract), facts, guard=guard
    )
    lake.predictions.commit_day(
        plan.day, parts, contract.prediction_schema(), facts, guard=guard
    )


def _chunks(part: Part, chunk_rows: int) -> Iterator[tuple[tuple[int, int], int]]:
    """Runs of row groups of about `chunk_rows` rows: (first, one past last), rows."""
    first = rows = 0
    for group, count in enumerate(part.groups):
        if rows and rows + count > chunk_rows:
            yield (first, group), rows
            first, rows = group, 0
        rows += count
    # An empty part is a chunk too: no shard may look done without a receipt.
    yield (first, len(part.groups)), rows


def _carried(parts: list[Part], shard: int) -> ControlTotal:
    return total_of(part.carried for part in parts if part.receipt.shard == shard)


def _totals(parts: list[Part]) -> dict[int, ControlTotal]:
    shards: dict[int, ControlTotal] = {}
    for part in parts:
        shard = part.receipt.shard
        shards[shard] = shards.get(shard, ControlTotal()) + part.receipt.total
    return shards
