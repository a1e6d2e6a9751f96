"""Tables of Markdown, and Python's types in a reader's words."""

import inspect
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

WORDS = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    type(None): "none",
    Any: "anything",
    date: "day",
    datetime: "time",
}
LISTS = (list, tuple, set, frozenset, Sequence, Iterable)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a bar in a cell is written so that it ends no cell."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
        for row in lines
    )


def prose(text: str | None) -> str:
    """Return a docstring or a description in one paragraph of Markdown."""
    return re.sub(r"\s+", " ", inspect.cleandoc(text or "")).strip()


def paragraphs(text: str | None) -> str:
    """Return what a docstring says before it lists arguments and errors."""
    body = inspect.cleandoc(text or "")
    return re.split(r"^(?:Attributes|Args|Raises|Returns):", body, flags=re.M)[
        0
    ].strip()


def in_words(annotation: Any) -> str:
    """Return what may be written where a type is asked for."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return in_words(inner[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(in_words(each) for each in inner))
    if origin in LISTS:
        kinds = [each for each in inner if each is not Ellipsis]
        return "list of " + " and ".join(dict.fromkeys(map(in_words, kinds)))
    if origin in (dict, Mapping):
        return f"{in_words(inner[0])} to {in_words(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[`{annotation.__name__}`](#{annotation.__name__.lower()})"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(f"`{each.value}`" for each in annotation)
    return WORDS.get(annotation) or f"`{getattr(annotation, '__name__', annotation)}`"


def fields_of(model: type[BaseModel]) -> str:
    """Return a table of a model's fields: what may be written, the default, the meaning."""
    return table(
        ["field", "what may be written", "default", "meaning"],
        (
            [
                f"`{name}`",
                in_words(field.annotation),
                _default(field),
                prose(field.description),
            ]
            for name, field in model.model_fields.items()
        ),
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**needed**"
    value = field.default
    if value is PydanticUndefined and field.default_factory:
        value = field.default_factory()  # type: ignore[call-arg]
    if isinstance(value, BaseModel):
        return "its own"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value or value == 0 else "none"
