"""How fast one core reads and writes parts, where a pipeline's tables lie.

It reads some of a day's validated features as a worker does, and writes some of its
predictions beside the tables, where nobody looks; they are gone afterwards. What lies in
the memory of this machine already is read from there.
"""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from batch_assets.lake.page_layout import NUMBERS
from batch_assets.lake.part_writer import PartWriter
from batch_assets.lake.parts import Part, read_columns
from batch_assets.lake.receipts import Receipt
from batch_assets.lake.tables import Lake
from batch_assets.storage import remove_tree

R = TypeVar("R", bound=Receipt)

# So many of a day's parts, the largest, and so many rows of each: seconds, not minutes.
PARTS, MOST_ROWS = 8, 1 << 20
# Of a part with fewer rows, opening it is what takes the time.
TELLING_ROWS = 10_000


@dataclass(frozen=True)
class Probe:
    """What was read and written, in rows a second of one core.

    `seconds_per_row` is that of each part that was read and has rows enough to tell how
    parts differ; `written` None if the day has no predictions.
    """

    day: str
    rows: int
    read: float
    written: float | None
    seconds_per_row: tuple[float, ...]

    @property
    def is_telling(self) -> bool:
        """Whether parts were large enough for these to be rates of rows."""
        return bool(self.seconds_per_row)


def probe(lake: Lake, day: str) -> Probe | None:
    """Read some parts of a committed day, and write some; None if it has no rows.

    Raises:
        CorruptPartError: a part is not what was committed.
        LakeError: nothing can be written there.
    """
    parts = _largest(lake.validated_features.parts(day))
    read = [_read(part) for part in parts]
    if not read:
        return None
    rows, seconds = sum(rows for rows, _ in read), sum(took for _, took in read)
    return Probe(
        day,
        rows,
        rows / seconds,
        _written(lake, _largest(lake.predictions.parts(day))),
        tuple(took / rows for rows, took in read if rows >= TELLING_ROWS),
    )


def _largest(parts: Sequence[Part[R]]) -> list[Part[R]]:
    some = [part for part in parts if part.rows]
    return sorted(some, key=lambda part: part.rows, reverse=True)[:PARTS]


def _read(part: Part[Receipt]) -> tuple[int, float]:
    begin = time.perf_counter()
    table = read_columns(part.path, groups=_groups(part))
    return len(table), time.perf_counter() - begin


def _groups(part: Part[Receipt]) -> list[int]:
    """The first row groups, of about so many rows."""
    groups, rows = [0], part.groups[0]
    for group, count in enumerate(part.groups[1:], 1):
        if rows + count > MOST_ROWS:
            break
        groups.append(group)
        rows += count
    return groups


def _written(lake: Lake, parts: Sequence[Part[Receipt]]) -> float | None:
    """Rows a second that are written of these parts, each synced, as a chunk's are."""
    folder = lake.folder / f".probe-{uuid.uuid4().hex[:12]}"
    rows, seconds = 0, 0.0
    try:
        for number, part in enumerate(parts):
            if len(part.groups) > 1 and part.rows > MOST_ROWS:
                continue  # Its receipt is of all its rows: no less can be written.
            table = read_columns(part.path)
            begin = time.perf_counter()
            with PartWriter(
                folder / f"{number}.parquet",
                table.schema,
                row_group_rows=max(len(table), 1),
                layout=NUMBERS,
            ) as writer:
                writer.write(table)
                writer.finish(part.receipt)
            seconds += time.perf_counter() - begin
            rows += len(table)
    finally:
        if folder.exists() or folder.is_dir():
            remove_tree(folder)
    return rows / seconds if rows else None
