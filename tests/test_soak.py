"""The short forms of ``benchmarks.soak`` and ``benchmarks.restarts``: books and streams hold."""

from __future__ import annotations

import pytest

from benchmarks import restarts, soak
from tests.servers import missing_gst_rtsp


@pytest.fixture(autouse=True)
def gstreamer() -> None:
    if reason := missing_gst_rtsp():
        pytest.skip(f"needs GStreamer's RTSP server: {reason}")


@pytest.mark.timeout(90)
def test_a_short_soak(cheap_model: str) -> None:
    found = soak.soak(8.0, cheap_model, seed=5)
    assert found["conserved"] and found["back_at_the_end"]
    assert found["refused"] == []
    assert sum(found["happened"].values()) > 3
    assert found["growth"]["threads"] <= 2  # a swap may just be under way
    assert {what for what, *_ in soak.limits(found)} >= {"MB of memory per hour"}


@pytest.mark.timeout(90)
def test_a_few_restarts(cheap_model: str) -> None:
    found = restarts.measure(3, cheap_model, seed=2)
    assert found["recovered"] == 3 and found["conserved"]
    assert sum(found["reconnects"].values()) >= 1
    assert found["seconds"]["median"] > 0
    broken = [what for what, _, _, holds in restarts.limits(found) if not holds]
    assert set(broken) <= {"MB of memory per 100 restarts", "median seconds from server up to first result"}


def test_a_slope_is_that_of_most_pairs() -> None:
    values = [2.0 * index for index in range(20)]
    values[7] = 1000.0
    assert restarts.slope(values) == pytest.approx(2.0)
