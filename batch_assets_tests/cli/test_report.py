"""`batch-assets report`: one file, from the command line, without Dagster running."""

import json
from pathlib import Path

import pytest

from batch_assets.spec import GateLimits
from batch_assets_tests.commands import invoke
from batch_assets_tests.pages import read, scored
from batch_assets_tests.projects import attributes, make_project
from batch_assets_tests.publishing import BEFORE, OPEN
from batch_assets_tests.toys import DAY, copy_rows, make_rows


@pytest.fixture
def project(tmp_path, root, registry, monkeypatch, toy_release):
    """A project of two nights, the second of which failed before it was scored."""
    pipeline = attributes(gates=OPEN.model_dump())
    made = make_project(tmp_path / "p", root, monkeypatch, [pipeline])
    lake = made.lake("toy")
    scored(lake, toy_release, make_rows(400), BEFORE)
    copy_rows(lake, make_rows(400))
    return made


def test_it_writes_the_newest_day_and_prints_where(project, root):
    path = invoke("report", "toy").strip()

    assert path == str(root / "reports" / "toy" / f"{DAY}.html")
    assert "The night ended before scoring" in read(Path(path)).words


def test_it_writes_a_day_to_a_file_and_tells_it_as_json(project, tmp_path):
    out = tmp_path / "new" / "night.html"

    told = json.loads(
        invoke("report", "toy", "--day", BEFORE, "--out", str(out), "--json")
    )

    assert told["path"] == str(out)
    assert (told["day"], told["books_add_up"]) == (BEFORE, True)
    assert told["headline"]["title"] in read(out).words


def test_it_judges_by_the_limits_of_the_yaml(project):
    page = read(Path(invoke("report", "toy", "--day", BEFORE).strip()))

    assert OPEN.max_quarantine_share != GateLimits().max_quarantine_share
    assert f"at most {OPEN.max_quarantine_share} may be share 0" in page.words


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("report", "tyo"), "there: toy"),
        (("report", "toy", "--day", "2026-01-20"), "Run the day: batch-assets run toy"),
        (("report", "toy", "--day", "yesterday"), "a day is written YYYY-MM-DD"),
        (("report", "toy", "--out", "/"), "is a directory"),
    ],
)
def test_a_mistake_ends_in_one_clear_line(project, arguments, said):
    assert said in invoke(*arguments, fails=True)


def test_a_pipeline_that_no_yaml_declares_is_named(project, toy_release, root):
    from batch_assets.lake.tables import Lake

    copy_rows(Lake(root, "other"), make_rows(4))

    said = invoke("report", "other", fails=True)

    assert "no pipeline is named 'other'" in said
    assert "declared: toy" in said
