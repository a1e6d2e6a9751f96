"""Slack, Teams, PagerDuty and a hundred others, by Apprise."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO

import apprise

from batch_assets.alerts.alert import Message
from batch_assets.alerts.receivers.base import quiet, secret
from batch_assets.environment import without_secrets
from batch_assets.errors import AlertError, ConfigError
from batch_assets.spec.alerts import AppriseReceiver

COLOURS = {
    "raised": apprise.NotifyType.FAILURE,
    "resolved": apprise.NotifyType.SUCCESS,
    "test": apprise.NotifyType.INFO,
}


@dataclass(frozen=True)
class Service:
    """Sends each message to the service of one URL."""

    place: str
    url: str = field(repr=False)

    def send(self, message: Message) -> None:
        """Hand it to Apprise.

        Raises:
            AlertError: it did not arrive. Apprise tells in words, and not in kinds, why.
        """
        with _logged() as log:
            arrived = _opened(self.url).notify(
                title=message.headline,
                body=message.text,
                notify_type=COLOURS[message.state],
                body_format=apprise.NotifyFormat.TEXT,
            )
            said = " ".join(log.getvalue().split())
        if not arrived:
            msg = f"{self.place}: {without_secrets(said, [self.url]) or 'it gives no reason'}"
            raise AlertError(msg)


def open_receiver(receiver: AppriseReceiver) -> Service:
    """Read the URL from the environment.

    Raises:
        ConfigError: it is not set, or none that Apprise knows.
    """
    url = secret(receiver.url_env, "Apprise's URL")
    scheme = url.partition("://")[0] if "://" in url else "?"
    with _logged():
        known = len(_opened(url))
    if known != 1:
        msg = (
            f"{receiver.url_env} holds no URL that Apprise knows, such as slack://…; "
            "expected one, of the kinds at https://appriseit.com"
        )
        raise ConfigError(msg)
    return Service(f"Apprise's {scheme}:// (of {receiver.url_env})", url)


def _opened(url: str) -> apprise.Apprise:
    asset = apprise.AppriseAsset(app_id="batch-assets", app_desc="batch-assets")
    service = apprise.Apprise(asset=asset)
    service.add(url)
    return service


@contextmanager
def _logged() -> Iterator[StringIO]:
    """Give what Apprise logs, which names URLs, to nobody else."""
    logger = logging.getLogger("apprise")
    propagates, logger.propagate = logger.propagate, False
    try:
        with (
            quiet(),
            apprise.LogCapture(level=logging.WARNING, fmt="%(message)s") as log,
        ):
            yield log
    finally:
        logger.propagate = propagates
