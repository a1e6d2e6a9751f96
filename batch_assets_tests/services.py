"""`batch-assets serve` in a process of its own, and what clients ask of it."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa

from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets_tests.projects import FLIGHTS
from batch_assets_tests.publishing import publish_nights
from batch_assets_tests.toys import DAY, NAME, make_rows

KEYS = 300
GOOD = {"user_id": 9_000, "age": 30, "visits": 2.5, "plan": "pro", "active": True}
PATIENCE = 60


@dataclass(frozen=True)
class Server:
    """A running service: where it is, and its process."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=PATIENCE)

    def post(self, path: str, asked: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=asked, timeout=PATIENCE)

    def score(self, *rows: dict[str, Any]) -> httpx.Response:
        return self.post(f"/v1/{NAME}/score", {"rows": rows})

    def number(self, name: str, **labels: str) -> float:
        """A metric, 0 if it has not been counted yet."""
        inside = ",".join(f'{k}="{v}"' for k, v in sorted(labels.items()))
        line = rf"^batch_assets_{name}{re.escape('{' + inside + '}')} (\S+)$"
        match = re.search(line, self.get("/metrics").text, re.MULTILINE)
        return float(match[1]) if match else 0.0

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, self.log.read_text("utf-8")
            assert time.monotonic() < end, self.log.read_text("utf-8")
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@contextmanager
def serving(root: Path, *options: str, ready: bool = True) -> Iterator[Server]:
    log = root / f"log-{time.monotonic_ns()}"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command(NAME, "--port", "0", *options),
            cwd=root,
            env=environment(root),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout
            server = Server(process, process.stdout.readline().strip(), log)
            if ready:
                server.until(lambda: is_ready(server))
            yield server
        finally:
            process.kill()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "batch_assets.cli.start", "serve", *arguments]


def environment(root: Path) -> dict[str, str]:
    return {
        **{k: v for k, v in os.environ.items() if k != "DAGSTER_HOME"},
        "BATCH_ASSETS_ROOT": str(root),
        "PYTHONPATH": str(FLIGHTS),
    }


def models_of(server: Server) -> list[int]:
    """The processes that the service has started."""
    task = Path(f"/proc/{server.process.pid}/task")
    return [
        int(pid)
        for children in task.glob("*/children")
        for pid in children.read_text("utf-8").split()
    ]


def is_ready(server: Server) -> bool:
    try:
        return server.get("/readyz").is_success
    except httpx.TransportError:
        return False


def tame(rows: pa.Table) -> pa.Table:
    """Rows at whose age nothing happens."""
    ages = pa.array(rows["age"].to_numpy() % 90, rows["age"].type)
    return rows.set_column(1, "age", ages)


def published(root: Path, release: Release, *days: str, online: bool = True) -> Path:
    """A root with a night of a release, approved for online."""
    root.mkdir(exist_ok=True)
    publish_nights(root, release, tame(make_rows(KEYS)), *(days or (DAY,)))
    if online:
        approve(root, release)
    return root


def approve(root: Path, release: Release) -> None:
    Registry(root).approve(NAME, release.digest, why="the test", channel="online")


def root_of(server: Server) -> Path:
    return server.log.parent


def raw_get(server: Server, key: str) -> tuple[int, str]:
    """A lookup whose path nothing on the way tidies up."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    with contextlib.closing(connection):
        connection.request("GET", f"/v1/{NAME}/keys/{key}")
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def half_sent(server: Server, row: dict[str, Any]) -> socket.socket:
    """A client that has asked and does not read."""
    url = httpx.URL(server.url)
    body = json.dumps({"rows": [row]})
    connection = socket.create_connection((url.host, url.port))
    head = f"POST /v1/{NAME}/score HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
    connection.sendall(f"{head}\r\n\r\n{body}".encode())
    return connection


def reason(server: Server) -> str:
    try:
        return server.get("/v1/toy/keys/7").text
    except httpx.TransportError:
        return ""
