"""Whoever can reach the server cannot use it up."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Any
from wsgiref.simple_server import make_server

import pytest

from pipeline import webserver


def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"well"]


@contextlib.contextmanager
def serving(application: Any = answer) -> Iterator[int]:
    server = make_server("127.0.0.1", 0, application, webserver.Server, webserver.Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def port() -> Iterator[int]:
    with serving() as port:
        yield port


def ask(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as found:
        body: bytes = found.read()
        return body


def connect(port: int) -> socket.socket:
    """A client that never comes to the end of its request."""
    client = socket.create_connection(("127.0.0.1", port), timeout=5)
    client.sendall(b"GET / HTTP/1.1\r\nX: ")
    return client


def threads() -> int:
    return sum("process_request" in thread.name for thread in threading.enumerate())


def test_one_more_takes_the_place_of_the_oldest(port: int) -> None:
    with contextlib.ExitStack() as stack:
        clients = []
        for number in range(4 * webserver.MOST):
            clients.append(stack.enter_context(connect(port)))
            if number % 20 == 0:
                assert ask(port) == b"well"
        assert ask(port) == b"well"
        deadline = time.monotonic() + 5
        while threads() > webserver.MOST and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threads() <= webserver.MOST
        assert clients[0].recv(1) == b"", "the oldest gave way"


def test_those_who_ask_and_do_not_listen_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their threads compose answers, which takes its time, when their connections have given way."""
    monkeypatch.setattr(webserver, "MOST", 4)
    monkeypatch.setattr(webserver, "TWICE", 8)
    together, most = 0, 0
    lock = threading.Lock()

    def slow(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        time.sleep(0.1)
        with lock:
            together -= 1
        return answer(environ, start_response)

    with contextlib.ExitStack() as stack, serving(slow) as port:
        for _ in range(40):  # as many as wait to be accepted
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert ask(port) == b"well"
    assert 4 < most <= 8


def test_none_lasts_for_long_whatever_it_sends(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webserver, "LONGEST_SECONDS", 0.5)
    begun = time.monotonic()
    with connect(port) as client, contextlib.suppress(ConnectionError):
        client.settimeout(0.05)
        while time.monotonic() < begun + 10:
            client.sendall(b"x")  # less than the ten seconds that it may say nothing for
            with contextlib.suppress(TimeoutError):
                assert client.recv(1) == b""
                break
    assert 0.4 < time.monotonic() - begun < 8


def test_a_reader_that_is_too_slow_is_no_news(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webserver.Handler, "timeout", 0.2)

    def much(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"x" * 50_000_000]

    def wrong(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        raise RuntimeError("a fault of ours")

    with serving(much) as port, socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        deadline = time.monotonic() + 5
        while threads() == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        while threads() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "an answer failed" not in caplog.text
    with serving(wrong) as port, contextlib.suppress(urllib.error.HTTPError):
        ask(port)
    assert "a fault of ours" in caplog.text
    assert capsys.readouterr().err == ""


def test_its_end_is_that_of_those_who_wait() -> None:
    with contextlib.ExitStack() as stack:
        with serving() as port:
            client = stack.enter_context(connect(port))
            assert ask(port) == b"well"  # so the other has been taken, too
        client.settimeout(5)
        assert client.recv(1) == b""


def test_a_connection_that_is_over_leaves_nothing(port: int) -> None:
    with connect(port):
        assert ask(port) == b"well"
    deadline = time.monotonic() + 5
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads() == 0
