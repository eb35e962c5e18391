"""The link's states and waits, against a clock that the test holds."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SourceReadError
from pipeline.link import STABLE_SECONDS, STALLED_SECONDS, STATES, Backoff, Link


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lost(cause: str = "network") -> SourceReadError:
    return SourceReadError(f"it was lost: {cause}", cause=cause)


def a_link(clock: Clock, draw: float = 0.999999, **backoff: float) -> Link:
    return Link("cam", Backoff(**backoff), clock, lambda: draw)


def run(link: Link, clock: Clock, seconds: float, fps: float = 10.0) -> None:
    for _ in range(int(seconds * fps)):
        link.picture(live=True)
        clock.now += 1 / fps


@given(
    st.floats(0.01, 100),
    st.floats(0.01, 1000),
    st.integers(1, 500),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(["network", "timeout", "refused", "not_found", "auth", "ended"]),
)
def test_a_wait_is_within_its_half_and_never_longer_than_the_longest(first, most, failures, draw, cause):
    backoff = Backoff(first, most)
    seconds = backoff.seconds(cause, failures, lambda: draw)
    longest = backoff.seconds(cause, failures, lambda: 1.0)
    if cause == "auth":
        assert 60 <= seconds <= longest <= 3600
        return
    assert longest / 2 <= seconds <= longest
    assert longest <= max(most, 5.0 if cause == "not_found" else 0.0)
    if cause in ("network", "timeout", "refused", "ended"):
        assert longest == pytest.approx(min(most, first * 2.0 ** (failures - 1)))


def test_waits_double_up_to_the_cap_and_begin_again_after_a_stable_run():
    clock = Clock()
    link = a_link(clock, first=1, most=8)
    waits = [link.failed(lost()) for _ in range(6)]
    assert waits == pytest.approx([1, 2, 4, 8, 8, 8], rel=1e-3)
    run(link, clock, STABLE_SECONDS / 2)
    assert link.failed(lost()) == pytest.approx(8, rel=1e-3)
    run(link, clock, STABLE_SECONDS + 1)
    assert link.failed(lost()) == pytest.approx(1, rel=1e-3)


def test_a_refused_password_is_not_tried_often():
    clock = Clock()
    link = a_link(clock, first=0.1, most=1)
    waits = [link.failed(lost("auth")) for _ in range(8)]
    assert link.state == "auth_failed"
    assert waits[0] == pytest.approx(60, rel=1e-3)
    assert sum(1 for at in range(len(waits)) if sum(w or 0 for w in waits[:at]) < 600) <= 5
    assert waits[-1] == pytest.approx(3600, rel=1e-3)
    assert link.failed(lost("refused")) == pytest.approx(1, rel=1e-3)


def test_the_way_round():
    clock = Clock()
    link = a_link(clock)
    assert link.state == "connecting" and not link.up
    link.picture(live=True)
    assert link.state == "live" and link.up
    run(link, clock, 1)
    clock.now += STALLED_SECONDS + 0.1
    assert link.state == "stalled" and not link.up
    assert link.status().for_seconds == pytest.approx(0.2, abs=0.01)
    link.picture(live=True)
    assert link.state == "live"
    wait = link.failed(lost("timeout"))
    assert link.state == "backing_off"
    assert link.status().retry_in == pytest.approx(wait)
    assert link.status().error == "it was lost: timeout"
    link.connecting()
    assert link.state == "connecting" and link.status().retry_in is None
    assert link.reconnects == {}
    link.picture(live=True)
    assert link.reconnects == {"timeout": 1} and link.failures == {"timeout": 1}
    link.ended()
    assert link.state == "ended"
    link.paused()
    assert link.state == "paused" and not link.up
    assert {"connecting", "live", "stalled", "backing_off", "auth_failed", "ended", "paused"} == set(STATES)


def test_a_picture_that_had_come_before_the_silence_does_not_end_it():
    """Decoders hold pictures back, and give them out when nothing more is to come."""
    clock = Clock()
    link = a_link(clock)
    run(link, clock, 1)
    came = clock.now
    clock.now += STALLED_SECONDS + 1
    link.picture(live=True, at=came)
    assert link.state == "stalled"
    assert link.status().since_picture == pytest.approx(STALLED_SECONDS + 1)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["picture", "lost", "auth", "connecting", "ended", "paused"]),
            st.floats(0.001, 30).map(lambda seconds: round(seconds, 3)),
        ),
        max_size=30,
    )
)
def test_the_seconds_of_all_states_are_its_life_and_each_what_was_seen(steps):
    """Against looking at its state each 5 ms."""
    clock = Clock()
    link = a_link(clock)
    seen, entered, before = dict.fromkeys(STATES, 0.0), dict.fromkeys(STATES, 0), None
    do = {
        "picture": lambda: link.picture(live=True),
        "lost": lambda: link.failed(lost()),
        "auth": lambda: link.failed(lost("auth")),
        "connecting": link.connecting,
        "ended": link.ended,
        "paused": link.paused,
    }
    for what, seconds in [("connecting", 0.005), *steps]:
        do[what]()
        until = clock.now + seconds
        step = 1.0
        while step > 0:  # at its end, too: a stall may begin there
            state, step = link.state, min(0.005, until - clock.now)
            entered[state] += state != before
            before, seen[state] = state, seen[state] + step
            clock.now += step
    told = link.status().episodes
    assert sum(held.seconds for held in told.values()) == pytest.approx(clock.now - 1000.0)
    assert {state: held.times for state, held in told.items()} == {s: n for s, n in entered.items() if n}
    for state, held in told.items():  # a stall begins between two looks
        assert held.seconds == pytest.approx(seen[state], abs=0.006 * (len(steps) + 1))


def test_for_how_long_it_has_been_lost():
    clock = Clock()
    link = a_link(clock)
    assert link.status().lost_for is None
    run(link, clock, 1)
    assert link.status().lost_for is None
    clock.now += 2.9  # the time-out, which counts
    link.failed(lost())
    clock.now += 2
    link.connecting()
    link.failed(lost("refused"))
    clock.now += 2
    assert link.status().lost_for == pytest.approx(7)
    link.paused()
    clock.now += 100
    assert link.status().lost_for == pytest.approx(7)
    link.connecting()  # it is resumed
    clock.now += 1
    assert link.status().lost_for == pytest.approx(8)
    link.ended()
    clock.now += 100
    assert link.status().lost_for == pytest.approx(8)
    assert link.status().failures_in_a_row == 2


def test_a_slow_camera_is_not_stalled_between_two_pictures():
    clock = Clock()
    link = a_link(clock)
    run(link, clock, 600, fps=1 / 60)
    clock.now += 30
    assert link.state == "live"


@pytest.mark.parametrize("seconds", [3.0, 5.0, 9.0])
@pytest.mark.parametrize("declared", [True, False])
def test_nor_is_one_that_was_just_connected_however_often_that_was(seconds: float, declared: bool) -> None:
    clock = Clock()
    link = a_link(clock)
    for _ in range(5):
        link.connecting()
        link.expect(1 / seconds if declared else None, stall_timeout=10)
        for _ in range(4):
            link.picture(live=True)
            clock.now += 0.98 * seconds
            assert link.state == "live"
        link.failed(lost())


def test_pictures_that_come_at_once_when_it_is_connected_do_not_make_a_camera_fast() -> None:
    clock = Clock()
    link = a_link(clock)
    link.expect(0.25, stall_timeout=10)
    run(link, clock, 0.01, fps=500)
    clock.now += 4
    assert link.state == "live"


@pytest.mark.parametrize("before", [None, 1 / 60, 25])
@pytest.mark.parametrize("declared", [None, 1, 25])
def test_an_ordinary_camera_is_stalled_after_two_seconds(
    before: float | None, declared: float | None
) -> None:
    """Four seconds after it was connected that holds whatever was declared, or known before."""
    clock = Clock()
    link = a_link(clock)
    link.expect(declared, stall_timeout=10)
    if before is not None:
        run(link, clock, 600, before)
        link.failed(lost())
    run(link, clock, 4, fps=25)
    silent = clock.now - 1 / 25
    clock.now = silent + STALLED_SECONDS - 0.01
    assert link.state == "live"
    clock.now = silent + STALLED_SECONDS + 0.01
    assert link.state == "stalled"


def test_of_a_camera_that_sends_one_picture_it_is_said_when_its_time_is_up() -> None:
    clock = Clock()
    link = a_link(clock)
    link.expect(None, stall_timeout=7)
    link.picture(live=True)
    clock.now += 6.9
    assert link.state == "live"
    clock.now += 0.2
    assert link.state == "stalled"


def test_a_stall_is_counted_also_when_the_camera_is_another_one_then() -> None:
    """What is known of the old one's pace holds until it is left: a camera that declares no rate."""
    clock = Clock()
    link = a_link(clock)
    link.expect(None, stall_timeout=10)
    run(link, clock, 3)
    clock.now += STALLED_SECONDS + 1
    stalled = link.status().episodes["stalled"]
    assert stalled.times == 1
    link.renewed()
    assert link.status().episodes["stalled"] == stalled
    clock.now += 1
    with link.changing("connecting"):
        link.ended()
        link.connecting()
    assert link.status().episodes["stalled"] == (1, pytest.approx(stalled.seconds + 1))
    link.picture(live=True)
    clock.now += 9  # of the new one no pace is known
    assert link.state == "live"


