"""What the server of an HLS playlist answers to who asks for a segment: asked once FFmpeg has failed.

FFmpeg's demuxer skips segments that it is refused, and tells nobody: an address that has expired is a silence
to it, no video, or the end. Its log cannot be read for it (see :mod:`pipeline.sources.fflog`). So the list is
fetched, and its last segment asked for, as FFmpeg does it, lest the server answer otherwise: under its name,
with the cookies, and with the login where one is asked for.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
import time
from base64 import b64encode
from contextlib import closing, suppress
from email.message import Message
from string import punctuation
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

import av

from pipeline.redact import redact
from pipeline.sources.failures import of_status
from pipeline.sources.tls import trust

if TYPE_CHECKING:
    from http.client import HTTPConnection

    from pipeline.config import StreamConfig

LOG = logging.getLogger(__name__)

MOST_SECONDS = 3.0
"""That the whole enquiry may take: an isolated source's parent waits 5 s more than FFmpeg."""
MOST_BYTES = 1 << 20
"""Of a playlist that are read; a day of 2 s segments has as much."""
_MOST_REDIRECTS = 5
_TURN_SECONDS = 0.05
_DOUBTFUL = frozenset({"timeout", "format", "ended"})
"""What FFmpeg makes of segments that are refused."""
_PORTS = {"http": 80, "https": 443}
_BEGIN = b"#EXTM3U"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_EMPTY = 416
"""To who asks for the first byte of a segment that has none: no refusal."""


class _UnclearError(Exception):
    """FFmpeg may have been answered otherwise."""


def is_playlist(address: str) -> bool:
    """Whether the address looks like one of HLS: what cannot be opened has no format."""
    return urlsplit(address).path.lower().endswith(".m3u8")


def refusal(cause: str, address: str, stream: StreamConfig, stop: threading.Event) -> tuple[str, str] | None:
    """The cause and a phrase where a playlist, which failed by that ``cause``, or its segments are refused.

    None: they are not, or nobody knows, and then what FFmpeg said is all there is to say. Takes MOST_SECONDS
    at most, and ends with ``stop``.
    """
    if cause not in _DOUBTFUL or urlsplit(address).scheme.lower() not in _PORTS or stop.is_set():
        return None
    enquiry = _Enquiry(address, stream)
    # In a thread of its own, since nothing else bounds a name server, or an answer that comes byte by byte.
    name = f"{threading.current_thread().name}:segments"
    asking = threading.Thread(target=enquiry.run, name=name, daemon=True)
    asking.start()
    while not (enquiry.over.wait(_TURN_SECONDS) or stop.is_set() or enquiry.late):
        pass
    enquiry.give_up()
    asking.join(_TURN_SECONDS)  # one that waits for a name server ends by itself, and says nothing
    return enquiry.refused


