"""What clients of a soak ask: good requests, some that are none, some that are too large.

Others send a byte now and then, or ask for much and never read.
"""

import asyncio
import itertools
import json
import random
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

TOO_LARGE = 1 << 20
BATCH = 20
PIPELINE = "toy"
# How many of a thousand requests are of each kind; the others look one key up.
BATCHES, LARGE, MISSING, BROKEN, OVERSIZE = 100, 2, 20, 30, 1
# Keys of a large lookup: as many as one may have.
MANY = 1000
# As Linux numbers the states of a connection.
ESTABLISHED = 1
# How often a slow client does something, in seconds, and over how many they all come.
PAUSE, SPREAD = 0.5, 20.0


@dataclass(frozen=True)
class Request:
    """What is sent, and which status it is to have."""

    kind: str
    data: bytes
    status: int


def requests(keys: int, seed: int) -> Iterator[Request]:
    """Give requests of all kinds without end."""
    chance = random.Random(seed)
    broken = itertools.cycle(_broken())
    large = itertools.cycle([_large(keys, chance) for _ in range(20)])
    too_large = _post("lookup", json.dumps({"keys": [0], "pad": "x" * TOO_LARGE}))
    while True:
        at = chance.randrange(1000)
        if at < BATCHES:
            some = [chance.randrange(keys) for _ in range(BATCH)]
            yield Request("lookup", _post("lookup", json.dumps({"keys": some})), 200)
        elif at < (at_most := BATCHES + LARGE):
            yield next(large)
        elif at < (at_most := at_most + MISSING):
            yield Request("missing", _get(f"keys/{keys + at}"), 404)
        elif at < (at_most := at_most + BROKEN):
            yield next(broken)
        elif at < at_most + OVERSIZE:
            yield Request("oversize", too_large, 413)
        else:
            yield Request("key", _get(f"keys/{chance.randrange(keys)}"), 200)


def _large(keys: int, chance: random.Random) -> Request:
    some = [chance.randrange(keys) for _ in range(MANY)]
    return Request("large", _post("lookup", json.dumps({"keys": some})), 200)


def _broken() -> list[Request]:
    many = json.dumps({"keys": list(range(MANY + 1))})
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


@dataclass
class SlowOnes:
    """How many slow clients came, and how many of each kind were thrown out."""

    came: int = 0
    sending: int = 0
    unread: int = 0


async def slow_client(
    host: str, port: int, until: float, seen: SlowOnes, *, reads: bool
) -> None:
    """Send byte by byte, or ask for much and never read; when thrown out, come again."""
    loop = asyncio.get_running_loop()
    asks = _post("lookup", json.dumps({"keys": list(range(MANY))}))
    while time.perf_counter() < until:
        try:
            transport, _ = await loop.create_connection(asyncio.Protocol, host, port)
        except OSError:
            await asyncio.sleep(PAUSE)
            continue
        seen.came += 1
        if not reads:
            transport.pause_reading()
            # More answers than the buffers on the way have room for.
            transport.write(asks * 100)
        for byte in itertools.cycle(asks):
            await asyncio.sleep(PAUSE)
            if _is_thrown_out(transport):
                seen.sending += reads
                seen.unread += not reads
                break
            if time.perf_counter() > until:
                break
            if reads:
                transport.write(bytes([byte]))
        transport.abort()


def _is_thrown_out(transport: asyncio.Transport) -> bool:
    """Ask the system, which knows though nobody reads."""
    if transport.is_closing():
        return True
    connection = transport.get_extra_info("socket")
    state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return bool(state != ESTABLISHED)
