"""Frozen, black, covered and slow streams are told from those of a working camera, and do not flap."""

from __future__ import annotations

import json
import logging
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from av.video.frame import VideoFrame
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import make_config
from pipeline.errors import ConfigError
from pipeline.frame import GRID, Decoded, Image, luma_grid
from pipeline.health import RECOVERED_SECONDS, StreamHealth
from pipeline.sources import Picture
from pipeline.sources.convert import Converter
from pipeline.summary import summarize
from tests.clips import make_clip
from tests.test_metrics import fetch, scrape
from tests.test_sources_media import opened
from tests.test_supervision import running

DRAW = np.random.default_rng(5)
SCENE = np.kron(DRAW.integers(40, 220, (9, 12)), np.ones((20, 20))).astype(np.float32)[..., None].repeat(3, 2)
"""[180, 240, 3]: large patches of many grey levels."""


def scene(noise: float = 0.0, level: float = 0.0) -> Image:
    """The scene as a sensor with that much noise gives it."""
    grain = DRAW.normal(0, noise, SCENE.shape[:2])[..., None] if noise else 0
    return np.clip(np.rint(SCENE + grain + level), 0, 255).astype(np.uint8)


LIVING = [scene(noise=1) for _ in range(8)]


def living() -> Image:
    """The scene with other noise than before, most of the time."""
    return LIVING[DRAW.integers(len(LIVING))]


class Watched:
    """A stream's health, whose clock is told, and the states that it went through."""

    def __init__(self, fps: float | None = None, frozen: float = 10, black: float = 10) -> None:
        self.now = 0.0
        self.health = StreamHealth("cam", lambda: self.now)
        self.health.watch(True, frozen, black, ())
        self.health.begin(fps)
        self.log: list[tuple[float, tuple[str, ...]]] = []

    def see(self, image: Image | Decoded, seconds: float, key: bool = True) -> tuple[str, ...]:
        """A picture ``seconds`` after the last."""
        self.now += seconds
        self.health.picture(image, key)
        if not self.log or self.log[-1][1] != self.health.states:
            self.log.append((self.now, self.health.states))
        return self.health.states

    def went(self) -> list[tuple[str, ...]]:
        return [states for _, states in self.log]


def test_the_same_picture_for_too_long_is_frozen_and_noise_is_not() -> None:
    still, live = Watched(), Watched()
    picture = scene()
    for _ in range(300):
        still.see(picture, 0.1)
        live.see(scene(noise=0.8), 0.1)
    assert live.went() == [("ok",)]
    assert still.went() == [("ok",), ("frozen",)]
    assert 10 <= still.log[1][0] <= 11


def test_what_an_encoder_skips_is_not_frozen_while_its_key_pictures_differ() -> None:
    """A still scene: between two key pictures each is exactly like the first."""
    watched = Watched()
    for n in range(1200):
        if n % 200 == 0:
            shown = scene(noise=1)
        watched.see(shown, 0.1, key=n % 200 == 0)
    assert watched.went() == [("ok",)]


def test_without_any_key_picture_it_takes_much_longer() -> None:
    watched = Watched()
    for n in range(700):
        watched.see(scene(), 0.1, key=n == 0)
    assert watched.went() == [("ok",), ("frozen",)]
    assert 60 <= watched.log[1][0] <= 61


