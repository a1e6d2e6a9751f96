"""What the page of planning says is what the command does."""

import re

from batch_assets.cli.plan import plan
from batch_assets.lake.metrics import PLAN
from batch_assets.planner.estimate import ROAD
from batch_assets.planner.simulation import RUNS
from batch_assets.planner.size import FAR
from batch_assets_tests.commands import invoke
from batch_assets_tests.projects import FLIGHTS

PAGE = (FLIGHTS / "docs" / "planning.md").read_text(encoding="utf-8")


def test_the_textbook_case_of_the_page_is_what_is_printed():
    block = PAGE.partition("    $ batch-assets ")[2].partition("\n\n")[0]
    command, *lines = (line.strip() for line in block.splitlines())

    assert invoke(*command.split()).splitlines() == lines
    assert "3.4 hours for the model alone" in lines[0]


def test_every_option_is_a_row():
    rows = set(re.findall(r"`(--[a-z-]+)`", PAGE))
    options = {name for one in plan.params for name in one.opts if name[:2] == "--"}
    assert options - {"--json"} <= rows
    assert rows <= options


def test_every_column_that_is_kept_and_each_number_is_named():
    for column in set(PLAN.names) - {"day", "rows"}:
        assert f"`{column}`" in PAGE, column
    assert " ─ ".join(ROAD) in PAGE
    assert f"Of {RUNS} such nights" in PAGE
    assert f"more than {FAR} times" in PAGE
