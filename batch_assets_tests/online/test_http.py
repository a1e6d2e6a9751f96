"""`batch-assets serve` in a process of its own: what it answers, and how it ends."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pytest

from batch_assets import Snapshot
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.online.http import Online
from batch_assets.online.metrics import Metrics
from batch_assets.online.pipelines import Served
from batch_assets.online.scoring import Limits, LiveRelease
from batch_assets.scoring.device import find_device
from batch_assets_tests.models_that_fail import write_moody
from batch_assets_tests.publishing import NEXT, publish_nights
from batch_assets_tests.stuck import (
    LOOPS,
    NAPS,
    RAISES,
    SPINS,
    Sleepy,
)
from batch_assets_tests.toys import DAY, NAME, ToyRisk, make_rows, write_toy_release

# Each starts the command, which imports torch, as does the model's process.
pytestmark = pytest.mark.slow

FLIGHTS = Path(__file__).parents[2]
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
        found = re.search(line, self.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

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
    return [sys.executable, "-m", "batch_assets.cli.main", "serve", *arguments]


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


@pytest.fixture(scope="module")
def moody(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return write_moody(tmp_path_factory.mktemp("moody") / "release")


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, moody: Release
) -> Iterator[Server]:
    """The toy pipeline, served for all tests that leave it as it was."""
    root = published(tmp_path_factory.mktemp("served") / "root", moody)
    with serving(root, "--max-seconds", "3") as server:
        yield server


def root_of(server: Server) -> Path:
    return server.log.parent


# Lookups


def test_every_key_is_answered_as_the_snapshot_does(server: Server) -> None:
    with (
        Snapshot(root_of(server) / "snapshots" / NAME) as snapshot,
        httpx.Client(base_url=server.url) as client,
    ):
        for key in range(1, KEYS + 1):
            found = client.get(f"/v1/{NAME}/keys/{key}").json()
            expected = snapshot.get(key)
            assert found["key"] == key
            assert found["outputs"] == expected.outputs
        assert found["source"] == "snapshot"
        assert found["version"] == snapshot.version
        assert found["day"] == DAY
        assert found["release"] == snapshot.release._asdict()
        assert 0 < found["age_seconds"] < 3_600
        assert found["is_stale"] is False


def test_many_keys_are_answered_in_their_order_from_one_version(server: Server) -> None:
    found = server.post(f"/v1/{NAME}/lookup", {"keys": [5, 10**9, 1, 5]}).json()

    alone = {key: server.get(f"/v1/{NAME}/keys/{key}").json() for key in (1, 5)}
    assert found["answers"] == [
        {"key": 5, "outputs": alone[5]["outputs"]},
        {"key": 10**9, "outputs": None},
        {"key": 1, "outputs": alone[1]["outputs"]},
        {"key": 5, "outputs": alone[5]["outputs"]},
    ]
    assert found["missing"] == 1
    assert found["version"] == alone[1]["version"]


def test_a_key_that_is_missing_is_a_404_that_says_of_what_and_what_to_do(
    server: Server,
) -> None:
    answer = server.get(f"/v1/{NAME}/keys/{10**9}")

    assert answer.status_code == 404
    said = answer.json()
    assert f"'{10**9}' is not in version {said['version']} of toy" in said["error"]
    assert said["hint"] == "POST its features to /v1/toy/score"


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "said"),
    [
        ("GET", "/v1/toy/keys/seven", None, 422, "is an int64, got 'seven'"),
        ("GET", "/v1/toy/keys/7.0", None, 422, "is an int64, got '7.0'"),
        ("GET", "/v1/toy/keys/" + "9" * 5_000, None, 422, "is an int64"),
        ("GET", "/v1/tyo/keys/7", None, 404, "'tyo' is not served here; there: toy"),
        ("GET", "/v1/toy/score", None, 405, "GET /v1/toy/score"),
        ("GET", "/v2", None, 404, "GET /v2"),
        ("POST", "/v1/toy/lookup", b'{"keys": ["7"]}', 422, "got: string '7', expe"),
        ("POST", "/v1/toy/lookup", b'{"keys": [true]}', 422, "got: boolean True"),
        ("POST", "/v1/toy/lookup", b'{"keys": []}', 400, "at least one"),
        ("POST", "/v1/toy/lookup", b"keys", 400, "is no JSON"),
        ("POST", "/v1/toy/score", b'{"rows": [{}]}', 422, "5 columns are missing"),
        ("POST", "/v1/toy/score", b" " * (2 << 20), 413, "1,048,576 bytes at most"),
        (
            "POST",
            "/v1/toy/lookup",
            json.dumps({"keys": [7] * 1_001}).encode(),
            413,
            "1,000 keys at most",
        ),
    ],
)
def test_a_wrong_request_gets_one_clear_error(
    server: Server, method: str, path: str, content: bytes, status: int, said: str
) -> None:
    answer = httpx.request(method, server.url + path, content=content)

    assert answer.status_code == status
    assert said in answer.json()["error"]


def test_string_keys_are_looked_up_whatever_is_in_them(
    tmp_path: Path, string_release: Release
) -> None:
    keys = [
        "a/b",
        "naïve",
        "50%",
        "7",
        "a b?c#d",
        "a\nb",
        "\n",
        "a\r\n",
        "/",
        "//a",
        "",
    ]
    keys += [".", "..", "../keys", "\x00", "\ufffd", "𝟙", "k" * 30_000]
    rows = make_rows(len(keys), key_dtype="string")
    root = tmp_path / "root"
    root.mkdir()
    publish_nights(
        root, string_release, rows.set_column(0, "user_id", pa.array(keys)), DAY
    )
    with serving(root) as server:
        for key in keys:
            assert json.loads(raw_get(server, quote(key, safe=""))[1])["key"] == key
        found = server.post(f"/v1/{NAME}/lookup", {"keys": [*keys, "b"]}).json()
        assert [answer["key"] for answer in found["answers"]] == [*keys, "b"]
        assert found["missing"] == 1
        for missing in ("%0A%0A", "none", "a%0A"):
            status, body = raw_get(server, missing)
            assert (status, "is not in version" in body) == (404, True)
        # Else it would be the key U+FFFD, which is there.
        for not_text in ("%FF", "a%C3", "%ED%A0%80"):
            status, body = raw_get(server, not_text)
            assert (status, "is a string in UTF-8" in body) == (422, True)


def raw_get(server: Server, key: str) -> tuple[int, str]:
    """A lookup whose path nothing on the way tidies up."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    with contextlib.closing(connection):
        connection.request("GET", f"/v1/{NAME}/keys/{key}")
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.mark.parametrize(
    "key", ["1_0", "%EF%BC%91%EF%BC%90", "+10", "%2010", "10%0A", "", "1" * 20, "%FF"]
)
def test_an_integer_key_is_written_in_plain_digits(server: Server, key: str) -> None:
    status, body = raw_get(server, key)

    assert (status, "is an int64" in body) == (422, True)