def test_slow_movement_adds_up() -> None:
    """A percent of the picture at a time: no two looks differ, but the scene goes on."""
    watched, shown = Watched(), scene()
    for n in range(600):
        if n % 4 == 0:
            shown = shown.copy()
            shown[:, n // 4 % 120 * 2 : n // 4 % 120 * 2 + 2] ^= 0x40
        watched.see(shown, 0.1)
    assert watched.went() == [("ok",)]


def test_a_frozen_camera_that_comes_back_with_another_picture_is_still_frozen() -> None:
    watched = Watched()
    for shown in (scene(), scene(level=5)):
        for _ in range(120):
            watched.see(shown, 0.1)
    assert watched.went() == [("ok",), ("frozen",)]
    for _ in range(20):  # now it lives
        watched.see(scene(noise=1), 0.1)
    assert watched.went() == [("ok",), ("frozen",), ("ok",)]
    assert watched.now - watched.log[-1][0] > 1, "and that is seen at once"


@pytest.mark.parametrize("noise", [0, 1, 3])
@pytest.mark.parametrize("options", [{"crf": "20"}, {"crf": "34"}])
def test_still_scenes_through_a_real_encoder(tmp_path: Path, noise: float, options: dict[str, str]) -> None:
    """What x264 makes of them: with noise it lives, without it is taken for frozen, which it looks like."""
    images = (scene(noise) for _ in range(160))
    path = make_clip(
        tmp_path / "still.mp4", images=images, size=(240, 180), fps=8, gop=16,
        options={"preset": "veryfast", **options},
    )  # fmt: skip
    watched = Watched()
    repeated = 0
    with opened(path) as source:
        assert source.declared_fps == 8
        before = None
        for picture in source:
            assert isinstance(picture, Picture)
            luma = luma_grid(picture.pixels)
            repeated += before is not None and bool((luma == before).all())
            before = luma
            watched.see(picture.pixels, 1 / 8, picture.key)
    assert watched.went()[-1] == (("ok",) if noise else ("frozen",))
    assert len(watched.log) == (1 if noise else 2)
    if noise == 1 and options["crf"] == "34":
        assert repeated > 100, "the decoder was told to repeat most of them: that alone tells nothing"


def numbers(level: int) -> Image:
    """A dark picture of that brightness with some noise."""
    return np.clip(DRAW.normal(level, 2, (90, 120, 1)), 0, 255).astype(np.uint8).repeat(3, 2)


def test_black_and_covered() -> None:
    watched = Watched(black=5)
    for _ in range(40):
        watched.see(scene(noise=1), 0.2)
    for _ in range(40):
        watched.see(numbers(4), 0.2)  # a lens cap: no light, some noise
    for _ in range(40):
        watched.see(numbers(18), 0.2)  # between the two levels it stays what it was
    for _ in range(60):
        watched.see(numbers(90), 0.2)  # a hand on the lens: light, and nothing to see
    for _ in range(20):
        watched.see(scene(noise=1), 0.2)
    assert watched.went() == [("ok",), ("black",), ("ok",), ("covered",), ("ok",)]
    black, covered = watched.log[1][0], watched.log[3][0]
    assert black - 8 == pytest.approx(5, abs=1)
    assert covered - 24 == pytest.approx(5, abs=1)


@pytest.mark.parametrize(
    ("level", "state"), [(14, "black"), (18, "covered"), (23, "covered"), (27, "covered")]
)
def test_there_is_no_brightness_at_which_a_lens_cap_is_well(level: int, state: str) -> None:
    watched = Watched(black=5)
    for _ in range(60):
        watched.see(np.clip(DRAW.normal(level, 0.7, (90, 120, 1)), 0, 255).astype(np.uint8).repeat(3, 2), 0.2)
    assert watched.went()[-1] == (state,)


def test_time_without_pictures_is_no_time_of_the_same_or_of_black_ones() -> None:
    watched = Watched(black=5, frozen=5)
    for _ in range(10):
        watched.see(scene(noise=1), 0.2)
    black = np.zeros((90, 120, 3), np.uint8)
    for _ in range(5):
        watched.see(black, 0.2)
    for _ in range(2):  # away for an hour; it was opened once, and nothing came
        watched.now += 1800
        watched.health.begin(None)
    for _ in range(15):
        watched.see(black, 0.2)
    assert watched.went() == [("ok",)]
    for _ in range(15):
        watched.see(black, 0.2)
    assert set(watched.went()[-1]) == {"frozen", "black"}


def test_a_dark_scene_with_a_light_in_it_is_not_black() -> None:
    watched, shown = Watched(black=2), numbers(4)
    shown[20:45, 30:60] = 140  # a lit window
    for _ in range(60):
        watched.see(shown ^ DRAW.integers(0, 2, shown.shape, np.uint8), 0.2)
    assert watched.went() == [("ok",)]


@pytest.mark.parametrize(
    ("real", "states"),
    [(25, "ok"), (14, "ok"), (11, "rate"), (1, "rate"), (45, "ok"), (55, "rate")],
)
def test_a_rate_far_from_the_declared_one(real: int, states: str) -> None:
    watched = Watched(fps=25)
    for _ in range(25 * real):
        watched.see(living(), 1 / real)
    assert watched.health.states == (states,)
    assert watched.health.fps == pytest.approx(real, rel=0.1)
    undeclared = Watched(fps=90_000)  # ticks, not pictures
    for _ in range(25 * real):
        undeclared.see(living(), 1 / real)
    assert undeclared.health.states == ("ok",)


@pytest.mark.parametrize("dark", [1, 4])
def test_pictures_that_are_left_out_came(dark: int) -> None:
    """Where decoding is too slow: four seconds of every third picture, and then those that were left out."""
    watched = Watched(fps=30)
    for _ in range(8):
        for _ in range(40):
            watched.see(living(), 0.1)
        watched.now += dark
        for _ in range(30 * (4 + dark) - 40):
            watched.health.missed()
    assert watched.went() == [("ok",)]
    assert watched.health.fps == pytest.approx(30, rel=0.35)


def test_an_outage_right_after_pictures_that_were_left_out_is_no_slow_rate() -> None:
    watched = Watched(fps=25)
    for _ in range(30 * 25):
        watched.see(living(), 1 / 25)
    for _ in range(25):
        watched.health.missed()
    watched.now += 60
    watched.health.begin(25)
    for _ in range(30 * 25):
        watched.see(living(), 1 / 25)
    assert watched.went() == [("ok",)]


def test_a_rate_has_to_come_back_clearly() -> None:
    watched = Watched(fps=20)
    for real in (9, 11, 11, 14):
        for _ in range(15 * real):
            watched.see(living(), 1 / real)
        if real == 11:
            assert watched.health.states == ("rate",)
    assert watched.went() == [("ok",), ("rate",), ("ok",)]


@pytest.mark.parametrize("each", [1, 3, 12, 50, 90])
@pytest.mark.parametrize(("real", "state"), [(10, "ok"), (3, "rate")])
def test_a_source_that_is_opened_anew_every_few_seconds_has_a_rate(each: int, real: int, state: str) -> None:
    """Of the pictures that came in ten seconds, in however many connections; what was off comes to an end."""
    watched = Watched(fps=10)
    for _ in range(4 * 15):
        watched.see(living(), 1 / 4)
    assert watched.health.states == ("rate",)
    for number in range(200):
        if number % each == 0:
            watched.now += 3
            watched.health.begin(10)
        watched.see(living(), 1 / real)
    assert watched.health.states == (state if each > 1 else "ok",), "one by itself has no rate"
    if each >= 12:
        assert watched.health.fps == pytest.approx(real, rel=0.2)


def test_what_was_off_another_declared_rate_is_not_off_this_one() -> None:
    watched = Watched(fps=10)
    for _ in range(4 * 15):
        watched.see(living(), 1 / 4)
    assert watched.health.states == ("rate",)
    for declared in (4, 5, 4, 5):  # opened anew before there is a rate
        watched.health.begin(declared)
        for _ in range(4 * 4):
            assert watched.see(living(), 1 / 4) == ("ok",)


def test_another_source_begins_without_the_states_of_the_one_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A new connection to the same one keeps them."""
    caplog.set_level(logging.INFO)
    watched = Watched(fps=10, frozen=2, black=2)
    for _ in range(4 * 15):
        watched.see(np.zeros((90, 120, 3), np.uint8), 1 / 4)
    assert watched.health.states == ("frozen", "black", "rate")
    watched.health.begin(10)
    assert watched.see(np.zeros((90, 120, 3), np.uint8), 1) == ("frozen", "black", "rate")
    watched.health.renewed()
    assert (watched.health.states, watched.health.fps, watched.health.declared_fps) == ((), None, None)
    assert caplog.messages[-1] == "stream cam is looked at anew; it was frozen, black, off its declared rate"
    watched.health.begin(10)
    assert watched.see(scene(), 1) == ("ok",)


@given(st.lists(st.tuples(st.integers(0, 60), st.floats(0.05, 3)), min_size=1, max_size=150))
def test_nothing_flaps(pictures: list[tuple[int, float]]) -> None:
    """Whatever comes and whenever: two changes of one state are apart by what it takes to be sure."""
    watched = Watched(fps=2, frozen=4, black=4)
    for level, seconds in pictures:
        watched.see(numbers(level), seconds)
    for state in ("black", "covered"):
        changes = []
        holds = False
        for at, states in watched.log:
            if (state in states) != holds:
                holds = not holds
                changes.append((at, holds))
        for (before, _), (after, entered) in pairwise(changes):
            assert after - before >= (4 if entered else RECOVERED_SECONDS) - 1e-6
    assert all(states == ("ok",) or "ok" not in states for _, states in watched.log if states)


GREY = np.linspace(0, 255, 96, dtype=np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2)


@pytest.mark.parametrize(
    "pix_fmt", ["yuv420p", "yuv444p", "yuvj422p", "nv12", "yuv420p10le", "p010le", "gray"]
)
def test_luma_is_read_where_it_lies(pix_fmt: str) -> None:
    """As bright as the converted picture is, whose green is a grey picture's luma in full range."""
    found, picture = luma_of(pix_fmt)
    assert isinstance(picture, Decoded)
    assert np.abs(found - picture.bgr()[2::4, 2::4, 1].astype(int)).max() <= 3
    assert np.ptp(found) > 230
    assert np.abs(found - luma_grid(picture).astype(int)).max() <= 3, "also once it is converted"


@pytest.mark.parametrize("pix_fmt", ["yuyv422", "gbrp", "bgr0", "gray16be"])
def test_where_there_is_no_plane_of_luma_the_picture_is_converted(pix_fmt: str) -> None:
    found, picture = luma_of(pix_fmt)
    image = picture.bgr() if isinstance(picture, Decoded) else picture
    assert (found == image[2::4, 2::4, 1]).all()


def luma_of(pix_fmt: str) -> tuple[np.ndarray, Image | Decoded]:
    frame, converter = VideoFrame.from_ndarray(GREY, "bgr24").reformat(format=pix_fmt), Converter("x")
    converter.pixels(frame)  # the first of its kind is converted at once
    picture = converter.pixels(frame)
    found = luma_grid(picture)
    assert found.shape == GRID and found.dtype == np.uint8
    return found, picture


def still_clip(path: Path, fps: int = 25) -> Path:
    return make_clip(path, images=[scene()] * 50, size=(240, 180), fps=fps)


def states_of(port: int, stream: str) -> dict[str, float]:
    found = scrape(port)["framerail_stream_health"]
    return {state: value for (state, name), value in found.items() if name == stream}


def alone(state: str) -> dict[str, float]:
    return {each: float(each == state) for each in ("ok", "frozen", "black", "covered", "rate")}


def test_in_the_line(cheap_model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    frozen = {
        "source": str(still_clip(tmp_path / "still.mp4")), "name": "still", "live": True, "loop": True,
        "frozen_seconds": 0.9,
    }  # fmt: skip
    file = {"source": "synthetic:64x48", "name": "file"}
    other = {"source": "synthetic:64x48@10", "name": "other", "live": True}
    with running(cheap_model, frozen, other, file, metrics="127.0.0.1:0") as run:
        port = run.line.metrics.port
        account = run.line.accounts.streams["still"]
        run.until(lambda: account.health_now == ("frozen",))
        assert states_of(port, "still") == alone("frozen")
        assert states_of(port, "other") == alone("ok")
        assert states_of(port, "file") == alone("nothing")  # no stream of a camera: it is not looked at
        told = json.loads(fetch(port, "/streams")[1])["streams"]
        assert (told["still"]["health"], told["other"]["health"], told["file"]["health"]) == (
            ["frozen"],
            ["ok"],
            [],
        )
        assert told["still"]["declared_fps"] == 25
        status, ready = fetch(port, "/readyz")
        assert status == 200 and json.loads(ready)["streams"]["still"]["unfit"] == []
        run.line.change_stream("still", not_ready_when=["frozen", "black"])
        run.until(lambda: fetch(port, "/readyz")[0] == 503)
        assert json.loads(fetch(port, "/readyz")[1])["streams"]["still"]["unfit"] == ["frozen"]
        run.line.change_stream("still", source="synthetic:64x48@50")
        run.until(lambda: fetch(port, "/readyz")[0] == 200)
        run.until(lambda: states_of(port, "still") == alone("ok"))
        told = summarize(run.line)["streams"]
        assert told["still"]["health_episodes"].keys() == {"frozen"}
        assert told["still"]["health_episodes"]["frozen"]["times"] == 1
        assert told["other"]["health_episodes"] == {}
        run.line.pause_stream("still")
        assert states_of(port, "still") == alone("nothing")
    said = [
        (record.levelname, record.message) for record in caplog.records if record.name == "pipeline.health"
    ]
    assert said == [
        ("WARNING", "stream still is frozen: the same for 0.9 s while pictures come"),
        ("INFO", "stream still is looked at anew; it was frozen"),
    ]


def test_what_cannot_be_meant_is_refused() -> None:
    for bad, word in (
        ({"not_ready_when": ["sleepy"]}, "not_ready_when"),
        ({"not_ready_when": "frozen", "health": False}, "leave out one"),
        ({"frozen_seconds": 0}, "frozen_seconds"),
    ):
        with pytest.raises(ConfigError, match=word):
            make_config({"streams": [{"source": "sample:", **bad}]})
    config = make_config({"streams": [{"source": "sample:", "not_ready_when": "frozen, black"}]})
    assert config.streams[0].not_ready_when == ["frozen", "black"]


def test_a_stall_is_no_time_of_the_same_or_of_black_ones_either() -> None:
    """Without a new connection: of the time between two pictures two seconds count at most."""
    watched = Watched(black=5, frozen=5)
    for _ in range(10):
        watched.see(scene(noise=1), 0.2)
    black = np.zeros((90, 120, 3), np.uint8)
    watched.see(black, 0.2)
    watched.see(black, 60)
    watched.see(black, 0.2)
    assert watched.went() == [("ok",)]
    watched.see(black, 60)
    watched.see(black, 60)  # three pictures that say the same for six seconds
    assert set(watched.went()[-1]) == {"frozen", "black"}


def test_how_often_and_for_how_long_it_held_is_kept() -> None:
    watched = Watched(black=5, frozen=100)
    black = np.zeros((90, 120, 3), np.uint8)

    def held() -> float:
        """By the log of what it said when."""
        spans = pairwise([*watched.log, (watched.now, ())])
        return sum(after - at for (at, states), (after, _) in spans if "black" in states)

    for _ in range(2):
        for _ in range(50):
            watched.see(living(), 0.5)
        for _ in range(50):
            watched.see(black, 0.5)
    assert watched.went() == [("ok",), ("black",), ("ok",), ("black",)]
    assert watched.health.episodes == {"black": {"times": 2, "seconds": pytest.approx(held(), abs=0.5)}}
    before = held()
    watched.see(black, 600)  # nothing came meanwhile
    assert watched.health.episodes["black"]["seconds"] == pytest.approx(before + 2, abs=0.6)
    watched.health.renewed()
    for _ in range(50):
        watched.see(living(), 0.5)
    assert watched.health.episodes["black"] == {"times": 2, "seconds": pytest.approx(before + 2, abs=0.6)}


def test_what_was_not_looked_at_for_a_while_is_judged_anew() -> None:
    watched = Watched(fps=5)
    for _ in range(75):
        watched.see(living(), 0.2)
    black = np.zeros((90, 120, 3), np.uint8)
    for _ in range(60):
        watched.see(black, 0.2)
    assert "black" in watched.went()[-1]
    watched.health.watch(False, 10, 10, ())
    assert watched.health.states == ()
    watched.now += 3600
    watched.health.watch(True, 10, 10, ())
    before = len(watched.log)
    for _ in range(75):
        watched.see(living(), 0.2)
    assert watched.went()[before:] == [("ok",)]


def test_a_stall_is_no_slow_rate() -> None:
    watched = Watched(fps=5)
    for _ in range(75):
        watched.see(living(), 0.2)
    watched.see(living(), 9)
    for _ in range(75):
        watched.see(living(), 0.2)
    assert watched.went() == [("ok",)]
