"""Clients of the service at a fixed rate, in a process of their own, who check each answer.

What they ask is due at its time, whatever came before (an open loop), and its time counts
from when it was due: a server that stalls can't hide what it held up. How much of it this
process itself was late, to send or to read, is told beside it. Each value of an answer
tells which version it is of, so that a mixed answer is found.
"""

import argparse
import asyncio
import json
import selectors
import sys
import time
from array import array
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from typing import Any

import httptools
import numpy as np

from batch_assets_tests.served import mixed
from batch_assets_tests.soak.requests import (
    SPREAD,
    Request,
    SlowOnes,
    requests,
    slow_client,
)

# How long an answer may take before a client gives up: a stall, not a slow machine.
PATIENCE = 60.0
# How often it looks what is due: to look all the time would take a core from the server.
TICK = 0.001
# A look that takes longer has waited for what it found.
AT_ONCE = 5e-5


@dataclass
class Asked:
    """A request on its way: when it was due, when it was noticed, and when it was sent.

    Between the latter two it waited for a free connection, and so for the server.
    """

    request: Request
    due: float
    noticed: float
    sent: float = 0.0


@dataclass
class Seen:
    """What came of the requests: by kind and status, milliseconds, and what was wrong.

    `own` is what of `milliseconds` this process may have taken: noticed late, read late.
    """

    asked: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    versions: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    wrongs: int = 0
    reconnected: int = 0
    milliseconds: "array[float]" = field(default_factory=lambda: array("f"))
    own: "array[float]" = field(default_factory=lambda: array("f"))

    def is_wrong(self, why: str) -> None:
        self.wrongs += 1
        if len(self.wrong) < 20:
            self.wrong.append(why)

    def told(self) -> dict[str, Any]:
        """Return it as JSON has it: of the times the percentiles, by quarter, too."""
        total, own = np.array(self.milliseconds), np.array(self.own)
        quarters = np.array_split(total, 4)
        return {
            "asked": self.asked,
            "statuses": dict(sorted(self.statuses.items())),
            "versions": len(self.versions),
            "wrong": self.wrong,
            "wrongs": self.wrongs,
            "ms": percentiles(total),
            "ms_of_clients": percentiles(own),
            "ms_of_service": percentiles(total - own),
            "ms_by_quarter": [percentiles(quarter) for quarter in quarters],
            "reconnected": self.reconnected,
        }


def percentiles(values: np.ndarray) -> dict[str, float]:
    """Return the median, the tail and the worst."""
    values = values if len(values) else np.zeros(1)
    found = np.percentile(values, [50, 99, 99.9, 100]).astype(float).round(2)
    return dict(zip(("p50", "p99", "p999", "most"), found.tolist(), strict=True))


class Watched(selectors.EpollSelector):
    """Knows since when what it gives may have been there: not when it looked last."""

    since = returned = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        begun, before = time.perf_counter(), self.returned
        found = super().select(timeout)
        self.returned = time.perf_counter()
        # What it had to wait for came just now.
        waited = self.returned - begun > AT_ONCE
        self.since = self.returned if waited else before
        return found


