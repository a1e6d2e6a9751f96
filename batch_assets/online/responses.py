"""What the service answers: JSON, refusals with their reason, and the right status.

It knows no route and no pipeline.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from batch_assets.online.batcher import FullError
from batch_assets.online.scoring import (
    Answers,
    BadRequestError,
    BadRowError,
    TooLongError,
)
from batch_assets.scoring.faults import FaultError
from batch_assets.snapshots.version import (
    Answer,
    Version,
    age_of,
    kept_of,
    overrides_of,
)


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


def source_of(version: Version) -> dict[str, Any]:
    """Return what an answer says of the version it is from; its age in seconds."""
    manifest = version.manifest
    age, release = age_of(manifest), manifest.release
    return {
        "source": "snapshot",
        "version": version.name,
        "day": manifest.day,
        "release": {"name": release.name, "digest": release.digest},
        "age_seconds": round(age.total_seconds(), 3),
        "is_stale": manifest.is_stale,
        **({"kept_shards": len(kept)} if (kept := manifest.kept_shards) else {}),
        **overrides_of(manifest),
    }


def shown_of(key: int | str, answer: Answer | None) -> dict[str, Any]:
    """Return what is said of a key: its outputs, or null, and whose they are."""
    if answer is None:
        return {"key": key, "outputs": None, "is_fallback": False}
    shown = {
        "key": key,
        "outputs": answer.plain_outputs,
        "is_fallback": answer.is_fallback,
        **kept_of(answer),
    }
    return shown | ({"segment": answer.segment} if answer.is_fallback else {})


def found_of(answer: Answer | None) -> str:
    """Return what became of a key that was looked up; see the metrics."""
    if answer is None:
        return "false"
    return "fallback" if answer.is_fallback else "true"


def outcome_of(answer: Any) -> str:
    """Return the outcome of a row: scored, bad, faulty or failed; see the metrics."""
    if isinstance(answer, BadRowError):
        return "bad"
    if isinstance(answer, FaultError):
        return "faulty"
    return "failed" if isinstance(answer, BaseException) else "scored"


def status_of(answers: Answers) -> int:
    """Return 200 if a row was scored; else why the first was not: its own fault, or not."""
    outcomes = [outcome_of(answer) for answer in answers]
    if "scored" in outcomes:
        return 200
    return 503 if outcomes[0] == "failed" else 422


def unavailable(why: str) -> RefusedError:
    """Return the refusal of what may work a second later."""
    return RefusedError(503, why, retry_after="1")


def queue_is_full(error: FullError) -> RefusedError:
    """Return the refusal of rows that found no room, with when to come back."""
    seconds = max(math.ceil(error.retry_after), 1)
    return RefusedError(
        429, f"{error}; come back in {seconds} s", retry_after=str(seconds)
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


HANDLERS: Mapping[Any, Any] = {
    RefusedError: _refuse,
    HTTPException: _refuse_route,
    BadRequestError: _refuse_body,
}
