"""What `make bench-scale` measures and reckons, and that its page says so."""

import json

import pytest

from batch_assets_tests.projects import FLIGHTS
from benchmarks import scale
from benchmarks.scale import BEGIN, CHUNKS, END, Constant, show
from benchmarks.tables import with_tables

FOLDER = FLIGHTS / "benchmarks"
RESULTS = json.loads((FOLDER / "scale.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("of", "power", "projected"),
    [
        ({10: 1.0, 20: 2.0, 40: 4.0}, 1, 40),
        ({10: 1.0, 20: 4.0, 40: 16.0}, 2, 1_600),
        ({10: 4.0, 20: 4.0, 40: 4.0}, 0, 40),  # A fixed part can't be told.
        ({10: 0.0, 20: 0.0, 40: 0.0}, 0, 0),
    ],
)
def test_a_night_is_reckoned_by_the_growth_that_was_seen(of, power, projected):
    constant = Constant("x", "s", 400, of)
    assert constant.power == pytest.approx(power)
    assert constant.projected == pytest.approx(projected)


def test_the_page_has_the_figures_that_were_saved_and_the_worst_was_mended():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert with_tables(text, show(RESULTS), BEGIN, END) == text
    before, now = RESULTS["before"], RESULTS["now"]
    assert set(before) == set(now)
    seconds = {n: one["projected"] for n, one in before.items() if one["unit"] == "s"}
    worst = max(seconds, key=seconds.__getitem__)
    assert "looked for" in worst
    assert now[worst]["projected"] < before[worst]["projected"] / 3
    assert f"{CHUNKS:,} chunks" in text


def test_every_constant_is_measured_with_the_code_of_a_night(monkeypatch):
    monkeypatch.setattr(scale, "SIZES", (10, 20, 40))
    monkeypatch.setattr(scale, "PAST_NIGHTS", (1, 2, 3))
    monkeypatch.setattr(scale, "PAST_CHUNKS", 20)
    monkeypatch.setattr(scale, "WORKERS", (5, 10))
    found = scale.measure()

    assert set(found) == set(RESULTS["now"])
    assert all(value >= 0 for one in found.values() for value in one["of"].values())
    assert found["a commit in the log"]["of"]["40"] > 0
