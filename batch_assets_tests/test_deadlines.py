"""What the lake and the snapshots tell of a deadline: real tables, versions, pointers."""

from contextlib import nullcontext
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from batch_assets.deadlines import (
    NightRun,
    deadline_statuses,
    keep_estimate,
    read_known,
    read_night,
    settle_estimates,
)
from batch_assets.lake.claims import claimed
from batch_assets.lake.stages import StageState, write_state
from batch_assets.planner.clock import NightTimes
from batch_assets.planner.estimate import ROAD
from batch_assets.snapshots.operations import pin, rollback, unpin
from batch_assets.snapshots.store import SnapshotStore
from batch_assets_tests.measured import days_before, keep_errors, keep_nights
from batch_assets_tests.publishing import block
from batch_assets_tests.served import build, serve, set_current
from batch_assets_tests.toys import copy_rows, make_rows, make_spec, validate

DAY, NUMBER = "2026-01-05", 4  # The number of the version of that day.
KEYS = np.arange(1, 9)
FOUND = NightTimes.of(make_spec(ready_by="06:00"))
assert FOUND
TIMES = FOUND
DEADLINE = datetime(2026, 1, 6, 6, tzinfo=UTC)


@pytest.fixture
def store(root) -> SnapshotStore:
    return SnapshotStore(root, "toy")


def before(minutes: float) -> datetime:
    return DEADLINE - timedelta(minutes=minutes)


def state(stage: str, run: str = "run", **changes: object) -> StageState:
    given = {"started_at": before(60), "at": before(50)} | changes
    return StageState.model_validate({"stage": stage, "run": run} | given)


def night(lake, store, run=None):
    return read_night(lake, store, DAY, DEADLINE, run)


def test_of_a_day_that_nobody_began_everything_is_left(lake, store):
    found = night(lake, store)

    assert (list(found.left), found.begun) == (list(ROAD), False)
    assert night(lake, store, NightRun("run", "queued")).begun


def test_what_is_committed_is_not_left(lake, store):
    copy_rows(lake, make_rows(60), day=DAY)
    assert night(lake, store).left == ROAD[1:]
    validate(lake, day=DAY)

    assert night(lake, store).left == ROAD[2:]
    assert night(lake, store).begun
    assert read_known(lake, DAY).rows == 60


def test_a_day_that_readers_get_is_ready_since_it_was_published(lake, store):
    manifest = serve(store, NUMBER, KEYS)
    found = night(lake, store)

    assert manifest.day == DAY
    assert found.left == ()
    assert found.ready_at == store.history()[0][0].at


def test_an_older_day_that_is_published_does_not_make_it_ready(lake, store):
    """What Dagster's own policy would take for fresh."""
    serve(store, NUMBER - 1, KEYS)
    assert list(night(lake, store).left) == list(ROAD)
    serve(store, NUMBER + 1, KEYS)
    assert night(lake, store).left == ()  # A newer one does.

    serve(store, NUMBER, KEYS)  # The day itself, too late: it is built, not served.
    assert night(lake, store).ready_at is None


def test_a_day_that_was_rolled_back_is_not_ready(lake, store):
    serve(store, NUMBER - 1, KEYS)
    serve(store, NUMBER, KEYS)
    rollback(store, why="odd scores", by="ada", until=DEADLINE + timedelta(days=9999))
    found = night(lake, store)

    assert found.left
    assert "publishing is blocked until" in (found.held or "")
    assert "by ada: odd scores" in (found.held or "")
    assert found.remedy == "batch-assets snapshot unblock toy --why '...'"


def test_a_day_that_readers_are_pinned_away_from_is_not_ready(lake, store):
    first = serve(store, NUMBER - 1, KEYS).version
    second = serve(store, NUMBER, KEYS).version
    pin(store, first, why="an experiment", by="ada")
    found = night(lake, store)

    assert found.left
    assert found.held == f"{second} is published, and readers are pinned to {first}"
    assert found.remedy == "batch-assets snapshot unpin toy --why '...'"
    unpin(store, why="it is over", by="ada")
    assert night(lake, store).left == ()


def test_a_day_that_is_built_while_publishing_is_blocked_is_not_ready(lake, store):
    serve(store, NUMBER - 1, KEYS)
    block(store)
    serve(store, NUMBER, KEYS)
    found = night(lake, store)

    assert found.left
    assert f"{DAY}-" in (found.held or "")
    assert "is built and 2026-01-04-" in (found.held or "")


