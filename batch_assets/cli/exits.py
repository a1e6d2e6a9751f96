"""How a command ends: with which code, and in one clear line where the user is at fault."""

import errno
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import click

from batch_assets.errors import BatchAssetsError
from batch_assets.root import data_root

# What a shell gives for a command that a signal has interrupted.
INTERRUPTED = 130


class Report(Protocol):
    """What came of a run, whatever was run."""

    @property
    def success(self) -> bool: ...
    @property
    def interrupted(self) -> bool: ...


class Commands(click.Group):
    """A group whose commands end in one clear line where the user is at fault."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BatchAssetsError as error:
            raise click.ClickException(str(error)) from error
        except BrokenPipeError:
            raise  # Whoever reads has enough: click ends quietly.
        except OSError as error:
            raise click.ClickException(_of_this_machine(error)) from error


def exit_as(reports: Iterable[Report]) -> None:
    """End as the runs did: interrupted, failed, or not at all."""
    reports = list(reports)
    if any(report.interrupted for report in reports):
        raise SystemExit(INTERRUPTED)
    exit_unless(all(report.success for report in reports))


def exit_unless(fine: bool) -> None:
    """End with 1 if something is not fine."""
    if not fine:
        raise SystemExit(1)


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
