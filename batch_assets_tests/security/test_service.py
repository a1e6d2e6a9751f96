"""The service when a client is not kind: its size, its haste, its papers."""

import contextlib
import http.client
import json
import logging
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from batch_assets.errors import ConfigError
from batch_assets.online import connections
from batch_assets.online.access import MOST_CLIENTS, Access, Rates, Tls
from batch_assets.online.connections import MAX_HEAD, Connection
from batch_assets.online.http import Online
from batch_assets.online.metrics import Metrics
from batch_assets.online.requests import MAX_BODY
from batch_assets.online.server import UNREAD, bind, server_of

PATIENCE = 60
TOKEN, OTHER = "the-token-of-the-test", "the-token-before-it"


@dataclass(frozen=True)
class Service:
    """The service without a pipeline, in a thread: its guards are those of any other."""

    port: int
    metrics: Metrics

    def connect(self) -> socket.socket:
        return connect(self.port)

    def send(self, *pieces: bytes) -> bytes:
        """What comes of bytes, until the service closes the connection."""
        with self.connect() as connection:
            # It may close before all is sent; what it said then still arrives.
            with contextlib.suppress(OSError):
                for piece in pieces:
                    connection.sendall(piece)
            return everything(connection)

    def ask(
        self, path: str, method: str = "GET", body: bytes = b"", **headers: str
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


def everything(connection: socket.socket) -> bytes:
    said = bytearray()
    with contextlib.suppress(OSError):
        while piece := connection.recv(1 << 16):
            said += piece
    return bytes(said)


@contextmanager
def running(access: Access | None = None) -> Iterator[Service]:
    metrics = Metrics()
    server = server_of(Online([], metrics, access or Access()))
    with serving(server) as port:
        yield Service(port, metrics)


@contextmanager
def serving(server: uvicorn.Server) -> Iterator[int]:
    listening = bind("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    until(lambda: server.started)
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running() as service:
        yield service


def works(service: Service) -> bool:
    return service.ask("/readyz")[0] == 200


# What a request may bring.


@pytest.mark.parametrize(
    "head",
    [
        b"".join(b"x-%d: y\r\n" % at for at in range(20_000)),
        b"x: " + b"y" * (MAX_HEAD + 1) + b"\r\n",
        b"y" * (MAX_HEAD + 1) + b": x\r\n",
    ],
    ids=["many headers", "a long value", "a long name"],
)
def test_a_flood_of_headers_is_refused(service: Service, head: bytes) -> None:
    said = service.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n", head, b"\r\n")
    assert said.startswith(b"HTTP/1.1 431 ")
    assert b"65,536 bytes at most" in said
    assert works(service)


def test_a_path_without_end_is_refused(service: Service) -> None:
    said = service.send(b"GET /", *[b"x" * 4_096] * 20, b" HTTP/1.1\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 431 ")
    assert works(service)


def test_headers_without_end_are_refused_before_they_end(service: Service) -> None:
    """The parser keeps a value until it ends, which it never does."""
    with service.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nx: ")
        with contextlib.suppress(OSError):
            for _ in range(1_000):
                connection.sendall(b"y" * 4_096)
        assert b" 431 " in everything(connection)


def test_a_flood_of_trailers_is_refused(service: Service) -> None:
    head = (
        b"POST /v1/toy/lookup HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    flood = b"".join(b"x-%d: y\r\n" % at for at in range(20_000))
    with service.connect() as connection:
        with contextlib.suppress(OSError):
            connection.sendall(head + b"0\r\n" + flood + b"\r\n")
        assert b"HTTP/1.1 200" not in everything(connection)
    assert works(service)


def body_of(size: int, *, chunked: bool) -> list[bytes]:
    head = b"POST /v1/toy/lookup HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    if chunked:
        piece = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
        pieces = [piece] * (size // 65_536 + 1)
        return [head + b"transfer-encoding: chunked\r\n\r\n", *pieces, b"0\r\n\r\n"]
    return [head + b"content-length: %d\r\n\r\n" % size, b"x" * min(size, 1 << 22)]


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "whole"])
def test_a_body_without_end_keeps_no_memory_and_ends(
    service: Service, *, chunked: bool
) -> None:
    """Of a pipeline that is not there, so that nobody reads it."""
    said = service.send(*body_of(1 << 30 if not chunked else 1 << 25, chunked=chunked))
    assert said.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 413 ", b"")), said[:80]
    assert works(service)


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /healthz HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nx\x00y: z\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_request_or_could_be_read_as_two_is_refused(
    service: Service, request_line: bytes
) -> None:
    assert b"HTTP/1.1 400 " in service.send(request_line)
    assert works(service)


# How long it may take.


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(connections, "ARRIVAL_SECONDS", 0.3)
    with running() as service:
        yield service


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\r\n",
        b"GET /healthz HT",
        b"GET /healthz HTTP/1.1\r\nx: ",
        b"POST /v1/toy/lookup HTTP/1.1\r\ncontent-length: 9\r\n\r\n{",
        b"POST /v1/toy/lookup HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n9\r\n{",
        b"GET /healthz HTTP/1.1\r\n\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\nGET /hea",
    ],
    ids=[
        "nothing",
        "a line",
        "a path",
        "a header",
        "a body",
        "a chunk",
        "after",
        "next",
    ],
)
def test_a_client_that_does_not_go_on_is_not_waited_for(
    impatient: Service, sent: bytes
) -> None:
    """It ends without a byte more from the client, or this test would not."""
    said = impatient.send(sent)
    assert b"HTTP/1.1 408 " in said or said.count(b"HTTP/1.1 ") == 1
    assert works(impatient)


