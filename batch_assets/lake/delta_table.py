"""One Delta table of a pipeline, and the one act that changes it: commit a day.

Workers only write parts; a day becomes visible, whole, in one transaction. Each
transaction names its day, so the log itself refuses the second of two that change the
same day at once. It knows neither the other tables nor any model.
"""

import hashlib
import json
import logging
import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Generic, Self, TypeVar, cast
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction, Transaction

from batch_assets.errors import CommitError, CorruptPartError, LakeError
from batch_assets.lake.commits import CommitFacts, Producer, must_be_read
from batch_assets.lake.delta_actions import shard_of, transactions
from batch_assets.lake.delta_log import (
    actions_of,
    damaged_entry,
    entries_of,
    files_of,
    one_line,
    open_delta,
    rows_by_day,
    same_type,
)
from batch_assets.lake.known_parts import known_parts, opened
from batch_assets.lake.log_answers import asked_once
from batch_assets.lake.parts import Part, verified_part
from batch_assets.lake.receipts import Receipt
from batch_assets.storage import (
    COPYING,
    StoragePath,
    advice,
    delta_options,
    each,
    looks,
)

ATTEMPTS = 20
# The log is the history of what was served: keep its entries for ten years.
CONFIGURATION = {"delta.logRetentionDuration": "interval 3650 days"}
ROWS = {"rows by day": rows_by_day}
PARTITIONS = [("day", pa.string()), ("shard", pa.int32())]

R = TypeVar("R", bound=Receipt)
C = TypeVar("C", bound=CommitFacts)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DayCommit(Generic[C]):
    """A day of a table as it was last committed: its version, its time and its facts.

    `parts` names the very bytes that were committed, as `digest_of` does. `producer` is
    None where nobody said which run it was.
    """

    version: int
    at: datetime
    parts: str
    facts: C
    producer: Producer | None = None


