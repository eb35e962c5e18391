"""Live and remote sources against real servers on loopback."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline import chaos
from pipeline.accounts import StreamAccount
from pipeline.config import StreamConfig
from pipeline.errors import SourceError, SourceOpenError, SourceReadError
from pipeline.sources import Remembered, Source, open_source, parse_source, read_number
from pipeline.sources.failures import explain
from pipeline.stages.capture import Capture
from tests.clips import make_clip
from tests.servers import free_port, gst_rtsp_server, http_server, rtsp_rs_server, silent_server

PASSWORD = "s3cret-W0rd"


def opened(
    url: str, stop: threading.Event | None = None, remembered: Remembered | None = None, **stream
) -> Source:
    config = StreamConfig(source=url, **stream)
    return open_source(parse_source(url), config, stop or threading.Event(), remembered)


def taken(source: Source, count: int) -> list[int]:
    with source:
        return [read_number(picture.image) for picture in islice(source, count)]


def everything_said(error: SourceError, caplog: pytest.LogCaptureFixture) -> str:
    chain = "".join(traceback.format_exception(error))
    return f"{error} {error!r} {error.args} {error.__context__!r} {error.__cause__!r} {chain} {caplog.text}"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(
        tmp_path_factory.mktemp("clips") / "live.mp4", frames=150, fps=50, size=(128, 96), gop=25
    )


@pytest.fixture(scope="module")
def short_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "short.mp4", frames=30, fps=50, size=(128, 96))


@pytest.fixture(autouse=True)
def all_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


@pytest.mark.parametrize("transport", ["auto", "tcp", "udp"])
def test_rtsp_to_its_end(short_clip, transport):
    with gst_rtsp_server(short_clip) as server:
        source = opened(server.url, rtsp_transport=transport)
        assert source.live and source.frame_count is None
        used = "UDP" if transport == "udp" else "TCP"
        assert source.description == f"h264, 128x96, 50 fps, rtsp over {used}"
        numbers = []
        with source, pytest.raises(SourceReadError, match="server closed it, ") as caught:
            numbers.extend(read_number(picture.image) for picture in source)
        assert caught.value.cause == "ended"
        assert f", after {len(numbers)} pictures" in str(caught.value)
        # Over UDP the server's goodbye has a socket of its own, and may overtake the last picture's data.
        assert numbers in ([list(range(30))] if transport != "udp" else [list(range(30)), list(range(29))])


@pytest.mark.parametrize(("codec", "suffix"), [("libx265", "mp4"), ("mjpeg", "avi")])
def test_rtsp_with_other_codecs(tmp_path, codec, suffix):
    options = {"tune": "zerolatency"} if codec == "libx265" else None
    path = make_clip(
        tmp_path / f"c.{suffix}", codec=codec, frames=40, fps=50, size=(128, 96), options=options
    )
    with gst_rtsp_server(path) as server:
        assert taken(opened(server.url), 10) == list(range(10))


def test_udp_is_tried_when_the_server_refuses_tcp(clip, caplog):
    with gst_rtsp_server(clip, transport="udp") as server:
        assert taken(opened(server.url), 5) == list(range(5))
    (warning,) = [r for r in caplog.records if r.levelno >= logging.INFO]
    assert warning.getMessage().endswith(
        "it is read over UDP; over TCP: the server does not offer this transport"
    )
    assert warning.levelno == logging.WARNING


@contextlib.contextmanager
def dialogue(at: str, answer: str, headers: str = "") -> Iterator[tuple[str, list[str]]]:
    """An RTSP server that gives this ``answer`` at one step ("" as the answer: it hangs up), with an address
    of it; and the transports that were asked for, one a connection ("" where it did not come to that)."""
    lines = (
        "v=0",
        "o=- 0 0 IN IP4 127.0.0.1",
        "s=x",
        "t=0 0",
        "m=video 0 RTP/AVP 96",
        "a=rtpmap:96 H264/90000",
    )
    sdp = "".join(f"{line}\r\n" for line in lines)
    asked: list[str] = []

    def serve() -> None:
        with contextlib.suppress(OSError):  # accept() ends with one when it is shut down below
            while True:
                connection, _ = listener.accept()
                asked.append("")
                with connection, connection.makefile("rwb") as file, contextlib.suppress(OSError):
                    talk(file)

    def talk(file) -> None:
        while request := file.readline().decode():
            fields = dict(each.split(": ", 1) for each in iter(lambda: file.readline().decode().strip(), ""))
            method = request.split()[0]
            if method == "SETUP":
                asked[-1] = "TCP" if "TCP" in fields["Transport"] else "UDP"
            said, more, body = "RTSP/1.0 200 OK", "", sdp if method == "DESCRIBE" else ""
            if method == at:
                said, more, body = answer, headers, ""
            if not said:
                return
            kind = "Content-Type: application/sdp\r\n" if body else ""
            head = f"{said}\r\nCSeq: {fields['CSeq']}\r\n{kind}{more}Content-Length: {len(body)}\r\n\r\n"
            file.write(f"{head}{body}".encode())
            file.flush()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"rtsp://127.0.0.1:{listener.getsockname()[1]}/x", asked
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


@pytest.mark.parametrize(
    ("at", "status"),
    [
        *[("SETUP", status) for status in (400, 406, 451, 453, 461, 500, 503)],
        # FFmpeg does not tell at which step that was.
        *[("DESCRIBE", status) for status in (453, 503)],
        *[(at, 0) for at in ("OPTIONS", "DESCRIBE", "SETUP")],
    ],
)
def test_udp_is_tried_where_a_camera_may_have_refused_tcp(at: str, status: int, caplog) -> None:
    answer = f"RTSP/1.0 {status} No" if status else ""
    with dialogue(at, answer) as (url, asked), pytest.raises(SourceOpenError, match="; then over UDP: "):
        opened(url, open_timeout=5)
    assert asked == (["TCP", "UDP"] if at == "SETUP" else ["", ""])
    (told,) = [r for r in caplog.records if r.name == "pipeline.sources.connect"]
    assert told.levelno == logging.DEBUG and "it is tried over UDP; over TCP: " in told.getMessage()


def test_udp_is_tried_where_a_server_answers_with_it(caplog) -> None:
    headers = "Session: 1\r\nTransport: RTP/AVP;unicast;client_port=5000-5001;server_port=6000-6001\r\n"
    with (
        dialogue("SETUP", "RTSP/1.0 200 OK", headers) as (url, asked),
        contextlib.suppress(SourceOpenError),
    ):
        opened(url, open_timeout=2).close()
    assert asked == ["TCP", "UDP"]


@pytest.mark.parametrize(
    ("at", "answer", "phrase"),
    [
        ("DESCRIBE", "401 No", "user name or password"),
        ("SETUP", "403 No", "access was forbidden"),
        ("SETUP", "404 No", "no such address"),
        ("SETUP", "429 No", "no more clients"),
        ("OPTIONS", "302 Moved", "the server redirects"),
        ("DESCRIBE", "301 Moved", "the server redirects"),
    ],
)
def test_udp_is_not_tried_where_it_would_be_the_same(at: str, answer: str, phrase: str, caplog) -> None:
    with (
        dialogue(at, f"RTSP/1.0 {answer}", "Location: rtsp://127.0.0.1:1/y\r\n") as (url, asked),
        pytest.raises(SourceOpenError, match=phrase) as caught,
    ):
        opened(url, open_timeout=5)
    assert len(asked) == 1 and "over UDP" not in caplog.text + str(caught.value)


@pytest.mark.parametrize("number", [errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, None])
def test_udp_leads_no_further_to_a_host_that_is_not_there(number, monkeypatch) -> None:
    tried = []

    def unreachable(*args, **kwargs):
        tried.append(kwargs["options"]["rtsp_transport"])
        raise OSError(number or errno.EIO, "x")

    monkeypatch.setattr(av, "open", unreachable)
    with pytest.raises(SourceOpenError) as caught:
        opened("rtsp://nosuch.invalid/x" if number is None else "rtsp://127.0.0.1/x")
    assert tried == ["tcp"] and caught.value.cause == "network"
    assert "over UDP" not in str(caught.value)


def test_a_camera_that_is_away_fills_no_log(caplog) -> None:
    with dialogue("DESCRIBE", "RTSP/1.0 503 No") as (url, asked):
        config = StreamConfig(source=url, backoff=0.01, backoff_max=0.01)
        account = StreamAccount("cam")
        capture = Capture(parse_source(url), config, account)
        thread = threading.Thread(target=lambda: list(capture()))
        thread.start()
        deadline = time.monotonic() + 20
        while sum(account.link.failures.values()) < 20 and time.monotonic() < deadline:
            time.sleep(0.02)
        capture.stop.set()
        thread.join(20)
    tries = sum(account.link.failures.values())
    assert tries >= 20 and len(asked) >= 2 * tries
    loud = [r for r in caplog.records if r.levelno >= logging.INFO]
    assert {r.name for r in loud} == {"pipeline.link"}
    assert len(loud) == tries.bit_length()  # the 1st, 2nd, 4th, 8th, …


def test_the_other_transport_is_told_once(clip, caplog) -> None:
    remembered = Remembered()
    with gst_rtsp_server(clip, transport="udp") as server:
        for _ in range(3):
            assert taken(opened(server.url, remembered=remembered), 2)
    assert caplog.text.count("it is read over UDP") == 1
    caplog.clear()
    with gst_rtsp_server(clip, transport="tcp") as server:  # another camera in its place
        for _ in range(2):
            assert taken(opened(server.url, remembered=remembered), 2)
    assert caplog.text.count("it is read over TCP; over UDP: the server does not offer this transport") == 1


def test_a_transport_that_is_asked_for_is_not_replaced(clip):
    with gst_rtsp_server(clip, transport="udp") as server:
        with pytest.raises(SourceOpenError, match="does not offer this transport") as caught:
            opened(server.url, rtsp_transport="tcp")
        assert caught.value.cause == "network"


def test_rtsp_rs_speaks_udp_only(clip, caplog):
    with rtsp_rs_server(clip) as server:
        numbers = taken(opened(server.url), 10)
    assert numbers == list(range(numbers[0], numbers[0] + 10))
    assert "it is read over UDP; over TCP: " in caplog.text


def test_login(clip, caplog):
    with gst_rtsp_server(clip, user="me", password=PASSWORD) as server:
        source = opened(server.with_login("me", PASSWORD))
        assert PASSWORD not in source.description
        assert taken(source, 3) == [0, 1, 2]
        for url in (server.url, server.with_login("me", f"not-{PASSWORD}")):
            begun = time.monotonic()
            with pytest.raises(SourceOpenError, match="user name or password") as caught:
                opened(url)
            assert caught.value.cause == "auth"
            assert time.monotonic() - begun < 2
            assert PASSWORD not in everything_said(caught.value, caplog)
    assert "over UDP" not in caplog.text


def test_a_stream_that_ends_says_no_password(short_clip, caplog):
    with gst_rtsp_server(short_clip, user="me", password=PASSWORD) as server:
        with opened(server.with_login("me", PASSWORD)) as source, pytest.raises(SourceReadError) as caught:
            for _ in source:
                pass
        assert PASSWORD not in everything_said(caught.value, caplog)
        assert "rtsp://***@127.0.0.1" in str(caught.value)


def test_rtsp_path_that_the_server_does_not_know(clip, caplog):
    with gst_rtsp_server(clip) as server:
        with pytest.raises(SourceOpenError, match="no such address") as caught:
            opened(server.url.replace("/stream", "/other"))
        assert caught.value.cause == "not_found"
    assert "over UDP" not in caplog.text


@pytest.mark.parametrize("scheme", ["rtsp", "http", "rtmp", "tcp"])
def test_connection_refused(scheme, caplog):
    with pytest.raises(SourceOpenError, match="connection refused") as caught:
        opened(f"{scheme}://me:{PASSWORD}@127.0.0.1:{free_port()}/x")
    assert caught.value.cause == "refused"
    assert PASSWORD not in everything_said(caught.value, caplog)
    assert "over UDP" not in caplog.text


@pytest.mark.parametrize("scheme", ["rtsp", "rtsps", "http", "https", "rtmp", "tcp", "udp"])
def test_a_server_that_says_nothing_times_out(scheme, caplog):
    with silent_server() as server:
        url = f"{scheme}://me:{PASSWORD}@127.0.0.1:{server.port}/x"
        begun = time.monotonic()
        with pytest.raises(SourceOpenError, match=r"no data within 0\.4 s") as caught:
            opened(url, open_timeout=0.4, stall_timeout=5)
        assert 0.3 < time.monotonic() - begun < 1.5
    assert caught.value.cause == "timeout"
    assert PASSWORD not in everything_said(caught.value, caplog)
    # The first try took all the time there was.
    assert "over UDP" not in caplog.text


def test_a_server_killed_in_mid_stream(clip):
    with gst_rtsp_server(clip) as server, opened(server.url, stall_timeout=2) as source:
        pictures = iter(source)
        numbers = [read_number(next(pictures).image) for _ in range(5)]
        server.kill()
        begun = time.monotonic()
        with pytest.raises(SourceReadError) as caught:
            numbers.extend(read_number(picture.image) for picture in pictures)
        assert time.monotonic() - begun < 2.5
    assert caught.value.cause in ("ended", "network", "timeout")
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_server_that_falls_silent_in_mid_stream(clip, transport):
    with gst_rtsp_server(clip) as server:
        source = opened(server.url, rtsp_transport=transport, stall_timeout=1)
        with source:
            pictures = iter(source)
            next(pictures)
            assert server.process is not None
            os.kill(server.process.pid, signal.SIGSTOP)
            begun = time.monotonic()
            try:
                with pytest.raises(SourceReadError, match="no data within 1 s") as caught:
                    for _ in pictures:
                        pass
                waited = time.monotonic() - begun
            finally:
                os.kill(server.process.pid, signal.SIGCONT)
    assert caught.value.cause == "timeout"
    assert 0.8 < waited < 1.8  # and not once more, for what the parser held


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("over", ["rtsp", "ts"])
def test_pictures_that_are_held_back_by_a_silence_are_as_old_as_they_are(tmp_path, over, isolate):
    """The parser's last, and those that the decoder brings in order: they had come, and have their times."""
    reordered = {"bf": "3", "preset": "medium", "tune": ""}
    clip = make_clip(tmp_path / "clip.mp4", frames=100, fps=50, size=(128, 96), options=reordered)
    with chaos.serve(clip) as kit:
        shown = []
        with (
            opened(getattr(kit, over), stall_timeout=1, isolate=isolate) as source,
            pytest.raises(SourceReadError, match="no data within 1 s") as caught,
        ):
            for picture in source:
                shown.append((time.monotonic(), picture))
                if len(shown) == 20:
                    kit.inject("stall")
                    silent = time.monotonic()
    assert caught.value.cause == "timeout" and time.monotonic() - silent < 2.2
    late = [picture for at, picture in shown if at > silent + 0.9]
    assert late and all(each.decoded_at < silent + 0.3 for each in late)
    # What RTSP's first pictures with B-frames have no time of is not ours.
    times = [each.pts * each.time_base for _, each in shown[10:]]
    assert all(a < b for a, b in itertools.pairwise(times))


