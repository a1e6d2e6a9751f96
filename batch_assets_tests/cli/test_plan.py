"""`batch-assets plan` as a person types it, with a pipeline and without."""

import json

import pytest

from batch_assets.lake.tables import Lake
from batch_assets_tests.commands import batch_assets, finish, invoke
from batch_assets_tests.measured import days_before, keep_nights
from batch_assets_tests.projects import attributes, write_project
from batch_assets_tests.toys import DAY

BOOK = ["--rows", "500M", "--batch-rows", "256", "--batch-ms", "50"]


def test_the_textbook_case_is_3_4_hours_and_says_what_it_leaves_out():
    text = invoke("plan", *BOOK, "--devices", "8")

    assert text.startswith(
        "500,000,000 rows on 8 devices: 3.4 hours for the model alone\n"
        "500,000,000 rows / 256 a batch = 1,953,125 batches; x 50 ms / 8 devices = "
        "12,207 s\n"
        "left out: read, validate, write, publish, sink, stragglers, preemption\n"
    )
    found = json.loads(invoke("plan", *BOOK, "--devices", "8", "--json"))
    assert found["seconds"] == pytest.approx(12_207.03, abs=0.01)


def test_the_textbook_case_has_a_price_and_a_deadline():
    text = invoke("plan", *BOOK, "--deadline", "6h", "--price", "2.5", "--spot", "0.7")
    late = invoke("plan", *BOOK, "--deadline", "6h", "--devices", "4", fails=True)

    assert "on 5 devices: 5.4 hours" in text
    assert "cost: $20.35 at $0.75 a device and hour" in text
    assert "\nin time: it may take 6 h 0 min" in text
    assert "\nNOT in time: it may take 6 h 0 min" in late


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "without a PIPELINE say --rows and how fast the model is"),
        (["--rows", "500M"], "without a PIPELINE say --rows and how fast"),
        (["--rows", "500m"], "rows are written 500000000, 500M or 1.5B"),
        (["--rows", "5M", "--batch-rows", "256"], "belong together"),
        ([*BOOK, "--rows-per-second", "9"], "not both"),
        ([*BOOK, "--preemptions", "0.05/h"], "--preemptions needs a PIPELINE"),
        ([*BOOK, "--preemptions", "0.05"], "as 0.05/h, got '0.05'"),
        ([*BOOK, "--deadline", "6"], "6h, 90m, 45s or 1h30m, got '6'"),
        ([*BOOK, "--spot", "70"], "from 0 to below 1, got '70'"),
        ([*BOOK, "--devices", "0"], "0 is not in the range"),
        (["--check"], "--check needs a PIPELINE"),
        (["toy", "--check", "--rows", "5"], "--check takes no --rows"),
    ],
)
def test_what_is_not_understood_is_said_and_nothing_is_planned(arguments, said):
    text = invoke("plan", *arguments, fails=True)
    assert said in " ".join(text.split())


@pytest.mark.slow  # Five processes, each with Dagster.
def test_a_pipeline_is_planned_and_checked(tmp_path):
    write_project(tmp_path / "p", "toys_project", [attributes("toy")])
    lake = Lake(tmp_path / "root", "toy")
    keep_nights(lake, *days_before(DAY, 7))
    asked = ["--rows", "600", "--deadline", "20h", "--price", "2.5", "--spot", "0.7"]
    check = finish(tmp_path, "plan", "toy", "--check")
    text = finish(tmp_path, "plan", "toy", *asked, "--preemptions", "0.05/h")
    batch_assets(tmp_path, "plan", "toy", "--check", "--json")
    report = json.loads(batch_assets(tmp_path, "plan", "toy", *asked, "--json").stdout)
    late = batch_assets(tmp_path, "plan", "toy", "--deadline", "30m", code=1)

    assert "plans of toy were off by 0% in the median of 6 nights, +0% to +0%" in check
    assert "toy, 600 rows on 1 device: 16 h " in text
    assert "at $0.75 a device and hour" in text
    assert "\nin time: it may take 20 h 0 min" in text
    assert "\nspot " in text
    assert "\non demand " in text
    assert "\nbottleneck: predictions; 4 chunks" in text
    assert "such plans were off by 0% in the median of 6 nights" in text
    assert "warns: the engine is `local`" in text
    assert report["option"]["seconds"] == pytest.approx(60_000)
    assert report["chunks"] == 4
    assert "NOT in time: it may take 30 minutes" in late.stdout
