"""What the page about gates says: the table is made of nights, and holds for one of them."""

import re
from collections import Counter
from datetime import date

import polars as pl
import pytest
import yaml

from batch_assets.defs.flights.train import CONTRACT
from batch_assets.quality.verdict import Verdict
from batch_assets.spec import GateLimits
from benchmarks.gate_faults import FAULTS
from benchmarks.gates import ASKED, PAGE, Tally, evaluate, table

TEXT = PAGE.read_text(encoding="utf-8")
ALWAYS = [
    "a constant feature (hour)",
    "zeros in a feature (late share of the route)",
    "the scores are zero",
    "two columns swapped (hour and minute)",
    "another time zone (hours off by 5)",
    "one airport missing (LGA)",
    "another unit (distance in km)",
]


@pytest.mark.slow
def test_a_night_of_spring_ends_as_the_table_says() -> None:
    # The ninth week begins on the last night, which has each fault.
    found = evaluate(56, date(2013, 1, 29), date(2013, 3, 26))
    assert found["an ordinary night"].nights == 57
    assert found["an ordinary night"].stopped["any"] <= 1
    assert {name for name in FAULTS if found[name].stopped["any"]} >= set(ALWAYS)
    assert found["the day before again"].stopped["again"] == 1


def test_the_page_has_a_line_for_each_fault_and_what_it_claims() -> None:
    rows = {
        line.split(" | ")[0].removeprefix("| "): line
        for line in TEXT.splitlines()
        if line.startswith("| ") and line.count("|") == 12
    }
    assert set(FAULTS) <= set(rows)
    for name in ALWAYS:
        assert "**100.0%**" in rows[name].split(" | ")[8]
    # One of 60 at most.
    stopped = re.match(r"\*\*([\d.]+)%\*\*", rows["an ordinary night"].split(" | ")[8])
    assert float(stopped[1]) / 100 < 1 / 60


def test_a_tally_counts_nights_and_not_gates() -> None:
    tally = Tally()
    fine, warned = Verdict(True, ""), Verdict(False, "", blocks=False)
    stopped = Verdict(False, "")
    tally.add({"outputs": stopped, "features": warned}, {"PSI 0.25": True})
    tally.add({"outputs": fine, "features": warned}, {"PSI 0.25": False})
    assert tally.stopped == Counter({"outputs": 1, "any": 1, "PSI 0.25": 1})
    assert tally.warned == Counter({"features": 2, "any": 1})
    line = table({"a": tally}).splitlines()[-1].split(" | ")
    assert line[0] == "| a"
    assert line[1] == "2"
    assert line[2 + list(ASKED.values()).index("outputs")] == "**50.0%**"


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_changes_the_night(name: str) -> None:
    random = pl.Series([float(n % 7) / 7 for n in range(200)])
    night = pl.DataFrame(
        {
            feature.name: [feature.categories[n % 3] for n in range(200)]
            if feature.categories
            else random * 20 + 1
            for feature in CONTRACT.features
        }
    ).with_columns(
        carrier=pl.Series(["UA", "AA", "VX", "B6"] * 50),
        origin=pl.Series(["LGA", "JFK"] * 100),
        minute=random * 50,
        route_late_share=random,
        flight_late_share=random[::-1],
        risk=random.cast(pl.Float32) + 0.1,
    )
    before = night.with_columns(risk=pl.lit(0.5, pl.Float32))
    assert not FAULTS[name](night, before, lambda rows: rows).equals(night)


def test_the_yaml_of_the_page_is_valid() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    attributes = yaml.safe_load(block)["attributes"]
    assert set(GateLimits(**attributes["gates"]).drift.values()) == {
        "off",
        "block",
        "warn",
    }
    assert set(attributes["segments"]) <= set(CONTRACT.feature_names)