class Connection(asyncio.Protocol):
    """A connection that is kept, with one request at a time on its way."""

    def __init__(self, clients: "Clients") -> None:
        self.asked: Asked | None = None
        self._clients = clients
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, asked: Asked) -> None:
        assert self._transport
        self.asked, asked.sent = asked, time.perf_counter()
        self._transport.write(asked.request.data)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.close(f"{type(error).__name__}: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.close(str(exc or "closed"))

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        asked, self.asked = self.asked, None
        status, body = self._parser.get_status_code(), bytes(self._body)
        self._body.clear()
        if not self._parser.should_keep_alive():
            self.close("")
        if asked:
            self._clients.answered(asked, status, body)
            self._clients.free(self)

    def close(self, why: str) -> None:
        if self._transport:
            self._transport.abort()
        if self.asked:
            asked, self.asked = self.asked, None
            self._clients.lost(asked, why)
            self._clients.free(None)


class Clients:
    """As many connections as are asked for, and what they saw."""

    def __init__(self, host: str, port: int, connections: int, watch: Watched) -> None:
        self.seen = Seen()
        self.is_over = False
        self._at = host, port
        self._watch = watch
        self._places = connections
        self._free: deque[Connection | None] = deque([None] * connections)
        self._waiting: deque[Asked] = deque()
        self._open: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()

    @property
    def is_idle(self) -> bool:
        return len(self._free) == self._places

    def ask(self, request: Request, due: float) -> None:
        """Send a request on a free connection, or on the next that is."""
        self.seen.asked += 1
        self._waiting.append(Asked(request, due, time.perf_counter()))
        self._send()

    def free(self, connection: Connection | None) -> None:
        """Take a connection back, or the place of one."""
        self._free.append(connection)
        self._send()

    def answered(self, asked: Asked, status: int, body: bytes) -> None:
        """Note an answer, and what is wrong with it."""
        now, request = time.perf_counter(), asked.request
        read_late = now - max(self._watch.since, asked.sent)
        self.seen.milliseconds.append(1e3 * (now - asked.due))
        self.seen.own.append(1e3 * (asked.noticed - asked.due + read_late))
        self.seen.statuses[f"{request.kind} {status}"] += 1
        if status != request.status:
            self.seen.is_wrong(f"{request.kind}: {status} {body[:200]!r}")
        elif status == 200:
            answer = json.loads(body)
            self.seen.versions.add(answer["version"])
            if why := wrong_in(answer):
                self.seen.is_wrong(why)

    def lost(self, asked: Asked, why: str) -> None:
        """Note a request without an answer: of one that is too large that may be."""
        kind = asked.request.kind
        self.seen.statuses[f"{kind} closed"] += 1
        if kind != "oversize":
            self.seen.milliseconds.append(1e3 * (time.perf_counter() - asked.due))
            self.seen.own.append(0.0)
            self.seen.is_wrong(f"{kind}: {why}")

    def give_up(self) -> None:
        """Close what has waited for its answer too long."""
        late = time.perf_counter() - PATIENCE
        for connection in list(self._open):
            if connection.asked and connection.asked.sent < late:
                connection.close(f"no answer in {PATIENCE:.0f} s")

    def _send(self) -> None:
        while self._waiting and self._free:
            asked, connection = self._waiting.popleft(), self._free.popleft()
            if connection and connection.is_open:
                connection.send(asked)
                continue
            if connection:
                self.seen.reconnected += 1
                self._open.discard(connection)
            task = asyncio.get_running_loop().create_task(self._connect(asked))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _connect(self, asked: Asked) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(self), *self._at
            )
        except OSError as error:
            self.lost(asked, str(error))
            self.free(None)
            return
        self._open.add(connection)
        connection.send(asked)


def wrong_in(answer: dict[str, Any]) -> str | None:
    """Say what is wrong with an answer, if its values are not all of the version it names."""
    number = int(answer["release"]["digest"], 16)
    answers = answer.get("answers", [answer])
    expected = mixed(np.array([one["key"] for one in answers]), number).tolist()
    for one, right in zip(answers, expected, strict=True):
        outputs = one["outputs"]
        if (outputs["number"], outputs["mixed"]) != (number, right):
            return (
                f"key {one['key']} of version {number} ({answer['version']}): {outputs}"
            )
    return None


async def soak(asked: argparse.Namespace, watch: Watched) -> dict[str, Any]:
    """Ask at a rate for so many seconds; what came of it."""
    clients = Clients(asked.host, asked.port, asked.connections, watch)
    slow, begin = SlowOnes(), time.perf_counter()
    until = begin + asked.seconds
    async with asyncio.TaskGroup() as group:
        for number in range(asked.slow):
            group.create_task(_slow(number, asked, until, slow))
        group.create_task(_impatient(clients))
        kinds = requests(asked.keys, seed=7)
        for number in range(int(asked.rate * asked.seconds)):
            due = begin + number / asked.rate
            while time.perf_counter() < due:
                await asyncio.sleep(TICK)
            clients.ask(next(kinds), due)
        while not clients.is_idle:
            await asyncio.sleep(TICK)
        clients.is_over = True
    took = time.perf_counter() - begin
    return {
        **clients.seen.told(),
        "slow": asdict(slow),
        "rate": round(clients.seen.asked / took, 1),
        "cpu": round(time.process_time() / took, 3),
    }


async def _slow(
    number: int, asked: argparse.Namespace, until: float, seen: SlowOnes
) -> None:
    # Not all at the same time.
    later = SPREAD * number / asked.slow
    await asyncio.sleep(min(later, until - time.perf_counter()))
    await slow_client(asked.host, asked.port, until, seen, reads=number % 2 == 0)


async def _impatient(clients: Clients) -> None:
    while not clients.is_over:
        await asyncio.sleep(1.0)
        clients.give_up()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    for name, kind in (
        ("--keys", int),
        ("--rate", float),
        ("--seconds", float),
        ("--connections", int),
        ("--slow", int),
    ):
        parser.add_argument(name, type=kind, required=True)
    watch = Watched()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(watch)) as run:
        told = run.run(soak(parser.parse_args(), watch))
    sys.stdout.write(json.dumps(told) + "\n")
