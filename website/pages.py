"""Which pages there are. A page is a function without arguments that returns Markdown."""

from collections.abc import Callable

from website.commands import commands
from website.contract_types import contract_types
from website.errors import errors
from website.files import files
from website.metrics import metrics
from website.tables import tables
from website.yaml import yaml

PAGES: dict[str, Callable[[], str]] = {
    "yaml.md": yaml,
    "cli.md": commands,
    "errors.md": errors,
    "types.md": contract_types,
    "tables.md": tables,
    "files.md": files,
    "metrics.md": metrics,
}
NOTE = "<!-- Made from the code by `make reference`: change it there. -->"


def page(name: str) -> str:
    """Return the text of a page as it is committed."""
    title, _, rest = PAGES[name]().partition("\n")
    return f"{title}\n\n{NOTE}\n{rest.rstrip()}\n"