@contextlib.contextmanager
def trickled(parts: list[bytes], pause: float, length: bool = False):
    """An address that gives ``parts`` of MPEG-TS, with a pause after each."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(ConnectionError):
            connection.recv(4096)
            said = f"Content-Length: {sum(map(len, parts))}\r\n" if length else ""
            connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\n{said}\r\n".encode())
            begun = time.monotonic()
            for n, part in enumerate(parts, 1):
                connection.sendall(part)
                if over.wait(max(0.0, begun + n * pause - time.monotonic())):
                    return

    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/video.ts"
        finally:
            over.set()
            thread.join()


def cells_of(clip: Path) -> list[tuple[int | None, bytes]]:
    """MPEG-TS in its cells, each with the number of the picture that it is of; None: it is of none."""
    with av.open(str(clip)) as container:
        video = container.streams.video[0].id
    data, cells, number = clip.read_bytes(), [], -1
    for cell in (data[at : at + 188] for at in range(0, len(data), 188)):
        of_video = (cell[1] & 0x1F) << 8 | cell[2] == video
        number += of_video and bool(cell[1] & 0x40)  # a picture begins
        cells.append((number if of_video else None, cell))
    return cells


def test_a_picture_that_stands_while_the_sound_goes_on_is_no_silence(tmp_path):
    """A recorded talk: of a file nobody waits for pictures, as long as data comes."""
    clip = make_clip(tmp_path / "talk.ts", frames=400, fps=10, size=(128, 96), audio=True)
    kept = b"".join(cell for number, cell in cells_of(clip) if number is None or not 50 <= number < 350)
    parts = [kept[at : at + 188 * 20] for at in range(0, len(kept), 188 * 20)]
    with trickled(parts, 3 / len(parts), length=True) as url:
        source = opened(url, stall_timeout=0.8)
        assert not source.live
        assert taken(source, 400) == [*range(50), *range(350, 400)]


def test_a_slow_camera_with_sound_is_none(tmp_path):
    """Its first picture needs several packets, for the order of display; sound comes all the time."""
    options = {"bf": "3", "b_strategy": "0", "preset": "medium", "tune": ""}
    clip = make_clip(tmp_path / "c.ts", frames=8, fps=2, size=(128, 96), audio=True, options=options)
    pictures, sounds = {}, []
    for number, cell in cells_of(clip):
        if number is None or number < 0:
            sounds.append(cell)
        else:
            pictures[number] = pictures.get(number, b"") + cell
    parts = [b"".join(sounds[:4])]  # with the tables
    sounds = sounds[4:]
    for number in range(8):
        some, sounds = sounds[:10], sounds[10:]
        parts += [pictures[number] + some[0], *some[1:]]
    with trickled(parts, 0.05) as url:
        source = opened(url, stall_timeout=0.7)
        assert source.live
        numbers = []
        with source, pytest.raises(SourceReadError, match="after 8 pictures"):
            numbers.extend(read_number(picture.image) for picture in source)
    assert numbers == list(range(8))


def test_sound_that_goes_on_without_pictures_is_silence(tmp_path):
    path = make_clip(tmp_path / "clip.ts", frames=100, fps=50, size=(128, 96), audio=True)
    whole, heard = path.read_bytes(), [cell for number, cell in cells_of(path) if number is None]

    def serve() -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(ConnectionError):
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\n\r\n" + whole)
            for packet in itertools.cycle(heard):
                if over.wait(0.02):
                    break
                connection.sendall(packet)

    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.getsockname()[1]}/stream.ts"
            stop = threading.Event()
            guard = threading.Timer(6, lambda: (stop.set(), over.set()))
            guard.start()
            with opened(url, stop, stall_timeout=1) as source:
                begun = time.monotonic()
                with pytest.raises(SourceReadError, match="data comes, but no picture within 1 s") as caught:
                    list(source)
        finally:
            guard.cancel()
            over.set()
            thread.join()
    assert caught.value.cause == "timeout" and time.monotonic() - begun < 3


def test_stop_ends_a_live_stream_at_the_next_packet(clip):
    stop = threading.Event()
    with gst_rtsp_server(clip) as server, opened(server.url, stop) as source:
        pictures = iter(source)
        next(pictures)
        stop.set()
        begun = time.monotonic()
        assert len(list(pictures)) <= 1
        assert time.monotonic() - begun < 0.5


def test_http_file_is_no_live_source(tmp_path):
    make_clip(tmp_path / "a b.mp4", frames=20)
    with http_server(tmp_path) as server:
        source = opened(f"{server.url}/a%20b.mp4")
        assert not source.live and source.frame_count == 20
        assert taken(source, 100) == list(range(20))


def test_raw_video_over_http_has_a_length_and_so_is_no_live_source(tmp_path):
    make_clip(tmp_path / "a.h264", frames=20)
    with http_server(tmp_path) as server:
        source = opened(f"{server.url}/a.h264")
        assert not source.live
        assert taken(source, 100) == list(range(20))


def test_a_file_cut_short_on_an_http_server(tmp_path):
    path = make_clip(tmp_path / "a.mp4", frames=50, container_options={"movflags": "+faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with http_server(tmp_path) as server, opened(f"{server.url}/a.mp4") as source:
        with pytest.raises(SourceReadError, match="ends early") as caught:
            list(source)
        assert caught.value.cause == "ended"


def hls(folder: Path) -> Path:
    path = folder / "list.m3u8"
    options = {"hls_time": "0.5", "hls_list_size": "0"}
    return make_clip(path, frames=50, format="hls", container_options=options)


@pytest.mark.parametrize("live", [False, True])
def test_hls_is_live_until_its_list_is_closed(tmp_path, live):
    path = hls(tmp_path)
    if live:
        path.write_text(path.read_text().replace("#EXT-X-ENDLIST\n", ""))
    with http_server(tmp_path) as server:
        source = opened(f"{server.url}/list.m3u8")
        assert source.live is live
        # A live list is joined near its end.
        numbers = taken(source, 50 if not live else 5)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    if not live:
        assert numbers == list(range(50))


@pytest.mark.parametrize("isolate", [False, True])
def test_what_was_live_stays_so_when_it_has_an_end_for_once(tmp_path, isolate):
    """A gateway's clip while the camera is away. Of a playlist that is closed: see test_sources_playlist."""
    clip = make_clip(tmp_path / "clip.ts", frames=20)
    remembered = Remembered()
    with http_server(tmp_path) as server:
        for live in (True, False):
            stream = {"remembered": remembered, "isolate": isolate, "stall_timeout": 5}
            if live:
                with trickled([clip.read_bytes()], 0) as url:
                    source = opened(url, **stream)
            else:
                source = opened(f"{server.url}/clip.ts", **stream)
            assert source.live and source.frame_count is None
            if live:
                source.close()
        with pytest.raises(SourceReadError, match="it ended") as caught, source:
            list(source)
    assert caught.value.cause == "ended"
    assert remembered.live


