"""Prometheus metrics, /healthz, /readyz and /streams. The only importer of prometheus_client.

Nothing is counted here: at every scrape the collector reads the books (:mod:`pipeline.accounts`)
and the channels, so that a frame costs the same whether or not anybody is watching.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self
from wsgiref.simple_server import make_server

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from pipeline import __version__
from pipeline.access import admits
from pipeline.accounts import PTS_REPAIRS, Accounts, told
from pipeline.config import host_and_port
from pipeline.errors import SinkOpenError
from pipeline.health import HEALTHS
from pipeline.histogram import Histogram
from pipeline.link import STATES
from pipeline.redact import redact
from pipeline.sinks import Output
from pipeline.webserver import Handler, Server, ServerV6

if TYPE_CHECKING:
    from pipeline.flow import Flow
    from pipeline.runtime.model import Model

log = logging.getLogger(__name__)


class Observed(Protocol):
    """What the metrics read: the running pipeline."""

    @property
    def accounts(self) -> Accounts:
        """The books."""

    @property
    def model(self) -> Model | None:
        """None until it is loaded."""

    @property
    def second(self) -> Model | None:
        """The model that is asked about objects; None without one."""

    @property
    def flow(self) -> Flow | None:
        """None until the line has started."""

    @property
    def outputs(self) -> Sequence[Output]:
        """The sinks, with their books."""

    @property
    def restarts(self) -> int:
        """Times that a model was opened afresh after a fault."""

    @property
    def config_refused(self) -> str | None:
        """Why the latest edit of the config file was refused; None where it was not."""

    @property
    def stuck(self) -> list[str]:
        """Threads that make no progress."""

    @property
    def healing(self) -> bool:
        """Whether one is being opened afresh right now."""


class Collector:
    """Makes every metric of a pipeline, at scrape time."""

    def __init__(self, pipeline: Observed) -> None:
        self._pipeline = pipeline

    def collect(self) -> Iterator[Metric]:
        """All metric families, each from one consistent snapshot per stream."""
        yield from self._streams()
        yield from self._stages()
        yield from self._channels()
        yield from self._sinks()
        yield self._provider()
        yield CounterMetricFamily(
            "framerail_model_restarts",
            "Times that a model was opened afresh after a fault of its provider.",
            value=self._pipeline.restarts,
        )
        yield GaugeMetricFamily(
            "framerail_config_last_reload_successful",
            "0 where the latest edit of the config file was refused, or not all of it could be done.",
            value=self._pipeline.config_refused is None,
        )
        build = InfoMetricFamily("framerail_build", "The version that runs.", labels=["version"])
        build.add_metric([__version__], {})
        yield build

    def _streams(self) -> Iterator[Metric]:
        captured = CounterMetricFamily("framerail_frames_captured", "Frames decoded.", labels=["stream"])
        emitted = CounterMetricFamily("framerail_frames_emitted", "Frames finished.", labels=["stream"])
        dropped = CounterMetricFamily(
            "framerail_frames_dropped", "Frames discarded.", labels=["stream", "stage", "reason"]
        )
        flight = GaugeMetricFamily(
            "framerail_frames_in_flight", "Frames captured, not yet emitted or dropped.", labels=["stream"]
        )
        latency = HistogramMetricFamily(
            "framerail_latency_seconds", "From captured to emitted.", labels=["stream"]
        )
        detections = CounterMetricFamily(
            "framerail_detections", "Detections emitted.", labels=["stream", "label"]
        )
        up = GaugeMetricFamily(
            "framerail_stream_up", "1 while the source is open and delivering.", labels=["stream"]
        )
        corrupt = CounterMetricFamily(
            "framerail_corrupt_packets",
            "Packets that the decoder refused, lacked data, did not come or came twice, as far as is told.",
            labels=["stream"],
        )
        damaged = CounterMetricFamily(
            "framerail_damaged_frames", "Frames that lost or damaged data has spoilt.", labels=["stream"]
        )
        repaired = CounterMetricFamily(
            "framerail_pts_repaired", "Presentation times that were corrected.", labels=["stream", "kind"]
        )
        for name, account in list(self._pipeline.accounts.streams.items()):
            counts = account.counts()
            captured.add_metric([name], counts.captured)
            emitted.add_metric([name], counts.emitted)
            flight.add_metric([name], counts.in_flight)
            # There from the start at 0, so that the first drop is an increase.
            for (stage, reason), count in {("capture", "drop_oldest"): 0, **counts.dropped}.items():
                dropped.add_metric([name, stage, reason], count)
            _add_histogram(latency, [name], account.latency)
            for label, count in account.detections().items():
                detections.add_metric([name, label], count)
            if not (account.removed or account.done):
                up.add_metric([name], account.up)
            corrupt.add_metric([name], account.corrupt_packets)
            damaged.add_metric([name], account.damaged)
            for kind in PTS_REPAIRS:
                repaired.add_metric([name, kind], account.pts_repaired[kind])
        yield from (captured, emitted, dropped, flight, latency, detections, up, corrupt, damaged, repaired)
        yield from self._links()

    def _links(self) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "framerail_stream_state", "1 for the state that the stream is in.", labels=["stream", "state"]
        )
        reconnects = CounterMetricFamily(
            "framerail_stream_reconnects",
            "Times that a lost source was live again, by why it was lost.",
            labels=["stream", "cause"],
        )
        failures = CounterMetricFamily(
            "framerail_stream_failures",
            "Times that a source was lost or could not be opened.",
            labels=["stream", "cause"],
        )
        entered = CounterMetricFamily(
            "framerail_stream_state_entered",
            "Times that the stream came into a state.",
            labels=["stream", "state"],
        )
        spent = CounterMetricFamily(
            "framerail_stream_state_seconds",
            "For how long the stream was in a state.",
            labels=["stream", "state"],
        )
        wellness = GaugeMetricFamily(
            "framerail_stream_health",
            "1 for what holds of the stream's pictures; all are 0 while none come, or none are looked at.",
            labels=["stream", "state"],
        )
        thinned = GaugeMetricFamily(
            "framerail_adaptive_every_nth",
            "Of so many frames one is let in, so that ages keep to their target.",
            labels=["stream"],
        )
        for name, account in list(self._pipeline.accounts.streams.items()):
            for cause, count in dict(account.link.reconnects).items():
                reconnects.add_metric([name, cause], count)
            for cause, count in dict(account.link.failures).items():
                failures.add_metric([name, cause], count)
            link = account.link.status()
            for each in STATES:  # all from the start, so that the first stall is an increase
                times, seconds = link.episodes.get(each, (0, 0.0))
                entered.add_metric([name, each], times)
                spent.add_metric([name, each], seconds)
            if account.removed:
                continue
            thinned.add_metric([name], account.lane.every_nth)
            for each in STATES:
                state.add_metric([name, each], each == link.state)
            holding = account.health_now
            for kind in HEALTHS:
                wellness.add_metric([name, kind], kind in holding)
        yield from (state, entered, spent, reconnects, failures, wellness, thinned)

    def _stages(self) -> Iterator[Metric]:
        seconds = HistogramMetricFamily(
            "framerail_stage_seconds", "Wall time that a stage took over a frame.", labels=["stage"]
        )
        for name, histogram in self._pipeline.accounts.stages.items():
            _add_histogram(seconds, [name], histogram)
        yield seconds
        batches = dict(self._pipeline.accounts.batches)
        sizes = [2**power for power in range(11)]  # up to the most that a config may ask for
        cumulative = [
            (str(float(size)), sum(count for taken, count in batches.items() if taken <= size))
            for size in sizes
        ]
        total = sum(batches.values())
        family = HistogramMetricFamily("framerail_batch_size", "Frames per inference run.")
        family.add_metric(
            [], [*cumulative, ("+Inf", total)], sum(size * count for size, count in batches.items())
        )
        yield family

    def _channels(self) -> Iterator[Metric]:
        depth = GaugeMetricFamily("framerail_channel_depth", "Items waiting.", labels=["channel"])
        capacity = GaugeMetricFamily("framerail_channel_capacity", "Most that may wait.", labels=["channel"])
        flow = self._pipeline.flow
        for statistics in flow.statistics() if flow is not None else ():
            depth.add_metric([statistics.name], statistics.depth)
            capacity.add_metric([statistics.name], statistics.capacity)
        yield from (depth, capacity)

    def _sinks(self) -> Iterator[Metric]:
        written = CounterMetricFamily(
            "framerail_sink_written", "Results that an output took.", labels=["sink", "stream"]
        )
        dropped = CounterMetricFamily(
            "framerail_sink_dropped",
            "Results that an output did not get: it was slow, they were too old, or it is lost.",
            labels=["sink", "stream"],
        )
        up = GaugeMetricFamily("framerail_sink_up", "0 for an output that is lost.", labels=["sink"])
        for output in self._pipeline.outputs:
            for stream in list(self._pipeline.accounts.streams):
                written.add_metric([output.name, stream], output.written[stream])
                dropped.add_metric([output.name, stream], output.dropped[stream])
            up.add_metric([output.name], not output.errors)
        yield from (written, dropped, up)

    def _provider(self) -> Metric:
        family = InfoMetricFamily(
            "framerail_provider",
            "The execution provider that was asked for and the one that runs.",
            labels=["requested", "active", "device", "model"],
        )
        series = {
            (session.requested, session.active, str(session.device), model.name)
            for model in (self._pipeline.model, self._pipeline.second)
            if model is not None
            for session in model.sessions
        }
        for labels in sorted(series):
            family.add_metric(labels, {})
        return family


def _add_histogram(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    cumulative, count, total = histogram.buckets()
    buckets = [(str(bound), number) for bound, number in cumulative]
    family.add_metric(labels, [*buckets, ("+Inf", count)], total)


def health(pipeline: Observed) -> tuple[bool, dict[str, Any]]:
    """Whether the line is alive: nothing in it has failed, and nothing is stuck."""
    flow = pipeline.flow
    errors = [redact(str(error)) for error in flow.errors] if flow is not None else []
    stuck = pipeline.stuck
    status = "failed" if errors else "stuck" if stuck else "alive"
    return status == "alive", {"status": status, "errors": errors, "stuck": stuck}


def readiness(pipeline: Observed) -> tuple[bool, dict[str, Any]]:
    """Whether results can be expected: the model is loaded and every stream up, and none in a bad state.

    A stream that was removed or paused on purpose, or has ended as it should, keeps nobody waiting.
    """
    streams = {
        name: {
            "up": (up := account.up),
            "state": account.link.state,
            "ending": account.ending,
            "error": None if up or (link := account.link.status()).lost_for is None else link.error,
            "unfit": account.health.unfit if up else [],
        }
        for name, account in list(pipeline.accounts.streams.items())
        if not account.removed
    }
    done = {name for name, account in list(pipeline.accounts.streams.items()) if account.done}
    alive, _ = health(pipeline)
    loaded = alive and pipeline.model is not None and not pipeline.healing
    wanted = [each for name, each in streams.items() if each["state"] != "paused" and name not in done]
    ready = loaded and all(each["up"] and not each["unfit"] for each in wanted)
    refused = None if pipeline.config_refused is None else redact(pipeline.config_refused)
    return ready, {"ready": ready, "model_loaded": loaded, "config_refused": refused, "streams": streams}


def streams(pipeline: Observed) -> tuple[bool, dict[str, Any]]:
    """What each stream is doing: its state and since when, its source, its counts."""
    return True, {
        "streams": {name: told(account) for name, account in list(pipeline.accounts.streams.items())}
    }


class MetricsServer:
    """Serves /metrics, /healthz, /readyz and /streams on ``HOST:PORT`` while its context is open.

    With a ``token``, to those who send it (``Authorization: Bearer TOKEN``). Raises SinkOpenError when the
    address cannot be had.
    """

    def __init__(self, address: str, pipeline: Observed, token: str | None = None) -> None:
        host, port = host_and_port(address)
        registry = CollectorRegistry()
        registry.register(Collector(pipeline))
        ProcessCollector(registry=registry)  # its memory, CPU time, descriptors and start
        metrics = make_wsgi_app(registry)
        answers = {"/healthz": health, "/readyz": readiness, "/streams": streams}

        def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            authorization = environ.get("HTTP_AUTHORIZATION", "")
            if not admits(token, authorization):
                # Without credentials the bare challenge, else why they are refused (RFC 6750, section 3).
                said = 'Bearer realm="framerail"' + (', error="invalid_token"' if authorization else "")
                headers = [("WWW-Authenticate", said), ("Content-Type", "text/plain; charset=utf-8")]
                start_response("401 Unauthorized", headers)
                return [b"framerail: expected the header Authorization: Bearer TOKEN\n"]
            path = environ.get("PATH_INFO", "/")
            if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
                start_response("405 Method Not Allowed", [("Allow", "GET, HEAD"), ("Content-Length", "0")])
                return []
            if path in answers:
                good, body = answers[path](pipeline)
                start_response(
                    "200 OK" if good else "503 Service Unavailable", [("Content-Type", "application/json")]
                )
                return [] if environ["REQUEST_METHOD"] == "HEAD" else [json.dumps(body).encode() + b"\n"]
            if path == "/metrics":
                served: Iterable[bytes] = metrics(environ, start_response)
                return served
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"framerail: /metrics /healthz /readyz /streams\n"]

        server = ServerV6 if ":" in host else Server
        try:
            self._server = make_server(host, port, application, server, Handler)
        except OSError as error:
            raise SinkOpenError(
                f"cannot serve metrics on {address}: {error.strerror or error}; "
                "choose another --metrics HOST:PORT"
            ) from None
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        host = str(self._server.server_address[0])
        log.info("metrics on http://%s:%d/metrics", f"[{host}]" if ":" in host else host, self.port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
