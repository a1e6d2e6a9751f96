"""What the lake and the snapshots tell of deadlines: tonight, the nights before, the errors.

What follows from it, the planner says. It knows no Dagster: what only that knows of a run is
given to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Literal

from batch_assets.errors import SnapshotError
from batch_assets.lake.claims import is_held
from batch_assets.lake.stages import (
    StageState,
    put_row,
    read_state,
    stage_metrics,
)
from batch_assets.lake.tables import Lake
from batch_assets.planner.clock import NightTimes
from batch_assets.planner.estimate import (
    ROAD,
    Estimate,
    Running,
    StageRun,
    rates_of,
    usual_rows,
)
from batch_assets.planner.status import DeadlineStatus, Known, Night, judge, unscheduled
from batch_assets.snapshots.manifest import day_of
from batch_assets.snapshots.store import SnapshotStore

# The nights before are looked for among so many days.
LOOK_BACK = timedelta(days=42)
# An estimate of a night that was given up so long ago is made anew.
GIVEN_UP = timedelta(days=1)
RunState = Literal["queued", "running", "failed", "done", "gone"]
# A run in one of these states does nothing any more.
OVER = ("failed", "done", "gone")


@dataclass(frozen=True)
class NightRun:
    """The newest run of a day, as the orchestrator knows it; `why` if it failed."""

    run: str
    state: RunState
    why: str = ""


def deadline_statuses(
    times: NightTimes,
    lake: Lake,
    store: SnapshotStore,
    now: datetime,
    *,
    scheduled: bool = True,
    run: NightRun | None = None,
) -> list[DeadlineStatus]:
    """Return the status of each deadline that is watched now: of one day, or of none.

    Args:
        times: of the pipeline.
        lake: its tables.
        store: of its versions.
        now: an instant.
        scheduled: whether its schedule runs. Else a night is watched once it has begun.
        run: the newest run of the day that is due, if there is any.
    """
    day = times.due(now)
    if day is None:
        return []
    night = read_night(lake, store, day, times.deadline(day), run)
    if not scheduled and not night.begun:
        return [unscheduled(times, day)]
    return [judge(times, day, now, night, read_known(lake, day))]


def read_night(
    lake: Lake,
    store: SnapshotStore,
    day: str,
    deadline: datetime,
    run: NightRun | None = None,
) -> Night:
    """Read how far the night of a day is.

    Args:
        lake: the pipeline's tables.
        store: of its versions.
        day: the day.
        deadline: by when it is to be served.
        run: the newest run of the day, if there is any.
    """
    state, committed = _state(lake, day, run), _committed(lake, day)
    runs = stage_runs(lake, day, day)
    begun = bool(state or committed or run)
    ready, held, remedy = _served(store, day, deadline)
    if ready:
        return Night((), ready_at=ready_at(store, day), runs=runs, begun=begun)
    if state and state.stage in ROAD:
        left: Sequence[str] = ROAD[ROAD.index(state.stage) :]
    else:
        left = [stage for stage in ROAD if stage not in committed]
        left = ROAD[ROAD.index(left[0]) :]
        state = None
    night = Night(left, held=held, remedy=remedy, runs=runs, begun=begun)
    return _at_work(night, state, run, lake.pipeline, day)


def read_known(lake: Lake, day: str) -> Known:
    """Read what the nights before a day tell of it."""
    first = str(date.fromisoformat(day) - LOOK_BACK)
    runs = stage_runs(lake, first, day)
    rows = lake.raw_features.rows_by_day().get(day)
    errors: dict[str, list[float]] = {}
    for row in lake.estimate_metrics.read(first, day).to_pylist():
        if row["day"] < day and row["error_seconds"] is not None:
            errors.setdefault(row["stage"], []).append(row["error_seconds"])
    usual = usual_rows(runs, day)
    return Known(rates_of(runs, day), usual if rows is None else rows, errors)


def keep_estimate(lake: Lake, day: str, stage: str, now: datetime) -> Estimate | None:
    """Keep when a night is expected to be served, as one of its stages begins.

    The first of a night is kept: that of a stage which is run again would know more.
    """
    if stage not in ROAD:
        return None
    for row in lake.estimate_metrics.left(day).to_pylist():
        if row["stage"] != stage:
            continue
        if row["ready_at"] is not None or now - row["made_at"] < GIVEN_UP:
            return None
    left = ROAD[ROAD.index(stage) :]
    if estimate := read_known(lake, day).estimate(now, left):
        put_row(
            lake.estimate_metrics,
            {
                "day": day,
                "stage": stage,
                "made_at": now,
                "expected_ready_at": estimate.ready_at,
                "low": estimate.low,
                "high": estimate.high,
            },
        )
    return estimate


def settle_estimates(lake: Lake, day: str, at: datetime) -> float | None:
    """Write beside the estimates of a night when it was served, and how far off they were.

    Returns:
        By how many seconds the night was later than the first of them said.
    """
    rows = lake.estimate_metrics.left(day).to_pylist()
    rows.sort(key=lambda row: ROAD.index(row["stage"]))
    for row in rows:
        if row["ready_at"] is None:
            error = (at - row["expected_ready_at"]).total_seconds()
            row |= {"ready_at": at, "error_seconds": error}
            put_row(lake.estimate_metrics, row)
    return rows[0]["error_seconds"] if rows else None


def ready_at(store: SnapshotStore, day: str) -> datetime | None:
    """Return when a day was served first, as the history has it."""
    entries, _ = store.history()
    return next(
        (
            entry.at
            for entry in entries
            if entry.act == "publish" and entry.version and day_of(entry.version) == day
        ),
        None,
    )


def _state(lake: Lake, day: str, run: NightRun | None) -> StageState | None:
    """Return the state of a day; a stage whose process has ended without a word broke."""
    state = read_state(lake, day)
    while state and not state.failed and not is_held(lake.folder, day, state.run):
        # It may have ended well just now: then it has said so.
        if (again := read_state(lake, day)) == state:
            why = f"the process of its run {state.run} has ended"
            if run and run.run == state.run and run.why:
                why = run.why
            return state.model_copy(update={"failed": why})
        state = again
    return state


def _at_work(
    night: Night, state: StageState | None, run: NightRun | None, name: str, day: str
) -> Night:
    """Add what the stage that is left first is doing, or why it does nothing."""
    again = f"batch-assets run {name} --day {day}"
    if (
        state
        and state.failed
        and run
        and run.run != state.run
        and run.state not in OVER
    ):
        # A newer run is on its way there: what broke the older one is history.
        state = None
    if state is None:
        if run and run.state in ("failed", "gone"):
            why = run.why or f"its run {run.run} is over"
            return replace(night, broken=why, remedy=night.remedy or again)
        return night
    seconds = (state.at - state.started_at).total_seconds()
    broken = state.failed
    if broken is None and run and run.run == state.run and run.state in OVER:
        broken = run.why or f"its run {run.run} was stopped"
    if broken is not None:
        return replace(
            night,
            broken=broken,
            broken_seconds=seconds,
            remedy=night.remedy or again,
        )
    running = Running(
        state.stage,
        state.started_at,
        state.rows,
        state.at,
        state.before,
        state.counted_from,
    )
    return replace(night, running=running)


def _served(
    store: SnapshotStore, day: str, deadline: datetime
) -> tuple[bool, str | None, str | None]:
    """Tell whether readers get a day, or else who keeps it from them, and what helps."""
    name = store.pipeline
    try:
        current, pinned = store.current(), store.pinned()
        served = pinned or current
        if served and day_of(served) >= day:
            return True, None, None
        if pinned and current and day_of(current) >= day:
            why = f"{current} is published, and readers are pinned to {pinned}"
            return False, why, f"batch-assets snapshot unpin {name} --why '...'"
        unblock = f"batch-assets snapshot unblock {name} --why '...'"
        built = [v for v in store.version_names() if day_of(v) == day]
        if built and (held := store.held_back(built[-1])):
            told = f"{built[-1]} is built and {served or 'nothing'} is served: {held}"
            return False, told, unblock
        block = store.block()
        if block and block.until > deadline:
            return False, str(block), unblock
    except SnapshotError as error:
        return False, str(error), f"batch-assets snapshot list {name}"
    return False, None, None


def _committed(lake: Lake, day: str) -> set[str]:
    committed = {
        "raw_features": lake.raw_features.rows_by_day(),
        "validated_features": lake.validated_features.rows_by_day(),
        "predictions": lake.predictions.rows_by_day(),
    }
    return {stage for stage, rows in committed.items() if day in rows}


def stage_runs(lake: Lake, first: str, last: str) -> list[StageRun]:
    """Read how long the stages of the days from the first to the last took."""
    return [
        StageRun(one.day, one.stage, one.started_at, one.seconds, one.rows)
        for one in stage_metrics(lake, first, last)
    ]