@pytest.mark.parametrize("isolate", [False, True])
def test_an_address_that_is_asked_to_be_live_is(tmp_path, isolate):
    """Whatever length it declares."""
    make_clip(tmp_path / "clip.mp4", frames=20)
    with http_server(tmp_path) as server:
        url = f"{server.url}/clip.mp4"
        with opened(url, live=True, isolate=isolate) as source:
            assert source.live
            with pytest.raises(SourceReadError, match="after 20 pictures") as caught:
                list(source)
    assert caught.value.cause == "ended"
    with opened(str(tmp_path / "clip.mp4"), live=True, isolate=isolate) as source:
        assert not source.live


@pytest.mark.parametrize(
    "stream", [{"live": False}, {"live": True, "loop": True}, {"live": True, "pace": 50}, {"pace": 50}]
)
def test_a_recording_is_not_live_whatever_was_asked_before(tmp_path, stream):
    """One that is looped or delivered at a rate is one."""
    make_clip(tmp_path / "clip.mp4", frames=20)
    remembered = Remembered()
    with http_server(tmp_path) as server:
        opened(f"{server.url}/clip.mp4", None, remembered, live=True).close()
        with opened(f"{server.url}/clip.mp4", None, remembered, **stream) as source:
            assert not source.live
            assert len(list(source)) == 20


