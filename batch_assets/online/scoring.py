"""A release that scores rows as they come: by the rules of its contract, in batches.

A row is what the source of a night delivers: the key and the features, raw. The rules,
the packing and the scorer are the night's; the model runs in a process of its own, so
that whatever it does, the event loop goes on. It knows no HTTP, and not who may use it.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import (
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
    conlist,
    with_config,
)

# pydantic takes no other before Python 3.12.
from typing_extensions import TypedDict

from batch_assets.errors import ScoringError
from batch_assets.models.columns import word
from batch_assets.models.contract import Contract
from batch_assets.models.contract import Feature as FeatureSpec
from batch_assets.models.input_specs import Text
from batch_assets.models.output_specs import Ranking
from batch_assets.models.release import Release
from batch_assets.online.batcher import Batch, Batcher
from batch_assets.quality.rules import RULES, RowRules, packed
from batch_assets.scoring.chunk import outside
from batch_assets.scoring.device import Device
from batch_assets.scoring.faults import FaultError
from batch_assets.scoring.model_process import ModelProcess

Row = dict[str, Any]
# As JSON has them: numbers, names of classes, lists.
Outputs = dict[str, Any]
Answers = list[Outputs | BaseException]

JSON_TYPES: dict[str, Any] = {
    "float32": float,
    "float64": float,
    "bool": bool,
    "string": str,
    **{
        f"int{bits}": Annotated[int, Field(ge=-(2 ** (bits - 1)), lt=2 ** (bits - 1))]
        for bits in (8, 16, 32, 64)
    },
}
NOTHING = "nothing"


@dataclass(frozen=True)
class Problem:
    """What is wrong with a field of a request: what was found, what was expected.

    `row` counts from 0.
    """

    row: int
    name: str
    found: str
    expected: str


class BadRequestError(Exception):
    """A request is not what was expected, and nothing of it was done."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = list(problems)


class TooLongError(BadRequestError):
    """A request asks for more than one may."""


class BadRowError(Exception):
    """A row breaks rules of the contract; they are named as in quarantine."""

    def __init__(self, rules: list[str]) -> None:
        super().__init__(", ".join(rules))
        self.rules = rules


class OutputError(FaultError):
    """An output of a row is not finite, or not in its declared range."""


@dataclass(frozen=True)
class Limits:
    """How rows are scored as they come.

    Attributes:
        max_batch_size: rows that the model gets at once.
        max_wait_ms: how long a row waits for others while the model is free.
        max_queue: rows that may wait.
        max_seconds: how long the model may take over a batch before it is killed.
    """

    max_batch_size: int = 64
    max_wait_ms: float = 5.0
    max_queue: int = 1024
    max_seconds: float = 10.0


