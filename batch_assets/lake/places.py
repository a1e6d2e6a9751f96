"""Where a path that a YAML names may lead: into its project, and no further.

Beside the project it may lead into `<root>`, if that is a directory, and where this
machine's owner says by `BATCH_ASSETS_DATA`: folders with `:` between them. Links are
followed. It opens nothing.
"""

import os
from functools import lru_cache
from glob import has_magic
from pathlib import Path

from batch_assets.errors import SourceError
from batch_assets.root import ROOT, data_root
from batch_assets.storage import is_local, local

DATA = "BATCH_ASSETS_DATA"


def within(path: Path, project: Path, named: str) -> Path:
    """Return a path as it is, if it lies where a YAML may lead.

    Args:
        path: of a file or folder; it need not be there.
        project: the folder of the project.
        named: what the YAML says, for the error.

    Raises:
        SourceError: it lies elsewhere, or is no path; nothing was opened.
    """
    try:
        resolved = path.resolve()
    # A name with a zero in it, or links in a circle.
    except (OSError, RuntimeError, ValueError) as error:
        msg = f"{named!r} is the path of nothing: {error}"
        raise SourceError(msg) from error
    if not any(resolved.is_relative_to(folder) for folder in _folders(project)):
        to = "" if resolved == path else f", which is {resolved}"
        msg = (
            f"'{named}' leads out of the project to {path}{to}. A YAML reads what lies in "
            f"{project.resolve()}; nothing was opened. If this machine is to read it, name "
            f"its folder in the environment variable {DATA}"
        )
        raise SourceError(msg)
    return path


def pattern_within(pattern: str, project: Path) -> None:
    """Refuse a glob that begins elsewhere, before a folder is looked through for it.

    Raises:
        SourceError: as `within`.
    """
    plain: list[str] = []
    for part in Path(pattern).parts:
        if has_magic(part):
            break
        plain.append(part)
    within(project.joinpath(*plain), project, pattern)


def _folders(project: Path) -> tuple[Path, ...]:
    return _resolved(
        str(project), os.environ.get(DATA, ""), os.environ.get(ROOT), os.getcwd()
    )


@lru_cache(maxsize=64)
def _resolved(
    project: str, named: str, _root: str | None, _here: str
) -> tuple[Path, ...]:
    """The folders, links followed; by all that they depend on, as a day has many files."""
    root = data_root()
    folders = [Path(project), *([local(root)] if is_local(root) else [])]
    folders += [Path(name).expanduser() for name in named.split(os.pathsep) if name]
    return tuple(folder.resolve() for folder in folders)
