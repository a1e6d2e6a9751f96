"""How good the predictions were, day by day, as a picture. It measures nothing."""

import io
from collections.abc import Sequence
from datetime import date
from itertools import pairwise
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from PIL import Image

from batch_assets.quality.performance.history import BETTER, History, Series
from batch_assets.quality.performance.probabilities import Group
from batch_assets.spec import OutcomesSpec

# So many segments of a column are drawn, as means of so many days.
SEGMENTS, SMOOTH = 6, 7
# Of more days than these the dots would hide the line.
DOTTED_DAYS = 60
# In inches: a panel with the room above and below its axes, and beside them. Above all
# is room for the power of ten that large numbers are given in.
WIDTH, PANEL, ABOVE, BELOW, LEFT, RIGHT, TOP = 9.0, 2.2, 0.3, 0.4, 0.65, 0.1, 0.2
DPI, COLOURS = 90, 128
BLUE, RED, GREY = "#2b5d8a", "#c44e52", "#8c96a8"


def draw(
    history: History, spec: OutcomesSpec, day: str, curve: Sequence[Group] = ()
) -> bytes:
    """Draw a PNG: each metric over the days, what was estimated of it, and the calibration.

    Args:
        history: of the days.
        spec: what the outcomes are.
        day: that is marked, and whose calibration it is.
        curve: of probabilities.
    """
    metrics = [m for m in BETTER[spec.task] if history.realised.get(m)]
    segments = _largest_segments(history, metrics[0]) if metrics else {}
    panels = len(metrics) + len(segments) + bool(curve)
    figure = _panels(max(panels, 1))
    first: Axes | None = None
    for number, metric in enumerate(metrics, 1):
        axes = figure.add_subplot(panels, 1, number, sharex=first)
        first = first or axes
        _over_days(
            axes, history.realised[metric], history.estimated.get(metric, {}), day
        )
        more = "more" if BETTER[spec.task][metric] else "less"
        _named(axes, f"{metric} of '{spec.output}': {more} is better")
    for number, (column, series) in enumerate(segments.items(), len(metrics) + 1):
        axes = figure.add_subplot(panels, 1, number, sharex=first)
        for value, one in series.items():
            _line(axes, _smooth(one), label=value, linewidth=1)
        _dated(axes)
        _named(axes, f"{metrics[0]} by {column}, mean of {SMOOTH} days: the largest")
    if curve:
        axes = figure.add_subplot(panels, 1, panels)
        calibration(axes, curve)
        axes.set_title(
            f"{day}: share of what happened, by what was predicted (grey: calibrated)",
            fontsize=9,
            loc="left",
        )
    return _png(figure)


def _panels(count: int) -> Figure:
    """Return an empty figure with room for panels, one below the other.

    Each has the same room around it, of which matplotlib takes long to convince itself:
    with a layout of its own a picture took twice as long.
    """
    height = PANEL * count + TOP
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    figure.subplots_adjust(
        left=LEFT / WIDTH,
        right=1 - RIGHT / WIDTH,
        top=1 - (ABOVE + TOP) / height,
        bottom=BELOW / height,
        hspace=(ABOVE + BELOW) / (PANEL - ABOVE - BELOW),
    )
    return figure


def _png(figure: Figure) -> bytes:
    """Draw a figure in few colours: its picture stays in the log of events for good."""
    canvas, file = FigureCanvasAgg(figure), io.BytesIO()
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = canvas.buffer_rgba()  # type: ignore[no-untyped-call]
    drawn = Image.fromarray(np.asarray(pixels)).convert("RGB")
    # By this method, lines of different colours stay different; it is also the fastest.
    few = drawn.quantize(COLOURS, method=Image.Quantize.FASTOCTREE)
    few.save(file, format="png")
    return file.getvalue()


def _over_days(axes: Axes, realised: Series, promised: Series, day: str) -> None:
    dots = ".-" if len(realised) <= DOTTED_DAYS else "-"
    for series, style, colour, label in (
        (realised, dots, BLUE, "came out"),
        (promised, "--", RED, "estimated from the scores alone"),
    ):
        _line(
            axes,
            series,
            style,
            color=colour,
            linewidth=1,
            markersize=4,
            label=label if series else None,
        )
    days = sorted(realised)
    changes = [
        later
        for earlier, later in pairwise(days)
        if realised[earlier].release != realised[later].release
    ]
    for number, one in enumerate(changes):
        label = "" if number else "another release"
        axes.axvline(date.fromisoformat(one), color=GREY, linestyle=":", label=label)  # type: ignore[arg-type]
    if day in realised:
        axes.plot(
            [date.fromisoformat(day)],  # type: ignore[arg-type]
            [realised[day].value],
            "o",
            color=BLUE,
            markersize=7,
        )
    _dated(axes)


def _largest_segments(history: History, metric: str) -> dict[str, dict[str, Series]]:
    """The segments of each column with the most rows, and a metric of theirs by day."""
    found: dict[str, dict[str, Series]] = {}
    for (segment, name), series in history.segments.items():
        if name == metric:
            found.setdefault(segment.column, {})[segment.value] = series

    def rows(of: tuple[str, Series]) -> int:
        return sum(value.rows for value in of[1].values())

    return {
        column: dict(sorted(of.items(), key=rows, reverse=True)[:SEGMENTS])
        for column, of in found.items()
    }


def _named(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    # Above the lines, and not on them.
    axes.legend(
        fontsize=7, loc="lower right", bbox_to_anchor=(1, 0.98), ncols=8, frameon=False
    )


def _smooth(series: Series) -> Series:
    """The mean of each day and those before it: a segment of a day has few rows."""
    days = sorted(series)
    return {
        day: series[day]._replace(
            value=fmean(
                series[one].value for one in days[max(0, at - SMOOTH + 1) : at + 1]
            )
        )
        for at, day in enumerate(days)
    }


def _line(axes: Axes, series: Series, style: str = "-", **looks: Any) -> None:
    days = sorted(series)
    values = [series[one].value for one in days]
    axes.plot([date.fromisoformat(one) for one in days], values, style, **looks)  # type: ignore[arg-type]


def _dated(axes: Axes) -> None:
    axes.xaxis.set_major_locator(locator := AutoDateLocator(minticks=2))  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.tick_params(labelsize=8)


def calibration(axes: Axes, curve: Sequence[Group]) -> None:
    """Plot what happened by what was predicted, beside what calibrated scores promise."""
    most = max(max(group.predicted, group.happened) for group in curve)
    axes.plot([0, most], [0, most], color=GREY, linewidth=1)
    axes.plot(
        [group.predicted for group in curve],
        [group.happened for group in curve],
        "o-",
        color=BLUE,
        linewidth=1,
        markersize=4,
    )
    axes.tick_params(labelsize=8)
