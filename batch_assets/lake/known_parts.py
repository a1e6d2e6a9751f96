"""What the footers of a day's parts said, kept while each is the very file that was read.

A night asks for the receipts of its day for each gate, for its books, its report and its
version: 58 times over its tables, and each time every footer was read and parsed. A file
that has the same identity is not read again. Whoever takes its rows opens it anew, and
its bytes are hashed before they are published, as ever. It knows no table.
"""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence

from batch_assets.lake.parts import Part, open_part
from batch_assets.lake.receipts import Receipt
from batch_assets.storage import StoragePath, each, identity

# The tables of a night, and the days that it looks back to; with profiles, a part takes
# 16 KiB. Of what is larger, the days that were asked for last are kept.
MOST_DAYS, MOST_PARTS = 16, 100_000

Found = tuple[Hashable, Part[Receipt]]

_days: OrderedDict[tuple[StoragePath, str], dict[StoragePath, Found]] = OrderedDict()
_lock = threading.Lock()


def known_parts(
    table: StoragePath, day: str, paths: Sequence[StoragePath]
) -> list[Part[Receipt]]:
    """Return the parts at these paths, of which only those are opened that are not known.

    Args:
        table: its folder.
        day: of the parts.
        paths: of the parts.

    Raises:
        CorruptPartError: as `open_part`.
    """
    with _lock:
        of_day = _days.get((table, day), {})
        known = {path: of_day[path] for path in paths if path in of_day}

    def found(path: StoragePath) -> Found:
        # Before it is read: another file that comes meanwhile has another identity.
        lies_there = _identity(path)
        before = known.get(path)
        if before and before[0] == lies_there:
            return before
        return lies_there, opened(path)

    parts = each(table, found, paths)
    _keep((table, day), dict(zip(paths, parts, strict=True)))
    return [part for _, part in parts]


def opened(path: StoragePath) -> Part[Receipt]:
    """Read a part's footer, whatever is known of it.

    Raises:
        CorruptPartError: as `open_part`.
    """
    return open_part(path)[0]


def _identity(path: StoragePath) -> Hashable:
    try:
        return identity(path)
    except OSError:
        return object()  # Equal to none: it is opened, which says what is wrong.


def _keep(day: tuple[StoragePath, str], parts: dict[StoragePath, Found]) -> None:
    with _lock:
        _days.setdefault(day, {}).update(parts)
        _days.move_to_end(day)
        kept = sum(map(len, _days.values()))
        while len(_days) > MOST_DAYS or kept > MOST_PARTS:
            kept -= len(_days.popitem(last=False)[1])
