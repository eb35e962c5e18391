"""Pictures when they are due, in the three forms in which a server of the kit sends them."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, closing

from pipeline.chaos import muxing
from pipeline.chaos.auth import Door
from pipeline.chaos.dialogue import Request, unless_gone
from pipeline.chaos.reel import Reel, Shot
from pipeline.chaos.wire import Wire

PATH = "/stream"
MakeReel = Callable[[Wire], Reel]
_FRAMING = 4
_BOUNDARY = "framerail"


@asynccontextmanager
async def _shots(reel: Reel, door: Door) -> AsyncIterator[AsyncIterator[Shot]]:
    """Pictures, each when it is due. They end with the clip, or when another password is demanded."""
    # Closed here and now, not when they are found to be garbage: the clip is open meanwhile.
    with closing(reel.shots()) as shots:
        async with aclosing(_due(shots, door)) as due:
            yield due


async def _due(shots: Iterator[Shot], door: Door) -> AsyncGenerator[Shot]:
    clock = asyncio.get_running_loop().time
    due, login = clock(), door.login
    for shot in shots:
        if shot.data:
            yield shot
        # The next one is asked for at its own time: it is what the script says then.
        due += shot.lasts
        await asyncio.sleep(due - clock())
        if door.login != login:
            return


async def send_rtp(reel: Reel, door: Door, wire: Wire, channel: int) -> None:
    """RTP between the messages of RTSP (RFC 2326, 10.12).

    Ends with a change of codec, too: what was described is over then, and to be asked for anew.
    """
    codec = reel.clip.codec
    with closing(muxing.Packetizer(wire.victim.numbers)) as packetizer:
        async with _shots(reel, door) as shots:
            async for shot in shots:
                if shot.clip.codec != codec:
                    return
                framed = [
                    struct.pack(">cBH", b"$", channel, len(one)) + one for one in packetizer.packets(shot)
                ]
                await wire.packets(framed, _FRAMING + muxing.RTP_HEAD)


async def send_ts(reel: Reel, door: Door, wire: Wire) -> None:
    """MPEG-TS."""
    with closing(muxing.Transport()) as transport:
        async with _shots(reel, door) as shots:
            async for shot in shots:
                if shot.clip.codec not in muxing.IN_TS:
                    return
                await wire.packets(list(transport.packets(shot)), muxing.TS_HEAD)


async def send_jpegs(reel: Reel, door: Door, wire: Wire) -> None:
    """JPEGs, each a part; a packet, to the script, is a JPEG."""
    jpegs = muxing.Jpegs()
    async with _shots(reel, door) as shots:
        async for shot in shots:
            for jpeg in jpegs.pictures(shot):
                lines = (f"--{_BOUNDARY}", "Content-Type: image/jpeg", f"Content-Length: {len(jpeg)}", "", "")
                head = "\r\n".join(lines).encode()
                await wire.packets([head + jpeg + b"\r\n"], len(head))


_HTTP = {
    f"{PATH}.ts": ("video/mp2t", send_ts),
    f"{PATH}.mjpeg": (f"multipart/x-mixed-replace; boundary={_BOUNDARY}", send_jpegs),
}


async def answer_http(
    request: Request, door: Door, make_reel: MakeReel, wire: Wire, reader: asyncio.StreamReader
) -> bool:
    """Answer a request of HTTP; whether the connection is over."""
    reel = make_reel(wire)
    kind, send = _HTTP.get(request.path, ("", send_ts))
    if not door.admits(request.method, request.headers.get("authorization")):
        refusal = {"WWW-Authenticate": door.challenge, "Content-Length": "0"}
        await wire.send(request.answer(401, refusal))
    elif request.method not in ("GET", "HEAD"):
        await wire.send(request.answer(405, {"Content-Length": "0"}))
    elif not kind or (send is send_ts and reel.clip.codec not in muxing.IN_TS):
        await wire.send(request.answer(404, {"Content-Length": "0"}))
    else:
        await wire.send(request.answer(200, {"Content-Type": kind, "Connection": "close"}))
        if request.method == "GET":
            await unless_gone(reader, send(reel, door, wire))
        return True
    return request.protocol == "HTTP/1.0"
