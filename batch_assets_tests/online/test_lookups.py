"""What the service answers to lookups, and what it says of itself."""

import json
import re
from pathlib import Path
from urllib.parse import quote

import httpx
import pyarrow as pa
import pytest

from batch_assets import Snapshot
from batch_assets.models.release import Release
from batch_assets_tests.publishing import publish_nights
from batch_assets_tests.services import KEYS, Server, raw_get, root_of, serving
from batch_assets_tests.toys import DAY, NAME, make_rows

# Each starts the command, which imports torch, as does the model's process.
pytestmark = pytest.mark.slow


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
        {"key": 5, "outputs": alone[5]["outputs"], "is_fallback": False},
        {"key": 10**9, "outputs": None, "is_fallback": False},
        {"key": 1, "outputs": alone[1]["outputs"], "is_fallback": False},
        {"key": 5, "outputs": alone[5]["outputs"], "is_fallback": False},
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


@pytest.mark.parametrize(
    "key", ["1_0", "%EF%BC%91%EF%BC%90", "+10", "%2010", "10%0A", "", "1" * 20, "%FF"]
)
def test_an_integer_key_is_written_in_plain_digits(server: Server, key: str) -> None:
    status, body = raw_get(server, key)

    assert (status, "is an int64" in body) == (422, True)


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
