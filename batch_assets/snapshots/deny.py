"""What a person does to the denylist: deny items, allow them again, replace the list.

Each is recorded with who and why before it is done, and holds for whatever is served,
now and after the next nights, until it is taken back. It knows no remote store.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from batch_assets.errors import NotServedError, SnapshotError
from batch_assets.snapshots.denylist import DENYLIST, MOST, DeniedItem, Denylist
from batch_assets.snapshots.history import Act, HistoryEntry, new_entry
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.storage import read_versioned, replace_if_unchanged, this_user

Item = int | str


@dataclass(frozen=True)
class DenylistChange:
    """The list as it is now, and what was added to it and taken off it."""

    denylist: Denylist
    denied: list[str]
    allowed: list[str]


def deny(
    store: SnapshotStore, items: Iterable[Item], *, why: str, by: str | None = None
) -> DenylistChange:
    """Let no ranking show these items any more; the next best move up.

    Args:
        store: of the pipeline's versions.
        items: words of a ranking's vocabulary, or numbers.
        why: the reason.
        by: who; this machine's user if left out.

    Raises:
        NotServedError: there is no such folder.
        SnapshotError: an item is empty, there are too many, or the list can't be read.
    """
    wanted = _texts(items)

    def add(before: list[str]) -> list[str]:
        return list(dict.fromkeys([*before, *wanted]))

    return _change(store, add, why=why, by=by)


def allow(
    store: SnapshotStore, items: Iterable[Item], *, why: str, by: str | None = None
) -> DenylistChange:
    """Let rankings show these items again.

    Raises:
        NotServedError, SnapshotError: as `deny`, or an item is not denied.
    """
    wanted = set(_texts(items))

    def remove(before: list[str]) -> list[str]:
        if lacking := sorted(wanted - set(before)):
            msg = f"{', '.join(lacking)}: not denied. Nothing was changed"
            raise SnapshotError(msg)
        return [name for name in before if name not in wanted]

    return _change(store, remove, why=why, by=by)


def replace_denylist(
    store: SnapshotStore, items: Iterable[Item], *, why: str, by: str | None = None
) -> DenylistChange:
    """Deny these items and no others, whatever the list holds, if it can be read or not.

    Raises:
        NotServedError: there is no such folder.
        SnapshotError: an item is empty, or there are too many.
    """
    wanted = _texts(items)
    return _change(store, lambda _: wanted, why=why, by=by, mend=True)


def _change(
    store: SnapshotStore,
    change: Callable[[list[str]], list[str]],
    *,
    why: str,
    by: str | None,
    mend: bool = False,
) -> DenylistChange:
    if not store.exists():
        msg = f"nothing is served at {store}: there is no such folder"
        raise NotServedError(msg)
    path = store.folder / DENYLIST
    with store.lock():
        while True:
            seen = read_versioned(path)
            before = _read(seen.data, str(path), mend=mend)
            names = change(before.names)
            if len(names) > MOST:
                msg = (
                    f"a denylist of {len(names):,} items, expected {MOST:,} at most: what "
                    "is never to be had belongs into a side table. Nothing was changed"
                )
                raise SnapshotError(msg)
            kept, who = {one.item: one for one in before.items}, by or this_user()
            now = datetime.now(UTC)
            after = Denylist(
                items=tuple(
                    kept.get(name)
                    or DeniedItem(item=name, at=now, by=who, why=why.strip())
                    for name in names
                )
            )
            denied = [name for name in names if name not in kept]
            still = set(names)
            allowed = [name for name in kept if name not in still]
            for entry in _entries(denied, allowed, why=why, by=who):
                store.record(entry)
            if after == before and not mend:
                return DenylistChange(after, denied, allowed)
            data = after.model_dump_json().encode() + b"\n"
            if replace_if_unchanged(path, data, seen=seen) is not None:
                return DenylistChange(after, denied, allowed)


def _read(data: bytes | None, where: str, *, mend: bool) -> Denylist:
    try:
        return Denylist.loads(data, where)
    except SnapshotError:
        if mend:
            return Denylist()
        raise


def _entries(
    denied: list[str], allowed: list[str], *, why: str, by: str
) -> list[HistoryEntry]:
    changes: tuple[tuple[Act, list[str]], ...]
    changes = ("deny", denied), ("allow", allowed)
    return [
        new_entry(act, None, why=why, by=by, items=tuple(items))
        for act, items in changes
        if items
    ]


def _texts(items: Iterable[Item]) -> list[str]:
    names = list(dict.fromkeys(str(item).strip() for item in items))
    if "" in names:
        msg = "an item is empty. Nothing was changed"
        raise SnapshotError(msg)
    return names
