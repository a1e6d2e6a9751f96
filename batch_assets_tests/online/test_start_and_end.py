"""How the service starts, says that it is ready, and ends."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from batch_assets.models.release import Release
from batch_assets_tests.services import (
    GOOD,
    PATIENCE,
    Server,
    command,
    environment,
    is_ready,
    models_of,
    published,
    reason,
    serving,
)
from batch_assets_tests.stuck import LOOPS, NAPS, Sleepy
from batch_assets_tests.toys import NAME, write_toy_release

# Each starts the command, which imports torch, as does the model's process.
pytestmark = pytest.mark.slow


def test_it_is_alive_but_not_ready_before_anything_is_published(
    tmp_path: Path, toy_release: Release
) -> None:
    root = tmp_path / "root"
    (root / "snapshots" / NAME).mkdir(parents=True)
    with serving(root, ready=False) as server:
        server.until(lambda: "is not served" in reason(server))
        assert server.get("/healthz").is_success
        assert "nothing is served" in server.get("/readyz").text
        published(root, toy_release)
        server.until(lambda: is_ready(server))
        assert server.get("/v1/toy/keys/7").is_success


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_answers_all_that_is_accepted_and_exits_with_0(
    tmp_path: Path, moody: Release, number: int
) -> None:
    root = published(tmp_path / "root", moody)
    sizes = ("--max-batch-size", "8", "--max-seconds", "5")
    with serving(root, *sizes) as server, ThreadPoolExecutor(25) as pool:
        # Others wait for a row that hangs, and then for the model's new process.
        hanging = pool.submit(server.score, GOOD | {"age": LOOPS})
        time.sleep(0.5)
        tasks = [pool.submit(server.score, GOOD | {"age": NAPS}) for _ in range(24)]
        server.until(lambda: server.number("waiting_rows", pipeline=NAME) == 24)
        server.process.send_signal(number)
        time.sleep(0.2)
        late = server.score(GOOD)
        not_ready = server.get("/readyz")
        assert server.get("/v1/toy/keys/7").is_success
        assert hanging.result().status_code == 422
        assert [task.result().status_code for task in tasks] == [200] * 24
        assert server.process.wait(PATIENCE) == 0
        # What was new while it drained had an answer too.
        assert late.status_code == 503
        assert "shutting down" in late.json()["error"]
        assert late.headers["retry-after"] == "1"
        assert not_ready.status_code == 503
        assert "Traceback" not in server.log.read_text("utf-8")


def test_under_a_storm_it_ends_with_0_and_says_nothing_but_scores_and_503(
    tmp_path: Path, toy_release: Release
) -> None:
    root = published(tmp_path / "root", toy_release)

    async def client(url: str, statuses: list[int]) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as session:
            while True:
                try:
                    answer = await session.post(
                        f"/v1/{NAME}/score", json={"rows": [GOOD]}
                    )
                except httpx.TransportError:
                    return  # Nobody listens any more.
                statuses.append(answer.status_code)

    async def storm(server: Server) -> list[int]:
        statuses: list[int] = []
        tasks = [asyncio.create_task(client(server.url, statuses)) for _ in range(32)]
        while len(statuses) < 200:
            await asyncio.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*tasks)
        return statuses

    with serving(root) as server:
        server.until(lambda: server.score(GOOD).is_success)
        statuses = asyncio.run(storm(server))
        assert server.process.wait(PATIENCE) == 0
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 200


def test_it_ends_at_once_while_a_model_is_still_loading(tmp_path: Path) -> None:
    release = write_toy_release(
        tmp_path / "sleepy",
        module=Sleepy(os.getpid()),
        model_format="safetensors",
        import_path="batch_assets_tests.stuck:Sleepy",
        arguments={"home": os.getpid()},
    )
    root = published(tmp_path / "root", release)
    with serving(root, ready=False) as server:
        server.until(lambda: "outputs" in reason(server))
        server.until(lambda: len(models_of(server)) == 1)
        assert "no release is loaded yet" in server.get("/readyz").text
        before = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - before < 40  # The model takes 60.


@pytest.mark.parametrize("what", ["port", "pipeline", "device", "open", "token"])
def test_what_can_not_be_started_ends_in_one_line(
    tmp_path: Path, toy_release: Release, what: str
) -> None:
    root = published(tmp_path / "root", toy_release)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments, said = {
            "port": ((NAME, "--port", port), f"can't listen on 127.0.0.1 port {port}"),
            "pipeline": (("tyo", "--port", "0"), "there: toy"),
            "open": (
                (NAME, "--host", "0.0.0.0", "--port", "0"),
                "nothing says who may",
            ),
            "token": ((NAME, "--token-env", "NOT_SET"), "variable NOT_SET, its token"),
            "device": ((NAME, "--port", "0", "--device", "cuda:9"), "cuda:9"),
        }[what]
        done = subprocess.run(
            command(*arguments),
            cwd=root,
            env=environment(root),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
