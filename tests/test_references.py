"""Credentials by reference: what stands in the config is a name, and the value is never shown."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import smallfile
from pipeline.accounts import StreamAccount
from pipeline.config import StreamConfig
from pipeline.configfile import load_config
from pipeline.decide import name_streams
from pipeline.errors import ConfigError
from pipeline.frame import Frame
from pipeline.redact import redact
from pipeline.references import MOST_BYTES, resolved, sources_in
from pipeline.sources import encode_number
from pipeline.stages.capture import Capture
from tests.command import framerail
from tests.test_sources_pictures import write

SECRET = "hunter2canary-ref"


def config_of(folder: Path, source: str) -> Path:
    path = folder / "line.yaml"
    path.write_text(f"streams:\n- source: '{source}'\n", encoding="utf-8")
    return path


def test_a_variable_and_a_file_stand_in_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAM_USER", "viewer-canary")
    (tmp_path / "pw").write_text(f"{SECRET}\n")
    config = load_config(config_of(tmp_path, "rtsp://${CAM_USER}:${file:" + f"{tmp_path}/pw" + "}@cam/x"))
    assert config.streams[0].source == f"rtsp://viewer-canary:{SECRET}@cam/x"
    assert SECRET not in repr(config)
    # Also where it is out of the address that it was put into.
    assert redact(f"tried {SECRET} of viewer-canary") == "tried *** of ***"


def test_what_is_resolved_is_not_resolved_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAM_PW", "${HOME}")
    assert resolved("rtsp://u:${CAM_PW}@cam/", "x") == "rtsp://u:${HOME}@cam/"


@given(st.lists(st.sampled_from(["a", "$", "{", "}", ":", "/", "${", "${HOME}"])).map("".join))
def test_an_escaped_text_is_itself(text: str) -> None:
    assert resolved(re.sub(r"\$\{", "$${", text), "x") == text


@pytest.mark.parametrize(
    ("text", "expected"), [("a$${HOME}b", "a${HOME}b"), ("$5", "$5"), ("a$b$$", "a$b$$"), ("{x}", "{x}")]
)
def test_text_that_is_no_reference(text: str, expected: str) -> None:
    assert resolved(text, "x") == expected


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            "rtsp://u:${NOT_SET_HERE}@cam/",
            "streams.0.source: the environment variable 'NOT_SET_HERE' is not set; set it, or write $${ for",
        ),
        ("rtsp://u:${EMPTY_HERE}@cam/", "'EMPTY_HERE' is empty"),
        ("rtsp://u:${CAM PW}@cam/", "is no reference"),
        ("rtsp://u:${}@cam/", "is no reference"),
        ("rtsp://u:${CAM_PW", "is not closed"),
        ("rtsp://u:${file:pw}@cam/", "a reference to a file: expected an absolute path"),
        ("rtsp://u:${file:/nowhere/at/all}@cam/", "the file '/nowhere/at/all': cannot be read: No such file"),
    ],
)
def test_what_cannot_be_resolved_names_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, says: str
) -> None:
    monkeypatch.setenv("EMPTY_HERE", "")
    with pytest.raises(ConfigError) as raised:
        load_config(config_of(tmp_path, source))
    assert says in str(raised.value)
    assert "line.yaml" in str(raised.value)


@pytest.mark.parametrize("text", ["", "\n", f"{SECRET}\nsecond", "x" * (MOST_BYTES + 1), f"{SECRET}\xff"])
def test_a_file_that_is_no_secret_is_not_shown(tmp_path: Path, text: str) -> None:
    (tmp_path / "pw").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError) as raised:
        resolved("rtsp://u:${file:" + f"{tmp_path}/pw" + "}@cam/", "x")
    assert SECRET not in str(raised.value)


def test_a_list_in_ones_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sources").write_text("rtsp://cam/1\n")
    assert sources_in("~/sources") == ["rtsp://cam/1"]


def test_a_list_of_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAM_PW", SECRET)
    path = tmp_path / "sources"
    path.write_text("# cameras\n\n  rtsp://u:other-canary@a/1  \nrtsp://u:${CAM_PW}@b/2\r\n")
    assert sources_in(str(path)) == ["rtsp://u:other-canary@a/1", f"rtsp://u:{SECRET}@b/2"]
    assert redact("other-canary") == "***"


def test_a_list_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "sources"
    path.write_text("# none yet\n")
    with pytest.raises(ConfigError, match="lists no source"):
        sources_in(str(path))
    with pytest.raises(ConfigError, match="No such file"):
        sources_in(str(tmp_path / "none"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_that_says_nothing_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smallfile, "SECONDS", 0.3)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    for read in (
        lambda: resolved(f"rtsp://u:${{file:{path}}}@cam/", "x"),  # nobody writes
        lambda: sources_in(str(path)),
        lambda: load_config(path),
    ):
        with pytest.raises(ConfigError):
            read()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(path, os.O_WRONLY)
    try:
        with pytest.raises(ConfigError, match="it is a pipe, and silent for"):
            sources_in(str(path))
        thread = threading.Timer(0.1, lambda: (os.write(writer, b"rtsp://a/1\n"), os.close(writer)))
        thread.start()
        assert sources_in(str(path)) == ["rtsp://a/1"], "as of a shell's <(command)"
        thread.join()
    finally:
        os.close(reader)


def test_what_cannot_be_read_is_an_error_of_ours_and_leaves_nothing_open(tmp_path: Path) -> None:
    folder = "/proc/self/fd"
    before = len(os.listdir(folder)) if os.path.isdir(folder) else None
    for _ in range(20):
        for read in (
            lambda: resolved(f"rtsp://u:${{file:{tmp_path}}}@cam/", "x"),  # a folder
            lambda: resolved("rtsp://u:${file:/tmp/a\0b}@cam/", "x"),
            lambda: load_config(tmp_path),
            lambda: load_config("a\0b"),
            lambda: load_config("~nobody-of-that-name/c.yaml"),
            lambda: sources_in("~nobody-of-that-name/c.txt"),
        ):
            with pytest.raises(ConfigError):
                read()
    assert before is None or len(os.listdir(folder)) == before


def test_what_stands_for_a_part_of_an_address_is_masked_whatever_it_looks_like(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PART", "canaryAA://canaryBB")
    address = resolved("http://127.0.0.1:1/${PART}/a.ts", "x")
    assert "canary" in address and "canary" not in redact(f"cannot open {address}")


@pytest.mark.parametrize(
    "command", ["run", "bench", "plan", "tune", "eval --reference nanodet-g", "chaos proxy"]
)
def test_references_on_every_command_line(command: str) -> None:
    """Which is told by one that cannot be resolved: nothing is opened."""
    done = framerail(*command.split(), "rtsp://a:${NOT_SET_ANYWHERE}@127.0.0.1:1/b")
    assert done.returncode == 2
    assert "SOURCE: the environment variable 'NOT_SET_ANYWHERE' is not set" in done.stderr


@pytest.mark.parametrize(
    ("secret", "source"),
    [
        ("kept1hunter", "{}/${{KEPT}}"),
        ("kept1hunter/", "{}/${{KEPT}}"),
        ("kept1hunter", "{}/${{KEPT}}.jpg"),
        ("kept1hunter.jpg", "{}/${{KEPT}}"),
        ("{}/kept1hunter.jpg", "${{KEPT}}"),
        ("kept1hunter", "{}/${{KEPT}}.mp4"),
        ("kept1hunter.mp4", "{}/${{KEPT}}"),
        ("kept1hunter", "{}/${{KEPT}}*.jpg"),
        ("{}/kept1hunter", "${{KEPT}}/*.jpg"),
        ("{}/kept1hunter/", "${{KEPT}}"),
        ("{}/kept1hunter/*.jpg", "${{KEPT}}"),
    ],
)
def test_a_secret_in_a_path_is_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str, source: str
) -> None:
    (tmp_path / "kept1hunter").mkdir()
    for name in ("kept1hunter/one.jpg", "kept1hunter.jpg"):
        write(tmp_path / name, encode_number(1, 48, 64))
    (tmp_path / "kept1hunter.mp4").write_bytes(b"x")
    monkeypatch.setattr("pipeline.redact._secrets", set())
    monkeypatch.setenv("KEPT", secret.format(tmp_path))
    streams = load_config(config_of(tmp_path, source.format(tmp_path))).streams
    named = name_streams([*streams, *streams])
    assert len(named) == 2
    for name, (spec, stream) in named.items():
        assert "hunter" not in name
        assert not {"*", "/"} & set(name)
        assert StreamConfig(source="x", name=name).name == name
        if spec.kind == "pictures":
            (frame,) = Capture(spec, stream, StreamAccount(name))()
            assert isinstance(frame, Frame)
            assert frame.source
            assert "hunter" not in frame.source
