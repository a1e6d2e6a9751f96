"""The scores of a night as a histogram, beside those that the release was approved on."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from batch_assets.reports.facts import Histogram
from batch_assets.reports.pictures.style import BLUE, GREY, Picture, drawing
from batch_assets.reports.wording import count, number, shortened

TICKS = 6
LONGEST = 22


def draw_scores(histogram: Histogram) -> Picture:
    """Draw the share of a night's rows in each bin, and that of the reference."""
    named = bool(histogram.names)
    height = 60 + 22 * len(histogram.names) if named else 210
    with drawing(height) as figure:
        axes = figure.add_subplot()
        if named:
            _kinds(axes, histogram)
        else:
            _numbers(axes, histogram)
        figure.legend(loc="outside upper right", ncols=2)
    mean = "" if histogram.mean is None else f", mean {number(histogram.mean)}"
    about = (
        f"{histogram.output}: the share of {count(histogram.rows, 'row')} in each of "
        f"{len(histogram.counts)} bins, beside the reference{mean}."
    )
    return Picture(f"scores-{histogram.output}", about, figure)


def _shares(counts: tuple[int, ...]) -> np.ndarray:
    return 100 * np.asarray(counts, float) / max(sum(counts), 1)


def _numbers(axes: Axes, histogram: Histogram) -> None:
    """A slot for each bin, however wide it is: of quantiles, each is a like share."""
    slots = np.arange(len(histogram.counts))
    axes.bar(slots, _shares(histogram.counts), 0.9, color=BLUE, label="tonight")
    axes.stairs(
        _shares(histogram.reference),
        np.arange(len(slots) + 1) - 0.5,
        color=GREY,
        linewidth=1.6,
        baseline=None,
        label="reference",
    )
    inner = np.arange(len(histogram.edges))
    shown = np.unique(np.linspace(0, len(inner) - 1, TICKS).round().astype(int))
    axes.set_xticks(
        inner[shown] + 0.5, [number(histogram.edges[at], 2) for at in shown]
    )
    axes.set_xlabel(f"{histogram.of} of '{histogram.output}' (edges of bins)")
    axes.set_ylabel("share of rows")
    axes.yaxis.set_major_formatter(PercentFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(visible=False, axis="x")
    axes.margins(x=0.01)


def _kinds(axes: Axes, histogram: Histogram) -> None:
    places = np.arange(len(histogram.names))
    axes.barh(places, _shares(histogram.counts), 0.62, color=BLUE, label="tonight")
    axes.plot(
        _shares(histogram.reference), places, "|", color=GREY, markersize=15,
        markeredgewidth=2.4, label="reference",
    )  # fmt: skip
    axes.set_yticks(places, [shortened(name, LONGEST) for name in histogram.names])
    axes.invert_yaxis()
    axes.set_xlabel(f"share of rows with the {histogram.of}")
    axes.xaxis.set_major_formatter(PercentFormatter())
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
