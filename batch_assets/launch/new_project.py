"""Write a project of one's own: whole, with a pipeline on generated data that runs.

Its files lie in `own_project/`, each with `.txt` behind its name, so that nothing takes
them for a part of this package. It imports nothing of Dagster.
"""

import keyword
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from batch_assets.errors import ConfigError

TEMPLATES = Path(__file__).parent / "own_project"
PACKAGE = "package"
# What a folder may hold before, as none of it is written here.
HARMLESS = {".git", ".venv", "venv", ".idea", ".vscode", ".DS_Store", "LICENSE"}


@dataclass(frozen=True)
class NewProject:
    """What was written: the package, and the files relative to the folder, sorted."""

    folder: Path
    package: str
    files: tuple[str, ...]


def package_name(folder: Path, name: str | None = None) -> str:
    """Return how the package of a project is called: as its folder, if that can be.

    Raises:
        ConfigError: it can't be imported by that name, or something else is.
    """
    asked = name or re.sub(r"[^a-z0-9_]+", "_", folder.name.lower()).strip("_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", asked) or keyword.iskeyword(asked):
        msg = (
            f"'{asked}' is no name for a package: expected lower-case letters, digits and "
            "_, a letter first. Say one with --name; nothing was written"
        )
        raise ConfigError(msg)
    there = find_spec(asked)
    # Of a mere folder that is stood beside, there is a spec without an origin.
    if asked in sys.stdlib_module_names or (there and there.origin):
        msg = (
            f"a package '{asked}' is here already, and the project's own would hide it or "
            "be hidden by it. Say another name with --name; nothing was written"
        )
        raise ConfigError(msg)
    return asked


def write_project(folder: Path, name: str | None = None) -> NewProject:
    """Write a project into a folder, which is made if it is not there.

    Args:
        folder: empty, but for what every folder may have, such as `.git`.
        name: of the package; that of the folder if left out.

    Raises:
        ConfigError: there is something in it, or the package can't have that name;
            nothing was written.
    """
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        msg = f"{folder} is a file, expected a folder; nothing was written"
        raise ConfigError(msg)
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if left := sorted(found - HARMLESS):
        shown = ", ".join(left[:5]) + (", …" if len(left) > 5 else "")
        msg = (
            f"{folder} is not empty, and nothing is overwritten: it holds {shown}. Name "
            "an empty folder, or move these away; nothing was written"
        )
        raise ConfigError(msg)
    package = package_name(folder, name)
    written = []
    for path, text in _files(package):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
        written.append(path)
    return NewProject(folder, package, tuple(sorted(written)))


def _files(package: str) -> Iterator[tuple[str, str]]:
    """Each file of a project: its path in it, and its text."""
    for template in sorted(TEMPLATES.rglob("*.txt")):
        first, *more = template.relative_to(TEMPLATES).with_suffix("").parts
        if (first, more) == ("gitignore", []):
            first = ".gitignore"
        if first == PACKAGE:
            first = package
        text = template.read_text(encoding="utf-8").replace("@PROJECT@", package)
        yield "/".join([first, *more]), text
