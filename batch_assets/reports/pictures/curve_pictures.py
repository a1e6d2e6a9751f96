"""The sweep of the batch size and the reliability of probabilities, as the assets plot them."""

from collections.abc import Sequence

from matplotlib.ticker import PercentFormatter

from batch_assets.quality.performance.plot import calibration
from batch_assets.quality.performance.probabilities import Group
from batch_assets.reports.pictures.style import Picture, drawing
from batch_assets.scoring.sweep_plot import plot
from batch_assets.scoring.sweep_results import Sweep

# Of a curve on which hardly anything happens, so much is shown.
LEAST = 0.01
# Of the numbers at an axis, as in the other pictures.
SMALL = 9


def draw_sweep(sweep: Sweep) -> Picture:
    """Draw rows per second by rows of a batch, with the knee."""
    with drawing(220) as figure:
        axes = figure.add_subplot()
        plot(axes, sweep)
        for label in axes.get_xticklabels():
            label.set_fontsize(SMALL)
    knee = sweep.knee
    about = (
        f"Rows per second by rows of a batch; the knee is at {knee.batch_rows:,} rows, "
        f"{knee.rows_per_second:,.0f} rows per second."
    )
    return Picture("sweep", about, figure)


def draw_reliability(curve: Sequence[Group]) -> Picture:
    """Draw what happened by what was predicted."""
    with drawing(260) as figure:
        axes = figure.add_subplot()
        calibration(axes, curve)
        axes.tick_params(labelsize=SMALL)
        axes.set(xlabel="predicted probability", ylabel="share that happened")
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        most = max(max(group.predicted, group.happened) for group in curve)
        for set_limits in (axes.set_xlim, axes.set_ylim):
            set_limits(0, max(most, LEAST) * 1.05)
        axes.set_aspect("equal", adjustable="box")
    told = ", ".join(f"{g.predicted:.0%} came to {g.happened:.0%}" for g in curve)
    return Picture(
        "reliability", f"Of what was predicted, so much happened: {told}.", figure
    )
