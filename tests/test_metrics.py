"""Metrics as a scraper sees them, against the books and against what really happened."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.cheap_model import write_cheap_model
from pipeline import Pipeline, __version__
from pipeline.config import make_config
from pipeline.errors import SinkOpenError
from pipeline.histogram import BUCKETS
from pipeline.metrics import Collector, MetricsServer
from tests.test_supervision import running

PROMISED = {
    "framerail_frames_captured_total": {"stream"},
    "framerail_frames_emitted_total": {"stream"},
    "framerail_frames_dropped_total": {"stream", "stage", "reason"},
    "framerail_frames_in_flight": {"stream"},
    "framerail_stage_seconds": {"stage"},
    "framerail_latency_seconds": {"stream"},
    "framerail_channel_depth": {"channel"},
    "framerail_channel_capacity": {"channel"},
    "framerail_batch_size": set(),
    "framerail_detections_total": {"stream", "label"},
    "framerail_stream_up": {"stream"},
    "framerail_stream_reconnects_total": {"stream", "cause"},
    "framerail_stream_failures_total": {"stream", "cause"},
    "framerail_stream_state_entered_total": {"stream", "state"},
    "framerail_stream_state_seconds_total": {"stream", "state"},
    "framerail_stream_state": {"stream", "state"},
    "framerail_stream_health": {"stream", "state"},
    "framerail_adaptive_every_nth": {"stream"},
    "framerail_corrupt_packets_total": {"stream"},
    "framerail_damaged_frames_total": {"stream"},
    "framerail_pts_repaired_total": {"stream", "kind"},
    "framerail_model_restarts_total": set(),
    "framerail_config_last_reload_successful": set(),
    "framerail_build_info": {"version"},
    "framerail_sink_written_total": {"sink", "stream"},
    "framerail_sink_dropped_total": {"sink", "stream"},
    "framerail_sink_up": {"sink"},
    "framerail_provider_info": {"requested", "active", "device", "model"},
}
"""The contract with dashboards and alerts: every metric that they may name, with its labels."""

# Name in the exposition, by the type of the family.
SUFFIX = {"counter": "_total", "info": "_info"}


def fetch(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def scrape(port: int) -> dict[str, dict[tuple[str, ...], float]]:
    """Sample values by sample name and sorted label values."""
    status, text = fetch(port, "/metrics")
    assert status == 200
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[key] = sample.value
    return found


def test_every_promised_metric_has_its_labels(cheap_model: str) -> None:
    config = make_config(
        {
            "streams": [{"source": "synthetic:64x48", "name": "cam", "every_nth": 2}],
            "model": cheap_model,
            "jsonl": os.devnull,
        }
    )
    with Pipeline(config) as line:
        for number, _ in enumerate(line):
            if number == 5:  # of one that has ended as it should there is less: this one has no end
                break
            collected = list(Collector(line).collect())
    families = {family.name + SUFFIX.get(family.type, ""): family for family in collected}
    assert set(families) == set(PROMISED)
    for name, labels in PROMISED.items():
        for sample in families[name].samples:
            assert set(sample.labels) - {"le"} == labels, name
        if name not in ("framerail_stream_reconnects_total", "framerail_stream_failures_total"):
            assert families[name].samples, name


def test_what_is_served_is_what_happened(cheap_model: str) -> None:
    config = make_config(
        {
            "streams": [{"source": "synthetic:64x48?frames=30", "name": "cam", "every_nth": 3}],
            "model": cheap_model,
            "metrics": "127.0.0.1:0",
            "channel_capacity": 5,
        }
    )
    with Pipeline(config) as line:
        assert line.metrics is not None
        port = line.metrics.port
        assert json.loads(fetch(port, "/readyz")[1])["streams"]["cam"]["up"] is False
        results = iter(line)
        next(results)
        assert scrape(port)["framerail_frames_emitted_total"]["cam",] >= 1
        list(results)
        found = scrape(port)
        assert fetch(port, "/healthz")[0] == 200
        assert fetch(port, "/nothing")[0] == 404
    assert found["framerail_frames_captured_total"] == {("cam",): 30}
    assert found["framerail_frames_emitted_total"] == {("cam",): 10}
    # Label values in the order of the labels' names: reason, stage, stream.
    assert found["framerail_frames_dropped_total"] == {
        ("every_nth", "capture", "cam"): 20,
        ("drop_oldest", "capture", "cam"): 0,
    }
    assert found["framerail_frames_in_flight"] == {("cam",): 0}
    assert found["framerail_detections_total"] == {("thing0", "cam"): 10}
    assert found["framerail_latency_seconds_count"] == {("cam",): 10}
    assert found["framerail_stage_seconds_count"]["infer",] == 10
    assert found["framerail_batch_size_sum"] == {(): 10}
    assert found["framerail_channel_capacity"]["blobs",] == 5
    assert found["framerail_provider_info"] == {("CPUExecutionProvider", "0", "cheap", "auto"): 1}
    bounds = sorted(float(le) for le, stage in found["framerail_stage_seconds_bucket"] if stage == "infer")
    assert bounds == [*BUCKETS, float("inf")]


def test_batch_sizes_are_counted_up_to_each_bound(tmp_path: Path) -> None:
    model = write_cheap_model(tmp_path / "dynamic.onnx", dynamic_batch=True)
    config = make_config(
        {"streams": [{"source": "synthetic:64x48?frames=64"}], "model": str(model), "batch": 4,
         "linger_ms": 200, "metrics": "127.0.0.1:0"}
    )  # fmt: skip
    with Pipeline(config) as line:
        line.run()
        assert line.metrics is not None
        found = scrape(line.metrics.port)
    sizes = Counter(line.accounts.batches)
    assert sum(size * count for size, count in sizes.items()) == 64 and max(sizes) > 1
    for (bound,), count in found["framerail_batch_size_bucket"].items():
        assert count == sum(runs for size, runs in sizes.items() if size <= float(bound))


def test_ready_means_model_loaded_and_streams_up(cheap_model: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    with Pipeline(["synthetic:64x48@100", str(broken)], model=cheap_model, metrics="127.0.0.1:0") as line:
        assert line.metrics is not None
        port = line.metrics.port
        results = iter(line)
        next(results)
        while line.accounts.streams["broken"].ending is None:
            next(results)
        status, text = fetch(port, "/readyz")
        answer = json.loads(text)
        assert status == 503
        assert answer["streams"]["synthetic"]["up"] is True
        assert answer["streams"]["broken"]["ending"] == "format"
        assert scrape(port)["framerail_stream_up"] == {("synthetic",): 1, ("broken",): 0}


def test_a_stream_that_has_ended_as_it_should_is_not_missed(cheap_model: str, tmp_path: Path) -> None:
    streams = [
        {"source": "synthetic:64x48@100?frames=5", "name": "file"},
        {"source": "synthetic:64x48@100", "name": "some", "live": True, "max_frames": 5},
        {"source": "synthetic:64x48@100", "name": "cam", "live": True},
    ]
    with running(cheap_model, *streams, metrics="127.0.0.1:0") as run:
        accounts, port = run.line.accounts.streams, run.line.metrics.port
        run.until(lambda: accounts["file"].ending == accounts["some"].ending == "end" and accounts["cam"].up)
        status, text = fetch(port, "/readyz")
        assert status == 200 and json.loads(text)["streams"]["file"]["ending"] == "end"
        assert scrape(port)["framerail_stream_up"] == {("cam",): 1}


def test_the_process_and_its_version(cheap_model: str) -> None:
    with Pipeline("synthetic:64x48?frames=5", model=cheap_model, metrics="127.0.0.1:0") as line:
        assert line.metrics is not None
        scraped = scrape(line.metrics.port)
        assert scraped["framerail_build_info"] == {(__version__,): 1}
        for name in ("resident_memory_bytes", "cpu_seconds_total", "open_fds", "start_time_seconds"):
            assert scraped[f"process_{name}"][()] > 0
        line.run()


def test_health_tells_a_failed_line(cheap_model: str) -> None:
    with Pipeline("synthetic:64x48", model=cheap_model, metrics="127.0.0.1:0") as line:
        assert line.metrics is not None
        results = iter(line)
        next(results)
        assert fetch(line.metrics.port, "/healthz")[0] == 200
        assert line.flow is not None
        line.flow.fail("infer", RuntimeError("device lost"))
        status, text = fetch(line.metrics.port, "/healthz")
        assert status == 503
        assert "device lost" in text
        with pytest.raises(ExceptionGroup):
            list(results)
        # Nor is it forgotten once it has been raised.
        assert fetch(line.metrics.port, "/healthz")[0] == 503
        assert fetch(line.metrics.port, "/readyz")[0] == 503
        assert line.accounts.streams["synthetic"].ending == "failed"


def test_a_port_that_is_taken(cheap_model: str) -> None:
    with (
        Pipeline("synthetic:64x48", model=cheap_model, metrics="127.0.0.1:0") as line,
        pytest.raises(SinkOpenError, match="cannot serve metrics on 127"),
    ):
        assert line.metrics is not None
        MetricsServer(f"127.0.0.1:{line.metrics.port}", line)


def test_the_server_ends_with_the_pipeline(cheap_model: str) -> None:
    with Pipeline("synthetic:64x48", model=cheap_model, metrics="127.0.0.1:0") as line:
        assert line.metrics is not None
        port = line.metrics.port
        assert "metrics" in {thread.name for thread in threading.enumerate()}
    with pytest.raises(urllib.error.URLError):
        fetch(port, "/healthz")


def test_a_stream_that_was_taken_off_on_purpose_keeps_nobody_waiting(cheap_model: str) -> None:
    streams = [{"source": "synthetic:64x48@100", "name": name, "live": True} for name in ("a", "b")]
    with running(cheap_model, *streams, metrics="127.0.0.1:0") as run:
        assert run.line.metrics is not None
        port = run.line.metrics.port
        for name in ("a", "b"):
            run.until_results(name, 5)
        run.line.pause_stream("a")
        assert fetch(port, "/readyz")[0] == 200
        run.line.resume_stream("a")
        run.line.remove_stream("a")
        status, text = fetch(port, "/readyz")
        assert status == 200 and set(json.loads(text)["streams"]) == {"b"}
        scraped = scrape(port)
        assert scraped["framerail_stream_up"] == {("b",): 1}
        assert not any("a" in labels for labels in scraped["framerail_stream_state"])
        assert scraped["framerail_frames_emitted_total"]["a",] > 0  # its books stay
        assert "removed" in fetch(port, "/streams")[1]


def test_an_ipv6_address_is_told_as_one_may_open_it(
    cheap_model: str, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    caplog.set_level(logging.INFO, "pipeline.metrics")
    with Pipeline("synthetic:64x48", model=cheap_model, metrics="[::1]:0") as line:
        assert line.metrics is not None
        told = f"http://[::1]:{line.metrics.port}/metrics"
    assert f"metrics on {told}" in caplog.text
