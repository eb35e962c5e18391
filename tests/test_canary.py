"""A canary password wherever one can be given, and every output of the process searched for it."""

from __future__ import annotations

import contextlib
import http.server
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import Pipeline
from pipeline.access import TOKEN_VARIABLE
from pipeline.config import load_config, make_stream
from pipeline.errors import SourceOpenError
from pipeline.sample import SAMPLE
from pipeline.sources import open_source, parse_source
from tests.servers import free_port, http_server

CANARY = "c4naryPassw0rd"
"""In every secret below, each with an ending of its own, so that one that leaks is known by its name."""
TOKEN = f"{CANARY}-metrics-token"
USER = "viewer"
LONGEST = 40.0


@contextlib.contextmanager
def redirecting(locations: dict[str, str]) -> Iterator[str]:
    """Send clients from each path to its location; the server's address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", locations[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(5)


def command_lines() -> str:
    """Those of all processes, as any user may read them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return "\n".join(found)


def fetch(port: int, path: str) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    request.add_header("Authorization", f"Bearer {TOKEN}")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return str(answer.headers) + answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return str(error.headers) + error.read().decode()


def playlist(url: str) -> str:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10.0,\n{url}\n#EXT-X-ENDLIST\n"


@contextlib.contextmanager
def cameras(folder: Path) -> Iterator[list[tuple[str, str]]]:
    """Sources by name, each with a password somewhere: such as work, are refused, or lead elsewhere."""
    served = folder / "served"
    served.mkdir()
    (served / "clip.mp4").write_bytes(SAMPLE.read_bytes())
    (served / "list.m3u8").write_text(playlist(f"http://127.0.0.1:{free_port()}/s.ts?token={CANARY}-segment"))
    (folder / "secret").write_text(f"{CANARY}-file\n")
    login = f"{CANARY}-login"
    with http_server(served, user=USER, password=login, fps=100) as closed, http_server(served) as opened:
        inside = closed.with_login(USER, login)
        locations = {
            "/in": f"{inside}/clip.mp4",
            "/refused": f"{closed.with_login(USER, f'{CANARY}-redirect')}/clip.mp4",
            "/nowhere": f"http://{USER}:{CANARY}-nowhere@127.0.0.1:{free_port()}/x?key={CANARY}-key",
            "/query": f"{opened.url}/none.mp4?sessionid={CANARY}-session",
        }
        with redirecting(locations) as elsewhere:
            yield [
                ("live", f"{inside}/live.mjpeg"),
                ("variable", f"{closed.url.replace('://', f'://{USER}:${{CANARY_VARIABLE}}@')}/clip.mp4"),
                ("file", f"{closed.url.replace('://', f'://{USER}:${{file:{folder}/secret}}@')}/clip.mp4"),
                ("whole", "${CANARY_ADDRESS}"),
                ("query", f"{opened.url}/status/500?password={CANARY}-query"),
                ("playlist", f"{opened.url}/list.m3u8?auth={CANARY}-list"),
                ("rtsp", f"rtsp://{USER}:{CANARY}-rtsp@127.0.0.1:{free_port()}/x"),
                ("rtsps", f"rtsps://{USER}:{CANARY}-rtsps@127.0.0.1:{free_port()}/x"),
                *((path.strip("/"), elsewhere + path) for path in locations if path != "/query"),
                ("elsewhere", f"{elsewhere}/query"),
            ]


def environment() -> dict[str, str]:
    secrets = {
        "CANARY_VARIABLE": f"{CANARY}-variable",
        "CANARY_ADDRESS": f"http://{USER}:{CANARY}-address@127.0.0.1:{free_port()}/x.mp4?t={CANARY}-t",
        TOKEN_VARIABLE: TOKEN,
    }
    return os.environ | secrets


