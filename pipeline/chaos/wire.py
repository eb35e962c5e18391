"""What is sent to one client, and the faults that befall its bytes and packets."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import sys
from collections.abc import Sequence

from pipeline.chaos.faults import Fault
from pipeline.chaos.kinds import FOREVER, PACKET_KINDS
from pipeline.chaos.script import Victim

if sys.platform != "win32":
    import fcntl
    import termios

log = logging.getLogger(__name__)

_TRICKLE_STEP = 0.05
"""Seconds between two pieces of what trickles."""
_LOOK_STEP = 0.005
"""Seconds between two looks whether what was sent has arrived."""
_LINGER_NONE = struct.pack("ii", 1, 0)


class Wire:
    """The sending side of a connection. Every method ends with ConnectionError where the client has gone."""

    def __init__(self, writer: asyncio.StreamWriter, victim: Victim) -> None:
        self._writer, self.victim = writer, victim
        self._lock = asyncio.Lock()
        self._cut = asyncio.Event()
        self._held: list[tuple[int, bytes]] = []
        self._trickling: Fault | None = None
        self._mangles = False
        self._alarms: list[asyncio.TimerHandle] = []
        for fault in victim.script.faults:
            self.expect(fault)

    def expect(self, fault: Fault) -> None:
        """Be ready for a fault of the script."""
        self._mangles = self._mangles or fault.kind in PACKET_KINDS
        wait = self.victim.begins_in(fault)
        if fault.kind in ("reset", "close") and wait is not None and not self.victim.missed(fault):
            loop = asyncio.get_running_loop()
            self._alarms.append(loop.call_later(max(0.0, wait), self._alarm, fault))

    async def send(self, data: bytes) -> None:
        """Send bytes that are no packet: an answer, a header."""
        async with self._lock:
            await self._send(data)

    async def packets(self, packets: Sequence[bytes], head: int) -> None:
        """Send media packets, unless a fault has it otherwise.

        ``head``: the first bytes of each, which are framing and headers that are not to be corrupted.
        """
        async with self._lock:
            if not self._mangles:
                await self._send(b"".join(packets))
                return
            for packet in packets:
                await self._packet(packet, head)

    async def _packet(self, data: bytes, head: int) -> None:
        victim = self.victim
        if fault := self._struck("drop"):
            victim.hit(fault)
        else:
            if fault := self._struck("corrupt"):
                data = _replaced(data, head, fault["bytes"], victim, fault)
                victim.hit(fault)
            if fault := self._struck("reorder"):
                victim.hit(fault)
                self._held.append((fault["by"] + 1, data))
            else:
                await self._send(data)
                if fault := self._struck("duplicate"):
                    victim.hit(fault)
                    await self._send(data)
        await self._release()

    def reset(self) -> None:
        """End the connection with RST."""
        raw = self._writer.get_extra_info("socket")
        if raw is not None and raw.fileno() >= 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
        self._end()
        self._writer.transport.abort()

    def close(self) -> None:
        """End the connection with FIN, after what was sent."""
        self._end()
        self._writer.close()

    async def finish(self) -> None:
        """Let go of the socket, when what was sent has left."""
        self._end()
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError as error:
            log.debug("%s: %s", self.victim.name, error)

    def abort(self) -> None:
        """Let go of the socket at once."""
        self._end()
        self._writer.transport.abort()

    async def gone(self) -> None:
        """Wait until a fault has ended the connection."""
        await self._cut.wait()

    def _end(self) -> None:
        self._cut.set()
        for alarm in self._alarms:
            alarm.cancel()

    def _alarm(self, fault: Fault) -> None:
        if not self._cut.is_set() and not self.victim.script.spent(fault):
            self._strike(fault)

    def _strike(self, fault: Fault) -> None:
        self.victim.hit(fault, f"after {self.victim.sent} bytes")
        if fault.kind == "reset":
            self.reset()
        else:
            self.close()

    def _struck(self, kind: str) -> Fault | None:
        fault = self.victim.lasting(kind)
        return fault if fault is not None and self.victim.chance(fault).random() < fault["rate"] else None

    async def _release(self) -> None:
        waiting = [(count - 1, data) for count, data in self._held]
        self._held = [one for one in waiting if one[0] > 0]
        for count, data in waiting:
            if count == 0:
                await self._send(data)

    async def _send(self, data: bytes) -> None:
        victim = self.victim
        if fault := victim.lasting("garble"):
            data = _garbled(data, victim, fault)
        while found := victim.next_by_bytes(len(data)):
            fault, before = found
            await self._write(data[:before])
            data = data[before:]
            if fault.kind == "stall":
                await self._stall(fault, fault.lasts)
            else:
                if fault.kind == "reset":
                    await arrived(self._writer.get_extra_info("socket"))
                self._strike(fault)
                raise ConnectionResetError(f"{fault.kind} by the script")
        if fault := victim.lasting("stall"):
            half = len(data) // 2
            await self._write(data[:half])
            data = data[half:]
            await self._stall(fault, victim.left(fault))
        await self._write(data)

    async def _stall(self, fault: Fault, seconds: float) -> None:
        self.victim.hit(fault, f"after {self.victim.sent} bytes")
        await self.pause(seconds)

    async def pause(self, seconds: float) -> None:
        """Send nothing for so long, or until the connection is ended."""
        try:
            await asyncio.wait_for(self._cut.wait(), None if seconds == FOREVER else max(0.0, seconds))
        except TimeoutError:
            return
        raise ConnectionResetError("ended by the script")

    async def _write(self, data: bytes) -> None:
        while data:
            fault = self.victim.lasting("trickle")
            piece = data
            if fault is not None:
                if fault is not self._trickling:
                    self.victim.hit(fault)
                step = max(1, round(fault["bytes"] * _TRICKLE_STEP))
                piece = data[:step]
                await self.pause(len(piece) / fault["bytes"])
            self._trickling = fault
            if self._cut.is_set() or self._writer.is_closing():
                raise ConnectionResetError("the connection is over")
            self._writer.write(piece)
            await self._writer.drain()
            self.victim.sent += len(piece)
            data = data[len(piece) :]


async def arrived(sending: socket.socket) -> None:
    """Wait for the other side's kernel to have all that was sent, for a second at most: a reset throws away
    what is still here. No event tells that. Nothing is waited for once the socket is closed."""
    if sys.platform == "win32":
        return
    for _ in range(round(1 / _LOOK_STEP)):
        if (descriptor := sending.fileno()) < 0:  # the client has gone
            return
        try:
            (waiting,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))
        except OSError:  # this system does not tell
            return
        if not waiting:
            return
        await asyncio.sleep(_LOOK_STEP)


def _replaced(data: bytes, head: int, count: int, victim: Victim, fault: Fault) -> bytes:
    changed, chance = bytearray(data), victim.chance(fault)
    body = range(min(head, len(data)), len(data))
    for place in chance.sample(body, min(count, len(body))):
        changed[place] ^= chance.randrange(1, 256)
    return bytes(changed)


def _garbled(data: bytes, victim: Victim, fault: Fault) -> bytes:
    changed, chance = bytearray(data), victim.chance(fault)
    struck = [n for n in range(len(data)) if chance.random() < fault["rate"]]
    for n in struck:
        if victim.script.spent(fault):
            break
        changed[n] ^= chance.randrange(1, 256)
        victim.hit(fault)
    return bytes(changed)
