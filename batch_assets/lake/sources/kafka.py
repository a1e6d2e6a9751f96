"""The messages of a topic that a day brought, the last one of each key.

It knows the YAML, and which offsets a day is; `kafka_log` knows the client, and
`kafka_rows` makes rows of messages.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from batch_assets.errors import SourceError
from batch_assets.lake.source_files import Signature
from batch_assets.lake.sources.base import BaseSource, ReadContext, SourceTable
from batch_assets.lake.sources.kafka_log import Broker, Offsets, TopicLog, end_of
from batch_assets.lake.sources.kafka_rows import RowsOfMessages, types_of

# What a day's offsets mean, or how they are read, is not the YAML's to say.
OURS = re.compile(
    r"^(bootstrap\.servers|metadata\.broker\.list|group\.(?!id$).*|isolation\.level|"
    r"enable\..*|auto\..*|.*_cb|test\..*|plugin\..*)$"
)
SECRETS = re.compile(r"(password|secret|token|\.pem$|jaas|credential)", re.IGNORECASE)
SKIPPED = re.compile(r"^\d+:\d+$")


class KafkaSource(BaseSource):
    """A Kafka topic; a day's rows are the last message of each key that the day brought.

    From where the night before ended to the first message of the next day, partition by
    partition.
    """

    shown_as: ClassVar[str] = "kafka"
    asks_commits: ClassVar[bool] = True
    kind: Literal["kafka"]
    bootstrap_servers: str = Field(
        min_length=1, description="As `host:port,host:port`."
    )
    topic: str = Field(min_length=1)
    columns: dict[str, str] = Field(
        min_length=1,
        description="The columns of a row, each with its type, in the contract's words; "
        "lists as `list[int64]`.",
    )
    read_as: Literal["changes", "state"] = Field(
        default="changes",
        description="`changes` are the messages of the day; `state` is the last message "
        "of every key, from the topic's beginning to the end of the day.",
    )
    key_in: Literal["message", "value"] = Field(
        default="message",
        description="Where the key of a row is: the message's key, or a field of its "
        "value.",
    )
    config: dict[str, str] = Field(
        default_factory=dict,
        description="Settings of the client, by librdkafka's names; no secrets.",
    )
    config_env: dict[str, str] = Field(
        default_factory=dict,
        description="More settings, each with the environment variable that holds it.",
    )
    skip: list[str] = Field(
        default_factory=list,
        description="Messages that are left out, each as `partition:offset`.",
    )
    offset_reset: Literal["none", "earliest"] = Field(
        default="none",
        description="What is done where no night says where the day begins, and the "
        "topic may have lost some of it: `none` stops, `earliest` takes what is there.",
    )
    timeout_seconds: float = Field(
        default=60,
        gt=0,
        allow_inf_nan=False,
        description="For how long the brokers may be silent.",
    )
    memory_limit: str = "1GB"

    @field_validator("columns")
    @classmethod
    def _types_are_known(cls, columns: dict[str, str]) -> dict[str, str]:
        types_of(columns)
        return columns

    @field_validator("skip")
    @classmethod
    def _skipped_are_messages(cls, skip: list[str]) -> list[str]:
        for one in skip:
            if not SKIPPED.match(one):
                msg = f"a message is named 'partition:offset', as '0:1042', got '{one}'"
                raise ValueError(msg)
        return skip

    @model_validator(mode="after")
    def _settings_are_the_clients(self) -> Self:
        for name in (*self.config, *self.config_env):
            if OURS.match(name):
                msg = f"the setting '{name}' is not free: it decides what a day's rows are"
                raise ValueError(msg)
        if secret := next((n for n in self.config if SECRETS.search(n)), None):
            msg = (
                f"'{secret}' may be a secret, and does not belong into the YAML: name the "
                f"variable that holds it, as in `config_env: {{{secret}: MY_VARIABLE}}`"
            )
            raise ValueError(msg)
        if twice := sorted(self.config.keys() & self.config_env.keys()):
            msg = f"'{twice[0]}' is in `config` and in `config_env`: say it once"
            raise ValueError(msg)
        return self

    def read_from(self) -> list[SourceTable]:
        """Return the topic."""
        address = f"kafka://{self.bootstrap_servers}/{self.topic}"
        return [SourceTable("", address, self.shown_as)]

    def keeps_history(self, base: Path) -> bool:
        """Return that it does: what a day brought is told by its offsets."""
        return True

    def identity(self, context: ReadContext) -> dict[str, Any]:
        """Return the topic, and from which offset to which it is read in each partition.

        They are found once, and pinned by the commit of the day: a day that is there
        already keeps them, and asks no broker.

        Raises:
            ConfigError: a variable of the environment is not set.
            SourceError: the topic is not there, or can't be read from where the day
                begins; the day is not over; or nothing keeps its offsets.
        """
        if context.committed is None:
            msg = (
                f"the topic '{self.topic}' can't be read here: where a day of it begins "
                "and ends is kept in the commits of `raw_features` or of the outcomes, and "
                "nothing keeps it for a side table. Take a file, a query or a table."
            )
            raise SourceError(msg)
        if context.key not in self.columns:
            msg = (
                f"the key '{context.key}' of the contract is not among `columns` of the "
                f"topic '{self.topic}': {', '.join(self.columns)}. Add it, with its type"
            )
            raise SourceError(msg)
        own = self._of_commit(context.committed.get(context.day))
        if own is not None:
            return self._named(context, own, own["offsets"])
        with self._open() as log:
            offsets = self._offsets(context, log, context.committed)
            return self._named(context, log.facts, offsets)

    def signature(self, context: ReadContext) -> Signature:
        """Return nothing: between two offsets a topic gets no other messages."""
        return []

    @contextmanager
    def read(self, context: ReadContext) -> Iterator[pa.RecordBatchReader]:
        """Stream the last message of each key as a row, in the order of their offsets.

        Messages are put on disk first; memory holds `memory_limit`, a batch, and what the
        client has fetched ahead.

        Raises:
            SourceError: some of the messages are gone or can't be read, or a message is
                no row.
        """
        named = context.identity or self.identity(context)
        offsets: Offsets = {int(p): tuple(o) for p, o in named["offsets"].items()}
        rows = RowsOfMessages(
            self.topic,
            types_of(self.columns),
            context.key,
            in_value=self.key_in == "value",
        )
        with self._open() as log:
            log.must_be(named)
            log.must_hold(offsets)
            with rows.spooled(self.memory_limit) as spool:
                for messages in log.messages(offsets):
                    spool.add(m for m in messages if m.name not in named["skip"])
                log.must_not_be_compacted(offsets, context.day, context.timezone)
                yield pa.RecordBatchReader.from_batches(rows.schema, spool.batches())

    def _open(self) -> TopicLog:
        broker = Broker(
            self.bootstrap_servers, self.config, self.config_env, self.timeout_seconds
        )
        return TopicLog(broker, self.topic)

    def _named(
        self,
        context: ReadContext,
        topic: Mapping[str, Any],
        offsets: Mapping[Any, Any],
    ) -> dict[str, Any]:
        spans = {int(p): (int(o[0]), int(o[1])) for p, o in offsets.items()}
        return {
            "kind": self.kind,
            "topic": self.topic,
            "cluster": topic["cluster"],
            "topic_id": topic["topic_id"],
            "day": context.day,
            "timezone": context.timezone,
            "read_as": self.read_as,
            "key_in": self.key_in,
            "columns": dict(self.columns),
            # Of other days' messages it changes nothing.
            "skip": sorted(one for one in self.skip if _is_in(one, spans)),
            "offsets": {str(p): list(spans[p]) for p in sorted(spans)},
        }

    def _of_commit(self, taken: Any) -> Any:
        """Return what a day was taken from, if its offsets are of this topic's days."""
        # What a name of the YAML is in an identity; other kinds have other names.
        same = {"kind": self.kind, "topic": self.topic, "read_as": self.read_as}
        ours = isinstance(taken, dict) and same.items() <= taken.items()
        return taken if ours else None

    def _offsets(
        self, context: ReadContext, log: TopicLog, committed: Mapping[str, Any]
    ) -> Offsets:
        """Find where the day begins and ends in each partition.

        The clock says it, but within what the nearest days that are committed left: no
        message is of two days, and none is between a day and the next.
        """
        held = log.held()
        if self.read_as == "state":
            return self._state(context, log, held)
        earlier, later = _neighbours(context.day, committed)
        before = self._of_commit(committed.get(earlier))
        if before is not None and not log.went_on_from(before, held):
            if self.offset_reset == "none":
                raise log.was_made_anew(before)
            before = None
        after = self._of_commit(committed.get(later))
        if after is not None and not log.went_on_from(after, held):
            after = None
        ends = log.at(end_of(context.day, context.timezone))
        if after is not None:
            # A partition that the later day did not know yet has nothing of this one.
            first = {p: after["offsets"].get(str(p), held[p])[0] for p in held}
            next_day = later == _beside(context.day, 1)
            ends = {p: first[p] if next_day else min(ends[p], first[p]) for p in held}
        if before is not None and earlier == _beside(context.day, -1):
            begins = self._from_the_night_before(log, before, held)
        else:
            begins = self._by_the_clock(context, log, before, held)
            begins = {p: min(begins[p], ends[p]) for p in held}
        return {p: (begins[p], ends[p]) for p in held}

    def _state(self, context: ReadContext, log: TopicLog, held: Offsets) -> Offsets:
        begins = {p: low for p, (low, _) in held.items()}
        if self.offset_reset == "none":
            log.must_be_whole(begins)
        ends = log.at(end_of(context.day, context.timezone))
        return {p: (begins[p], ends[p]) for p in held}

    def _from_the_night_before(
        self, log: TopicLog, before: Mapping[str, Any], held: Offsets
    ) -> dict[int, int]:
        ends = {int(p): end for p, (_, end) in before["offsets"].items()}
        new = {p: low for p, (low, _) in held.items() if p not in ends}
        if self.offset_reset == "none":
            log.must_be_whole(new)
        return ends | new

    def _by_the_clock(
        self, context: ReadContext, log: TopicLog, before: Any, held: Offsets
    ) -> dict[int, int]:
        begins = log.at(end_of(_beside(context.day, -1), context.timezone))
        known = (
            {int(p): end for p, (_, end) in before["offsets"].items()} if before else {}
        )
        if self.offset_reset == "none":
            # Whether the day began before what is there, nothing tells any more.
            log.must_be_whole(
                {
                    p: low
                    for p, (low, _) in held.items()
                    if begins[p] == low and known.get(p, -1) < low
                }
            )
        # Never before what an earlier day took: offsets by time grow with both times.
        return begins


def _beside(day: str, days: int) -> str:
    return str(date.fromisoformat(day) + timedelta(days=days))


def _neighbours(day: str, days: Iterable[str]) -> tuple[str, str]:
    """Return the nearest days before and after; empty where there is none."""
    known = list(days)
    earlier = max((one for one in known if one < day), default="")
    return earlier, min((one for one in known if one > day), default="")


def _is_in(message: str, offsets: Offsets) -> bool:
    partition, offset = map(int, message.split(":"))
    begin, end = offsets.get(partition, (0, 0))
    return begin <= offset < end
