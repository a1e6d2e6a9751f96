"""`cli.md`: every command, with its arguments and options."""

from collections.abc import Iterator

import click

from batch_assets.cli.main import main
from website.markdown import prose, table


def commands() -> str:
    """Return the page of the command line."""
    parts = ["# The command line\n\nWhat `batch-assets --help` says, of all commands."]
    for name, command in _leaves(main, "batch-assets"):
        context = click.Context(command, info_name=name)
        usage = " ".join(command.collect_usage_pieces(context))
        text = f"## {name}\n\n    {name} {usage}\n\n{prose(command.help)}"
        if options := _options(command, context):
            text += "\n\n" + table(["option", "meaning"], options)
        if command.epilog:
            text += f"\n\n{_example(command.epilog)}"
        parts.append(text)
    return "\n\n".join(parts)


def _leaves(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield name, command
        return
    for child in sorted(command.commands):
        yield from _leaves(command.commands[child], f"{name} {child}")


def _options(command: click.Command, context: click.Context) -> list[list[str]]:
    records = [
        parameter.get_help_record(context)
        for parameter in command.params
        if isinstance(parameter, click.Option)
    ]
    return [[f"`{names}`", prose(text)] for names, text in filter(None, records)]


def _example(epilog: str) -> str:
    """Return an epilog, which is examples line by line, as a block of code."""
    lines = [line.strip() for line in epilog.replace("\b", "").splitlines()]
    return "\n".join(f"    {line}" for line in lines if line)
