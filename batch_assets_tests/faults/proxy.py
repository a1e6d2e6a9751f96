"""A proxy before an object store whose answers meet the faults of a plan.

Everything goes through it that a night asks of a bucket, what Delta does in Rust among
it. It passes requests on as they came: their signatures hold, for they are for the
address that the client asked.
"""

import http.client
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from batch_assets_tests.faults.plan import Fault, FaultPlan, Faults
from batch_assets_tests.faults.store import damaged

PUT = (Fault.FAIL, Fault.LOST, Fault.LIE, Fault.LATE, Fault.DELAY)
GET = (Fault.FAIL, Fault.LOST, Fault.TEAR, Fault.DELAY)
LIST = (Fault.FAIL, Fault.LOST, Fault.STALE, Fault.DELAY)
DELETE = (Fault.FAIL, Fault.LOST, Fault.LIE, Fault.DELAY)
LATE_SECONDS = 0.2
UNAVAILABLE = 503
# Parts of an upload are numbered and named anew each time.
OF_AN_UPLOAD = re.compile(r"[?&](uploadId|partNumber|uploads)")


@dataclass(frozen=True)
class Answer:
    """What the store has answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Proxy(ThreadingHTTPServer):
    """A server on a free port of this machine, before another of the same."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        parts = urlsplit(upstream)
        self.upstream = (str(parts.hostname), int(parts.port or 80))
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.requests = 0
        self.begin(FaultPlan(0, share=0.0))

    def begin(self, plan: FaultPlan) -> None:
        """Keep to a plan from now on."""
        self.faults = Faults(plan)
        self.away_until = 0.0
        self.lists: dict[str, Answer] = {}

    def go_away(self, seconds: float) -> None:
        """Answer 503 to everything for so long."""
        self.away_until = time.monotonic() + seconds

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that are gone."""


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    # An answer goes out in one piece: in two, each would wait 40 ms for the other side.
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: Proxy

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            prefix = unquote(query.get("prefix", [""])[0])
            self._meet(f"list {'start-after' in query}", prefix, LIST)
        else:
            self._meet("get", self._key(), GET)

    def do_HEAD(self) -> None:
        self._meet("head", self._key(), (Fault.FAIL, Fault.LOST, Fault.DELAY))

    def do_PUT(self) -> None:
        whole = not OF_AN_UPLOAD.search(self.path)
        self._meet("put", self._key(), PUT if whole else (Fault.FAIL, Fault.LOST))

    def do_POST(self) -> None:
        # To delete several, or to begin or end an upload in pieces.
        self._meet("post", self._key(), (Fault.FAIL, Fault.DELAY))

    def do_DELETE(self) -> None:
        self._meet("delete", self._key(), DELETE)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path)

    def _meet(self, operation: str, path: str, can: tuple[Fault, ...]) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server = self.server
        server.requests += 1
        if time.monotonic() < server.away_until:
            self._send(Answer(UNAVAILABLE, [], b""))
            return
        fault = server.faults.draw(operation, path, can)
        if fault is Fault.FAIL:
            self._send(Answer(UNAVAILABLE, [], b""))
        elif fault is Fault.LIE:
            gone = 204 if operation == "delete" else 200
            self._send(Answer(gone, [("ETag", '"0123456789abcdef"')], b""))
        elif fault is Fault.LATE:
            threading.Timer(LATE_SECONDS, self._pass_on_late, [body]).start()
            self._send(Answer(200, [("ETag", '"0123456789abcdef"')], b""))
        elif fault is Fault.STALE and self.path in server.lists:
            self._send(server.lists[self.path])
        else:
            answer = self._pass_on(body)
            if operation.startswith("list"):
                server.lists.setdefault(self.path, answer)
            if fault is Fault.LOST:
                self.close_connection = True
            elif fault is Fault.TEAR:
                self._send(answer, damaged(answer.body, fault))
                self.close_connection = True
            else:
                self._send(answer)

    def _pass_on(self, body: bytes) -> Answer:
        connection = http.client.HTTPConnection(*self.server.upstream, timeout=60)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return Answer(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()

    def _pass_on_late(self, body: bytes) -> None:
        """Pass a request on whose client was told long ago that it was done."""
        # If the store does not answer this either, it was a lie: the client can't tell.
        with suppress(OSError, http.client.HTTPException):
            self._pass_on(body)

    def _send(self, answer: Answer, body: bytes | None = None) -> None:
        """Send an answer; of another body, it claims the length of the whole."""
        self.send_response_only(answer.status)
        length = str(len(answer.body))
        for name, value in answer.headers:
            if name.lower() == "content-length":
                length = value  # Of a HEAD, that of what a GET would give.
            elif name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body if body is None else body)
        self.wfile.flush()


@contextmanager
def proxy_before(upstream: str) -> Iterator[Proxy]:
    """A proxy while this is entered."""
    proxy = Proxy(upstream)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
