"""What lost data spoils is marked, whoever made it: the decoder says little, and throws away much."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline import chaos
from pipeline.sources import Picture
from pipeline.sources.framenumbers import FrameNumbers
from pipeline.sources.parametersets import ParameterSets
from tests.chaos_clients import opened as camera
from tests.clips import make_clip, need_encoder
from tests.h264_headers import B, Headers, I, P
from tests.test_sources_media import opened

FRAMES, GOP = 150, 25
SEEN = 4.0
"""Mean difference of grey values from which a picture can be seen to be another."""


def scene(n: int) -> np.ndarray:
    """A patterned field that moves, so that every picture is coded as a difference from others."""
    rows, columns = np.mgrid[0:144, 0:192]
    grey = 128 + 60 * np.sin((columns + 3 * n) / 9) + 50 * np.cos((rows - 2 * n) / 7)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture(scope="module", params=["libx264", "libx264 -bf 2", "libx265"])
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    codec, *b_frames = request.param.split(" ", 1)
    need_encoder(codec)
    options = {"bf": "2", "preset": "medium", "tune": "film"} if b_frames else {}
    path = tmp_path_factory.mktemp("damage") / f"{codec}.ts"
    images = (scene(n) for n in range(FRAMES))
    return make_clip(
        path, codec=codec, images=images, size=(192, 144), gop=GOP, options=options, format="mpegts"
    )


def jpegs(folder: Path, spoilt: Callable[[list[bytes]], list[bytes]]) -> list[bool]:
    """Which of the pictures of a stream of ten are damaged, after ``spoilt`` has been at its packets."""
    images = (scene(n) for n in range(10))
    clip = make_clip(folder / "a.mkv", images=images, codec="mjpeg", size=(192, 144), pix_fmt="yuvj420p")
    with av.open(str(clip)) as given:
        packets = [bytes(packet) for packet in given.demux() if packet.size]
        with av.open(str(folder / "b.mkv"), "w") as out:
            stream = out.add_stream_from_template(given.streams.video[0])
            for number, data in enumerate(spoilt(packets)):
                packet = av.Packet(data)
                packet.stream, packet.pts, packet.dts = stream, number * 40, number * 40
                packet.is_keyframe = True
                out.mux(packet)
    with opened(folder / "b.mkv") as source:
        return [picture.damaged for picture in source if isinstance(picture, Picture)]


def test_a_jpeg_that_breaks_off_is_damaged_and_the_next_is_not(tmp_path: Path) -> None:
    def half(packets: list[bytes]) -> list[bytes]:
        return [data[: len(data) // 2] if n == 4 else data for n, data in enumerate(packets)]

    assert jpegs(tmp_path, half) == [n == 4 for n in range(10)]


def test_a_jpeg_into_which_another_has_come_is_damaged(tmp_path: Path) -> None:
    """A camera begins a part anew in the middle of a picture; without lengths the two are one."""

    def joined(packets: list[bytes]) -> list[bytes]:
        return [data[: len(data) // 2] + data if n == 4 else data for n, data in enumerate(packets)]

    assert jpegs(tmp_path, joined) == [n == 4 for n in range(10)]


def test_two_fields_in_a_packet_are_no_damage(tmp_path: Path) -> None:
    assert not any(jpegs(tmp_path, lambda packets: [data + data for data in packets]))


def test_a_thumbnail_within_a_jpeg_is_no_other_picture(tmp_path: Path) -> None:
    def with_thumbnails(packets: list[bytes]) -> list[bytes]:
        application = b"\xff\xe1" + (len(packets[0]) + 2).to_bytes(2, "big") + packets[0]
        return [data[:2] + application + data[2:] for data in packets]

    assert not any(jpegs(tmp_path, with_thumbnails))


def test_a_stream_whose_jpegs_have_no_end_is_not_damaged(tmp_path: Path) -> None:
    """Some old cameras leave it out; FFmpeg adds it."""
    assert not any(jpegs(tmp_path, lambda packets: [data.removesuffix(b"\xff\xd9") for data in packets]))


def with_losses(clip: Path, path: Path, seed: int) -> Path:
    """The same without some pieces of 300 bytes of its packets, past the first GOP."""
    draw = random.Random(seed)
    with av.open(str(clip)) as given, av.open(str(path), "w", format="mpegts") as out:
        stream = out.add_stream_from_template(given.streams.video[0])
        for number, packet in enumerate(given.demux(given.streams.video[0])):
            data = bytes(packet)
            pieces = [data[at : at + 300] for at in range(0, len(data), 300)]
            kept = [piece for piece in pieces if number < GOP or packet.is_keyframe or draw.random() > 0.03]
            if kept:
                part = av.Packet(b"".join(kept))
                part.pts, part.dts, part.time_base = packet.pts, packet.dts, packet.time_base
                part.stream = stream
                out.mux(part)
    return path


def remuxed(
    clip: Path, path: Path, change: Callable[[int, bytes, bool], list[bytes]], apart: int = 1
) -> Path:
    """``clip`` in another container; of each packet ``change`` makes some, ``apart`` ticks from one another,
    of its number, data, and whether it is a key frame's."""
    with av.open(str(clip)) as given, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(given.streams.video[0])
        for number, packet in enumerate(given.demux(given.streams.video[0])):
            made = change(number, bytes(packet), packet.is_keyframe) if packet.size else []
            for at, data in enumerate(made):
                part = av.Packet(data)
                part.pts, part.dts = packet.pts + at * apart, packet.dts + at * apart
                part.stream, part.time_base = stream, packet.time_base
                part.is_keyframe = packet.is_keyframe
                out.mux(part)
    return path


