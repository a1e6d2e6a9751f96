"""`publish`: serve a day that is scored, and let it pass gates that are shut if need be."""

from datetime import datetime
from typing import TYPE_CHECKING

import click

from batch_assets.cli.console import open_runner
from batch_assets.cli.exits import exit_as
from batch_assets.cli.names import DAY, PIPELINE
from batch_assets.cli.options import TIMES, as_json, in_utc
from batch_assets.cli.pipelines import lake_of
from batch_assets.cli.printing import print_json, print_messages, time_of
from batch_assets.errors import LakeError

if TYPE_CHECKING:
    from batch_assets.lake.overrides import Override
    from batch_assets.lake.tables import Lake
    from batch_assets.launch.reports import NightReport


@click.command()
@click.argument("pipeline", type=PIPELINE)
@click.argument("day", required=False, type=DAY)
@click.option(
    "--override", "gates", multiple=True, help="A gate that the day passes though shut."
)
@click.option("--why", help="With --override: the reason, kept for good.")
@click.option("--by", help="With --override: who; this machine's user if left out.")
@click.option(
    "--until",
    type=click.DateTime(TIMES),
    callback=in_utc,
    help="With --override: when it ends, UTC.",
)
@as_json
def publish(
    pipeline: str,
    day: str | None,
    gates: tuple[str, ...],
    why: str | None,
    by: str | None,
    until: datetime | None,
    as_json: bool,
) -> None:
    """Serve a DAY of PIPELINE that is validated or scored; the newest if left out.

    Every gate is judged again. One that is shut stops the day, unless --override names
    it: the version bears who, why and until when, each reader says so, and takes it for
    stale when the override ends. What proves that no row was lost, or which release
    scored, can't be overridden.
    """
    if gates and not (why and until):
        msg = "--override takes --why and --until: a reason, and when it ends"
        raise click.UsageError(msg)
    if not gates and (why or by or until):
        msg = "--why, --by and --until belong to --override"
        raise click.UsageError(msg)
    lake = lake_of(pipeline)
    day = day or _newest(lake)
    with open_runner(pipeline) as (runner, console):
        runner.must_have(day)
        given = _override(lake, day, gates, why, by, until) if why and until else []
        with console.status(f"publish: {pipeline} {day}"):
            report = runner.publish(day, scored=bool(lake.predictions.paths(day)))
    if as_json:
        overrides = [one.model_dump(mode="json") for one in given]
        print_json({**vars(report), "overrides": overrides})
    else:
        _print(pipeline, report, given)
    exit_as([report])


def _newest(lake: "Lake") -> str:
    days = lake.validated_features.rows_by_day()
    if not days:
        msg = f"{lake.pipeline} has no day that is validated: run a night of it first"
        raise LakeError(msg)
    return max(days)


def _override(
    lake: "Lake",
    day: str,
    gates: tuple[str, ...],
    why: str,
    by: str | None,
    until: datetime,
) -> "list[Override]":
    from batch_assets.lake.overrides import Overrides
    from batch_assets.quality.gates import must_be_overridable

    for gate in gates:
        must_be_overridable(gate)
    overrides = Overrides(lake.folder)
    return [
        overrides.record(day, gate, why=why, until=until, by=by)
        for gate in dict.fromkeys(gates)
    ]


def _print(pipeline: str, report: "NightReport", given: "list[Override]") -> None:
    for one in given:
        click.echo(
            f"{one.gate} of {one.day} is overridden by {one.by} until "
            f"{time_of(one.until)}: {one.why}"
        )
    if report.version:
        click.echo(f"{pipeline} {report.day}: {report.served_why}")
        click.echo(f"served now: {report.served_version or 'nothing'}")
    print_messages([report])
