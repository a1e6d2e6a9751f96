"""What a reader of a Delta table has to know beside its files: columns and rows that are
not what the files say.

With column mapping, a file has other names for the columns than the table. With deletion
vectors, it still holds rows that were deleted. It knows nothing of days.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import deltalake
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as fs

from batch_assets.errors import SourceError

DELETION_VECTORS, COLUMN_MAPPING = "deletionVectors", "columnMapping"
READ_HERE = {DELETION_VECTORS, COLUMN_MAPPING}
MODE = "delta.columnMapping.mode"
IN_FILES = b"delta.columnMapping.physicalName"


class OpenTable(deltalake.DeltaTable):
    """A table whose mapped columns and deleted rows are seen to here.

    The library refuses to open its files by Arrow for these two features, as Arrow knows
    neither. Any other feature that it does not know stays refused.
    """

    def protocol(self) -> Any:
        told = super().protocol()
        features = told.reader_features
        if features is None:
            return told
        left = [name for name in features if name not in READ_HERE]
        return told._replace(reader_features=left)

    @property
    def features(self) -> set[str]:
        """The features that a reader must know, by name."""
        return set(super().protocol().reader_features or ())


@dataclass(frozen=True)
class Layout:
    """What the files of a version hold, and what of it the table shows.

    Attributes:
        dataset: the files, with the columns by the names that they have there. Those
            that the table is partitioned by have the table's.
        schema: the same columns, by the table's names.
        in_files: of each name in the table, that in the files.
        kept: of each file with deleted rows, which of its rows are there still.
    """

    dataset: ds.Dataset
    schema: pa.Schema
    in_files: Mapping[str, str]
    kept: Mapping[str, pa.BooleanArray]

    def digest_of(self, path: str) -> list[str]:
        """Return what names the deleted rows of a file; nothing if there are none."""
        if path not in self.kept:
            return []
        bits = np.packbits(self.kept[path].to_numpy(zero_copy_only=False))
        return [hashlib.sha256(bits.tobytes()).hexdigest()]

    def deleted(self, path: str) -> int:
        """Return how many rows of a file are deleted."""
        kept = self.kept.get(path)
        return len(kept) - kept.true_count if kept is not None else 0


def layout_of(table: OpenTable, filesystem: fs.FileSystem | None) -> Layout:
    """Find what the files of a version hold.

    Args:
        table: at the version.
        filesystem: Arrow's own way to the files, relative to the table; the library's if
            None.

    Raises:
        SourceError: the columns can't be told, or a deletion vector is of no file.
    """
    dataset = table.to_pyarrow_dataset(filesystem=filesystem)
    names = _names(table, dataset.schema)
    if any(name != there for name, there in names.items()):
        there = pa.schema([f.with_name(names[f.name]) for f in dataset.schema])
        fragments = list(dataset.get_fragments())
        mapped = ds.FileSystemDataset(
            fragments, there, dataset.format, dataset.filesystem
        )
    else:
        mapped = dataset
    return Layout(mapped, dataset.schema, names, _kept(table, dataset))


def _names(table: OpenTable, schema: pa.Schema) -> dict[str, str]:
    """Return the name in the files of each column, by that in the table."""
    mode = table.metadata().configuration.get(MODE, "none")
    if mode == "none":
        return {name: name for name in schema.names}
    if mode != "name":
        msg = (
            f"the Delta table {table.table_uri} has column mapping by {mode}, which can't "
            "be read. Nothing was read; write it anew without, as by CREATE TABLE ... AS "
            f"SELECT, or with TBLPROPERTIES ('{MODE}' = 'name')"
        )
        raise SourceError(msg)
    if structs := [column.name for column in schema if _has_fields(column.type)]:
        msg = (
            f"column '{structs[0]}' of the Delta table {table.table_uri} has fields of its "
            "own, which column mapping gives other names in the files, and they would be "
            "read as nulls. Nothing was read; write a table with its fields as columns"
        )
        raise SourceError(msg)
    parts = set(table.metadata().partition_columns)
    names = {}
    for column in schema:
        there = (column.metadata or {}).get(IN_FILES)
        if there is None:
            msg = (
                f"the log of the Delta table {table.table_uri} does not tell what column "
                f"'{column.name}' is called in its files, though {MODE} is 'name'. "
                "Nothing was read; mend the table"
            )
            raise SourceError(msg)
        # The log, and not a file, holds what a table is partitioned by.
        names[column.name] = column.name if column.name in parts else there.decode()
    return names


def _has_fields(dtype: pa.DataType) -> bool:
    if not pa.types.is_nested(dtype):
        return False
    inner = (dtype.field(at).type for at in range(dtype.num_fields))
    return not pa.types.is_list(dtype) or any(map(_has_fields, inner))


def _kept(table: OpenTable, dataset: ds.Dataset) -> dict[str, pa.BooleanArray]:
    """Return which rows of each file are kept, of those that have deleted ones.

    Raises:
        SourceError: a deletion vector is of none of the files.
    """
    if DELETION_VECTORS not in table.features:
        return {}
    paths = {file.path for file in dataset.get_fragments()}
    root = table.table_uri.rstrip("/") + "/"
    kept = {}
    vectors = pa.RecordBatchReader.from_stream(table.deletion_vectors())
    for batch in vectors:
        for uri, rows in zip(
            batch["filepath"].to_pylist(), batch["selection_vector"], strict=True
        ):
            path = next((p for p in _paths(uri, root) if p in paths), None)
            if path is None:
                msg = (
                    f"the Delta table {table.table_uri} has a deletion vector of {uri}, "
                    "which is none of its files. Nothing was read; remove its deleted "
                    "rows with `REORG TABLE ... APPLY (PURGE)`"
                )
                raise SourceError(msg)
            # A copy: it would hold those of all files otherwise.
            kept[path] = pa.array(rows.values.to_numpy(zero_copy_only=False))
    return kept


def _paths(uri: str, root: str) -> list[str]:
    """Return what a file's address may be as a path in the table: quoted, or not."""
    path = uri.removeprefix(root)
    return [path, unquote(path)]
