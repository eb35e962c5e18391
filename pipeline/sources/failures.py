"""FFmpeg's errors in words: one table from exception to cause and phrase, one of HTTP's answers.

FFmpeg's exceptions repeat the address with its password, so none of them is chained to ours:
callers build the error here, leave the ``except`` block, and raise then, which keeps
``__context__`` empty as well.
"""

from __future__ import annotations

import errno
import socket
from urllib.parse import urlsplit

import av.error

from pipeline.sources.limits import MOST_TRACKS

_BY_STATUS = {
    400: ("network", "the server did not understand the request (400)"),
    401: ("auth", "the user name or password is missing or was refused (401)"),
    403: ("auth", "access was forbidden (403)"),
    404: ("not_found", "the server knows no such address (404)"),
    410: ("not_found", "the server has it no more (410)"),
    429: ("refused", "the server takes no more clients (429)"),
}
_OTHER_CLIENT, _SERVER = "the server refused the request ({})", "the server failed ({})"

# The first match wins, so subclasses and errno values stand before their bases.
_BY_TYPE: tuple[tuple[type[BaseException], str, str], ...] = (
    (av.error.HTTPUnauthorizedError, *_BY_STATUS[401]),
    (av.error.HTTPForbiddenError, *_BY_STATUS[403]),
    (av.error.HTTPNotFoundError, *_BY_STATUS[404]),
    (av.error.HTTPTooManyRequestsError, *_BY_STATUS[429]),
    (av.error.HTTPBadRequestError, *_BY_STATUS[400]),
    (av.error.HTTPOtherClientError, "network", _OTHER_CLIENT.format("4xx")),
    (av.error.HTTPServerError, "network", _SERVER.format("5xx")),
    (av.error.ConnectionRefusedError, "refused", "connection refused: nothing listens at that host and port"),
    (av.error.ConnectionResetError, "network", "the connection was reset"),
    (av.error.ConnectionAbortedError, "network", "the connection was aborted"),
    (av.error.BrokenPipeError, "network", "the connection was closed"),
    (av.error.TimeoutError, "timeout", "no answer in time"),
    # PyAV's own timeout interrupts FFmpeg, which then reports that it was asked to exit.
    (av.error.ExitError, "timeout", "no answer in time"),
    (av.error.FileNotFoundError, "not_found", "no such file"),
    (av.error.IsADirectoryError, "format", "it is a folder"),
    (av.error.PermissionError, "permission", "permission denied"),
    (av.error.ProtocolNotFoundError, "format", "this build of FFmpeg does not have that protocol"),
    (av.error.DemuxerNotFoundError, "format", "this build of FFmpeg cannot read that container"),
    (av.error.DecoderNotFoundError, "format", "this build of FFmpeg has no decoder for it"),
    (av.error.PatchWelcomeError, "format", "FFmpeg does not support this variant of the format"),
    (av.error.InvalidDataError, "format", "the data is not video that FFmpeg can read, or is damaged"),
    (av.error.EOFError, "ended", "the data ended before any picture"),
)
_BY_ERRNO: dict[int, tuple[str, str]] = {
    errno.ENOMEM: (
        "format",
        f"it takes more memory than it may have, or holds more than {MOST_TRACKS} tracks",
    ),
    errno.EPROTONOSUPPORT: ("network", "the server does not offer this transport"),
    errno.ENETUNREACH: ("network", "the network cannot be reached"),
    errno.EHOSTUNREACH: ("network", "the host cannot be reached"),
    errno.ENETDOWN: ("network", "the network is down"),
    errno.EADDRNOTAVAIL: ("network", "that address is not one to connect to"),
}
# FFmpeg's word for a name that does not resolve, a TLS handshake that fails, a connection that
# breaks, and a disk that fails to read.
_EIO_LOCAL = ("error", "the disk or device failed to read (input/output error)")
_EIO_UNKNOWN_HOST = ("network", "host not found")
_EIO_OPENING = ("network", "the server closed the connection, or does not speak this protocol")
_EIO_OPENING_HTTP = (_EIO_OPENING[0], f"{_EIO_OPENING[1]}, or redirects in a circle")
_EIO_READING = ("network", "the connection broke or was closed")
_RTSP_ELSEWHERE = (
    "network",
    "the server redirects, which is not followed, as the login would go along: give the address itself",
)
_RTSP_ANSWER = ("network", "the server hung up, or what it answers is not RTSP")

