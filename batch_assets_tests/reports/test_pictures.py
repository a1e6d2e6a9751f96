"""The pictures of a report: small, in the colours of the page, with nothing cut off."""

import io
import re
from datetime import UTC, datetime, timedelta
from html import unescape

import pytest
from PIL import Image

from batch_assets.lake.stages import StageMetric
from batch_assets.quality.performance.probabilities import Group
from batch_assets.reports.facts import (
    Histogram,
    LeftOut,
    NightPoint,
    OutputDrift,
    Reason,
)
from batch_assets.reports.pictures.curve_pictures import draw_reliability, draw_sweep
from batch_assets.reports.pictures.drift_picture import draw_drift
from batch_assets.reports.pictures.flow_picture import draw_flow
from batch_assets.reports.pictures.reasons_picture import draw_reasons
from batch_assets.reports.pictures.scores_picture import draw_scores
from batch_assets.reports.pictures.style import RED, ROLES, WIDTH, Picture, any_letters
from batch_assets.reports.pictures.time_picture import draw_times
from batch_assets.scoring.sweep_results import Point, Sweep
from batch_assets_tests.pages import ODD
from batch_assets_tests.reports.test_flow import WHOLE
from batch_assets_tests.toys import DAY

BEGIN = datetime(2026, 1, 6, 0, 30, tzinfo=UTC)


def timed(
    stage: str, began: datetime, seconds: float, rows: int, share: float | None = None
) -> StageMetric:
    return StageMetric(DAY, "a" * 64, stage, began, seconds, rows, share)


STAGES = [
    timed("raw_features", BEGIN, 61.2, 1_000_000),
    timed("validated_features", BEGIN + timedelta(seconds=63), 20.5, 1_000_000),
    timed("predictions", BEGIN + timedelta(seconds=84), 180.0, 990_000, 0.41),
    timed("serving_snapshot", BEGIN + timedelta(seconds=265), 0.4, 0),
]
NIGHTS = tuple(
    NightPoint(f"2026-01-{day:02d}", 0.1 * day, verdict)
    for day, verdict in ((1, "fine"), (2, "warn"), (3, "block"), (5, "fine"))
)
NUMBERS = Histogram(
    "risk", tuple(n / 20 for n in range(1, 20)), (), (5,) * 20, (7,) * 20, 100
)
KINDS = Histogram(
    "next",
    (),
    ("a very long name of an item", "$x$", "牛乳 🥛"),
    (1, 2, 0),
    (0, 1, 9),
    3,
)
POINTS = tuple(Point(2**n, 10.0 * n + 1, 2.0 * n) for n in range(17))
LETTERS = LeftOut(
    12,
    (
        Reason("output '<b>' is $1 & more $2 than a line of this page has room for", 9),
        Reason("b", 3),
    ),
)

DRAWN = {
    "flow": lambda: draw_flow(WHOLE),
    "numbers": lambda: draw_scores(NUMBERS),
    "no rows": lambda: draw_scores(
        Histogram("risk", (0.5,), (), (0, 0), (5, 5), 0, mean=None)
    ),
    "kinds": lambda: draw_scores(KINDS),
    "drift": lambda: draw_drift(
        OutputDrift("risk", NIGHTS, 0.6, 0.25, 1), "2026-01-06"
    ),
    "one night": lambda: draw_drift(OutputDrift("risk", NIGHTS[:1]), "2026-01-01"),
    "only limits": lambda: draw_drift(
        OutputDrift("risk", (), 0, 0.25, 1), "2026-01-01"
    ),
    "reasons": lambda: draw_reasons("dead", LETTERS, RED),
    "times": lambda: draw_times(STAGES),
    "no time": lambda: draw_times([timed("raw_features", BEGIN, 0, 0)]),
    "sweep": lambda: draw_sweep(
        Sweep("toy", "a" * 64, "cpu", "float32", 2, "2", 1.0, "enough", POINTS)
    ),
    "reliability": lambda: draw_reliability([Group(0.1, 0.2, 10), Group(0.8, 0.7, 9)]),
    "one group": lambda: draw_reliability([Group(0.0, 0.0, 10)]),
}


@pytest.fixture(params=DRAWN)
def picture(request) -> Picture:
    return DRAWN[request.param]()


def test_svg_is_text_in_the_colours_of_the_page_and_asks_for_nothing(picture):
    svg = picture.svg()

    assert svg.startswith('<svg class="picture" viewBox="0 0 345 ')
    assert "<text" in svg
    assert "http" not in svg
    assert not ODD.search(svg)
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#ffffff", "#000000"}
    assert "var(--ink)" in svg or "var(--soft)" in svg
    assert svg == picture.svg()
    for tall in re.findall(r"font: (?:bold |700 )?([\d.]+)px", svg):
        assert float(tall) >= 8


def test_a_png_is_a_few_kilobytes_and_as_wide_as_the_others(picture):
    data = picture.png()

    assert len(data) < 20_000
    with Image.open(io.BytesIO(data)) as image:
        assert image.width == int(WIDTH / 72 * 130)


def test_no_text_is_cut_off(picture):
    figure = picture.figure
    with any_letters():
        figure.draw_without_rendering()
    width, height = figure.canvas.get_width_height()
    texts = [
        text
        for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))
        if text.get_text() and text.get_visible()
    ]
    # Of an axis, the ticks beyond its end are there and not drawn.
    seen = unescape(picture.svg())
    texts = [text for text in texts if f">{text.get_text()}<" in seen]
    assert texts
    for text in texts:
        with any_letters():
            box = text.get_window_extent()
        assert box.x0 >= -2, text
        assert box.x1 <= width + 2, text
        assert box.y0 >= -2, text
        assert box.y1 <= height + 2, text


def test_whoever_sees_no_picture_is_told_what_is_in_it(picture):
    assert len(picture.about) > 20
    assert picture.about.endswith(".")
    assert not ODD.search(picture.about)


def test_names_are_escaped_and_a_dollar_is_a_dollar():
    svg = DRAWN["reasons"]().svg()

    assert "&lt;b&gt;" in svg
    assert "$1 &amp; more $2" in svg
    assert "$x$" in DRAWN["kinds"]().svg()
    assert "牛乳 🥛" in DRAWN["kinds"]().svg()


def test_colours_of_a_role_are_no_prefix_of_another_and_all_are_in_the_style():
    from importlib.resources import files

    css = (files("batch_assets.reports") / "templates/night.css").read_text("utf-8")
    for role in ROLES.values():
        # Light, dark and on paper.
        assert css.count(f"--{role}:") == 3, role


def test_the_times_of_a_night_have_seconds_shares_and_rates():
    svg = DRAWN["times"]().svg()

    assert "3 min 0 s · 68.68 % · 5,500 rows/s" in svg
    assert "400 ms · 0.15 %" in svg
