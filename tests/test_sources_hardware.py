"""Hardware video decode: what is asked, what there is, who really decodes.

This machine may have no such device. Then FFmpeg's own refusals are the test; where a device has to
be there, it is a fake, and the test's first line says so.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from av.codec.hwaccel import HWAccel, hwdevices_available

from pipeline.config import StreamConfig, make_config
from pipeline.errors import ConfigError, SourceOpenError
from pipeline.sample import SAMPLE
from pipeline.sources import Source, connect, hardware, open_source, parse_source
from pipeline.sources.hardware import Decoding
from tests.clips import make_clip
from tests.test_cli import assert_one_line, framerail


def opened(path: Path | str, hwdecode: str, stop: threading.Event | None = None) -> Source:
    config = StreamConfig(source=str(path), hwdecode=hwdecode)  # type: ignore[arg-type]
    return open_source(parse_source(str(path)), config, stop or threading.Event())


def absent(method: str) -> str:
    why = hardware.unavailable(method)
    if not why:
        pytest.skip(f"this machine has {method}")
    return why


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "clip.mkv", frames=20)


@pytest.mark.parametrize("method", hardware.METHODS)
def test_a_device_asked_for_by_name_and_not_to_be_had(clip: Path, method: str) -> None:
    """FFmpeg's own answer, for real."""
    why = absent(method)
    with pytest.raises(SourceOpenError) as raised:
        opened(clip, method)
    assert raised.value.cause == "hardware"
    assert f"hwdecode {method}: {why}; framerail doctor" in str(raised.value)


def test_what_the_build_lacks_and_what_the_machine_lacks_are_told_apart() -> None:
    for method in hardware.METHODS:
        why = absent(method)
        assert ("this build of FFmpeg has none" in why) == (method not in hwdevices_available())
    if "cuda" in hwdevices_available():
        assert hardware.unavailable("cuda").startswith("the device cannot be opened (")


