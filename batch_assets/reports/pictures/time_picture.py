"""Where the time of a night went: a bar for each stage, from when it began."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from batch_assets.lake.stages import StageMetric
from batch_assets.reports.pictures.style import (
    BLUE,
    GREEN,
    INK,
    SOFT,
    WIDTH,
    Picture,
    bare,
    drawing,
)
from batch_assets.reports.wording import seconds, share

LANE, BAR, LEFT = 40, 10, 4


def draw_times(times: Sequence[StageMetric]) -> Picture:
    """Draw the stages of a night one below the other, with their seconds and rates."""
    begin = min(one.started_at for one in times)
    ends = [(o.started_at - begin).total_seconds() + o.seconds for o in times]
    whole, busy = max([*ends, 1e-9]), sum(one.seconds for one in times)
    height = LANE * len(times) + 6
    with drawing(height, constrained=False) as figure:
        axes = bare(figure, height)
        for at, one in enumerate(times):
            _stage(
                axes,
                at * LANE + 4,
                one,
                begin_at=ends[at] - one.seconds,
                whole=whole,
                busy=busy,
            )
    told = ", ".join(f"{one.stage} {seconds(one.seconds)}" for one in times)
    return Picture("times", f"Where the time went: {told}.", figure)


def _stage(
    axes: Axes,
    y: float,
    one: StageMetric,
    *,
    begin_at: float,
    whole: float,
    busy: float,
) -> None:
    room = WIDTH - 2 * LEFT
    told = [seconds(one.seconds), share(one.seconds, busy)]
    if one.rows and one.seconds > 0:
        told.append(f"{one.rows / one.seconds:,.0f} rows/s")
    axes.text(LEFT, y, one.stage, color=INK, fontsize=9.5, va="top")
    axes.text(
        WIDTH - LEFT, y, " · ".join(told), color=SOFT, fontsize=9, va="top", ha="right"
    )
    x, long = LEFT + begin_at / whole * room, max(one.seconds / whole * room, 2)
    axes.add_patch(Rectangle((x, y + 18), long, BAR, facecolor=BLUE, linewidth=0))
    if one.device_share:
        axes.add_patch(
            Rectangle(
                (x, y + 18 + BAR - 3), long * one.device_share, 3, facecolor=GREEN, lw=0
            )
        )
