"""The chaos kit's server against real FFmpeg, and against a client that counts bytes and packets itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import sys
import threading
import time
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipeline import chaos
from pipeline.chaos.wire import arrived
from pipeline.errors import ConfigError, SourceError, SourceOpenError, SourceReadError
from pipeline.sources import Picture, Timestamps, read_number
from tests.chaos_clients import (
    FPS,
    Client,
    numbers,
    opened,
    packets,
    pictures,
    seconds,
    sequence,
    until_lost,
    until_open,
    with_login,
)
from tests.clips import make_clip, need_encoder

FRAMES, GOP = 100, 10
STEP = 1 / FPS
PASSWORD = "s3cret-W0rd"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    return make_clip(folder / "h264.mp4", frames=FRAMES, fps=FPS, gop=GOP)


@pytest.fixture(scope="module")
def reordered(folder: Path) -> Path:
    """With B-frames, which are sent after the picture that they are shown before."""
    options = {"bf": "3", "preset": "medium", "b_strategy": "0"}
    return make_clip(folder / "reordered.mp4", frames=FRAMES, fps=FPS, gop=GOP, options=options)


@pytest.fixture(scope="module")
def wide(folder: Path) -> Path:
    return make_clip(folder / "wide.mp4", frames=FRAMES, fps=FPS, gop=GOP, size=(128, 96))


@pytest.fixture(scope="module")
def hevc(folder: Path) -> Path:
    # With B-frames.
    return make_clip(
        folder / "hevc.mp4", frames=FRAMES, fps=FPS, gop=GOP, codec=need_encoder("libx265"), size=(128, 96)
    )


@pytest.fixture(scope="module")
def motion_jpeg(folder: Path) -> Path:
    return make_clip(folder / "mjpeg.avi", frames=FRAMES, fps=FPS, codec="mjpeg")


# --- without a fault


@pytest.mark.parametrize("codec", ["clip", "hevc", "motion_jpeg"])
def test_a_clip_over_rtsp(codec, request):
    with chaos.serve(request.getfixturevalue(codec)) as kit:
        got = pictures(kit.rtsp, 130)
    # Over and over, on one timeline.
    assert numbers(got) == [n % FRAMES for n in range(130)]
    assert all(round(b - a, 4) == STEP for a, b in pairwise(seconds(got)))


@pytest.mark.parametrize("codec", ["clip", "hevc"])
def test_a_clip_as_mpeg_ts(codec, request):
    with chaos.serve(request.getfixturevalue(codec)) as kit:
        got = pictures(kit.ts, 40)
    assert numbers(got) == list(range(40))
    times = seconds(got)
    assert [round(time - times[0], 4) for time in times] == [n / FPS for n in range(40)]


@pytest.mark.parametrize("codec", ["clip", "hevc", "motion_jpeg"])
def test_a_clip_as_jpegs(codec, request):
    with chaos.serve(request.getfixturevalue(codec)) as kit:
        assert numbers(pictures(kit.mjpeg, 40)) == list(range(40))


def test_an_end_where_it_is_not_to_loop(clip):
    with chaos.serve(clip, loop=False) as kit:
        got, error = until_lost(opened(kit.rtsp))
    assert numbers(got) == list(range(FRAMES)) and error.cause == "ended"


def test_what_is_not_there_or_not_to_be_had_so(clip, motion_jpeg):
    with chaos.serve(motion_jpeg) as kit:
        for url in (kit.ts, kit.rtsp.replace("stream", "other"), kit.mjpeg.replace("stream", "other")):
            with pytest.raises(SourceOpenError) as caught:
                opened(url)
            assert caught.value.cause == "not_found"
        with pytest.raises(SourceOpenError, match="does not offer this transport"):
            opened(kit.rtsp, rtsp_transport="udp")


# --- of connections


def test_silent(clip):
    with chaos.serve(clip, ["silent"]) as kit:
        for url in (kit.rtsp, kit.ts):
            with pytest.raises(SourceOpenError) as caught:
                opened(url, open_timeout=0.3)
            assert caught.value.cause == "timeout"
    assert kit.injected == {"silent": 2} and kit.connections == 2


def test_refuse_from_the_start_and_for_a_time(clip):
    with chaos.serve(clip, ["refuse"]) as kit, pytest.raises(SourceOpenError) as caught:
        opened(kit.rtsp)
    assert caught.value.cause == "refused" and kit.injected["refuse"] == 1
    with chaos.serve(clip, ["refuse:for=0.2"]) as kit:
        source = until_open(kit.rtsp)
        assert numbers(list(islice(source, 3))) == [0, 1, 2]
        source.close()


def test_restart(clip):
    with chaos.serve(clip) as kit:
        source = opened(kit.rtsp)
        first = iter(source)
        assert read_number(next(first).image) == 0
        kit.inject("restart:for=0.3")
        with pytest.raises(SourceReadError) as caught:
            list(first)
        assert caught.value.cause in ("ended", "network")
        with until_open(kit.rtsp) as again:
            assert numbers(list(islice(again, 3))) == [0, 1, 2]
    assert kit.injected["restart"] == 1


@pytest.mark.parametrize(("kind", "after"), [("stall", 4000), ("reset", 7001), ("close", 5002)])
def test_after_so_many_bytes(clip, kind, after):
    with chaos.serve(clip, [f"{kind}@{after}B"]) as kit, contextlib.closing(Client(kit.port)) as client:
        answered = len(client.ask("SETUP", "Transport: RTP/AVP/TCP;interleaved=0-1", track="/track0"))
        answered += len(client.ask("PLAY"))
        media = after - answered
        assert len(client._file.read(media)) == media
        if kind == "reset":
            with pytest.raises(ConnectionResetError):
                client._file.read(1)
        elif kind == "close":
            assert client._file.read(1) == b""
        else:
            client.socket.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client._file.read(1)
        assert kit.injected == {kind: 1}


@pytest.mark.skipif(sys.platform != "linux", reason="nothing else tells whether what was sent has arrived")
def test_what_was_sent_before_a_reset_arrives_though_it_is_read_late(tmp_path: Path):
    """Of a picture that is sent in one go, and larger than what the client's side has room for."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 240, 320, 3), np.uint8)
    with (
        chaos.serve(
            make_clip(tmp_path / "noise.mp4", images=noise, size=(320, 240)), ["reset@40000B"]
        ) as kit,
        contextlib.closing(Client(kit.port, room=2000)) as client,
    ):
        got = len(client.ask("SETUP", "Transport: RTP/AVP/TCP;interleaved=0-1", track="/track0"))
        got += len(client.ask("PLAY"))
        time.sleep(0.3)
        got += len(client._file.read(40000 - got))
        assert got == 40000
        with pytest.raises(ConnectionResetError):
            client._file.read(1)
        assert kit.injected == {"reset": 1}


