"""`batch-assets`: what a person types. Each command resolves, calls, and prints.

A command is imported when it is asked for, and imports what it needs when it runs, so
that a lookup does not wait for Dagster and torch.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import click

from batch_assets.cli.examples import with_examples
from batch_assets.cli.exits import Commands

# Each command by the module that it is in, where it has the name behind the colon.
HOMES = {
    "alerts": "alerts:alerts",
    "books": "books:books",
    "dead-letters": "dead_letters:dead_letters",
    "deadline": "deadline:deadline",
    "demo": "demo:demo",
    "denylist": "denylist:denylist",
    "doctor": "doctor:doctor",
    "explain": "explain:explain",
    "init": "init:init",
    "lookup": "lookup:lookup",
    "outcomes": "outcomes:outcomes",
    "plan": "plan:plan",
    "publish": "publish:publish",
    "release": "releases:release",
    "report": "report:report",
    "run": "run:run",
    "serve": "serve:serve",
    "sinks": "sinks:sinks",
    "snapshot": "snapshots:snapshot",
    "sweep": "sweep:sweep",
}


class OnDemand(Mapping[str, click.Command]):
    """Commands by their names, each imported when it is first asked for."""

    def __getitem__(self, name: str) -> click.Command:
        module, _, attribute = HOMES[name].partition(":")
        found = getattr(import_module(f"batch_assets.cli.{module}"), attribute)
        assert isinstance(found, click.Command)
        return with_examples(found, name)

    def __iter__(self) -> Iterator[str]:
        return iter(HOMES)

    def __len__(self) -> int:
        return len(HOMES)


_commands: Any = OnDemand()  # click wants one that could be added to.


@click.group(cls=Commands, commands=_commands)
@click.version_option(package_name="batch-assets")
def main() -> None:
    """Score a whole user base every night, and prove that it was done right."""
