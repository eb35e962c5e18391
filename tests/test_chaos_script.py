"""The chaos kit's words: faults as text and YAML, what runs when, and RTSP over TCP in pieces."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import chaos
from pipeline.chaos.dialogue import Splitter
from pipeline.chaos.faults import parse_fault
from pipeline.chaos.kinds import KINDS, described
from pipeline.chaos.script import Script
from pipeline.errors import ConfigError
from tests.clips import make_clip


def test_a_fault_as_text():
    fault = parse_fault("drop@2.5:rate=0.05,for=10,of=connection,times=7")
    assert (fault.kind, fault.at, fault.lasts, fault.each, fault.times) == ("drop", 2.5, 10, True, 7)
    assert fault["rate"] == 0.05 and fault.after_bytes is None
    assert parse_fault("stall@5000B").after_bytes == 5000 and parse_fault("stall@5000B").each
    assert parse_fault("stall").at == 0 and parse_fault("stall").lasts == math.inf
    assert parse_fault("reset@3s").lasts == 0 and parse_fault("restart@1").lasts == 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "password"])
def test_a_fault_says_itself_as_it_is_read(kind):
    values = {"rate": "0.5", "bytes": "7", "by": "2", "fps": "12.5"}
    keys = [f"{key}={values[key]}" for key in KINDS[kind].keys]
    fault = parse_fault(f"{kind}@1.5:{','.join([*keys, 'times=3'])}")
    assert parse_fault(str(fault)) == fault


def test_a_password_is_never_shown():
    fault = parse_fault("password@1:user=somebody,password=s3cret-W0rd")
    assert fault["password"] == "s3cret-W0rd"
    for shown in (str(fault), repr(fault), f"{chaos.Fault}"):
        assert "s3cret-W0rd" not in shown and "somebody" not in shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stal@2", "did you mean stall"),
        ("drop@2", "drop needs rate"),
        ("drop@2:rate=2", r"within 0\.\.1"),
        ("drop@2:rate=x", "expected a number"),
        ("stall@x", "expected seconds or bytes"),
        ("drop@5000B:rate=0.1", "after bytes can: stall, reset, close"),
        ("reset@1:for=2", "no key 'for'"),
        ("restart@1:of=connection", "no key 'of'"),
        ("stall@1:for=0", "above 0"),
        ("stall@1:for=1,for=2", "once each"),
        ("stall@1:for", "NAME=VALUE"),
        ("jump@1:by=inf", "seconds"),
        ("", "such as stall@2"),
        ("password@1:password=${FRAMERAIL_NO_SUCH_VARIABLE}", "is not set"),
    ],
)
def test_a_fault_that_cannot_be_meant(text, said):
    with pytest.raises(ConfigError, match=said):
        parse_fault(text)


def test_a_script_in_yaml_says_the_same_as_text(tmp_path, monkeypatch):
    monkeypatch.setenv("CAMERA_PASSWORD", "s3cret")
    path = tmp_path / "script.yaml"
    path.write_text(
        "seed: 7\n"
        "faults:\n"
        "- stall@2:for=3\n"
        "- {kind: drop, at: 5, for: 10, rate: 0.05}\n"
        "- {kind: reset, at: 5000B, times: 1}\n"
        "- {kind: password, at: 6, password: '${CAMERA_PASSWORD}'}\n"
    )
    faults, seed = chaos.load_script(path)
    assert seed == 7
    texts = ("stall@2:for=3", "drop@5:for=10,rate=0.05", "reset@5000B:times=1", "password@6:password=s3cret")
    assert faults == tuple(parse_fault(text) for text in texts)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("faults: 3", "expected the keys faults"),
        ("fault: []", "expected the keys faults"),
        ("faults: [3]", "expected a fault such as"),
        ("faults: [{at: 3}]", "expected a fault such as"),
        ("seed: x\nfaults: []", "a whole number"),
        ("a: [", "cannot read the script"),
    ],
)
def test_a_script_that_cannot_be_meant(tmp_path, text, said):
    path = tmp_path / "script.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        chaos.load_script(path)


def test_every_kind_is_described():
    assert [row["kind"] for row in described()] == list(KINDS)
    assert "drop@WHEN:rate=…" in next(row["written"] for row in described() if row["kind"] == "drop")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def script(*texts: str) -> tuple[Script, Clock]:
    clock = Clock()
    return Script([parse_fault(text) for text in texts], 1, clock), clock


def test_what_lasts_is_on_in_its_time_only():
    kit, clock = script("stall@2:for=3")
    victim = kit.victim()
    seen = []
    for _ in range(12):
        seen.append(victim.lasting("stall") is not None)
        clock.now += 0.5
    assert seen == [False] * 4 + [True] * 6 + [False] * 2
    assert victim.lasting("drop") is None


def test_what_happens_once_happens_once_to_each_that_is_there():
    kit, clock = script("jump@2:by=9", "jump@1:by=1,of=connection")
    early = kit.victim()
    assert early.once("jump") is None
    clock.now += 2.5
    late = kit.victim()
    assert sorted(fault["by"] for fault in iter(lambda: early.once("jump"), None)) == [1, 9]
    assert late.once("jump") is None
    clock.now += 1
    assert late.once("jump")["by"] == 1 and late.once("jump") is None


def test_no_more_than_it_may():
    kit, _ = script("drop:rate=1,times=2")
    victim = kit.victim()
    hits = 0
    while (fault := victim.lasting("drop")) is not None:
        victim.hit(fault)
        hits += 1
    assert hits == 2 == kit.injected["drop"]
    assert kit.victim().lasting("drop") is None


def test_the_same_seed_draws_the_same_and_for_each_fault_by_itself():
    def draws(kit: Script, index: int) -> list[float]:
        chance = kit.victim().chance(kit.faults[index])
        return [chance.random() for _ in range(5)]

    one, two = (script("drop:rate=1", "corrupt:rate=1")[0] for _ in range(2))
    assert draws(one, 1) == draws(two, 1)
    assert draws(script("drop:rate=1", "corrupt:rate=1")[0], 0) != draws(two, 1)


pieces = st.one_of(
    st.binary(max_size=40).map(lambda data: b"$\x00" + struct.pack(">H", len(data)) + data),
    st.binary(max_size=40).map(
        lambda data: b"RTSP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data
    ),
    st.just(b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n"),
)


@given(st.lists(pieces, max_size=12), st.lists(st.integers(1, 30), min_size=1))
def test_rtsp_over_tcp_is_cut_right_whatever_pieces_it_comes_in(wanted, sizes):
    data, got, place, n = b"".join(wanted), [], 0, 0
    splitter = Splitter()
    while place < len(data):
        size = sizes[n % len(sizes)]
        got += splitter.feed(data[place : place + size])
        place, n = place + size, n + 1
    assert [piece.data for piece in got] == wanted and splitter.rest() == b""
    assert [piece.channel for piece in got] == [0 if one[:1] == b"$" else None for one in wanted]


@given(st.binary(max_size=300), st.integers(1, 50))
def test_whatever_is_cut_comes_out_again(data, size):
    splitter = Splitter()
    out = b"".join(
        piece.data
        for place in range(0, len(data), size)
        for piece in splitter.feed(data[place : place + size])
    )
    assert out + splitter.rest() == data


DOCUMENT = (Path(__file__).parent.parent / "docs" / "chaos.md").read_text(encoding="utf-8")


def test_the_document_names_every_fault_as_the_table_does():
    rows = [line.strip("|").split("|") for line in DOCUMENT.splitlines() if line.startswith("| `")]
    assert [row[0].split("`")[1] for row in rows] == list(KINDS)
    for kind, (_, does, keys, _) in zip(KINDS, rows, strict=True):
        assert does.strip() == KINDS[kind].does
        named = dict(re.findall(r"`(\w+)`(?:: (\w+))?", keys))
        lasts = KINDS[kind].lasts
        wanted = {key: str(KINDS[kind].defaults.get(key, "")) for key in KINDS[kind].keys}
        assert named == wanted | ({"for": f"{lasts:g}"} if lasts not in (None, math.inf) else {})


def test_the_document_shows_faults_that_can_be_meant(tmp_path, monkeypatch):
    monkeypatch.setenv("CAMERA_PASSWORD", "s3cret")
    shown = re.findall(r"--fault (\S+)", DOCUMENT)
    assert len(shown) > 4 and all(parse_fault(text.rstrip("`.")) for text in shown)
    script = tmp_path / "faults.yaml"
    script.write_text(re.search(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)[1])
    assert len(chaos.load_script(script)[0]) == 4


def test_the_document_s_example_works(tmp_path, monkeypatch):
    make_clip(tmp_path / "clip.mp4", frames=100)
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)[1], {})