def test_of_a_client_that_has_gone_nothing_is_waited_for():
    """asyncio closes the socket as soon as it hears of that."""
    ours, theirs = socket.socketpair()
    theirs.close()
    ours.close()
    asyncio.run(arrived(ours))


@pytest.mark.parametrize(
    ("form", "fault", "causes"),
    [
        ("rtsp", "stall", {"timeout"}),
        ("rtsp", "trickle:bytes=200", {"timeout"}),
        ("rtsp", "reset", {"ended", "network"}),
        ("rtsp", "close", {"ended", "network"}),
        ("ts", "stall", {"timeout"}),
        ("ts", "reset", {"network"}),
    ],
)
def test_lost_in_mid_stream(clip, form, fault, causes):
    with chaos.serve(clip) as kit:
        got, error = lost_after_one(kit, getattr(kit, form), fault, stall_timeout=0.5)
        assert error.cause in causes
        whole = [picture for picture in got if not picture.damaged]
        assert numbers(whole) == list(range(1, 1 + len(whole)))
    assert kit.injected.total() == 1


def lost_after_one(
    kit: chaos.Server, url: str, fault: str, **stream
) -> tuple[list[Picture], SourceReadError]:
    """What still comes when a fault begins after the first picture."""
    source = opened(url, **stream)
    rest = iter(source)
    assert read_number(next(rest).image) == 0
    kit.inject(fault)
    got: list[Picture] = []
    with source, pytest.raises(SourceReadError) as caught:
        got.extend(rest)
    return got, caught.value


