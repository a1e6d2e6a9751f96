"""Clients of the service at a fixed rate, in a process of their own, who check each answer.

What they ask is due at its time, whatever came before (an open loop): a server that
stalls can't hide what it held up. Beside good requests they send some that are none, and
some that are too large; others send a byte now and then, or never read. Each value of an
answer tells which version it is of, so that a mixed answer is found.
"""

import argparse
import asyncio
import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httptools
import numpy as np

from batch_assets_tests.served import mixed

TOO_LARGE = 1 << 20
BATCH = 20
PIPELINE = "toy"
# How many of a thousand requests are of each kind; the others look one key up.
BATCHES, MISSING, BROKEN, OVERSIZE = 100, 20, 30, 1
# How long an answer may take before a client gives up: a stall, not a slow machine.
PATIENCE = 60.0


@dataclass(frozen=True)
class Request:
    """What is sent, and which status it is to have."""

    kind: str
    data: bytes
    status: int


@dataclass
class Seen:
    """What came of the requests: by kind and status, milliseconds, and what was wrong."""

    asked: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    versions: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    reconnected: int = 0

    def told(self) -> dict[str, Any]:
        """Return it as JSON has it: of the times the percentiles."""
        found = np.percentile(self.milliseconds or [0.0], [50, 99, 99.9]).round(2)
        return {
            "asked": self.asked,
            "statuses": dict(sorted(self.statuses.items())),
            "versions": len(self.versions),
            "wrong": self.wrong[:20],
            "wrongs": len(self.wrong),
            "ms": dict(zip(("p50", "p99", "p999"), found.tolist(), strict=True)),
            "reconnected": self.reconnected,
        }


class Connection(asyncio.Protocol):
    """A connection that is kept, with one request at a time on its way."""

    def __init__(self) -> None:
        self._waiting: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting and not self._waiting.done():
            self._waiting.set_exception(ConnectionError(str(exc or "closed")))

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        status, body = self._parser.get_status_code(), bytes(self._body)
        self._body.clear()
        if self._waiting and not self._waiting.done():
            self._waiting.set_result((status, body))

    async def ask(self, data: bytes) -> tuple[int, bytes]:
        """Send a request; its status and body."""
        assert self._transport
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return await asyncio.wait_for(self._waiting, PATIENCE)

    def close(self) -> None:
        if self._transport:
            self._transport.close()


def requests(keys: int, seed: int) -> Iterator[Request]:
    """Give requests of all kinds without end."""
    chance = random.Random(seed)
    broken = itertools.cycle(_broken())
    while True:
        at = chance.randrange(1000)
        if at < BATCHES:
            some = [chance.randrange(keys) for _ in range(BATCH)]
            yield Request("lookup", _post("lookup", json.dumps({"keys": some})), 200)
        elif at < (at_most := BATCHES + MISSING):
            yield Request("missing", _get(f"keys/{keys + at}"), 404)
        elif at < (at_most := at_most + BROKEN):
            yield next(broken)
        elif at < at_most + OVERSIZE:
            text = json.dumps({"keys": [0], "pad": "x" * TOO_LARGE})
            yield Request("oversize", _post("lookup", text), 413)
        else:
            yield Request("key", _get(f"keys/{chance.randrange(keys)}"), 200)


def _broken() -> list[Request]:
    many = json.dumps({"keys": list(range(1001))})
    return [
        Request("no json", _post("lookup", "{"), 400),
        Request("another shape", _post("lookup", '{"keys": {"a": 1}}'), 400),
        Request("too many", _post("lookup", many), 413),
        Request("no route", _get("nothing/here"), 404),
        Request("no key", _get("keys/abc"), 422),
        Request("no utf-8", _post("lookup", b"\xff\xfe"), 400),
    ]


def _get(path: str) -> bytes:
    return f"GET /v1/{PIPELINE}/{path} HTTP/1.1\r\nHost: soak\r\n\r\n".encode()


