"""A listening socket, its connections and the thread that they all run in."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from pipeline.chaos.dialogue import HEAD_LIMIT
from pipeline.chaos.faults import Fault
from pipeline.chaos.kinds import FOREVER
from pipeline.chaos.script import Script, Victim
from pipeline.chaos.wire import Wire
from pipeline.errors import ConfigError

log = logging.getLogger(__name__)


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

    @property
    def injected(self) -> Counter[str]:
        """What was injected so far, by kind."""
        return self.script.injected

    @property
    def address(self) -> str:
        """``host:port`` as it stands in an address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise RuntimeError("a kit is entered once; make another")
        self._listener = self._bind()
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
        if self._failure is not None and error is None:
            raise self._failure

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

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            return socket.create_server((self.host, self.port), family=family, backlog=64)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {self.address}: {error.strerror}; choose another port, or 0 for a free one"
            ) from None

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
                if fault.kind in ("refuse", "restart"):
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
            self._listener = self._bind()
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
        self._start(self._serve(reader, writer))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        victim = self.script.victim()
        self.connections += 1
        log.debug("%.3f s: %s: made", self.script.now, victim.name)
        wire = Wire(writer, victim)
        self._wires.add(wire)
        work = asyncio.ensure_future(self._work(reader, wire, victim))
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
            log.debug("%.3f s: %s: over: %s", self.script.now, victim.name, result)
        elif isinstance(result, Exception):
            raise result

    async def _work(self, reader: asyncio.StreamReader, wire: Wire, victim: Victim) -> None:
        if fault := victim.lasting("silent"):
            victim.hit(fault)
            while await reader.read(HEAD_LIMIT):
                pass
            return
        await self.handle(reader, wire)


def parse_listen(text: str, any_address: bool) -> tuple[str, int]:
    """The host and port of ``127.0.0.1:9000`` or ``[::1]:0``. Raises ConfigError.

    An address that others can reach is refused unless ``any_address`` is set.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isdecimal() and int(port) < 1 << 16):
        raise ConfigError(f"cannot listen on {text!r}: expected HOST:PORT such as 127.0.0.1:9000")
    host = "127.0.0.1" if host == "localhost" else host
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise ConfigError(f"cannot listen on {text!r}: expected an IP address, got {host!r}") from None
    if not (loopback or any_address):
        raise ConfigError(
            f"{host} can be reached by others, expected an address of loopback; --any-address allows it"
        )
    return host, int(port)