def test_a_stall_that_passes_loses_nothing(clip):
    with chaos.serve(clip, ["stall@0.2:for=0.2,of=connection"]) as kit:
        assert numbers(pictures(kit.rtsp, 60)) == list(range(60))
    assert kit.injected["stall"] == 1


def test_trickle_sends_no_more_than_it_may(clip):
    with chaos.serve(clip, ["trickle:bytes=4000"]) as kit, contextlib.closing(Client(kit.port)) as client:
        begun = kit.script.now
        client.play()
        client._file.read(1500)
        assert kit.script.now - begun >= 1500 / 4000 - 0.06


def test_faults_that_are_injected_while_it_runs(clip):
    with chaos.serve(clip) as kit:
        for count in (1, 2, 3):
            source = opened(kit.rtsp)
            rest = iter(source)
            next(rest)
            kit.inject("reset")
            with source, pytest.raises(SourceReadError):
                list(rest)
            assert kit.injected["reset"] == count
        with pytest.raises(ConfigError, match="expected several clips"):
            kit.inject("switch")


# --- of packets


def test_dropped_packets_are_those_that_are_missing(clip):
    with chaos.serve(clip, ["drop:rate=0.2"], seed=5) as kit:
        got = sequence(packets(kit.port, 60))
        dropped = kit.injected["drop"]
    missing = got[-1] + 1 - len(got)
    # Those before the first and after the last that was read cannot be told.
    assert 0 < missing <= dropped <= missing + 20
    assert got == sorted(set(got))
    with chaos.serve(clip, ["drop:rate=0.2"], seed=5) as kit:
        assert sequence(packets(kit.port, 60)) == got
    with chaos.serve(clip, ["drop:rate=0.2"], seed=6) as kit:
        assert sequence(packets(kit.port, 60)) != got


def test_duplicates_come_twice_and_no_more_than_asked(clip):
    with chaos.serve(clip, ["duplicate:rate=0.5,times=9"]) as kit:
        got = packets(kit.port, 80)
    assert len(got) - len(set(got)) == 9 == kit.injected["duplicate"]
    assert sequence(got) == sorted(sequence(got))


def test_reordered_packets_come_that_much_later(clip):
    with chaos.serve(clip, ["reorder:rate=1,by=4,times=1"]) as kit:
        got = sequence(packets(kit.port, 20))
    # The first is the one that is late, so all are counted from the second.
    assert got == [0, 1, 2, 3, 0xFFFF, *range(4, 19)]


def test_corrupt_packets_keep_their_headers(clip):
    with chaos.serve(clip, seed=3) as kit:
        clean = packets(kit.port, 60)
    with chaos.serve(clip, ["corrupt:rate=0.3,bytes=2,times=7"], seed=3) as kit:
        dirty = packets(kit.port, 60)
    changed = [(a, b) for a, b in zip(clean, dirty, strict=True) if a != b]
    assert len(changed) == 7 == kit.injected["corrupt"]
    for a, b in changed:
        assert a[:12] == b[:12] and sum(x != y for x, y in zip(a, b, strict=True)) == 2


@pytest.mark.parametrize(
    "fault", ["drop:rate=0.1", "duplicate:rate=0.3", "reorder:rate=0.1", "corrupt:rate=0.1"]
)
def test_the_dialogue_stays_whole_whatever_befalls_packets(clip, fault):
    with chaos.serve(clip, [fault], seed=2) as kit:
        assert len(pictures(kit.rtsp, 60)) == 60
        assert kit.injected.total() > 0


