"""Requests and answers in the form that RTSP and HTTP share, and the frames that RTSP puts between them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

HEAD_LIMIT = 1 << 16
"""Bytes of a request's or an answer's head, at most."""
BODY_LIMIT = 1 << 20
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    454: "Session Not Found",
    461: "Unsupported Transport",
}


@dataclass(frozen=True, slots=True)
class Request:
    """A client's request: ``DESCRIBE rtsp://… RTSP/1.0`` and its headers, by names in lower case."""

    method: str
    target: str
    protocol: str
    headers: Mapping[str, str] = field(repr=False)

    @property
    def path(self) -> str:
        """The path of the target, without a query."""
        rest = self.target.partition("://")[2]
        path = "/" + rest.partition("/")[2] if rest else self.target
        return path.partition("?")[0]

    def answer(self, status: int, headers: Mapping[str, str] | None = None, body: str = "") -> bytes:
        """An answer to it."""
        lines = {"CSeq": self.headers.get("cseq", "0")} if self.protocol.startswith("RTSP") else {}
        lines |= headers or {}
        if body:
            lines["Content-Length"] = str(len(body.encode()))
        head = [f"{self.protocol} {status} {_REASONS[status]}", *(f"{k}: {v}" for k, v in lines.items())]
        return ("\r\n".join(head) + "\r\n\r\n" + body).encode()


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The next request of a client, past frames of its own (RTCP); None at the end.

    Raises ConnectionError where it is no request at all.
    """
    while True:
        first = await reader.read(1)
        if not first:
            return None
        if first != b"$":
            break
        size = int.from_bytes((await reader.readexactly(3))[1:], "big")
        await reader.readexactly(size)
    try:
        head = first + await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise ConnectionError(f"a request's head is longer than {HEAD_LIMIT} bytes") from None
    request = parse_request(head)
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > BODY_LIMIT:
        raise ConnectionError(f"a request's Content-Length is {length[:20]!r}")
    await reader.readexactly(int(length))
    return request


async def unless_gone(reader: asyncio.StreamReader, work: Coroutine[Any, Any, None]) -> None:
    """Do ``work``, unless the client, which has nothing more to say, hangs up meanwhile."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_hung_up(reader))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _hung_up(reader: asyncio.StreamReader) -> None:
    while await reader.read(HEAD_LIMIT):
        pass


def parse_request(head: bytes) -> Request:
    """Read a request's head. Raises ConnectionError where it is none."""
    lines = head.decode("latin-1").strip().split("\r\n")
    words = lines[0].split()
    if len(words) != 3 or not words[2].startswith(("RTSP/", "HTTP/")):
        raise ConnectionError("expected a request of RTSP or HTTP, got something else")
    return Request(words[0], words[1], words[2], _headers(lines[1:]))


def _headers(lines: list[str]) -> dict[str, str]:
    pairs = (line.partition(":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of what one side of RTSP over TCP says: a frame on a channel, or (None) of the dialogue."""

    channel: int | None
    data: bytes
    """As it stands on the connection, with its four bytes of framing."""


class Splitter:
    """Cuts bytes of RTSP over TCP into frames and messages, whatever pieces they come in.

    All bytes come out again, in their order. What is neither a frame nor a message passes as dialogue.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Piece]:
        """The pieces that are whole with these bytes."""
        self._buffer += data
        while self._buffer:
            size = self._frame() if self._buffer[0] == ord("$") else self._message()
            if size is None or size > len(self._buffer):
                return
            channel = self._buffer[1] if self._buffer[0] == ord("$") else None
            piece = bytes(self._buffer[:size])
            del self._buffer[:size]
            yield Piece(channel, piece)

    def rest(self) -> bytes:
        """What is left at the end, in the middle of a frame or a message."""
        return bytes(self._buffer)

    def _frame(self) -> int | None:
        return None if len(self._buffer) < 4 else 4 + int.from_bytes(self._buffer[2:4], "big")

    def _message(self) -> int | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return len(self._buffer) if len(self._buffer) > HEAD_LIMIT else None
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        size = _headers(lines[1:]).get("content-length", "0")
        return end + 4 + (int(size) if size.isdecimal() and int(size) <= BODY_LIMIT else 0)
