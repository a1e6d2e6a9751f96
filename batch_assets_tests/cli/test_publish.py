"""A gate shuts at night: it is overridden by name, and each row can be explained."""

import json
from datetime import UTC, datetime, timedelta
from importlib.metadata import version

import pyarrow as pa
import pytest

from batch_assets_tests.commands import batch_assets
from batch_assets_tests.projects import attributes, write_project
from batch_assets_tests.toys import make_rows, write_source

pytestmark = pytest.mark.slow

DAY, NEXT = "2026-01-05", "2026-01-06"
QUARANTINE = "quarantine_share_is_within_limit"
COVERAGE = "coverage_is_within_limit"


@pytest.fixture(scope="module")
def broken(tmp_path_factory, toy_release):
    """A project with a good night, and one of which a twentieth is in quarantine."""
    folder = tmp_path_factory.mktemp("project")
    write_project(folder / "p", "toys_project", [attributes()])
    rows = make_rows(1_000)
    write_source(folder / "p", rows, day=DAY)
    ages = pa.array([200] * 50 + rows["age"].to_pylist()[50:], pa.int16())
    write_source(folder / "p", rows.set_column(1, "age", ages), day=NEXT)
    batch_assets(folder, "release", "add", "toy", str(toy_release.folder))
    batch_assets(
        folder,
        "release",
        "approve",
        "toy",
        toy_release.digest,
        "--why",
        "ok",
        "--by",
        "bo",
    )
    batch_assets(folder, "run", "toy", "--day", DAY)
    told = batch_assets(folder, "run", "toy", "--day", NEXT, code=1).stderr
    return folder, told


def later(hours: float = 1) -> str:
    return f"{datetime.now(UTC) + timedelta(hours=hours):%Y-%m-%dT%H:%M:%S}"


def override(folder, *gates: str, code: int = 0, until: str | None = None, by="ada"):
    named = [text for gate in gates for text in ("--override", gate)]
    because = ("--why", "the source has bad ages today", "--by", by)
    return batch_assets(
        folder,
        *("publish", "toy", NEXT, *named, *because, "--until", until or later()),
        code=code,
    )


def test_a_shut_gate_says_how_it_is_overridden_and_it_works(broken):
    folder, told = broken
    assert QUARANTINE in told

    # The quarantine gate alone lets it be scored, and then coverage is too low.
    error = override(folder, QUARANTINE, code=1).stderr
    assert f"--override {COVERAGE} --why … --until …" in error
    assert f"batch-assets publish toy {NEXT}" in error

    done = override(folder, COVERAGE).stdout
    assert f"{COVERAGE} of {NEXT} is overridden by ada until" in done
    assert f"served now: {NEXT}" in done
    assert "warns: no_gate_was_overridden" in done

    shown = batch_assets(folder, "lookup", "toy", "777").stdout
    assert f"overridden {QUARANTINE} overridden by ada until" in shown
    listed = json.loads(
        batch_assets(folder, "snapshot", "list", "toy", "--json").stdout
    )
    assert set(listed[-1]["overridden_gates"]) == {QUARANTINE, COVERAGE}
    assert "overridden" in batch_assets(folder, "snapshot", "list", "toy").stdout

    explained = batch_assets(folder, "explain", "toy", "777").stdout
    for said in (
        f"777 of toy, {NEXT}: predicted",
        "risk = ",
        "served now",
        f"{COVERAGE} was overridden by ada until",
        "approved for batch",
        "by bo: ok",
        "predictions: committed",
        f"batch-assets {version('batch-assets')}",
        "1,000 raw, 950 validated, 50 quarantined, 950 scored, 0 carried, 0 dead",
        "they close",
        "12 of 14 open",
        "plan = ",
        "files: days/",
    ):
        assert said in explained, said


def test_the_run_of_each_step_is_one_that_dagster_knows(broken):
    from dagster import DagsterInstance

    folder, _ = broken
    found = json.loads(
        batch_assets(folder, "explain", "toy", "777", "--day", DAY, "--json").stdout
    )
    runs = {step["run"] for step in found["steps"]}
    with DagsterInstance.from_config(str(folder / "p")) as instance:
        assert {run.run_id for run in instance.get_runs()} >= runs
    assert len(runs) == 1


def test_a_quarantined_key_is_explained_by_its_rule(broken):
    folder, _ = broken
    rows = make_rows(1_000)["user_id"].to_pylist()
    text = batch_assets(folder, "explain", "toy", str(rows[0]), "--day", NEXT).stdout
    assert ": quarantined" in text
    assert "age" in text.partition("why")[2].splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--override", COVERAGE), 2, "takes --why and --until"),
        (("--why", "x"), 2, "belong to --override"),
        (("--override", "no", "--why", "x", "--until", "2031-01-01"), 1, "is no gate"),
        (
            (
                *("--override", "raw_is_validated_plus_quarantined"),
                *("--why", "x", "--until", "2031-01-01"),
            ),
            1,
            "can't be overridden",
        ),
        (
            ("--override", COVERAGE, "--why", "x", "--until", "2020-01-01"),
            1,
            "later than now",
        ),
    ],
)
def test_a_mistake_changes_nothing(broken, arguments, code, said):
    folder, _ = broken
    log = folder / "root" / "lake" / "toy" / "overrides.jsonl"
    before = log.read_bytes() if log.exists() else b""
    assert (
        said
        in batch_assets(folder, "publish", "toy", NEXT, *arguments, code=code).stderr
    )
    assert (log.read_bytes() if log.exists() else b"") == before


def test_a_day_that_is_none_is_refused_before_anything_is_recorded(broken):
    folder, _ = broken
    because = ("--override", COVERAGE, "--why", "x", "--until", later())
    error = batch_assets(
        folder, "publish", "toy", "2031-01-01", *because, code=1
    ).stderr
    assert "has no day '2031-01-01'" in error


def test_a_good_day_is_published_without_any_override(broken):
    folder, _ = broken
    told = json.loads(batch_assets(folder, "publish", "toy", DAY, "--json").stdout)
    assert told["success"]
    assert told["overrides"] == []


def test_a_row_is_explained_on_one_page_that_needs_no_network(broken):
    folder, _ = broken
    page = folder / "page.html"
    batch_assets(folder, "explain", "toy", "777", "--day", DAY, "--out", str(page))
    text = page.read_text("utf-8")
    assert "what stands behind 777" in text
    assert "approved for batch" in text
    assert "http" not in text
    assert "<script" not in text