class _Enquiry:
    """One. ``run`` is its thread's; ``over`` is set at its end."""

    def __init__(self, address: str, stream: StreamConfig) -> None:
        from http.cookiejar import CookieJar  # here, since few sources ever fail so, and each has a process

        self._address, self._stream = address, stream
        self._until = time.monotonic() + MOST_SECONDS
        self._cookies = CookieJar()
        self._socket: socket.socket | None = None
        self.refused: tuple[str, str] | None = None
        self.over = threading.Event()

    @property
    def late(self) -> bool:
        """Whether its time is up."""
        return time.monotonic() >= self._until

    def run(self) -> None:
        """Ask, and set ``refused`` to what was found."""
        from http.client import HTTPException

        try:
            self.refused = self._ask()
        except (OSError, ValueError, HTTPException, _UnclearError) as error:
            # No answer says nothing of what FFmpeg was answered. As errors repeat addresses: redacted.
            LOG.debug(
                "%s: not known whether its segments are refused: %s: %s",
                redact(self._address),
                type(error).__name__,
                redact(str(error)),
            )
        finally:
            self.over.set()

    def give_up(self) -> None:
        """End it, whatever it waits for; it says nothing any more."""
        self._until = 0.0
        if (waiting := self._socket) is not None:
            with suppress(OSError):
                socket.socket.shutdown(waiting, socket.SHUT_RDWR)  # ssl's own is for the thread that reads

    def _ask(self) -> tuple[str, str] | None:
        url = self._address
        for _ in range(2):  # a list may be one of variants
            status, url, text = self._get(url, "0-", MOST_BYTES)
            if refused := of_status(status):
                return refused[0], f"its playlist: {refused[1]}"
            variants, leads_to = _last(text)
            if not leads_to:
                return None
            url = urljoin(url, leads_to)
            if not variants:
                break
        else:
            return None
        status, _, _ = self._get(url, "0-0", 0)
        refused = of_status(status) if status != _EMPTY else None
        return (refused[0], f"its segments: {refused[1]}") if refused else None

    def _get(self, url: str, part: str, most: int) -> tuple[int, str, bytes]:
        """The status, the address that it came from in the end, and up to ``most`` bytes of a playlist."""
        for _ in range(_MOST_REDIRECTS + 1):
            status, headers, data = self._request(url, part, most)
            if status == 401 and (login := self._login(url, headers)):
                status, headers, data = self._request(url, part, most, login)
            elsewhere = headers.get("Location") if status in _REDIRECTS else None
            if elsewhere is None:
                return status, url, data
            url = urljoin(url, elsewhere)
        raise _UnclearError("it is redirected again and again")

    def _login(self, url: str, headers: Message) -> str:
        """What to say to who asks for a login; "" where FFmpeg has none to give either.

        That of the address goes to no other host or port, as an address within a list may hold another one.
        """
        parts, own = urlsplit(url), urlsplit(self._address)
        if parts.username is None:
            return ""
        if (parts.scheme, parts.hostname, _port(parts)) != (own.scheme, own.hostname, _port(own)):
            raise _UnclearError("the list has a login of its own")
        asked = " ".join(headers.get_all("WWW-Authenticate", [])).lower()
        if "digest" in asked and "basic" not in asked:
            raise _UnclearError("the server wants a digest")  # as FFmpeg can make it
        if "basic" not in asked:
            return ""
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return f"Basic {b64encode(login.encode()).decode()}"

    def _request(self, url: str, part: str, most: int, login: str = "") -> tuple[int, Message, bytes]:
        """The status, the headers, and up to ``most`` bytes of what begins as a playlist does."""
        from http.client import HTTPConnection
        from urllib.request import Request, proxy_bypass

        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise _UnclearError(f"nothing is asked for over {parts.scheme}")
        if os.environ.get("http_proxy") and not proxy_bypass(parts.hostname):
            raise _UnclearError("FFmpeg goes through a proxy")
        host = parts.netloc.rpartition("@")[2]
        target = quote(parts.path or "/", safe=punctuation)
        if parts.query:
            target = f"{target}?{quote(parts.query, safe=punctuation)}"
        version = ".".join(map(str, av.library_versions["libavformat"]))
        asked = {"Host": host, "User-Agent": f"Lavf/{version}", "Accept": "*/*", "Range": f"bytes={part}"}
        asked |= {"Connection": "close"} | ({"Authorization": login} if login else {})
        request = Request(f"{parts.scheme}://{host}{target}")  # the cookies' only
        self._cookies.add_cookie_header(request)
        if cookie := request.get_header("Cookie"):
            asked["Cookie"] = cookie
        with closing(HTTPConnection(parts.hostname, _port(parts))) as connection:
            self._connect(connection, secure=parts.scheme == "https")
            connection.request("GET", target, headers=asked)
            with closing(connection.getresponse()) as response:
                self._cookies.extract_cookies(response, request)
                data = b""
                if most and response.status < 300 and response.read(len(_BEGIN)) == _BEGIN:
                    data = response.read(most)
                return response.status, response.headers, data

    def _connect(self, connection: HTTPConnection, *, secure: bool) -> None:
        """Connect, and do the handshake, where ``give_up`` can end either."""
        address = connection.host, connection.port
        connection.sock = self._socket = socket.create_connection(address, timeout=self._left())
        if secure:
            connection.sock = self._socket = trust(self._stream).wrap_socket(
                connection.sock, server_hostname=connection.host, do_handshake_on_connect=False
            )
        self._socket.settimeout(self._left())
        if isinstance(self._socket, ssl.SSLSocket):
            self._socket.do_handshake()

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("its time is up")
        return left


def _port(parts: SplitResult) -> int:
    return parts.port or _PORTS[parts.scheme]


def _last(playlist: bytes) -> tuple[bool, str]:
    """Whether a playlist is one of variants, and the first of those, else the last segment; "" for none.

    The last one is there for longest: those at the beginning may have left the server.
    """
    if len(playlist) >= MOST_BYTES:
        playlist = playlist.rpartition(b"\n")[0]
    lines = [line.strip() for line in playlist.decode("utf-8", "replace").split("\n")]
    variants = any(line.startswith("#EXT-X-STREAM-INF") for line in lines)
    named = [line for line in lines if line and not line.startswith("#")] or [""]
    return variants, named[0 if variants else -1]
