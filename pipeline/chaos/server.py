"""A server that plays clips: RTSP over TCP, MPEG-TS and MJPEG over HTTP, all on one port."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from pipeline.chaos.auth import Door, Login
from pipeline.chaos.clip import encode_black, look_at
from pipeline.chaos.dialogue import read_request
from pipeline.chaos.faults import Fault
from pipeline.chaos.kit import Kit
from pipeline.chaos.playing import PATH, answer_http
from pipeline.chaos.reel import Reel
from pipeline.chaos.rtsp import Session
from pipeline.chaos.wire import Wire
from pipeline.errors import ConfigError


class Server(Kit):
    """A kit that plays clips; see :func:`pipeline.chaos.serve`."""

    def __init__(
        self,
        clips: Sequence[str | Path],
        faults: Sequence[Fault],
        *,
        seed: int,
        listen: str,
        any_address: bool,
        login: Login | None,
        scheme: str,
        loop: bool,
    ) -> None:
        super().__init__(faults, seed, listen, any_address)
        if not clips:
            raise ConfigError("nothing to play: expected a clip; give a video file")
        self._clips = [look_at(clip) for clip in clips]
        self._door, self._again = Door(self.script, login, scheme), loop
        for fault in faults:
            self.check(fault)

    @property
    def rtsp(self) -> str:
        """The address over RTSP."""
        return f"rtsp://{self.address}{PATH}"

    @property
    def ts(self) -> str:
        """The address of MPEG-TS over HTTP."""
        return f"http://{self.address}{PATH}.ts"

    @property
    def mjpeg(self) -> str:
        """The address of JPEGs over HTTP, multipart."""
        return f"http://{self.address}{PATH}.mjpeg"

    @property
    def addresses(self) -> tuple[str, ...]:
        """All of them."""
        return self.rtsp, self.ts, self.mjpeg

    def check(self, fault: Fault) -> None:
        """Raise ConfigError where there is no clip to switch to, or no encoder for black pictures."""
        if fault.kind == "switch" and len(self._clips) < 2:
            raise ConfigError("fault switch: expected several clips, there is one; give another one")
        if fault.kind == "black":
            for clip in self._clips:
                encode_black(clip)

    async def handle(self, reader: asyncio.StreamReader, wire: Wire) -> None:
        """Answer requests until the client goes."""
        session = Session(self._door, self._reel, self.host, wire)
        over = False
        try:
            while not over and (request := await read_request(reader)) is not None:
                if request.protocol.startswith("RTSP"):
                    over = await session.answer(request)
                else:
                    over = await answer_http(request, self._door, self._reel, wire, reader)
        finally:
            await session.end()

    def _reel(self, wire: Wire) -> Reel:
        return Reel(self._clips, wire.victim, self._again)
