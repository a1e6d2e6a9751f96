"""What the log of a Delta table answered, kept until the table has another version.

To open a table reads its whole log, of every night that there ever was, and a night looks
into those of its five tables 122 times. An answer holds as long as the newest entry of the log is the very file that it
was when the table was opened, and there is none after it: to look takes two requests, and
not the log. What is kept is the answer and not the table, which grows with its history.
It knows no question.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from batch_assets.lake.delta_log import open_delta
from batch_assets.storage import StoragePath, identity

Answer = TypeVar("Answer")

# Tables of so many pipelines, and the days that a night looks back to.
MOST_TABLES, MOST_ANSWERS = 64, 32
NOTHING: Mapping[str, Callable[[DeltaTable], object]] = MappingProxyType({})


@dataclass
class _Known:
    """What one version of a table answered, and its newest entry as it lay there."""

    version: int
    entry: Hashable
    answers: OrderedDict[Hashable, Any] = field(default_factory=OrderedDict)


_tables: OrderedDict[StoragePath, _Known] = OrderedDict()
_lock = threading.Lock()


def asked_once(
    path: StoragePath,
    question: Hashable,
    ask: Callable[[DeltaTable], Answer],
    beside: Mapping[str, Callable[[DeltaTable], object]] = NOTHING,
) -> Answer | None:
    """Return what a table answers, asked at most once for each of its versions.

    Args:
        path: of the table.
        question: names what is asked; two that are equal have one answer.
        ask: called with the table as it is now, if nothing is known of this version.
        beside: questions that are asked soon, too: they are answered while it is open.

    Returns:
        The answer, which nobody may change; None of no table.

    Raises:
        StorageError: its bucket does not answer.
    """
    with _lock:
        known = _tables.get(path)
    if known and question in known.answers and _is_newest(path, known):
        with _lock:
            if question in known.answers:
                known.answers.move_to_end(question)
                answer: Answer = known.answers[question]
                return answer
    try:
        table = open_delta(path)
    except TableNotFoundError:
        with _lock:
            _tables.pop(path, None)
        return None
    answer = ask(table)
    others: dict[Hashable, object] = {q: asked(table) for q, asked in beside.items()}
    _keep(path, table.version(), {**others, question: answer})
    return answer


def _keep(path: StoragePath, version: int, answers: Mapping[Hashable, object]) -> None:
    try:
        entry = identity(_entry(path, version))
    except FileNotFoundError:
        return  # Only a checkpoint tells of it any more: the next one asks again.
    with _lock:
        known = _tables.get(path)
        if known is None or (known.version, known.entry) != (version, entry):
            known = _tables[path] = _Known(version, entry)
        known.answers.update(answers)
        _tables.move_to_end(path)
        while len(known.answers) > MOST_ANSWERS:
            known.answers.popitem(last=False)
        while len(_tables) > MOST_TABLES:
            _tables.popitem(last=False)


def _is_newest(path: StoragePath, known: _Known) -> bool:
    """Whether the table has the version still, made anew or not, that is known."""
    if _entry(path, known.version + 1).exists():
        return False
    try:
        return identity(_entry(path, known.version)) == known.entry
    except FileNotFoundError:
        return False


def _entry(path: StoragePath, version: int) -> StoragePath:
    return path / "_delta_log" / f"{version:020d}.json"
