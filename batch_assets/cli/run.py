"""`run`: one night of a pipeline, or those of several days, through Dagster."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from batch_assets.cli.collector import uncollected
from batch_assets.cli.console import open_runner
from batch_assets.cli.engine_kind import EngineKind
from batch_assets.cli.exits import Exit, exit_as
from batch_assets.cli.names import DAY, PIPELINE
from batch_assets.cli.options import as_json
from batch_assets.cli.printing import (
    number_of,
    print_json,
    print_messages,
    print_table,
)

if TYPE_CHECKING:
    from batch_assets.launch.reports import DayOutcome, NightReport


@click.command()
@click.argument("pipeline", type=PIPELINE)
@click.option("--day", type=DAY, help="One day, YYYY-MM-DD.")
@click.option("--from", "first", type=DAY, help="The first of several days.")
@click.option(
    "--to",
    "last",
    type=DAY,
    help="The last; the newest that has ended if left out.",
)
@click.option(
    "--parallel",
    type=click.IntRange(1),
    default=1,
    help="With --from: how many days are scored at a time, each in a process; 1.",
)
@click.option(
    "--engine",
    type=EngineKind(),
    help="Where this night is validated and scored: local, ray or spark; as the YAML "
    "says if left out.",
)
@click.option(
    "--force",
    is_flag=True,
    help="With --day: take what a source without history holds now for an older day.",
)
@as_json
def run(
    pipeline: str,
    day: str | None,
    first: str | None,
    last: str | None,
    parallel: int,
    engine: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Run one night of PIPELINE, or those of several days, through Dagster.

    A day is its assets and its checks. Of several, one that fails does not stop the
    others, and what is done is not done again: run the same command after whatever
    went wrong.
    """
    if (day is None) == (first is None):
        msg = "give either --day, or --from with or without --to"
        raise click.UsageError(msg)
    if force and day is None:
        msg = "--force is for one --day: each such day is marked, and meant by itself"
        raise click.UsageError(msg)
    if first is not None:
        _run_range(pipeline, first, last, parallel, engine, as_json)
        return
    if last or parallel > 1:
        msg = "--to and --parallel belong to --from; --day is one day"
        raise click.UsageError(msg)
    reports = run_nights(pipeline, [day or ""], engine, force=force)
    if as_json:
        print_json(reports[0])
    else:
        print_nights(reports)
    exit_as(reports)


def run_nights(
    pipeline: str,
    days: Sequence[str],
    engine: str | None = None,
    *,
    force: bool = False,
) -> list["NightReport"]:
    """Run nights one after the other, until a signal interrupts."""
    reports = []
    with open_runner(pipeline) as (runner, console):
        for number, day in enumerate(days, 1):
            where = f"night {number} of {len(days)}" if len(days) > 1 else "night"
            with console.status(f"{where}: {pipeline} {day}"):
                report = runner.run_night(day, engine, force=force)
            reports.append(report)
            if report.interrupted:
                break
            if not console.is_terminal:
                state = "done" if report.success else "FAILED"
                click.echo(f"{where}: {pipeline} {day} {state}", err=True)
    return reports


def _run_range(
    pipeline: str,
    first: str,
    last: str | None,
    parallel: int,
    engine: str | None,
    as_json: bool,
) -> None:
    """Run several days, with a line for each when it is over."""
    with uncollected():
        from batch_assets.launch.days import days_between, run_days

    if last is not None and last < first:
        msg = f"--to {last} is before --from {first}; the first day comes first"
        raise click.UsageError(msg)
    outcomes: list[DayOutcome] = []
    with open_runner(pipeline) as (runner, console):
        days = days_between(runner, first, last)
        nights = run_days(runner, days, engine=engine, parallel=parallel)
        for number, day in enumerate(days, 1):
            with console.status(f"day {number} of {len(days)}: {pipeline} {day}"):
                outcome = next(nights, None)
            if outcome is None:  # A signal ended it between two days.
                break
            outcomes.append(outcome)
            _print_day(outcome, err=as_json)
    if as_json:
        print_json(
            [
                {"state": o.state, "seconds": o.seconds, **vars(o.report)}
                for o in outcomes
            ]
        )
    _print_range(pipeline, outcomes, len(days), err=as_json)
    if len(outcomes) < len(days):
        raise SystemExit(Exit.INTERRUPTED)
    exit_as(outcome.report for outcome in outcomes)


def print_nights(reports: Iterable["NightReport"]) -> None:
    """Print a table of nights, and what went wrong in them."""
    print_table(
        [
            "day",
            "rows in",
            "quarantined",
            "scored",
            "dead letters",
            "checks passed",
            "rows/s",
            "snapshot version",
        ],
        [
            [
                r.day,
                number_of(r.raw_rows),
                number_of(r.quarantined_rows),
                number_of(r.scored_rows),
                number_of(r.dead_letters),
                f"{r.checks_passed} of {r.checks}",
                "unchanged" if r.unchanged else number_of(r.rows_per_second),
                r.version or "-",
            ]
            for r in reports
        ],
    )
    print_messages(reports)


def _print_day(outcome: "DayOutcome", *, err: bool) -> None:
    """Print one line of a day in a range: its state, its rows, its seconds."""
    report = outcome.report
    rows = number_of(report.raw_rows)
    state = outcome.state.upper() if report.errors else outcome.state
    line = f"{report.day}  {state:<11}{rows:>15} rows{outcome.seconds:>9,.1f} s"
    reasons = report.errors[:1] or report.warnings[:1]
    messages = [reason.splitlines()[0] for reason in reasons]
    click.echo("  ".join([line, *messages]), err=err)


def _print_range(
    pipeline: str, outcomes: Sequence["DayOutcome"], days: int, *, err: bool
) -> None:
    """Print what came of a range of days, and what is left to do."""
    count = Counter(outcome.state for outcome in outcomes)
    parts = [f"{count['done'] + count['unchanged']:,} of {days:,} days are done"]
    parts += [f"{count['unchanged']:,} of them unchanged"] if count["unchanged"] else []
    parts += [f"{count['failed']:,} failed"] if count["failed"] else []
    click.echo(f"{pipeline}: {', '.join(parts)}", err=err)
    for outcome in outcomes:
        for text in outcome.report.errors[:1]:
            click.echo(f"{outcome.report.day} {outcome.state}: {text}", err=True)
    if count["failed"]:
        click.echo(
            "Mend what they name, then run the same command again: days that are done "
            "are not done again.",
            err=True,
        )
    elif count["done"] + count["unchanged"] < days:
        click.echo(
            "Interrupted. Run the same command again: it goes on where it was.",
            err=True,
        )