def test_of_a_playlist_s_variants_the_best_alone_is_loaded(tmp_path):
    """FFmpeg by itself loads them all, for whoever may want them."""
    master = "#EXTM3U\n"
    for name, size in (("small", (64, 48)), ("large", (128, 96))):
        (tmp_path / name).mkdir()
        options = {"hls_time": "0.4", "hls_list_size": "0"}
        make_clip(
            tmp_path / name / "list.m3u8",
            frames=100, size=size, audio=True, format="hls", container_options=options,
        )  # fmt: skip
        master += (
            f"#EXT-X-STREAM-INF:BANDWIDTH={size[0]}000,RESOLUTION={size[0]}x{size[1]}\n{name}/list.m3u8\n"
        )
    (tmp_path / "list.m3u8").write_text(master)
    asked: list[str] = []
    with http_server(tmp_path, asked=asked) as server:
        source = opened(f"{server.url}/list.m3u8")
        looked_at = len(asked)
        assert taken(source, 200) == list(range(100))
    loaded = [path for path in asked[looked_at:] if path.endswith(".ts")]
    assert len({path for path in loaded if "large" in path}) >= 5
    assert [path for path in loaded if "small" in path] == []


def test_a_live_stream_is_opened_with_its_first_pictures(tmp_path):
    """It need not send twenty for its rate to be guessed, which takes 1.4 s at 15 fps; its header has one."""
    data = make_clip(tmp_path / "clip.ts", frames=60, fps=15).read_bytes()
    seen = threading.Event()

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\n\r\n" + data[: len(data) // 6]
            )
            assert seen.wait(20)
            connection.sendall(data[len(data) // 6 :])

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        numbers = []
        try:
            with opened(f"http://127.0.0.1:{server.getsockname()[1]}/stream.ts", open_timeout=15) as source:
                assert source.live and source.declared_fps == 15
                with pytest.raises(SourceReadError, match="after 60 pictures"):
                    for picture in source:
                        seen.set()
                        numbers.append(read_number(picture.image))
        finally:
            seen.set()
            thread.join()
    assert numbers == list(range(60))


def test_what_the_decoder_holds_back_is_not_lost_with_the_connection(tmp_path):
    """B-frames: it brings pictures in order, so that two wait in it for the next one."""
    reordered = {"bf": "3", "preset": "medium", "tune": ""}
    data = make_clip(tmp_path / "clip.ts", frames=60, options=reordered).read_bytes()

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\n\r\n" + data)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        numbers = []
        try:
            url = f"http://127.0.0.1:{server.getsockname()[1]}/stream.ts"
            with opened(url) as source, pytest.raises(SourceReadError, match="after 60 pictures"):
                for picture in source:
                    numbers.append(read_number(picture.image))
        finally:
            thread.join()
    assert numbers == list(range(60))


def test_an_mp4_with_its_index_last_needs_a_server_that_goes_back(tmp_path):
    noise = np.random.default_rng(1).integers(0, 255, (30, 240, 320, 3), np.uint8)
    data = make_clip(tmp_path / "clip.mp4", images=noise, size=(320, 240), options={"crf": "5"}).read_bytes()
    assert len(data) > 1_500_000 and data.index(b"mdat") < data.index(b"moov")

    def serve() -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(ConnectionError):
            connection.recv(4096)
            header = f"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: {len(data)}\r\n\r\n"
            connection.sendall(header.encode() + data)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with pytest.raises((SourceOpenError, SourceReadError), match="answers range requests"):
                taken(opened(f"http://127.0.0.1:{server.getsockname()[1]}/clip.mp4", open_timeout=5), 30)
        finally:
            thread.join()


def test_looking_for_what_never_comes_ends_before_the_time_for_opening(tmp_path):
    """Sound that is announced and silent: FFmpeg looks for it, and a look that is cut off ends the stream."""
    path = make_clip(tmp_path / "clip.ts", frames=90, fps=30, size=(128, 96), audio=True)
    with av.open(str(path)) as container:
        sound = container.streams.audio[0].id
    whole = path.read_bytes()
    packets = [whole[at : at + 188] for at in range(0, len(whole), 188)]
    packets = [each for each in packets if (each[1] & 0x1F) << 8 | each[2] != sound]
    some = len(packets) // 90

    def serve() -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(ConnectionError):
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\n\r\n")
            for first in range(0, len(packets), some):
                connection.sendall(b"".join(packets[first : first + some]))
                over.wait(1 / 30)

    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.getsockname()[1]}/stream.ts"
            assert taken(opened(url, open_timeout=1.2, stall_timeout=1.0), 50) == list(range(50))
        finally:
            over.set()
            thread.join()


def test_mjpeg_over_http_is_live_and_its_end_is_an_error(tmp_path):
    with http_server(tmp_path, frames=12) as server, opened(f"{server.url}/live.mjpeg") as source:
        assert source.live
        numbers = []
        with pytest.raises(SourceReadError, match="after 12 pictures") as caught:
            numbers.extend(read_number(picture.image) for picture in source)
    # To FFmpeg a connection that is closed is one that breaks.
    assert caught.value.cause in ("ended", "network")
    assert numbers == list(range(12))


def test_mjpeg_over_http_is_live_whatever_length_it_declares(tmp_path):
    with http_server(tmp_path, frames=12) as server, opened(f"{server.url}/long.mjpeg") as source:
        assert source.live
        with pytest.raises(SourceReadError, match="after 12 pictures"):
            list(source)


def test_mjpeg_over_http_that_falls_silent(tmp_path):
    with http_server(tmp_path) as server:
        with opened(f"{server.url}/cut.mjpeg", stall_timeout=0.5) as source:
            pictures = []
            with pytest.raises(SourceReadError) as caught:
                pictures.extend(source)
        assert caught.value.cause == "timeout"
        assert len(pictures) >= 9


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("/nothing.mp4", "not_found"),
        ("/status/401", "auth"),
        ("/status/403", "auth"),
        ("/status/429", "refused"),
        ("/status/410", "network"),
        ("/status/503", "network"),
        ("/page.html", "format"),
    ],
)
def test_http_answers(tmp_path, path, cause, caplog):
    (tmp_path / "page.html").write_text("<html>no video</html>" * 50)
    with http_server(tmp_path) as server:
        url = server.with_login("me", PASSWORD) + path
        with pytest.raises(SourceOpenError) as caught:
            opened(url)
    assert caught.value.cause == cause
    assert PASSWORD not in everything_said(caught.value, caplog)


