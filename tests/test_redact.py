"""No password leaves in any text."""

from __future__ import annotations

import json
import re
import traceback
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import make_config
from pipeline.errors import ConfigError, SourceOpenError
from pipeline.redact import MASK, conceal, protect, redact
from pipeline.sources import parse_source

SECRET = "hunter2canary"


@pytest.mark.parametrize(
    "text",
    [
        f"rtsp://admin:{SECRET}@cam/stream",
        f"cannot open 'rtsp://admin:{SECRET}@10.0.0.1:554/s' now",
        f"RTSPS://admin:{SECRET}@[::1]/x",
        f"http://cam/video?user=admin&password={SECRET}&res=1",
        f"http://cam/video?pwd={SECRET}",
        f"http://cam/a.m3u8?token={SECRET}#x",
        f"srt://host:1?passphrase={SECRET}&mode=caller",
        f"Authorization: Basic {SECRET}",
        f"authorization: Digest username=a, response={SECRET}",
        f"rtsp://user:p@ss{SECRET}@host/",
        f"rtsp://user:p/a{SECRET}@host/x",
        f"rtsp://user:pa'ss{SECRET}@host/x",
        f"rtsp://user:pa ss{SECRET}@host/x",
        f'rtsp://user:pa"<>{SECRET}@host/x',
        f"rtsp:/user:{SECRET}@host/x",
        f"rtsp:user:{SECRET}@host/x",
        f"cannot open user:{SECRET}@host/x now",
        f"rtsp://cam/user=admin_password={SECRET}_channel=1",
        f"http://cam/video?loginuse=a&loginpas={SECRET}",
        f"http://cam/video?pw={SECRET}",
        f"http://cam/video?password=a;{SECRET}",
        f"http://cam/video?password=a'{SECRET}",
        f"http://cam/video?password=a#{SECRET}",
        f"http://cam/x?auth_code={SECRET}",
        f"http://cam/x?user[password]={SECRET}",
        f"http://cam/x?password%3D{SECRET}",
        f"http://cam/x?a=1&sessionid={SECRET}",
        f"http://cam/x?k={SECRET}",
        f"http://cam/a.ts?hdnea=st=1~hmac={SECRET}",
        f"http://cam/x#token={SECRET}",
        f" pubPasswd={SECRET}",
        f"//admin:{SECRET}@h/x",
        f"two: rtsp://a:{SECRET}@h/1 and http://b:{SECRET}@i/2",
    ],
)
def test_secrets_go(text: str) -> None:
    assert SECRET not in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://camera:554/stream",
        "http://cam/live?channel=1&subtype=0",
        "synthetic:64x48@25?frames=9",
        "a mail to someone@example.org",
        "C:/videos/a@b.mp4",
        "12:30:01 3 @ 4",
        "",
    ],
)
def test_the_rest_stays(text: str) -> None:
    assert redact(text) == text


def test_the_host_stays_readable() -> None:
    assert redact(f"rtsp://admin:{SECRET}@cam:554/s?x=1") == "rtsp://***@cam:554/s?x=1"


@pytest.mark.parametrize(
    "address",
    [
        f"rtsp//admin:{SECRET}@127.0.0.1/x",
        f"rtsp;//admin:{SECRET}@h",
        f"rtsp: //admin:{SECRET}@h/x",
        f"admin:my {SECRET}@h/x",
        f"ртсп://admin:{SECRET}@h",
        f"1rtsp://admin:{SECRET}@h",
        f"_rtsp://admin:{SECRET}@h",
        f"rtsps://admin:{SECRET}",
    ],
)
def test_even_of_an_address_mistyped_beyond_recognition(address: str) -> None:
    with pytest.raises((ConfigError, SourceOpenError)) as caught:
        parse_source(address)
    assert SECRET not in str(caught.value)


def test_a_config_mistake_shows_no_half_of_a_password() -> None:
    url = f"rtsp://u:{SECRET}LongEnoughToBeShortened@cam.example/stream1"
    for data in ({"streams": [url]}, {"streams": url}, {"streams": [{"source": "a", "live": url}]}):
        with pytest.raises(ConfigError) as caught:
            make_config(data)
        text = "".join(traceback.format_exception(caught.value))
        assert SECRET not in text and "LongEnough" not in text and SECRET[:6] not in text.replace(url, "")
    assert SECRET not in repr(make_config({"streams": [{"source": url}]}))


def test_the_secrets_of_a_given_address_go_from_any_text() -> None:
    protect("rtsp://admin:p%40ss0815@cam/x?token=t0ken4711")
    assert redact("401 for p@ss0815, p%40ss0815 and t0ken4711") == "401 for ***, *** and ***"


@pytest.mark.parametrize(
    "secret", ["Zebrafish", "Zebr\u00e4f\u00fcsch", "Wal%72oss%C3%A4", "a b/c?d\U0001f600"]
)
def test_a_secret_goes_in_whatever_form_it_comes_back(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setattr("pipeline.redact._secrets", set())
    conceal(secret)
    plain = unquote(secret)
    quoted = quote(plain, safe="")
    forms = [
        secret,
        plain,
        quoted,
        re.sub("%..", lambda found: found[0].lower(), quoted),
        quote(plain),
        "".join(f"%{b:02X}" for b in plain.encode()),
    ]
    forms += [ascii(plain)[1:-1], repr(plain.encode())[2:-1], json.dumps(plain)[1:-1]]
    for form in forms:
        for text in (f"GET /x/{form}/y", f"glued{form}glued", f"%2F{form}", f"\\n{form}"):
            assert redact(text) == text.replace(form, MASK), form


@given(st.text(st.characters(blacklist_categories=("Z", "C"), blacklist_characters="'\"<>"), min_size=1))
def test_any_password_quoted_or_not(password: str) -> None:
    for written in (password, quote(password, safe="")):
        canary = f"{written}{SECRET}"
        assert SECRET not in redact(f"open rtsp://u:{canary}@cam/x failed")


def test_errors_are_redacted_and_one_line() -> None:
    for kind in (ConfigError, SourceOpenError):
        error = kind(f"first line\n  second rtsp://a:{SECRET}@cam")
        assert str(error) == "first line second rtsp://***@cam"
        assert SECRET not in repr(error)


def test_errors_cannot_speak_to_the_terminal() -> None:
    assert str(ConfigError("no file a\x1b[2Jb\udce9é")) == r"no file a\x1b[2Jb\udce9é"
