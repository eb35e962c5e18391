"""Clients of the chaos kit: real FFmpeg, and one of RTSP that counts for itself."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from itertools import islice

import pytest

from pipeline.config import StreamConfig
from pipeline.errors import SourceOpenError, SourceReadError
from pipeline.sources import Picture, Source, open_source, parse_source, read_number

FPS = 200
"""Of the clips that are served: what is paced by the clock takes less time so."""


def opened(url: str, **stream) -> Source:
    given = {"open_timeout": 10, "stall_timeout": 10, "rtsp_transport": "tcp"} | stream
    return open_source(parse_source(url), StreamConfig(source=url, **given), threading.Event())


def pictures(url: str, count: int, **stream) -> list[Picture]:
    with opened(url, **stream) as source:
        return list(islice(source, count))


def until_lost(source: Source) -> tuple[list[Picture], SourceReadError]:
    got: list[Picture] = []
    with source, pytest.raises(SourceReadError) as caught:
        got.extend(source)
    return got, caught.value


def numbers(got: list[Picture]) -> list[int]:
    return [read_number(picture.image) for picture in got]


def seconds(got: list[Picture]) -> list[float]:
    """Presentation times of all but the first, which FFmpeg has none for in RTSP."""
    return [
        round(float(p.pts * p.time_base), 4) for p in got if p.pts is not None and p.time_base is not None
    ]


def with_login(url: str, password: str) -> str:
    return url.replace("://", f"://me:{password}@")


class Client:
    """A client of RTSP over TCP that does nothing but ask to play, and read."""

    def __init__(self, port: int, room: int = 0) -> None:
        """``room``: bytes that it takes before they are read; 0: as usual."""
        self.socket = socket.socket()
        self.socket.settimeout(10)
        if room:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        self.socket.connect(("127.0.0.1", port))
        self._file = self.socket.makefile("rb")

    def ask(self, method: str, *headers: str, track: str = "") -> bytes:
        lines = [f"{method} rtsp://127.0.0.1/stream{track} RTSP/1.0", "CSeq: 1", *headers]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self._file.readline()
            if not line:
                raise EOFError
            head += line
        return head

    def play(self) -> None:
        transport = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1"
        assert self.ask("SETUP", transport, track="/track0").startswith(b"RTSP/1.0 200")
        assert self.ask("PLAY", "Session: 1").startswith(b"RTSP/1.0 200")

    def packets(self, count: int) -> list[bytes]:
        got = []
        for _ in range(count):
            dollar, channel, size = struct.unpack(">cBH", self._file.read(4))
            assert (dollar, channel) == (b"$", 0)
            got.append(self._file.read(size))
        return got

    def close(self) -> None:
        self._file.close()
        self.socket.close()


def packets(port: int, count: int) -> list[bytes]:
    with contextlib.closing(Client(port)) as client:
        client.play()
        return client.packets(count)


def sequence(got: list[bytes]) -> list[int]:
    """Sequence numbers of RTP packets, counted from the first."""
    first = struct.unpack(">H", got[0][2:4])[0]
    return [(struct.unpack(">H", packet[2:4])[0] - first) & 0xFFFF for packet in got]


def until_open(url: str) -> Source:
    """Open it as soon as it can be; the failures before are refusals."""
    for _ in range(200):
        with contextlib.suppress(SourceOpenError):
            return opened(url)
        threading.Event().wait(0.05)
    raise AssertionError("it never came back")
