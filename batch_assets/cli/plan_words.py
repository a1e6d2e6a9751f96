"""How a plan is told on a terminal."""

from typing import TYPE_CHECKING

import click

from batch_assets.cli.printing import print_table
from batch_assets.planner.status import duration

if TYPE_CHECKING:
    from batch_assets.launch.checked_plans import CheckReport
    from batch_assets.launch.planned_night import PlanReport
    from batch_assets.planner.capacity import Option
    from batch_assets.planner.model_alone import ModelAlone


def print_model_alone(report: "ModelAlone") -> None:
    """Print the textbook case."""
    on = _devices(report.devices)
    click.echo(
        f"{report.rows:,} rows on {on}: {_hours(report.seconds)} for the model alone"
    )
    if report.batches is None:
        told = f"{report.rows:,} rows / {report.rows_per_second:,.0f} rows/s"
    else:
        told = (
            f"{report.rows:,} rows / {report.batch_rows:,} a batch = "
            f"{report.batches:,} batches; x {report.batch_ms:g} ms"
        )
    click.echo(f"{told} / {on} = {report.seconds:,.0f} s")
    if report.cost is not None:
        click.echo(
            f"cost: ${report.cost:,.2f} at ${report.price:,.2f} a device and hour"
        )
    if report.in_time is not None and report.deadline_seconds:
        word = "in" if report.in_time else "NOT in"
        click.echo(f"{word} time: it may take {duration(report.deadline_seconds)}")
    click.echo(f"left out: {', '.join(report.left_out)}")
    click.echo(
        f"next: batch-assets plan PIPELINE --rows {report.rows} --devices "
        f"{report.devices} adds what was measured of these"
    )


def print_plan(report: "PlanReport") -> None:
    """Print a plan of a night."""
    way = report.option
    click.echo(
        f"{report.pipeline}, {report.rows:,} rows on {_devices(way.devices)}: "
        f"{duration(way.seconds)} ({duration(way.low)} to {duration(way.high)})"
        f"{_cost(way)}"
    )
    if way.in_time is not None and report.deadline_seconds:
        word = "in" if way.in_time else "NOT in"
        click.echo(f"{word} time: it may take {duration(report.deadline_seconds)}")
    for text in report.warnings:
        click.echo(f"warns: {text}")
    rate = report.rate
    speed = f"{rate.rows_per_second:,.{0 if rate.rows_per_second >= 10 else 3}f}"
    click.echo(f"a device: {speed} rows/s, by {rate.source}")
    print_table(
        ["stage", "takes", "share", "nights"],
        [
            [s.stage, duration(s.seconds), f"{s.share:.0%}", str(s.nights)]
            for s in report.stages
        ],
    )
    if report.others:
        print_table(
            ["way", "devices", "takes", "at most", "cost", "chunks done again"],
            [_row(one) for one in (way, *report.others)],
        )
    click.echo(f"bottleneck: {report.bottleneck}; {report.chunks:,} chunks")
    for one in report.advice:
        click.echo(f"do: {one.text}" + (f": {one.command}" if one.command else ""))
    if report.left_out:
        click.echo(f"left out: {', '.join(report.left_out)}")
    if report.off_by_share is None:
        click.echo(
            f"how far off such plans are: batch-assets plan {report.pipeline} --check"
        )
    else:
        click.echo(
            f"such plans were off by {report.off_by_share:.0%} in the median of "
            f"{report.checked_nights} nights"
        )


def print_check(report: "CheckReport") -> None:
    """Print how far off plans of past nights were."""
    print_table(
        ["day", "rows", "planned", "took", "off by", "from nights"],
        [
            [
                night.day,
                f"{night.rows:,}",
                duration(night.predicted_seconds),
                duration(night.actual_seconds),
                f"{night.error_share:+.0%}",
                str(night.nights),
            ]
            for night in report.nights
        ],
    )
    for stage in report.stages:
        click.echo(f"{stage.stage} was off by {stage.off_by_share:.0%} in the median")
    between = ""
    if report.low_share is not None and report.high_share is not None:
        between = f", {report.low_share:+.0%} to {report.high_share:+.0%}"
    click.echo(
        f"plans of {report.pipeline} were off by {report.off_by_share or 0:.0%} in the "
        f"median of {len(report.nights)} nights{between}; it is kept, and widens the next"
    )
    if report.left_out:
        click.echo(
            f"left out, as they did not run in one go: {', '.join(report.left_out)}"
        )


def _row(way: "Option") -> list[str]:
    return [
        way.name,
        f"{way.devices:,}",
        duration(way.seconds),
        duration(way.high),
        "-" if way.cost is None else f"{way.cost:,.2f}",
        f"{way.redone_share:.1%}",
    ]


def _cost(way: "Option") -> str:
    if way.cost is None:
        return ""
    return (
        f", ${way.cost:,.2f} (at most ${way.cost_high:,.2f}) at ${way.price:,.2f} a device "
        "and hour"
    )


def _devices(number: int) -> str:
    return f"{number:,} device{'s' if number > 1 else ''}"


def _hours(seconds: float) -> str:
    """As a book says it: 3.4 hours."""
    return duration(seconds) if seconds < 3600 else f"{seconds / 3600:.1f} hours"
