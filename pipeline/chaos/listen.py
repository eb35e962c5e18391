"""Where a kit may listen."""

from __future__ import annotations

import ipaddress
import socket

from pipeline.config import host_and_port
from pipeline.errors import ConfigError


def shown(host: str, port: int) -> str:
    """``host:port`` as it stands in an address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=64)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {shown(host, port)}: {error.strerror}; choose another, or 0 for a free one"
        ) from None


def parse_listen(text: str, any_address: bool) -> tuple[str, int]:
    """The host and port of ``127.0.0.1:9000`` or ``[::1]:0``. Raises ConfigError.

    An address that others can reach is refused unless ``any_address`` is set.
    """
    try:
        host, port = host_and_port(text)
    except ValueError:
        raise ConfigError(f"cannot listen on {text!r}: expected HOST:PORT such as 127.0.0.1:9000") from None
    host = "127.0.0.1" if host == "localhost" else host
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise ConfigError(f"cannot listen on {text!r}: expected an IP address, got {host!r}") from None
    if not (loopback or any_address):
        raise ConfigError(
            f"{host} can be reached by others, expected an address of loopback; --any-address allows it"
        )
    return host, port
