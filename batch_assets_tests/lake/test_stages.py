"""What a night says of its stages is there for whoever looks, and of the right day."""

from datetime import UTC, datetime

from deltalake import DeltaTable

from batch_assets.lake.metrics import STAGE
from batch_assets.lake.stages import (
    StageMetric,
    StageState,
    keep_stage,
    read_state,
    stage_metrics,
    write_state,
)

DAY, NEXT = "2026-01-05", "2026-01-06"
AT = datetime(2026, 1, 6, 0, 30, tzinfo=UTC)


def metric(day: str, stage: str, seconds: float = 1.0) -> StageMetric:
    return StageMetric(day, "job", stage, AT, seconds, 60, None)


def test_the_table_has_the_columns_that_reports_read():
    assert [(field.name, str(field.type)) for field in STAGE] == [
        ("day", "string"),
        ("job", "string"),
        ("stage", "string"),
        ("started_at", "timestamp[us, tz=UTC]"),
        ("seconds", "double"),
        ("rows", "int64"),
        ("device_share", "double"),
    ]


def test_a_stage_that_ran_again_takes_its_own_place_alone(lake):
    for day in (DAY, NEXT):
        for stage in ("raw_features", "predictions"):
            keep_stage(lake, metric(day, stage))
    keep_stage(lake, metric(DAY, "predictions", 9.0))

    found = {(one.day, one.stage): one.seconds for one in stage_metrics(lake, "", "9")}
    assert found == {
        (DAY, "raw_features"): 1,
        (DAY, "predictions"): 9,
        (NEXT, "raw_features"): 1,
        (NEXT, "predictions"): 1,
    }
    # One file a day is read on a bucket, however many stages there are.
    assert DeltaTable(lake.stage_metrics.path).get_add_actions().num_rows == 2


def test_what_is_kept_is_what_is_read(lake):
    kept = StageMetric(DAY, "job", "predictions", AT, 1.5, 60, 0.25)
    keep_stage(lake, kept)
    keep_stage(lake, metric(DAY, "raw_features"))

    found = {one.stage: one for one in stage_metrics(lake, DAY, DAY)}
    assert found == {
        "predictions": kept,
        "raw_features": metric(DAY, "raw_features"),
    }


def test_the_state_of_a_day_is_the_last_that_was_written(lake):
    state = StageState(stage="predictions", run="a", started_at=AT, at=AT, rows=7)
    assert read_state(lake, DAY) is None
    write_state(lake, DAY, state)
    write_state(lake, NEXT, state.model_copy(update={"failed": "no room"}))

    assert read_state(lake, DAY) == state
    assert getattr(read_state(lake, NEXT), "failed", None) == "no room"
    write_state(lake, DAY, None)
    assert read_state(lake, DAY) is None


def test_a_torn_state_is_no_evidence(lake):
    write_state(lake, DAY, StageState(stage="x", run="a", started_at=AT, at=AT))
    path = lake.folder / ".stages" / f"{DAY}.json"
    path.write_bytes(path.read_bytes()[:-9])

    assert read_state(lake, DAY) is None
