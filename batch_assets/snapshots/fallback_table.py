"""The fallback of a night, from the side table that was taken for it.

A table that does not fit is refused before anything is scored, and again before anything
is published. It knows no version.
"""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_assets.errors import ContractError
from batch_assets.lake.side_tables import read_side_table, side_tables_of
from batch_assets.lake.tables import Lake
from batch_assets.models.contract import Contract
from batch_assets.models.output_specs import Ranking
from batch_assets.snapshots.fallback import Fallback, FallbackRow
from batch_assets.snapshots.flattening import columns_of, forms_of, numbers_of
from batch_assets.spec import FallbackSpec

# They are in the manifest, which each reader holds.
MOST_NUMBERS = 100_000
# So much of a value is shown in an error.
SHOWN = 80
NOTHING_DONE = "Nothing was scored or published."


def fallback_of(
    lake: Lake, day: str, spec: FallbackSpec | None, contract: Contract
) -> Fallback | None:
    """Return what a key gets that a night does not cover, if the pipeline declares it.

    Raises:
        ContractError: the side table is not of the release's outputs.
        LakeError: it was not taken for the day, or is not what was taken.
    """
    if spec is None:
        return None
    (table,) = side_tables_of(lake, day, (spec.table,))
    return read_fallback(read_side_table(table), spec, contract)


def read_fallback(rows: pa.Table, spec: FallbackSpec, contract: Contract) -> Fallback:
    """Read it from a table with a row for each segment.

    Raises:
        ContractError: a column is lacking or of another type, a segment is there twice,
            or an output is not as the contract declares it.
    """
    given, segments = _typed(rows, spec, contract)
    _must_be_rows(given, segments, spec, contract)
    rows = _known(given, contract)
    _must_be_as_declared(rows, given, segments, spec, contract)
    outputs = columns_of(contract)
    numbers = numbers_of(rows, outputs, forms_of(contract))
    if numbers.num_rows * numbers.num_columns > MOST_NUMBERS:
        msg = (
            f"the fallback '{spec.table}' has {numbers.num_rows:,} segments of "
            f"{numbers.num_columns} numbers, expected {MOST_NUMBERS:,} numbers at most. "
            f"{NOTHING_DONE}"
        )
        raise ContractError(msg)
    each = zip(*(column.to_pylist() for column in numbers.columns), strict=True)
    found = [
        FallbackRow(segment=segment, outputs=row)
        for segment, row in zip(segments, each, strict=True)
    ]
    found.sort(key=lambda row: (row.segment is not None, row.segment))
    return Fallback(by=spec.by, rows=tuple(found))


def _typed(
    rows: pa.Table, spec: FallbackSpec, contract: Contract
) -> tuple[pa.Table, list[str | None]]:
    """The outputs in the types that they are written in, and the segment of each row."""
    fields = [
        field
        for output in contract.outputs
        for field in output.fields(contract.vocabularies)
    ]
    names = [*([spec.by] if spec.by else []), *(field.name for field in fields)]
    if set(rows.column_names) != set(names):
        msg = (
            f"the fallback '{spec.table}' has the columns {rows.column_names}, expected "
            f"{names}. {NOTHING_DONE}"
        )
        raise ContractError(msg)
    typed = {}
    for field in fields:
        column = rows[field.name]
        try:
            typed[field.name] = column.cast(field.type)
        except pa.ArrowException as error:
            msg = (
                f"the fallback '{spec.table}': '{field.name}' is {column.type}, expected "
                f"{field.type}: {error}. {NOTHING_DONE}"
            )
            raise ContractError(msg) from error
    segments = rows[spec.by].cast(pa.string()).to_pylist() if spec.by else []
    return pa.table(typed), segments or [None] * len(rows)


def _known(rows: pa.Table, contract: Contract) -> pa.Table:
    """Rankings without items that the model does not know, and no longer than is held.

    A query of what is popular knows of no vocabulary, and the newest are in none yet.
    """
    for output in _rankings(contract):
        words = set(contract.vocabularies[output.vocabulary])
        names = output.name, output.scores
        lists = zip(*(rows[name].to_pylist() for name in names), strict=True)
        kept = [
            [pair for pair in zip(*both, strict=True) if pair[0] in words]
            for both in lists
        ]
        for at, name in enumerate(names):
            values = [[pair[at] for pair in pairs[: output.width]] for pairs in kept]
            column = pa.array(values, rows[name].type)
            rows = rows.set_column(rows.column_names.index(name), name, column)
    return rows


def _rankings(contract: Contract) -> list[Ranking]:
    return [output for output in contract.outputs if isinstance(output, Ranking)]


def _must_be_rows(
    rows: pa.Table, segments: list[str | None], spec: FallbackSpec, contract: Contract
) -> None:
    """Refuse rows that lack something, or that two keys could mean."""
    twice = sorted(str(name) for name, rows in Counter(segments).items() if rows > 1)
    problem = None
    if not segments:
        problem = "has no row"
    elif twice:
        what = f"'{twice[0]}'" if spec.by else "all keys: name a column with `by`"
        problem = f"has several rows for {what}"
    elif empty := [name for name in rows.column_names if rows[name].null_count]:
        problem = f"has a null in '{empty[0]}'"
    elif uneven := [one.name for one in _rankings(contract) if _is_uneven(rows, one)]:
        problem = f"has another number of scores than of items in '{uneven[0]}'"
    if problem:
        msg = f"the fallback '{spec.table}' {problem}. {NOTHING_DONE}"
        raise ContractError(msg)


def _is_uneven(rows: pa.Table, ranking: Ranking) -> bool:
    items, scores = (
        pc.list_value_length(rows[name]) for name in (ranking.name, ranking.scores)
    )
    return bool(pc.any(pc.not_equal(items, scores)).as_py())


def _must_be_as_declared(
    rows: pa.Table,
    given: pa.Table,
    segments: list[str | None],
    spec: FallbackSpec,
    contract: Contract,
) -> None:
    """Refuse rows that a model could not have given."""
    words = contract.vocabularies
    for output in contract.outputs:
        computed = output.read(rows, words)
        wrong = output.at_fault(computed, words)
        if wrong is not None and wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            segment = f", of '{segments[at]}'" if spec.by else ""
            shown = str(given[output.name][at])[:SHOWN]
            msg = (
                f"the fallback '{spec.table}': {output.why(computed, at, words)}; it has "
                f"{shown}{segment}. {NOTHING_DONE}"
            )
            raise ContractError(msg)
