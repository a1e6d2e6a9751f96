"""A deadline is watched from another machine than the one that the night runs on."""

from datetime import UTC, datetime, timedelta

import pytest

from batch_assets.deadlines import (
    keep_estimate,
    read_known,
    read_night,
    settle_estimates,
)
from batch_assets.lake import claims
from batch_assets.lake.stages import StageState, stage_metrics, write_state
from batch_assets.planner.estimate import ROAD
from batch_assets.snapshots.store import SnapshotStore
from batch_assets_tests.in_bucket import publish
from batch_assets_tests.measured import USUAL, days_before, keep_nights
from batch_assets_tests.toys import DAY

pytestmark = pytest.mark.slow
NOW = datetime(2026, 1, 6, 4, tzinfo=UTC)


def test_a_night_elsewhere_is_at_work_until_its_claim_runs_out(
    ready, root, machine, monkeypatch
):
    monkeypatch.setattr(claims, "LEASE", 1.5)
    store = SnapshotStore(root, "toy")
    state = StageState(stage="predictions", run="run", started_at=NOW, at=NOW)
    write_state(ready, DAY, state)
    with claims.claimed(ready.folder, DAY, "run", lambda run: False):
        machine("second")
        night = read_night(ready, store, DAY, NOW)
        assert (night.left, night.broken) == (ROAD[2:], None)
        assert night.running
    night = read_night(ready, store, DAY, NOW)
    assert night.broken == "the process of its run run has ended"


def test_what_was_measured_estimated_and_served_is_read_elsewhere(ready, root, machine):
    keep_nights(ready, *days_before(DAY, 3))
    keep_estimate(ready, DAY, ROAD[0], NOW)
    publish(root)
    settle_estimates(ready, DAY, NOW + timedelta(hours=3))
    machine("second")

    assert len(stage_metrics(ready, "", "9")) == 3 * len(USUAL)
    known = read_known(ready, "2026-01-06")
    # Of 60 rows a night takes 100 minutes; this one has more.
    assert set(known.errors) == {ROAD[0]}
    assert set(known.rates) == set(ROAD)
    assert read_night(ready, SnapshotStore(root, "toy"), DAY, NOW).left == ()
