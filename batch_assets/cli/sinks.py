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
    told = _follow(snapshots_of(pipeline), quiet=as_json)
    if as_json:
        print_json(told)
    exit_unless(all(one["error"] is None for one in told))


@sinks.command("verify")
@click.argument("pipeline", type=PIPELINE)
@as_json
def sinks_verify(pipeline: str, as_json: bool) -> None:
    """Read every row that the sinks of PIPELINE serve back, and compare with the files."""
    from batch_assets.sinks.operations import prove_sinks

    proved = []
    for sink, version in prove_sinks(snapshots_of(pipeline)):
        proved.append({"sink": sink, "version": version})
        say(f"{sink}: every row of {version} is as in its files", as_json)
    if as_json:
        print_json(proved)


@sinks.command("drop")
@click.argument("pipeline", type=PIPELINE)
@click.argument("version", type=VERSION)
@as_json
def sinks_drop(pipeline: str, version: str, as_json: bool) -> None:
    """Remove VERSION from the sinks of PIPELINE; if it is served again, it is loaded anew.

    For a version that `verify` has found wrong: roll back first.
    """
    from batch_assets.sinks.operations import drop_from_sinks

    dropped = []
    for sink in drop_from_sinks(snapshots_of(pipeline), version):
        dropped.append({"sink": sink, "version": version})
        say(f"{sink}: {version} is not there any more", as_json)
    if as_json:
        print_json(dropped)


def tell_sinks(store: "SnapshotStore", *, quiet: bool) -> None:
    """Let the sinks serve what an operator wants served; print what came of each."""
    told = _follow(store, quiet=quiet)
    exit_unless(all(one["error"] is None for one in told))


def _follow(store: "SnapshotStore", *, quiet: bool) -> list[dict[str, str | None]]:
    """Tell each sink, print what came of it, and return the same."""
    from batch_assets.sinks.operations import sync_sinks

    told = []
    for outcome in sync_sinks(store):
        done, error = outcome.result, outcome.error
        version, why = (done.version, done.why) if done else (None, None)
        if done:
            say(f"{outcome.sink}: serves {version}, {why}", quiet)
        else:
            # What is served here is what was asked for; the sink can be told again.
            again = f"try again with: batch-assets sinks follow {store.pipeline}"
            click.echo(f"{outcome.sink}: {error}; {again}", err=True)
        told.append(
            {"sink": outcome.sink, "version": version, "why": why, "error": error}
        )
    return told
