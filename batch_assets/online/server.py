"""The process around the service: its socket, its signals, and an end that loses nobody.

At SIGTERM or SIGINT rows that wait are scored and answered while new ones get a 503;
then connections close as their answers are out, and the process exits with 0. It knows
no route.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Sequence
from types import FrameType
from typing import Any

import uvicorn

from batch_assets.errors import ConfigError
from batch_assets.online.access import Access, Tls
from batch_assets.online.connections import Connection
from batch_assets.online.http import Online
from batch_assets.online.metrics import Metrics
from batch_assets.online.pipelines import Served

# What may wait to be accepted; the kernel's own limit is often below.
BACKLOG = 2048
# What the system may hold of answers that a client has not read, in bytes; left to itself
# it takes 4 MiB of each.
UNREAD = 1 << 18
# At the end, how long a client may take to read an answer that is there already.
ANSWER_SECONDS = 10

log = logging.getLogger(__name__)


def bind(host: str, port: int) -> socket.socket:
    """Open a listening address, before anything is loaded; port 0 takes a free one.

    Raises:
        ConfigError: the address is taken, or is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        # The last service's closed connections don't hold its port.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Each connection has this from it.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD)
        listening.bind(address)
    except OSError as error:
        msg = f"can't listen on {host} port {port}: {error.strerror}. Choose another --port"
        raise ConfigError(msg) from error
    return listening


def serve(
    pipelines: Sequence[Served],
    metrics: Metrics,
    listening: socket.socket,
    access: Access,
) -> None:
    """Serve until a signal says otherwise.

    Raises:
        ConfigError: the certificates can't be used.
    """
    server_of(Online(pipelines, metrics, access)).run(sockets=[listening])


def server_of(online: Online) -> uvicorn.Server:
    """Return the server of a service, ready to run.

    Raises:
        ConfigError: the certificates can't be used.
    """
    # What it says of its own coming and going is said here.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    config = uvicorn.Config(
        online.app(),
        backlog=BACKLOG,
        # A line for each request would cost more than a lookup; metrics count them.
        access_log=False,
        log_config=None,
        server_header=False,
        # Who asks is who has connected: a header that says otherwise is the client's word.
        proxy_headers=False,
        lifespan="on",
        http=Connection,
        ws="none",
        timeout_graceful_shutdown=ANSWER_SECONDS,
        **_certificates(online.access.tls),
    )
    try:
        config.load()
    except OSError as error:  # ssl's own is one.
        msg = f"the certificates can't be used: {error}. Expected a pair in PEM"
        raise ConfigError(msg) from error
    return _Server(config, online)


def _certificates(tls: Tls | None) -> dict[str, Any]:
    if tls is None:
        return {}
    return {
        "ssl_certfile": tls.certificate,
        "ssl_keyfile": tls.key,
        "ssl_ca_certs": tls.client_ca and str(tls.client_ca),
        "ssl_cert_reqs": ssl.CERT_REQUIRED if tls.client_ca else ssl.CERT_NONE,
    }


class _Server(uvicorn.Server):
    """Drains before it shuts down, and ends as one who was asked to, not who was killed."""

    def __init__(self, config: uvicorn.Config, online: Online) -> None:
        super().__init__(config)
        self._online = online
        self._draining: asyncio.Task[None] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._online.closing:  # Asked twice: at once, then.
            self.should_exit = self.force_exit = True
            return
        self._online.closing = True
        self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        async def drain() -> None:
            try:
                await self._online.close()
            finally:
                self.should_exit = True

        log.info("shutting down: what waits is answered first")
        self._draining = asyncio.create_task(drain())