def test_http_login(tmp_path, caplog):
    make_clip(tmp_path / "a.mp4", frames=3)
    with http_server(tmp_path, user="me", password=PASSWORD) as server:
        assert taken(opened(server.with_login("me", PASSWORD) + "/a.mp4"), 5) == [0, 1, 2]
        with pytest.raises(SourceOpenError) as caught:
            opened(server.with_login("me", f"x{PASSWORD}") + "/a.mp4")
    assert caught.value.cause == "auth"
    assert PASSWORD not in everything_said(caught.value, caplog)


def test_a_protocol_that_this_build_lacks():
    if "srt" in _protocols_of_the_build():
        pytest.skip("this build of FFmpeg has SRT")
    with pytest.raises(SourceOpenError, match="does not have that protocol") as caught:
        opened(f"srt://127.0.0.1:{free_port()}")
    assert caught.value.cause == "format"


def _protocols_of_the_build() -> set[str]:
    try:
        av.open("srt://127.0.0.1:1", timeout=0.1)
    except av.error.ProtocolNotFoundError:
        return set()
    except av.error.FFmpegError:
        pass
    return {"srt"}


CAM = "rtsp://me:pw@cam"


@pytest.mark.parametrize(
    "kind", [av.error.ExitError, av.error.TimeoutError, av.error.InvalidDataError, av.error.OSError]
)
def test_a_stall_is_a_timeout_by_whatever_name(kind):
    error = kind(5, "said", CAM)
    assert explain(error, remote=True, opening=CAM, waited=9.9, limit=10)[0] == "timeout"


