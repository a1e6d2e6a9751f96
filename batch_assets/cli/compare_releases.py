"""`release compare`: two releases on the same past days, and which of them was right."""

from datetime import date, timedelta
from typing import TYPE_CHECKING

import click

from batch_assets.cli.console import open_runner
from batch_assets.cli.exits import exit_as
from batch_assets.cli.names import PIPELINE
from batch_assets.cli.options import as_json
from batch_assets.cli.printing import print_json, print_table
from batch_assets.errors import PipelineError
from batch_assets.root import data_root

if TYPE_CHECKING:
    from batch_assets.models.comparisons import Comparison, Difference


def parse_days(_: click.Context, __: click.Parameter, text: str) -> list[str]:
    """Read days: `FIRST..LAST`, or some with commas between."""
    try:
        if ".." in text:
            first, last = (date.fromisoformat(day) for day in text.split(".."))
            span = range((last - first).days + 1)
            days = [str(first + timedelta(days=n)) for n in span]
        else:
            days = sorted({str(date.fromisoformat(day)) for day in text.split(",")})
    except ValueError:
        msg = f"days are FIRST..LAST, or DAY,DAY,..., each YYYY-MM-DD; got '{text}'"
        raise click.BadParameter(msg) from None
    if not days:
        msg = f"the first day comes first, got '{text}'"
        raise click.BadParameter(msg)
    return days


@click.command("compare")
@click.argument("champion")
@click.argument("challenger")
@click.option(
    "--pipeline",
    type=PIPELINE,
    help="Whose rows and outcomes are taken; the only one of the model if left out.",
)
@click.option(
    "--days",
    required=True,
    callback=parse_days,
    help="Days that were scored: FIRST..LAST, or DAY,DAY,...",
)
@as_json
def release_compare(
    champion: str,
    challenger: str,
    pipeline: str | None,
    days: list[str],
    as_json: bool,
) -> None:
    """Compare the releases CHAMPION and CHALLENGER, digests or beginnings, on past days.

    Whichever has not scored a day does so now, into tables of its own; nothing is served.
    With outcomes in the pipeline's YAML it says which of the two was right. The comparison
    is kept, and `release approve --evidence` names it.
    """
    from batch_assets.models.registry import Registry

    with open_runner(pipeline or _pipeline_of(challenger)) as (runner, console):
        many = f"{len(days)} days" if len(days) > 1 else days[0]
        with console.status(f"comparing {champion} and {challenger} on {many}"):
            report = runner.compare_releases(champion, challenger, days)
    for text in report.errors:
        click.echo(f"failed: {text}", err=True)
    if report.comparison is None:
        exit_as([report])
        return
    registry = Registry(data_root())
    found = next(
        comparisons.find(report.comparison)
        for comparisons in map(registry.comparisons, registry.names())
        if report.comparison in comparisons.digests()
    )
    if as_json:
        print_json({"comparison": report.comparison, **found.model_dump(mode="json")})
        return
    _print(found)
    exit_as([report])


def _pipeline_of(digest: str) -> str:
    """The one pipeline of the model that a release is of.

    Raises:
        PipelineError: there is none, or more than one.
    """
    from batch_assets.launch.project import load_definitions, pipelines_of
    from batch_assets.models.registry import Registry

    registry = Registry(data_root())
    models = {
        name
        for name in registry.names()
        if any(known.startswith(digest) for known in registry.digests(name))
    }
    found = pipelines_of(load_definitions(), models)
    if len(found) == 1:
        return found[0]
    msg = (
        f"'{digest}' is of the models {sorted(models) or 'none'}, and these have the "
        f"pipelines {found or 'none'}: say which one with --pipeline"
    )
    raise PipelineError(msg)


def _print(found: "Comparison") -> None:
    rows: dict[str, list[tuple[int, object]]] = {}
    for day in found.days:
        for one in day.agreement:
            rows.setdefault(one.output, []).append((one.rows, one))
    print_table(
        ["output", "days", "rows", "equal", "rank correlation", "PSI", "overlap"],
        [
            [
                output,
                str(len(ones)),
                f"{sum(count for count, _ in ones):,}",
                *(
                    _mean([getattr(one, name) for _, one in ones])
                    for name in ("equal", "rank_correlation", "psi", "overlap")
                ),
            ]
            for output, ones in rows.items()
        ],
    )
    click.echo()
    if found.differences:
        print_table(
            [
                "metric",
                "days",
                "champion",
                "challenger",
                "difference",
                "95 %",
                "better",
            ],
            [_line(one) for one in found.differences],
        )
    speeds = [
        _mean([getattr(day, f"{who}_rows_per_second") for day in found.days], ",.0f")
        for who in ("champion", "challenger")
    ]
    if speeds != ["-", "-"]:
        click.echo(f"rows/s: champion {speeds[0]}, challenger {speeds[1]}")
    click.echo(f"comparison {found.digest[:12]}: {found.finding}")
    click.echo(
        f"approve on it: batch-assets release approve {found.model} "
        f"{found.challenger[:12]} --evidence {found.digest[:12]} --why …"
    )


def _line(one: "Difference") -> list[str]:
    span = "-" if one.low is None else f"{one.low:+.4f} to {one.high:+.4f}"
    return [
        one.metric,
        str(one.days),
        f"{one.champion:.4f}",
        f"{one.challenger:.4f}",
        f"{one.difference:+.4f}",
        span,
        one.better,
    ]


def _mean(values: list[float | None], form: str = ".4f") -> str:
    known = [value for value in values if value is not None]
    return format(sum(known) / len(known), form) if known else "-"
