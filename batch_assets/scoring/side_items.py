"""What the side tables of a day list for rows, as positions in a vocabulary.

It scores nothing.
"""

import functools
import logging
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_assets.errors import ContractError
from batch_assets.lake.side_tables import SideTable, read_side_table
from batch_assets.models.contract import Contract
from batch_assets.models.input_rows import InputRows, Lists, SideItems
from batch_assets.models.input_specs import Ids
from batch_assets.models.post_specs import SideTable as SideTableSpec
from batch_assets.models.release import Release
from batch_assets.spec import FallbackSpec

log = logging.getLogger(__name__)

ITEM = "item"
# Of rows whose ids are in no group, and of all rows where a group is null.
OTHERS = -1


def must_name_tables(
    names: Iterable[str], release: Release, fallback: FallbackSpec | None = None
) -> None:
    """Refuse a pipeline that has other side tables than its release and fallback need.

    Raises:
        ContractError: with both.
    """
    needed = {*release.side_tables, *([fallback.table] if fallback else [])}
    if sorted(names) != sorted(needed):
        beside = f", and its fallback '{fallback.table}'" if fallback else ""
        msg = (
            f"release {release.name} {release.short} needs the side tables "
            f"{sorted(release.side_tables)}{beside}; the pipeline's `side_tables` are "
            f"{sorted(names)}. Nothing was read or written."
        )
        raise ContractError(msg)


def with_side_items(
    rows: InputRows, tables: tuple[SideTable, ...], release: Release
) -> InputRows:
    """Return rows with what each side table lists for them.

    Raises:
        ContractError: a table does not fit the release.
        LakeError: a table is not what it was when the night began.
    """
    side = {}
    for table in tables:
        keys, lists, by = _loaded(table, release)
        if by is None:
            side[table.name] = SideItems(lists)
            continue
        ids = rows.columns[by]
        assert isinstance(ids, np.ndarray)
        at = np.searchsorted(keys, ids)
        at[at == len(keys)] = 0
        group = np.where(keys[at] == ids, at, len(keys)) if len(keys) else 0 * ids
        side[table.name] = SideItems(lists, group)
    return InputRows(rows.features, rows.columns, side)


# A worker scores chunk after chunk of one day.
@functools.lru_cache(maxsize=8)
def _loaded(table: SideTable, release: Release) -> tuple[np.ndarray, Lists, str | None]:
    """The groups of a table, sorted, a list for each and one for all others."""
    (spec,) = (
        one
        for one in (release.manifest.post.tables if release.manifest.post else ())
        if one.name == table.name
    )
    rows = read_side_table(table)
    items = _items(table, spec, rows, release.contract)
    kept = items >= 0
    if spec.by is None:
        return np.empty(0, np.int64), Lists.of([np.unique(items[kept])], "int64"), None
    groups = _groups(table, spec.by, rows, release.contract)
    by_group: Mapping[int, np.ndarray] = {
        int(group): items[kept & (groups == group)] for group in np.unique(groups[kept])
    }
    everywhere = by_group.get(OTHERS, np.empty(0, np.int64))
    keys = np.array(sorted(set(by_group) - {OTHERS}), np.int64)
    lists = [np.union1d(by_group[key], everywhere) for key in keys.tolist()]
    return keys, Lists.of([*lists, np.unique(everywhere)], "int64"), spec.by


def _items(
    table: SideTable, spec: SideTableSpec, rows: pa.Table, contract: Contract
) -> np.ndarray:
    """The position of each item; below 0 where the vocabulary has none."""
    words = pa.array(contract.vocabularies[spec.vocabulary])
    expected = [ITEM, *([spec.by] if spec.by else [])]
    if set(rows.column_names) != set(expected):
        msg = (
            f"the side table '{table.name}' has the columns {rows.column_names}, expected "
            f"{expected}. Nothing was scored."
        )
        raise ContractError(msg)
    found = _positions(table, rows[ITEM], words)
    unknown = int((found < 0).sum())
    if unknown and unknown == len(found):
        msg = (
            f"none of the {len(found):,} items of the side table '{table.name}' is in the "
            f"vocabulary '{spec.vocabulary}' of {release_name(contract)}, such as "
            f"{rows[ITEM][0]}: is it of another catalogue? Nothing was scored."
        )
        raise ContractError(msg)
    if unknown:
        log.info("side table %s: %d items are not ranked", table.name, unknown)
    return found


def release_name(contract: Contract) -> str:
    """Return how an error names what a vocabulary is of."""
    return f"the contract {contract.digest[:12]}"


def _groups(
    table: SideTable, by: str, rows: pa.Table, contract: Contract
) -> np.ndarray:
    (ids,) = (one for one in contract.inputs if isinstance(one, Ids) and one.name == by)
    column = rows[by]
    if ids.vocabulary is None:
        found = _cast(table, column, pa.int64()).fill_null(OTHERS).to_numpy()
    else:
        words = pa.array(contract.vocabularies[ids.vocabulary])
        found = _positions(table, column, words)
        # Rows whose word the vocabulary does not know have the position `unknown`, and
        # are left without what is listed for any such word; without it, there are none.
        unknown = OTHERS - 1 if ids.unknown is None else ids.unknown
        found = np.where((found < 0) & column.is_valid().to_numpy(), unknown, found)
    return np.asarray(found, np.int64)


def _positions(
    table: SideTable, column: pa.ChunkedArray, words: pa.Array
) -> np.ndarray:
    found = pc.index_in(
        _cast(table, column, words.type), value_set=words, skip_nulls=True
    )
    return np.asarray(found.fill_null(OTHERS).to_numpy(), np.int64)


def _cast(
    table: SideTable, column: pa.ChunkedArray, dtype: pa.DataType
) -> pa.ChunkedArray:
    try:
        return column.cast(dtype)
    except pa.ArrowException as error:
        msg = (
            f"the side table '{table.name}' holds {column.type}, expected {dtype}: "
            f"{error}. Nothing was scored."
        )
        raise ContractError(msg) from error
