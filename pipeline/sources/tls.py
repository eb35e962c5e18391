"""Certificates of https, rtsps and rtmps: verified unless a stream says otherwise.

FFmpeg 8.1 verifies none unless it is told to, and the GnuTLS in PyAV's Linux wheels looks for authorities
where Red Hat has them alone, so it is told where they are here.
"""

from __future__ import annotations

import errno
import socket
import ssl
from urllib.parse import urlsplit

from pipeline.config import StreamConfig

_PORTS = {"https": 443, "rtsps": 322, "rtmps": 443}
SECURE = frozenset(_PORTS)
PLAYLISTS = frozenset({"hls", "dash"})
_REMEDY = "name who signed it (tls_ca_file), or take any certificate (tls_verify: false)"


def tls_options(scheme: str, stream: StreamConfig) -> dict[str, str]:
    """FFmpeg's options for an address of ``scheme``; plain http too, which may be redirected to https."""
    if scheme not in SECURE and scheme != "http":
        return {}
    if not stream.tls_verify:
        return {"tls_verify": "0"}
    authorities = stream.tls_ca_file or ssl.get_default_verify_paths().cafile
    # Without a file, macOS and Windows ask the system; elsewhere nobody is trusted then.
    return {"tls_verify": "1"} | ({"ca_file": authorities} if authorities else {})


def trust(stream: StreamConfig) -> ssl.SSLContext:
    """The same for a connection of Python's own. Raises OSError for a file that holds no authorities."""
    if stream.tls_verify:
        return ssl.create_default_context(cafile=stream.tls_ca_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def distrust(error: BaseException, address: str, scheme: str, stream: StreamConfig, seconds: float) -> str:
    """Why the certificate of the server at ``address`` is not trusted, with the remedy, if that is why
    FFmpeg raised ``error``; else "".

    FFmpeg calls it an input/output error. So the handshake is done once more, by Python, which says why; it
    sends nothing else. Takes up to ``seconds``.
    """
    told = scheme in SECURE and stream.tls_verify and getattr(error, "errno", None) == errno.EIO
    if not told or seconds <= 0:
        return ""
    try:
        parts = urlsplit(address)
        context = trust(stream)
        host, port = parts.hostname or "", parts.port or _PORTS[scheme]
    except (OSError, ValueError) as unusable:
        reason = getattr(unusable, "strerror", None) or "it is no certificate in PEM form"
        return f"tls_ca_file {stream.tls_ca_file}: {reason}"
    try:
        with (
            socket.create_connection((host, port), timeout=seconds) as connection,
            context.wrap_socket(connection, server_hostname=host),
        ):
            return ""
    except ssl.SSLCertVerificationError as refused:
        return f"its certificate is not trusted: {refused.verify_message.rstrip('.')}; {_REMEDY}"
    except OSError:
        return ""  # it is something else, for which FFmpeg has a word


def unverified_playlist(container: str, scheme: str, stream: StreamConfig) -> str:
    """Why a playlist of FFmpeg's format ``container`` is not taken; "" where it is.

    FFmpeg 8.1 hands the options above on to no segment: those come from whoever answers.
    """
    if scheme not in SECURE or not stream.tls_verify or container not in PLAYLISTS:
        return ""
    return (
        "it is a playlist, and FFmpeg verifies no certificate of the servers that its segments come from; "
        "tls_verify: false takes them all the same"
    )
