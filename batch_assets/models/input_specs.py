"""What a model takes beside its features: ids, vectors, sequences and texts, as declared.

Each is a tensor of its own, by its name. Ids are positions in an embedding table: they
come as such, or as the words of a vocabulary whose positions they are turned into. A text
becomes the ids of its tokens. It holds no row, and knows no tokenizer.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

import pyarrow as pa
from pydantic import Field, model_validator

from batch_assets.strict import StrictModel

NAME_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
# A list of more than so many is a fault of whoever wrote it, not a long history.
LONGEST = 100_000
# As many as a manifest can carry: more belong into ids that are numbered already.
MOST_WORDS = 1_000_000

Words = tuple[int, ...] | tuple[str, ...]


class Values(StrictModel):
    """Ids or numbers of one column of the source, and which of them are allowed.

    Attributes:
        name: of the column.
        dtype: of a value: `int64` or `string` of ids, `float32` of numbers.
        size: of ids that are positions already: they are 0 to `size` - 1.
        vocabulary: of other ids: the contract's vocabulary of this name.
        unknown: the position of an id that is in no vocabulary, or of a null; without
            one, such a row is quarantined, or such an element of a sequence left out.
    """

    name: Name
    dtype: Literal["int64", "string", "float32"] = "int64"
    size: int | None = Field(default=None, ge=1)
    vocabulary: Name | None = None
    unknown: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if self.is_float:
            if self.size or self.vocabulary or self.unknown is not None:
                msg = (
                    f"'{self.name}' is float32: size, vocabulary and unknown are of ids"
                )
                raise ValueError(msg)
            return self
        if (self.size is None) == (self.vocabulary is None):
            msg = (
                f"'{self.name}' holds ids: give their size (they are 0 to size - 1), "
                "or the vocabulary that they are words of; one of the two"
            )
            raise ValueError(msg)
        if self.dtype == "string" and self.vocabulary is None:
            msg = f"'{self.name}' holds strings: give the vocabulary of their positions"
            raise ValueError(msg)
        if self.size is not None and self.unknown is not None:
            _position_fits(self.name, self.unknown, self.size)
        return self

    @property
    def is_float(self) -> bool:
        return self.dtype == "float32"

    @property
    def raw_type(self) -> pa.DataType:
        """The type of a value in the source."""
        return {"int64": pa.int64(), "string": pa.string(), "float32": pa.float32()}[
            self.dtype
        ]

    @property
    def type(self) -> pa.DataType:
        """The type of a value as the model gets it: a position, or a number."""
        return pa.float32() if self.is_float else pa.int64()

    def must_fit(self, vocabularies: dict[str, Words]) -> None:
        """Refuse a vocabulary that is not there, or has other words."""
        if self.vocabulary is None:
            return
        words = vocabularies.get(self.vocabulary)
        if words is None:
            msg = (
                f"'{self.name}' has the vocabulary '{self.vocabulary}', and the contract "
                f"has {sorted(vocabularies) or 'none'}"
            )
            raise ValueError(msg)
        word = "string" if isinstance(words[0], str) else "int64"
        if word != self.dtype:
            msg = (
                f"'{self.name}' is {self.dtype}, and the words of the vocabulary "
                f"'{self.vocabulary}' are {word}"
            )
            raise ValueError(msg)
        if self.unknown is not None:
            # One past the words is a row of the table that no word has.
            _position_fits(self.name, self.unknown, len(words) + 1)


class Column(Values):
    """The elements of a list: ids, or numbers with their inclusive range."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _range_is_of_numbers(self) -> Self:
        if (self.min, self.max) != (None, None) and not self.is_float:
            msg = f"'{self.name}' holds ids, which have no min or max, but a size"
            raise ValueError(msg)
        if self.min is not None and self.max is not None and self.min > self.max:
            msg = f"'{self.name}': min {self.min} is above max {self.max}"
            raise ValueError(msg)
        return self


class Ids(Values):
    """An id for each row: int64 (rows,)."""

    kind: Literal["ids"] = "ids"
    nullable: bool = False

    @model_validator(mode="after")
    def _nulls_have_a_position(self) -> Self:
        if self.is_float:
            msg = f"ids '{self.name}': expected int64 or string, got float32"
            raise ValueError(msg)
        if self.nullable and self.unknown is None:
            msg = f"ids '{self.name}': a null needs a position; say which as `unknown`"
            raise ValueError(msg)
        return self

    @property
    def columns(self) -> tuple[Values, ...]:
        return (self,)

    def raw_fields(self) -> Iterator[pa.Field]:
        yield pa.field(self.name, self.raw_type)

    def fields(self) -> Iterator[pa.Field]:
        yield pa.field(self.name, pa.int64())