def test_a_slow_drip_of_bytes_does_not_keep_a_connection(impatient: Service) -> None:
    """It ends when the service has closed the connection, or never."""
    with impatient.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b"x: y\r\n")
                time.sleep(0.02)
    assert works(impatient)


# An answer of 60 KiB, which says what was not found.
LONG = b"GET /%s HTTP/1.1\r\nhost: x\r\n\r\n" % (b"x" * 61_440)


def send_forever(connection: socket.socket) -> None:
    while True:
        connection.sendall(LONG)


def test_a_client_that_never_reads_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "READING_SECONDS", 0.3)
    with running() as service, service.connect() as connection:
        with pytest.raises(ConnectionError):
            send_forever(connection)
        assert works(service)


def test_the_system_holds_little_of_what_is_not_read() -> None:
    with (
        bind("127.0.0.1", 0) as listening,
        socket.socket() as client,
    ):
        listening.listen()
        client.connect(listening.getsockname())
        accepted, _ = listening.accept()
        with accepted:
            held = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    # Linux takes twice what it is told, for its own part.
    assert held <= 2 * UNREAD


def test_a_client_that_reads_slowly_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three times as long as one that does not read, by as large an answer."""
    monkeypatch.setattr(connections, "READING_SECONDS", 3)
    size, came = 4 << 20, bytearray()

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * size})

    server = uvicorn.Server(
        uvicorn.Config(large, http=Connection, lifespan="off", log_config=None)
    )
    with serving(server) as port, connect(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        while came.count(b"x") < size:
            time.sleep(0.3)
            piece = connection.recv(1 << 17)
            assert piece, f"closed after {len(came):,} bytes"
            came += piece


def test_more_connections_than_there_may_be_are_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    with running() as service, contextlib.ExitStack() as open_ones:
        for _ in range(3):
            one = open_ones.enter_context(service.connect())
            one.sendall(b"GET /healthz HTTP/1.1\r\n")
        with pytest.raises(ConnectionError):
            service.ask("/readyz")
        open_ones.close()
        until(lambda: answers(service))


def answers(service: Service) -> bool:
    try:
        return works(service)
    except OSError:
        return False


# Who may ask.


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.7", "fe80::1%eth0"])
def test_where_others_can_ask_it_does_not_start_without_saying_who_may(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="nothing says who may.*--token-env"):
        Access.of(address, None, None, None)
    for name in ("cert", "key"):
        (tmp_path / name).touch()
    server_alone = Tls(tmp_path / "cert", tmp_path / "key")
    with pytest.raises(ConfigError, match="nothing says who may"):
        Access.of(address, None, None, server_alone)
    monkeypatch.setenv("TOKEN", TOKEN)
    assert Access.of(address, "TOKEN", None, None).rate == 1_000
    assert Access.of(address, "TOKEN", 0, None).rate is None


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1"])
def test_on_this_machine_anybody_may_ask(address: str) -> None:
    access = Access.of(address, None, None, None)
    assert access.opens(None)
    assert access.rate is None


@pytest.mark.parametrize("token", ["", " ", "short", f"{TOKEN} short"])
def test_a_token_that_could_be_guessed_is_refused(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", token)
    with pytest.raises(ConfigError, match="TOKEN") as refused:
        Access.of("0.0.0.0", "TOKEN", None, None)
    assert "short" not in str(refused.value)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKEN", f"{TOKEN} {OTHER}")
        access = Access.of("127.0.0.1", "TOKEN", None, None)
    with running(access) as service:
        yield service


@pytest.mark.parametrize("token", [TOKEN, OTHER])
def test_a_token_opens(guarded: Service, token: str) -> None:
    for word in ("Bearer", "bearer"):
        status, _ = guarded.ask("/metrics", authorization=f"{word} {token}")
        assert status == 200


@pytest.mark.parametrize(
    "said",
    [
        None,
        "",
        TOKEN,
        f"Basic {TOKEN}",
        "Bearer",
        f"Bearer {TOKEN}x",
        f"Bearer x{TOKEN}",
    ]
    + [f"Bearer {TOKEN} {OTHER}", "Bearer \xff\xfe", f"Bearer {TOKEN[:-1]}"],
)
@pytest.mark.parametrize("path", ["/metrics", "/v1/toy", "/v1/toy/keys/1", "/nowhere"])
def test_without_the_token_nothing_is_answered(
    guarded: Service, said: str | None, path: str
) -> None:
    headers = {} if said is None else {"authorization": said}
    status, body = guarded.ask(path, **headers)
    assert status == 401
    assert "Authorization: Bearer" in body
    assert TOKEN not in body


def test_two_tokens_are_none(guarded: Service) -> None:
    said = guarded.send(
        b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        + f"authorization: Bearer {TOKEN}\r\nauthorization: Bearer x\r\n\r\n".encode()
    )
    assert said.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(("path", "status"), [("/healthz", 503), ("/readyz", 200)])
def test_probes_have_no_token(guarded: Service, path: str, status: int) -> None:
    assert guarded.ask(path)[0] == status


@pytest.mark.parametrize(
    "path", ["/healthz/../metrics", "//healthz", "/healthz/", "/metrics?/healthz"]
)
def test_no_other_path_passes_for_a_probe(guarded: Service, path: str) -> None:
    assert guarded.ask(path)[0] == 401


# Certificates.


def made_certificate(folder: Path, name: str, signer: str | None = None) -> Path:
    """A key and a certificate, for the address of this machine, by OpenSSL."""
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    by = ["-CA", f"{signer}.pem", "-CAkey", f"{signer}.key"] if signer else []
    command = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "2"]
    subprocess.run(
        [*command, *subject, *by, "-keyout", f"{name}.key", "-out", f"{name}.pem"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder / f"{name}.pem"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    for name, signer in (
        ("ours", None),
        ("server", "ours"),
        ("client", "ours"),
        ("stranger", None),
    ):
        made_certificate(folder, name, signer)
    return folder


def over_tls(service: Service, folder: Path, client: str | None) -> int:
    context = ssl.create_default_context(cafile=str(folder / "ours.pem"))
    if client:
        context.load_cert_chain(folder / f"{client}.pem", folder / f"{client}.key")
    connection = http.client.HTTPSConnection(
        "127.0.0.1", service.port, timeout=PATIENCE, context=context
    )
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        return connection.getresponse().status


def test_a_client_needs_a_certificate_of_the_authority(certificates: Path) -> None:
    files = [certificates / name for name in ("server.pem", "server.key", "ours.pem")]
    with running(Access.of("0.0.0.0", None, None, Tls(*files))) as service:
        assert over_tls(service, certificates, "client") == 200
        for stranger in (None, "stranger"):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                over_tls(service, certificates, stranger)
        assert b"200" not in service.send(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert over_tls(service, certificates, "client") == 200


def test_certificates_that_can_not_be_used_are_named(certificates: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere is not there, expected a file"):
        Tls(certificates / "nowhere", certificates / "server.key")
    other = Tls(certificates / "server.pem", certificates / "client.key")
    with pytest.raises(ConfigError, match="the certificates can't be used"):
        server_of(Online([], Metrics(), Access(tls=other)))


# How often.


def test_a_client_that_asks_too_often_is_told_when_to_come_back() -> None:
    with running(Access(rate=2)) as service:
        answers = [service.ask("/metrics") for _ in range(20)]
        refused = [text for status, text in answers if status == 429]
        assert answers[0][0] == answers[1][0] == 200
        assert refused
        assert "more than 2 times a second; come back in 1 s" in refused[0]
        assert works(service)


def test_each_client_has_a_rate_of_its_own_that_comes_back() -> None:
    rates = Rates(2)
    assert [rates.wait("a", 0.0) for _ in range(4)] == [0, 0, 0.5, 0.5]
    assert rates.wait("b", 0.0) == 0
    assert rates.wait("a", 0.5) == 0
    assert rates.wait("a", 0.5) == 0.5
    assert [rates.wait("a", 100.0) for _ in range(3)] == [0, 0, 0.5]


def test_a_network_of_ipv6_is_one_client() -> None:
    rates = Rates(1)
    assert rates.wait("2001:db8::1", 0.0) == 0
    assert rates.wait("2001:db8::ffff", 0.0) > 0
    assert rates.wait("2001:db8:0:1::1", 0.0) == 0


def test_clients_without_end_take_no_memory_without_end() -> None:
    rates = Rates(1)
    for at in range(MOST_CLIENTS + 500):
        rates.wait(f"10.{at >> 16}.{at >> 8 & 255}.{at & 255}", 0.0)
    assert len(rates) == MOST_CLIENTS


# What it tells.


def series(service: Service) -> set[str]:
    lines = service.metrics.text().decode().splitlines()
    return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}


def test_metrics_do_not_grow_with_what_clients_ask() -> None:
    """A series for each path, key or method would fill Prometheus, and this process."""
    with running() as service:
        kinds = [
            ("GET", "/v1/{}"),
            ("GET", "/v1/toy/keys/{}"),
            ("POST", "/v1/{}/score"),
            ("GET", "/{}"),
            ("PUT", "/v1/{}/lookup"),
            ("GET", "/healthz?{}"),
        ]

        def storm(start: int) -> None:
            for at in range(start, start + 15):
                for method, path in kinds:
                    service.ask(path.format(f"x{at}"), method)

        storm(0)
        before = series(service)
        storm(15)
        assert series(service) == before
        assert not any("x1" in one for one in before)


def test_an_error_of_the_service_shows_nothing_of_its_inside(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        msg = "hush-hush"
        raise RuntimeError(msg)

    monkeypatch.setattr(Metrics, "text", broken)
    with caplog.at_level(logging.CRITICAL):
        status, text = service.ask("/metrics")
    assert status == 500
    assert "hush" not in text
    assert "Traceback" not in text


def test_a_body_that_says_its_size_is_refused_before_it_comes() -> None:
    """Of a pipeline that is there: see test_lookups for one that is read."""
    from starlette.requests import Request

    from batch_assets.online.requests import read_body
    from batch_assets.online.responses import RefusedError

    async def never() -> dict[str, object]:
        raise AssertionError

    for said in (MAX_BODY + 1, 10**30):
        scope = {"type": "http", "headers": [(b"content-length", b"%d" % said)]}
        with pytest.raises(RefusedError) as refused:
            read_body(Request(scope, never)).send(None)
        assert json.dumps(refused.value.body).count("1,048,576") == 1
        assert refused.value.status == 413
