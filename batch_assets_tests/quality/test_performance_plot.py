"""The picture of how good the predictions were: small, whole, and of distinct lines."""

import io
import json
from datetime import date, timedelta

import numpy as np
import pytest
from PIL import Image

from batch_assets.lake.profiles import Segment
from batch_assets.quality.performance.history import BETTER, History, Value
from batch_assets.quality.performance.plot import draw
from batch_assets.quality.performance.probabilities import Group
from batch_assets.spec import OutcomesSpec, Task

FIRST = date(2026, 1, 5)
CURVE = [Group(at / 10, at / 10 + 0.02, 90) for at in range(1, 9)]
# The first six colours of matplotlib's, of the six largest segments.
COLOURS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b"]


def spec(task: Task = "binary") -> OutcomesSpec:
    source = {"kind": "parquet", "glob": "{{ day }}.parquet"}
    return OutcomesSpec.model_validate(
        {"source": source, "output": "risk", "task": task}
    )


def history(days: int, *, task: Task = "binary", scale: float = 1.0) -> History:
    """Days of every metric that a task has, with an estimate and six segments of each."""
    random, found = np.random.default_rng(0), History()
    for day in [str(FIRST + timedelta(days=number)) for number in range(days)]:
        for number, metric in enumerate(BETTER[task]):

            def value() -> Value:
                return Value(scale * random.uniform(0.6, 0.8), None, 1_000, "a")

            found.realised[metric][day] = value()
            found.estimated[metric][day] = value()
            for carrier in "abcdef" if number == 0 else "":
                found.segments[Segment("carrier", carrier), metric][day] = value()
    return found


def drawn(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_the_picture_of_a_year_is_small_for_it_stays_in_the_log_of_events():
    png = draw(history(365), spec(), str(FIRST), CURVE)

    assert len(png) < 250_000
    assert drawn(png).shape[1] == 810


@pytest.mark.parametrize("scale", [1e-4, 1.234567e5, -9.87e8])
def test_nothing_is_cut_off_at_an_edge(scale):
    days = history(40, task="regression", scale=scale)
    pixels = drawn(draw(days, spec("regression"), "none"))
    frame = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])

    assert all((edge >= 250).all() for edge in frame)


def test_lines_of_different_segments_stay_different():
    pixels = drawn(draw(history(30), spec(), str(FIRST), CURVE)).reshape(-1, 3)
    found = set()
    for colour in COLOURS:
        wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        off = np.abs(pixels - wanted).max(axis=1)
        assert off.min() <= 40, colour
        found.add(tuple(pixels[off.argmin()]))

    assert len(found) == len(COLOURS)


@pytest.mark.parametrize("days", [0, 1, 2])
def test_the_first_days_have_a_picture_too(days):
    assert drawn(draw(history(days), spec(), str(FIRST), CURVE)).min() < 128


def test_the_day_is_marked_and_so_is_another_release():
    plain = history(10)
    changed = json.loads(json.dumps(plain.realised))
    found = history(10)
    for metric, series in changed.items():
        for day, (value, error, rows, _) in series.items():
            release = "b" if day > str(FIRST + timedelta(days=4)) else "a"
            found.realised[metric][day] = Value(value, error, rows, release)

    usual = draw(plain, spec(), str(FIRST))
    assert draw(plain, spec(), str(FIRST + timedelta(days=7))) != usual
    assert draw(found, spec(), str(FIRST)) != usual
