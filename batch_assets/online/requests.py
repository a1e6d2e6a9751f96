"""What arrives: how long it takes, its body and its path, and whether its client waits."""

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar
from urllib.parse import unquote

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batch_assets.online.metrics import Metrics
from batch_assets.online.responses import RefusedError

Answer = TypeVar("Answer")

# To read a body holds the event loop: 10 ms for one of this size.
MAX_BODY = 1 << 20


class Timed:
    """Measures each request, from its arrival here to the head of its answer."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                seconds = time.perf_counter() - begin
                route = getattr(scope.get("endpoint"), "__name__", "unknown")
                status = str(message["status"])
                self._metrics.requests.labels(route, status).inc()
                self._metrics.request_seconds.labels(route).observe(seconds)
                text = f"app;dur={1e3 * seconds:.3f}"
                message["headers"].append((b"server-timing", text.encode()))
            await send(message)

        await self._app(scope, receive, timed)


async def unless_gone(request: Request, work: Awaitable[Answer]) -> Answer:
    """Await what `work` gives, or a cancelled `work` if the client leaves before.

    Raises:
        ClientDisconnect: it has left.
    """
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.wait({task})
        raise ClientDisconnect
    finally:
        leaving.cancel()
        task.cancel()


def is_utf8(request: Request) -> bool:
    """Return whether the path is text; a server puts a sign of its own where it is not."""
    try:
        unquote(request.scope["raw_path"], errors="strict")
    except UnicodeDecodeError:
        return False
    return True


async def read_body(request: Request) -> bytes:
    """Read a body.

    Raises:
        RefusedError: it is larger than `MAX_BODY` bytes.
    """
    # What says so itself is refused before it has come.
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said[:20]) > MAX_BODY:
        raise too_large()
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            raise too_large()
    return bytes(body)


def too_large() -> RefusedError:
    """Return the refusal of a body that is larger than it may be."""
    return RefusedError(
        413, f"a body has {MAX_BODY:,} bytes at most; send fewer at once"
    )