def test_a_connection_that_is_changed_for_another_neither_ends_nor_pauses() -> None:
    link = a_link(Clock())
    link.connecting()
    link.picture(live=True)
    with link.changing("connecting"):
        link.ended()
        link.paused()
        assert link.state == "connecting" and not link.up
        link.connecting()
    link.picture(live=True)
    assert {state: held.times for state, held in link.status().episodes.items()} == {
        "connecting": 2,
        "live": 2,
    }
    with link.changing("connecting"):  # and there is no other one
        link.ended()
        link.paused()
    assert link.state == "paused"
    assert link.status().episodes["paused"].times == 1 and "ended" not in link.status().episodes
    link.connecting()
    link.picture(live=True)
    with link.changing("paused"):
        link.ended()
        link.paused()
    assert link.state == "paused"
    assert link.status().episodes["paused"].times == 2 and "ended" not in link.status().episodes


def test_what_the_line_holds_up_is_no_stall() -> None:
    clock = Clock()
    link = a_link(clock)
    run(link, clock, 2)
    link.holds(True)
    clock.now += 60
    assert link.state == "live"
    link.holds(False)
    assert link.state == "live"
    clock.now += 0.1
    link.picture(live=True)
    clock.now += STALLED_SECONDS + 0.1
    assert link.state == "stalled"  # the long wait was not the camera's pace