@pytest.mark.parametrize(("way", "log_format"), [("config", "json"), ("source file", "text")])
def test_no_output_of_the_process_has_it(tmp_path: Path, cheap_model: str, way: str, log_format: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    port = free_port()
    with cameras(tmp_path) as sources:
        arguments = ["--model", cheap_model, "--debug", "--log-format", log_format, "--open-timeout", "3"]
        arguments += ["--metrics", f"127.0.0.1:{port}", "--jsonl", "out/r.jsonl", "--summary", "out/s.json"]
        arguments += ["--video", "out/{stream}.mp4", "--max-frames", "100000"]
        if way == "config":
            lines = [f"- {{name: {name}, source: '{source}'}}" for name, source in sources]
            (tmp_path / "line.yaml").write_text("\n".join(["streams:", *lines]))
            arguments += ["--config", "line.yaml"]
        else:
            (tmp_path / "sources").write_text("\n".join(source for _, source in sources))
            arguments += ["--source-file", "sources"]
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "run", *arguments],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        seen = []
        try:
            told = _await_verdicts(process, port, len(sources))
            seen = [fetch(port, path) for path in ("/metrics", "/healthz", "/readyz", "/streams", "/")]
            seen.append(command_lines())
            assert f"run --model {cheap_model}" in seen[-1]  # it is this process that was looked at
            process.send_signal(signal.SIGTERM)
            seen += process.communicate(timeout=LONGEST)
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
    assert told["live" if way == "config" else "127.0.0.1"]["emitted"] > 0
    seen += [path.name for path in out.iterdir()]
    seen += [path.read_bytes().decode(errors="replace") for path in out.iterdir()]
    text = "\n".join(seen)
    assert "***" in text
    leaks = [line[max(0, at - 150) : at + 60] for line in text.splitlines() if (at := line.find(CANARY)) >= 0]
    assert not leaks, leaks[:5]


def _await_verdicts(process: subprocess.Popen[str], port: int, count: int) -> dict[str, dict[str, object]]:
    """Until each stream has had pictures or a failure."""
    deadline = time.monotonic() + LONGEST
    told: dict[str, dict[str, object]] = {}
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            body = fetch(port, "/streams")
            told = json.loads(body[body.index("{") :])["streams"]
            if len(told) == count and all(each["emitted"] or each["failures"] for each in told.values()):
                return told
        time.sleep(0.05)
    raise AssertionError(f"not all streams had a verdict: {told}, {process.poll()}")


def test_no_exception_and_no_log_record_has_it(
    tmp_path: Path, cheap_model: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    with cameras(tmp_path) as sources:
        refused = [(name, source) for name, source in sources if name not in ("live", "in")]
        lines = [f"- {{name: {n}, source: '{source}', reconnect: false}}" for n, source in refused]
        (tmp_path / "line.yaml").write_text("\n".join(["streams:", *lines, f"model: {cheap_model}"]))
        config = load_config(tmp_path / "line.yaml")
        with pytest.raises(ExceptionGroup) as raised, Pipeline(config) as line:
            line.run()
    assert len(raised.value.exceptions) == len(refused)
    text = "".join(traceback.format_exception(raised.value)) + repr(raised.value) + repr(config)
    text += "".join(f"{error!r} {error.args} {vars(error)}" for error in raised.value.exceptions)
    text += "".join(f"{record.getMessage()} {record.args}" for record in caplog.records)
    assert CANARY not in text


def test_a_redirection_takes_no_password_along() -> None:
    """A server that sends us on learns the password that was meant for it; the next one does not."""
    heard: dict[str, list[str | None]] = {"first": [], "next": []}

    class Next(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard["next"].append(self.headers.get("Authorization"))
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="next"')
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    class First(Next):
        def do_GET(self) -> None:
            login = self.headers.get("Authorization")
            heard["first"].append(login)
            self.send_response(302 if login else 401)
            self.send_header("WWW-Authenticate", 'Basic realm="first"')
            self.send_header("Location", f"http://127.0.0.1:{after.server_port}/x")
            self.end_headers()

    with contextlib.ExitStack() as open_servers:
        servers = []
        for handler in (Next, First):
            server = open_servers.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
            thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
            thread.start()
            open_servers.callback(thread.join, 5)
            open_servers.callback(server.shutdown)
            servers.append(server)
        after, before = servers
        address = f"http://{USER}:{CANARY}@127.0.0.1:{before.server_port}/x"
        stream = make_stream({"source": address})
        with pytest.raises(SourceOpenError) as raised:
            open_source(parse_source(address), stream, threading.Event())
    assert raised.value.cause == "auth"
    assert heard["first"][-1] is not None
    assert heard["next"]
    assert set(heard["next"]) == {None}
