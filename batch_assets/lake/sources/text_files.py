"""What sources of text files have in common: their columns' types are told, not guessed.

A type is the one that the source declares, or the one that the rows are wanted with. It
knows no kind of file.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import pyarrow as pa
from pydantic import AfterValidator, Field

from batch_assets.errors import SourceError
from batch_assets.lake.sources.base import ReadContext
from batch_assets.lake.sources.files import FilesSource

# In the words of a contract; `list of float32` is a list of them.
TYPES = {
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
}
LIST = "list of "
# A row is whole in a block: this is the longest that there may be.
BLOCK_BYTES = 8 << 20


def _known(word: str) -> str:
    if word.removeprefix(LIST) not in TYPES:
        words = ", ".join(TYPES)
        msg = (
            f"'{word}' is no type of a column; expected one of {words}, or '{LIST}' one"
        )
        raise ValueError(msg)
    return word


class TextFilesSource(FilesSource):
    """Text files whose glob may hold `{{ day }}`, and the types of their columns."""

    columns: dict[str, Annotated[str, AfterValidator(_known)]] = Field(
        default_factory=dict,
        description="The type of each column that the contract does not tell of, in the "
        "contract's words; of side tables and outcomes, of all.",
    )

    def identity(self, context: ReadContext) -> dict[str, Any]:
        """Return each file's sha256, and how its text is read."""
        how = self.model_dump(mode="json", exclude={"kind", "glob", "history", "deps"})
        return super().identity(context) | {"read_as": how}

    def types(self, context: ReadContext) -> Mapping[str, pa.DataType]:
        """Return the type of each column that is known of.

        Raises:
            SourceError: nothing tells a type.
        """
        wanted = context.columns or pa.schema([])
        declared = {name: _type_of(word) for name, word in self.columns.items()}
        types = {field.name: field.type for field in wanted} | declared
        if not types:
            msg = (
                f"nothing tells the types of the columns of {self.glob}, and none is "
                "guessed: declare them in the YAML, as in `columns: {item: int64}`"
            )
            raise SourceError(msg)
        return types


def _type_of(word: str) -> pa.DataType:
    one = TYPES[word.removeprefix(LIST)]
    return pa.list_(one) if word.startswith(LIST) else one