def test_a_new_connection_is_held_up_by_nothing_of_the_last_one() -> None:
    """Its capture may have been closed while the line held it up, and need not wait for the line any more."""
    clock = Clock()
    link = a_link(clock)
    run(link, clock, 2)
    link.holds(True)
    with link.changing("connecting"):
        link.ended()
        link.connecting()
    run(link, clock, 2)
    came = link.status().since_picture
    link.holds(False)  # of the last one, late
    assert link.status().since_picture == came
    clock.now += STALLED_SECONDS + 0.1
    assert link.state == "stalled"


def test_one_that_was_never_tried_has_been_in_no_state() -> None:
    clock = Clock()
    link = a_link(clock)
    clock.now += 1
    assert link.status().episodes == {}
    link.paused()
    clock.now += 2
    assert link.status().episodes == {"paused": (1, pytest.approx(2))}


def test_how_long_it_was_lost_counts_on_when_another_address_is_tried(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """But not when it had ended meanwhile, and nobody waited for it."""
    clock = Clock()
    link = a_link(clock)
    run(link, clock, 2)
    link.failed(lost())
    clock.now += 60
    link.renewed()
    clock.now += 1
    assert link.status().lost_for == pytest.approx(61.1)
    with caplog.at_level(logging.INFO):
        link.picture(live=True)
    assert "live again, after 61.1 s" in caplog.text
    link.failed(lost())
    link.ended()
    clock.now += 60
    link.renewed()
    assert link.status().lost_for == 0
    clock.now += 5
    link.connecting()
    clock.now += 1
    assert link.status().lost_for == pytest.approx(1)


def test_of_another_camera_nothing_is_known() -> None:
    clock = Clock()
    link = a_link(clock)
    run(link, clock, 600, fps=1 / 60)
    link.renewed()
    link.expect(25, stall_timeout=10)
    link.failed(lost())
    link.picture(live=True)
    clock.now += STALLED_SECONDS + 0.1
    assert link.state == "stalled"


def test_a_file_is_never_stalled():
    clock = Clock()
    link = Link("clip", None, clock)
    link.picture(live=False)
    clock.now += 1000
    assert link.state == "live"
    assert link.failed(lost()) is None


def test_what_no_try_could_mend_is_not_tried():
    assert a_link(Clock()).failed(lost("hardware")) is None


def test_each_loss_is_told_however_many_there_were_before(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    clock = Clock()
    link = a_link(clock)
    for _ in range(6):
        run(link, clock, 5)  # too short to begin anew with the shortest wait
        clock.now += link.failed(lost()) or 0
        link.connecting()
    said = [record.getMessage() for record in caplog.records]
    assert sum("it was lost" in each for each in said) == 6 and not any("(try" in each for each in said)
    assert sum("live again" in each and "and 1 failure" in each for each in said) == 5
    assert not any("failures" in each for each in said)


def test_a_month_without_a_camera_is_few_lines(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    clock = Clock()
    link = a_link(clock)
    for _ in range(30 * 24 * 120):
        link.connecting()
        clock.now += link.failed(lost("refused")) or 0
    assert len(caplog.records) < 20
    link.picture(live=True)
    assert "live, after" in caplog.records[-1].getMessage()


def test_what_happens_to_a_stream_meanwhile_does_not_shorten_the_wait_after_a_refusal() -> None:
    clock = Clock()
    link = a_link(clock)
    wait = link.failed(lost("auth"))
    assert wait is not None
    clock.now += 20
    link.paused()
    assert link.status().retry_in is None
    clock.now += 10
    link.connecting()
    assert link.refused() == pytest.approx(wait - 30)
    assert (link.state, link.status().retry_in) == ("auth_failed", pytest.approx(wait - 30))
    clock.now += wait - 30
    link.connecting()
    assert link.refused() == 0
    assert link.state == "connecting"
    link.failed(lost("auth"))
    link.renewed()  # with another password
    assert link.refused() == 0
    link.failed(lost("auth"))
    link.failed(lost())
    assert link.refused() == 0
