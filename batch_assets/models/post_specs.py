"""What is done with what a model gives before it is an output: stages, as declared.

They are part of a release, and covered by its digest. Each takes tensors by their names
and leaves others; the first names are those that the model gives. It computes nothing.
"""

import math
import operator
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from batch_assets.models.input_specs import Name
from batch_assets.strict import StrictModel


class _Stage(StrictModel):
    """A stage that turns one tensor into another, `into` its own name unless said."""

    of: Name
    into: Name | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The tensors that must be there."""
        return (self.of,)

    @property
    def leaves(self) -> tuple[str, ...]:
        """The tensors that are there after it."""
        return (self.into or self.of,)


class Softmax(_Stage):
    """Turn scores (rows, n) into shares that sum to 1."""

    kind: Literal["softmax"] = "softmax"


class Sigmoid(_Stage):
    """Turn logits into probabilities."""

    kind: Literal["sigmoid"] = "sigmoid"


class Temperature(_Stage):
    """Divide logits by a temperature."""

    kind: Literal["temperature"] = "temperature"
    by: float = Field(gt=0, allow_inf_nan=False)


class Platt(_Stage):
    """Calibrate: 1 / (1 + exp(-(slope x + intercept)))."""

    kind: Literal["platt"] = "platt"
    slope: float = Field(allow_inf_nan=False)
    intercept: float = Field(allow_inf_nan=False)


class Isotonic(_Stage):
    """Calibrate by a table: linear between its points, level beyond its ends.

    It computes in float64 and gives float32.
    """

    kind: Literal["isotonic"] = "isotonic"
    x: tuple[float, ...] = Field(min_length=2)
    y: tuple[float, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _is_a_table(self) -> Self:
        if len(self.x) != len(self.y):
            msg = f"isotonic: x has {len(self.x)} points, y {len(self.y)}"
            raise ValueError(msg)
        if not all(map(math.isfinite, (*self.x, *self.y))):
            msg = "isotonic: the table holds NaN or infinity"
            raise ValueError(msg)
        if any(low >= high for low, high in pairwise(self.x)):
            msg = "isotonic: each x must be above the one before"
            raise ValueError(msg)
        if any(low > high for low, high in pairwise(self.y)):
            msg = "isotonic: no y may be below the one before"
            raise ValueError(msg)
        return self


class Argmax(_Stage):
    """Choose the class with the highest score (rows, classes); of equals the first.

    `of` is what a label is made of; `confidence` names the score that it had.
    """

    kind: Literal["argmax"] = "argmax"
    into: Name
    confidence: Name | None = None

    @property
    def leaves(self) -> tuple[str, ...]:
        return (self.into, *([self.confidence] if self.confidence else []))


class Threshold(_Stage):
    """Choose a class by how many of the limits a score (rows,) has reached."""

    kind: Literal["threshold"] = "threshold"
    into: Name
    at: tuple[float, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if not all(map(math.isfinite, self.at)) or any(
            low >= high for low, high in pairwise(self.at)
        ):
            msg = (
                f"threshold: expected finite limits, each above the last, got {self.at}"
            )
            raise ValueError(msg)
        return self


class TopK(_Stage):
    """Take the k best items of each row, the best first; of equals the lower position.

    Attributes:
        of: scores, (rows, items of the vocabulary), or (rows, n) of the candidates.
        into: the ranking, whose scores are `<into>_scores`.
        k: how many.
        candidates: int64 (rows, n), positions: of which items the scores are. The more
            of them there are than k, the more may be filtered out.
        without: columns of sequences, and side tables: the items that they list for a
            row are left out.
    """

    kind: Literal["top_k"] = "top_k"
    into: Name
    k: int = Field(ge=1)
    candidates: Name | None = None
    without: tuple[Name, ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.of, *([self.candidates] if self.candidates else []))

    @property
    def leaves(self) -> tuple[str, ...]:
        return (self.into, f"{self.into}_scores")


class SideTable(StrictModel):
    """A small table of the day that lists items, such as those that are not to be had.

    The pipeline says where it comes from. It has a column `item`, of words of the
    vocabulary, and with `by` a column of that name: then an item is listed for the rows
    whose ids of that input are the same, and for all rows where it is null.
    """

    name: Name
    vocabulary: Name
    by: Name | None = None


class Python(StrictModel):
    """Call a function of one's own with tensors, and take the tensors that it returns.

    It is found by its import path, and refused if its file is not the one that the
    release was written with.
    """

    kind: Literal["python"] = "python"
    path: str = Field(pattern=r"^[\w.]+:\w+$")
    takes: tuple[Name, ...] = Field(min_length=1)
    gives: tuple[Name, ...] = Field(min_length=1)
    sha256: str = ""

    @property
    def reads(self) -> tuple[str, ...]:
        return self.takes

    @property
    def leaves(self) -> tuple[str, ...]:
        return self.gives


Stage = Annotated[
    Softmax
    | Sigmoid
    | Temperature
    | Platt
    | Isotonic
    | Argmax
    | Threshold
    | TopK
    | Python,
    Field(discriminator="kind"),
]


class PostProcessing(StrictModel):
    """The stages between a model and its outputs.

    `gives` names what the model gives, in its order; `tables` are the side tables that
    its stages leave items out by.
    """

    tables: tuple[SideTable, ...] = Field(default=(), exclude_if=operator.not_)
    gives: tuple[Name, ...] = Field(min_length=1)
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_finds_what_it_reads(self) -> Self:
        there = set(self.gives)
        for number, stage in enumerate(self.stages, 1):
            if lacking := sorted(set(stage.reads) - there):
                msg = (
                    f"stage {number}, {stage.kind}, reads {lacking}; there are "
                    f"{sorted(there)} by then"
                )
                raise ValueError(msg)
            there |= set(stage.leaves)
        return self

    @property
    def leaves(self) -> set[str]:
        """All tensors that are there in the end."""
        return set(self.gives).union(*(stage.leaves for stage in self.stages))

    @property
    def without(self) -> set[str]:
        """All that items are left out of a ranking by: columns, and side tables."""
        return {
            name
            for stage in self.stages
            if isinstance(stage, TopK)
            for name in stage.without
        }

    @property
    def table_names(self) -> tuple[str, ...]:
        return tuple(table.name for table in self.tables)

    @property
    def listed(self) -> list[str]:
        """The columns of sequences whose items are left out of a ranking."""
        return sorted(self.without - set(self.table_names))
