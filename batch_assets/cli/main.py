"""`batch-assets`: what a person types. Each command resolves, calls, and prints.

A command imports what it needs when it runs, so that a lookup does not wait for Dagster
and torch.
"""

import click

from batch_assets.cli.alerts import alerts
from batch_assets.cli.books import books
from batch_assets.cli.dead_letters import dead_letters
from batch_assets.cli.deadline import deadline
from batch_assets.cli.demo import demo
from batch_assets.cli.denylist import denylist
from batch_assets.cli.exits import Commands
from batch_assets.cli.explain import explain
from batch_assets.cli.lookup import lookup
from batch_assets.cli.outcomes import outcomes
from batch_assets.cli.publish import publish
from batch_assets.cli.releases import release
from batch_assets.cli.report import report
from batch_assets.cli.run import run
from batch_assets.cli.serve import serve
from batch_assets.cli.sinks import sinks
from batch_assets.cli.snapshots import snapshot
from batch_assets.cli.sweep import sweep


@click.group(cls=Commands)
@click.version_option(package_name="batch-assets")
def main() -> None:
    """Score a whole user base every night, and prove that it was done right."""


for command in (
    alerts,
    books,
    dead_letters,
    deadline,
    demo,
    denylist,
    explain,
    lookup,
    outcomes,
    publish,
    release,
    report,
    run,
    serve,
    sinks,
    snapshot,
    sweep,
):
    main.add_command(command)


if __name__ == "__main__":
    main()
