"""`plan`: how long a night will take, on how many devices, and at what cost."""

from typing import TYPE_CHECKING, Any

import click

from batch_assets.cli.exits import exit_unless
from batch_assets.cli.names import PIPELINE
from batch_assets.cli.options import as_json
from batch_assets.cli.printing import print_json
from batch_assets.cli.quantities import ABOVE_0, DURATION, PER_HOUR, ROWS, SHARE

if TYPE_CHECKING:
    from batch_assets.planner.model_alone import ModelRate

DEVICES = click.IntRange(1, 100_000)


@click.command()
@click.argument("pipeline", type=PIPELINE, required=False)
@click.option("--rows", type=ROWS, help="Of the night, as 500M; else the usual ones.")
@click.option("--deadline", type=DURATION, help="How long it may take, as 6h or 1h30m.")
@click.option("--devices", type=DEVICES, help="How many; else the fewest in time.")
@click.option("--device", help="One that it was swept on, or a part of its name: h100.")
@click.option("--batch-rows", type=click.IntRange(1), help="Rows of a batch.")
@click.option("--batch-ms", type=ABOVE_0, help="Milliseconds of a batch on a device.")
@click.option(
    "--rows-per-second", type=ABOVE_0, help="Of the model alone, on a device."
)
@click.option("--price", type=ABOVE_0, help="Dollars of a device for an hour.")
@click.option("--spot", type=SHARE, help="Share of the price that spot saves: 0.7.")
@click.option(
    "--preemptions", type=PER_HOUR, help="How often a device is taken away: 0.05/h."
)
@click.option(
    "--replace-after",
    type=DURATION,
    default="5m",
    show_default=True,
    help="Until another device is there in its place.",
)
@click.option("--check", is_flag=True, help="Plan past nights; say how far off it was.")
@as_json
def plan(pipeline: str | None, check: bool, as_json: bool, **asked: Any) -> None:
    """How long a night of PIPELINE will take, on how many devices, at what cost.

    Without PIPELINE, how long the model alone takes. It ends with 1 if the night is not
    ready within --deadline.
    """
    model = _model(asked)
    if check:
        _check(pipeline, asked, as_json)
    elif pipeline is None:
        _model_alone(model, asked, as_json)
    else:
        _plan(pipeline, model, asked, as_json)


def _model(asked: dict[str, Any]) -> "ModelRate | None":
    """The rate of the model that was given, if one was."""
    from batch_assets.planner.model_alone import ModelRate

    rows, ms = asked.pop("batch_rows"), asked.pop("batch_ms")
    rate = asked.pop("rows_per_second")
    if (rows is None) != (ms is None):
        msg = "--batch-rows and --batch-ms belong together: say both, or neither"
        raise click.UsageError(msg)
    if rows is not None and rate is not None:
        msg = "say --rows-per-second, or --batch-rows and --batch-ms, not both"
        raise click.UsageError(msg)
    if rows is None and rate is None:
        return None
    return ModelRate(rows, ms, rate)


def _check(pipeline: str | None, asked: dict[str, Any], as_json: bool) -> None:
    if pipeline is None:
        msg = "--check needs a PIPELINE, whose past nights are planned"
        raise click.UsageError(msg)
    given = [name for name, value in asked.items() if value is not None]
    if others := [name for name in given if name != "replace_after"]:
        msg = (
            f"--check takes no --{others[0].replace('_', '-')}: nights are as they were"
        )
        raise click.UsageError(msg)
    from batch_assets.cli.plan_words import print_check
    from batch_assets.lake.tables import Lake
    from batch_assets.launch.checked_plans import check_plans
    from batch_assets.launch.project import load_definitions, spec_of
    from batch_assets.root import data_root

    spec = spec_of(load_definitions(), pipeline)
    report = check_plans(Lake(data_root(), spec.name))
    if as_json:
        print_json(report)
    else:
        print_check(report)


def _model_alone(
    model: "ModelRate | None", asked: dict[str, Any], as_json: bool
) -> None:
    if model is None or asked["rows"] is None:
        msg = (
            "without a PIPELINE say --rows and how fast the model is: --batch-rows and "
            "--batch-ms, or --rows-per-second"
        )
        raise click.UsageError(msg)
    if asked["preemptions"] is not None:
        msg = "--preemptions needs a PIPELINE, whose chunks are lost and done again"
        raise click.UsageError(msg)
    from batch_assets.cli.plan_words import print_model_alone
    from batch_assets.planner.model_alone import plan_model_alone

    price = asked["price"]
    if price is not None and asked["spot"] is not None:
        price *= 1 - asked["spot"]
    report = plan_model_alone(
        model, int(asked["rows"]), asked["devices"], asked["deadline"], price
    )
    if as_json:
        print_json(report)
    else:
        print_model_alone(report)
    exit_unless(report.in_time is not False)


def _plan(
    pipeline: str, model: "ModelRate | None", asked: dict[str, Any], as_json: bool
) -> None:
    from batch_assets.cli.plan_words import print_plan
    from batch_assets.launch.planned_night import Asked, plan_night
    from batch_assets.launch.project import load_definitions, spec_of
    from batch_assets.root import data_root

    spec = spec_of(load_definitions(), pipeline)
    rows = asked.pop("rows")
    report = plan_night(
        spec,
        data_root(),
        Asked(
            rows=None if rows is None else int(rows),
            model=model,
            preemptions=asked.pop("preemptions") or 0.0,
            replace_seconds=asked.pop("replace_after"),
            **asked,
        ),
    )
    if as_json:
        print_json(report)
    else:
        print_plan(report)
    exit_unless(report.option.in_time is not False)
