"""A topic as its brokers hold it: offsets by time, and the messages between two offsets.

It joins no consumer group and commits no offset. It alone imports the client, which is
an extra, and knows nothing of rows.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any, Self
from zoneinfo import ZoneInfo

from batch_assets.environment import secrets_in, without_secrets
from batch_assets.errors import ConfigError, SourceError
from batch_assets.lake.sources.settings import with_secrets

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

# Of each partition, the first offset and the one after the last.
Offsets = dict[int, tuple[int, int]]

# What is in memory at once, whole: 8 MB of messages of 1 kB.
BATCH_MESSAGES = 8_192
# A batch is not waited for any longer, once there is something to read.
WAIT_SECONDS = 0.1
# What the client fetches ahead.
QUEUED_KILOBYTES = 65_536
# A client must name a group; it is never joined, because partitions are assigned.
GROUP = {"group.id": "batch-assets"}
OURS = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    # Of aborted transactions nothing is read.
    "isolation.level": "read_committed",
    # An offset that is gone is an error, and not another offset.
    "auto.offset.reset": "error",
    "enable.partition.eof": True,
    "queued.max.messages.kbytes": QUEUED_KILOBYTES,
    # What goes wrong is in our errors.
    "log_level": 0,
}
# What a broker without ids of topics says.
NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"


@dataclass(frozen=True)
class Broker:
    """Where brokers are, and how the client reaches them.

    `config_env` names for each further setting the variable that holds it. Brokers may be
    silent for `timeout_seconds`.
    """

    servers: str
    config: Mapping[str, str]
    config_env: Mapping[str, str]
    timeout_seconds: float


@dataclass(frozen=True)
class Message:
    """A message: where it is, when it was made, in ms, its key and its value."""

    partition: int
    offset: int
    at: int
    key: bytes | None
    value: bytes | None

    @property
    def name(self) -> str:
        return f"{self.partition}:{self.offset}"


class TopicLog:
    """A topic, opened; a context that closes the client."""

    def __init__(self, broker: Broker, topic: str) -> None:
        """Ask the brokers for the topic.

        Raises:
            ConfigError: a variable is not set, the client is not installed, or refuses
                a setting.
            SourceError: the brokers don't answer, or know no such topic.
        """
        self._broker, self._topic = broker, topic
        self._said = ""
        what = f"the topic '{topic}'"
        settings = with_secrets(broker.config, broker.config_env, what)
        settings = {**settings, "bootstrap.servers": broker.servers}
        try:
            from confluent_kafka import Consumer, KafkaException
            from confluent_kafka.admin import AdminClient
        except ImportError as error:
            msg = (
                f"{what} needs a client library: {error}. "
                "pip install 'batch-assets[kafka]'"
            )
            raise ConfigError(msg) from error
        self._failed = KafkaException
        try:
            self._admin = AdminClient({**settings, "log_level": 0})
            self._consumer = Consumer(
                {**GROUP, **settings, **OURS, "error_cb": self._note}
            )
        # Its text may hold the setting's value.
        except (KafkaException, ValueError, TypeError) as error:
            said = without_secrets(str(error), secrets_in(broker.config_env.values()))
            msg = f"the client of {what} refuses a setting: {said}"
            raise ConfigError(msg) from None
        try:
            self._partitions, cluster = self._look()
            self.facts = {"cluster": cluster, "topic_id": self._id()}
        except BaseException:
            self._consumer.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def held(self) -> Offsets:
        """Return which offsets each partition holds, of closed transactions alone.

        Raises:
            SourceError: the brokers don't answer.
        """
        from confluent_kafka import TopicPartition

        with self._explained("asked for its offsets"):
            return {
                p: self._consumer.get_watermark_offsets(
                    TopicPartition(self._topic, p), timeout=self._broker.timeout_seconds
                )
                for p in self._partitions
            }

    def at(self, milliseconds: int) -> dict[int, int]:
        """Return of each partition the first offset that is of a time or later.

        Where there is none yet, it is the next that will be.

        Raises:
            SourceError: that time is still to come, or the brokers don't answer.
        """
        from confluent_kafka import TopicPartition

        if milliseconds > datetime.now(UTC).timestamp() * 1000:
            when = datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()
            msg = f"a day of the topic '{self._topic}' ends at {when}, and is not over."
            raise SourceError(msg)
        # First: what comes in between is then after it, and not left out.
        held = self.held()
        asked = [TopicPartition(self._topic, p, milliseconds) for p in self._partitions]
        with self._explained("asked for the offsets of a time"):
            found = self._consumer.offsets_for_times(
                asked, timeout=self._broker.timeout_seconds
            )
        if refused := next((one.error for one in found if one.error), None):
            raise self._error("asked for the offsets of a time", refused)
        return {
            one.partition: held[one.partition][1] if one.offset < 0 else one.offset
            for one in found
        }

    def messages(self, offsets: Offsets) -> Iterator[list[Message]]:
        """Read the messages between offsets, in batches; a partition's are in order.

        Raises:
            SourceError: some are gone, or the brokers are silent.
        """
        from confluent_kafka import TopicPartition

        ends = {p: end for p, (begin, end) in offsets.items() if begin < end}
        self._consumer.assign(
            [TopicPartition(self._topic, p, offsets[p][0]) for p in ends]
        )
        heard = monotonic()
        while ends:
            with self._explained("read"):
                found = self._consumer.consume(BATCH_MESSAGES, timeout=WAIT_SECONDS)
            if found:
                heard = monotonic()
            elif monotonic() - heard > self._broker.timeout_seconds:
                raise self._silent("read")
            wanted = [one for one in found if self._is_wanted(one, ends)]
            if wanted:
                yield [
                    Message(
                        m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value()
                    )
                    for m in wanted
                ]

    def must_hold(self, offsets: Offsets) -> None:
        """Refuse offsets that the topic does not hold, or not any more.

        Raises:
            SourceError: with what is gone, and what to do.
        """
        held = self.held()
        for p, (begin, end) in offsets.items():
            low, high = held.get(p, (0, 0))
            if begin > end or end > high:
                msg = (
                    f"the offsets of the topic '{self._topic}' went back: partition {p} "
                    f"ends at {high:,}, and is to be read from {begin:,} to {end:,}. Was "
                    "it made anew? Nothing was committed; `offset_reset: earliest` "
                    "begins with what it holds."
                )
                raise SourceError(msg)
            if begin < low and begin < end:
                msg = (
                    f"the topic '{self._topic}' has lost messages of the day: partition "
                    f"{p} is to be read from {begin:,}, and begins at {low:,} by now. "
                    "Nothing was committed. They can't be had back: go on with the day "
                    "after, and let the topic keep messages (`retention.ms`) for longer "
                    "than nights may fail."
                )
                raise SourceError(msg)

    def must_be_whole(self, begins: Mapping[int, int]) -> None:
        """Refuse to begin where messages before may have been of the day.

        Raises:
            SourceError: a partition begins later than at 0.
        """
        for p, low in begins.items():
            if low > 0:
                msg = (
                    f"the topic '{self._topic}' may have lost messages of the day: no "
                    f"night says where it begins, and partition {p} holds nothing before "
                    f"{low:,}. Nothing was committed; begin with a later day, or say "
                    "`offset_reset: earliest` to take what is there."
                )
                raise SourceError(msg)

    def must_not_be_compacted(self, offsets: Offsets, day: str, timezone: str) -> None:
        """Refuse a topic whose brokers may have put later messages in place of these.

        Raises:
            SourceError: with the setting that keeps them.
        """
        high = {p: high for p, (_, high) in self.held().items()}
        config = self._config()
        if "compact" not in config.get("cleanup.policy", "") or all(
            end == high[p] for p, (_, end) in offsets.items()
        ):
            return
        kept = int(config.get("min.compaction.lag.ms", "0"))
        age = int(datetime.now(UTC).timestamp() * 1000) - end_of(day, timezone)
        if age >= kept:
            msg = (
                f"the topic '{self._topic}' is compacted by its brokers, after "
                f"{kept / 3_600_000:,.1f} hours (`min.compaction.lag.ms`), and {day} is "
                f"over for {age / 3_600_000:,.1f}: a later message may have taken the "
                "place of one of the day. Nothing was committed; let the topic keep them "
                "for longer than nights may fail, as 604800000 ms."
            )
            raise SourceError(msg)

    def went_on_from(self, named: Mapping[str, Any], held: Offsets) -> bool:
        """Return whether another day was read from this topic, and no earlier one."""
        return {k: named[k] for k in self.facts} == self.facts and all(
            span[1] <= held.get(int(p), (0, -1))[1]
            for p, span in named["offsets"].items()
        )

    def must_be(self, named: Mapping[str, Any]) -> None:
        """Refuse another topic of that name.

        Raises:
            SourceError: it was made anew.
        """
        if {k: named[k] for k in self.facts} != self.facts:
            raise self.was_made_anew(named)

    def was_made_anew(self, named: Mapping[str, Any]) -> SourceError:
        """Return the error of a day that was read from an earlier topic."""
        return SourceError(
            f"the topic '{self._topic}' is not the one that {named['day']} was read from: "
            "it was made anew, or is another cluster's, or its offsets went back. Nothing "
            "was committed; `offset_reset: earliest` begins with what it holds."
        )

    def _is_wanted(self, message: Any, ends: dict[int, int]) -> bool:
        """Whether a message is one, and of its span; strikes a span off that is read."""
        from confluent_kafka import KafkaError

        p, offset, error = message.partition(), message.offset(), message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            raise self._error("read", error)
        if p not in ends:
            return False
        end = ends[p]
        if error is None and offset < end - 1:
            return True
        if error is not None and offset < end:
            msg = (
                f"partition {p} of the topic '{self._topic}' ended at {offset:,} while it "
                f"was read to {end:,}. Nothing was committed; run the day again."
            )
            raise SourceError(msg)
        del ends[p]
        return error is None and offset == end - 1

    def _look(self) -> tuple[list[int], str]:
        with self._explained("reached"):
            found = self._consumer.list_topics(
                self._topic, timeout=self._broker.timeout_seconds
            )
        topic = found.topics[self._topic]
        if topic.error is not None or not topic.partitions:
            said = f": {topic.error.str()}" if topic.error else ""
            msg = f"there is no topic '{self._topic}' at {self._broker.servers}{said}"
            raise SourceError(msg)
        return sorted(topic.partitions), str(found.cluster_id)

    def _id(self) -> str | None:
        """Return the id that a topic has for as long as it lives; None if it has none."""
        from confluent_kafka import TopicCollection

        try:
            found = self._admin.describe_topics(
                TopicCollection([self._topic]),
                request_timeout=self._broker.timeout_seconds,
            )[self._topic].result()
        except self._failed:
            return None
        return None if str(found.topic_id) == NO_ID else str(found.topic_id)

    def _config(self) -> dict[str, str]:
        from confluent_kafka.admin import ConfigResource, ResourceType

        resource = ConfigResource(ResourceType.TOPIC, self._topic)
        with self._explained("asked for its settings (DescribeConfigs)"):
            found = self._admin.describe_configs(
                [resource], request_timeout=self._broker.timeout_seconds
            )[resource].result()
        return {name: str(entry.value) for name, entry in found.items()}

    def _note(self, error: "KafkaError") -> None:
        """Keep what a client only says aside: why nobody answers."""
        self._said = error.str()

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._failed as error:
            # Why, it only says when it is asked for messages.
            self._consumer.poll(0)
            raise self._error(what, error.args[0]) from None

    def _silent(self, what: str) -> SourceError:
        return SourceError(
            f"the topic '{self._topic}' can't be {what}: {self._broker.servers} said "
            f"nothing for {self._broker.timeout_seconds:g} seconds. "
            f"{self._aside()}Nothing was committed; run the day again."
        )

    def _error(self, what: str, error: "KafkaError") -> SourceError:
        said = without_secrets(
            error.str(), secrets_in(self._broker.config_env.values())
        )
        return SourceError(
            f"the topic '{self._topic}' can't be {what} at {self._broker.servers}: "
            f"{said.rstrip('.')} ({error.name()}). {self._aside()}Nothing was committed."
        )

    def _aside(self) -> str:
        said = without_secrets(self._said, secrets_in(self._broker.config_env.values()))
        return f"The client says: {said.rstrip('.')}. " if said else ""


def end_of(day: str, timezone: str) -> int:
    """Return when a day is over, in milliseconds of the epoch.

    Args:
        day: as `2026-01-05`.
        timezone: in which it ends.
    """
    after = date.fromisoformat(day) + timedelta(days=1)
    return int(datetime.combine(after, time(), ZoneInfo(timezone)).timestamp() * 1000)
