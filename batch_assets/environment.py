"""What is told to this machine alone: secrets, each in an environment variable.

And how they are kept out of what libraries say of them. It knows nothing of what a secret
is for.
"""

import os
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, unquote, urlsplit

from batch_assets.errors import ConfigError

HIDDEN = "***"
# In an address: user:password@host. What may be one is hidden, whoever it is of.
PASSWORD = re.compile(r"(?<=://)\S*:\S*@")
# Between the words of a secret, such as an address in pairs of names and values.
BETWEEN = re.compile(r"[\s\"'`()\[\]{}<>,;:=@/?&|]+")
# A piece of a secret that is shorter is in too many words of an error to be cut out.
SHORTEST = 4


def secret(variable: str, whose: str, purpose: str = "") -> str:
    """Return what an environment variable holds; it goes to a client alone.

    Args:
        variable: its name.
        whose: who needs it, for the error.
        purpose: what it is needed for, if that is not clear.

    Raises:
        ConfigError: it is not set.
    """
    value = os.environ.get(variable)
    if not value:
        msg = f"{whose} needs the environment variable {variable}{purpose}; set it"
        raise ConfigError(msg)
    return value


def secrets_in(variables: Iterable[str]) -> list[str]:
    """Return what variables hold, of those that are set."""
    values = (os.environ.get(variable, "") for variable in variables)
    return [value for value in values if value]


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """Return what a library said, in one line, without secrets and what they are made of.

    Of a secret that is a URL, the host may be shown; every other piece of it is hidden, as
    it is, percent-encoded and decoded. So is a password in any other address.

    Args:
        text: what a library said.
        secrets: that it may have been told.
    """
    pieces = {
        form for one in secrets for piece in _pieces(one) for form in _forms(piece)
    }
    # The longest first: one may be a piece of another.
    for piece in sorted(pieces - {""}, key=len, reverse=True):
        text = text.replace(piece, HIDDEN)
    return " ".join(PASSWORD.sub(f"{HIDDEN}@", text).split())


def _pieces(one: str) -> Iterator[str]:
    """A secret, and what an error may quote of it."""
    yield one
    yield from one.splitlines()
    host = ""
    if "://" in one:
        try:
            url = urlsplit(one)
            host = url.netloc.rpartition("@")[2]
            yield from (part for part in (url.path, url.query) if len(part) >= SHORTEST)
        except ValueError:  # Such as brackets around what is no address.
            pass
    shown = {*BETWEEN.split(host), one.partition("://")[0]}
    words = (word for text in (one, unquote(one)) for word in BETWEEN.split(text))
    yield from (word for word in words if len(word) >= SHORTEST and word not in shown)


def _forms(piece: str) -> Iterator[str]:
    yield from (piece, unquote(piece), quote(piece), quote(piece, safe=""))
    yield repr(piece)[1:-1]
