"""A sweep as a picture. It measures nothing."""

import io

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from batch_assets.scoring.sweep_results import Sweep


def draw(sweep: Sweep) -> bytes:
    """Draw a PNG: rows per second and memory by rows of a batch, the knee marked."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    rate = figure.add_subplot()
    plot(rate, sweep)
    knee = sweep.knee
    rate.set_title(
        f"{sweep.model} {sweep.digest[:12]} on {sweep.device}, {sweep.precision}\n"
        f"knee (red): {knee.batch_rows:,} rows, {knee.rows_per_second:,.0f} rows/s",
        fontsize=9,
    )
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=90)
    return file.getvalue()


def plot(rate: Axes, sweep: Sweep) -> None:
    """Plot the same into axes that are there, without a title."""
    rows = [point.batch_rows for point in sweep.points]
    rate.plot(rows, [p.rows_per_second for p in sweep.points], "o-", color="#2b5d8a")
    rate.set_xscale("log", base=2)
    rate.set(xlabel="rows of a batch", ylabel="rows per second")
    rate.set_xticks(rows[::2], [f"{count:,}" for count in rows[::2]], fontsize=8)
    rate.yaxis.set_major_formatter(EngFormatter(sep=""))
    rate.set_ylim(bottom=0)
    rate.axvline(sweep.knee.batch_rows, color="#c44e52", linewidth=1)
    memory = [(p.batch_rows, p.memory_mb) for p in sweep.points if p.memory_mb]
    if memory:
        other = rate.twinx()
        other.plot(*zip(*memory, strict=True), ".--", color="#8c96a8", linewidth=1)
        other.set_ylabel("MiB of a batch on every worker", color="#5d6675")
        other.set_ylim(bottom=0)
    rate.tick_params(axis="x", rotation=30)
