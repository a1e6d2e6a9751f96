"""`outcomes`: what really happened, and how good the predictions were."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from batch_assets.cli.console import open_runner
from batch_assets.cli.exits import exit_as
from batch_assets.cli.names import DAY, PIPELINE
from batch_assets.cli.options import as_json
from batch_assets.cli.pipelines import lake_of
from batch_assets.cli.printing import (
    number_of,
    print_json,
    print_messages,
    print_table,
)

if TYPE_CHECKING:
    from batch_assets.launch.reports import OutcomesReport

FIRST = click.option("--from", "first", type=DAY, help="The first of several.")
LAST = click.option("--to", "last", type=DAY, help="The last of them.")


@click.group()
def outcomes() -> None:
    """Take what really happened, and see how good the predictions were."""


@outcomes.command("run")
@click.argument("pipeline", type=PIPELINE)
@click.option("--day", type=DAY, help="One day of predictions, YYYY-MM-DD.")
@FIRST
@LAST
@click.option(
    "--force",
    is_flag=True,
    help="With --day: take what a source without history holds now for an older day.",
)
@as_json
def outcomes_run(
    pipeline: str,
    day: str | None,
    first: str | None,
    last: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Take what happened on one day of PIPELINE, or on several, and judge them by it.

    Each day is a run of the asset `outcomes` and its checks. A day that fails does not
    stop the others.
    """
    from batch_assets.launch.days import days_between

    if (day is None) == (first is None):
        msg = "say either --day, or --from with or without --to"
        raise click.UsageError(msg)
    if force and day is None:
        msg = "--force is for one --day"
        raise click.UsageError(msg)
    reports = []
    with open_runner(pipeline) as (runner, console):
        days = [day] if day else days_between(runner, first or "", last)
        for number, one in enumerate(days, 1):
            where = f"day {number} of {len(days)}"
            with console.status(f"{where}: outcomes of {pipeline} {one}"):
                reports.append(runner.take_outcomes(one, force=force))
            if reports[-1].interrupted:
                break
    if as_json:
        print_json(reports)
    else:
        _print_reports(reports)
    exit_as(reports)


@outcomes.command("show")
@click.argument("pipeline", type=PIPELINE)
@FIRST
@LAST
@click.option("--by", "column", help="A column of `segments`: a line for each value.")
@as_json
def outcomes_show(
    pipeline: str,
    first: str | None,
    last: str | None,
    column: str | None,
    as_json: bool,
) -> None:
    """Print how good the predictions of PIPELINE were, beside what was estimated.

    The estimate, in brackets, is from the scores alone, and is there before anything has
    happened.
    """
    table = lake_of(pipeline).outcome_metrics
    rows = table.read(first or "", last or "9999-12-31").to_pylist()
    rows = [row for row in rows if row["segment_column"] == column]
    if as_json:
        print_json(rows)
        return
    if not rows:
        of = f" by {column}" if column else ""
        click.echo(
            f"nothing is known of {pipeline}{of} in these days: run its nights, then "
            f"`batch-assets outcomes run {pipeline} --from DAY`"
        )
        return
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    lines: dict[tuple[str, str, str], dict[tuple[str, str], dict[str, Any]]] = {}
    for row in rows:
        at = row["day"], row["column"], row["segment"] or ""
        lines.setdefault(at, {})[row["metric"], row["kind"]] = row
    print_table(
        ["day", "output", column or "", "release", "rows", *metrics],
        [
            [*at, found[0]["release"][:12], f"{max(r['rows'] for r in found):,}"]
            + [_cell(cells, metric) for metric in metrics]
            for at, cells in sorted(lines.items())
            for found in [list(cells.values())]
        ],
    )


def _cell(cells: dict[tuple[str, str], dict[str, Any]], metric: str) -> str:
    came, said = cells.get((metric, "realised")), cells.get((metric, "estimated"))
    text = f"{came['value']:.4f}" if came else "-"
    return f"{text} ({said['value']:.4f})" if said else text


def _print_reports(reports: Sequence["OutcomesReport"]) -> None:
    metrics = list(dict.fromkeys(name for one in reports for name in one.metrics))
    print_table(
        ["day", "predicted", "known", "checks passed", *metrics],
        [
            [
                one.day,
                number_of(one.predicted_rows),
                number_of(one.known_rows),
                f"{one.checks_passed} of {one.checks}",
                *(
                    f"{one.metrics[name]:.4f}" if name in one.metrics else "-"
                    for name in metrics
                ),
            ]
            for one in reports
        ],
    )
    print_messages(reports)
