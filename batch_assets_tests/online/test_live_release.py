"""Which release scores, and how it changes while requests come."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.online.access import Access
from batch_assets.online.http import Online
from batch_assets.online.metrics import Metrics
from batch_assets.online.pipelines import Served
from batch_assets.online.scoring import Limits, LiveRelease
from batch_assets.scoring.device import find_device
from batch_assets_tests.publishing import NEXT
from batch_assets_tests.services import (
    GOOD,
    PATIENCE,
    Server,
    approve,
    published,
    serving,
)
from batch_assets_tests.stuck import NAPS
from batch_assets_tests.toys import NAME, ToyRisk, write_toy_release

# Each starts the command, which imports torch, as does the model's process.
pytestmark = pytest.mark.slow


def test_a_release_scores_while_it_is_approved_for_online_and_lookups_always_work(
    tmp_path: Path, toy_release: Release
) -> None:
    root = published(tmp_path / "root", toy_release, online=False)
    with serving(root) as server:
        refused = server.score(GOOD)
        assert refused.status_code == 503
        assert (
            f"batch-assets release approve toy {toy_release.short} --channel online"
            in refused.json()["error"]
        )
        assert "is not approved for online" in server.get("/v1/toy/keys/9999").text
        assert server.get("/v1/toy/keys/7").is_success

        approve(root, toy_release)
        server.until(lambda: server.score(GOOD).is_success)
        assert server.number("scores", pipeline=NAME, release=toy_release.digest) == 1

        Registry(root).revoke(NAME, toy_release.digest, why="bad", channel="online")
        server.until(lambda: server.score(GOOD).status_code == 503)
        assert "was revoked for online" in server.score(GOOD).json()["error"]
        assert server.get("/v1/toy/keys/7").is_success
        assert server.get("/readyz").is_success


def test_another_version_brings_its_own_release_and_no_request_fails_over_it(
    tmp_path: Path, moody: Release
) -> None:
    other = write_toy_release(
        tmp_path / "other",
        module=ToyRisk(scale=0.5),
        reference={},
        reference_days=None,
    )
    root = published(tmp_path / "root", moody)
    # Slow by the first release: whoever is answered asks while others wait for it.
    row = GOOD | {"age": NAPS}
    risks: dict[str, set[float]] = {moody.digest: set(), other.digest: set()}
    over = threading.Event()

    def ask(server: Server) -> int:
        with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
            asked = 0
            while not over.is_set():
                answer = client.post(f"/v1/{NAME}/score", json={"rows": [row]})
                assert answer.status_code == 200, answer.text
                said = answer.json()
                risk = round(said["answers"][0]["outputs"]["risk"], 4)
                risks[said["release"]["digest"]].add(risk)
                asked += 1
            return asked

    with (
        serving(root, "--max-batch-size", "1") as server,
        ThreadPoolExecutor(4) as pool,
    ):
        callers = [pool.submit(ask, server) for _ in range(4)]
        Registry(root).add(other.folder)
        approve(root, other)
        published(root, other, NEXT, online=False)
        server.until(lambda: bool(risks[other.digest]))
        time.sleep(0.5)
        over.set()
        assert all(caller.result() > 0 for caller in callers)
        found = server.get(f"/v1/{NAME}").json()

    assert found["snapshot"]["release"]["digest"] == other.digest
    assert found["online"]["release"]["digest"] == other.digest
    # Each release said one thing of the row, and they differ.
    assert [len(said) for said in risks.values()] == [1, 1]
    assert risks[moody.digest] != risks[other.digest]


def test_a_row_that_meets_the_very_moment_of_a_change_is_scored_by_the_new_release(
    tmp_path: Path, toy_release: Release
) -> None:
    device, limits = find_device("cpu"), Limits()
    served = Served(tmp_path, NAME, device, limits)
    app = Online([served], Metrics(), Access()).app()

    class Leaving(LiveRelease):
        def rows(self, body: bytes) -> list[dict[str, Any]]:
            served.live = coming
            return super().rows(body)

    async def main() -> httpx.Response:
        await served.live.close()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as one:
            answer = await one.post(f"/v1/{NAME}/score", json={"rows": [GOOD]})
        await coming.close()
        return answer

    leaving, coming = (
        kind(toy_release, device, limits) for kind in (Leaving, LiveRelease)
    )
    served.live = leaving
    answer = asyncio.run(main())

    assert answer.status_code == 200, answer.text


def test_a_release_whose_bytes_have_changed_does_not_score(
    tmp_path: Path, toy_release: Release
) -> None:
    root = published(tmp_path / "root", toy_release)
    folder = root / "models" / NAME / toy_release.digest
    model = folder / toy_release.manifest.model.file
    model.chmod(0o644)
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)

    with serving(root) as server:
        answer = server.score(GOOD)
        assert answer.status_code == 503
        assert "is not what was registered" in answer.json()["error"]
        assert server.get("/v1/toy/keys/7").is_success
