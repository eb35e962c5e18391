"""Configuration: everything checked once, with errors that say what was meant."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from pipeline.cli.flags import flag
from pipeline.config import (
    CameraConfig,
    Config,
    StreamConfig,
    changed,
    host_and_port,
    make_config,
    make_stream,
    reloaded,
)
from pipeline.configfile import load_config
from pipeline.errors import ConfigError
from pipeline.wording import nearest


def write(folder: Path, text: str) -> Path:
    path = folder / "line.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_says_all_that_flags_can_and_flags_win(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "streams:\n- {source: 'rtsp://cam/1', name: yard, live: true, every_nth: 2}\n- source: b.mp4\n"
        "model: nanodet-g\nclasses: person, car\nconf_threshold: 0.3\nmetrics: '127.0.0.1:9108'\n",
    )
    config = load_config(path, {"conf_threshold": 0.6})
    assert [stream.name for stream in config.streams] == ["yard", None]
    assert config.streams[0].every_nth == 2
    assert config.classes == ["person", "car"]
    assert config.conf_threshold == 0.6


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("streams: [{source: a, nmae: x}]", "unknown key 'streams.0.nmae'; did you mean 'name'?"),
        ("streams: [{source: a}]\nconf: 0.3", "unknown key 'conf'; did you mean 'conf_threshold'?"),
        (
            "streams: [{source: a, camera: {widht: 3}}]",
            "unknown key 'streams.0.camera.widht'; did you mean 'width'",
        ),
        ("streams: [{source: a}]\nevery_nth: 2", "'every_nth': it belongs to a stream, under 'streams'"),
        ("stream: []", "'streams' is missing"),
        ("streams: []", "at least 1 item"),
        (
            "streams: [{source: a}]\nconf_threshold: 1.5",
            "conf_threshold: Input should be less than or equal to 1",
        ),
        ("streams: [{source: a, name: x}, {source: b, name: x}]", "two streams are called 'x'"),
        ("streams: [{source: a, name: 'x/y'}]", "has no slash"),
        ("streams: [{source: a}]\nmetrics: '9108'", "expected HOST:PORT"),
        ("streams: [{source: a}]\nclasses: ','", "expected class labels separated by commas"),
        ("- a\n- b", "expected a mapping"),
        ("", "an empty file"),
        ("a: [", "not valid YAML in line 2, column 1: a [ or {"),
        ("a: [1\nb: {", "a [ or { is not closed"),
        ("streams:\n- source: sample:\n", "line 2, column 17: a value with a colon at its end"),
        ("streams:\n\t- source: a\n", "indent with spaces"),
        ("model: @canary", "stands in quotes"),
        ("model: 'canary", "a quote is not closed"),
        ("model: *canary", "compare docs/configuration.md"),
        ("streams: [{source: a}]\nbatch: 1\nmodel: m\nbatch: 2", "'batch' stands twice, again in line 4"),
        ("streams: [{source: a, name: x, name: y}]", "'name' stands twice"),
        ("streams: [{source: a}]\njsonl: ''", "jsonl: String should have at least 1 character"),
        ("streams: [{source: a}]\nprovider: CPU", "did you mean 'cpu'"),
    ],
)
def test_what_cannot_be_meant_is_said(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(write(tmp_path, text))
    assert says in str(raised.value)
    assert "line.yaml" in str(raised.value)


def test_an_unknown_provider_is_named_with_the_valid_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown provider 'cuda12'; did you mean 'cuda'\? Known: auto, cpu, cuda, "
    ):
        make_config({"streams": [{"source": "a"}], "provider": "cuda12"})


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.yaml")
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(binary)


def test_nearest() -> None:
    assert nearest("conf", ["jsonl", "conf_threshold", "config_x"]) in ("conf_threshold", "config_x")
    assert nearest("modle", ["model", "metrics"]) == "model"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1:9108", ("127.0.0.1", 9108)), ("[::1]:80", ("::1", 80)), ("localhost:0", ("localhost", 0))],
)
def test_host_and_port(text: str, expected: tuple[str, int]) -> None:
    assert host_and_port(text) == expected


@pytest.mark.parametrize(
    "text", ["[::1:80", "::1]:80", "[::1]]:80", "[]:80", "[:80", "a[b]:80", "[::1]", ":80", "x:65536", "x:٣"]
)
def test_what_is_no_host_and_port(text: str) -> None:
    with pytest.raises(ConfigError, match="metrics: expected HOST:PORT, such as") as raised:
        make_config({"streams": [{"source": "a.mp4"}], "metrics": text})
    assert "\n" not in str(raised.value)


def defaults_and_others() -> list[tuple[str, object]]:
    """Each key of a stream, and something else than its default."""
    others = {
        "name": "x", "pace": 5.0, "live": True, "loop": True, "every_nth": 3, "max_frames": 7,
        "damaged": "drop", "reconnect": False, "backoff": 0.5, "backoff_max": 3.0, "rtsp_transport": "tcp",
        "open_timeout": 3.0, "stall_timeout": 4.0, "health": True, "frozen_seconds": 3.0,
        "black_seconds": 4.0, "decode_threads": 3, "isolate": True, "not_ready_when": ["black"],
        "max_picture": 4096, "tls_verify": False, "tls_ca_file": "ca.pem", "hwdecode": "auto",
        "camera": CameraConfig(width=640), "paused": True,
    }  # fmt: skip
    assert others.keys() == StreamConfig.model_fields.keys() - {"source"}
    return list(others.items())


@pytest.mark.parametrize(("key", "other"), defaults_and_others())
def test_none_is_a_keys_default(key: str, other: object) -> None:
    stream = make_stream({"source": "a.mp4", "backoff": 2.0, key: other})
    again = make_stream(changed(stream, {key: None}))
    assert getattr(stream, key) == other
    assert (
        getattr(again, key) == StreamConfig.model_fields[key].get_default(call_default_factory=True) != other
    )
    assert again.model_dump(exclude={key}) == stream.model_dump(exclude={key})


def test_none_is_no_value_of_a_key_that_there_is_not() -> None:
    stream = make_stream({"source": "a.mp4"})
    with pytest.raises(ConfigError, match=r"unknown key 'streams\.0\.every_nht'; did you mean 'every_nth'"):
        make_stream(changed(stream, {"every_nht": None}))
    with pytest.raises(ConfigError, match=r"'streams\.0\.source' is missing"):
        make_stream(changed(stream, {"source": None}))


def test_another_model_with_the_defaults_of_some_keys() -> None:
    given = {"provider": "cpu", "conf_threshold": 0.9, "rewrite": False, "device": [0], "batch": 2}
    config = make_config({"streams": [{"source": "a.mp4"}], "sink_timeout": None, **given})
    now = reloaded(config, dict.fromkeys(given))
    assert all(getattr(now, key) == Config.model_fields[key].default for key in given)
    assert now.sink_timeout is None  # which somebody has asked for, and is no default
    with pytest.raises(ConfigError, match="jsonl: it is no key of the model's"):
        reloaded(config, {"jsonl": None})


def laughs(levels: int) -> str:
    """Ten times as many values at each level, in one line each."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


