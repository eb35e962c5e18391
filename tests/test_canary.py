"""A canary password wherever one can be given, and every output of the process searched for it."""

from __future__ import annotations

import contextlib
import http.server
import logging
import socket
import threading
import traceback
from pathlib import Path

import pytest

from benchmarks.canary import CANARY, USER, cameras, environment, leaks, limits, run
from pipeline import Pipeline
from pipeline.config import StreamConfig, make_stream
from pipeline.configfile import load_config
from pipeline.errors import SourceOpenError
from pipeline.sources import open_source, parse_source


@pytest.mark.parametrize(("way", "log_format"), [("config", "json"), ("source file", "text")])
def test_no_output_of_the_process_has_it(tmp_path: Path, cheap_model: str, way: str, log_format: str) -> None:
    outputs = run(tmp_path, cheap_model, way, log_format)
    assert {"/metrics", "/streams", "command lines", "log", "file r.jsonl", "file s.json"} < set(outputs)
    assert leaks(outputs) == []


def test_one_that_is_there_is_found() -> None:
    outputs = {"log": "opening rtsp://***@camera", "file a": f"x {CANARY}-key"}
    (leak,) = leaks(outputs)
    assert leak == f"file a: x {CANARY}-key"
    found = {"secrets": ["key"], "runs": [{"characters": {"log": 25, "file a": 20}, "leaks": [leak]}]}
    assert limits(found) == [("outputs with one of 1 secrets in them, of 2 (0 kB)", 1, 0, False)]


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


def test_a_redirection_of_rtsp_is_not_followed() -> None:
    """FFmpeg would answer the next server's 401 with the password that was meant for the first."""
    heard: dict[str, list[str]] = {"first": [], "next": []}

    def serve(listener: socket.socket, name: str, answer: str) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, connection.makefile("r", newline="\r\n") as requests:
                    asked = list[str]()
                    for line in requests:
                        asked.append(line.strip())
                        if asked[-1]:
                            continue
                        heard[name].append("\n".join(asked))
                        (number,) = (each for each in asked if each.startswith("CSeq"))
                        options = asked[0].startswith("OPTIONS")
                        said = "200 OK\r\nPublic: DESCRIBE" if options else answer
                        connection.sendall(f"RTSP/1.0 {said}\r\n{number}\r\n\r\n".encode())
                        asked = []

    with contextlib.ExitStack() as opened:
        listeners = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        first, after = (listener.getsockname()[1] for listener in listeners)
        answers = (
            f"302 Found\r\nLocation: rtsp://127.0.0.1:{after}/x",
            '401 Unauthorized\r\nWWW-Authenticate: Basic realm="next"',
        )
        for listener, name, answer in zip(listeners, heard, answers, strict=True):
            thread = threading.Thread(target=serve, args=(listener, name, answer), daemon=True)
            thread.start()
            opened.callback(thread.join, 5)
            opened.callback(listener.shutdown, socket.SHUT_RDWR)
        stream = StreamConfig(source=f"rtsp://u:canary@127.0.0.1:{first}/a", open_timeout=5)
        with pytest.raises(SourceOpenError, match="redirects"):
            open_source(parse_source(stream.source), stream, threading.Event())
    assert any(asked.startswith("DESCRIBE") for asked in heard["first"])
    assert heard["next"] == []


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