class Table(Generic[R, C]):
    """One Delta table, partitioned by day and shard."""

    def __init__(self, path: StoragePath, receipts: type[R], commits: type[C]) -> None:
        """Name a table; nothing is opened yet.

        Args:
            path: its folder, which bears its name.
            receipts: the type of its parts' receipts.
            commits: the type of what its commits record.
        """
        self.path = path
        self.name = path.name
        self.receipts, self._commits = receipts, commits
        self._shards: Collection[int] | None = None

    def of_shards(self, shards: Collection[int] | None) -> Self:
        """Return the table whose days are read of these shards alone; of None, whole."""
        some = copy(self)
        some._shards = shards
        return some

    def part_path(self, day: str, shard: int, job: str, chunk: int) -> StoragePath:
        """Return a part's path; its name holds its job, so no two jobs share a file."""
        name = f"{job[:16]}-{chunk:05d}.parquet"
        return self.path / f"day={day}" / f"shard={shard}" / name

    def read_part(self, day: str, shard: int, job: str, chunk: int) -> Part[R]:
        """Open one part of a day, committed or not.

        Raises:
            CorruptPartError: it is not there, torn, or another part than its name says.
        """
        return self._own(day, opened(self.part_path(day, shard, job, chunk)))

    def parts(self, day: str) -> list[Part[R]]:
        """Return the committed parts of a day, by shard and chunk; there may be none.

        Raises:
            CorruptPartError: a part is not what was committed.
        """
        files = self._files(day)
        parts = known_parts(self.path, day, [path for path, _ in files])
        for part, (path, size) in zip(parts, files, strict=True):
            if part.size != size:
                msg = f"part {path} has {part.size} bytes, {size} were committed"
                raise CorruptPartError(msg)
        return [self._own(day, part) for part in parts]

    def done(self, day: str, job: str, key: str) -> list[Part[R]] | None:
        """Return the parts of a day if this job has committed it and all are whole."""
        try:
            parts = self.parts(day)
            if {part.receipt.job for part in parts} != {job}:
                return None
            return each(
                self.path,
                lambda part: self._own(day, verified_part(part.path, key)),
                parts,
                at_once=COPYING,
            )
        except CorruptPartError as error:
            log.warning("%s; %s is made again", error, day)
            return None

    def paths(self, day: str) -> list[StoragePath]:
        """Return the files of a day's committed parts, by shard and chunk."""
        return [path for path, _ in self._files(day)]

    def all_paths(self) -> list[StoragePath]:
        """Return the files of every day's committed parts, by day."""
        actions = actions_of(self._open(), "path", "partition.day")
        ordered = sorted(actions, key=lambda action: action["partition.day"])
        return [self.path / unquote(action["path"]) for action in ordered]

    def dataset(self) -> ds.Dataset | None:
        """Open all that is committed, with its day and shard, read as it is asked for."""
        table = self._open()
        return table and table.to_pyarrow_dataset()

    def rows_by_day(self) -> dict[str, int]:
        """Return the committed row count of each day, from the log alone."""
        return dict(asked_once(self.path, "rows by day", rows_by_day) or {})

    def size(self) -> tuple[int, int]:
        """Return how many rows and bytes are committed, of all days, from the log alone."""
        actions = actions_of(self._open(), "num_records", "size_bytes")
        rows = sum(action["num_records"] for action in actions)
        return rows, sum(action["size_bytes"] for action in actions)

    def last_commit(self, day: str) -> DayCommit[C] | None:
        """Return the newest commit of a day, from the log.

        Raises:
            LakeError: an entry of the log is damaged.
        """
        return asked_once(self.path, ("commit", day), lambda t: self._newest(t, day))

    def _newest(self, table: DeltaTable, day: str) -> DayCommit[C] | None:
        for entry in entries_of(self.path, table):
            try:
                facts = json.loads(entry.get("batch_assets", "null"))
                if facts and facts["day"] == day:
                    must_be_read(facts, f"{self.name} {day}")
                    at = datetime.fromtimestamp(entry["timestamp"] / 1000).astimezone()
                    own, by = self._commits.loads(facts), facts.get("producer")
                    made_by = Producer(**by) if by else None
                    parts = facts["parts"]
                    return DayCommit(entry["version"], at, parts, own, made_by)
            except (ValueError, KeyError, TypeError) as error:
                raise damaged_entry(self.path, entry["version"], error) from error
        return None

    def commit_day(
        self,
        day: str,
        parts: Sequence[Part[R]],
        schema: pa.Schema,
        facts: C,
        *,
        guard: Callable[[], None] = lambda: None,
        producer: Producer | None = None,
    ) -> None:
        """Let a day consist of these parts, in one transaction.

        What is committed already stays untouched, what is not among them is removed.

        Args:
            day: the day.
            parts: its parts; none empties the day.
            schema: the columns of the parts, without day and shard.
            facts: what the commit records beside the files.
            guard: called before each attempt; raises if this run may not commit.
            producer: which run commits it, and of which code.

        Raises:
            CommitError: other writers won each time; the day is as it was.
            LakeError: a column has another type than in the days before.
        """
        if asked_once(self.path, "rows by day", rows_by_day) is None:
            if not parts:
                return
            self._create(schema)
        self._must_be_as_written(parts)
        by = {"producer": asdict(producer)} if producer else {}
        recorded = {"day": day, **facts.dumps(), "parts": digest_of(parts), **by}
        custom = {"batch_assets": json.dumps(recorded)}
        for attempt in range(ATTEMPTS):
            # Opened before the guard: whatever is committed after it is a conflict.
            table = self._with_whole_newest()
            guard()
            try:
                self._add_columns(table, schema)
                turn = table.transaction_version(f"day={day}") or 0
                for actions in self._changes(table, day, parts):
                    turn = self._transact(table, day, actions, custom)
            except CommitFailedError:
                # Somebody else committed meanwhile. Look again, then try again.
                time.sleep(random.uniform(0.02, 0.1) * (attempt + 1))
            except (OSError, DeltaError) as error:  # The latter, if an entry is late.
                msg = (
                    f"{self.name} {day} can't be committed: {one_line(error)}. The day is "
                    f"as it was, or its answer alone was lost. {advice(self.path)}."
                )
                raise CommitError(msg) from error
            else:
                self._must_be_committed(day, parts, turn)
                return
        msg = (
            f"{self.name} {day} could not be committed in {ATTEMPTS} attempts: other "
            "writers were faster each time. The table is as it was; run the day again."
        )
        raise CommitError(msg)

    def _must_be_as_written(self, parts: Sequence[Part[R]]) -> None:
        """Refuse to commit what was meant to be written but does not lie there."""
        stored = each(self.path, opened, [part.path for part in parts])
        for part, lies_there in zip(parts, stored, strict=True):
            if lies_there != part:
                msg = f"part {part.path} was changed while its day was made"
                raise CorruptPartError(msg)

    def _changes(
        self, table: DeltaTable, day: str, parts: Sequence[Part[R]]
    ) -> Iterator[list[AddAction | RemoveAction]]:
        """The transactions that make a day consist of these parts: none, one or two."""
        committed = dict(self._of_shards(files_of(table, day)))
        wanted = {part.path: part.size for part in parts}
        rewritten = any(
            committed.get(path, size) != size for path, size in wanted.items()
        )
        if committed == wanted and (last := self.last_commit(day)):
            # All the same names and sizes: what was recorded tells the bytes apart.
            rewritten = last.parts != digest_of(parts)
        return transactions(self.path, day, committed, parts, rewritten=rewritten)

    def _transact(
        self,
        table: DeltaTable,
        day: str,
        actions: list[AddAction | RemoveAction],
        custom: dict[str, str],
    ) -> int:
        name = f"day={day}"
        turn = (table.transaction_version(name) or 0) + 1
        table.create_write_transaction(
            actions,
            mode="append",
            schema=table.schema(),
            partition_by=[column for column, _ in PARTITIONS],
            commit_properties=CommitProperties(
                custom_metadata=custom, app_transactions=[Transaction(name, turn)]
            ),
        )
        table.update_incremental()
        return turn

    def _with_whole_newest(self) -> DeltaTable:
        """Open the table to put an entry on its newest.

        On a damaged one nothing is put: as the newest it can still be taken aside.
        """
        table = open_delta(self.path)
        entries_of(self.path, table, 1)
        return table

    def _must_be_committed(self, day: str, parts: Sequence[Part[R]], turn: int) -> None:
        """Refuse to go on from a commit that the log does not show, whatever it said.

        `turn` is the day's transaction that made it; a later one is another writer's.
        """
        wanted = {part.path: part.size for part in parts}
        for _ in looks():
            table = open_delta(self.path)
            shown = table.transaction_version(f"day={day}") or 0
            if shown > turn:
                return
            if shown == turn and dict(self._of_shards(files_of(table, day))) == wanted:
                return
        msg = (
            f"{self.name} {day} was said to be committed, and the log does not show it. "
            "Nothing is built on it; see what is wrong with the disk or the store, and "
            "run the day again."
        )
        raise CommitError(msg)

    def _own(self, day: str, part: Part[Receipt]) -> Part[R]:
        """Refuse a part that belongs to another table, day, shard or job."""
        receipt = part.receipt
        path = self.part_path(day, receipt.shard, receipt.job, receipt.chunk)
        if (
            not isinstance(receipt, self.receipts)
            or (receipt.day, part.path) != (day, path)
            or receipt.table != self.name
        ):
            msg = (
                f"part {part.path} is of {receipt.table} {receipt.day}, shard "
                f"{receipt.shard}, job {receipt.job[:16]}: it is not what was committed"
            )
            raise CorruptPartError(msg)
        return cast("Part[R]", part)

    def _files(self, day: str) -> list[tuple[StoragePath, int]]:
        """The committed files of a day and their bytes, by shard and chunk."""
        listed = asked_once(self.path, ("files", day), lambda t: files_of(t, day), ROWS)
        return self._of_shards(listed or ())

    def _of_shards(
        self, listed: Sequence[tuple[str, int]]
    ) -> list[tuple[StoragePath, int]]:
        """Files as the log lists them, by shard and chunk; those of other shards left out."""
        files = [(self.path / unquote(path), size) for path, size in listed]
        if (shards := self._shards) is not None:
            files = [file for file in files if shard_of(file[0]) in shards]
        return sorted(files, key=lambda file: (shard_of(file[0]), file[0].name))

    def _open(self) -> DeltaTable | None:
        try:
            return open_delta(self.path)
        except TableNotFoundError:
            return None

    def _create(self, schema: pa.Schema) -> None:
        whole = pa.schema(
            list(schema.remove_metadata()) + [pa.field(n, t) for n, t in PARTITIONS]
        )
        self.path.mkdir(parents=True, exist_ok=True)
        DeltaTable.create(
            str(self.path),
            whole,
            mode="ignore",
            partition_by=[name for name, _ in PARTITIONS],
            configuration=CONFIGURATION,
            storage_options=delta_options(self.path),
        )

    def _add_columns(self, table: DeltaTable, schema: pa.Schema) -> None:
        """Let the table grow by new columns; refuse a column that changes its type."""
        types = {f.name: f.type for f in pa.schema(table.schema().to_arrow())}
        retyped = [
            f"'{f.name}', got: {f.type}, expected: {types[f.name]}"
            for f in schema
            if f.name in types and not same_type(types[f.name], f.type)
        ]
        if retyped:
            msg = (
                f"{self.name} can't take columns of another type than in the days "
                f"before: {'; '.join(retyped)}. Name the new column differently, or "
                "score it in a pipeline of its own."
            )
            raise LakeError(msg)
        new = [f for f in schema if f.name not in types]
        if new:
            fields = pa.schema([f.with_nullable(True) for f in new])
            table.alter.add_columns(list(Schema.from_arrow(fields).fields))


def digest_of(parts: Sequence[Part[Receipt]]) -> str:
    """Names the very bytes of a day: a digest of its parts' digests, in any order."""
    seals = sorted((part.path.name, part.receipt.shard, part.sha256) for part in parts)
    return hashlib.sha256(json.dumps(seals).encode()).hexdigest()
