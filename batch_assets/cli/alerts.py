"""`alerts`: who is told when something goes wrong, and what they were told."""

import click

from batch_assets.cli.exits import exit_unless
from batch_assets.cli.names import PIPELINE
from batch_assets.cli.options import as_json
from batch_assets.cli.printing import print_json, print_table, time_of
from batch_assets.root import data_root


@click.group()
def alerts() -> None:
    """Who is told when something goes wrong, and what they were told."""


@alerts.command("test")
@click.argument("pipeline", type=PIPELINE)
@as_json
def alerts_test(pipeline: str, as_json: bool) -> None:
    """Send a message through every receiver of PIPELINE; say what came of each."""
    from batch_assets.alerts.notifier import Notifier
    from batch_assets.launch.alerts import declared_alerts
    from batch_assets.launch.project import load_definitions

    spec, root = declared_alerts(load_definitions(), pipeline)
    outcomes = Notifier(root, pipeline, spec).test()
    if as_json:
        print_json(outcomes)
    else:
        for outcome in outcomes:
            state = "arrived" if outcome.arrived else "FAILED"
            why = f": {outcome.why}" if outcome.why else ""
            click.echo(f"{outcome.receiver}: {state}{why}")
    exit_unless(all(outcome.arrived for outcome in outcomes))


@alerts.command("look")
@click.argument("pipeline", type=PIPELINE)
@as_json
def alerts_look(pipeline: str, as_json: bool) -> None:
    """Look at PIPELINE once, as Dagster's daemon does every few minutes.

    Is what is served stale, does a sink lag, is there a message that did not arrive? For
    cron, where no daemon runs.
    """
    from batch_assets.launch.alerts import look_once
    from batch_assets.launch.project import load_definitions, open_instance

    with open_instance() as instance:
        said = look_once(load_definitions(), instance, pipeline)
    if as_json:
        print_json({"pipeline": pipeline, "said": said})
    else:
        click.echo(f"{pipeline}: {said}")


@alerts.command("list")
@click.argument("pipeline", type=PIPELINE)
@click.option("--limit", default=50, help="How many of the newest, 0 for all; 50.")
@as_json
def alerts_list(pipeline: str, limit: int, as_json: bool) -> None:
    """What was told of PIPELINE, the newest last, and what came of each message."""
    from batch_assets.alerts.record import AlertRecord

    state, unreadable = AlertRecord(data_root(), pipeline).read()
    still_open = {entry.id for entry in state.open.values()}
    rows = [
        (entry, [d for d in state.deliveries.values() if d.entry is entry])
        for entry in state.messages[-limit:]
    ]
    if as_json:
        print_json(
            [
                {
                    "at": entry.at,
                    "state": entry.message.state,
                    "open": entry.id in still_open,
                    "message": entry.id,
                    "alert": entry.alert,
                    "receivers": {
                        d.receiver: {"state": d.outcome, "why": d.why}
                        for d in deliveries
                    },
                }
                for entry, deliveries in rows
            ]
        )
    else:
        print_table(
            ["noticed", "what", "", "receivers"],
            [
                [
                    time_of(entry.at, seconds=True),
                    entry.message.headline,
                    "open" if entry.id in still_open else "",
                    ", ".join(f"{d.receiver} {d.outcome}" for d in deliveries)
                    or "nobody",
                ]
                for entry, deliveries in rows
            ],
        )
        for _, deliveries in rows:
            for delivery in deliveries:
                if delivery.why:
                    click.echo(f"{delivery.receiver}: {delivery.why}")
    if unreadable:
        click.echo(f"lines that can't be read: {list(unreadable)}", err=True)
    exit_unless(not unreadable)