_SAME_CAUSES = frozenset({"refused", "auth", "not_found", "certificate"})
_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL)
_SAME = frozenset({_EIO_UNKNOWN_HOST, _RTSP_ELSEWHERE, *(_BY_ERRNO[number] for number in _UNREACHABLE)})

STALL_SHARE = 0.9
"""A failure after this share of its time limit counts as the time limit, whatever FFmpeg calls it."""


def explain(
    error: BaseException, *, remote: bool, opening: str | None, waited: float, limit: float
) -> tuple[str, str]:
    """The cause (see SourceError) and a phrase for an error of PyAV.

    ``opening`` is the address, None once it has been opened. ``waited`` is how many seconds the call
    had run and ``limit`` its time limit: the same stall surfaces as TimeoutError, ExitError,
    InvalidDataError or EIO, by which timer fired where.
    """
    answered = isinstance(error, av.error.HTTPError | av.error.HTTPClientError)
    if remote and not answered and waited >= STALL_SHARE * limit:
        return silence(limit)
    dialogue = opening is not None and opening.lower().startswith("rtsp")
    if dialogue and isinstance(error, av.error.InvalidDataError):
        return _RTSP_ANSWER  # media come later: what cannot be read is the dialogue
    if dialogue and getattr(error, "errno", None) == errno.EINVAL:
        return _RTSP_ELSEWHERE  # a protocol that is not on the white list: see limits
    for kind, cause, phrase in _BY_TYPE:
        if isinstance(error, kind):
            return cause, phrase
    number = getattr(error, "errno", None)
    if number == errno.EIO:
        if not remote:
            return _EIO_LOCAL
        if opening is None:
            return _EIO_READING
        if not _is_known(opening):
            return _EIO_UNKNOWN_HOST
        return _EIO_OPENING_HTTP if opening.lower().startswith("http") else _EIO_OPENING
    if number in _BY_ERRNO:
        return _BY_ERRNO[number]
    # strerror, not str(): the latter holds the address.
    return "error", str(getattr(error, "strerror", None) or type(error).__name__)


def whatever_transport(failure: tuple[str, str]) -> bool:
    """Whether a failure to open an RTSP address would be the same over the other transport: the media alone
    take it, the dialogue is over TCP with both.

    In doubt it is not. Of the refusals of a transport FFmpeg 8.1 tells 461 alone; cameras say 400, 406, or
    500, which it does not tell from the same at another step, nor from 453 and 503. And one error is all that
    it has for a server that answers TCP's request with UDP, one that hangs up, and what is no RTSP.
    """
    return failure[0] in _SAME_CAUSES or failure in _SAME


def of_status(status: int) -> tuple[str, str] | None:
    """The cause and the phrase for what an HTTP server answers; None where that is no refusal."""
    if status < 400:
        return None
    other = _OTHER_CLIENT if status < 500 else _SERVER
    return _BY_STATUS.get(status) or ("network", other.format(status))


def silence(limit: float) -> tuple[str, str]:
    """The cause and the phrase where nothing came for ``limit`` seconds."""
    return "timeout", f"no data within {limit:.3g} s"


def _is_known(address: str) -> bool:
    """Whether its host's name leads anywhere; as it has just been asked for, the answer is not far."""
    try:
        socket.getaddrinfo(urlsplit(address).hostname, None)
    except (OSError, ValueError):  # a name of labels that are too long is no name
        return False
    return True
