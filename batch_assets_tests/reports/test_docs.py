"""What docs/reports.md says of the page is what the page is."""

import re

from PIL import Image

from batch_assets.cli.main import main
from batch_assets.reports import left_out, rightness
from batch_assets.reports.pictures.of_night import MOST_OUTPUTS
from batch_assets_tests.projects import FLIGHTS

TEXT = (FLIGHTS / "docs" / "reports.md").read_text("utf-8")


def test_its_pictures_are_there_and_it_is_linked():
    named = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXT)

    assert len(named) == 2
    for name in named:
        with Image.open(FLIGHTS / "docs" / name) as image:
            assert image.width >= 1_000
    assert "(docs/reports.md)" in (FLIGHTS / "README.md").read_text("utf-8")


def test_its_options_and_numbers_are_those_of_the_code():
    options = {opt for param in main.commands["report"].params for opt in param.opts}
    for option in options - {"pipeline", "--json"}:
        assert f"`{option}" in TEXT, option
    assert f"first {left_out.LOOKED_THROUGH:,}" in TEXT
    assert f"more than {rightness.CURVE_ROWS:,} rows" in TEXT
    assert MOST_OUTPUTS == 6
    assert "up to six" in TEXT
