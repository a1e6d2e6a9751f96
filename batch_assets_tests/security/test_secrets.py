"""A secret comes from the environment, and is in nothing that is said afterwards.

Catalogs, brokers, webhooks and mail servers that refuse are in the tests of their rooms;
the shape of what is hidden, and the stores, are here.
"""

import logging
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from batch_assets.alerts.alert import Message
from batch_assets.alerts.receivers.factory import open_receiver
from batch_assets.environment import without_secrets
from batch_assets.errors import BatchAssetsError
from batch_assets.lake.sources.adbc import AdbcSource
from batch_assets.lake.sources.base import BaseSource, ReadContext
from batch_assets.lake.sources.postgres import PostgresSource
from batch_assets.sinks import postgres as postgres_sink
from batch_assets.sinks import redis as redis_sink
from batch_assets.spec import DECLARED, PostgresTarget, RedisTarget
from batch_assets.spec.alerts import WebhookReceiver
from batch_assets_tests.security.fuzzing import fuzzed
from batch_assets_tests.servers import PASSWORD, Server
from batch_assets_tests.told import GATE_SHUT
from batch_assets_tests.toys import DAY

HUSH = "hush/hush s3cr%t"
URL = f"postgresql://ada:{quote(HUSH, safe='')}@db.example.org:5432/shop?sslkey=k3y-of-ada"


@pytest.mark.parametrize(
    "said",
    [
        URL,
        f"could not parse '{URL}'",
        f"password {HUSH} refused",
        f"password {quote(HUSH, safe='')} refused",
        f"got {HUSH!r}",
        "s3cr%t is wrong",
        "no such file k3y-of-ada",
        "http://bob:another-one@elsewhere/x",
        f"line one\n{HUSH}\nline three",
    ],
)
def test_every_form_and_piece_of_a_secret_is_hidden(said: str) -> None:
    shown = without_secrets(said, [URL, HUSH])
    for piece in ("hush", "s3cr%t", "k3y-of-ada", "another-one", quote(HUSH, safe="")):
        assert piece not in shown
    assert "***" in shown
    assert "\n" not in shown


def test_what_is_no_secret_stays() -> None:
    said = "db.example.org does not answer at 5432"
    assert without_secrets(said, [URL]) == said
    assert without_secrets("nothing is set", []) == "nothing is set"


@pytest.mark.parametrize(
    "dsn",
    [
        "host=db.example.org user=ada password=hush-hush dbname=shop",
        "host=db password='hush-hush' options='-c x=1'",
        "postgresql://ada:hush-hush@[::1/shop",
        "Server=db;User=ada;Password=hush-hush;",
        "-----BEGIN KEY-----\nhush-hush\n-----END KEY-----",
    ],
)
def test_addresses_of_every_kind_are_taken_apart(dsn: str) -> None:
    for said in (dsn, f"in {dsn}", "hush-hush", "refused: hush-hush,"):
        assert "hush" not in without_secrets(said, [dsn])


@fuzzed
@given(
    secret=st.text(st.characters(exclude_categories=["Cs"]), min_size=8, max_size=30),
    around=st.text(max_size=10),
)
def test_no_secret_is_left_in_what_quotes_it(secret: str, around: str) -> None:
    said = without_secrets(f"{around} {secret} {around}", [secret])
    assert secret.strip() in ("", *around.split()) or secret not in said


NOWHERE = "postgresql://ada:hush-hush@127.0.0.1:1/shop"


def sinks_of(server: Server, name: str) -> Callable[[], Any]:
    """Opens a store and asks it, with a password that is not the server's."""
    target: Any = {
        "redis": lambda: RedisTarget(kind="redis", url_env="STORE"),
        "postgres": lambda: PostgresTarget(kind="postgres", dsn_env="STORE"),
    }[name]()
    room: Any = {"redis": redis_sink, "postgres": postgres_sink}[name]
    return lambda: room.open_sink(target, "toy").current()


def told_of(error: BaseException) -> str:
    """All that Dagster, or a terminal, may show of an error."""
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize("name", ["redis", "postgres"])
@pytest.mark.parametrize("wrong", ["password", "port", "address"])
def test_a_store_that_refuses_is_named_without_its_password(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    wrong: str,
) -> None:
    server: Server = request.getfixturevalue(f"{name}_here")
    url = {
        "password": server.url.replace(PASSWORD, "hush-hush"),
        "port": server.url.replace(PASSWORD, "hush-hush").replace(
            str(server.port), "1"
        ),
        "address": f"hush-hush {server.url}",
    }[wrong]
    monkeypatch.setenv("STORE", url)
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(BatchAssetsError) as refused,
    ):
        sinks_of(server, name)()
    told = told_of(refused.value) + caplog.text
    assert "hush" not in told
    assert PASSWORD not in told


def postgres_source(tmp_path: Path) -> BaseSource:
    (tmp_path / "q.sql").write_text("SELECT 1 AS user_id")
    return PostgresSource(kind="postgres", query="q.sql", dsn_env="SOURCE")


def adbc_source(tmp_path: Path) -> BaseSource:
    (tmp_path / "q.sql").write_text("SELECT 1 AS user_id")
    return AdbcSource(
        kind="adbc",
        query="q.sql",
        driver="adbc_driver_postgresql",
        options_env={"uri": "SOURCE"},
    )


@pytest.mark.parametrize("make", [postgres_source, adbc_source])
@pytest.mark.parametrize(
    "address",
    [
        NOWHERE,
        "postgresql://ada:hush-hush@127.0.0.1:notaport/shop",
        "postgresql://ada:hush-hush@[::1/shop",
        "host=127.0.0.1 port=1 user=ada password=hush-hush nonsense=hush-hush",
        "hush-hush",
    ],
)
def test_a_database_that_refuses_is_named_without_its_password(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[Path], BaseSource],
    address: str,
) -> None:
    monkeypatch.setenv("SOURCE", address)
    source = make(tmp_path)
    context = ReadContext(DAY, "UTC", "user_id", tmp_path, tmp_path)
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(BatchAssetsError) as refused,
        source.read(context) as rows,
    ):
        rows.read_all()
    # What Dagster shows of the asset is in its metadata, and what the lake keeps.
    shown = f"{source!r}{source.model_dump_json()}{source.read_from()}"
    try:
        shown += str(source.identity(context))
    except BatchAssetsError as error:
        shown += told_of(error)
    assert "hush" not in told_of(refused.value) + caplog.text + shown


def test_a_webhook_that_is_not_there_is_named_without_what_is_secret(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOOK", "http://ada:hush-hush@127.0.0.1:1/hush-hush?k=hush-hush")
    monkeypatch.setenv("SIGNED_BY", "whsec_aHVzaC1odXNoLWh1c2gtaHVzaC1odXNo")
    receiver = open_receiver(
        WebhookReceiver(kind="webhook", url_env="HOOK", secret_env="SIGNED_BY")
    )
    with caplog.at_level(logging.DEBUG), pytest.raises(BatchAssetsError) as refused:
        receiver.send(Message("id", "raised", GATE_SHUT))
    assert "hush" not in told_of(refused.value) + caplog.text


# What a YAML may not hold; `_env` says that it names a variable.
SECRET = re.compile(r"password|secret|token|dsn|credential|passphrase|api_?key")


def test_no_field_of_a_yaml_holds_a_secret_itself() -> None:
    """A YAML is in git, and Dagster shows it."""
    found = []
    for model in DECLARED:
        assert issubclass(model, BaseModel)
        names = [name for name in model.model_fields if SECRET.search(name)]
        found += [f"{model.__name__}.{n}" for n in names if not n.endswith("_env")]
    assert found == []
