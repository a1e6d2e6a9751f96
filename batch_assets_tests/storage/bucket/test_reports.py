"""The report of a night whose `<root>` is in a bucket lies there, too."""

from pathlib import Path

import pytest

from batch_assets.reports.night import write_report
from batch_assets.spec import GateLimits
from batch_assets.storage import local
from batch_assets_tests.in_bucket import publish
from batch_assets_tests.pages import Page, read
from batch_assets_tests.toys import DAY, NAME, make_spec

pytestmark = pytest.mark.slow


def test_a_report_lies_beside_the_lake_and_nothing_of_it_stays_here(root, ready):
    version = publish(root).version

    written = write_report(root, make_spec(gates=GateLimits()), DAY)

    assert str(written.path) == f"{root}/reports/{NAME}/{DAY}.html"
    page = Page(written.path.read_bytes().decode())
    assert f"as version {version}" in page.words
    assert written.facts.problems == ()
    assert list(local(written.path).parent.iterdir()) == []
    # It is replaced as a whole.
    again = write_report(root, make_spec(gates=GateLimits()), DAY)
    assert again.path.read_bytes() != b""


def test_a_report_of_a_bucket_may_be_written_to_this_machine(root, ready, tmp_path):
    to = tmp_path / "night.html"

    written = write_report(root, make_spec(), DAY, to=to)

    assert isinstance(written.path, Path)
    assert "Scored, and not served" in read(to).words
