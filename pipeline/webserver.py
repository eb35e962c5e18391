"""An HTTP server for a few short answers, which whoever can reach it cannot use up.

Each connection has a thread, so that a slow client holds up nobody. There are MOST at a time: one more takes
the place of the oldest, and none lasts longer than LONGEST_SECONDS, however slowly it sends or reads. A
health check takes milliseconds, so it is answered also while somebody opens connections and says nothing.
Threads of connections that have given way may still be composing an answer: with those there are TWICE as
many at most, and further clients wait to be let in.
"""

from __future__ import annotations

import io
import logging
import socket
import threading
import time
from contextlib import suppress
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from pipeline.printable import printable

log = logging.getLogger(__name__)

MOST = 32
TWICE = 2 * MOST
LONGEST_SECONDS = 15.0


class Server(ThreadingMixIn, WSGIServer):
    """For :func:`wsgiref.simple_server.make_server`, on an IPv4 address or a name."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *arguments: Any) -> None:
        self._lock = threading.Lock()
        self._fewer = threading.Condition(self._lock)
        self._serving = 0
        self._open: dict[socket.socket, float] = {}  # the oldest first
        self._closed = threading.Event()
        super().__init__(*arguments)

    def server_bind(self) -> None:
        """As in the base class, without its look-up of the host's name, which takes long without DNS."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def get_request(self) -> tuple[Any, Any]:
        """As in the base class. Without a descriptor for it, whoever waits is still there the next moment."""
        try:
            return super().get_request()
        except OSError:
            self._closed.wait(0.1)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own; the oldest connection gives way where there are MOST."""
        with self._lock:
            self._fewer.wait_for(lambda: self._serving < TWICE)
            self._serving += 1
            if len(self._open) >= MOST:
                self._cut(next(iter(self._open)))
            self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Called twice a second: ends connections that last too long."""
        begun = time.monotonic() - LONGEST_SECONDS
        with self._lock:
            for request in [each for each, since in self._open.items() if since < begun]:
                self._cut(request)

    def shutdown_request(self, request: Any) -> None:
        """Called by the connection's thread at its end."""
        with self._lock:
            self._open.pop(request, None)
            self._serving -= 1
            self._fewer.notify_all()
        super().shutdown_request(request)

    def server_close(self) -> None:
        """As in the base class; connections that are still open are ended."""
        self._closed.set()
        with self._lock:
            for request in list(self._open):
                self._cut(request)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""
        log.debug("a metrics client went away: %s", client_address)

    def _cut(self, request: socket.socket) -> None:
        # Its thread hears of it, and closes it.
        del self._open[request]
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)


class _Log(io.TextIOBase):
    def __init__(self) -> None:
        self._text = ""

    def write(self, text: str) -> int:
        self._text += text
        return len(text)

    def flush(self) -> None:
        if self._text:
            level = logging.DEBUG if "TimeoutError" in self._text else logging.ERROR
            log.log(level, "metrics: an answer failed: %s", self._text)
        self._text = ""


class ServerV6(Server):
    """The same on an IPv6 address."""

    address_family = socket.AF_INET6


class Handler(WSGIRequestHandler):
    """Logs requests at debug level, not to stderr."""

    timeout = 10

    def get_stderr(self) -> Any:
        """Where the server tells of an answer that failed: the log. A reader that is too slow is no news."""
        return _Log()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, D102 - the base class calls it so
        log.debug("metrics: %s", printable(format % args))
