"""The pages of a good and a stopped night in a real browser, wide and as a telephone."""

import pytest

from batch_assets.scoring.sweep_results import Sweep, Sweeps
from batch_assets.spec import GateLimits
from batch_assets_tests.browser import chromium, measured, needs_browser
from batch_assets_tests.pages import report, scored
from batch_assets_tests.publishing import approved, narrow, publish, raw_rows, root_of
from batch_assets_tests.reports.test_pictures import POINTS, STAGES
from batch_assets_tests.reports.test_stage_times import write
from batch_assets_tests.toys import DAY, NAME, copy_rows, validate

pytestmark = [pytest.mark.slow, needs_browser]


@pytest.fixture(params=["good", "stopped"])
def page(request, lake, tmp_path):
    """The file of a night."""
    release = approved(root_of(lake), narrow(tmp_path / "r"))
    if request.param == "good":
        scored(lake, release, raw_rows(DAY))
        publish(lake)
        write(lake, *STAGES)
        sweep = Sweep(
            NAME, release.digest, "cpu", "float32", 2, "2", 1, "enough", POINTS
        )
        Sweeps(root_of(lake)).keep(sweep)
        return report(lake)[0].path
    copy_rows(lake, raw_rows(DAY), contract=release.contract)
    validate(lake, contract=release.contract)
    return report(lake, gates=GateLimits(max_quarantine_share=0.001))[0].path


@pytest.mark.parametrize("width", [400, 1240])
def test_nothing_is_wider_than_the_page_cut_off_or_too_small(page, width, tmp_path):
    found = measured(page, width, tmp_path)

    assert found["width"] <= width
    assert found["wide"] == []
    assert found["cut"] == []
    assert found["smallest"] >= 9
    assert found["errors"] == 0


def test_it_prints_on_a_few_pages(page, tmp_path):
    pdf = tmp_path / "night.pdf"

    chromium(
        f"--print-to-pdf={pdf}",
        "--no-pdf-header-footer",
        page.as_uri(),
        profile=tmp_path / "p",
    )

    assert 1 <= pdf.read_bytes().count(b"/Type /Page\n") <= 6
