"""How Linux schedules the threads of a flow."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.test_flow import COUNT, Books, make, run

if sys.platform != "linux":
    pytest.skip("other systems have no such policy", allow_module_level=True)

USUAL, PATIENT = os.SCHED_OTHER, os.SCHED_BATCH


@pytest.fixture(autouse=True)
def usual() -> None:
    """SVT-AV1, which other tests encode with, leaves the thread that called it with a real-time policy."""
    os.sched_setscheduler(0, USUAL, os.sched_param(0))


def policies(live_from: int) -> tuple[list[int], list[int], int]:
    """Of the feeder and of a worker at each item, in a flow that is live from that item on; and, behind it,
    of the thread that takes the results."""
    feeder, worker = list[int](), list[int]()

    def numbers() -> Iterator[int]:
        for number in range(COUNT):
            feeder.append(os.sched_getscheduler(0))
            yield number

    def work(items: list[int]) -> list[int]:
        worker.extend(os.sched_getscheduler(0) for _ in items)
        if items[0] == live_from:
            flow.live = True
        return items

    flow, last = make(Books(), numbers=numbers, call=work)
    flow.live = live_from == 0
    assert run(flow, last) == list(range(COUNT))
    flow.raise_errors()
    return feeder, worker, os.sched_getscheduler(0)


def test_where_nothing_is_live_threads_wait_for_their_turn_on_a_core() -> None:
    feeder, worker, taker = policies(COUNT)
    assert set(feeder) == {PATIENT}
    assert set(worker[1:]) == {PATIENT}
    assert taker == USUAL  # the thread is not ours


def test_what_is_live_does_not_wait() -> None:
    feeder, worker, _ = policies(0)
    assert set(feeder) == set(worker) == {USUAL}


def test_a_flow_that_becomes_live_goes_by_that_at_once() -> None:
    feeder, worker, _ = policies(100)
    assert set(worker[1:101]) == {PATIENT}
    assert set(worker[101:]) == {USUAL}
    assert (feeder[0], feeder[-1]) == (PATIENT, USUAL)


def test_a_policy_that_the_process_was_given_stays() -> None:
    code = f"""
import os
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
from tests.test_flow_patience import policies
for live_from in (0, {COUNT}):
    feeder, worker, taker = policies(live_from)
    assert {{*feeder, *worker, taker}} == {{os.SCHED_IDLE}}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_system_that_refuses_is_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    # Such a sandbox is not to be had here.
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    feeder, worker, _ = policies(COUNT)
    assert set(feeder) == set(worker) == {USUAL}
