"""`batch-assets serve`: what is served and what scores, over HTTP.

    GET  /v1/{pipeline}                what is served, and what scores
    GET  /v1/{pipeline}/keys/{key}     one key
    POST /v1/{pipeline}/lookup         many keys: {"keys": [...], "segments": [...]}
    POST /v1/{pipeline}/score          rows the night did not cover: {"rows": [{...}]}
    GET  /healthz  /readyz  /metrics

It translates: what is asked into calls, and what comes of them into answers. It decides
nothing of its own, and never calls torch.
"""

import asyncio
import contextlib
import gc
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from batch_assets.online.access import Access
from batch_assets.online.batcher import ClosedError, FullError
from batch_assets.online.guard import Guard
from batch_assets.online.metrics import Metrics
from batch_assets.online.pipelines import Served
from batch_assets.online.requests import Timed, is_utf8, read_body, unless_gone
from batch_assets.online.responses import (
    HANDLERS,
    Json,
    RefusedError,
    found_of,
    outcome_of,
    queue_is_full,
    shown_of,
    source_of,
    status_of,
    unavailable,
)
from batch_assets.online.scoring import LiveRelease, keys_of, refused
from batch_assets.online.turns import Turns
from batch_assets.snapshots.version import SHOWN, Answer, Version, integer_of

log = logging.getLogger(__name__)

MAX_KEYS = 1_000
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


class Online:
    """The service: its pipelines, its routes, and whether it is about to end."""

    def __init__(
        self, pipelines: Sequence[Served], metrics: Metrics, access: Access
    ) -> None:
        self.access = access
        self.pipelines = {served.name: served for served in pipelines}
        self.metrics = metrics
        self.closing = False
        self._turns = Turns()
        self._following: asyncio.Task[None] | None = None
        self._keys: dict[str, TypeAdapter[Any]] = {
            dtype: keys_of(dtype, MAX_KEYS) for dtype in ("int64", "string")
        }

    def app(self) -> ASGIApp:
        """Return the ASGI application."""
        routes = [
            Route("/v1/{pipeline}", self.about),
            Route("/v1/{pipeline}/keys/{key:any}", self.key),
            Route("/v1/{pipeline}/lookup", self.lookup, methods=["POST"]),
            Route("/v1/{pipeline}/score", self.score, methods=["POST"]),
            Route("/healthz", self.healthz),
            Route("/readyz", self.readyz),
            Route("/metrics", self.show_metrics),
        ]
        app = Starlette(
            routes=routes, lifespan=self._lifespan, exception_handlers=HANDLERS
        )
        return Timed(Guard(app, self.access), self.metrics)

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
        if key is None or not is_utf8(request):
            name, dtype = version.manifest.key, version.manifest.key_dtype
            kind = "an int64" if dtype == "int64" else "a string in UTF-8"
            raise RefusedError(422, f"the key '{name}' is {kind}, got '{text[:SHOWN]}'")
        answer = version.get(key, request.query_params.get("segment"))
        served = self._served(request)
        self._count_keys(served, [answer])
        if answer is None:
            raise RefusedError(404, self._missing(text, served, version))
        return Json(source_of(version) | shown_of(answer.key, answer))

    async def lookup(self, request: Request) -> Response:
        version = self._opened(request)
        body = await read_body(request)
        dtype = version.manifest.key_dtype
        try:
            asked = self._keys[dtype].validate_json(body)
        except ValidationError as error:
            raise refused(error, "keys", lambda _: dtype) from None
        keys, segments = asked["keys"], asked.get("segments")
        if segments is not None and len(segments) != len(keys):
            raise RefusedError(422, f"{len(segments)} segments of {len(keys)} keys")
        found, answers = await self._turns.looked_up(version, keys, segments)
        self._count_keys(self._served(request), found)
        missing = sum(answer is None or answer.is_fallback for answer in found)
        return Json(source_of(version) | {"missing": missing, "answers": answers})

    async def score(self, request: Request) -> Response:
        served = self._served(request)
        body = await read_body(request)
        while True:
            live = served.live
            if live is None:
                raise unavailable(
                    f"{served.name} scores nothing: {served.why_not_scored}"
                )
            rows = live.rows(body)
            try:
                answers = await unless_gone(request, live.submit(rows))
            except ClosedError:
                if served.live is live:
                    raise unavailable(f"{served.name} can't score any more") from None
                continue  # Another release has taken over, or none.
            except FullError as error:
                self.metrics.rows.labels(served.name, "refused").inc(len(rows))
                raise queue_is_full(error) from None
            except ClientDisconnect:
                self.metrics.rows.labels(served.name, "gone").inc(len(rows))
                return Response(status_code=CLIENT_LEFT)
            break
        key, release = live.release.contract.key.name, live.release
        shown = [
            {"key": row[key]} | self._shown(served, live, answer)
            for row, answer in zip(rows, answers, strict=True)
        ]
        return Json(
            {
                "source": "online",
                "release": {"name": release.name, "digest": release.digest},
                "failed": sum("error" in one for one in shown),
                "answers": shown,
            },
            status_code=status_of(answers),
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
                "snapshot": source_of(version)
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
            raise unavailable("it is shutting down")
        if waits:
            raise unavailable("; ".join(f"{n}: {why}" for n, why in waits.items()))
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
            names = ", ".join(sorted(self.pipelines))
            raise RefusedError(404, f"'{name}' is not served here; there: {names}")
        return self.pipelines[name]

    def _opened(self, request: Request) -> Version:
        served = self._served(request)
        if (version := served.opened) is None:
            raise unavailable(f"{served.name} is not served: {served.why_not_served}")
        return version

    def _missing(self, key: str, served: Served, version: Version) -> dict[str, Any]:
        manifest = version.manifest
        return source_of(version) | {
            "error": f"'{key}' is not in version {version.name} of {served.name}, "
            f"which has {manifest.rows:,} keys of {manifest.day}",
            "hint": f"POST its features to /v1/{served.name}/score"
            if served.live
            else f"it can't be scored either: {served.why_not_scored}",
        }

    def _count_keys(self, served: Served, answers: Sequence[Answer | None]) -> None:
        found = Counter(map(found_of, answers))
        for label, number in found.items():
            self.metrics.keys.labels(served.name, label).inc(number)

    def _shown(self, served: Served, live: LiveRelease, answer: Any) -> dict[str, Any]:
        outcome = outcome_of(answer)
        self.metrics.rows.labels(served.name, outcome).inc()
        if outcome == "scored":
            denied = served.snapshot.denylist.texts if served.snapshot else frozenset()
            return {"outputs": live.shown(answer, denied)}
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


def _say_why(following: asyncio.Task[None]) -> None:
    if not following.cancelled() and (error := following.exception()):
        log.error("what follows the snapshots has ended", exc_info=error)
