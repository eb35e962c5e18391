"""A listening socket, its connections and the thread that they all run in."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from pipeline.chaos.dialogue import HEAD_LIMIT
from pipeline.chaos.faults import Fault, parse_fault
from pipeline.chaos.kinds import FOREVER
from pipeline.chaos.listen import bind, parse_listen, shown
from pipeline.chaos.script import Script, Victim
from pipeline.chaos.wire import Wire

log = logging.getLogger(__name__)

_ABSENCES = ("refuse", "restart")


class Kit(ABC):
    """A context manager: it listens when entered; no thread and no socket of it is left when it is left.

    All connections run in one thread of it. What goes wrong there is raised when it is left.
    """

    def __init__(self, faults: Sequence[Fault], seed: int, listen: str, any_address: bool) -> None:
        self.script = Script(faults, seed)
        self.host, self.port = parse_listen(listen, any_address)
        """Where it listens; the port is 0 until it is entered, where any free one was asked for."""
        self.connections = 0
        """How many there were so far."""
        self._listener: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._wires: set[Wire] = set()
        self._away: Counter[str] = Counter()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None

    @abstractmethod
    async def handle(self, reader: asyncio.StreamReader, wire: Wire) -> None:
        """Serve one connection; returns, or raises ConnectionError, when it is over."""

    @abstractmethod
    def check(self, fault: Fault) -> None:
        """Raise ConfigError where this kit cannot do that."""

    def inject(self, fault: str | Fault) -> None:
        """Add a fault to the script: its seconds count from now, unless they are each connection's own.

        From any thread, while the kit is entered. Raises ConfigError.
        """
        fault = parse_fault(fault) if isinstance(fault, str) else fault
        self.check(fault)
        if self._loop is None:
            raise RuntimeError("a kit is to be entered before faults are injected")
        self._loop.call_soon_threadsafe(
            self._add, fault if fault.each else replace(fault, at=fault.at + self.script.now)
        )

    def _add(self, fault: Fault) -> None:
        self.script.add(fault)
        for wire in self._wires:
            wire.expect(fault)
        if fault.kind in _ABSENCES:
            self._start(self._absent(fault, asyncio.Event()))

    @property
    def injected(self) -> Counter[str]:
        """What was injected so far, by kind."""
        return self.script.injected

    @property
    def open_connections(self) -> int:
        """How many there are now."""
        return len(self._wires)

    @property
    def bytes_sent(self) -> int:
        """To clients whose connections are open, all together."""
        return sum(wire.victim.sent for wire in list(self._wires))

    @property
    def address(self) -> str:
        """``host:port`` as it stands in an address."""
        return shown(self.host, self.port)

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise RuntimeError("a kit is entered once; make another")
        self._listener = bind(self.host, self.port)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name=f"chaos:{self.port}")
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._thread is not None
        self.stop()
        self._thread.join()
        if self._failure is not None:
            if error is None:
                raise self._failure
            error.add_note(f"the kit on {self.address} failed, too: {self._failure!r}")

    def stop(self) -> None:
        """End what :meth:`wait` waits for; from any thread."""
        if self._loop is not None and self._over is not None:
            # Its loop is closed where it has ended by itself: failed, or stopped before.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._over.set)

    def wait(self, seconds: float | None = None) -> None:
        """Wait until it is stopped or fails, or so long. To be called while it is entered."""
        assert self._thread is not None
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()
            if self._listener is not None:
                self._listener.close()

    async def _main(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        try:
            self.script.begin()
            begun = []
            for fault in self.script.faults:
                if fault.kind in _ABSENCES:
                    first = asyncio.Event()
                    self._start(self._absent(fault, first))
                    begun += [first] if fault.at == 0 else []
            for first in begun:
                await first.wait()
            if not begun:
                await self._open()
            self._ready.set()
            await self._over.wait()
        finally:
            self._close_listener()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for wire in self._wires:
                wire.abort()
            # An aborted transport closes its socket at the loop's next turn.
            await asyncio.sleep(0)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._loop is not None
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error
            assert self._over is not None
            self._over.set()

    async def _absent(self, fault: Fault, begun: asyncio.Event) -> None:
        """Nothing listens while a ``refuse`` or ``restart`` is on."""
        await asyncio.sleep(max(0.0, fault.at - self.script.now))
        if self.script.spent(fault):
            return
        self._away[fault.kind] += 1
        self._close_listener()
        self.script.hit(fault, self.address, f"{len(self._wires)} connections")
        if fault.kind == "restart":
            for wire in list(self._wires):
                wire.reset()
        begun.set()
        if fault.lasts != FOREVER:
            await asyncio.sleep(max(0.0, fault.at + fault.lasts - self.script.now))
            self._away[fault.kind] -= 1
            if not self._away.total():
                await self._open()

    async def _open(self) -> None:
        if self._listener is None:
            self._listener = bind(self.host, self.port)
        self._server = await asyncio.start_server(self._accepted, sock=self._listener, limit=HEAD_LIMIT)
        log.info("%.3f s: listening on %s", self.script.now, self.address)

    def _close_listener(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Here, not in the task: one that is cancelled before its first step would leave the socket open.
        wire = Wire(writer, self.script.victim())
        self._wires.add(wire)
        self.connections += 1
        log.debug("%.3f s: %s: made", self.script.now, wire.victim.name)
        self._start(self._serve(reader, wire))

    async def _serve(self, reader: asyncio.StreamReader, wire: Wire) -> None:
        if self._away["restart"]:
            # It was accepted in the moment in which the listener went.
            wire.reset()
        work = asyncio.ensure_future(self._work(reader, wire, wire.victim))
        cut = asyncio.ensure_future(wire.gone())
        try:
            await asyncio.wait((work, cut), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for part in (work, cut):
                part.cancel()
            result, _ = await asyncio.gather(work, cut, return_exceptions=True)
        await wire.finish()
        self._wires.discard(wire)
        if isinstance(result, ConnectionError | asyncio.IncompleteReadError):
            log.debug("%.3f s: %s: over: %s", self.script.now, wire.victim.name, result)
        elif isinstance(result, Exception):
            raise result

    async def _work(self, reader: asyncio.StreamReader, wire: Wire, victim: Victim) -> None:
        if fault := victim.lasting("silent"):
            victim.hit(fault)
            while await reader.read(HEAD_LIMIT):
                pass
            return
        await self.handle(reader, wire)