class Vector(StrictModel):
    """As many numbers for each row, such as an embedding: float32 (rows, size)."""

    kind: Literal["vector"] = "vector"
    name: Name
    size: int = Field(ge=1)
    min: float | None = None
    max: float | None = None

    @property
    def columns(self) -> tuple[Column]:
        return (Column(name=self.name, dtype="float32", min=self.min, max=self.max),)

    def raw_fields(self) -> Iterator[pa.Field]:
        yield pa.field(self.name, pa.list_(pa.float32()))

    def fields(self) -> Iterator[pa.Field]:
        yield from self.raw_fields()


class Sequence(StrictModel):
    """A list for each row, of one column or several side by side, oldest first or last.

    Attributes:
        name: of the sequence; its mask is `<name>_mask`, its offsets `<name>_offsets`.
        columns: each a list of as many elements in a row as the others.
        max_length: the most that the model gets; a list that it does not get is not cut.
        keep: which end of a longer list the model gets.
        min_length: a shorter list is quarantined; one that is null has none.
        longest: a longer list is quarantined, not cut.
        min_known: the least share of the ids that must be in their vocabulary.
        form: `padded` (rows, longest) with a mask that is true where there is an
            element, or `ragged`: values (elements,) with int64 offsets (rows + 1,).
        given: whether the model gets it at all; what a filter alone reads is not.
    """

    kind: Literal["sequence"] = "sequence"
    name: Name
    columns: tuple[Column, ...] = Field(min_length=1)
    max_length: int | None = Field(default=None, ge=1)
    keep: Literal["head", "tail"] = "tail"
    min_length: int = Field(default=0, ge=0)
    longest: int = Field(default=LONGEST, ge=1)
    min_known: float = Field(default=0.0, ge=0, le=1)
    form: Literal["padded", "ragged"] = "padded"
    given: bool = True

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.given != (self.max_length is not None):
            msg = (
                f"sequence '{self.name}': max_length goes with what the model is given, "
                "and only: a filter that reads a cut list would let through what is gone"
            )
            raise ValueError(msg)
        most = self.max_length or self.longest
        if not self.min_length <= most <= self.longest:
            msg = (
                f"sequence '{self.name}': expected min_length ≤ max_length ≤ longest, "
                f"got {self.min_length}, {most}, {self.longest}"
            )
            raise ValueError(msg)
        return self

    @property
    def mask(self) -> str:
        return f"{self.name}_mask"

    @property
    def offsets(self) -> str:
        return f"{self.name}_offsets"

    def raw_fields(self) -> Iterator[pa.Field]:
        for column in self.columns:
            yield pa.field(column.name, pa.list_(column.raw_type))

    def fields(self) -> Iterator[pa.Field]:
        for column in self.columns:
            yield pa.field(column.name, pa.list_(column.type))


class Text(StrictModel):
    """A text for each row, which the model gets as the ids of its tokens.

    They are int64 (rows, longest of the batch), with a bool mask of the same shape that is
    true where there is a token. The tokenizer is a file of the release.

    Attributes:
        name: of the column.
        max_length: the most tokens that the model gets, special ones such as that of the
            beginning included.
        dtype: of the column; in `binary`, quarantine keeps bytes that are not UTF-8.
        keep: which end of a longer text the model gets.
        min_length: in characters; a shorter text is quarantined.
        longest: in characters; a longer text is quarantined, not cut.
        nullable: whether a null passes; the model gets it as a text without characters.
        ids: the name of the tensor of ids; that of the column if left out.
        mask: the name of the tensor of the mask; `<name>_mask` if left out.
        pad: the id that fills up a batch; the tokenizer's own if left out.
        tokenizer: the sha256 of the release's tokenizer, which `write_release` fills in.
    """

    kind: Literal["text"] = "text"
    name: Name
    max_length: int = Field(ge=1)
    dtype: Literal["string", "binary"] = "string"
    keep: Literal["head", "tail"] = "head"
    min_length: int = Field(default=1, ge=0)
    longest: int = Field(default=LONGEST, ge=1)
    nullable: bool = False
    ids: Name | None = None
    mask: Name | None = None
    pad: int | None = Field(default=None, ge=0)
    tokenizer: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.min_length > self.longest:
            msg = (
                f"text '{self.name}': expected min_length ≤ longest, got "
                f"{self.min_length}, {self.longest}"
            )
            raise ValueError(msg)
        return self

    @property
    def tensors(self) -> tuple[str, str]:
        """The names that the model gets the ids and the mask by."""
        return self.ids or self.name, self.mask or f"{self.name}_mask"

    @property
    def columns(self) -> tuple[Values, ...]:
        """None: a text has no vocabulary of the contract."""
        return ()

    def raw_fields(self) -> Iterator[pa.Field]:
        yield pa.field(
            self.name, pa.binary() if self.dtype == "binary" else pa.string()
        )

    def fields(self) -> Iterator[pa.Field]:
        yield pa.field(self.name, pa.string())


Input = Annotated[Ids | Vector | Sequence | Text, Field(discriminator="kind")]


def _position_fits(name: str, position: int, size: int) -> None:
    if position >= size:
        msg = f"'{name}': unknown is {position}, expected a position below {size}"
        raise ValueError(msg)