def test_auto_without_a_device_decodes_on_the_cpu_and_says_why_once(
    clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for method in hardware.METHODS:
        absent(method)
    caplog.set_level("INFO")
    with opened(clip, "none") as source:
        expected = [(picture.pts, picture.image) for picture in source]
        assert "decoded by" not in source.description
    assert not caplog.records
    with opened(clip, "auto") as source:
        assert source.description.startswith("h264 decoded by the CPU, ")
        assert source.frame_count == 20 or source.frame_count is None
        seen = [(picture.pts, picture.image) for picture in source]
    assert [pts for pts, _ in seen] == [pts for pts, _ in expected]
    for (_, image), (_, other) in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(image, other)
    (record,) = caplog.records
    assert "hwdecode auto decodes on the CPU: cuda: " in record.getMessage()
    assert "vaapi: this build" in record.getMessage()


@pytest.fixture
def fake_device(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A machine that claims to have CUDA; FFmpeg is then given no device, so that the CPU decodes."""
    state: dict[str, Any] = {"decodes": True, "asked": []}

    def decodes_on(video: Any, method: str) -> bool:
        assert video.codec_context.pix_fmt  # asked after the first picture, when it is settled
        state["asked"].append((method, video.codec_context.is_open))
        return bool(state["decodes"])

    monkeypatch.setattr(hardware, "unavailable", lambda method: "" if method == "cuda" else "none (fake)")
    monkeypatch.setattr(Decoding, "device", lambda _: None)
    monkeypatch.setattr(hardware, "decodes_on", decodes_on)
    return state


def test_who_decodes_is_asked_after_the_first_picture_and_none_is_lost(
    clip: Path, fake_device: dict[str, Any]
) -> None:
    """The device is a fake: shown is that it is asked when FFmpeg has settled, and what is said of it."""
    for asked in ("cuda", "auto"):
        with opened(clip, asked) as source:
            assert source.description.startswith("h264 decoded by cuda, ")
            assert len(list(source)) == 20
    assert fake_device["asked"] == [("cuda", True)] * 2


def test_a_device_that_does_not_decode_this_video(
    clip: Path, fake_device: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The device is a fake. By name: an error; auto: the CPU, with a reason."""
    caplog.set_level("INFO")
    fake_device["decodes"] = False
    with pytest.raises(SourceOpenError, match=r"cuda does not decode this h264 \(.*\) here; --hwdecode auto"):
        opened(clip, "cuda")
    with opened(clip, "auto") as source:
        assert source.description.startswith("h264 decoded by the CPU, ")
        assert len(list(source)) == 20
    assert "decodes on the CPU: cuda does not decode this h264" in caplog.text


def test_no_frame_threads_on_top_of_a_device(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That FFmpeg tries a device is a fake; on how many threads it decodes is not."""
    from av.codec.context import ThreadType

    from pipeline.sources import media

    for tried, expected in ((False, ThreadType.AUTO), (True, ThreadType.SLICE)):
        monkeypatch.setattr(media, "on_device", lambda _, tried=tried: tried)
        with opened(clip, "none") as source:
            assert source._video.thread_type == expected  # type: ignore[attr-defined]


def test_ffmpegs_silent_fallback_for_a_codec_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg's own, for real: no device decodes FFV1, so the CPU does, without a word."""
    if "cuda" not in hwdevices_available():
        pytest.skip("needs an FFmpeg with cuda")
    path = make_clip(tmp_path / "clip.mkv", frames=5, codec="ffv1")
    monkeypatch.setattr(hardware, "unavailable", lambda _: "")
    given: list[Any] = []
    real = connect.av.open
    monkeypatch.setattr(
        connect.av, "open", lambda *a, **options: (given.append(options["hwaccel"]), real(*a, **options))[1]
    )
    with pytest.raises(SourceOpenError, match="cuda does not decode this ffv1"):
        opened(path, "cuda")
    with opened(path, "auto") as source:
        assert source.description.startswith("ffv1 decoded by the CPU, ")
        assert len(list(source)) == 5
    assert [type(each) for each in given] == [HWAccel, HWAccel]


def test_a_source_that_fails_while_its_first_picture_is_awaited_is_closed(
    clip: Path, fake_device: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is a fake; the clip is cut off before its first picture."""
    from pipeline.sources.media import MediaSource

    closed = []
    close = MediaSource.close
    monkeypatch.setattr(MediaSource, "close", lambda self: (closed.append(True), close(self))[1])
    fake_device["decodes"] = False
    with pytest.raises(SourceOpenError):
        opened(clip, "cuda")
    assert closed


def test_decoding_that_is_stopped_before_the_first_picture(clip: Path, fake_device: dict[str, Any]) -> None:
    """The device is a fake. Stopped is no failure of the device."""
    fake_device["decodes"] = False
    stop = threading.Event()
    stop.set()
    with opened(clip, "cuda", stop) as source:
        assert list(source) == []


def test_config_and_flag() -> None:
    assert StreamConfig(source="a").hwdecode == "none"
    with pytest.raises(ConfigError, match=r"hwdecode: expected auto, cuda, vaapi, qsv, none; did you"):
        make_config({"streams": [{"source": "a", "hwdecode": "cudaa"}]})
    why = absent("cuda")
    done = framerail("run", str(SAMPLE), "--hwdecode", "cuda", "--max-frames", "2")
    assert_one_line(done, 2, "hwdecode cuda", why[:20])


def test_the_summary_says_who_decoded(cheap_model: str, tmp_path: Path) -> None:
    for method in hardware.METHODS:
        absent(method)
    done = framerail(
        "run", str(SAMPLE), "--hwdecode", "auto", "--max-frames", "3", "--model", cheap_model,
        "--summary", "s.json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (stream,) = json.loads((tmp_path / "s.json").read_text())["streams"].values()
    assert " decoded by the CPU, " in stream["source"]
    assert done.stderr.count("hwdecode auto decodes on the CPU") == 1


def test_doctor_tries_the_devices() -> None:
    shown = json.loads(framerail("doctor", "--json").stdout)["video"]["hwdecode"]
    assert shown == {method: hardware.unavailable(method) or "works" for method in hardware.METHODS}
