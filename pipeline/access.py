"""Who may read the metrics and the states: on loopback anybody, elsewhere who has the bearer token.

They name cameras, addresses and what was seen, so an address that others can reach needs a token, or the
user's word that it needs none.
"""

from __future__ import annotations

import hmac
import os
import re
from ipaddress import ip_address

from pipeline import smallfile
from pipeline.config import Config, host_and_port
from pipeline.errors import ConfigError
from pipeline.redact import conceal

TOKEN_VARIABLE = "FRAMERAIL_METRICS_TOKEN"
SHORTEST = 16
"""Characters of a token: fewer can be guessed."""
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")  # what may stand after "Bearer" (RFC 6750)
_MOST_BYTES = 4096


def metrics_token(config: Config) -> str | None:
    """The token that readers of ``config.metrics`` have to send; None: nobody is asked for one.

    Taken from ``metrics_token_file``, else from the environment. Raises ConfigError for one that cannot
    be read or guards nothing, and where an address beyond loopback has none.
    """
    if config.metrics is None:
        return None
    if config.metrics_token_file is not None:
        where = f"metrics_token_file {config.metrics_token_file}"
        token = _checked(_read(config.metrics_token_file, where), where)
    elif (text := os.environ.get(TOKEN_VARIABLE)) is not None:
        token = _checked(text, f"environment variable {TOKEN_VARIABLE}")
    elif config.metrics_without_token or is_loopback(config.metrics):
        return None
    else:
        raise ConfigError(
            f"metrics {config.metrics}: others can reach this address, and no token guards it; give one "
            f"(metrics_token_file or {TOKEN_VARIABLE}), serve 127.0.0.1 only, or say that none is needed: "
            "metrics_without_token"
        )
    if config.metrics_without_token:
        raise ConfigError("metrics_without_token: a token is given too; take one of the two away")
    conceal(token)
    return token


def is_loopback(address: str) -> bool:
    """Whether ``HOST:PORT`` can be reached from this machine alone; names count as not, but localhost."""
    host, _ = host_and_port(address)
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def admits(token: str | None, authorization: str) -> bool:
    """Whether the value of an ``Authorization`` header has the token. Takes as long for a near miss."""
    if token is None:
        return True
    scheme, _, given = authorization.partition(" ")
    same = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token.encode())
    return same and scheme.lower() == "bearer"


def _read(path: str, where: str) -> str:
    try:
        return smallfile.read(os.path.expanduser(path), _MOST_BYTES).decode("ascii")
    except OSError as error:
        raise ConfigError(
            f"{where}: cannot be read: {error.strerror}; it holds the token in one line"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: it is not ASCII text; expected a token in one line") from None


def _checked(text: str, where: str) -> str:
    token = text.strip()
    if len(token) < SHORTEST or len(token) > _MOST_BYTES or not _TOKEN.fullmatch(token):
        raise ConfigError(
            f"{where}: expected a token of at least {SHORTEST} letters, digits and ._~+/=- in one line, "
            f"got {len(token)} characters; make one: openssl rand -hex 32"
        )
    return token