def test_a_block_that_lasts_beyond_the_deadline_is_told_before_the_day_is_built(
    lake, store
):
    serve(store, NUMBER - 1, KEYS)
    block(store)  # For an hour from now.
    now = datetime.now(UTC)

    def held(deadline: datetime) -> str | None:
        return read_night(lake, store, DAY, deadline).held

    assert "publishing is blocked" in (held(now + timedelta(minutes=5)) or "")
    assert held(now + timedelta(minutes=65)) is None


def test_a_pointer_that_names_nothing_is_no_served_day(lake, store):
    build(store, NUMBER, KEYS)
    set_current(store, "")
    found = night(lake, store)

    assert found.left
    assert "is empty, so it names no version" in (found.held or "")


ENDED = "the process of its run run has ended"


@pytest.mark.parametrize(
    ("kept", "alive", "run", "running", "broken"),
    [
        (state("predictions"), True, None, "predictions", None),
        (state("predictions"), True, NightRun("run", "running"), "predictions", None),
        # It is still at it; another run of the day was refused.
        (state("predictions"), True, NightRun("other", "failed", "it is being made"), "predictions", None),
        # Killed, and Dagster has not noticed, or it has.
        (state("predictions"), False, None, None, ENDED),
        (state("predictions"), False, NightRun("run", "running"), None, ENDED),
        (state("predictions"), False, NightRun("run", "failed"), None, ENDED),
        (state("predictions"), False, NightRun("run", "failed", "no memory"), None, "no memory"),
        # Cancelled: what is in flight has a moment more.
        (state("predictions"), True, NightRun("run", "gone", "it was cancelled"), None, "it was cancelled"),
        (state("predictions", failed="no room"), False, NightRun("run", "running"), None, "no room"),
        (state("predictions", failed="no room"), False, None, None, "no room"),
        # A newer run waits for the older, or has not come to a stage yet.
        (state("predictions"), True, NightRun("new", "queued"), "predictions", None),
        (state("predictions"), False, NightRun("new", "queued"), None, None),
        (state("predictions", failed="no room"), False, NightRun("new", "queued"), None, None),
        # A gate was shut between two stages.
        (None, False, NightRun("run", "failed", "the_books_close: 3 rows"), None, "the_books_close: 3 rows"),
        (None, False, NightRun("run", "running"), None, None),
        (None, False, NightRun("run", "done"), None, None),
    ],
)  # fmt: skip
def test_a_stage_is_at_work_broken_or_not_begun(
    lake, store, kept, alive, run, running, broken
):
    copy_rows(lake, make_rows(60), day=DAY)
    validate(lake, day=DAY)
    if kept:
        write_state(lake, DAY, kept)
    with claim("run", lake) if alive else nullcontext():
        found = night(lake, store, run)

    assert found.left == ROAD[2:]
    assert (found.running.stage if found.running else None) == running
    assert found.broken == broken
    assert found.remedy == (f"batch-assets run toy --day {DAY}" if broken else None)
    assert found.broken_seconds == (600 if broken and kept else None)


def test_a_stage_that_ends_well_while_it_is_looked_at_is_not_dead(
    lake, store, monkeypatch
):
    copy_rows(lake, make_rows(60), day=DAY)
    write_state(lake, DAY, state("raw_features"))

    def ends(*_: object) -> bool:
        write_state(lake, DAY, None)
        return False

    monkeypatch.setattr("batch_assets.deadlines.is_held", ends)
    found = night(lake, store)

    assert (found.left, found.broken) == (ROAD[1:], None)


def claim(run: str, lake):
    return claimed(lake.folder, DAY, run, lambda other: False)


def test_a_stage_that_is_made_again_is_left_with_what_follows(lake, store):
    copy_rows(lake, make_rows(60), day=DAY)
    write_state(lake, DAY, state("raw_features"))

    assert night(lake, store).left == ROAD


def test_no_day_is_due_before_the_first_or_after_the_last(lake, store):
    times = NightTimes.of(make_spec(ready_by="06:00", end_day="2026-01-05"))
    assert times
    for now in (
        before(60 * 24 * 9),
        before(-60 * 24),
        datetime(2036, 1, 1, tzinfo=UTC),
    ):
        assert deadline_statuses(times, lake, store, now) == []
    (status,) = deadline_statuses(times, lake, store, before(-60))
    assert (status.day, status.kind) == (DAY, "missed")