def test_garble_strikes_everywhere(clip):
    with chaos.serve(clip, ["garble:rate=0.3"]) as kit:
        with contextlib.suppress(SourceError):
            list(islice(opened(kit.ts, open_timeout=0.5, stall_timeout=0.5), 20))
        assert kit.injected["garble"] > 10


# --- of what is shown


def test_another_resolution(clip, wide):
    with chaos.serve([clip, wide], ["switch@0.2:of=connection"]) as kit:
        for url in (kit.rtsp, kit.ts):
            widths = [picture.image.shape[1] for picture in pictures(url, 60)]
            assert widths == [64] * 40 + [128] * 20
    assert kit.injected["switch"] == 2


def test_another_codec_ends_an_rtsp_session_and_not_a_transport_stream(clip, hevc):
    with chaos.serve([clip, hevc]) as kit:
        got, error = lost_after_one(kit, kit.rtsp, "switch")
        assert error.cause == "ended" and {picture.image.shape[1] for picture in got} == {64}
        with opened(kit.rtsp) as source:
            assert source.description.startswith("hevc, 128x96")
    with chaos.serve([clip, hevc]) as kit:
        with contextlib.closing(socket.create_connection(("127.0.0.1", kit.port), 10)) as raw:
            raw.sendall(b"GET /stream.ts HTTP/1.1\r\n\r\n")
            seen = b""
            while not stream_types(seen):
                seen += raw.recv(65536)
            assert stream_types(seen) == {0x1B}
            kit.inject("switch")
            while len(stream_types(seen)) == 1:
                seen += raw.recv(65536)
        assert stream_types(seen) == {0x1B, 0x24}


def stream_types(data: bytes) -> set[int]:
    """Types of the streams that an MPEG-TS's program map tables name (ISO 13818-1, 2.4.4.8)."""
    data = data[data.find(b"\r\n\r\n") + 4 :]
    found = set()
    for place in range(0, len(data) - 187, 188):
        packet = data[place : place + 188]
        if packet[0] != 0x47 or not packet[1] & 0x40:
            continue
        # Past an adaptation field and the pointer to the section.
        section = packet[(5 + packet[4] if packet[3] & 0x20 else 4) + 1 :]
        if section[:1] == b"\x02":
            found.add(section[12 + (struct.unpack(">H", section[10:12])[0] & 0xFFF)])
    return found


@pytest.mark.parametrize("form", ["rtsp", "ts"])
@pytest.mark.parametrize("by", [3600, -20])
def test_times_jump_and_are_repaired_as_often(clip, form, by):
    with chaos.serve(clip, [f"jump@0.2:by={by},of=connection"]) as kit:
        got = pictures(getattr(kit, form), 60)
    steps = [round(b - a, 3) for a, b in pairwise(seconds(got))]
    ((place, step),) = [(n, step) for n, step in enumerate(steps) if step != STEP]
    assert numbers(got) == list(range(60)) and place > 0
    wrap = 2**32 / 90000 if form == "rtsp" else 2**33 / 90000
    assert pytest.approx(by + STEP, abs=0.002) in (step, step - wrap)
    repaired = Timestamps()
    for n, picture in enumerate(got):
        repaired(picture.pts, picture.time_base, n / FPS)
    assert repaired.repaired["jump"] == kit.injected["jump"] == 1


@pytest.mark.parametrize("form", ["rtsp", "ts"])
@pytest.mark.parametrize("by", [100, -20])
@pytest.mark.parametrize("picture", range(9, 14))
def test_times_jump_between_two_pictures_as_they_are_shown(reordered, form, by, picture):
    with chaos.serve(reordered, [f"jump@{picture / FPS}:by={by},of=connection"]) as kit:
        got = pictures(getattr(kit, form), 40)
    repaired = Timestamps()
    for n, each in enumerate(got):
        repaired(each.pts, each.time_base, n / FPS)
    assert repaired.repaired == {"jump": 1} and kit.injected["jump"] == 1


