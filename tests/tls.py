"""Certificates for tests, made as they start, and servers on loopback that show them."""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Certificate:
    """Signed by itself, so that it is its own authority."""

    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


def make_certificate(folder: Path, name: str) -> Certificate:
    """One for ``name``, an IP address or a host. Skips the test where there is no openssl."""
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    kind = "IP" if name[0].isdigit() else "DNS"
    command = [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-keyout", made.key, "-out", made.certificate, "-days", "2", "-subj", f"/CN={name}"),
        *("-addext", f"subjectAltName={kind}:{name}"),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("needs openssl, to make certificates")
    return made


@dataclass
class Heard:
    """A TLS server that hangs up after the first request; ``requests`` are what clients said to it."""

    port: int
    requests: list[bytes] = field(default_factory=list)
    met: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def listening(certificate: Certificate) -> Iterator[Heard]:
    """Note what clients send once the handshake is done."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        heard = Heard(listener.getsockname()[1])
        context = certificate.context()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:  # shut down below
                    return
                with contextlib.suppress(OSError), connection:
                    connection.settimeout(5)
                    with context.wrap_socket(connection, server_side=True) as secured:
                        said = secured.recv(4096)
                        if said:
                            heard.requests.append(said)
                heard.met.set()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield heard
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def https_server(folder: Path, certificate: Certificate) -> Iterator[str]:
    """Serve the files of ``folder``; the server's address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=str(folder)))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hangs up is no error
    server.socket = certificate.context().wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
