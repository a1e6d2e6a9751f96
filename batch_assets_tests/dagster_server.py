"""Dagster's own server, as a user starts it, and questions to it."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx

from batch_assets_tests.commands import BIN
from batch_assets_tests.projects import FLIGHTS
from batch_assets_tests.servers import free_port
from batch_assets_tests.waiting import until


@contextlib.contextmanager
def server(
    environment: dict[str, str], *command: str, cwd: Path = FLIGHTS
) -> Iterator[str]:
    """A server on a free port, in a process group of its own; all of it ends."""
    port = free_port()
    process = subprocess.Popen(
        [str(BIN / command[0]), *command[1:], "-p", str(port)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"

    def loaded() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return bool(ask(url, "{ assetNodes { id } }")["assetNodes"])
        return False

    try:
        until(loaded, seconds=300, every=0.5)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(url: str, query: str, **variables: object) -> dict:
    answer = httpx.post(
        f"{url}/graphql", json={"query": query, "variables": variables}, timeout=30
    ).json()
    assert "errors" not in answer, answer["errors"]
    return answer["data"]