# Scoring


def test_scores_equal_the_nights_predictions(server: Server, moody: Release) -> None:
    rows = tame(make_rows(KEYS)).to_pylist()
    night = server.post(
        f"/v1/{NAME}/lookup", {"keys": [row["user_id"] for row in rows]}
    ).json()

    together = server.score(*rows).json()
    with ThreadPoolExecutor(16) as pool:
        alone = list(pool.map(lambda row: server.score(row).json(), rows[:100]))

    assert together["source"] == "online"
    assert together["failed"] == 0
    assert together["release"] == night["release"]
    assert [a["key"] for a in together["answers"]] == [row["user_id"] for row in rows]
    expected = [answer["outputs"]["risk"] for answer in night["answers"]]
    tolerance = moody.manifest.golden.tolerance["cpu"]
    for answers in (together["answers"], [a["answers"][0] for a in alone]):
        found = [answer["outputs"]["risk"] for answer in answers]
        np.testing.assert_allclose(
            found, expected[: len(found)], rtol=tolerance, atol=tolerance
        )


def test_a_bad_row_fails_alone_and_alone_it_is_a_422(server: Server) -> None:
    bad = GOOD | {"age": 121, "plan": None}

    mixed = server.score(GOOD, bad, GOOD)
    alone = server.score(bad)

    assert mixed.status_code == 200
    assert mixed.json()["failed"] == 1
    first, second, third = mixed.json()["answers"]
    assert first == third
    assert second["outputs"] is None
    assert second["rules"] == ["age is above max", "plan is null"]
    assert alone.status_code == 422
    assert alone.json()["answers"] == [second]


def test_rows_that_the_model_fails_on_fail_alone_among_those_of_others(
    server: Server,
) -> None:
    ages = [RAISES if n % 10 == 3 else 20 + n % 50 for n in range(100)]
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda age: server.score(GOOD | {"age": age}), ages))

    for age, answer in zip(ages, answers, strict=True):
        if age == RAISES:
            assert answer.status_code == 422
            (said,) = answer.json()["answers"]
            assert said["error"] == "ValueError: no risk at that age"
        else:
            assert answer.status_code == 200
    assert server.number("rows_total", outcome="faulty", pipeline=NAME) >= 10


@pytest.mark.parametrize("age", [SPINS, LOOPS])
def test_lookups_go_on_while_the_model_computes_or_hangs(
    server: Server, age: int
) -> None:
    """A loop that the model held up would answer one lookup, in all of that time."""
    with (
        ThreadPoolExecutor(1) as pool,
        httpx.Client(base_url=server.url) as client,
    ):
        client.get("/healthz")
        stuck = pool.submit(server.score, GOOD | {"age": age})
        longest, lookups, began = 0.0, 0, time.monotonic()
        while not stuck.done():
            before = time.monotonic()
            assert client.get(f"/v1/{NAME}/keys/7").is_success
            longest = max(longest, time.monotonic() - before)
            lookups += 1
        took = time.monotonic() - began

    # Shares, because a busy machine stops anybody for a moment.
    assert lookups > 10
    assert longest < took / 2
    if age == LOOPS:
        (said,) = stuck.result().json()["answers"]
        assert said["error"] == "TimeoutError: no answer within 3.0 s"
    assert server.score(GOOD).is_success


