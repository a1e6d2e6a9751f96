"""`batch-assets serve`: what is served and what scores, over HTTP.

    GET  /v1/{pipeline}                what is served, and what scores
    GET  /v1/{pipeline}/keys/{key}     one key
    POST /v1/{pipeline}/lookup         many keys: {"keys": [...]}
    POST /v1/{pipeline}/score          rows the night did not cover: {"rows": [{...}]}
    GET  /healthz  /readyz  /metrics

It translates: what is asked into calls, and what comes of them into answers. It decides
nothing of its own, and never calls torch.
"""

import asyncio
import contextlib
import gc
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar
from urllib.parse import unquote

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batch_assets.online.batcher import ClosedError, FullError
from batch_assets.online.metrics import Metrics
from batch_assets.online.pipelines import Served
from batch_assets.online.scoring import (
    Answers,
    BadRequestError,
    BadRowError,
    TooLongError,
    keys_of,
    refused,
)
from batch_assets.scoring.faults import FaultError
from batch_assets.snapshots.version import SHOWN, Version, age_of, integer_of

Answer = TypeVar("Answer")

log = logging.getLogger(__name__)

MAX_KEYS = 1_000
# To read a body holds the event loop: 10 ms for one of this size.
MAX_BODY = 1 << 20
# What nginx calls a request whose client has left; nobody reads the answer.
CLIENT_LEFT = 499


class AnyText(Convertor[str]):
    """A part of a path that may have anything in it, a slash and a line's end, too."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("any", AnyText())


class RefusedError(Exception):
    """What is answered instead: a status, a body that says why, and headers."""

    def __init__(self, status: int, body: str | dict[str, Any], **headers: str) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body if isinstance(body, dict) else {"error": body}
        self.headers = {name.replace("_", "-"): text for name, text in headers.items()}


class Json(Response):
    """An answer as JSON; a number that JSON does not know becomes null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return to_json(content, inf_nan_mode="null")


