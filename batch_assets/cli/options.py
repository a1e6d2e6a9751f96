"""The options that several commands have."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from batch_assets.cli.names import DAY

TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S"]

Command = TypeVar("Command", bound=Callable[..., Any])


def in_utc(
    _: click.Context, __: click.Parameter, value: datetime | None
) -> datetime | None:
    """Read an option that is a time in UTC."""
    return value.replace(tzinfo=UTC) if value else None


def because(command: Command) -> Command:
    """Add the options of a command that is recorded: why, and who."""
    by = click.option("--by", help="Who; the user of this machine if left out.")
    return click.option("--why", required=True, help="The reason, kept for good.")(
        by(command)
    )


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
of_day = click.option("--day", required=True, type=DAY, help="YYYY-MM-DD.")
of_channel = click.option(
    "--channel", type=click.Choice(["batch", "online"]), default="batch"
)