def merges(levels: int) -> str:
    lines = ["m0: &m0 {k: v}"]
    lines += [f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 10)}]}}" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (laughs(30), "aliases stand for more than"),
        (merges(30), "aliases stand for more than"),
        ("a: &a [*a]", "an alias in line 1 holds itself"),
        *(
            (text, "a value in it is not what its tag or form says")
            for text in (
                "a: !!int ''",
                "a: !!float ''",
                "a: !!bool canary",
                "a: !!timestamp x",
            )
        ),
        ("? [a, b]\n: 1\n", "is not valid YAML"),
        ("batch: 0x" + "F" * 6000, "the number in line 1 has more than 100 digits"),
        ("a: 1\nbatch: 1" + ":1" * 300_000, "the number in line 2 has more than 100 digits"),
        ("a: " + "[" * 5000, "deeper than 100 levels"),
        ("[" * 60_000, "deeper than 100 levels"),  # the composer of libyaml recurses in C
        ("- " * 60_000, "deeper than 100 levels"),
        ("a: [" + "1," * 200_000 + "]", "more than 100,000 values"),
        ("a: '" + "x" * (1 << 20) + "'", "more than 1 MiB"),
        (
            "".join(f"- &a{n} {'[' * 50}{f'*a{n - 1}' if n else 1}{']' * 50}\n" for n in range(40)),
            "aliases nest deeper than 100 levels",
        ),
    ],
)
def test_a_config_that_would_exhaust_memory_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(write(tmp_path, text))


def test_aliases_that_repeat_little_are_allowed(tmp_path: Path) -> None:
    path = write(tmp_path, "streams:\n- &s {source: a, every_nth: 2}\n- {<<: *s, source: b}\n")
    assert [(s.source, s.every_nth) for s in load_config(path).streams] == [("a", 2), ("b", 2)]


@pytest.mark.timeout(25)
def test_a_config_of_a_megabyte_is_read_before_anybody_waits(tmp_path: Path) -> None:
    """By libyaml: PyYAML alone takes a minute for it, beside which live streams would stand still."""
    path = write(tmp_path, "streams: [" + "a," * 500_000 + "]")
    with pytest.raises(ConfigError):
        load_config(path)


def test_a_switch_is_no_number() -> None:
    """What is given as true is true afterwards, or refused."""
    for key in [*StreamConfig.model_fields, *Config.model_fields]:
        stream = key in StreamConfig.model_fields
        with contextlib.suppress(ConfigError):
            made = (
                make_stream({"source": "a", key: True})
                if stream
                else make_config({"streams": [{"source": "a"}], key: True})
            )
            assert getattr(made, key) is True, key
    with pytest.raises(ConfigError, match="input_size: expected a number, not true"):
        make_config({"streams": [{"source": "a"}], "input_size": [True, 320]})
    with pytest.raises(ConfigError, match="width: expected a number, not true"):
        make_stream({"source": "a", "camera": {"width": True}})


def test_what_is_wrong_twice_is_said_once() -> None:
    with pytest.raises(ConfigError) as raised:
        # For the width and for the height, which are one flag.
        make_config({"streams": [{"source": "a.mp4"}], "input_size": 0}, named=flag)
    assert str(raised.value).count("--input-size") == 1


def test_of_thousands_of_problems_some_are_told(tmp_path: Path) -> None:
    path = write(tmp_path, "streams: [{source: a}]\n" + "".join(f"k{n}: 1\n" for n in range(3000)))
    with pytest.raises(ConfigError, match=r"; and 2980 more$") as raised:
        load_config(path)
    assert len(str(raised.value)) < 50_000


@pytest.mark.parametrize("key", ["jsonl", "video", "pictures", "summary", "model"])
def test_no_name_holds_a_null_character(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: .* null character"):
        make_config({"streams": [{"source": "a"}], key: "a\0b.mp4"})
