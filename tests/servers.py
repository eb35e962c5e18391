"""Real servers on loopback for tests: RTSP (GStreamer, rtsp-rs), HTTP, and one that says nothing.

Each is a context manager that binds a free port, is ready when it is entered, and ends what it
started when it is left. A server process also ends by itself when its standard input closes, so
none outlives a test run that was killed.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import pytest

from pipeline.sources.synthetic import encode_number

SYSTEM_PYTHON = "/usr/bin/python3"
"""GStreamer's bindings belong to the system's Python, not to a virtual environment."""

_GST_CHILD = """
import json, os, sys, threading
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer
Gst.init(None)
given = json.loads(sys.argv[1])
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(str(given["port"]))
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(given["launch"])
if given["transport"] == "tcp":
    factory.set_protocols(GstRtsp.RTSPLowerTrans.TCP)
elif given["transport"] == "udp":
    factory.set_protocols(GstRtsp.RTSPLowerTrans.UDP)
if given["certificate"] is not None:
    gi.require_version("Gio", "2.0")
    from gi.repository import Gio
    auth = GstRtspServer.RTSPAuth()
    auth.set_tls_certificate(Gio.TlsCertificate.new_from_files(*given["certificate"]))
    anybody = GstRtspServer.RTSPToken()
    anybody.set_string("media.factory.role", "anybody")
    auth.set_default_token(anybody)
    server.set_auth(auth)
    role = Gst.Structure.new_empty("anybody")
    role.set_value("media.factory.access", True)
    role.set_value("media.factory.construct", True)
    factory.add_role_from_structure(role)
if given["user"] is not None:
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(given["user"], given["password"]), token)
    server.set_auth(auth)
    role = Gst.Structure.new_empty("viewer")
    role.set_value("media.factory.access", True)
    role.set_value("media.factory.construct", True)
    factory.add_role_from_structure(role)
server.get_mount_points().add_factory("/stream", factory)
if server.attach(None) == 0:
    sys.exit("cannot bind")
loop = GLib.MainLoop()
def until_parent_ends():
    sys.stdin.buffer.read()
    os._exit(0)
threading.Thread(target=until_parent_ends, daemon=True).start()
print(server.get_bound_port(), flush=True)
loop.run()
"""

_RTSP_RS_CHILD = """
import os, sys, threading, time
import av, rtsp
clip, port = sys.argv[1], sys.argv[2]
threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
server = rtsp.Server("127.0.0.1:" + port)
server.start()
print(port, flush=True)
while True:
    with av.open(clip) as container:
        stream = container.streams.video[0]
        bsf = av.bitstream.BitStreamFilterContext("h264_mp4toannexb", stream)
        period = 1 / float(stream.average_rate)
        for packet in container.demux(stream):
            for part in bsf.filter(packet if packet.size else None):
                server.send_frame(bytes(part), round(90000 * period))
            time.sleep(period)
"""


@dataclass
class Server:
    """A running server: its address, and the process to kill where it has one."""

    url: str
    port: int
    process: subprocess.Popen[str] | None = None

    def kill(self) -> None:
        """End the server's process at once, as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def with_login(self, user: str, password: str) -> str:
        """The address with a user's name and password in it."""
        return self.url.replace("://", f"://{user}:{password}@")


@functools.cache
def missing_gst_rtsp() -> str | None:
    """Why GStreamer's RTSP server cannot run here, or None where it can."""
    probe = (
        "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer;"
        "Gst.init(None);"
        "wanted = ('parsebin', 'h264parse', 'rtph264pay', 'qtdemux');"
        "print(' '.join(e for e in wanted if not Gst.ElementFactory.find(e)))"
    )
    if not Path(SYSTEM_PYTHON).exists():
        return f"there is no {SYSTEM_PYTHON}"
    done = subprocess.run(
        [SYSTEM_PYTHON, "-c", probe], capture_output=True, text=True, timeout=30, check=False
    )
    if done.returncode:
        return "the system's Python has no gi.repository.GstRtspServer"
    return f"GStreamer lacks {done.stdout.strip()}" if done.stdout.strip() else None


@functools.cache
def missing_gst_tls() -> bool:
    """Whether the system's GLib has no TLS, so that GStreamer's server, if it is there, cannot encrypt."""
    if missing_gst_rtsp():
        return True
    probe = "from gi.repository import Gio; raise SystemExit(not Gio.TlsBackend.get_default().supports_tls())"
    return bool(subprocess.run([SYSTEM_PYTHON, "-c", probe], timeout=30, check=False).returncode)


_PAY = {
    "h264": "h264parse ! rtph264pay config-interval=-1",
    "hevc": "h265parse ! rtph265pay config-interval=-1",
    "mjpeg": "jpegparse ! rtpjpegpay",
    "mpeg4": "mpeg4videoparse ! rtpmp4vpay config-interval=1",
}