@pytest.mark.parametrize("form", ["rtsp", "ts"])
def test_times_repeat_and_are_repaired_as_often(clip, form):
    with chaos.serve(clip, ["repeat@0.2:for=5,times=6,of=connection"]) as kit:
        got = pictures(getattr(kit, form), 60)
    assert numbers(got) == list(range(60))
    assert [round(b - a, 4) for a, b in pairwise(seconds(got))].count(0) == 6 == kit.injected["repeat"]
    repaired = Timestamps()
    for n, picture in enumerate(got):
        repaired(picture.pts, picture.time_base, n / FPS)
    assert repaired.repaired["duplicate"] == 6


def test_rewind(clip):
    with chaos.serve(clip, ["rewind@0.2:of=connection"]) as kit:
        got = pictures(kit.rtsp, 60)
    shown = numbers(got)
    assert shown == [*range(40), *range(20)]
    assert seconds(got[40:])[0] == 0 and seconds(got[40:])[1] == STEP


@pytest.mark.parametrize("codec", ["clip", "hevc", "motion_jpeg"])
def test_freeze(codec, request):
    with chaos.serve(request.getfixturevalue(codec), ["freeze@0.2:for=0.05,of=connection"]) as kit:
        got = pictures(kit.rtsp, 80)
    shown = numbers(got)
    assert all(b > a for a, b in pairwise(seconds(got)))
    if codec == "hevc":
        # Coded out of order: so are they covered, and some lose their turn.
        first = next(n for n in range(1, 80) if shown[n] <= shown[n - 1])
        after = next(n for n in range(first, 80) if shown[n] > shown[first])
        assert 30 < first < 45 and shown[:first] == sorted(set(shown[:first]))
        assert len(set(shown[first:after])) == 1 and after - first >= 7
        assert shown[after:] == list(range(shown[after], shown[after] + 80 - after))
        assert kit.injected["freeze"] >= after - first
    else:
        # 10 pictures in 0.05 s, of which the first is the key frame itself.
        assert shown == [*range(40), *[40] * 10, *range(50, 80)]
        assert kit.injected["freeze"] == 10


@pytest.mark.parametrize("codec", ["clip", "hevc", "motion_jpeg"])
def test_black(codec, request):
    with chaos.serve(request.getfixturevalue(codec), ["black@0.21:for=0.02,of=connection"]) as kit:
        got = pictures(kit.rtsp, 80)
    black = [n for n in range(80) if got[n].image.max() < 8]
    assert all(b > a for a, b in pairwise(seconds(got)))
    if codec == "hevc":
        assert len(black) > 3 and black == list(range(black[0], black[-1] + 1))
        after = numbers(got[black[-1] + 1 :])
        assert after == list(range(after[0], after[0] + len(after)))
        assert kit.injected["black"] >= len(black)
    else:
        # 4 pictures, and on to the next key frame, which a JPEG is at once.
        last = 46 if codec == "motion_jpeg" else 50
        assert black == list(range(42, last)) and kit.injected["black"] == len(black)
        assert numbers(got[:42]) == list(range(42)) and numbers(got[last:]) == list(range(last, 80))


def test_another_rate_than_declared(clip):
    with chaos.serve(clip, ["rate:fps=40"]) as kit, opened(kit.rtsp) as source:
        assert f"{FPS} fps" in source.description
        got = list(islice(source, 20))
    assert all(round(b - a, 4) == 0.025 for a, b in pairwise(seconds(got)))


# --- passwords


@pytest.mark.parametrize("form", ["rtsp", "ts"])
@pytest.mark.parametrize("scheme", ["basic", "digest"])
def test_a_password_is_demanded_and_then_another(clip, form, scheme, caplog):
    caplog.set_level(logging.DEBUG)
    with chaos.serve(clip, user="me", password=PASSWORD, scheme=scheme) as kit:
        url = getattr(kit, form)
        for wrong in (url, with_login(url, "x" + PASSWORD)):
            with pytest.raises(SourceOpenError) as caught:
                opened(wrong)
            assert caught.value.cause == "auth"
        source = opened(with_login(url, PASSWORD))
        kit.inject("password:user=me,password=an0ther-one")
        got, _ = until_lost(source)
        assert numbers(got) == list(range(len(got)))
        with pytest.raises(SourceOpenError) as caught:
            opened(with_login(url, PASSWORD))
        assert caught.value.cause == "auth"
        assert numbers(pictures(with_login(url, "an0ther-one"), 3)) == [0, 1, 2]
    assert kit.injected == {"password": 1}
    assert PASSWORD not in caplog.text and "an0ther-one" not in caplog.text


