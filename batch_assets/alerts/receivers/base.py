"""What every receiver does with a message, and how its errors keep its secrets.

It knows no receiver in particular.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from batch_assets.alerts.alert import Message
from batch_assets.environment import without_secrets
from batch_assets.errors import ConfigError

# How long a receiver may take to answer, in seconds. A night ends after its alerts.
SECONDS = 10.0
# These write paths of URLs into their own logs.
TALKATIVE = ("urllib3.connectionpool", "urllib3.util.retry")


class OpenReceiver(Protocol):
    """A receiver with its secrets, ready to be sent to."""

    def send(self, message: Message) -> str | None:
        """Send a message; return what there is to say of it though it was taken.

        Raises:
            AlertError: it could not be sent; RefusedAlertError if the receiver does not
                want it.
        """


def secret(variable: str, what: str) -> str:
    """Return what an environment variable holds.

    Args:
        variable: its name.
        what: it holds, for the error.

    Raises:
        ConfigError: it is not set, or empty.
    """
    text = os.environ.get(variable, "").strip()
    if not text:
        msg = (
            f"the environment variable {variable}, which holds {what}, is not set. Set "
            "it where this runs"
        )
        raise ConfigError(msg)
    return text


def reason(error: BaseException, *secrets: str) -> str:
    """Return what began an error, in a line, without secrets and what they are made of."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    text = " ".join(str(error).split()) or type(error).__name__
    return without_secrets(text, secrets)


def _nothing(_: logging.LogRecord) -> bool:
    return False


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what the HTTP client logs: of a retry it names the whole path, as a warning."""
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    for logger in loggers:
        logger.addFilter(_nothing)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(_nothing)
