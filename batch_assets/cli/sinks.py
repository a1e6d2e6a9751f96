"""`sinks`: the remote stores that serve a snapshot, too."""

from typing import TYPE_CHECKING

import click

from batch_assets.cli.exits import exit_unless
from batch_assets.cli.names import PIPELINE, VERSION
from batch_assets.cli.options import as_json
from batch_assets.cli.pipelines import snapshots_of
from batch_assets.cli.printing import print_json, print_table, say, time_of

if TYPE_CHECKING:
    from batch_assets.snapshots.store import SnapshotStore


@click.group()
def sinks() -> None:
    """The remote stores that serve a snapshot, too."""


@sinks.command("list")
@click.argument("pipeline", type=PIPELINE)
@as_json
def sinks_list(pipeline: str, as_json: bool) -> None:
    """What each sink of PIPELINE holds and serves, and what is served here."""
    from batch_assets.sinks.operations import sink_statuses

    store = snapshots_of(pipeline)
    served_here = store.served()
    statuses = sink_statuses(store)
    copies = [copy for status in statuses for copy in status.copies]
    if as_json:
        print_json({"served_here": served_here, "sinks": copies})
    else:
        print_table(
            ["sink", "version", "rows", "served since", ""],
            [
                [
                    copy.sink,
                    copy.version,
                    f"{copy.rows:,}",
                    time_of(copy.served_at, seconds=True),
                    "served" if copy.served else "",
                ]
                for copy in copies
            ],
        )
        click.echo(f"served here: {served_here or 'nothing'}")
    exit_unless(all(status.served == served_here for status in statuses))


@sinks.command("follow")
@click.argument("pipeline", type=PIPELINE)
@as_json
def sinks_follow(pipeline: str, as_json: bool) -> None:
    """Let each sink of PIPELINE serve what is served here, if it is older, too."""
    tell_sinks(snapshots_of(pipeline), quiet=as_json)


@sinks.command("verify")
@click.argument("pipeline", type=PIPELINE)
def sinks_verify(pipeline: str) -> None:
    """Read every row that the sinks of PIPELINE serve back, and compare with the files."""
    from batch_assets.sinks.operations import prove_sinks

    for sink, version in prove_sinks(snapshots_of(pipeline)):
        click.echo(f"{sink}: every row of {version} is as in its files")


@sinks.command("drop")
@click.argument("pipeline", type=PIPELINE)
@click.argument("version", type=VERSION)
def sinks_drop(pipeline: str, version: str) -> None:
    """Remove VERSION from the sinks of PIPELINE; if it is served again, it is loaded anew.

    For a version that `verify` has found wrong: roll back first.
    """
    from batch_assets.sinks.operations import drop_from_sinks

    for sink in drop_from_sinks(snapshots_of(pipeline), version):
        click.echo(f"{sink}: {version} is not there any more")


def tell_sinks(store: "SnapshotStore", *, quiet: bool) -> None:
    """Let the sinks serve what an operator wants served; print what came of each."""
    from batch_assets.sinks.operations import sync_sinks

    fine = True
    for outcome in sync_sinks(store):
        if outcome.result:
            version, why = outcome.result.version, outcome.result.why
            say(f"{outcome.sink}: serves {version}, {why}", quiet)
        else:
            # What is served here is what was asked for; the sink can be told again.
            fine = False
            again = f"try again with: batch-assets sinks follow {store.pipeline}"
            click.echo(f"{outcome.sink}: {outcome.error}; {again}", err=True)
    exit_unless(fine)
