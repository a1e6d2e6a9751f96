"""Real servers that alerts are sent to: HTTP and SMTP, on free ports of this machine."""

import email
import email.policy
import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PATH = "/hooks/t0ken-of-the-tests"
USER, PASSWORD = "night-watch@example.org", "pa55word-of-the-tests"


@dataclass
class Listener:
    """A web server that keeps what was posted to it.

    `answers` are the codes of the next answers, 204 after that.
    """

    port: int
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{PATH}"

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What was taken, as JSON."""
        return [json.loads(body) for _, body in self.received]

    @property
    def headlines(self) -> list[str]:
        return [message["data"]["headline"] for message in self.messages]


@contextmanager
def http_listener(port: int = 0) -> Iterator[Listener]:
    """A web server that takes whatever is posted to `PATH`."""
    listener = Listener(port)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            code = listener.answers.pop(0) if listener.answers else 204
            if not self.path.startswith(PATH):
                code = 404
            if code < 300:
                headers = {name.lower(): text for name, text in self.headers.items()}
                listener.received.append((headers, body))
            self.send_response(code)
            if code in (301, 302):
                self.send_header("location", listener.url)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    listener.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Postbox:
    """An SMTP server that keeps what was handed to it.

    It refuses the recipients in `unknown`, and every message with `answer`, if there is
    one.
    """

    port: int = 0
    received: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)
    answer: str | None = None
    logins: list[str] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)

    # Named by aiosmtpd.
    async def handle_RCPT(  # noqa: N802
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        if address in self.unknown:
            return "550 5.1.1 nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802
        self, server: Any, session: Any, envelope: Any
    ) -> str:
        if self.answer:
            return self.answer
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(mail, EmailMessage)
        self.received.append(mail)
        self.recipients.append(list(envelope.rcpt_tos))
        self.encrypted.append(session.ssl is not None)
        return "250 OK"

    def authenticate(
        self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any
    ) -> AuthResult:
        right = (data.login.decode(), data.password.decode()) == (USER, PASSWORD)
        if right:
            self.logins.append(data.login.decode())
        return AuthResult(success=right, handled=right)

    @property
    def texts(self) -> list[str]:
        return [mail.get_content() for mail in self.received]

    @property
    def subjects(self) -> list[str]:
        # Of a long one, the first line is empty.
        return [str(mail["subject"]).strip() for mail in self.received]


class _Started(Controller):
    """Waits for its server on the port that the system gave it."""

    def _trigger_server(self) -> None:
        (socket,) = self.server.sockets  # type: ignore[attr-defined]
        self.port = socket.getsockname()[1]
        super()._trigger_server()


@contextmanager
def smtp_listener(
    *, security: str = "none", certificate: "Certificate | None" = None
) -> Iterator[Postbox]:
    """An SMTP server; with a certificate it speaks TLS, and takes a login."""
    box = Postbox()
    settings: dict[str, Any] = {}
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.chain, certificate.key)
        settings = {"authenticator": box.authenticate}
        if security == "tls":
            # Of TLS from the first byte on, its sessions know nothing.
            settings |= {"ssl_context": context, "auth_require_tls": False}
        else:
            settings |= {"tls_context": context, "require_starttls": True}
            settings |= {"auth_required": True}
    controller = _Started(box, hostname="127.0.0.1", port=0, **settings)
    controller.start()
    box.port = controller.port
    try:
        yield box
    finally:
        controller.stop()


@dataclass(frozen=True)
class Certificate:
    """A certificate of 127.0.0.1 that nobody but itself vouches for, and its key."""

    chain: Path
    key: Path


def make_certificate(folder: Path) -> Certificate:
    certificate = Certificate(folder / "chain.pem", folder / "key.pem")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(certificate.key), "-out", str(certificate.chain)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate
