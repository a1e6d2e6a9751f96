"""Requests at a fixed rate, whatever the answers take: an open loop.

A request that is due goes out although others still wait, and its time is counted from
when it was due: a server that stalls can't hide the requests that it held up. It runs
in a process of its own. It knows nothing of what it asks.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
import numpy as np


@dataclass(frozen=True)
class Load:
    """What came of it: milliseconds in the server (`Server-Timing`), and for the client
    from when the request was due to its whole answer.
    """

    rate: float
    requests: int
    statuses: dict[int, int]
    server_ms: dict[str, float]
    client_ms: dict[str, float]


async def at_rate(
    url: str, keys: int, rate: float, seconds: float, bodies: list[bytes]
) -> Load:
    """Ask at a rate: a random key in place of `{key}`, 0 to `keys`, or a random body."""
    statuses: Counter[int] = Counter()
    server, client = [], []
    random.seed(7)

    async def get(session: aiohttp.ClientSession, due: float) -> None:
        at = url.replace("{key}", str(random.randrange(keys)))
        method, body = ("POST", random.choice(bodies)) if bodies else ("GET", None)
        async with session.request(method, at, data=body) as answer:
            await answer.read()
        client.append(1e3 * (time.perf_counter() - due))
        statuses[answer.status] += 1
        timing = answer.headers["server-timing"]
        server.append(float(timing.partition("dur=")[2]))

    connector = aiohttp.TCPConnector(limit=256)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        asyncio.TaskGroup() as group,
    ):
        begin = time.perf_counter()
        for number in range(int(rate * seconds)):
            due = begin + number / rate
            # Not asleep for less than a millisecond: that would be late by more.
            while (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early if early > 1e-3 else 0)
            group.create_task(get(session, due))
    took = time.perf_counter() - begin
    return Load(
        rate=len(client) / took,
        requests=len(client),
        statuses=dict(statuses),
        server_ms=percentiles(server),
        client_ms=percentiles(client),
    )


def percentiles(values: list[float]) -> dict[str, float]:
    """The median and the tail."""
    found = np.percentile(values, [50, 99, 99.9]).round(3)
    return dict(zip(("p50", "p99", "p999"), found.tolist(), strict=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--keys", type=int, required=True)
    parser.add_argument("--bodies", type=Path, help="A file with one to POST a line.")
    parser.add_argument("--rate", type=float, default=1_000)
    parser.add_argument("--seconds", type=float, default=30)
    asked = parser.parse_args()
    bodies = asked.bodies.read_bytes().splitlines() if asked.bodies else []
    load = asyncio.run(
        at_rate(asked.url, asked.keys, asked.rate, asked.seconds, bodies)
    )
    sys.stdout.write(json.dumps(asdict(load)) + "\n")
