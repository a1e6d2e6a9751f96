"""A broker that speaks Kafka's protocol, on a free port, and topics of its own for a test.

It is `noida-db`, from PyPI: one binary that keeps times, transactions, retention and
settings of topics as a broker of Kafka does, and its data over a restart. It has no ids of
topics, and compacts nothing.
"""

import itertools
import json
import os
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from batch_assets_tests.servers import free_port

# Not the script of the same name: that waits for the program, and would die alone.
BROKER = Path(str(files("noida_db"))) / "noida-db"
SECONDS = 60
_numbers = itertools.count()


class Broker:
    """A broker with its data in a folder: started, stopped, and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.port = folder, free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self.admin = AdminClient({"bootstrap.servers": self.address, "log_level": 0})

    def start(self) -> None:
        # A wheel's data are not programs until they are told so.
        os.chmod(BROKER, 0o755)
        said = self._folder / "said.log"
        with said.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    *(
                        BROKER,
                        "start",
                        "--only",
                        "kafka",
                        "--kafka-port",
                        str(self.port),
                    ),
                    *("--data-dir", self._folder / "data"),
                ],
                stdout=output,
                stderr=output,
                cwd=self._folder,
            )
        until = time.monotonic() + SECONDS
        while True:
            try:
                self.admin.list_topics(timeout=1)
                return
            except KafkaException:
                if self._process.poll() is not None or time.monotonic() > until:
                    pytest.fail(f"no broker:\n{said.read_text(encoding='utf-8')}")

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(SECONDS)


class Topic:
    """A topic of the broker, and what a producer does to it."""

    def __init__(self, broker: Broker, partitions: int = 1, **config: str) -> None:
        self.broker, self.name = broker, f"users-{next(_numbers)}"
        # The messages of tests are of long ago.
        self._config = {"retention.ms": "-1"} | {
            name.replace("_", "."): value for name, value in config.items()
        }
        self.make(partitions)

    def make(self, partitions: int = 1) -> None:
        new = NewTopic(self.name, partitions, 1, config=self._config)
        self.broker.admin.create_topics([new])[self.name].result(SECONDS)

    def delete(self) -> None:
        self.broker.admin.delete_topics([self.name])[self.name].result(SECONDS)

    def grow(self, partitions: int) -> None:
        new = NewPartitions(self.name, partitions)
        self.broker.admin.create_partitions([new])[self.name].result(SECONDS)

    def lose(self, before: int, partition: int = 0) -> None:
        """Let the broker remove the messages before an offset."""
        wanted = TopicPartition(self.name, partition, before)
        for removed in self.broker.admin.delete_records([wanted]).values():
            removed.result(SECONDS)

    def send(self, *messages: dict[str, Any], transaction: str | None = None) -> None:
        """Send messages, each with the arguments of `produce`; `value` may be an object.

        Args:
            messages: what is sent, in this order.
            transaction: how it ends: `commit`, or `abort`.
        """
        settings = {"bootstrap.servers": self.broker.address, "log_level": 0}
        if transaction:
            settings["transactional.id"] = f"{self.name}-{next(_numbers)}"
        producer = Producer(settings)
        if transaction:
            producer.init_transactions(SECONDS)
            producer.begin_transaction()
        for message in messages:
            value = message.get("value")
            if isinstance(value, dict):
                message = message | {"value": json.dumps(value)}
            producer.produce(self.name, **{"partition": 0} | message)
        assert producer.flush(SECONDS) == 0
        if transaction:
            getattr(producer, f"{transaction}_transaction")(SECONDS)


def at(text: str, timezone: str = "UTC") -> int:
    """A moment as messages have it: milliseconds of the epoch."""
    moment = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(timezone))
    return int(moment.timestamp() * 1000)


@contextmanager
def running(folder: Path) -> Iterator[Broker]:
    broker = Broker(folder)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def messages_of(rows: Iterable[dict[str, Any]], when: str) -> list[dict[str, Any]]:
    """Rows as messages of one moment, each by its `user_id`."""
    return [
        {"key": str(row["user_id"]), "value": row, "timestamp": at(when)}
        for row in rows
    ]
