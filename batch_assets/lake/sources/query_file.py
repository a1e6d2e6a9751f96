"""A query's file beside the YAML, and the day in it. It knows no database."""

import re
from pathlib import Path

from batch_assets.errors import SourceError
from batch_assets.lake.places import within
from batch_assets.root import project_folder

# What is no place for a parameter: texts, names, comments, and PostgreSQL's own quotes.
QUOTED = (
    r"[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/"
    r"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$"
)
DAY_OR_QUOTED = re.compile(rf"(?P<quoted>{QUOTED})|\$day\b", re.DOTALL)


def query_text(base: Path, query: str) -> str:
    """Read a query.

    Raises:
        SourceError: there is no such file, it is no text, or it lies out of the project.
    """
    path = within(base / query, project_folder(base), query)
    if not path.is_file():
        msg = f"the query '{query}' is not there: looked for {path}"
        raise SourceError(msg)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise query_failed(path, f"its text is not UTF-8: {error}") from error


def query_failed(path: Path, why: str) -> SourceError:
    """Return the error of a query that can't be run."""
    return SourceError(f"the query {path} can't be run: {why}")


def with_day(text: str, day: str) -> tuple[str, bool]:
    """Return a query with `$day` filled in, a DATE, and whether it was there.

    A parameter would be bound, but a database does not stream what has parameters.
    """
    literal, found = f"CAST('{day}' AS DATE)", False

    def filled(match: re.Match[str]) -> str:
        nonlocal found
        if match["quoted"] is not None:
            return match[0]
        found = True
        return literal

    return DAY_OR_QUOTED.sub(filled, text), found