def test_without_its_schedule_a_night_is_watched_once_it_has_begun(lake, store):
    late = before(-60)
    (status,) = deadline_statuses(TIMES, lake, store, late, scheduled=False)
    assert (status.kind, "toy_schedule is stopped" in status.message) == (
        "unknown",
        True,
    )

    write_state(lake, DAY, state("raw_features"))
    with claim("run", lake):
        (status,) = deadline_statuses(TIMES, lake, store, late, scheduled=False)
    assert (status.kind, status.stage) == ("missed", "raw_features")


def test_a_first_night_is_not_estimated_and_warns_when_its_deadline_is_near(
    lake, store
):
    kinds = [
        deadline_statuses(TIMES, lake, store, before(minutes))[0].kind
        for minutes in (300, 31, 30, 1, 0, -60)
    ]

    assert kinds == ["unknown"] * 2 + ["at_risk"] * 2 + ["missed"] * 2


def test_a_night_is_at_risk_by_the_nights_before_and_their_errors(lake, store):
    keep_nights(lake, *days_before(DAY, 5))

    def status(minutes: float):
        return deadline_statuses(TIMES, lake, store, before(minutes))[0]

    assert [status(minutes).kind for minutes in (101, 99)] == ["fine", "at_risk"]
    keep_errors(lake, ROAD[0], dict.fromkeys(days_before(DAY, 5), 600.0))
    assert [status(minutes).kind for minutes in (111, 109)] == ["fine", "at_risk"]
    assert status(109).high == before(-1)
    assert "off by 10 minutes in the median of the last 5" in status(109).message


def test_an_estimate_is_kept_as_a_stage_begins_and_settled_when_the_day_is_served(lake):
    keep_nights(lake, *days_before(DAY, 3))
    for stage, minutes in zip(ROAD, (130, 120, 95, 40), strict=True):
        assert keep_estimate(lake, DAY, stage, before(minutes))
    assert settle_estimates(lake, DAY, before(20)) == 600

    rows = lake.estimate_metrics.read(DAY, DAY).to_pylist()
    found = {
        row["stage"]: (row["made_at"], row["expected_ready_at"], row["error_seconds"])
        for row in rows
    }
    assert found == {
        ROAD[0]: (before(130), before(30), 600),
        ROAD[1]: (before(120), before(30), 600),
        ROAD[2]: (before(95), before(25), 300),
        ROAD[3]: (before(40), before(30), 600),
    }
    assert {row["ready_at"] for row in rows} == {before(20)}
    # What the next night is told.
    (after,) = {len(e) for e in read_known(lake, "2026-01-06").errors.values()}
    assert after == 1
    assert read_known(lake, DAY).errors == {}


def test_the_first_estimate_of_a_night_stays(lake):
    """One that was made after a failure, when more was known, would flatter."""
    keep_nights(lake, *days_before(DAY, 3))
    keep_estimate(lake, DAY, ROAD[0], before(130))
    assert keep_estimate(lake, DAY, ROAD[0], before(100)) is None
    assert settle_estimates(lake, DAY, before(0)) == 1_800
    assert settle_estimates(lake, DAY, before(-60)) == 1_800
    assert keep_estimate(lake, DAY, ROAD[0], before(-9_999)) is None


def test_an_estimate_of_a_night_that_was_given_up_is_made_anew(lake):
    keep_nights(lake, *days_before(DAY, 3))
    keep_estimate(lake, DAY, ROAD[0], before(130))
    assert keep_estimate(lake, DAY, ROAD[0], before(130 - 24 * 60))


def test_nothing_is_kept_of_a_night_that_can_not_be_estimated(lake):
    assert keep_estimate(lake, DAY, ROAD[0], before(130)) is None
    keep_nights(lake, *days_before(DAY, 3))
    assert keep_estimate(lake, DAY, "redis_snapshot", before(130)) is None
    assert settle_estimates(lake, DAY, before(0)) is None
    assert len(lake.estimate_metrics.read("", "9")) == 0


def test_nights_of_long_ago_tell_nothing(lake):
    keep_nights(lake, *days_before("2025-11-20", 3))

    assert read_known(lake, DAY).rates == {}
