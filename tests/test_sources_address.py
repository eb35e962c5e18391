"""What a source's text means."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import StreamConfig
from pipeline.errors import ConfigError, PipelineError, SourceOpenError
from pipeline.sources import OPENERS, encode_number, parse_source
from tests.test_sources_pictures import write


@pytest.mark.parametrize(
    ("text", "kind", "name", "live"),
    [
        ("rtsp://cam.example/stream", "rtsp", "cam.example", True),
        ("RTSPS://user:pa:ss@cam.example:322/x?y=1", "rtsp", "cam.example", True),
        ("rtsp://admin:p%40ss@192.0.2.7:554/s", "rtsp", "192.0.2.7", True),
        ("rtsp://[2001:db8::1]:554/s", "rtsp", "2001:db8::1", True),
        ("http://h/a.mp4", "http", "h", None),
        ("https://h:8443/live.m3u8", "http", "h", None),
        ("rtmp://h/app/key", "stream", "h", True),
        ("srt://h:9000?mode=caller", "stream", "h", True),
        ("udp://:1234", "stream", "udp", True),
        ("udp://@239.0.0.1:1234", "stream", "239.0.0.1", True),
        ("camera:0", "camera", "camera0", True),
        ("camera:/dev/video2", "camera", "camera2", True),
        ("/dev/video3", "camera", "camera3", True),
        ("synthetic:64x48", "synthetic", "synthetic", False),
    ],
)
def test_addresses(text, kind, name, live):
    spec = parse_source(text)
    assert (spec.kind, spec.default_name, spec.live) == (kind, name, live)
    assert spec.kind in OPENERS


def test_no_password_in_repr():
    assert "s3cret" not in repr(parse_source("rtsp://me:s3cret@cam/x"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rtps://cam/x", "unknown scheme 'rtps://'; did you mean 'rtsp://'"),
        ("htp://cam/x", "did you mean 'http://'"),
        ("rtsp://", "the host is missing"),
        ("rtsp:///x", "the host is missing"),
        ("rtsp://cam:port/x", "cannot understand host and port"),
        ("http://[::1/x", "cannot understand host and port"),
        ("rtsp://cam/a b", "%20"),
        ("camera:", "camera:NUMBER"),
        ("camera:front", "camera:NUMBER"),
        ("sample:2", "'sample:' alone"),
        ("file:///tmp/x.mp4", "without file://"),
        ("", "expected a source"),
        ("a\0b", "expected a source"),
    ],
)
def test_text_that_cannot_be_meant(text, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse_source(text)


def test_a_scheme_error_hides_the_password():
    with pytest.raises(ConfigError) as caught:
        parse_source("rtps://me:s3cret@cam/x")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("no-such-file.mp4", ""),
        ("rtsp:cam/x", "did you mean 'rtsp://'"),
        ("synthtic:64x48", "did you mean 'synthetic:'"),
        ("7", "camera:7"),
        ("192.168.1.64:554/stream", "an address begins with its scheme, such as rtsp://"),
        ("cam.lan:80/a.mjpg", "an address begins with its scheme, such as rtsp://"),
    ],
)
def test_missing_paths(text, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceOpenError, match="no such file or folder") as caught:
        parse_source(text)
    assert caught.value.cause == "not_found"
    assert hint in str(caught.value)


def test_files_folders_and_globs(tmp_path):
    (tmp_path / "clip one.mp4").write_bytes(b"x")
    folder = tmp_path / "pictures é"
    folder.mkdir()
    write(folder / "b.PNG", encode_number(1, 48, 64))
    clip = parse_source(str(tmp_path / "clip one.mp4"))
    assert (clip.kind, clip.default_name, clip.live) == ("file", "clip one", False)
    assert parse_source(str(folder)).default_name == "pictures é"
    assert parse_source(str(folder / "*.PNG")).kind == "pictures"
    assert parse_source(str(folder / "b.PNG")).default_name == "b"


def test_a_file_whose_name_looks_like_a_glob_or_a_prefix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a[1].mp4", "camera:0"):
        (tmp_path / name).write_bytes(b"x")
        assert parse_source(name).kind == "file"


def test_nothing_to_show(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    for text, said in (
        (str(tmp_path), "no picture in this folder"),
        (str(tmp_path / "*.png"), "nothing matches"),
        (str(tmp_path / "*.txt"), "none of the 1 matches is a picture"),
    ):
        with pytest.raises(SourceOpenError, match=said) as caught:
            parse_source(text)
        assert caught.value.cause == "not_found"


def test_names_pass_the_configs_own_check(tmp_path):
    path = tmp_path / "a{b}\\c.mp4"
    path.write_bytes(b"x")
    name = parse_source(str(path)).default_name
    assert StreamConfig(source="x", name=name).name == "a_b_c"


@given(st.text(max_size=60))
def test_any_text_gives_a_spec_or_a_one_line_error(text):
    message = ""
    try:
        StreamConfig(source=text, name=parse_source(text).default_name)
    except PipelineError as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize(
    "address",
    ["rtsp://user:p@SECRET/w@127.0.0.1:1/s", "rtsp://user:p/SECRET@host/s", "rtsp://user:SECRET#x@host/s"],
)
def test_a_password_that_is_not_encoded_is_refused_with_the_remedy_and_not_shown(address: str) -> None:
    with pytest.raises(ConfigError, match="percent-encode") as raised:
        parse_source(address)
    assert "SECRET" not in str(raised.value)


def test_no_part_of_a_password_becomes_the_name() -> None:
    assert parse_source("rtsp://user:123/SECRET@host/s").default_name == "host"
