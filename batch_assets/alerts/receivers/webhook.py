"""A URL that alerts are posted to as JSON, signed as the Standard Webhooks spec says.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hashlib
import hmac
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from batch_assets.alerts.alert import Message
from batch_assets.alerts.receivers.base import SECONDS, quiet, reason, secret
from batch_assets.errors import AlertError, ConfigError, RefusedAlertError
from batch_assets.spec.alerts import WebhookReceiver

PREFIX = "whsec_"
# Answers of a server that is busy or broken: it may take the same message a moment later.
BUSY = (429, 500, 502, 503, 504)
# Asked again after half a second and a second; whoever looks next asks again, too. One that
# is slow is not asked again at once: a sensor has a minute. What `Retry-After` wants is not
# waited for: it may be an hour.
RETRIES = Retry(
    total=2,
    connect=1,
    read=0,
    backoff_factor=0.5,
    status_forcelist=BUSY,
    allowed_methods=None,
    raise_on_status=False,
    respect_retry_after_header=False,
)


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of `webhook-signature`."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


@dataclass(frozen=True)
class Webhook:
    """Posts each message; `place` is the URL as far as it may be shown."""

    place: str
    url: str = field(repr=False)
    key: bytes = field(repr=False)

    def send(self, message: Message) -> None:
        """Post it, and again if the server is busy; a redirect is not followed.

        Raises:
            RefusedAlertError: the server answers that it does not want it.
            AlertError: it can't be reached, or is busy or broken.
        """
        body, timestamp = message.json, int(time.time())
        headers = {
            "content-type": "application/json",
            "user-agent": "batch-assets",
            "webhook-id": message.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self.key, message.id, timestamp, body),
        }
        try:
            with quiet(), requests.Session() as session:
                session.mount("http://", HTTPAdapter(max_retries=RETRIES))
                session.mount("https://", HTTPAdapter(max_retries=RETRIES))
                status = session.post(
                    self.url,
                    data=body,
                    headers=headers,
                    timeout=SECONDS,
                    allow_redirects=False,
                ).status_code
        except (requests.RequestException, OSError, ValueError) as error:
            # Their texts hold the path, which may be a token.
            msg = f"{self.place} can't be reached: {reason(error, self.url)}"
            raise AlertError(msg) from None
        if 200 <= status < 300:
            return
        answer = f"{self.place} answers {status} {_phrase(status)}".rstrip()
        if status in BUSY or status >= 500:
            raise AlertError(answer)
        hint = ": set the variable to where it moved" if 300 <= status < 400 else ""
        raise RefusedAlertError(f"{answer}{hint}")


def open_receiver(receiver: WebhookReceiver) -> Webhook:
    """Read the URL and the secret from the environment.

    Raises:
        ConfigError: one of them is not set, or not what it should be.
    """
    url = secret(receiver.url_env, "the webhook's URL")
    return Webhook(_place(receiver.url_env, url), url, _key(receiver.secret_env))


def _place(variable: str, url: str) -> str:
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        parts, port = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        msg = f"{variable} holds no URL: expected http:// or https://, and a host"
        raise ConfigError(msg)
    return f"{parts.scheme}://{parts.hostname}{port} (of {variable})"


def _key(variable: str) -> bytes:
    text = secret(variable, "the webhook's secret")
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    # The spec's own bounds.
    if not 24 <= len(key) <= 64:
        msg = (
            f"{variable} holds no secret of a webhook: expected {PREFIX} and 24 to 64 "
            f'bytes in base64. Make one: echo "{PREFIX}$(openssl rand -base64 32)"'
        )
        raise ConfigError(msg)
    return key


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