def test_the_same_name_early_on_is_not_a_stall():
    error = av.error.InvalidDataError(5, "said", CAM)
    assert explain(error, remote=True, opening=None, waited=0.1, limit=10)[0] == "format"
    # Of RTSP it is the dialogue that cannot be read: a server that goes away in the middle of it.
    assert explain(error, remote=True, opening=CAM, waited=0.1, limit=10)[0] == "network"
    assert explain(error, remote=True, opening="http://cam/", waited=0.1, limit=10)[0] == "format"
    unauthorised = av.error.HTTPUnauthorizedError(5, "said", CAM)
    assert explain(unauthorised, remote=True, opening=CAM, waited=9.9, limit=10)[0] == "auth"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://no-such-host.invalid/v.ts", "host not found"),
        (f"http://{'x' * 70}.invalid/v.ts", "host not found"),
        ("http://127.0.0.1:1/v.ts", "does not speak this protocol, or redirects in a circle"),
        ("rtmp://127.0.0.1:1/v", "the server closed the connection, or does not speak this protocol"),
    ],
)
def test_a_host_that_is_found_is_not_said_to_be_unknown(address, said):
    error = av.error.OSError(errno.EIO, "said", address)
    cause, phrase = explain(error, remote=True, opening=address, waited=0.1, limit=10)
    assert cause == "network" and phrase.endswith(said)


def test_a_redirection_in_a_circle_is_said():
    class Circle(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Circle) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(SourceOpenError, match="or redirects in a circle") as caught:
                opened(f"http://127.0.0.1:{server.server_port}/a.ts")
        finally:
            server.shutdown()
            thread.join()
    assert caught.value.cause == "network"


@pytest.mark.parametrize(
    ("kind", "after", "fault", "cause"),
    [
        ("rtsp", 0, "reset", "network"),
        ("rtsp", 100, "reset", "network"),
        ("rtsp", 0, "close", "network"),
        ("rtsp", 100, "close", "network"),
        ("ts", 0, "reset", "network"),
        ("mjpeg", 0, "reset", "network"),
        ("ts", 0, "close", "ended"),  # an answer with nothing in it
        ("mjpeg", 0, "close", "ended"),
    ],
)
def test_a_server_that_goes_away_in_the_dialogue_is_a_network_failure(clip, kind, after, cause, fault):
    with chaos.serve(clip, [f"{fault}@{after}B"]) as kit, pytest.raises(SourceOpenError) as caught:
        opened(getattr(kit, kind))
    assert caught.value.cause == cause
    assert "not found" not in str(caught.value)
