"""The seconds of a night's stages, as the table `stage_metrics` has them."""

from datetime import timedelta

import pyarrow as pa

from batch_assets.lake.metrics import MetricTable
from batch_assets.reports.stage_times import STAGES as SCHEMA
from batch_assets.reports.stage_times import stage_times
from batch_assets_tests.pages import report, scored
from batch_assets_tests.reports.test_pictures import BEGIN, STAGES
from batch_assets_tests.toys import DAY, make_rows


def write(lake, *stages, day=DAY):
    rows = [{"day": day, "job": "a" * 64, **vars(stage)} for stage in stages]
    table = MetricTable(lake.folder / "stage_metrics", SCHEMA)
    table.write(day, pa.Table.from_pylist(rows, schema=SCHEMA))


def test_a_day_that_nobody_timed_has_no_stages(lake):
    assert stage_times(lake, DAY) == []


def test_stages_come_in_the_order_in_which_they_began(lake):
    write(lake, *reversed(STAGES))

    assert stage_times(lake, DAY) == STAGES
    assert stage_times(lake, "2026-01-06") == []


def test_of_a_stage_that_ran_twice_the_last_run_counts(lake):
    later = STAGES[0].__class__(
        "raw_features", BEGIN + timedelta(hours=1), 1.5, 7, None
    )
    write(lake, STAGES[0], later, STAGES[1])

    assert [one.stage for one in stage_times(lake, DAY)] == [
        "validated_features",
        "raw_features",
    ]
    assert stage_times(lake, DAY)[1] == later


def test_the_page_shows_where_the_time_went(lake, registry, toy_release):
    scored(lake, toy_release, make_rows(400))
    write(lake, *STAGES)

    _, page = report(lake)

    assert "3 min 0 s · 68.68 % · 5,500 rows/s" in page.words
    assert "Nobody timed" not in page.words
