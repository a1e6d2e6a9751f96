"""Dagster's log is written as ever while it is kept open, and left closed."""

from pathlib import Path

import dagster as dg
import pytest

from batch_assets.launch.kept_open import log_kept_open

RUN = "00000000-0000-4000-8000-000000000000"


@dg.op
def say_something(context):
    context.log.info("something")


@dg.job
def saying():
    say_something()


def beside(instance: dg.DagsterInstance) -> list[Path]:
    """What SQLite keeps beside its files while somebody has them open."""
    path = Path(instance.event_log_storage.path_for_shard("index"))
    return sorted(path.parent.glob("*.db-wal"))


def test_a_file_that_dagster_closes_stays_open_until_the_run_ends():
    with dg.instance_for_test() as instance:
        with log_kept_open(instance, RUN):
            result = saying.execute_in_process(instance=instance, run_id=RUN)
            opened = beside(instance)
        events = [entry.dagster_event_type for entry in instance.all_logs(RUN)]

        assert result.success
        assert [path.name for path in opened] == [f"{RUN}.db-wal", "index.db-wal"]
        assert beside(instance) == []
        assert dg.DagsterEventType.RUN_SUCCESS in events


def test_an_error_closes_the_files_too():
    with dg.instance_for_test() as instance:
        with pytest.raises(KeyError), log_kept_open(instance, RUN):
            raise KeyError
        assert beside(instance) == []


def test_a_log_that_is_no_file_is_left_alone():
    with (
        dg.DagsterInstance.ephemeral() as instance,
        log_kept_open(instance, RUN),
    ):
        assert saying.execute_in_process(instance=instance, run_id=RUN).success
