"""What is too old is not emitted, whatever the line does, and its drop is told of where it aged."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.cheap_model import write_cheap_model
from pipeline import Pipeline
from pipeline.config import make_config
from pipeline.errors import ConfigError
from pipeline.flow import Bypass, Channel, Dropped, Flow
from tests.test_flow import Books
from tests.test_stages_classify import write_colour_classifier

STAGES = ("first", "second", "out")


class Ageing:
    """Expires item n when it has been looked at ``lives[n]`` times: a clock that counts looks."""

    def __init__(self, lives: list[int]) -> None:
        self.lives = lives
        self.looks: Counter[int] = Counter()

    def __call__(self, item: int) -> str | None:
        self.looks[item] += 1
        return "aged" if self.looks[item] > self.lives[item] else None


@given(
    st.lists(st.integers(0, 6), max_size=40),
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from([1, 20]),
    st.booleans(),
)
@settings(max_examples=40)
def test_an_item_is_dropped_at_the_stage_where_it_aged(
    lives: list[int], workers: int, limit: int, most: int, asks: bool
) -> None:
    """Each item is looked at before and after each stage's work, and once before it is emitted."""
    books, worked = Books(), Counter[tuple[str, int]]()
    lock = threading.Lock()
    flow = Flow(books, Ageing(lives))
    channels: list[Channel[Any]] = [flow.channel(str(n), STAGES[n], 2) for n in range(3)]
    flow.feed("feed", "feed", lambda: iter(range(len(lives))), channels[0])

    def work(stage: str, items: list[int]) -> list[int]:
        with lock:
            worked.update((stage, item) for item in items)
        return items

    for number, stage in enumerate(STAGES[:2]):
        calls = [lambda items, stage=stage: work(stage, items)] * workers
        target = channels[number + 1]
        demand = target if asks and workers == 1 else None
        flow.stage(stage, calls, channels[number], target, limit=limit, most=most, demand=demand)
    flow.start()
    came = list(flow.consume("out", channels[2], lambda items: work("out", items)))
    flow.join_workers()
    flow.raise_errors()
    books.check()
    where = ["first", "first", "second", "second", "out"]
    assert came == [item for item, looks in enumerate(lives) if looks >= 5]
    assert books.reasons == Counter((where[looks], "aged") for looks in lives if looks < 5)
    for item, looks in enumerate(lives):
        did = [stage for stage in STAGES if worked[stage, item]]
        assert did == list(STAGES[: (looks + 1) // 2]), "no stage works for an item that has expired"


def test_what_a_slow_stage_gives_up_holds_up_nobody_behind_it() -> None:
    lanes, out = {"a": Channel[Any]("lane", 10)}, Channel[Any]("out", 10)
    bypass = Bypass(lambda item: item[0], lambda item: item[1] < 2, lanes, out)
    bypass.entrance.put_all([("a", 0), ("a", 1)])
    given_up, other = lanes["a"].take(2)
    bypass.exit.put_all([other])
    bypass.exit.forgo([given_up])
    bypass.entrance.put_all([("a", 2)])
    assert out.take(2) == [("a", 1), ("a", 2)]


def test_a_worker_tells_the_way_round_what_it_gave_up() -> None:
    books = Books()
    flow = Flow(books)
    entrance, out = flow.channel("entrance", "in", 2), flow.channel("out", "slow", 100)
    slow = flow.merge("slow")
    lanes = {"a": flow.channel("lane", "slow", 100, merge=slow)}
    bypass = Bypass(lambda _: "a", lambda item: item == 0, lanes, out)
    gave_up = threading.Event()

    def give_up(items: list[int]) -> list[Any]:
        gave_up.set()
        return [Dropped(item, "given up") for item in items]

    def numbers() -> Any:
        yield 0
        assert gave_up.wait(10)
        deadline = time.monotonic() + 10
        while bypass._inside["a"]:
            assert time.monotonic() < deadline, "what was given up is still waited for"
            time.sleep(0.001)
        yield from range(1, 10)

    flow.feed("in", "in", numbers, entrance)
    flow.stage("in", [lambda items: items], entrance, bypass.entrance)
    flow.stage("slow", [give_up], slow, bypass.exit)
    flow.start()
    assert list(flow.consume("out", out, lambda items: items)) == list(range(1, 10))
    flow.join_workers()
    flow.raise_errors()
    assert books.reasons == {("slow", "given up"): 1}


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One that takes milliseconds, for a picture of 1280x1280."""
    return str(write_cheap_model(tmp_path_factory.mktemp("models") / "slow.onnx", size=1280))


@pytest.mark.parametrize("max_age_ms", [1e-6, 5, 20, 1e6])
@pytest.mark.parametrize("second", [False, True])
def test_the_line_is_conserved_whatever_the_limit(
    slow_model: str, tmp_path: Any, max_age_ms: float, second: bool
) -> None:
    """Live streams and a file, more than the line can do, with and without a second model."""
    options = {"classify": str(write_colour_classifier(tmp_path / "c.onnx"))} if second else {}
    streams = [
        {"source": "synthetic:320x240@200?frames=60", "name": f"live{n}", "live": True} for n in range(2)
    ] + [{"source": "synthetic:320x240?frames=20", "name": "file"}]
    with Pipeline(
        make_config({"model": slow_model, "streams": streams, "max_age_ms": max_age_ms, **options})
    ) as line:
        results = list(line)
    assert not line.accounts.violations(line.left_in_line())
    counts = line.accounts.totals()
    assert counts.captured == 140 and counts.emitted == len(results)
    reasons = Counter[str]()
    for (stage, reason), count in counts.dropped.items():
        reasons[reason] += count
        assert reason != "too_old" or stage != "capture"
    assert set(reasons) <= {"too_old", "drop_oldest"}
    if max_age_ms < 1:
        assert not results and counts.dropped["preprocess", "too_old"] > 0
    if max_age_ms > 1000:
        assert reasons["too_old"] == 0
        assert len([result for result in results if result.stream == "file"]) == 20


def test_an_age_that_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_age_ms"):
        make_config({"streams": [{"source": "sample:"}], "max_age_ms": 0})
