"""HLS whose segments are refused: FFmpeg skips them in silence, so the server is asked why."""

from __future__ import annotations

import base64
import contextlib
import http.server
import logging
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from pipeline.accounts import StreamAccount
from pipeline.config import StreamConfig
from pipeline.errors import SourceError
from pipeline.sources import Remembered, open_source, parse_source, read_number, segments
from pipeline.sources.readahead import MOST_RATE
from pipeline.sources.segments import refusal
from pipeline.stages.capture import Capture
from tests.servers import silent_server
from tests.test_sources_playlist import EACH, Live
from tests.tls import Certificate, make_certificate

PASSWORD = "s3cret-W0rd"
LOGIN = f"me:{PASSWORD}"
BASIC = 'Basic realm="x"'
FORBIDDEN = "access was forbidden (403)"
UNKNOWN = "the server knows no such address (404)"

Answer = tuple[int, dict[str, str]]


@dataclass
class Site:
    """An HTTP server on loopback. ``answers``: what it says instead of a file, by a pattern of the path."""

    folder: Path
    port: int = 0
    scheme: str = "http"
    answers: dict[str, Answer | Callable[[http.server.BaseHTTPRequestHandler], Answer | None]] = field(
        default_factory=dict
    )
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    slow: dict[str, float] = field(default_factory=dict)
    """Seconds before an answer, by a pattern of the path."""
    over: threading.Event = field(default_factory=threading.Event)

    def at(self, path: str, login: str = "") -> str:
        return f"{self.scheme}://{login}{'@' if login else ''}127.0.0.1:{self.port}/{path}"

    def refuse(self, pattern: str, status: int, **headers: str) -> None:
        self.answers[pattern] = status, headers

    def enquiries(self) -> list[tuple[str, dict[str, str]]]:
        """What was asked of segments by who does not want them."""
        return [each for each in self.asked if each[1].get("range") == "bytes=0-0"]


class _Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args, site: Site, **kwargs) -> None:
        self._site = site
        super().__init__(*args, directory=str(site.folder), **kwargs)

    def do_GET(self) -> None:
        site = self._site
        site.asked.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
        for pattern, seconds in site.slow.items():
            if re.search(pattern, self.path) and site.over.wait(seconds):
                return
        for pattern, answer in site.answers.items():
            said = (answer(self) if callable(answer) else answer) if re.search(pattern, self.path) else None
            if said is not None:
                self.send_response(said[0])
                for key, value in said[1].items():
                    self.send_header(key.replace("_", "-"), value)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        super().do_GET()

    def log_message(self, *args) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(folder: Path, certificate: Certificate | None = None) -> Iterator[Site]:
    site = Site(folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, site=site))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hangs up is no error
    if certificate is not None:
        server.socket = certificate.context().wrap_socket(server.socket, server_side=True)
        site.scheme = "https"
    site.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.over.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def lists_login(handler: http.server.BaseHTTPRequestHandler) -> Answer | None:
    """The answer to who does not say the login."""
    expected = f"Basic {base64.b64encode(LOGIN.encode()).decode()}"
    return (401, {"WWW-Authenticate": BASIC}) if handler.headers.get("Authorization") != expected else None


@pytest.fixture
def live(tmp_path: Path) -> Live:
    made = Live(tmp_path, target=2, claimed=0.4)
    made.add(3)
    made.show()
    return made


@pytest.fixture
def site(live: Live) -> Iterator[Site]:
    with serving(live.folder) as served:
        yield served


def fails(
    address: str, at_first: Callable[[], None] = lambda: None, stop: threading.Event | None = None, **stream
) -> tuple[int, SourceError]:
    """How many pictures came, and the error; ``at_first`` is called at the first one."""
    config = StreamConfig(source=address, **{"open_timeout": 2, "stall_timeout": 1.5, **stream})
    count = 0
    try:
        with open_source(parse_source(address), config, stop or threading.Event()) as source:
            for _ in source:
                count += 1
                if count == 1:
                    at_first()
    except SourceError as error:
        return count, error
    pytest.fail(f"no error, after {count} pictures")


