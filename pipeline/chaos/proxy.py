"""A proxy between a client and a real server, over TCP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from urllib.parse import urlsplit

from pipeline.chaos.dialogue import HEAD_LIMIT, Splitter, parse_request
from pipeline.chaos.faults import Fault
from pipeline.chaos.kinds import KINDS, PACKET_KINDS
from pipeline.chaos.kit import Kit
from pipeline.chaos.wire import Wire
from pipeline.errors import ConfigError
from pipeline.redact import redact

log = logging.getLogger(__name__)

_PORTS = {"rtsp": 554, "http": 80, "rtmp": 1935}
_CONNECT_SECONDS = 10.0
_RTP_PLACE = 4 + 12


class Proxy(Kit):
    """A kit that stands before a server; see :func:`pipeline.chaos.proxy`."""

    def __init__(
        self, target: str, faults: Sequence[Fault], *, seed: int, listen: str, any_address: bool
    ) -> None:
        super().__init__(faults, seed, listen, any_address)
        self._target = target
        self._scheme, self._to = _parse_target(target)
        for fault in faults:
            self.check(fault)

    def check(self, fault: Fault) -> None:
        """Raise ConfigError for what needs the clip, and, unless over RTSP, what needs packets."""
        if KINDS[fault.kind].only:
            raise ConfigError(f"fault {fault.kind}: the proxy cannot do it, use chaos serve")
        if fault.kind in PACKET_KINDS and self._scheme != "rtsp":
            raise ConfigError(
                f"fault {fault.kind}: expected an rtsp:// target, whose packets can be told; "
                f"for {self._scheme}:// there is garble"
            )

    @property
    def url(self) -> str:
        """The address by which the target is reached through the kit."""
        login, at, _ = urlsplit(self._target).netloc.rpartition("@")
        return urlsplit(self._target)._replace(netloc=login + at + self.address).geturl()

    @property
    def addresses(self) -> tuple[str, ...]:
        """That one."""
        return (self.url,)

    async def handle(self, reader: asyncio.StreamReader, wire: Wire) -> None:
        """Pass on what both sides say, until one of them goes."""
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                answers, target = await asyncio.open_connection(*self._to, limit=HEAD_LIMIT)
        except OSError as error:
            shown = redact(self._target)
            log.warning(
                "%s: %s cannot be reached: %s", wire.victim.name, shown, error.strerror or "no answer"
            )
            wire.reset()
            return
        rtsp = self._scheme == "rtsp"
        try:
            there = asyncio.ensure_future(_requests(reader, target, wire if rtsp else None))
            back = asyncio.ensure_future(_answers(answers, wire, rtsp))
            try:
                # A client that closes one direction has gone: none of these protocols does that otherwise.
                await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
            finally:
                there.cancel()
                back.cancel()
                results = await asyncio.gather(there, back, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception):
                    raise result
        finally:
            target.transport.abort()


async def _requests(reader: asyncio.StreamReader, target: asyncio.StreamWriter, rtsp: Wire | None) -> None:
    splitter = Splitter()
    while data := await reader.read(HEAD_LIMIT):
        if rtsp is None:
            target.write(data)
        else:
            for piece in splitter.feed(data):
                refusal = None if piece.channel is not None else _refusal(piece.data)
                if refusal is None:
                    target.write(piece.data)
                else:
                    await rtsp.send(refusal)
        await target.drain()


def _refusal(data: bytes) -> bytes | None:
    """The answer to who asks for RTP over UDP, which would go past the proxy unseen."""
    if not data.startswith(b"SETUP "):
        return None
    request = parse_request(data)
    return request.answer(461) if "/TCP" not in request.headers.get("transport", "").upper() else None


async def _answers(answers: asyncio.StreamReader, wire: Wire, rtsp: bool) -> None:
    splitter = Splitter()
    while data := await answers.read(HEAD_LIMIT):
        if not rtsp:
            await wire.send(data)
            continue
        for piece in splitter.feed(data):
            # Of two channels, the even one has RTP, the odd one RTCP.
            if piece.channel is not None and piece.channel % 2 == 0:
                await wire.packets([piece.data], _RTP_PLACE)
            else:
                await wire.send(piece.data)
    await wire.send(splitter.rest())


def _parse_target(target: str) -> tuple[str, tuple[str, int]]:
    """Its scheme, host and port. Raises ConfigError."""
    try:
        parts = urlsplit(target)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if not (parts.scheme and parts.hostname):
        raise ConfigError(f"target {target!r}: expected an address such as rtsp://127.0.0.1:8554/stream")
    if port is None:
        port = _PORTS.get(parts.scheme)
    if port is None:
        raise ConfigError(f"target {target!r}: expected a port for {parts.scheme}://, there is none; add one")
    return parts.scheme, (parts.hostname, port)