class Online:
    """The service: its pipelines, its routes, and whether it is about to end."""

    def __init__(self, pipelines: Sequence[Served], metrics: Metrics) -> None:
        self.pipelines = {served.name: served for served in pipelines}
        self.metrics = metrics
        self.closing = False
        self._following: asyncio.Task[None] | None = None
        self._keys: dict[str, TypeAdapter[Any]] = {
            dtype: keys_of(dtype, MAX_KEYS) for dtype in ("int64", "string")
        }

    def app(self) -> ASGIApp:
        """The ASGI application."""
        routes = [
            Route("/v1/{pipeline}", self.about),
            Route("/v1/{pipeline}/keys/{key:any}", self.key),
            Route("/v1/{pipeline}/lookup", self.lookup, methods=["POST"]),
            Route("/v1/{pipeline}/score", self.score, methods=["POST"]),
            Route("/healthz", self.healthz),
            Route("/readyz", self.readyz),
            Route("/metrics", self.show_metrics),
        ]
        handlers: Mapping[Any, Any] = {
            RefusedError: _refuse,
            HTTPException: _refuse_route,
            BadRequestError: _refuse_body,
        }
        app = Starlette(
            routes=routes, lifespan=self._lifespan, exception_handlers=handlers
        )
        return Timed(app, self.metrics)

    async def close(self) -> None:
        """Answer the rows that wait, and take no more; it may be called twice."""
        self.closing = True
        if self._following:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        await asyncio.gather(*(served.close() for served in self.pipelines.values()))

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._following = asyncio.create_task(self._follow())
        self._following.add_done_callback(_say_why)
        # What is loaded by now stays: to look through it for garbage takes 50 ms.
        gc.collect()
        gc.freeze()
        yield
        await self.close()
        gc.unfreeze()  # Or libraries report at exit that these leaked.

    async def _follow(self) -> None:
        async with asyncio.TaskGroup() as group:
            for served in self.pipelines.values():
                group.create_task(served.follow())

    # Routes

    async def key(self, request: Request) -> Response:
        version = self._opened(request)
        text = request.path_params["key"]
        key = integer_of(text) if version.manifest.key_dtype == "int64" else text
        if key is None or not _is_utf8(request):
            name, dtype = version.manifest.key, version.manifest.key_dtype
            kind = "an int64" if dtype == "int64" else "a string in UTF-8"
            raise RefusedError(422, f"the key '{name}' is {kind}, got '{text[:SHOWN]}'")
        found = version.get(key)
        served = self._served(request)
        self._count_keys(served, found=int(found is not None), asked=1)
        if found is None:
            raise RefusedError(404, self._missing(text, served, version))
        return Json(
            _source(version) | {"key": found.key, "outputs": found.outputs},
        )

    async def lookup(self, request: Request) -> Response:
        version = self._opened(request)
        body = await _body(request)
        dtype = version.manifest.key_dtype
        try:
            keys = self._keys[dtype].validate_json(body)["keys"]
        except ValidationError as error:
            raise refused(error, "keys", lambda _: dtype) from None
        found = version.get_many(keys)
        answers = [
            {"key": key, "outputs": one and one.outputs}
            for key, one in zip(keys, found, strict=True)
        ]
        there = len(keys) - found.count(None)
        self._count_keys(self._served(request), found=there, asked=len(keys))
        return Json(
            _source(version) | {"missing": len(keys) - there, "answers": answers}
        )

    async def score(self, request: Request) -> Response:
        served = self._served(request)
        body = await _body(request)
        while True:
            live = served.live
            if live is None:
                raise _unavailable(
                    f"{served.name} scores nothing: {served.why_not_scored}"
                )
            rows = live.rows(body)
            try:
                answers = await unless_gone(request, live.submit(rows))
            except ClosedError:
                if served.live is live:
                    raise _unavailable(f"{served.name} can't score any more") from None
                continue  # Another release has taken over, or none.
            except FullError as full:
                self.metrics.rows.labels(served.name, "refused").inc(len(rows))
                raise _full(full) from None
            except ClientDisconnect:
                self.metrics.rows.labels(served.name, "gone").inc(len(rows))
                return Response(status_code=CLIENT_LEFT)
            break
        key, release = live.release.contract.key.name, live.release
        shown = [
            {"key": row[key]} | self._shown(served, answer)
            for row, answer in zip(rows, answers, strict=True)
        ]
        return Json(
            {
                "source": "online",
                "release": {"name": release.name, "digest": release.digest},
                "failed": sum("error" in one for one in shown),
                "answers": shown,
            },
            status_code=_status(answers),
        )

    async def about(self, request: Request) -> Response:
        served = self._served(request)
        version, live = served.opened, served.live
        scores = (
            {
                "release": {"name": live.release.name, "digest": live.release.digest},
                "contract": live.release.contract.model_dump(mode="json"),
                "waiting_rows": live.waiting,
                **asdict(served.limits),
            }
            if live
            else {"why_not": served.why_not_scored}
        )
        return Json(
            {
                "pipeline": served.name,
                "snapshot": _source(version)
                | {
                    "keys": version.manifest.rows,
                    "coverage": version.manifest.coverage,
                    "problem": served.snapshot and served.snapshot.problem,
                }
                if version
                else {"why_not": served.why_not_served},
                "online": scores,
            }
        )

    async def healthz(self, _: Request) -> Response:
        if not self.closing and (not self._following or self._following.done()):
            raise RefusedError(503, "what follows the snapshots has ended; restart it")
        return Json({"status": "alive"})

    async def readyz(self, _: Request) -> Response:
        waits = {
            name: served.why_not_scored if served.snapshot else served.why_not_served
            for name, served in self.pipelines.items()
            if not served.settled
        }
        if self.closing:
            raise _unavailable("it is shutting down")
        if waits:
            raise _unavailable("; ".join(f"{n}: {why}" for n, why in waits.items()))
        return Json({"status": "ready"})

    async def show_metrics(self, _: Request) -> Response:
        self._measure()
        # In a thread: it takes a few milliseconds, many times a lookup.
        text = await asyncio.to_thread(self.metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    # What they share

    def _served(self, request: Request) -> Served:
        name = request.path_params["pipeline"]
        if name not in self.pipelines:
            there = ", ".join(sorted(self.pipelines))
            raise RefusedError(404, f"'{name}' is not served here; there: {there}")
        return self.pipelines[name]

    def _opened(self, request: Request) -> Version:
        served = self._served(request)
        if (version := served.opened) is None:
            raise _unavailable(f"{served.name} is not served: {served.why_not_served}")
        return version

    def _missing(self, key: str, served: Served, version: Version) -> dict[str, Any]:
        manifest = version.manifest
        return _source(version) | {
            "error": f"'{key}' is not in version {version.name} of {served.name}, "
            f"which has {manifest.rows:,} keys of {manifest.day}",
            "hint": f"POST its features to /v1/{served.name}/score"
            if served.live
            else f"it can't be scored either: {served.why_not_scored}",
        }

    def _count_keys(self, served: Served, *, found: int, asked: int) -> None:
        for label, number in (("true", found), ("false", asked - found)):
            if number:
                self.metrics.keys.labels(served.name, label).inc(number)

    def _shown(self, served: Served, answer: Any) -> dict[str, Any]:
        outcome = _outcome(answer)
        self.metrics.rows.labels(served.name, outcome).inc()
        if outcome == "scored":
            return {"outputs": answer}
        shown = {"outputs": None, "error": str(answer)}
        return shown | ({"rules": answer.rules} if outcome == "bad" else {})

    def _measure(self) -> None:
        for gauge in (self.metrics.scores, self.metrics.snapshot):
            gauge.clear()
        for name, served in self.pipelines.items():
            live, snapshot = served.live, served.snapshot
            self.metrics.waiting_rows.labels(name).set(live.waiting if live else 0)
            release = live.release.digest if live else ""
            self.metrics.scores.labels(name, release).set(1 if live else 0)
            if snapshot:
                of = (name, snapshot.version, snapshot.release.digest)
                self.metrics.snapshot.labels(*of).set(1)
                age = snapshot.age.total_seconds()
                self.metrics.snapshot_age.labels(name).set(age)
                self.metrics.snapshot_stale.labels(name).set(snapshot.is_stale)
                problem = snapshot.problem is not None
                self.metrics.snapshot_problem.labels(name).set(problem)


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
    """What `work` gives, or a cancelled `work` if the client leaves before.

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


def _source(version: Version) -> dict[str, Any]:
    manifest = version.manifest
    age, release = age_of(manifest), manifest.release
    return {
        "source": "snapshot",
        "version": version.name,
        "day": manifest.day,
        "release": {"name": release.name, "digest": release.digest},
        "age_seconds": round(age.total_seconds(), 3),
        "is_stale": age > manifest.stale_after,
    }


def _is_utf8(request: Request) -> bool:
    """Whether the path is text; a server puts a sign of its own where it is not."""
    try:
        unquote(request.scope["raw_path"], errors="strict")
    except UnicodeDecodeError:
        return False
    return True


async def _body(request: Request) -> bytes:
    """The body, if it is of a size that is read."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            raise RefusedError(
                413, f"a body has {MAX_BODY:,} bytes at most; send fewer at once"
            )
    return bytes(body)


