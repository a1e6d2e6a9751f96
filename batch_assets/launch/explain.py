"""Explain why definitions can't be loaded: the file, the field, what it got and expected."""

import difflib
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from batch_assets.spec import DECLARED

FIELDS = [name for model in DECLARED for name in model.model_fields]


def explained(error: BaseException) -> str:
    """Say what is wrong with the definitions, a line for each field at fault."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    invalid = [cause for cause in causes if isinstance(cause, ValidationError)]
    if not invalid:
        return (
            f"the definitions can't be loaded; nothing was run. {causes[-1]}\n"
            "`dg check defs` shows where."
        )
    lines = ["a pipeline's YAML is wrong; nothing was run."]
    for details in invalid[0].errors(include_url=False):
        # The outermost has the file and the line in its location.
        where = ".".join(str(step) for step in details["loc"]).strip("`")
        lines.append(f"- {where}: {_one_line(details)}")
    return "\n".join(lines)


def _one_line(details: ErrorDetails) -> str:
    message = details["msg"].removeprefix("Value error, ")
    got: Any = details["input"]
    if "_env" in str(details["loc"][-1]) and details["type"] != "extra_forbidden":
        # Somebody may have written the secret itself where its variable belongs.
        return f"{message}; it names an environment variable, and holds no secret"
    if details["type"] == "extra_forbidden":
        field = str(details["loc"][-1]).partition(" at ")[0].rpartition(".")[2]
        close = difflib.get_close_matches(field, FIELDS, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        return f"there is no field of that name{hint}"
    if details["type"] == "missing":
        return "this field is required, got nothing"
    if isinstance(got, dict) or f"'{got}'" in message:
        return message
    return f"{message}, got {got!r}"
