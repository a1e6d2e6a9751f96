"""Who may ask the service: a token, a certificate, and how often. It knows no HTTP.

On this machine anybody may. Where others can reach it, a token or certificates of
clients are a must.
"""

import hashlib
import hmac
import ipaddress
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from batch_assets.environment import secret
from batch_assets.errors import ConfigError

# What is shorter can be guessed; `openssl rand -hex 32` gives 64 characters.
SHORTEST_TOKEN = 16
# Requests a second of one client, where others than this machine can ask.
RATE = 1_000.0
# Clients that are remembered; whoever was seen longest ago is forgotten first.
MOST_CLIENTS = 10_000


@dataclass(frozen=True)
class Tls:
    """The files of the service's certificate and key, and of who vouches for clients."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def __post_init__(self) -> None:
        for path in (self.certificate, self.key, self.client_ca):
            if path and not path.is_file():
                msg = f"{path} is not there, expected a file in PEM"
                raise ConfigError(msg)


@dataclass(frozen=True)
class Access:
    """What a request needs to be answered.

    `tokens` are the sha256 of each token that opens; none, if no token is asked for.
    `rate` is how many requests a second a client may make, None for any number.
    """

    tokens: tuple[bytes, ...] = ()
    rate: float | None = None
    tls: Tls | None = None

    @classmethod
    def of(
        cls, address: str, token_env: str | None, rate: float | None, tls: Tls | None
    ) -> "Access":
        """Return what is asked of clients at an address.

        Args:
            address: that the service listens on.
            token_env: the variable with the token; several, with blanks between, may be
                in it while one takes the place of another.
            rate: 0 for any number; that of the address, if left out.
            tls: certificates.

        Raises:
            ConfigError: others can ask at the address, and nothing says who may; or a
                token is not set, or too short.
        """
        said = secret(token_env, "the service", ", its token") if token_env else ""
        tokens = said.split()
        if token_env and (not tokens or min(map(len, tokens)) < SHORTEST_TOKEN):
            msg = (
                f"the token in {token_env} has fewer than {SHORTEST_TOKEN} characters, "
                "and could be guessed. Take what `openssl rand -hex 32` gives"
            )
            raise ConfigError(msg)
        is_local = ipaddress.ip_address(address.partition("%")[0]).is_loopback
        if not is_local and not tokens and not (tls and tls.client_ca):
            msg = (
                f"others than this machine can ask at {address}, and nothing says who "
                "may. Name the variable of a token (--token-env), or certificates "
                "(--tls-cert, --tls-key and --tls-client-ca); or listen on 127.0.0.1"
            )
            raise ConfigError(msg)
        if rate is None:
            rate = None if is_local else RATE
        return cls(tuple(map(_digest, tokens)), rate or None, tls)

    def opens(self, token: str | None) -> bool:
        """Tell whether a token is one that opens, in the same time for every wrong one."""
        if not self.tokens:
            return True
        given = _digest(token or "")
        # Each is compared: which one it was, or was not, can't be told from the time.
        found = [hmac.compare_digest(given, known) for known in self.tokens]
        return any(found) and token is not None


class Rates:
    """How many requests each client has left: as many as a second brings, at most."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._most = max(rate, 1.0)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._left)

    def wait(self, client: str, now: float | None = None) -> float:
        """Take one of a client's requests; return the seconds until it has one, or 0."""
        now = time.monotonic() if now is None else now
        name = _neighbourhood(client)
        left, before = self._left.pop(name, (self._most, now))
        left = min(left + (now - before) * self._rate, self._most)
        wait = 0.0 if left >= 1 else (1 - left) / self._rate
        self._left[name] = (left if wait else left - 1), now
        if len(self._left) > MOST_CLIENTS:
            self._left.popitem(last=False)
        return wait


def _neighbourhood(client: str) -> str:
    """A client's address; of IPv6 the network, as one client has all of its addresses."""
    if ":" not in client:
        return client
    try:
        return str(ipaddress.ip_network((client.partition("%")[0], 64), strict=False))
    except ValueError:
        return client


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
