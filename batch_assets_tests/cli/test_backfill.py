"""Ten real days through Dagster's own backfill daemon, a bad one in the middle.

On 2013-02-12 a wind sensor at Newark reported 1,048 miles an hour: 340 of 918 flights
break the contract, and the night must not be scored.
"""

import logging
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._time import get_current_timestamp

from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.snapshots.version import Version
from batch_assets_tests.projects import FLIGHTS

DAYS = [(date(2013, 2, 7) + timedelta(n)).isoformat() for n in range(10)]
BAD = "2013-02-12"
PARTITIONED = (
    "raw_features",
    "validated_features",
    "quarantined_rows",
    "predictions",
    "dead_letters",
    "serving_snapshot",
)
RUNS_AT_ONCE_HERE = {
    # The default coordinator queues runs for a daemon that is not there.
    "run_coordinator": {
        "module": "dagster._core.run_coordinator",
        "class": "DefaultRunCoordinator",
    },
    "run_launcher": {
        "module": "dagster._core.launcher.sync_in_memory_run_launcher",
        "class": "SyncInMemoryRunLauncher",
    },
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BATCH_ASSETS_ROOT", str(tmp_path))
    monkeypatch.chdir(FLIGHTS)
    registry = Registry(tmp_path)
    release = registry.add(FLIGHTS / "data" / "releases" / "flight_delay")
    registry.approve("flight_delay", release.digest, why="the test", by="ada")
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(600)
# The daemon's loop is Dagster's own code, which warns of itself.
@pytest.mark.filterwarnings("ignore")
def test_a_backfill_commits_nine_days_and_serves_the_newest_good_one(root):
    with (
        dg.instance_for_test(overrides=RUNS_AT_ONCE_HERE) as instance,
        create_test_daemon_workspace_context(
            ModuleTarget("batch_assets.definitions", None, ".", "batch_assets"),
            instance,
        ) as workspace,
    ):
        graph = workspace.create_request_context().asset_graph
        instance.add_backfill(
            PartitionBackfill.from_asset_partitions(
                backfill_id="ten-days",
                asset_graph=graph,
                partition_names=DAYS,
                asset_selection=[
                    dg.AssetKey(["flights", name])
                    for name in (*PARTITIONED, "model_release")
                ],
                backfill_timestamp=get_current_timestamp(),
                tags={},
                dynamic_partitions_store=instance,
                all_partitions=False,
                title=None,
                description=None,
                run_config=None,
            )
        )
        while instance.get_backfill("ten-days").status == BulkActionStatus.REQUESTED:
            log = logging.getLogger("backfill")
            errors = [e for e in execute_backfill_iteration(workspace, log) if e]
            assert not errors
        status = instance.get_backfill("ten-days").status
        materialized = {
            name: set(
                instance.get_materialized_partitions(dg.AssetKey(["flights", name]))
            )
            for name in PARTITIONED
        }
    good = set(DAYS) - {BAD}
    assert status == BulkActionStatus.COMPLETED_FAILED
    assert materialized["raw_features"] == set(DAYS)
    assert materialized["predictions"] == materialized["serving_snapshot"] == good

    lake = Lake(root, "flights")
    assert set(lake.predictions.rows_by_day()) == good
    page = lake.books(BAD).total
    assert (page.raw.rows, page.quarantined.rows, page.scored.rows) == (918, 340, 0)
    for day in good:
        books = lake.books(day)
        assert not books.open_after_validation()
        assert not books.open_after_scoring()
        assert books.total.scored.rows > 0

    served = Version.current(SnapshotStore(root, "flights"))
    assert served.manifest.day == max(good)
    on_disk = SnapshotStore(root, "flights").versions()
    assert BAD not in {manifest.day for manifest in on_disk}
    made = [manifest.day for manifest in on_disk]
    assert made == sorted(made), "a version was published over a newer one"
