"""Beyond loopback metrics and states are for those who have the token."""

from __future__ import annotations

import http.client
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Pipeline
from pipeline.access import SHORTEST, TOKEN_VARIABLE, admits, is_loopback, metrics_token
from pipeline.config import Config, make_config
from pipeline.errors import ConfigError
from pipeline.redact import redact

TOKEN = "canary-0123456789abcdef"


def configured(address: str, **options: object) -> Config:
    return make_config({"streams": [{"source": "synthetic:64x48?frames=3"}], "metrics": address, **options})


def token_file(folder: Path, text: str = f"{TOKEN}\n") -> str:
    path = folder / "token"
    path.write_text(text)
    return str(path)


@pytest.fixture(autouse=True)
def _no_token_of_the_developers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


def ask(port: int, path: str, authorization: str | None) -> tuple[int, dict[str, str]]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if authorization is not None:
        request.add_header("Authorization", authorization)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers)


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/streams", "/", "/nothing"])
def test_every_path_asks_for_the_token(tmp_path: Path, cheap_model: str, path: str) -> None:
    config = configured("0.0.0.0:0", metrics_token_file=token_file(tmp_path), model=cheap_model)
    with Pipeline(config) as line:
        assert line.metrics is not None
        port = line.metrics.port
        status, headers = ask(port, path, None)
        assert status == 401
        assert headers["WWW-Authenticate"] == 'Bearer realm="framerail"'
        status, headers = ask(port, path, f"Bearer {TOKEN[:-1]}x")
        assert status == 401
        assert "invalid_token" in headers["WWW-Authenticate"]
        # A stream that has not begun is not ready, and / is no page: what counts is who is let in.
        assert ask(port, path, f"Bearer {TOKEN}")[0] in (200, 503, 404)
        assert ask(port, path, f"Basic {TOKEN}")[0] == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/streams"])
def test_states_are_read_and_nothing_else(cheap_model: str, path: str) -> None:
    with Pipeline(configured("127.0.0.1:0", model=cheap_model)) as line:
        assert line.metrics is not None
        connection = http.client.HTTPConnection("127.0.0.1", line.metrics.port, timeout=5)
        connection.request("POST", path, body=b"{}")
        assert connection.getresponse().status == 405
        connection.close()
        with socket.create_connection(("127.0.0.1", line.metrics.port), timeout=5) as raw:
            raw.sendall(f"HEAD {path} HTTP/1.0\r\n\r\n".encode())
            said = b"".join(iter(lambda: raw.recv(4096), b""))
        assert said.endswith(b"\r\n\r\n") and (b" 200 OK" in said or b" 503 " in said)


def test_on_loopback_nobody_is_asked(cheap_model: str) -> None:
    with Pipeline(configured("127.0.0.1:0", model=cheap_model)) as line:
        assert line.metrics is not None
        assert ask(line.metrics.port, "/metrics", None)[0] == 200


def test_a_token_that_is_given_counts_on_loopback_too(tmp_path: Path, cheap_model: str) -> None:
    config = configured("127.0.0.1:0", metrics_token_file=token_file(tmp_path), model=cheap_model)
    with Pipeline(config) as line:
        assert line.metrics is not None
        assert ask(line.metrics.port, "/metrics", None)[0] == 401


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.7:9108", "camera-box:9108"])
def test_beyond_loopback_without_a_token_nothing_starts(address: str, cheap_model: str) -> None:
    with pytest.raises(ConfigError, match=f"metrics_token_file or {TOKEN_VARIABLE}.*metrics_without_token"):
        Pipeline(configured(address, model=cheap_model)).__enter__()


def test_the_users_word_opens_it() -> None:
    assert metrics_token(configured("0.0.0.0:0", metrics_without_token=True)) is None


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert metrics_token(configured("0.0.0.0:0")) == TOKEN
    other = "another-token-of-the-file"
    assert metrics_token(configured("0.0.0.0:0", metrics_token_file=token_file(tmp_path, other))) == other
    assert TOKEN not in redact(f"got {TOKEN}")
    with pytest.raises(ConfigError, match="take one of the two away"):
        metrics_token(configured("0.0.0.0:0", metrics_without_token=True))


@pytest.mark.parametrize(
    "text", ["", "\n", "short", "x" * (SHORTEST - 1), "two words of a sentence", "ä" * 20]
)
def test_what_guards_nothing_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"openssl rand|not ASCII") as raised:
        metrics_token(configured("0.0.0.0:0", metrics_token_file=token_file(tmp_path, text)))
    assert not text.strip() or text not in str(raised.value)


def test_a_variable_that_is_set_to_nothing_is_no_leave_to_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "")
    with pytest.raises(ConfigError, match=f"{TOKEN_VARIABLE}: expected a token"):
        metrics_token(configured("127.0.0.1:0"))


def test_a_file_of_ones_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    token_file(tmp_path)
    assert metrics_token(configured("0.0.0.0:0", metrics_token_file="~/token")) == TOKEN


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"metrics_token_file .*No such file"):
        metrics_token(configured("127.0.0.1:0", metrics_token_file=str(tmp_path / "none")))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", True),
        ("127.8.8.8:1", True),
        ("[::1]:1", True),
        ("LOCALHOST:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("localhost.example.org:1", False),
        ("127.0.0.1.example.org:1", False),
    ],
)
def test_what_is_loopback(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


@given(st.text())
def test_no_other_header_is_let_in(header: str) -> None:
    assert admits(TOKEN, header) == (
        header.strip().lower().startswith("bearer ") and header[7:].strip() == TOKEN
    )
    assert admits(TOKEN, f"bearer {TOKEN}")
    assert admits(None, header)