def test_a_model_that_is_killed_is_started_again_and_nobody_is_lost(
    server: Server,
) -> None:
    server.score(GOOD)
    (model,) = models_of(server)
    os.kill(model, signal.SIGKILL)
    # One that ends while a row is with it is another matter: the row may be at fault.
    server.until(lambda: psutil.Process(model).status() == psutil.STATUS_ZOMBIE)

    answer = server.score(GOOD)

    assert answer.status_code == 200
    assert models_of(server) != [model]


def test_what_the_queue_has_no_room_for_is_a_429_and_the_rest_is_scored(
    tmp_path: Path, moody: Release
) -> None:
    root = published(tmp_path / "root", moody)
    sizes = ("--max-batch-size", "2", "--max-queue", "4", "--max-wait-ms", "0")
    with serving(root, *sizes) as server, ThreadPoolExecutor(30) as pool:
        napping = GOOD | {"age": NAPS}
        answers = list(pool.map(lambda _: server.score(napping), range(30)))

        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 5
        full = answers[statuses.index(429)]
        assert int(full.headers["retry-after"]) >= 1
        assert "rows wait already and 1 came on top, of 4 that may" in full.text
        refused = server.number("rows_total", outcome="refused", pipeline=NAME)
        assert refused == statuses.count(429)
        assert server.post(f"/v1/{NAME}/score", {"rows": [GOOD] * 5}).status_code == 413
        # Lookups don't queue.
        assert server.get(f"/v1/{NAME}/keys/7").is_success


def test_a_client_that_leaves_is_not_scored_and_takes_nobody_along(
    tmp_path: Path, moody: Release
) -> None:
    root = published(tmp_path / "root", moody)
    with (
        # Long enough for all to have come before it is given up, also on a busy machine.
        serving(root, "--max-batch-size", "1", "--max-seconds", "20") as server,
        ThreadPoolExecutor(8) as pool,
    ):
        # All others wait for a row that hangs.
        first = pool.submit(server.score, GOOD | {"age": LOOPS})
        time.sleep(0.5)
        stay = [pool.submit(server.score, GOOD) for _ in range(4)]
        leave = [half_sent(server, GOOD) for _ in range(5)]
        server.until(lambda: server.number("waiting_rows", pipeline=NAME) == 9)
        for connection in leave:
            connection.close()
        server.until(
            lambda: server.number("rows_total", outcome="gone", pipeline=NAME) == 5
        )
        assert first.result().status_code == 422
        assert all(task.result().is_success for task in stay)
        assert server.number("batch_rows_sum", pipeline=NAME) == 5


def half_sent(server: Server, row: dict[str, Any]) -> socket.socket:
    """A client that has asked and does not read."""
    url = httpx.URL(server.url)
    body = json.dumps({"rows": [row]})
    connection = socket.create_connection((url.host, url.port))
    head = f"POST /v1/{NAME}/score HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
    connection.sendall(f"{head}\r\n\r\n{body}".encode())
    return connection


# Who may score


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
    app = Online([served], Metrics()).app()

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


# How it is watched


def test_requests_are_timed_and_counted(server: Server) -> None:
    routes = {"route": "key", "status": "200"}
    before = server.number("requests_total", **routes)
    timed = server.number("request_seconds_count", route="key")

    answer = server.get(f"/v1/{NAME}/keys/7")

    assert re.fullmatch(r"app;dur=\d+\.\d{3}", answer.headers["server-timing"])
    assert server.number("requests_total", **routes) == before + 1
    assert server.number("request_seconds_count", route="key") == timed + 1
    version = answer.json()["version"]
    digest = answer.json()["release"]["digest"]
    shown = {"pipeline": NAME, "version": version, "release": digest}
    assert server.number("snapshot_info", **shown) == 1
    assert server.number("snapshot_age_seconds", pipeline=NAME) > 0
    assert server.number("keys_total", pipeline=NAME, found="true") > 0


def test_it_says_what_is_served_and_what_scores(server: Server, moody: Release) -> None:
    found = server.get(f"/v1/{NAME}").json()

    assert found["snapshot"]["keys"] == KEYS
    assert found["snapshot"]["coverage"] == 1
    assert found["snapshot"]["problem"] is None
    assert found["online"]["release"]["digest"] == moody.digest
    contract = moody.contract.model_dump(mode="json")
    assert found["online"]["contract"] == contract
    assert found["online"]["max_batch_size"] == 64


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


def reason(server: Server) -> str:
    try:
        return server.get("/v1/toy/keys/7").text
    except httpx.TransportError:
        return ""


# How it ends


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


@pytest.mark.parametrize("what", ["port", "pipeline", "device"])
def test_what_can_not_be_started_ends_in_one_line(
    tmp_path: Path, toy_release: Release, what: str
) -> None:
    root = published(tmp_path / "root", toy_release)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments, said = {
            "port": ((NAME, "--port", port), f"can't listen on 127.0.0.1 port {port}"),
            "pipeline": (("tyo", "--port", "0"), "there: toy"),
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
