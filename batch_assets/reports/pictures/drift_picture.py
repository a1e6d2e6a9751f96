"""How far an output was from the release's rows, night by night, with tonight's limits."""

from datetime import date, timedelta

from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num

from batch_assets.reports.facts import OutputDrift
from batch_assets.reports.pictures.style import (
    AMBER,
    BLUE,
    INK,
    RED,
    Picture,
    drawing,
)
from batch_assets.reports.wording import number

COLOURS = {"fine": BLUE, "warn": AMBER, "block": RED}
WORDS = {"fine": "a night", "warn": "one that warned", "block": "one that was stopped"}
# Of the limits: room above the highest of what is drawn.
HEADROOM = 1.15
FEWEST_DAYS = 7


def draw_drift(drift: OutputDrift, day: str) -> Picture:
    """Draw the index of each night, tonight's as it was judged, and what it may be."""
    with drawing(236) as figure:
        axes = figure.add_subplot()
        _nights(axes, drift)
        limits = [
            (drift.warns_above, AMBER, "warns above"),
            (drift.blocks_above, RED, "blocks above"),
        ]
        for limit, colour, label in limits:
            if limit is not None:
                axes.axhline(
                    limit, color=colour, linestyle="--", linewidth=1,
                    label=f"{label} {number(limit)}",
                )  # fmt: skip
        if drift.index is not None:
            axes.plot(
                [_x(day)], [drift.index], "D", color=_colour(drift), markersize=6,
                label=f"tonight: {number(drift.index)}",
            )  # fmt: skip
        _scaled(axes, drift, day)
        figure.legend(loc="outside upper right", ncols=2)
    index = "" if drift.index is None else f", tonight {number(drift.index)}"
    about = f"PSI of {drift.output} over {len(drift.nights)} nights{index}."
    return Picture(f"drift-{drift.output}", about, figure)


def _colour(drift: OutputDrift) -> str:
    """Of tonight: how the gate of the reference judges it."""
    index = drift.index or 0
    if drift.blocks_above is not None and index > drift.blocks_above:
        return RED
    return AMBER if drift.warns_above is not None and index > drift.warns_above else INK


def _x(day: str) -> float:
    return float(date2num(date.fromisoformat(day)))  # type: ignore[no-untyped-call]


def _nights(axes: Axes, drift: OutputDrift) -> None:
    days = [_x(point.day) for point in drift.nights]
    axes.plot(days, [point.psi for point in drift.nights], color=BLUE, linewidth=0.8)
    for verdict, colour in COLOURS.items():
        of = [point for point in drift.nights if point.verdict == verdict]
        if of:
            axes.plot(
                [_x(point.day) for point in of], [point.psi for point in of], "o",
                color=colour, label=WORDS[verdict],
            )  # fmt: skip


def _scaled(axes: Axes, drift: OutputDrift, day: str) -> None:
    known = [point.psi for point in drift.nights]
    known += [
        one
        for one in (drift.index, drift.warns_above, drift.blocks_above)
        if one is not None
    ]
    axes.set_ylim(0, max(known, default=1) * HEADROOM or 1)
    first = min([point.day for point in drift.nights] + [day])
    shortest = str(date.fromisoformat(day) - timedelta(days=FEWEST_DAYS))
    axes.set_xlim(_x(min(first, shortest)) - 0.5, _x(day) + 0.8)
    locator = AutoDateLocator(minticks=3, maxticks=6)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.set_ylabel(f"PSI of '{drift.output}'")
    axes.grid(visible=False, axis="x")
