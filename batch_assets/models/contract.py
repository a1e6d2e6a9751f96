"""What a model expects of a day: the key, each feature, and what it gives back.

`check_schema` raises on a wrong column (bad schema stops); the rules that single rows
must keep are applied in `quality.validation` (bad rows wait). It knows no file, and
not where the rows come from.
"""

import hashlib
import json
import operator
from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from batch_assets.models.columns import check_columns, quoted
from batch_assets.models.input_specs import (
    MOST_WORDS,
    Input,
    Name,
    Sequence,
    Text,
    Words,
)
from batch_assets.models.output_specs import (
    AnyOutput,
    OutputColumn,
    Ranking,
)

# A user's training script may have it from here.
from batch_assets.models.output_specs import (
    Output as Output,
)
from batch_assets.strict import StrictModel

KEY_TYPES = {"int64": pa.int64(), "string": pa.string()}
FEATURE_TYPES = {
    "float32": pa.float32(),
    "float64": pa.float64(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "bool": pa.bool_(),
    "string": pa.string(),
}
# The tensor of all features.
FEATURES = "features"
# Columns that the lake adds to its tables beside those of the contract.
RESERVED = frozenset(
    {
        "day",
        "shard",
        "rules",
        "reason",
        "stage",
        "model_name",
        "model_version",
        "key_hash",
        "fingerprint",
    }
)


class KeySpec(StrictModel):
    """The column that names who or what is scored."""

    name: Name
    dtype: Literal["int64", "string"]


class Feature(StrictModel):
    """One input of the model, in the unit and type in which the source gives it.

    The model gets float32: whole numbers above 2**24 lose their last digits there.
    `min` and `max` are inclusive. `categories` are the allowed strings; the model gets
    the position in that list. A null is allowed only where `nullable`, and reaches the
    model as NaN; NaN and infinity in the source are never allowed.
    """

    name: Name
    dtype: Literal[
        "float32", "float64", "int8", "int16", "int32", "int64", "bool", "string"
    ]
    nullable: bool = False
    min: float | None = None
    max: float | None = None
    categories: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _bounds_fit_the_type(self) -> Self:
        if (self.dtype == "string") != (self.categories is not None):
            msg = f"feature '{self.name}': categories go with dtype 'string', and only"
            raise ValueError(msg)
        if self.dtype in ("string", "bool") and (self.min, self.max) != (None, None):
            msg = f"feature '{self.name}': a {self.dtype} has no min or max"
            raise ValueError(msg)
        if self.min is not None and self.max is not None and self.min > self.max:
            msg = f"feature '{self.name}': min {self.min} is above max {self.max}"
            raise ValueError(msg)
        if self.categories is not None and len(set(self.categories)) != len(
            self.categories
        ):
            msg = f"feature '{self.name}': a category is listed twice"
            raise ValueError(msg)
        return self


class Contract(StrictModel):
    """The key, what the model gets, in its order, and what it gives back.

    Attributes:
        key: names who or what is scored.
        features: numbers that the model gets as one float32 matrix, `FEATURES`.
        inputs: what it gets beside that, each a tensor of its own, or several.
        vocabularies: words by name; ids are turned into the positions of theirs.
        outputs: what it gives back, in its order.
    """

    key: KeySpec
    features: tuple[Feature, ...] = ()
    # Left out of what is written if there are none: a release of before there were any
    # keeps its digest.
    inputs: tuple[Input, ...] = Field(default=(), exclude_if=operator.not_)
    vocabularies: dict[Name, Words] = Field(
        default_factory=dict, exclude_if=operator.not_
    )
    outputs: tuple[AnyOutput, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique_and_free(self) -> Self:
        if not self.features and not self.inputs:
            msg = "a contract has features or inputs, and this has neither"
            raise ValueError(msg)
        tensors = [name for one in self.inputs for name in _tensors_of(one)]
        rows = [field.name for field in self.raw_schema()][1:]
        for side in (rows, self.written_names, tensors):
            # Delta and SQL don't tell capitals from small letters.
            names = [name.casefold() for name in (self.key.name, *side)]
            twice = sorted(n for n, times in Counter(names).items() if times > 1)
            reserved = sorted(RESERVED.intersection(names))
            if twice:
                msg = f"columns named twice: {quoted(twice)}"
                raise ValueError(msg)
            if reserved:
                msg = (
                    f"columns with a name that the lake uses itself: {quoted(reserved)}"
                )
                raise ValueError(msg)
        if FEATURES in tensors and self.features:
            msg = f"an input is named '{FEATURES}', which is the matrix of the features"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _vocabularies_fit(self) -> Self:
        for name, words in self.vocabularies.items():
            if not 0 < len(words) <= MOST_WORDS or len(set(words)) < len(words):
                msg = (
                    f"vocabulary '{name}': expected 1 to {MOST_WORDS:,} words, none of "
                    f"them twice; got {len(words):,}, {len(set(words)):,} different"
                )
                raise ValueError(msg)
        for one in self.inputs:
            for column in one.columns:
                column.must_fit(self.vocabularies)
        for output in self.outputs:
            if isinstance(output, Ranking):
                output.must_fit(self.vocabularies)
        return self

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        key: str | KeySpec,
        outputs: "str | AnyOutput | SequenceOf[str | AnyOutput]",
        without: Iterable[str] = (),
        features: Iterable[Feature] = (),
        inputs: Iterable[Input] = (),
        vocabularies: dict[str, Words] | None = None,
    ) -> "Contract":
        """Derive a contract from the frame that a model was trained on.

        Of each column its name, order, type, whether it has nulls, its categories or its
        range: what was seen, and as much again on either side. A list of numbers of one
        length is a vector, any other a sequence. NaN counts as null.

        Args:
            frame: of polars, pandas or Arrow.
            key: the column that names who is scored; as `KeySpec` if it is not there.
            outputs: what the model gives, by name or as declared.
            without: columns that the model does not get, such as the label.
            features: what a caller says of columns instead.
            inputs: ids, vectors and sequences, which take their columns from the others.
            vocabularies: of these inputs, and of rankings.

        Raises:
            ContractError: what some column is can't be derived; all are listed.
        """
        from batch_assets.models.derived import contract_from_frame

        return contract_from_frame(
            frame,
            key=key,
            outputs=outputs,
            without=without,
            features=features,
            inputs=inputs,
            vocabularies=vocabularies,
        )

    def to_sql(self, table: str = "your_table") -> str:
        """Return the query that casts a table's columns to these, for DuckDB.

        It stops at a value that a cast would change, such as 1.5 for a whole number.
        """
        from batch_assets.models.derived import to_sql

        return to_sql(self, table)

    @property
    def feature_names(self) -> list[str]:
        return [f.name for f in self.features]

    @property
    def output_names(self) -> list[str]:
        return [o.name for o in self.outputs]

    @cached_property
    def output_columns(self) -> tuple[OutputColumn, ...]:
        """What the outputs are computed as, in their order."""
        return tuple(column for output in self.outputs for column in output.columns)

    @property
    def written_names(self) -> list[str]:
        """The columns of the outputs in predictions."""
        return [column.name for column in self.output_columns]

    def computed(self, predictions: pa.Table) -> dict[str, np.ndarray]:
        """Return the outputs of predictions as they were computed, by column."""
        return {
            name: values
            for output in self.outputs
            for name, values in output.read(predictions, self.vocabularies).items()
        }

    @cached_property
    def digest(self) -> str:
        """The sha256 of what this contract asks of the rows: all but the outputs."""
        asks = self.model_dump(mode="json", include={"key", "features"})
        # Not of those that are not there: a day of before there were any stays as it is.
        if self.inputs:
            asks |= self.model_dump(mode="json", include={"inputs", "vocabularies"})
        return hashlib.sha256(json.dumps(asks, sort_keys=True).encode()).hexdigest()

    def __hash__(self) -> int:
        return hash(self.digest)

    def raw_schema(self) -> pa.Schema:
        """Return the columns that a source must deliver, in any order."""
        return pa.schema(
            [pa.field(self.key.name, KEY_TYPES[self.key.dtype])]
            + [pa.field(f.name, FEATURE_TYPES[f.dtype]) for f in self.features]
            + [field for one in self.inputs for field in one.raw_fields()]
        )

    def feature_schema(self) -> pa.Schema:
        """Return the columns of validated features, in model order.

        The key, float32 of each feature, and of each input positions and numbers as the
        model gets them; a text as it is.
        """
        return pa.schema(
            [pa.field(self.key.name, KEY_TYPES[self.key.dtype], nullable=False)]
            + [pa.field(f.name, pa.float32()) for f in self.features]
            + [field for one in self.inputs for field in one.fields()]
        )

    def prediction_schema(self) -> pa.Schema:
        """Return the columns of predictions: key, outputs, and the release of every row."""
        return pa.schema(
            [pa.field(self.key.name, KEY_TYPES[self.key.dtype], nullable=False)]
            + [f for output in self.outputs for f in output.fields(self.vocabularies)]
            + [
                pa.field("model_name", pa.string()),
                pa.field("model_version", pa.string()),
            ]
        )

    def check_schema(self, schema: pa.Schema, what: str) -> None:
        """Compare a source's columns with the contract; their order is free.

        A column of another type will do if that type's every value fits: it is cast.

        Args:
            schema: the columns that are there.
            what: how the error names the source.

        Raises:
            ContractError: a column is missing, extra or retyped; all are listed.
        """
        check_columns(schema, self.raw_schema(), what)


def _tensors_of(one: Input) -> list[str]:
    """The names that a model gets an input's tensors by."""
    if isinstance(one, Text):
        return list(one.tensors)
    if not isinstance(one, Sequence):
        return [one.name]
    extra = one.mask if one.form == "padded" else one.offsets
    return [*(column.name for column in one.columns), extra]
