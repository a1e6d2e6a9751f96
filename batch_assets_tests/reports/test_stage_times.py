"""The seconds of a night's stages, on its page."""

from batch_assets.lake.stages import keep_stage
from batch_assets_tests.pages import report, scored
from batch_assets_tests.reports.test_pictures import STAGES
from batch_assets_tests.toys import make_rows


def write(lake, *stages):
    for stage in stages:
        keep_stage(lake, stage)


def test_the_page_shows_where_the_time_went(lake, registry, toy_release):
    scored(lake, toy_release, make_rows(400))
    write(lake, *STAGES)

    _, page = report(lake)

    assert "3 min 0 s · 68.68 % · 5,500 rows/s" in page.words
    assert "Nobody timed" not in page.words
