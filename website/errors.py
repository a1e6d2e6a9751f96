"""`errors.md`: what can go wrong, and by which name."""

from batch_assets import errors as tree
from batch_assets.errors import BatchAssetsError
from website.markdown import prose, table


def errors() -> str:
    """Return the page of the errors."""
    return (
        "# Errors\n\nEach says what was found, what was expected, what state things are in "
        "and what to do next. A program tells them apart by their class, of "
        "`batch_assets.errors`: whoever catches one catches all that are of its kind. A command "
        "ends with 1 for each of them ([cli.md](../cli.md)), and with `--json` the error's code "
        "is `kind` of the last line: the name in the first column, which does not change.\n\n"
        + table(
            ["error and code", "is a", "when"],
            (
                [
                    f"`{each.__name__}`",
                    f"`{each.__base__.__name__}`",
                    prose(each.__doc__),
                ]
                for each in vars(tree).values()
                if isinstance(each, type)
                and issubclass(each, BatchAssetsError)
                and each.__base__
            ),
        )
    )