@contextlib.contextmanager
def gst_rtsp_server(
    clip: Path,
    *,
    user: str | None = None,
    password: str | None = None,
    port: int | None = None,
    transport: str = "any",
    certificate: tuple[str, str] | None = None,
) -> Iterator[Server]:
    """Serve ``clip`` at ``rtsp://127.0.0.1:PORT/stream`` in real time, from its start for each client.

    With ``user`` and ``password`` the server asks for them; ``transport`` tcp or udp refuses the
    other; with a ``certificate`` (the files of it and of its key) it is ``rtsps://``. Skips the test, with
    the reason, where GStreamer's server is not installed.
    """
    if reason := missing_gst_rtsp():
        pytest.skip(f"needs GStreamer's RTSP server: {reason}")
    with av.open(str(clip)) as container:
        codec = container.streams.video[0].codec_context.name
    launch = f'( filesrc location="{clip}" ! parsebin ! {_PAY[codec]} name=pay0 pt=96 )'
    given = {"port": port or 0, "launch": launch, "transport": transport, "user": user, "password": password}
    given["certificate"] = certificate
    # -E would drop what GStreamer needs; a virtual environment's own variables would mislead it.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    with _process([SYSTEM_PYTHON, "-c", _GST_CHILD, json.dumps(given)], environment) as (process, bound):
        scheme = "rtsps" if certificate else "rtsp"
        yield Server(f"{scheme}://127.0.0.1:{bound}/stream", bound, process)


@contextlib.contextmanager
def rtsp_rs_server(clip: Path) -> Iterator[Server]:
    """Serve an H.264 ``clip`` over and over at ``rtsp://127.0.0.1:PORT/stream``, over UDP only.

    Skips the test, with the reason, where ``rtsp-rs`` is not installed.
    """
    pytest.importorskip("rtsp", reason="needs the package rtsp-rs")
    command = [sys.executable, "-c", _RTSP_RS_CHILD, str(clip), str(free_port())]
    with _process(command, dict(os.environ)) as (process, port):
        yield Server(f"rtsp://127.0.0.1:{port}/stream", port, process)


@contextlib.contextmanager
def silent_server(greeting: bytes = b"") -> Iterator[Server]:
    """Accept connections on loopback, answer with ``greeting`` and then say nothing at all."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        held: list[socket.socket] = []

        def accept() -> None:
            # accept() ends with an OSError when the listener is shut down below.
            with contextlib.suppress(OSError):
                while True:
                    held.append(listener.accept()[0])
                    held[-1].sendall(greeting)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield Server(f"rtsp://127.0.0.1:{port}/stream", port)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for connection in held:
                connection.close()


@contextlib.contextmanager
def http_server(
    folder: Path,
    *,
    user: str | None = None,
    password: str | None = None,
    fps: float = 50,
    frames: int = 10_000,
    asked: list[str] | None = None,
) -> Iterator[Server]:
    """Serve ``folder`` at ``http://127.0.0.1:PORT``; with ``user`` and ``password`` behind a login.

    Beside the files there are ``/live.mjpeg`` (``frames`` numbered pictures of 64x48, multipart, at
    ``fps``), ``/long.mjpeg`` (the same with a length that is never reached), ``/cut.mjpeg`` (10
    pictures, then silence) and ``/status/NNN`` (that HTTP status).
    ``asked`` gets the path of each request.
    """
    over = threading.Event()
    login = f"{user}:{password}" if user is not None else None
    handler = functools.partial(
        _Handler, directory=str(folder), login=login, over=over, fps=fps, frames=frames, asked=asked
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hangs up is no error
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{server.server_port}", server.server_port)
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def free_port() -> int:
    """A TCP port of loopback on which nothing listens right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, and endless or broken streams."""

    def __init__(
        self,
        *args,
        login: str | None,
        over: threading.Event,
        fps: float,
        frames: int,
        asked: list[str] | None,
        **kwargs,
    ) -> None:
        self._login, self._over, self._fps, self._frames, self._asked = login, over, fps, frames, asked
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        if self._asked is not None:
            self._asked.append(self.path)
        if self._login is not None:
            expected = "Basic " + base64.b64encode(self._login.encode()).decode()
            if self.headers.get("Authorization") != expected:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="test"')
                self.end_headers()
                return
        path = self.path.partition("?")[0]
        if path.startswith("/status/"):
            self.send_error(int(path.removeprefix("/status/")))
        elif path in ("/live.mjpeg", "/long.mjpeg", "/cut.mjpeg"):
            self._multipart(10 if path == "/cut.mjpeg" else self._frames, long=path == "/long.mjpeg")
            if path == "/cut.mjpeg":
                self._over.wait(60)
        else:
            super().do_GET()

    def _multipart(self, frames: int, long: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        if long:
            self.send_header("Content-Length", "99999999")
        self.end_headers()
        for number in range(frames):
            jpeg = cv2.imencode(".jpg", encode_number(number, 48, 64))[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")
            if self._over.wait(1 / self._fps):
                return

    def log_message(self, *args) -> None:
        """Say nothing: pytest's output is for test results."""


@contextlib.contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a server that prints its port once it listens; end it by its own handle."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], 20)
        line = process.stdout.readline() if ready else ""
        if not line.strip():
            process.kill()
            raise RuntimeError(f"the server did not start: {process.stderr.read()[-2000:]}")
        _wait_until(lambda: _accepts(int(line)), 10)
        yield process, int(line)
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"the server was not ready within {seconds} s")
        time.sleep(0.02)
