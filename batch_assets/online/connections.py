"""One connection: how much a request may bring, and how long it may take to arrive.

The parser keeps what has come of a header until it ends, and uvicorn waits for the next
byte, or for a client to read, as long as it takes: a few clients who send slowly or without
end, or never read, would hold the service's memory and connections. It knows no route.
"""

import asyncio
import socket
import struct
from collections.abc import Mapping
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from batch_assets.online.requests import MAX_BODY

# Of path and headers together, in bytes; trailers count among them.
MAX_HEAD = 64 << 10
# All of a request, with what chunks are wrapped in.
MAX_REQUEST = MAX_HEAD + 8 * MAX_BODY
# From the first byte of a request, or the connection, to its last; in seconds.
ARRIVAL_SECONDS = 20.0
# How long a client may take none of an answer that waits for it, in seconds.
READING_SECONDS = 20.0
# A connection that is closed with this is reset, and nothing is sent any more.
AT_ONCE = struct.pack("ii", 1, 0)
# Below the 1,024 files that a process may have open if nobody has said otherwise.
MAX_CONNECTIONS = 900

REFUSALS: Mapping[int, str] = {
    400: "this is no HTTP request",
    408: f"a request has {ARRIVAL_SECONDS:g} s to arrive; send it faster",
    413: f"a request has {MAX_REQUEST:,} bytes at most; send fewer at once",
    431: f"path and headers have {MAX_HEAD:,} bytes at most together; send fewer",
}
PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
}


class Connection(HttpToolsProtocol):
    """A connection that is closed when a request brings too much or takes too long, or when
    nobody reads the answer.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._late: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._status = 400
        self._in_head = True
        self._head = self._bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        self._is_read()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._bytes += len(data)
        if self._late is None and (self.cycle is None or self.cycle.response_complete):
            self._wait()
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head and self._bytes > MAX_HEAD:
            self._refuse(431)
        elif self._bytes > MAX_REQUEST:
            self._refuse(413)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        self._is_read()
        super().resume_writing()

    # Parser callbacks; what they raise ends in `send_400_response`.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head, self._bytes = True, 0, 0
        if self._late is None:
            self._wait()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + len(": \r\n"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._arrived()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._status)

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > MAX_HEAD:
            self._status = 431
            raise httptools.HttpParserError

    def _wait(self) -> None:
        self._late = self.loop.call_later(ARRIVAL_SECONDS, self._is_late)

    def _arrived(self) -> None:
        if self._late:
            self._late.cancel()
            self._late = None

    def _is_read(self) -> None:
        if self._unread:
            self._unread.cancel()
            self._unread = None

    def _wait_for_reader(self) -> None:
        waits = self.transport.get_write_buffer_size()
        self._unread = self.loop.call_later(READING_SECONDS, self._is_unread, waits)

    def _is_unread(self, waited: int) -> None:
        if self.transport.get_write_buffer_size() < waited:  # Slow, but it reads.
            self._wait_for_reader()
        else:
            # Or the system would keep for it what it does not read.
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            self.transport.abort()

    def _is_late(self) -> None:
        if self.pipeline:  # Nothing is read while the request before it is answered.
            self._wait()
        elif not self.transport.is_closing():
            self._refuse(408)

    def _refuse(self, status: int) -> None:
        self._arrived()
        # In the middle of an answer another one would be read as a part of it.
        if self.cycle is None or not self.cycle.response_started:
            body = f'{{"error":"{REFUSALS[status]}"}}'
            self.transport.write(
                f"HTTP/1.1 {status} {PHRASES[status]}\r\n"
                "content-type: application/json\r\n"
                f"content-length: {len(body)}\r\n"
                f"connection: close\r\n\r\n{body}".encode("ascii")
            )
        self.transport.close()
