"""What a model expects of a day: the key, each feature, and what it gives back.

`check_schema` raises on a wrong column (bad schema stops); the rules that single rows
must keep are applied in `quality.validation` (bad rows wait). It knows no file, and
not where the rows come from.
"""

import hashlib
import json
import math
from collections import Counter
from functools import cached_property
from typing import Annotated, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from batch_assets.models.columns import check_columns, quoted
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
OUTPUT_TYPES = {
    "float32": pa.float32(),
    "float64": pa.float64(),
    "int32": pa.int32(),
    "int64": pa.int64(),
}
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

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


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


class Output(StrictModel):
    """One column that the model gives back for each row, with its inclusive range."""

    name: Name
    dtype: Literal["float32", "float64", "int32", "int64"] = "float32"
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _range_holds_a_value(self) -> Self:
        low, high = self.bounds
        if not low <= high:
            msg = (
                f"output '{self.name}': no {self.dtype} lies between min {self.min} "
                f"and max {self.max}"
            )
            raise ValueError(msg)
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the most that are in range, as the output's own type has them.

        The nearest float32 to 0.1 is above 0.1, and a model that gives it gives what
        was declared. Infinity is in no range.
        """
        low = -math.inf if self.min is None else self.min
        high = math.inf if self.max is None else self.max
        if math.isnan(low) or math.isnan(high):
            return math.nan, math.nan
        if self.dtype in ("int32", "int64"):
            whole = np.iinfo(self.dtype)
            # Beyond the type before it is rounded: infinity is no whole number.
            least = math.ceil(max(low, float(whole.min)))
            most = math.floor(min(high, float(whole.max)))
            return max(least, whole.min), min(most, whole.max)
        real = np.finfo(self.dtype)
        least, most = np.clip([low, high], float(real.min), float(real.max))
        return float(real.dtype.type(least)), float(real.dtype.type(most))

    def in_range(self, values: np.ndarray) -> np.ndarray:
        """Return which values, in the output's own type, are finite and in its range."""
        low, high = self.bounds
        # NaN compares false.
        return (values >= low) & (values <= high)

    def are_in_range(self, values: np.ndarray) -> bool:
        """Return whether all values are, from the least and the most of them.

        Two passes instead of four, and nothing is written. NaN is the least of any.
        """
        low, high = self.bounds
        return not len(values) or bool(low <= values.min() and values.max() <= high)


class Contract(StrictModel):
    """The key, the features in the order in which the model gets them, the outputs."""

    key: KeySpec
    features: tuple[Feature, ...] = Field(min_length=1)
    outputs: tuple[Output, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique_and_free(self) -> Self:
        for side in (self.feature_names, self.output_names):
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
        return self

    @property
    def feature_names(self) -> list[str]:
        return [f.name for f in self.features]

    @property
    def output_names(self) -> list[str]:
        return [o.name for o in self.outputs]

    @cached_property
    def digest(self) -> str:
        """The sha256 of what this contract asks of the rows: the key and features."""
        asks = self.model_dump(mode="json", include={"key", "features"})
        return hashlib.sha256(json.dumps(asks, sort_keys=True).encode()).hexdigest()

    def raw_schema(self) -> pa.Schema:
        """Return the columns that a source must deliver, in any order."""
        return pa.schema(
            [(self.key.name, KEY_TYPES[self.key.dtype])]
            + [(f.name, FEATURE_TYPES[f.dtype]) for f in self.features]
        )

    def feature_schema(self) -> pa.Schema:
        """Return the columns of validated features: the key, then float32 in model order."""
        return pa.schema(
            [pa.field(self.key.name, KEY_TYPES[self.key.dtype], nullable=False)]
            + [(f.name, pa.float32()) for f in self.features]
        )

    def prediction_schema(self) -> pa.Schema:
        """Return the columns of predictions: key, outputs, and the release of every row."""
        return pa.schema(
            [pa.field(self.key.name, KEY_TYPES[self.key.dtype], nullable=False)]
            + [(o.name, OUTPUT_TYPES[o.dtype]) for o in self.outputs]
            + [("model_name", pa.string()), ("model_version", pa.string())]
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
