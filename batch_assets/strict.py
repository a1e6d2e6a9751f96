"""The base of every model that is written in YAML or on disk, and unions told by `kind`.

It imports nothing of this project.
"""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, WithJsonSchema

# What names a folder, a column of SQL and an asset at once.
NAME = r"^[a-z][a-z0-9_]*$"


class StrictModel(BaseModel):
    """A frozen model without room for misspelt fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def kinds_of(union: Any) -> dict[str, type[Any]]:
    """Return the models of a union by the one value that each allows as its `kind`."""
    models = get_args(union)
    return {get_args(m.model_fields["kind"].annotation)[0]: m for m in models}


def kinds_schema(kinds: Mapping[str, type[BaseModel]]) -> WithJsonSchema:
    """Return the JSON schema of one of several kinds, told by its `kind`.

    As a plain union, a validator of the YAML could only say that none fits.
    """
    return WithJsonSchema(
        {
            "type": "object",
            "properties": {"kind": {"enum": list(kinds)}},
            "required": ["kind"],
            "allOf": [
                {
                    "if": {"properties": {"kind": {"const": kind}}},
                    "then": model.model_json_schema(),
                }
                for kind, model in kinds.items()
            ],
        }
    )