isolated = pytest.mark.parametrize(
    "isolate",
    [False, pytest.param(True, marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux alone"))],
)
answers = pytest.mark.parametrize(
    ("status", "cause", "phrase"),
    [
        (401, "auth", "the user name or password is missing or was refused (401)"),
        (403, "auth", FORBIDDEN),
        (404, "not_found", UNKNOWN),
        (410, "not_found", "the server has it no more (410)"),
        (503, "network", "the server failed (503)"),
    ],
)


@isolated
def test_a_live_list_whose_segments_are_refused_is_no_silence(site: Site, isolate: bool) -> None:
    site.refuse(r"\.ts", 401)
    _, error = fails(site.at("list.m3u8"), isolate=isolate, open_timeout=1)
    assert error.cause == "auth"
    assert "its segments: the user name or password is missing or was refused (401)" in str(error)


@answers
def test_segments_that_are_refused_from_the_start(
    live: Live, site: Site, status: int, cause: str, phrase: str
) -> None:
    live.show(closed=True)  # FFmpeg gives those up at once
    site.refuse(r"\.ts", status)
    count, error = fails(site.at("list.m3u8"))
    assert (count, error.cause) == (0, cause)
    assert str(error) == f"cannot open {site.at('list.m3u8')}: its segments: {phrase}"
    ((path, headers),) = site.enquiries()
    assert path == "/2.ts"  # the last one
    agents = {each["user-agent"] for _, each in site.asked}
    assert len(agents) == 1 and headers["user-agent"].startswith("Lavf/")


@isolated
def test_segments_that_are_refused_in_the_middle_are_counted_and_their_time_passes(
    tmp_path: Path, isolate: bool
) -> None:
    """FFmpeg skips them: what is held is not given out at once for that."""
    live = Live(tmp_path, target=1, claimed=0.4)
    live.add(3)
    live.show()
    numbers, times = list[int](), list[float]()
    with serving(tmp_path) as site:
        site.refuse(r"/[3-5]\.ts", 404)
        url = site.at("list.m3u8")
        config = StreamConfig(source=url, isolate=isolate)
        with open_source(parse_source(url), config, threading.Event(), Remembered()) as source:
            for picture in source:
                numbers.append(read_number(picture.image))
                times.append(time.monotonic())
                if len(numbers) == EACH:
                    live.add(6)
                    live.show()
                if numbers[-1] >= 8 * EACH:
                    break
            assert source.corrupt_packets == 3 * EACH
    assert numbers == [*range(3 * EACH), *range(6 * EACH, 8 * EACH + 1)]
    assert times[3 * EACH] - times[3 * EACH - 1] > 3 * EACH / 25 / MOST_RATE


@isolated
def test_segments_that_are_refused_after_some(live: Live, site: Site, isolate: bool) -> None:
    def expire() -> None:
        site.refuse(r"/[3-9]\.ts", 403)
        live.add(2)
        live.show()

    count, error = fails(site.at("list.m3u8"), expire, isolate=isolate)
    assert count >= 3 * EACH - 2 and error.cause == "auth"
    assert str(error).endswith(f"list.m3u8: its segments: {FORBIDDEN}, after {count} pictures")


def test_segments_that_are_slow_are_none_that_are_refused(live: Live, site: Site) -> None:
    def slow_down() -> None:
        site.slow[r"/[3-9]\.ts"] = 1.7  # longer than FFmpeg waits, not so long as the enquiry does
        live.add(2)
        live.show()

    count, error = fails(site.at("list.m3u8"), slow_down)
    assert error.cause == "timeout" and site.enquiries()
    assert f"no data within 1.5 s, after {count} pictures; segments that are longer than" in str(error)


def test_a_server_that_is_silent_takes_no_more_time_than_that(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "pipeline.sources.segments")
    monkeypatch.setattr(segments, "MOST_SECONDS", 0.5)
    config = StreamConfig(source=site.at("list.m3u8"))
    before = set(threading.enumerate())
    for where in ("list", r"\.ts"):
        site.slow = {where: 60}
        begun = time.monotonic()
        assert refusal("timeout", site.at("list.m3u8", LOGIN), config, threading.Event()) is None
        assert 0.4 < time.monotonic() - begun < 2
    with silent_server() as silent:
        assert refusal("timeout", f"http://127.0.0.1:{silent.port}/x.m3u8", config, threading.Event()) is None
    # One that sends a byte now and then is cut off, too: it leaves no thread behind.
    with trickling() as port:
        assert refusal("timeout", f"http://127.0.0.1:{port}/x.m3u8", config, threading.Event()) is None
        for thread in set(threading.enumerate()) - before:
            if thread.name.endswith(":segments"):
                thread.join(5)
                assert not thread.is_alive()
    assert "not known whether its segments are refused" in caplog.text
    assert PASSWORD not in caplog.text


@contextlib.contextmanager
def trickling() -> Iterator[int]:
    """A server whose first line never ends; its port."""
    over = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not over.wait(0.05):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            thread.join(5)


@isolated
def test_a_stop_ends_the_enquiry(live: Live, site: Site, isolate: bool) -> None:
    live.show(closed=True)
    stop, stopped = threading.Event(), list[float]()

    def hold(handler: http.server.BaseHTTPRequestHandler) -> Answer:
        if handler.headers.get("Range") == "bytes=0-0":
            stopped.append(time.monotonic())
            stop.set()
            site.over.wait(20)
        return 403, {}

    site.answers[r"\.ts"] = hold
    fails(site.at("list.m3u8"), stop=stop, isolate=isolate)
    assert time.monotonic() - stopped[0] < 2


@pytest.mark.parametrize("variants", [1, 2])
@pytest.mark.parametrize("refused", ["segments", "playlist"])
def test_a_list_of_variants(live: Live, site: Site, variants: int, refused: str) -> None:
    live.show(closed=True)
    names = [f"{n}/list.m3u8" for n in range(variants)]
    for name in names:
        (live.folder / name).parent.mkdir()
        (live.folder / name).write_bytes((live.folder / "list.m3u8").read_bytes())
    lines = [f"#EXT-X-STREAM-INF:BANDWIDTH=1000\n{name}\n" for name in names]
    (live.folder / "all.m3u8").write_text("#EXTM3U\n" + "".join(lines))
    site.refuse(r"\.ts" if refused == "segments" else "/0/|/1/", 403)
    _, error = fails(site.at("all.m3u8"))
    assert error.cause == "auth"
    # Of one variant FFmpeg tells that its list is refused; of several, that there is no video.
    whose = "" if refused == "playlist" and variants == 1 else f"its {refused}: "
    assert str(error).endswith(f"all.m3u8: {whose}{FORBIDDEN}")
    if refused == "segments":
        assert [path for path, _ in site.enquiries()] == ["/0/2.ts"]


def test_a_list_that_is_refused_after_some(site: Site) -> None:
    count, error = fails(site.at("list.m3u8"), lambda: site.refuse("list", 403))
    assert error.cause == "auth"
    assert str(error).endswith(f"its playlist: {FORBIDDEN}, after {count} pictures")


def test_a_recording_whose_segments_are_refused_half_way_has_not_ended(live: Live, site: Site) -> None:
    live.add(9)
    live.show(closed=True)
    count, error = fails(site.at("list.m3u8"), lambda: site.refuse(r"/([4-9]|1.)\.ts", 410))
    assert error.cause == "not_found" and count < 12 * EACH
    assert "its segments: the server has it no more (410), after" in str(error)


def test_a_recording_that_is_read_whole_asks_for_nothing(live: Live, site: Site) -> None:
    live.show(closed=True)
    address = site.at("list.m3u8")
    with open_source(parse_source(address), StreamConfig(source=address), threading.Event()) as source:
        assert len(list(source)) == 3 * EACH
    assert not site.enquiries()


@pytest.mark.parametrize("path", ["list.m3u8", "feed"])
def test_what_is_no_playlist_is_not_asked_for(live: Live, site: Site, path: str) -> None:
    (live.folder / path).write_text("no playlist\n" * 100)
    _, error = fails(site.at(path))
    assert error.cause == "format"
    assert len(site.asked) <= 2 and not site.enquiries()


def test_a_refused_login_is_not_tried_again_for_a_minute(site: Site) -> None:
    site.refuse(r"\.ts", 401, WWW_Authenticate=BASIC)
    address = site.at("list.m3u8", LOGIN)
    config = StreamConfig(source=address, live=True, open_timeout=0.5, stall_timeout=1)
    account = StreamAccount("cam")
    capture = Capture(parse_source(address), config, account)
    thread = threading.Thread(target=lambda: list(capture()))
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while account.link.state != "auth_failed" and time.monotonic() < deadline:
            time.sleep(0.02)
        status = account.link.status()
    finally:
        capture.stop.set()
        thread.join(20)
    assert status.state == "auth_failed" and account.link.failures == {"auth": 1}
    assert status.retry_in is not None and status.retry_in > 50
    assert PASSWORD not in str(status.error) and "its segments: the user name" in str(status.error)


@isolated
def test_the_login_of_the_address_is_said_where_it_is_asked_for(
    live: Live, site: Site, isolate: bool
) -> None:
    """As FFmpeg does: so a list behind a login is read, and segments that it opens are not called refused."""
    live.show(closed=True)
    site.answers["list"] = lists_login
    site.refuse(r"\.ts", 404)
    _, error = fails(site.at("list.m3u8", LOGIN), isolate=isolate)
    assert error.cause == "not_found" and PASSWORD not in str(error)
    assert "authorization" not in site.enquiries()[0][1]
    site.answers[r"\.ts"] = lists_login
    config = StreamConfig(source=site.at("list.m3u8"))
    assert refusal("timeout", site.at("list.m3u8", LOGIN), config, threading.Event()) is None
    assert "authorization" in site.enquiries()[-1][1]


@pytest.mark.parametrize("way", ["named", "redirected", "own login"])
def test_the_login_goes_nowhere_else(live: Live, site: Site, tmp_path: Path, way: str) -> None:
    with serving(tmp_path) as other:
        for each in (site, other):
            each.refuse(r"\.ts", 401, WWW_Authenticate=BASIC)
        address = other.at("x.ts", "else:where" if way == "own login" else "")
        if way == "redirected":
            site.refuse(r"\.ts", 302, Location=address)
        else:
            head = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:0.4,\n"
            (live.folder / "list.m3u8").write_text(f"{head}{address}\n")
        config = StreamConfig(source=site.at("list.m3u8"))
        found = refusal("timeout", site.at("list.m3u8", LOGIN), config, threading.Event())
        assert other.asked and not any("authorization" in headers for _, headers in other.asked)
    if way == "own login":
        assert found is None  # FFmpeg would have said it; nobody knows what came of that
    else:
        refused = segments.of_status(401)
        assert refused is not None and found == ("auth", f"its segments: {refused[1]}")


def test_another_kind_of_login_is_left_to_ffmpeg(site: Site) -> None:
    site.refuse(r"list", 401, WWW_Authenticate='Digest realm="x", nonce="1"')
    config = StreamConfig(source=site.at("list.m3u8"))
    assert refusal("timeout", site.at("list.m3u8", LOGIN), config, threading.Event()) is None
    assert not any("authorization" in headers for _, headers in site.asked)


def test_cookies_that_a_server_sets_are_said_to_it(site: Site) -> None:
    def with_cookie(handler: http.server.BaseHTTPRequestHandler) -> Answer | None:
        return None if "ticket=7" in handler.headers.get("Cookie", "") else (403, {})

    site.answers["/begin"] = 302, {"Location": "/list.m3u8", "Set_Cookie": "ticket=7; Path=/"}
    site.answers[r"\.ts"] = with_cookie
    config = StreamConfig(source=site.at("list.m3u8"))
    assert refusal("timeout", site.at("begin"), config, threading.Event()) is None
    assert refusal("timeout", site.at("list.m3u8"), config, threading.Event()) == (
        "auth",
        f"its segments: {FORBIDDEN}",
    )


@pytest.mark.parametrize("segment", ["file:///etc/passwd", "ftp://127.0.0.1/x.ts", "data:video/mp2t,x"])
def test_nothing_but_the_web_is_asked(live: Live, site: Site, segment: str) -> None:
    (live.folder / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{segment}\n")
    config = StreamConfig(source=site.at("list.m3u8"))
    assert refusal("timeout", site.at("list.m3u8"), config, threading.Event()) is None
    assert refusal("timeout", "rtsp://127.0.0.1/x.m3u8", config, threading.Event()) is None
    site.refuse("list", 302, Location=segment)
    assert refusal("timeout", site.at("list.m3u8"), config, threading.Event()) is None


def test_of_a_list_that_is_too_long_the_beginning_is_read(live: Live, site: Site, monkeypatch) -> None:
    monkeypatch.setattr(segments, "MOST_BYTES", 200)
    listed = "".join(f"#EXTINF:1,\n{n:03}.ts\n" for n in range(100))
    (live.folder / "list.m3u8").write_text(f"#EXTM3U\n{listed}")
    config = StreamConfig(source=site.at("list.m3u8"))
    assert refusal("timeout", site.at("list.m3u8"), config, threading.Event()) == (
        "not_found",
        f"its segments: {UNKNOWN}",
    )
    assert re.fullmatch(r"/0\d\d\.ts", site.enquiries()[0][0])


@pytest.mark.parametrize("causes", ["auth", "network", "refused", "certificate"])
def test_where_ffmpeg_knows_nobody_is_asked(site: Site, causes: str) -> None:
    config = StreamConfig(source=site.at("list.m3u8"))
    assert refusal(causes, site.at("list.m3u8"), config, threading.Event()) is None
    assert not site.asked


def test_certificates_are_verified_as_the_stream_says(live: Live, tmp_path: Path) -> None:
    """FFmpeg verifies none of a segment's server; who is asked here is."""
    trusted = make_certificate(tmp_path, "127.0.0.1")
    with serving(live.folder, trusted) as secure:
        secure.refuse(r"\.ts", 403)
        address = secure.at("list.m3u8")
        refused = "auth", f"its segments: {FORBIDDEN}"
        for options, found in (
            ({}, None),
            ({"tls_ca_file": str(trusted.certificate)}, refused),
            ({"tls_ca_file": str(tmp_path / "gone.pem")}, None),
            ({"tls_verify": False}, refused),
        ):
            config = StreamConfig(source=address, **options)
            assert refusal("timeout", address, config, threading.Event()) == found, options
        live.show(closed=True)
        _, error = fails(address, tls_verify=False)
    assert error.cause == "auth"


def test_where_ffmpeg_goes_through_a_proxy_nobody_is_asked(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.refuse(r"\.ts", 403)
    config = StreamConfig(source=site.at("list.m3u8"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert refusal("timeout", site.at("list.m3u8"), config, threading.Event()) is None
    assert not site.asked
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert refusal("timeout", site.at("list.m3u8"), config, threading.Event()) is not None