def _outcome(answer: Any) -> str:
    if isinstance(answer, BadRowError):
        return "bad"
    if isinstance(answer, FaultError):
        return "faulty"
    return "failed" if isinstance(answer, BaseException) else "scored"


def _status(answers: Answers) -> int:
    """200 if a row was scored; else why the first was not: its own fault, or not."""
    outcomes = [_outcome(answer) for answer in answers]
    if "scored" in outcomes:
        return 200
    return 503 if outcomes[0] == "failed" else 422


def _unavailable(why: str) -> RefusedError:
    return RefusedError(503, why, retry_after="1")


def _full(full: FullError) -> RefusedError:
    seconds = max(math.ceil(full.retry_after), 1)
    return RefusedError(
        429, f"{full}; come back in {seconds} s", retry_after=str(seconds)
    )


async def _refuse(_: Request, error: RefusedError) -> Response:
    return Json(error.body, status_code=error.status, headers=error.headers)


async def _refuse_route(request: Request, error: HTTPException) -> Response:
    text = f"{request.method} {request.url.path}: {error.detail}"
    return Json({"error": text}, status_code=error.status_code, headers=error.headers)


async def _refuse_body(_: Request, error: BadRequestError) -> Response:
    status = 413 if isinstance(error, TooLongError) else 422 if error.problems else 400
    shown = {"error": str(error), "problems": [asdict(p) for p in error.problems]}
    return Json(shown, status_code=status)


def _say_why(following: asyncio.Task[None]) -> None:
    if not following.cancelled() and (error := following.exception()):
        log.error("what follows the snapshots has ended", exc_info=error)