def _post(path: str, body: str | bytes) -> bytes:
    data = body.encode() if isinstance(body, str) else body
    head = (
        f"POST /v1/{PIPELINE}/{path} HTTP/1.1\r\nHost: soak\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def wrong_in(answer: dict[str, Any]) -> str | None:
    """Say what is wrong with an answer, if its values are not all of the version it names."""
    number = int(answer["release"]["digest"], 16)
    for one in answer.get("answers", [answer]):
        key, outputs = one["key"], one["outputs"]
        expected = int(mixed(np.array([key]), number)[0])
        if (outputs["number"], outputs["mixed"]) != (number, expected):
            return f"key {key} of version {number} ({answer['version']}): {outputs}"
    return None


class Clients:
    """As many connections as are asked for, and what they saw."""

    def __init__(self, host: str, port: int, connections: int) -> None:
        self.seen = Seen()
        self._at = host, port
        self._free: asyncio.Queue[Connection | None] = asyncio.Queue()
        for _ in range(connections):
            self._free.put_nowait(None)

    async def send(self, request: Request, due: float) -> None:
        """Send a request on a free connection, and check what comes."""
        connection = await self._free.get()
        try:
            if connection is None or not connection.is_open:
                self.seen.reconnected += connection is not None
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_connection(Connection, *self._at)
            status, body = await connection.ask(request.data)
            self._check(request, status, body)
        except (OSError, TimeoutError, httptools.HttpParserError) as error:
            # A server may close while a body that is too large is still being sent.
            self.seen.statuses[f"{request.kind} closed"] += 1
            if request.kind != "oversize":
                self.seen.wrong.append(
                    f"{request.kind}: {type(error).__name__} {error}"
                )
            if connection:
                connection.close()
        finally:
            self._free.put_nowait(connection)
        self.seen.milliseconds.append(1e3 * (time.perf_counter() - due))

    def _check(self, request: Request, status: int, body: bytes) -> None:
        self.seen.statuses[f"{request.kind} {status}"] += 1
        if status != request.status:
            self.seen.wrong.append(f"{request.kind}: {status} {body[:200]!r}")
        elif status == 200:
            answer = json.loads(body)
            self.seen.versions.add(answer["version"])
            if why := wrong_in(answer):
                self.seen.wrong.append(why)


async def slow_client(host: str, port: int, until: float, *, reads: bool) -> None:
    """Send a request byte by byte, or ask for much and never read, until it is thrown out."""
    while time.perf_counter() < until:
        try:
            reader, writer = await asyncio.open_connection(host, port)
            keys = json.dumps({"keys": list(range(1000))})
            data = _post("lookup", keys)
            if not reads:
                writer.write(data * 50)
            for at in range(len(data)):
                if time.perf_counter() > until:
                    break
                if reads:
                    writer.write(data[at : at + 1])
                await asyncio.sleep(0.5)
                if reader.at_eof():
                    break
            writer.close()
        except OSError:
            await asyncio.sleep(0.5)


async def soak(asked: argparse.Namespace) -> dict[str, Any]:
    """Ask at a rate for so many seconds; what came of it."""
    clients = Clients(asked.host, asked.port, asked.connections)
    kinds = requests(asked.keys, seed=7)
    begin = time.perf_counter()
    until = begin + asked.seconds
    async with asyncio.TaskGroup() as group:
        for number in range(asked.slow):
            slow = slow_client(asked.host, asked.port, until, reads=number % 2 == 0)
            group.create_task(slow)
        for number in range(int(asked.rate * asked.seconds)):
            due = begin + number / asked.rate
            while (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early if early > 1e-3 else 0)
            clients.seen.asked += 1
            group.create_task(clients.send(next(kinds), due))
            if number % 64 == 0:
                await asyncio.sleep(0)
    told = clients.seen.told()
    return told | {"rate": round(clients.seen.asked / (time.perf_counter() - begin), 1)}


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
    sys.stdout.write(json.dumps(asyncio.run(soak(parser.parse_args()))) + "\n")
