"""Random flows with random faults, cancels and resizes: every item ends once, and in order."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.flow import Bypass, Channel, Dropped, Flow, Windowed
from tests.test_flow import Books, Fault

ROUNDS = 40


@pytest.mark.parametrize("block", range(10))
def test_whatever_happens_every_item_ends_once(block: int) -> None:
    for seed in range(block * ROUNDS, (block + 1) * ROUNDS):
        one_flow(random.Random(seed), f"seed {seed}")


def stream_of(item: tuple[int, int]) -> str:
    return str(item[0])


def one_flow(rng: random.Random, label: str) -> None:
    streams, count = rng.randint(1, 4), rng.randint(0, 80)
    where, at = rng.choice([None, None, "feed", "work", "out"]), (rng.randrange(streams), rng.randrange(81))

    def shaky(result: Any, place: str) -> Any:
        """Sometimes late, sometimes given up, and at one place and item a fault."""
        if (where, at) == (place, result):
            raise Fault
        if rng.random() < 0.05:
            time.sleep(rng.random() * 0.001)
        return Dropped(result, place) if place != "out" and rng.random() < 0.03 else result

    ageing = rng.choice([0, 0, 0.02, 0.3])
    books = Books()
    flow = Flow(books, lambda _: "expired" if rng.random() < ageing else None)
    merge = flow.merge("feed")
    window = rng.choice([None, 1, 3])
    firsts: dict[str, Channel[Any]] = {}
    for stream in range(streams):

        def numbers(stream: int = stream) -> Iterator[Any]:
            return (shaky((stream, number), "feed") for number in range(count))

        policy = rng.choice(["block", "drop_oldest"])
        first = flow.channel(f"first{stream}", "feed", rng.randint(1, 3), policy, merge, window)  # type: ignore[arg-type]
        firsts[str(stream)] = first
        flow.feed("feed", f"feeder{stream}", numbers, first)
    if window is not None:
        flow.observer = Windowed(books, "feed", stream_of, firsts)
    middle = flow.channel("middle", "work", rng.randint(1, 3))
    before = flow.channel("before", "work", rng.randint(1, 3))
    last = flow.channel("last", "work", rng.randint(1, 3))
    slow = flow.merge("work")
    lanes = {
        name: flow.channel(f"lane{name}", "work", rng.randint(1, 3), merge=slow, fixed=rng.random() < 0.5)
        for name in firsts
    }
    share = rng.choice([0, 0.1, 0.5, 1])
    bypass = Bypass(stream_of, lambda _: rng.random() < share, lanes, last)
    one = [lambda items: [shaky(item, "work") for item in items]]
    flow.stage("work", one, before, bypass.entrance, limit=rng.randint(1, 4))
    flow.stage("work", one, slow, bypass.exit, limit=rng.randint(1, 4))
    for source, target in ((merge, middle), (middle, before)):
        flow.stage(
            "work",
            [lambda items: [shaky(item, "work") for item in items]] * rng.randint(1, 4),
            source,
            target,
            limit=rng.randint(1, 4),
            linger=rng.choice([0, 0, 0.001]),
            most=rng.choice([1, 20]),
            demand=rng.choice([None, target]),
            lane=rng.choice([None, stream_of]),
        )
    actions = {
        "cancel": flow.cancel,
        "resize": lambda: flow.resize(rng.randint(1, 8)),
        "abandon": lambda: flow.abandon_feeders(0),
        "nothing": lambda: None,
    }
    timer = threading.Timer(rng.random() * 0.02, actions[rng.choice(list(actions))])
    flow.start()
    timer.start()
    came: list[tuple[int, int]] = []
    leave_after = rng.choice([None, None, None, 3])
    results = flow.consume(
        "out", last, lambda items: [shaky(item, "out") for item in items], rng.randint(1, 4)
    )
    for item in results:
        came.append(item)
        if len(came) == leave_after:
            break
    results.close()  # type: ignore[attr-defined]
    if leave_after or flow.errors:
        flow.cancel()
    timer.join()
    assert flow.abandon_feeders(10) == [], label
    flow.join_workers()
    assert books.captured == books.finished + books.drops, label
    for stream in range(streams):
        order = [number for each, number in came if each == stream]
        assert order == sorted(order), label
