"""Delta tables as other engines leave them: rows deleted in place, columns renamed.

The library that the tests write tables with makes neither. A deletion vector is written
here as the protocol describes it: a bitmap of row numbers, in a file or in the log.
"""

import json
import struct
import uuid
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake

Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
# The head of a bitmap of 64 bits in the protocol's own form, and of one of 32 in Roaring's.
MAGIC, WITHOUT_RUNS = 1681511377, 12346
FEATURE = "deletionVectors"


def rows_of(first: int, stop: int, day: str = "2026-01-05") -> pa.Table:
    """Rows of a day, as an engine writes them into a table of events."""
    keys = range(first, stop)
    visits = pa.array([key / 2 for key in keys], pa.float32())
    return pa.table({"user_id": keys, "visits": visits, "day": [day] * len(keys)})


def write(folder: Path, rows: pa.Table, *, partitioned: bool = True, **how: Any) -> str:
    """Append rows to the table of events in a folder; where it lies."""
    path = str(folder / "events")
    folder.mkdir(exist_ok=True)
    by = ["day"] if partitioned else None
    write_deltalake(path, rows, partition_by=by, mode="append", **how)
    return path


def delete_in_place(
    table: str | Path,
    rows: Iterable[int],
    *,
    inline: bool = False,
    features: Iterable[str] = (),
) -> None:
    """Commit the deletion of rows, by their numbers in the first file of the table.

    Args:
        table: where it lies.
        rows: what is deleted; a file that had deleted rows before has these alone then.
        inline: whether the log holds the vector, and not a file.
        features: that a reader has to know of the table beside this one.
    """
    folder = Path(table)
    added = min(_files(folder).values(), key=lambda add: add["path"])
    bitmap = _bitmap(sorted(rows))
    vector = {"sizeInBytes": len(bitmap), "cardinality": len(set(rows))}
    if inline:
        vector |= {"storageType": "i", "pathOrInlineDv": _z85(bitmap)}
    else:
        name = uuid.uuid4()
        data = b"\x01" + struct.pack(">i", len(bitmap)) + bitmap
        data += struct.pack(">I", zlib.crc32(bitmap))
        (folder / f"deletion_vector_{name}.bin").write_bytes(data)
        at = {"storageType": "u", "pathOrInlineDv": _z85(name.bytes), "offset": 1}
        vector |= at
    gone = {"path": added["path"], "dataChange": True, "deletionTimestamp": 1}
    wanted = [FEATURE, *features]
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7}
    protocol |= {"readerFeatures": wanted, "writerFeatures": wanted}
    commit(
        folder,
        {"protocol": protocol},
        {"remove": gone},
        {"add": added | {"deletionVector": vector}},
    )


def rename_column(table: str | Path, old: str, new: str) -> None:
    """Commit another name for a column of a table with column mapping: no file changes."""
    folder = Path(table)
    metadata = [
        action["metaData"] for action in _actions(folder) if "metaData" in action
    ][-1]
    schema = json.loads(metadata["schemaString"])
    (column,) = [one for one in schema["fields"] if one["name"] == old]
    column["name"] = new
    parts = [new if name == old else name for name in metadata["partitionColumns"]]
    changed = {"schemaString": json.dumps(schema), "partitionColumns": parts}
    commit(folder, {"metaData": metadata | changed})


def commit(folder: Path, *actions: dict[str, Any]) -> None:
    """Write the next version of a table."""
    log = folder / "_delta_log"
    version = len(list(log.glob("*.json")))
    said = {"commitInfo": {"timestamp": version, "operation": "BY HAND"}}
    lines = "\n".join(json.dumps(action) for action in (said, *actions))
    (log / f"{version:020d}.json").write_text(lines, encoding="utf-8")


def _actions(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for path in sorted((folder / "_delta_log").glob("*.json"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    """The files of the newest version, by their path."""
    files: dict[str, dict[str, Any]] = {}
    for action in _actions(folder):
        if "remove" in action:
            files.pop(action["remove"]["path"], None)
        if "add" in action:
            files[action["add"]["path"]] = action["add"]
    return files


def _bitmap(rows: list[int]) -> bytes:
    """The numbers as a portable bitmap; all are below 65,536, in one container."""
    values = b"".join(struct.pack("<H", row) for row in rows)
    container = struct.pack("<HH", 0, len(rows) - 1) + struct.pack("<I", 16) + values
    roaring = struct.pack("<II", WITHOUT_RUNS, 1) + container
    data = struct.pack("<IQI", MAGIC, 1, 0) + roaring
    return data + b"\0" * (-len(data) % 4)


def _z85(data: bytes) -> str:
    text = ""
    for at in range(0, len(data), 4):
        value, digits = int.from_bytes(data[at : at + 4], "big"), ""
        for _ in range(5):
            value, digit = divmod(value, 85)
            digits = Z85[digit] + digits
        text += digits
    return text
