"""One client's RTSP session (RFC 2326), with RTP between the messages."""

from __future__ import annotations

import asyncio
import re

from pipeline.chaos.auth import Door
from pipeline.chaos.dialogue import Request
from pipeline.chaos.muxing import sdp
from pipeline.chaos.playing import PATH, MakeReel, send_rtp
from pipeline.chaos.wire import Wire

_METHODS = "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER, SET_PARAMETER"
_CHANNELS = re.compile(r"interleaved=(\d+)-(\d+)")
_TIMEOUT = 60


class Session:
    """Answers requests; plays beside that once it is asked to. To be ended."""

    def __init__(self, door: Door, make_reel: MakeReel, host: str, wire: Wire) -> None:
        self._door, self._host, self._wire = door, host, wire
        self._reel = make_reel(wire)
        self._id = f"{wire.victim.number:08d}"
        self._channel: int | None = None
        self._player: asyncio.Task[None] | None = None

    async def answer(self, request: Request) -> bool:
        """Answer a request; whether the connection is over."""
        status, headers, body = self._outcome(request)
        await self._wire.send(request.answer(status, headers, body))
        if request.method == "PLAY" and status == 200 and self._player is None:
            self._player = asyncio.ensure_future(self._play())
        return request.method == "TEARDOWN" and status == 200

    async def end(self) -> None:
        """Stop playing; what went wrong while playing is raised."""
        if self._player is not None:
            self._player.cancel()
            (result,) = await asyncio.gather(self._player, return_exceptions=True)
            if isinstance(result, Exception):
                raise result

    def _outcome(self, request: Request) -> tuple[int, dict[str, str], str]:
        if request.method == "OPTIONS":
            return 200, {"Public": _METHODS}, ""
        if not self._door.admits(request.method, request.headers.get("authorization")):
            return 401, {"WWW-Authenticate": self._door.challenge}, ""
        if request.path.rstrip("/") not in (PATH, f"{PATH}/track0"):
            return 404, {}, ""
        if request.method == "DESCRIBE":
            base = request.target.rstrip("/") + "/"
            headers = {"Content-Type": "application/sdp", "Content-Base": base}
            return 200, headers, sdp(self._reel.clip, self._host)
        if request.method == "SETUP":
            return self._set_up(request.headers.get("transport", ""))
        if self._channel is None:
            return 454, {}, ""
        if request.method in _METHODS.split(", "):
            return 200, {"Session": f"{self._id};timeout={_TIMEOUT}"}, ""
        return 405, {"Allow": _METHODS}, ""

    def _set_up(self, transport: str) -> tuple[int, dict[str, str], str]:
        if "/TCP" not in transport.upper():
            return 461, {}, ""
        channels = _CHANNELS.search(transport)
        first, second = (int(channels[1]), int(channels[2])) if channels else (0, 1)
        if first > 255:
            return 461, {}, ""
        self._channel = first
        shown = f"RTP/AVP/TCP;unicast;interleaved={first}-{second}"
        return 200, {"Transport": shown, "Session": f"{self._id};timeout={_TIMEOUT}"}, ""

    async def _play(self) -> None:
        assert self._channel is not None
        try:
            await send_rtp(self._reel, self._door, self._wire, self._channel)
        finally:
            self._wire.close()
