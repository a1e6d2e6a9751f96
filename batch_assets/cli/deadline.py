"""`deadline`: by when a pipeline is to be served, and whether it will be."""

from typing import TYPE_CHECKING

import click

from batch_assets.cli.console import open_runner
from batch_assets.cli.exits import exit_unless
from batch_assets.cli.names import PIPELINE
from batch_assets.cli.options import as_json
from batch_assets.cli.printing import print_json, print_table

if TYPE_CHECKING:
    from batch_assets.launch.deadline import DeadlineReport


@click.command()
@click.argument("pipeline", type=PIPELINE)
@as_json
def deadline(pipeline: str, as_json: bool) -> None:
    """By when PIPELINE is to be served, whether it will be, and what its stages take.

    It ends with 1 if the deadline of the day that is due is at risk, or missed.
    """
    from datetime import UTC, datetime

    from batch_assets.launch.deadline import deadline_report

    with open_runner(pipeline) as (runner, _):
        report = deadline_report(runner, datetime.now(UTC))
    if as_json:
        print_json(report)
    else:
        _print_report(report)
    exit_unless(all(one.kind in ("fine", "unknown") for one in report.statuses))


def _print_report(report: "DeadlineReport") -> None:
    from zoneinfo import ZoneInfo

    from batch_assets.planner.status import duration

    zone = ZoneInfo(report.timezone)
    for status in report.statuses:
        click.echo(f"{status.kind.replace('_', ' ')}: {status.message}")
        if status.next_command:
            click.echo(f"next: {status.next_command}")
    if not report.statuses:
        click.echo(f"no day of {report.pipeline} is due")
    if after := report.next_night:
        at = after.expected_ready_at
        ready = (
            f"expected to be served at {at.astimezone(zone):%H:%M}"
            if at
            else "when it will be served can't be estimated yet"
        )
        if after.low and after.high:
            low, high = (one.astimezone(zone) for one in (after.low, after.high))
            ready += f" ({low:%H:%M} to {high:%H:%M})"
        click.echo(
            f"{after.day} begins at {after.begins.astimezone(zone):%Y-%m-%d %H:%M %Z}, "
            f"{ready}; to be served by "
            f"{after.deadline.astimezone(zone):%Y-%m-%d %H:%M %Z}"
        )
    if report.off_by_seconds is not None:
        click.echo(
            f"estimates at the begin of a night were off by "
            f"{duration(report.off_by_seconds)} in the median of the last {report.nights}"
        )
    if report.stages:
        print_table(
            ["stage", "usually takes", "nights"],
            [[s.stage, duration(s.seconds), str(s.nights)] for s in report.stages],
        )
