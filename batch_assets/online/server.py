"""The process around the service: its socket, its signals, and an end that loses nobody.

At SIGTERM or SIGINT rows that wait are scored and answered while new ones get a 503;
then connections close as their answers are out, and the process exits with 0. It knows
no route.
"""

import asyncio
import logging
import socket
from collections.abc import Sequence
from types import FrameType

import uvicorn

from batch_assets.errors import ConfigError
from batch_assets.online.http import Online
from batch_assets.online.metrics import Metrics
from batch_assets.online.pipelines import Served

# What may wait to be accepted; the kernel's own limit is often below.
BACKLOG = 2048

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
        listening.bind(address)
    except OSError as error:
        msg = f"can't listen on {host} port {port}: {error.strerror}. Choose another --port"
        raise ConfigError(msg) from error
    return listening


def serve(
    pipelines: Sequence[Served], metrics: Metrics, listening: socket.socket
) -> None:
    """Serve until a signal says otherwise."""
    # What it says of its own coming and going is said here.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    online = Online(pipelines, metrics)
    config = uvicorn.Config(
        online.app(),
        backlog=BACKLOG,
        # A line for each request would cost more than a lookup; metrics count them.
        access_log=False,
        log_config=None,
        server_header=False,
        lifespan="on",
    )
    _Server(config, online).run(sockets=[listening])


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