class LiveRelease:
    """A release with its process and its batcher."""

    def __init__(
        self,
        release: Release,
        device: Device,
        limits: Limits,
        *,
        observe: Callable[[Batch], None] = lambda batch: None,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """Nothing is started.

        Args:
            release: may be used here; who says so is not asked.
            device: where the model runs.
            limits: of batches and waiting.
            observe: is told of each batch.
            is_over: whether nobody waits any more, neither for answers nor for a start.
        """
        if release.side_tables:
            msg = (
                f"release {release.name} {release.short} leaves items out by the side "
                f"tables {list(release.side_tables)}, which are of a night: its scores "
                "are served by lookup alone"
            )
            raise ScoringError(msg)
        self.release = release
        self._contract = release.contract
        self._rankings = {
            one.name: one.k
            for one in self._contract.outputs
            if isinstance(one, Ranking)
        }
        self._rules = RowRules(self._contract)
        self._nobody = pl.Series(
            self._contract.key.name, [], pl.DataFrame(self._table([])).dtypes[0]
        )
        self._max_seconds = limits.max_seconds
        self._requests = _requests_of(self._contract, limits.max_queue)
        self._process = ModelProcess(_Ordered(release, device, is_over), _spare_cores())
        self._batcher = Batcher(
            self.score,
            max_batch_size=limits.max_batch_size,
            max_wait_ms=limits.max_wait_ms,
            max_queue=limits.max_queue,
            # Only what the model says of rows is a row's fault.
            blames=FaultError,
            observe=observe,
        )

    @property
    def waiting(self) -> int:
        """How many rows wait."""
        return self._batcher.waiting

    def start(self) -> None:
        """Load the release in its process, where it is hashed and proved. It blocks.

        Raises:
            ScoringError: it can't be loaded, or does not reproduce its golden batch.
        """
        self._process.start()

    def rows(self, body: bytes) -> list[Row]:
        """Read a request's rows, `{"rows": [{...}, ...]}`, with the source's columns.

        Raises:
            BadRequestError: a column is missing, extra or of another type; all are listed.
            TooLongError: there are more rows than may wait.
        """
        try:
            rows: list[Row] = self._requests.validate_json(body)["rows"]
        except ValidationError as error:
            raise refused(error, "rows", self._expected) from None
        return rows

    def shown(self, outputs: Outputs, denied: AbstractSet[str]) -> Outputs:
        """Return the outputs of a row as they are shown: rankings without denied items."""
        return outputs | {
            name: [one for one in outputs[name] if str(one["item"]) not in denied][:k]
            for name, k in self._rankings.items()
        }

    async def submit(self, rows: Sequence[Row]) -> Answers:
        """Score rows: outputs, or why there are none (`BadRowError`, `FaultError`).

        Raises:
            FullError: there is no room for them now.
            ClosedError: another release scores by now, or none.
        """
        return await self._batcher.submit(rows)

    def score(self, rows: Sequence[Row]) -> list[Outputs | Exception]:
        """Score a batch of rows: their outputs, or what is wrong with them. It blocks.

        Raises:
            FaultError: the model raised, was late or crashed; one of the rows is at fault.
            ScoringError: the process does not come up.
        """
        contract = self._contract
        answers: list[Outputs | Exception] = [BadRowError([])] * len(rows)
        split = self._rules.split(pl.DataFrame(self._table(rows)), self._nobody)
        key = contract.key.name
        for place, broken in zip(split.bad[key], split.bad[RULES], strict=True):
            answers[int(place)] = BadRowError(broken.to_list())
        if not len(split.good):
            return answers
        outputs, _ = self._process.score(
            packed(split.good, contract), self._max_seconds
        )
        faults = outside(outputs, contract, {})
        alive = np.setdiff1d(np.arange(len(split.good)), list(faults))
        computed = {name: values[alive] for name, values in outputs.items()}
        plain = [
            (output.name, output.plain(computed, contract.vocabularies))
            for output in contract.outputs
        ]
        places = split.good[key].cast(pl.Int64).to_list()
        for at, row in enumerate(alive.tolist()):
            answers[places[row]] = {name: values[at] for name, values in plain}
        for row, why in faults.items():
            answers[places[row]] = OutputError(why)
        return answers

    async def close(self) -> None:
        """Answer what waits, and end the process."""
        try:
            await self._batcher.close()
        finally:
            # To end a process takes a moment, which lookups need not wait for.
            await asyncio.to_thread(self._process.close)

    def _table(self, rows: Sequence[Row]) -> pa.Table:
        """Raw rows as the contract types them; for a key, a row's place in the batch.

        Two requests may well ask for the same key.
        """
        schema = self._contract.raw_schema()
        places: list[Any] = list(range(len(rows)))
        if self._contract.key.dtype == "string":
            places = [str(place) for place in places]
        columns = [pa.array(places, schema.types[0])]
        for field in list(schema)[1:]:
            columns.append(pa.array([row[field.name] for row in rows], field.type))
        return pa.table(columns, schema=schema)

    def _expected(self, name: str) -> str:
        types = {field.name: word(field.type) for field in self._contract.raw_schema()}
        return types.get(name, NOTHING)


def _spare_cores() -> int:
    """A core is left to the event loop, if there is one to leave."""
    return max(len(os.sched_getaffinity(0)) - 1, 1)


@dataclass(frozen=True)
class _Ordered:
    """A release that its own process alone loads."""

    release: Release
    device: Device
    is_over: Callable[[], bool]

    @property
    def abandoned(self) -> bool:
        return self.is_over()

    @property
    def batch_rows(self) -> int:
        return self.device.batch_rows


def keys_of(dtype: str, max_keys: int) -> TypeAdapter[Any]:
    """Return what reads `{"keys": [...], "segments": [...]}`, for keys of a type.

    Segments may be left out, or be null.
    """
    keys = conlist(JSON_TYPES[dtype], min_length=1, max_length=max_keys)
    segments = NotRequired[list[StrictStr | StrictInt | None]]
    return TypeAdapter(_strict("Request", {"keys": keys, "segments": segments}))


def _requests_of(contract: Contract, max_rows: int) -> TypeAdapter[Any]:
    """What reads `{"rows": [...]}`, for rows of a contract."""

    def column(feature: FeatureSpec) -> Any:
        # Whether a null is allowed is one of the rules of a row.
        return JSON_TYPES[feature.dtype] | None

    columns = {contract.key.name: JSON_TYPES[contract.key.dtype]}
    columns |= {feature.name: column(feature) for feature in contract.features}
    for one in contract.inputs:
        if isinstance(one, Text):
            columns[one.name] = str | None
            continue
        for field, each in zip(one.raw_fields(), one.columns, strict=True):
            value: Any = JSON_TYPES[each.dtype]
            # Whether a null is allowed in a list is a rule, too.
            listed = pa.types.is_list(field.type)
            columns[field.name] = (list[value | None] if listed else value) | None
    rows = conlist(_strict("Row", columns), min_length=1, max_length=max_rows)
    return TypeAdapter(_strict("Request", {"rows": rows}))


def _strict(name: str, fields: dict[str, Any]) -> Any:
    """A dict with exactly these keys; as no class, so that every name is allowed."""
    typed: Any = TypedDict(name, fields)  # type: ignore[misc]
    return with_config(ConfigDict(extra="forbid", strict=True))(typed)


def refused(
    error: ValidationError, what: str, expected: Callable[[str], str]
) -> BadRequestError:
    """Return the refusal of a request: what pydantic found, in the words of a contract.

    Args:
        error: what it raised.
        what: the list that the request holds, `rows` or `keys`.
        expected: the type that is expected of a column, `nothing` for an unknown one.
    """
    errors = error.errors(include_url=False, include_context=True)
    first = errors[0]
    if first["type"] == "json_invalid":
        return BadRequestError(f"the body is no JSON: {first['ctx']['error']}")
    if first["type"] == "too_long":
        most = first["ctx"]["max_length"]
        return TooLongError(f"a request may have {most:,} {what} at most")
    problems, shape = [], False
    for one in errors:
        place, column = one["loc"][1:2], one["loc"][2:3]
        if one["loc"][:1] != (what,) or not place or (what == "rows" and not column):
            shape = True
            continue
        name = str(column[0]) if column else "key"
        missing = one["type"] == "missing"
        value = NOTHING if missing else _shown(one["input"])
        problems.append(Problem(int(place[0]), name, value, expected(name)))
    if shape:
        inside, more = "{COLUMN: VALUE, ...}", ""
        if what == "keys":
            inside, more = "KEY", ', and as many "segments", texts or null, if any'
        return BadRequestError(
            f'the body is not {{"{what}": [{inside}, ...]}} with at least one of them{more}'
        )
    lines = [f"'{p.name}', got: {p.found}, expected: {p.expected}" for p in problems]
    wrong = "columns are missing, extra or" if what == "rows" else "keys are"
    return BadRequestError(
        f"{len(problems)} {wrong} retyped, and nothing was done: "
        + "; ".join(lines[:5])
        + ("; ..." if len(lines) > 5 else ""),
        problems,
    )


def _shown(value: Any) -> str:
    """A value in an error: its JSON type, and the value if it is short."""
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string"}
    kinds |= {list: "array", dict: "object", type(None): "null"}
    kind = kinds.get(type(value), "value")
    text = repr(value)
    if value is None or len(text) > 40:
        return kind
    return f"{kind} {text}"
