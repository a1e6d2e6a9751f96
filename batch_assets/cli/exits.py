"""How a command ends: with which code, and in one clear line where the user is at fault.

With --json that line is an object on stderr, the last line there, so that stdout holds an
answer or nothing.
"""

import errno
import json
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from typing import IO, Any, Protocol

import click

from batch_assets.errors import BatchAssetsError
from batch_assets.root import data_root

JSON_IS_ASKED = f"{__name__}.json"


class Exit(IntEnum):
    """The codes that a command ends with; they do not change."""

    FINE = 0
    # What was asked for does not hold, or could not be done: what is wrong was said.
    NOT_SO = 1
    # The command was not understood: nothing was begun.
    USAGE = 2
    # A signal ended it, as a shell gives it for Ctrl-C: it goes on when it is run again.
    INTERRUPTED = 130


class Report(Protocol):
    """What came of a run, whatever was run."""

    @property
    def success(self) -> bool: ...
    @property
    def interrupted(self) -> bool: ...


class JsonError(click.ClickException):
    """An error that is shown as an object in one line."""

    def __init__(self, kind: str, message: str, code: int) -> None:
        super().__init__(message)
        self.kind = kind
        self.exit_code = code  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        error = {"kind": self.kind, "message": self.message, "exit": self.exit_code}
        click.echo(json.dumps({"error": error}), file=file, err=file is None)


class Commands(click.Group):
    """A group whose commands end in one clear line where the user is at fault."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Also of a command that is not understood, which has parsed nothing yet.
        ctx.meta[JSON_IS_ASKED] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        as_json = ctx.meta[JSON_IS_ASKED]
        try:
            return super().invoke(ctx)
        except BatchAssetsError as error:
            raise _shown(error, str(error), as_json) from error
        except BrokenPipeError:
            raise  # Whoever reads has enough: click ends quietly.
        except OSError as error:
            raise _shown(error, _of_this_machine(error), as_json) from error
        except click.ClickException as error:
            if not as_json:
                raise
            kind, said = type(error).__name__, error.format_message()
            raise JsonError(kind, said, error.exit_code) from error
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            raise SystemExit(Exit.INTERRUPTED) from None


def exit_as(reports: Iterable[Report]) -> None:
    """End as the runs did: interrupted, failed, or not at all."""
    reports = list(reports)
    if any(report.interrupted for report in reports):
        raise SystemExit(Exit.INTERRUPTED)
    exit_unless(all(report.success for report in reports))


def exit_unless(fine: bool) -> None:
    """End with 1 if something is not fine."""
    if not fine:
        raise SystemExit(Exit.NOT_SO)


def _shown(error: Exception, said: str, as_json: bool) -> click.ClickException:
    if as_json:
        return JsonError(type(error).__name__, said, Exit.NOT_SO)
    return click.ClickException(said)


def _of_this_machine(error: OSError) -> str:
    """What the operating system says, with what to do if it is about `<root>`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error}; make room, then run the same command again"
    from batch_assets.storage import is_local, local

    root, filename = data_root(), error.filename
    if not is_local(root) or not isinstance(filename, str):
        return str(error)
    path = Path(filename).absolute()
    folder = local(root)
    if folder.is_relative_to(path) or path.is_relative_to(folder):
        return f"{error}; <root> is {root}, set BATCH_ASSETS_ROOT to change it"
    return str(error)