def sei(size: int) -> bytes:
    """A unit of H.264 that holds so many bytes of somebody's own data, and no picture."""
    return b"\x06\x05" + b"\xff" * (size // 255) + bytes([size % 255]) + b"\xaa" * size + b"\x80"


def packets(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def grey(picture: Picture) -> np.ndarray:
    return picture.image[..., 0].astype(int)


def test_a_packet_that_comes_twice_is_one_picture_and_spoils_nothing(clip: Path, tmp_path: Path) -> None:
    whole = [(picture.pts, grey(picture)) for picture in opened(clip)]

    def some_twice(number: int, data: bytes, key: bool) -> list[bytes]:
        often = 1 if key else 3 if number == 31 else 2 if number % 7 == 0 else 1
        doubled.append(often - 1)
        return [data] * often

    doubled: list[int] = []
    path = remuxed(clip, tmp_path / "twice.mkv", some_twice, apart=0)
    count = sum(doubled)
    assert count > 10
    with opened(path) as source:
        pictures = list(source)
        assert source.corrupt_packets == count
    assert len(pictures) == len(whole) and not any(picture.damaged for picture in pictures)
    for picture, (_, grey_before) in zip(pictures, whole, strict=True):
        assert np.array_equal(grey(picture), grey_before)


def test_the_same_key_picture_while_the_clock_stands_still_is_a_picture_each_time(
    clip: Path, tmp_path: Path
) -> None:
    """So a camera may be that has stuck: its pictures come, and are to be seen as frozen."""
    path = remuxed(clip, tmp_path / "still.mkv", lambda n, data, _: [data] * 30 if n == 0 else [], apart=0)
    with opened(path) as source:
        pictures = list(source)
        assert (len(pictures), source.corrupt_packets) == (30, 0)
    assert not any(picture.damaged for picture in pictures)


def test_what_is_spoilt_is_marked_and_comes_all_the_same(clip: Path, tmp_path: Path) -> None:
    whole = {picture.pts: grey(picture) for picture in opened(clip)}
    wrecked = marked = sound = 0
    for seed in range(3):
        path = with_losses(clip, tmp_path / f"{seed}.ts", seed)
        with opened(path) as source:
            pictures = list(source)
            left = packets(path) - source._sieve.damaged  # what is found later brings pictures
        assert 0.9 * left <= len(pictures) <= left
        assert not any(picture.damaged for picture in pictures[: GOP - 4])
        for picture in pictures:
            seen = np.abs(grey(picture) - whole[picture.pts]).mean() > SEEN
            wrecked += seen
            marked += seen and picture.damaged
            sound += not seen and not picture.damaged
    # HEVC's decoder marks what is made of missing pictures, and little of what it patches up in one.
    assert wrecked > 20 and marked >= (0.5 if clip.stem == "libx265" else 0.95) * wrecked
    assert sound > 100


def test_a_camera_that_loses_packets(tmp_path: Path) -> None:
    """Whole pictures are missing, or parts of them, over RTSP; marked is all that is made of them."""
    clip = make_clip(tmp_path / "c.mp4", images=(scene(n) for n in range(FRAMES)), size=(192, 144), gop=10)
    with chaos.serve(clip, ["drop@0.5:rate=0.05"], seed=1) as kit, camera(kit.rtsp) as source:
        pictures = list(islice(source, 75))
    assert kit.injected["drop"] > 0
    assert 10 < sum(picture.damaged for picture in pictures) < 70


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("options", [{"preset": "medium", "bf": "2"}, {"x264-params": "intra-refresh=1"}])
def test_of_a_whole_clip_nothing_is_marked(tmp_path: Path, suffix: str, options: dict[str, str]) -> None:
    """Lengths of 256 to 511 before its units, as MP4 has them, look like start codes."""
    images = (scene(n) for n in range(FRAMES))
    path = make_clip(tmp_path / f"c.{suffix}", images=images, size=(192, 144), gop=GOP, options=options)
    with av.open(str(path)) as container:
        extradata = bytes(container.streams.video[0].codec_context.extradata or b"")
        sizes = [packet.size for packet in container.demux(video=0)]
    # By chance it would not be seen that these are taken for start codes.
    assert FrameNumbers(extradata)._length_size == (0 if suffix == "ts" else 4)
    assert sum(256 <= size < 520 for size in sizes) > 10
    with opened(path) as source:
        assert [picture.damaged for picture in source] == [False] * FRAMES


@pytest.mark.parametrize("threads", [1, None, 4])
@pytest.mark.parametrize("suffix", ["ts", "mp4", "mkv", "flv", "h264"])
def test_a_missing_picture_is_told_whatever_it_stands_in(
    tmp_path: Path, suffix: str, threads: int | None
) -> None:
    """By start codes or lengths, with presentation times or (a bare stream) without."""
    images = (scene(n) for n in range(100))
    options = {"bf": "0", "sc_threshold": "0"}
    start_codes = suffix in ("ts", "h264")
    whole = tmp_path / ("c.ts" if start_codes else f"c.{suffix}")
    clip = make_clip(whole, images=images, size=(192, 144), gop=GOP, options=options)
    lost = GOP + 5
    path = remuxed(clip, tmp_path / f"l.{suffix}", lambda n, data, _: [] if n == lost else [data])
    with opened(path, decode_threads=threads) as source:
        pictures = list(source)
    assert [n for n, picture in enumerate(pictures) if picture.damaged] == list(range(lost, 2 * GOP - 1))
    assert all((picture.pts is None) == (suffix == "h264") for picture in pictures)


@pytest.mark.parametrize("threads", [1, None, 8])
@pytest.mark.parametrize("number", [GOP - 1, GOP - 6])
def test_what_a_key_picture_has_healed_is_not_marked_when_it_is_told_late(
    tmp_path: Path, number: int, threads: int | None
) -> None:
    """VP9's decoder refuses a packet when it has later ones, or all until it is told to forget."""
    need_encoder("libvpx-vp9")
    images = (scene(n) for n in range(100))
    options = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "auto-alt-ref": "0"}
    clip = make_clip(
        tmp_path / "c.webm", codec="libvpx-vp9", images=images, size=(192, 144), gop=GOP, options=options
    )
    path = remuxed(clip, tmp_path / "z.webm", lambda n, data, _: [bytes(len(data)) if n == number else data])
    with opened(path, decode_threads=threads) as source:
        pictures = list(source)
        assert source.corrupt_packets
    assert len(pictures) >= 100 - GOP
    start = next(n for n, picture in enumerate(pictures) if picture.key and n > 0)
    assert not any(picture.damaged for picture in pictures[start:])


@pytest.mark.parametrize("many", [1, 7])
def test_much_before_a_slice_is_no_loss(tmp_path: Path, many: int) -> None:
    images = (scene(n) for n in range(60))
    clip = make_clip(tmp_path / "c.ts", images=images, size=(192, 144), gop=GOP, format="mpegts")

    def more(number: int, data: bytes, key: bool) -> list[bytes]:
        return [b"\0\0\0\1" + sei(5000) + data if key or number % many == 0 else data]

    with opened(remuxed(clip, tmp_path / "s.ts", more)) as source:
        assert [picture.damaged for picture in source] == [False] * 60


def test_a_packet_without_a_picture_is_no_loss(tmp_path: Path) -> None:
    images = (scene(n) for n in range(60))
    clip = make_clip(tmp_path / "c.mp4", images=images, size=(192, 144), gop=60)
    unit = sei(40)
    alone = len(unit).to_bytes(4, "big") + unit

    def more(number: int, data: bytes, _: bool) -> list[bytes]:
        return [data, alone] if number in (10, 30) else [data]

    with opened(remuxed(clip, tmp_path / "s.mkv", more)) as source:
        assert [picture.damaged for picture in source] == [False] * 60


def test_without_key_frames_all_is_coded_anew_in_time(tmp_path: Path) -> None:
    """Some encoders refresh their pictures bit by bit."""
    images = (scene(n) for n in range(450))
    options = {"x264-params": "intra-refresh=1"}
    clip = make_clip(
        tmp_path / "c.ts", images=images, size=(192, 144), gop=50, options=options, format="mpegts"
    )
    path = remuxed(clip, tmp_path / "l.ts", lambda number, data, _: [] if number == 60 else [data])
    with opened(path) as source:
        marked = [picture.damaged for picture in source]
    assert not any(marked[:58]) and marked[62] and not any(marked[-60:])
    again = remuxed(clip, tmp_path / "2.ts", lambda number, data, _: [] if number in (60, 200) else [data])
    with opened(again) as source:  # of the last loss so many must have passed
        assert all([picture.damaged for picture in source][62:])


def test_a_parameter_set_that_ends_early_is_no_error() -> None:
    numbers = FrameNumbers(b"\0\0\0\1\x67\x64\0")
    assert not numbers.gap_before(memoryview(b"\0\0\1\x67\x64"))
    assert not numbers.gap_before(memoryview(b"\0\0\1\x41"))


def gaps(packets: list[bytes]) -> list[int]:
    """Numbers of the packets before which something is missing."""
    numbers = FrameNumbers()
    return [n for n, packet in enumerate(packets) if numbers.gap_before(memoryview(packet))]


def coded(seed: int, headers: Headers, fields: bool, gop: int) -> list[list[bytes]]:
    """The fields, or the frame, of each picture of two GOPs, in the order of decoding: a P picture, or an I
    one, and then up to three B ones that are shown before it; the middle one may be referred to."""
    draw = random.Random(seed)
    made: list[list[bytes]] = []

    def add(number: int, place: int, kind: int, reference: bool = True) -> None:
        if not fields or draw.random() < 0.3:
            made.append([headers.slice(number, 2 * place, kind, reference=reference)])
        else:
            second = P if kind == I else kind
            made.append(
                [
                    headers.slice(number, 2 * place, kind, reference=reference, bottom=False),
                    headers.slice(number, 2 * place + 1, second, reference=reference, bottom=True),
                ]
            )

    for _ in range(2):
        add(0, 0, I)
        made[-1][0] = headers.sets() + made[-1][0]
        number = place = 0
        while place < gop:
            between = draw.randrange(4)
            number, place = number + 1, place + between + 1
            add(number, place, draw.choice([P, P, P, I]))
            if between == 3 and draw.random() < 0.7:
                number += 1
                add(number, place - 2, B)
                add(number + 1, place - 3, B, False)
                add(number + 1, place - 1, B, False)
            else:
                for n in range(between):
                    add(number + 1, place - between + n, B, False)
    return made


@pytest.mark.parametrize("fields", [False, True])
@pytest.mark.parametrize("order_bits", [0, 5, 9])
@pytest.mark.parametrize("seed", range(4))
def test_a_whole_stream_has_no_gaps_and_every_loss_in_it_is_told(
    seed: int, order_bits: int, fields: bool
) -> None:
    """One reference frame, or one field of it, is missing; with places that are counted round and round."""
    pictures = coded(seed, Headers(5, order_bits, fields), fields, 70)
    assert gaps([b"".join(picture) for picture in pictures]) == []
    assert gaps([field for picture in pictures for field in picture]) == []
    keys = [n for n, picture in enumerate(pictures) if b"\0\0\1\x67" in picture[0]]
    for lost, picture in enumerate(pictures[:-1]):
        referred = picture[-1][4] & 0x60
        if lost in keys or lost + 1 in keys or not referred:
            continue  # the next IDR picture is made from no other
        for left in [[]] if len(picture) == 1 else [[], picture[:1], picture[1:]]:
            kept = [*pictures[:lost], *([left] if left else []), *pictures[lost + 1 :]]
            assert {lost, lost + 1} & set(gaps([b"".join(part) for part in kept]))
            at = sum(len(part) for part in pictures[:lost])
            assert {at, at + len(left)} & set(gaps([field for part in kept for field in part]))


@pytest.mark.parametrize("gop", range(10, 60))
def test_a_missing_key_picture_is_told_by_the_numbers_of_the_next(gop: int) -> None:
    """Unless the number fits by chance, one time in 16; half of those are told by the order of display."""
    for order_bits in (0, 8):
        headers = Headers(4, order_bits)
        group = [headers.slice(n, 2 * n, P if n else I) for n in range(gop)]
        fits = gop % 16 == 1
        assert gaps([headers.sets(), *group, *group[1:]]) == ([] if fits and not order_bits else [gop + 1])


def test_a_slice_that_has_a_packet_of_its_own_is_no_picture() -> None:
    headers = Headers(4)
    group = [headers.slice(n, 2 * n, P if n else I, first=at) for n in range(30) for at in (0, 40, 80)]
    assert gaps([headers.sets(), *group]) == []
    assert gaps([headers.sets(), *group[:30], *group[33:]]) == [31]


def test_a_stream_cannot_fill_memory_with_parameter_sets() -> None:
    """There are 32 of sequences and 256 of pictures (ITU-T H.264, 7.4.2)."""
    sets = ParameterSets()
    for own in range(2000):
        for unit in Headers(own=own).sets().split(b"\0\0\0\1")[1:]:
            with suppress(IndexError):
                sets.learn(unit[0] & 31, unit[1:])
    assert 32 <= sum(len(table) for table in vars(sets).values()) <= 32 + 256


@pytest.mark.parametrize(
    "data",
    [b"\0\0\1", b"\0\0\1\x09\xf0", b"\0\0\0\0", Headers(fields=True).slice(3, 6, bottom=False)],
    ids=["starts", "delimiters", "zeros", "fields"],
)
def test_of_a_packet_so_much_is_looked_at_whatever_is_in_it(data: bytes) -> None:
    packet = memoryview((Headers(fields=True).sets() + data * (1_000_000 // len(data)))[:1_000_000])
    for extradata in (b"", b"\1\x4d\0\x1e\xff\xe0\0"):
        numbers, steps = FrameNumbers(extradata), Counter[str]()
        sys.setprofile(lambda _, event, __, steps=steps: steps.update([event]))
        try:
            numbers.gap_before(packet)
            numbers.holds_picture(packet)
        finally:
            sys.setprofile(None)
        assert steps.total() < 50_000


def test_pictures_go_by_the_parameter_sets_that_they_name() -> None:
    """Of two that are known, or of a new one that takes the place of another."""
    short, long, again = Headers(4, own=0), Headers(6, own=3), Headers(7, own=0)
    packets = []
    for headers in (short, long, again):
        group = [headers.slice(n, 2 * n, P if n else I) for n in range(20)]
        packets += [headers.sets() + group[0], *group[1:10], *group[11:]]
    assert gaps(packets) == [10, 29, 48]


@pytest.mark.parametrize(("first", "second"), [("bframes=2:ref=3", "bframes=0:ref=16"), ("ref=16", "ref=3")])
def test_flv_may_say_other_parameter_sets_in_mid_stream(tmp_path: Path, first: str, second: str) -> None:
    """As an encoder that is started anew behind RTMP does."""
    tags, last = list[bytes](), 0
    for n, settings in enumerate((first, second)):
        options = {"tune": "", "preset": "veryfast", "x264-params": f"b-adapt=0:{settings}"}
        images = (scene(60 * n + k) for k in range(60))
        data = make_clip(tmp_path / "part.flv", images=images, size=(192, 144), options=options).read_bytes()
        if not tags:
            tags.append(data[:13])
        begun, at = last, 13
        while at < len(data):
            tag = bytearray(data[at : at + 15 + int.from_bytes(data[at + 1 : at + 4], "big")])
            at += len(tag)
            if tag[0] != 9 or tag[12] == 2:  # what is no video, and its end
                continue
            last = begun + int.from_bytes(tag[4:7], "big")
            tag[4:7] = last.to_bytes(3, "big")
            tags.append(bytes(tag))
        last += 40
    (tmp_path / "both.flv").write_bytes(b"".join(tags))
    with opened(tmp_path / "both.flv") as source:
        assert [picture.damaged for picture in source] == [False] * 120


@pytest.mark.parametrize(("gop", "b_frames"), [(18, 0), (50, 0), (49, 2), (50, 2)])
def test_what_is_made_without_its_key_picture_is_marked(tmp_path: Path, gop: int, b_frames: int) -> None:
    images = (scene(n) for n in range(2 * gop + 4))
    options = {"bf": str(b_frames), "sc_threshold": "0", "preset": "veryfast", "tune": "film"}
    options["x264-params"] = "b-adapt=0"
    clip = make_clip(tmp_path / "c.mp4", images=images, size=(192, 144), gop=gop, options=options)
    whole = {picture.pts: grey(picture) for picture in opened(clip)}
    path = remuxed(clip, tmp_path / "l.mp4", lambda n, data, _: [] if n == gop else [data])
    with opened(path) as source:
        pictures = list(source)
    wrecked = [np.abs(grey(picture) - whole[picture.pts]).mean() > SEEN for picture in pictures]
    assert sum(wrecked) > gop / 2
    assert all(picture.damaged for picture, seen in zip(pictures, wrecked, strict=True) if seen)
    assert not any(picture.damaged for picture in pictures[: gop - 2])


@pytest.mark.parametrize("threads", [1, None])
@pytest.mark.parametrize("refused", [[GOP + 1], [GOP - 10, GOP + 1]])
def test_what_is_refused_behind_a_key_picture_is_not_healed_by_it(
    tmp_path: Path, refused: list[int], threads: int | None
) -> None:
    """Whether or not a packet before it was refused, too, and never had a picture."""
    images = (scene(n) for n in range(2 * GOP))
    options = {"bf": "2", "sc_threshold": "0", "preset": "veryfast", "tune": "film"}
    options["x264-params"] = "b-adapt=0"
    clip = make_clip(tmp_path / "c.mp4", images=images, size=(192, 144), gop=GOP, options=options)
    whole = {picture.pts: grey(picture) for picture in opened(clip)}
    unknown = b"\0\0\0\x08\x41\x98\x0c\xb0\xff\xff\xff\xff"  # goes by picture parameter set 100
    path = remuxed(clip, tmp_path / "l.mp4", lambda n, data, _: [unknown if n in refused else data])
    with opened(path, decode_threads=threads) as source:
        pictures = list(source)
        assert source.corrupt_packets == len(refused)
    key = next(n for n, picture in enumerate(pictures) if picture.key and n)
    wrecked = [p for p in pictures[key:] if np.abs(grey(p) - whole[p.pts]).mean() > SEEN]
    assert len(wrecked) > GOP / 2 and all(picture.damaged for picture in wrecked)
    assert not pictures[key].damaged


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video"])
@pytest.mark.parametrize("number", [GOP, GOP + 4])
def test_of_mpeg_ts_the_picture_that_data_is_missing_of_is_marked(
    tmp_path: Path, codec: str, number: int
) -> None:
    """And not the one before it, on which FFmpeg sets its flag; a key picture does not heal itself."""
    need_encoder(codec)
    images = (scene(n) for n in range(2 * GOP + 10))
    options = {"bf": "0"} | ({"crf": "10"} if codec.startswith("libx") else {})
    clip = make_clip(
        tmp_path / "c.ts",
        codec=codec,
        images=images,
        size=(192, 144),
        gop=GOP,
        options=options,
        format="mpegts",
    )
    data = clip.read_bytes()
    cells = [data[at : at + 188] for at in range(0, len(data), 188)]
    starts = [
        n for n, cell in enumerate(cells) if cell[1] & 0x40 and int.from_bytes(cell[1:3]) & 0x1FFF == 256
    ]
    begin, end = starts[number : number + 2]
    video = [n for n in range(begin + 1, end) if int.from_bytes(cells[n][1:3]) & 0x1FFF == 256]
    del cells[video[len(video) // 2]]
    path = tmp_path / "l.ts"
    path.write_bytes(b"".join(cells))
    with opened(path) as source:
        pictures = list(source)
        assert source.corrupt_packets == 1
    # What HEVC's decoder makes nothing of does not come.
    assert len(pictures) == 2 * GOP + 10 or codec == "libx265"
    first = pictures[0].pts
    marked = [round((picture.pts - first) / 3600) for picture in pictures if picture.damaged]
    came = [round((picture.pts - first) / 3600) for picture in pictures]
    assert marked == [n for n in came if number <= n < 2 * GOP]
