"""What stands before the routes: no token, no answer; too many requests, come back.

`/healthz` and `/readyz` are asked by whoever starts and stops services, who has no token.
"""

import math

from starlette.types import ASGIApp, Receive, Scope, Send

from batch_assets.online.access import Access, Rates
from batch_assets.online.responses import Json

OPEN = ("/healthz", "/readyz")
BEARER = b"bearer "


class Guard:
    """Answers what may not be asked, and hands on the rest."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access
        self._rates = Rates(access.rate) if access.rate else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Json | None:
        if scope["path"] in OPEN:
            return None
        client = (scope.get("client") or ("",))[0]
        # Before the token: whoever guesses tokens is slowed down, too.
        wait = self._rates.wait(client) if self._rates is not None else 0.0
        if wait:
            seconds = str(max(math.ceil(wait), 1))
            text = (
                f"{client} asks more than {self._access.rate:g} times a second; come back "
                f"in {seconds} s, ask for many keys at once, or raise --rate"
            )
            return Json({"error": text}, 429, {"retry-after": seconds})
        if not self._access.opens(_token_of(scope)):
            text = (
                "a token is needed: send the header 'Authorization: Bearer TOKEN' with "
                "the one that the service was started with"
            )
            return Json({"error": text}, 401, {"www-authenticate": "Bearer"})
        return None


def _token_of(scope: Scope) -> str | None:
    said = [value for name, value in scope["headers"] if name == b"authorization"]
    # Two of them could be read as one here, and as the other by a proxy before this.
    if len(said) != 1 or said[0][: len(BEARER)].lower() != BEARER:
        return None
    token: str = said[0][len(BEARER) :].decode("utf-8", "surrogateescape").strip()
    return token