# --- the kit itself


def test_nothing_is_left_behind(clip):
    process = psutil.Process()
    # What FFmpeg and asyncio open once and keep.
    with chaos.serve(clip) as kit:
        pictures(kit.rtsp, 1)
    before, threads = process.num_fds(), threading.active_count()
    with chaos.serve(clip, ["stall@3000B"]) as kit:
        clients = [Client(kit.port) for _ in range(5)]
        for client in clients:
            client.play()
        web = socket.create_connection(("127.0.0.1", kit.port), 10)
        web.sendall(b"GET /stream.ts HTTP/1.1\r\n\r\n")
        # One that says nothing, either.
        idle = socket.create_connection(("127.0.0.1", kit.port), 10)
        assert web.recv(100)
    assert threading.active_count() == threads
    for client in clients:
        client.close()
    web.close()
    idle.close()
    assert process.num_fds() == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", kit.port), 10)


def test_a_client_that_never_reads_holds_nothing_up(tmp_path):
    noise = np.random.default_rng(1).integers(0, 256, (5, 480, 640, 3), np.uint8)
    path = make_clip(tmp_path / "noise.avi", images=noise, size=(640, 480), fps=FPS, codec="mjpeg")
    with chaos.serve(path) as kit, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", kit.port))
        deaf.sendall(b"GET /stream.mjpeg HTTP/1.1\r\n\r\n")
        sent = -1
        while sent != (now := kit.bytes_sent):
            sent = now
            threading.Event().wait(0.2)
        assert sent > path.stat().st_size
        assert len(pictures(kit.mjpeg, 3)) == 3


def test_a_client_that_leaves_is_let_go_even_where_nothing_is_sent(clip):
    with chaos.serve(clip, ["stall@2000B"]) as kit:
        for path in (b"GET /stream.ts HTTP/1.1\r\n\r\n", b"GET /stream.mjpeg HTTP/1.1\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", kit.port), 10) as raw:
                raw.sendall(path)
                assert raw.recv(100)
        for _ in range(200):
            if not kit.open_connections:
                break
            threading.Event().wait(0.02)
        assert kit.open_connections == 0


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])
def test_only_loopback_unless_asked(clip, listen):
    with pytest.raises(ConfigError, match="--any-address allows it"):
        chaos.serve(clip, listen=listen)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"listen": "9000"}, "expected HOST:PORT"),
        ({"listen": "[::1:9000"}, "expected HOST:PORT"),
        ({"listen": "somewhere:9000"}, "expected an IP address"),
        ({"user": "me"}, "give both"),
        ({"user": "me", "password": "x", "scheme": "bearer"}, "basic or digest"),
        ({"faults": ["switch@1"]}, "expected several clips"),
    ],
)
def test_what_cannot_be_meant(clip, options, said):
    with pytest.raises(ConfigError, match=said):
        chaos.serve(clip, **options)


def test_clips_that_cannot_be_played(tmp_path, folder):
    text = tmp_path / "a.mp4"
    text.write_text("no video")
    other = make_clip(tmp_path / "b.avi", frames=3, codec="mpeg4")
    for path, said in (
        (text, "cannot be read"),
        (other, "it is mpeg4"),
        (tmp_path / "none", "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=said):
            chaos.serve(path)
    with pytest.raises(ConfigError, match="expected a clip"):
        chaos.serve([])


def test_a_port_that_is_taken(clip):
    with chaos.serve(clip) as kit, pytest.raises(ConfigError, match="cannot listen"):
        chaos.serve(clip, listen=kit.address).__enter__()
