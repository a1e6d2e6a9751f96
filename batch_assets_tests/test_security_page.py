"""What the page of security says is in the code, and each promise has its test."""

import re
import tomllib

import pytest

from batch_assets.lake.places import DATA
from batch_assets.models.signatures import KEYS, PRIVATE_KEY, trusted_keys
from batch_assets.online import connections
from batch_assets.online.access import RATE
from batch_assets.online.requests import MAX_BODY
from batch_assets_tests.projects import FLIGHTS

PAGE = (FLIGHTS / "docs" / "security.md").read_text(encoding="utf-8")
MAKEFILE = (FLIGHTS / "Makefile").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in row.split("|")]
    for row in re.findall(r"^\| (.*) \|$", PAGE, re.MULTILINE)
][1:]


def test_each_promise_has_its_mechanism_and_a_test_that_is_there():
    assert len(ROWS) > 15
    for promise, mechanism, tests in ROWS:
        assert promise, tests
        assert mechanism, promise
        files = re.findall(r"`([\w/]+\.py)`", tests)
        assert files, promise
        for name in files:
            text = (FLIGHTS / "batch_assets_tests" / name).read_text(encoding="utf-8")
            assert "\ndef test_" in text, name


def test_each_test_of_the_room_is_on_the_page():
    room = FLIGHTS / "batch_assets_tests" / "security"
    named = set(re.findall(r"`security/(\w+\.py)`", PAGE))
    assert named == {path.name for path in room.glob("test_*.py")}


def test_the_keys_of_the_page_can_be_written_like_that(tmp_path, monkeypatch):
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "pyproject.toml").write_text(f"[tool.dg]\n{block}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(KEYS, raising=False)
    keys = tomllib.loads(block)["tool"]["batch-assets"]["release_keys"]
    assert trusted_keys() == tuple(keys) != ()


def test_the_variables_and_targets_are_those_of_the_code():
    for name in (KEYS, PRIVATE_KEY, DATA):
        assert name in PAGE
    for target in set(re.findall(r"`make ([a-z]+)`", PAGE)):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (MAX_BODY, "1 MiB"),
        (connections.MAX_HEAD, "64 KiB"),
        (connections.ARRIVAL_SECONDS, "20 s"),
        (connections.READING_SECONDS, "20 s"),
        (connections.MAX_CONNECTIONS, "900"),
        (RATE, "1,000"),
    ],
)
def test_the_limits_are_those_of_the_code(number, said):
    scale = {"MiB": 1 << 20, "KiB": 1 << 10}.get(said.partition(" ")[2], 1)
    assert float(said.split()[0].replace(",", "")) * scale == number
    assert said in PAGE


def test_the_page_of_the_service_says_who_may_ask():
    text = (FLIGHTS / "docs" / "online.md").read_text(encoding="utf-8")
    for status in connections.REFUSALS:
        assert f"| {status} |" in text, status
    for option in ("--token-env", "--rate", "--tls-cert", "--tls-key"):
        assert f"`{option}`" in text, option
