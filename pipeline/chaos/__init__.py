"""The chaos kit: a server and a proxy that misbehave by a script, to try what a receiver makes of it.

::

    with chaos.serve("clip.mp4", faults=["stall@2:for=3", "drop@0:rate=0.05"], seed=7) as kit:
        ...  # a receiver opens kit.rtsp, kit.ts or kit.mjpeg
    kit.injected  # Counter({'drop': 31, 'stall': 1})

Both listen on a free port of loopback unless told otherwise, are ready when entered, and leave no thread and
no socket when left. What is injected is logged (``pipeline.chaos``) and counted; what is left to chance
comes from ``seed``. The faults are those of :data:`KINDS`, written ``kind@when:key=value,…``; times are
seconds since the kit was entered, or, with ``of=connection``, since each connection was made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.chaos.auth import Login
from pipeline.chaos.faults import Fault, load_script, parse_fault, parse_faults
from pipeline.chaos.kinds import KINDS, Kind, secret
from pipeline.chaos.proxy import Proxy
from pipeline.chaos.server import Server
from pipeline.errors import ConfigError

LOOPBACK = "127.0.0.1:0"


def serve(
    clips: str | Path | Sequence[str | Path],
    faults: Iterable[str | Fault] = (),
    *,
    seed: int = 0,
    listen: str = LOOPBACK,
    any_address: bool = False,
    user: str | None = None,
    password: str | None = None,
    scheme: str = "digest",
    loop: bool = True,
) -> Server:
    """Play a clip (H.264, HEVC or MJPEG) in real time to each client, from its start; a context manager.

    Of several clips the first is played until a ``switch``. With ``user`` and ``password`` they are demanded
    by ``scheme``, ``digest`` or ``basic``. ``loop``: over and over, on one timeline. Raises ConfigError.
    """
    if (user is None) != (password is None):
        raise ConfigError("expected a user and a password, or neither; give both (--user, --password)")
    if scheme not in ("basic", "digest"):
        raise ConfigError(f"scheme: expected basic or digest, got {scheme!r}")
    login = Login(user, password) if user is not None and password is not None else None
    several = [clips] if isinstance(clips, str | Path) else list(clips)
    return Server(
        several,
        parse_faults(faults),
        seed=seed,
        listen=listen,
        any_address=any_address,
        login=login,
        scheme=scheme,
        loop=loop,
    )


def proxy(
    target: str,
    faults: Iterable[str | Fault] = (),
    *,
    seed: int = 0,
    listen: str = LOOPBACK,
    any_address: bool = False,
) -> Proxy:
    """Stand between clients, which open :attr:`Proxy.url`, and the server at ``target``; a context manager.

    RTP is taken over TCP alone: a client that asks for UDP is refused that transport. Raises ConfigError.
    """
    return Proxy(target, parse_faults(faults), seed=seed, listen=listen, any_address=any_address)


__all__ = [
    "KINDS",
    "Fault",
    "Kind",
    "Proxy",
    "Server",
    "load_script",
    "parse_fault",
    "proxy",
    "secret",
    "serve",
]
