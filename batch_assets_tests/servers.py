"""Real servers for the tests, on free ports, with their data in a folder of their own.

Debian's `redis-server` and `postgresql` must be installed: a test that needs one fails
without it, and says so. PostgreSQL refuses to run as root, so root starts it as
`postgres`.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PASSWORD = "s3cret-of-the-tests"
SECONDS = 60


@dataclass(frozen=True)
class Server:
    """A running server, as a client is told of it."""

    url: str
    port: int
    process: subprocess.Popen[bytes]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def redis_server(*settings: str) -> Iterator[Server]:
    """A Redis that keeps nothing on disk; `settings` as on its command line."""
    import redis  # Tests that need no server run where its client is not.

    binary, port = _binary("redis-server"), free_port()
    with _folder() as folder:
        command = [
            binary,
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--save", "", "--requirepass", PASSWORD, *settings),
        ]
        url = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"

        def ping() -> None:
            with redis.Redis.from_url(url) as client:
                client.ping()

        with _running(command, folder, ping, redis.ConnectionError) as process:
            yield Server(url, port, process)


@contextmanager
def postgres_server() -> Iterator[Server]:
    """A PostgreSQL whose superuser is `owner`, with a password."""
    import psycopg

    initdb, port = _binary("initdb"), free_port()
    with _folder() as folder:
        if os.getuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        data, secret = folder / "data", folder / "password"
        secret.write_text(PASSWORD + "\n", encoding="utf-8")
        subprocess.run(
            [
                *(initdb, "--pgdata", data, "--username", "owner", "--no-sync"),
                *("--auth", "scram-sha-256", "--pwfile", secret, "--encoding", "UTF8"),
            ],
            check=True,
            capture_output=True,
            cwd=folder,
            **_nobody_special(),
        )
        command = [
            str(Path(initdb).with_name("postgres")),
            *("-D", str(data), "-p", str(port), "-k", str(folder)),
            *("-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"),
        ]
        url = f"postgresql://owner:{PASSWORD}@127.0.0.1:{port}/postgres"

        def ping() -> None:
            psycopg.connect(url, connect_timeout=5).close()

        with _running(command, folder, ping, psycopg.OperationalError) as process:
            yield Server(url, port, process)


@contextmanager
def _running(
    command: list[str], folder: Path, ping: Callable[[], None], refused: type[Exception]
) -> Iterator[subprocess.Popen[bytes]]:
    log = folder / "said.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=folder, **_nobody_special()
        )
    try:
        until = time.monotonic() + SECONDS
        while True:
            try:
                ping()
                break
            except refused:
                if process.poll() is not None or time.monotonic() > until:
                    text = log.read_text(encoding="utf-8", errors="replace")
                    pytest.fail(f"{command[0]} does not run:\n{text}")
                time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        process.wait(SECONDS)


@contextmanager
def _folder() -> Iterator[Path]:
    # Not pytest's: that is closed to all but the user of the tests.
    folder = Path(tempfile.mkdtemp(prefix="batch-assets-server-"))
    try:
        if os.getuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _nobody_special() -> dict[str, str]:
    """The user that a server runs as, for `subprocess`."""
    return {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}


def _binary(name: str) -> str:
    # Debian keeps PostgreSQL's own programs off the PATH.
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, homes)])
    binary = shutil.which(name, path=path)
    if binary is None:
        pytest.fail(f"no {name} here: apt-get install redis-server postgresql")
    return binary
