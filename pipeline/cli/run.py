"""``framerail run``: its arguments and flags."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Optional

import typer

from pipeline.cli.common import console, given, reporting, resolved_sources
from pipeline.cli.flags import camera, config_of, provider_options
from pipeline.cli.running import run_line
from pipeline.config import PROVIDER_NAMES
from pipeline.errors import ConfigError
from pipeline.references import sources_in
from pipeline.smallfile import stamp


def run(
    sources: Annotated[
        Optional[list[str]],
        typer.Argument(
            metavar="SOURCE...",
            help="A video file, rtsp:// rtsps:// http(s):// rtmp:// srt:// udp:// address, camera:0 or "
            "/dev/video0, an image, a folder or glob of images, synthetic:640x480@30?frames=300, or "
            "sample: for the bundled clip. ${NAME} and ${file:/path} stand for a variable and a file's line.",
        ),
    ] = None,
    source_file: Annotated[
        Optional[str],
        typer.Option(
            "--source-file",
            metavar="FILE",
            help="Further sources from a file, one a line: no password is in the process list. ${NAME} and "
            "${file:/path} stand for a variable and a file's line.",
        ),
    ] = None,
    name: Annotated[
        Optional[list[str]],
        typer.Option("--name", help="Name of a stream; once per SOURCE, in the same order."),
    ] = None,
    config: Annotated[
        Optional[str],
        typer.Option("--config", metavar="FILE.yaml", help="Read everything from here; flags win over it."),
    ] = None,
    watch_config: Annotated[
        bool,
        typer.Option("--watch-config", help="Go by each edit of that file once it is still for a second."),
    ] = False,
    model: Annotated[
        Optional[str],
        typer.Option("--model", "-m", metavar="NAME|FILE.onnx", help="Default: nanodet-g."),
    ] = None,
    provider: Annotated[
        Optional[str],
        typer.Option(
            "--provider",
            "-p",
            help=f"One of: {', '.join(PROVIDER_NAMES)}. Default: auto, the best that works.",
        ),
    ] = None,
    device: Annotated[
        Optional[str],
        typer.Option(
            "--device",
            metavar="N[,N...]",
            help="Index of the provider's device; of several: 0,1. Default: 0.",
        ),
    ] = None,
    provider_option: Annotated[
        Optional[list[str]],
        typer.Option(
            "--provider-option",
            metavar="NAME=VALUE",
            help="An option of the provider, as ONNX Runtime calls it; may be repeated.",
        ),
    ] = None,
    conf: Annotated[
        Optional[float],
        typer.Option("--conf", help="Least confidence to report. Default: the model's own."),
    ] = None,
    iou: Annotated[
        Optional[float],
        typer.Option("--iou", help="Overlap from which NMS removes a box. Default: the model's own."),
    ] = None,
    classes: Annotated[
        Optional[str],
        typer.Option("--classes", metavar="person,car", help="Labels to keep. Default: all."),
    ] = None,
    task: Annotated[
        Optional[str],
        typer.Option(
            "--task",
            help="What the model has to be for: detect, segment, pose, obb, classify. Default: any.",
        ),
    ] = None,
    input_size: Annotated[
        Optional[str],
        typer.Option(
            "--input-size", metavar="N|WxH", help="Of the model's input, where its file leaves that open."
        ),
    ] = None,
    classify: Annotated[
        Optional[str],
        typer.Option(
            "--classify", metavar="NAME|FILE.onnx", help="A second model that says what each object is."
        ),
    ] = None,
    classify_on: Annotated[
        Optional[str],
        typer.Option("--classify-on", metavar="person,car", help="Objects that it looks at. Default: all."),
    ] = None,
    classify_every: Annotated[
        Optional[int],
        typer.Option("--classify-every", metavar="N", help="Frames for which its answer holds. Default: 10."),
    ] = None,
    max_detections: Annotated[
        Optional[int],
        typer.Option("--max-detections", help="Most detections of one frame. Default: 100."),
    ] = None,
    live: Annotated[
        Optional[bool],
        typer.Option(
            "--live/--file",
            help="Newest frames win and the rest is dropped and counted / every frame is processed. "
            "Default: by kind of source.",
        ),
    ] = None,
    pace: Annotated[
        Optional[float],
        typer.Option(
            "--pace", metavar="FPS", help="Deliver files as a camera of this rate would; implies --live."
        ),
    ] = None,
    loop: Annotated[
        Optional[bool], typer.Option("--loop", help="Begin files again at their end, until stopped.")
    ] = None,
    every_nth: Annotated[
        Optional[int],
        typer.Option("--every-nth", metavar="N", help="Process every Nth frame only."),
    ] = None,
    max_frames: Annotated[
        Optional[int],
        typer.Option("--max-frames", metavar="N", help="Stop each stream after N captured frames."),
    ] = None,
    duration: Annotated[
        Optional[float],
        typer.Option("--duration", metavar="SECONDS", help="Stop gracefully after so long."),
    ] = None,
    jsonl: Annotated[
        Optional[str],
        typer.Option(
            "--jsonl", metavar="PATH|-", help="Write one JSON object a frame; - is standard output."
        ),
    ] = None,
    video: Annotated[
        Optional[str],
        typer.Option(
            "--video", metavar="PATH", help="Write an annotated video; {stream} in it for several streams."
        ),
    ] = None,
    pictures: Annotated[
        Optional[str],
        typer.Option("--pictures", metavar="FOLDER", help="Write an annotated picture (.jpg) of each frame."),
    ] = None,
    display: Annotated[
        Optional[bool],
        typer.Option("--display", help="Show a window per stream; q or Esc stops."),
    ] = None,
    on_sink_error: Annotated[
        Optional[str],
        typer.Option(
            "--on-sink-error",
            metavar="end|go_on",
            help="When an output is lost: end the run, or go on without it; exit code 4. Default: end.",
        ),
    ] = None,
    sink_timeout: Annotated[
        Optional[float],
        typer.Option(
            "--sink-timeout",
            metavar="S",
            help="Seconds that a file, or the end of all streams, waits for one of several outputs that "
            "makes no progress; then it is lost. Default: 60.",
        ),
    ] = None,
    metrics: Annotated[
        Optional[str],
        typer.Option(
            "--metrics", metavar="HOST:PORT", help="Serve /metrics, /healthz, /readyz and /streams."
        ),
    ] = None,
    metrics_token_file: Annotated[
        Optional[str],
        typer.Option(
            "--metrics-token-file",
            metavar="FILE",
            help="The bearer token to ask for, needed beyond loopback. Default: FRAMERAIL_METRICS_TOKEN.",
        ),
    ] = None,
    metrics_without_token: Annotated[
        Optional[bool],
        typer.Option(
            "--metrics-without-token", help="Beyond loopback without one: something else keeps others out."
        ),
    ] = None,
    summary: Annotated[
        Optional[str],
        typer.Option("--summary", metavar="PATH.json", help="Write the closing figures as JSON."),
    ] = None,
    rtsp_transport: Annotated[
        Optional[str],
        typer.Option("--rtsp-transport", help="auto (TCP, then UDP), tcp or udp. Default: auto."),
    ] = None,
    open_timeout: Annotated[
        Optional[float],
        typer.Option("--open-timeout", metavar="SECONDS", help="For opening a source. Default: 10."),
    ] = None,
    stall_timeout: Annotated[
        Optional[float],
        typer.Option(
            "--stall-timeout",
            metavar="SECONDS",
            help="Without a picture, a live source is lost. Default: 10.",
        ),
    ] = None,
    reconnect: Annotated[
        Optional[bool],
        typer.Option(
            "--reconnect/--no-reconnect", help="Open a lost source again. Default: one that is live."
        ),
    ] = None,
    damaged: Annotated[
        Optional[str],
        typer.Option(
            "--damaged",
            help="Pictures that lost or damaged data has spoilt: drop, flag or keep. Default: flag.",
        ),
    ] = None,
    max_picture: Annotated[
        Optional[int],
        typer.Option(
            "--max-picture",
            metavar="PIXELS",
            help="Refuse to decode pictures of more. Default: 67108864 (8192x8192).",
        ),
    ] = None,
    tls_verify: Annotated[
        Optional[bool],
        typer.Option(
            "--tls-verify/--no-tls-verify",
            help="Ask https, rtsps and rtmps servers for a certificate that is trusted. Default: yes.",
        ),
    ] = None,
    tls_ca_file: Annotated[
        Optional[str],
        typer.Option(
            "--tls-ca-file", metavar="FILE.pem", help="Who may sign them. Default: the system's authorities."
        ),
    ] = None,
    health: Annotated[
        Optional[bool],
        typer.Option(
            "--health/--no-health", help="Tell frozen and black pictures. Default: of live sources."
        ),
    ] = None,
    frozen_seconds: Annotated[
        Optional[float],
        typer.Option(
            "--frozen-seconds", metavar="SECONDS", help="The same for so long: frozen. Default: 10."
        ),
    ] = None,
    black_seconds: Annotated[
        Optional[float],
        typer.Option("--black-seconds", metavar="SECONDS", help="Black or covered for so long. Default: 10."),
    ] = None,
    not_ready_when: Annotated[
        Optional[str],
        typer.Option(
            "--not-ready-when",
            metavar="frozen,black,covered,rate",
            help="States in which a stream fails /readyz. Default: none.",
        ),
    ] = None,
    hwdecode: Annotated[
        Optional[str],
        typer.Option(
            "--hwdecode",
            metavar="auto|cuda|vaapi|qsv|none",
            help="Decode video in hardware; auto: where it can be had. Default: none.",
        ),
    ] = None,
    isolate_sources: Annotated[
        Optional[bool],
        typer.Option(
            "--isolate-sources",
            help="Read each source in a process of its own: a crash of its decoder ends one stream alone.",
        ),
    ] = None,
    camera_size: Annotated[
        Optional[str],
        typer.Option("--camera-size", metavar="WxH", help="Picture size to ask of a local camera."),
    ] = None,
    camera_fps: Annotated[
        Optional[float],
        typer.Option("--camera-fps", help="Frame rate to ask of a local camera."),
    ] = None,
    camera_format: Annotated[
        Optional[str],
        typer.Option("--camera-format", metavar="FOURCC", help="Pixel format to ask for, such as MJPG."),
    ] = None,
    batch: Annotated[
        Optional[int],
        typer.Option("--batch", metavar="N", help="Frames that one run may take. Default: 1."),
    ] = None,
    linger_ms: Annotated[
        Optional[float],
        typer.Option("--linger-ms", metavar="MS", help="How long a run waits for its batch. Default: 0."),
    ] = None,
    max_age_ms: Annotated[
        Optional[float],
        typer.Option(
            "--max-age-ms",
            metavar="MS",
            help="What is older by the time that an output would get it is dropped and counted.",
        ),
    ] = None,
    target_age_ms: Annotated[
        Optional[float],
        typer.Option(
            "--target-age-ms",
            metavar="MS",
            help="Leave out so many frames of live streams that the p99 of ages stays within this.",
        ),
    ] = None,
    infer_workers: Annotated[
        Optional[int],
        typer.Option("--infer-workers", metavar="N", help="Concurrent runs. Default: for the machine."),
    ] = None,
    infer_threads: Annotated[
        Optional[int],
        typer.Option("--infer-threads", metavar="N", help="Threads of each run. Default: for the machine."),
    ] = None,
    profile: Annotated[
        Optional[bool],
        typer.Option(
            "--profile/--no-profile", help="Go by what framerail tune found here, where it ran. Default: yes."
        ),
    ] = None,
    rewrite: Annotated[
        Optional[bool],
        typer.Option(
            "--rewrite/--no-rewrite", help="Give the CPU a graph that computes the same faster. Default: yes."
        ),
    ] = None,
    fuse: Annotated[
        Optional[bool],
        typer.Option(
            "--fuse/--no-fuse", help="Let the model's graph cast, scale and transpose pictures. Default: no."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Warnings and errors only.")] = False,
    log_format: Annotated[
        Optional[str],
        typer.Option("--log-format", metavar="text|json", help="Default: text."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Log everything; tracebacks too.")] = False,
) -> None:
    """Detect objects in one or more sources."""
    from pipeline import logs

    logs.set_up(
        log_format if log_format == "json" else "text", quiet=quiet, debug=debug, console=console, behind=True
    )
    per_stream = {
        "live": live,
        "pace": pace,
        "loop": loop,
        "every_nth": every_nth,
        "max_frames": max_frames,
        "rtsp_transport": rtsp_transport,
        "open_timeout": open_timeout,
        "stall_timeout": stall_timeout,
        "reconnect": reconnect,
        "damaged": damaged,
        "max_picture": max_picture,
        "tls_verify": tls_verify,
        "tls_ca_file": tls_ca_file,
        "health": health,
        "frozen_seconds": frozen_seconds,
        "black_seconds": black_seconds,
        "not_ready_when": not_ready_when,
        "hwdecode": hwdecode,
        "camera": camera(camera_size, camera_fps, camera_format),
    }
    options = {
        "model": model,
        "provider": provider,
        "device": device,
        "provider_options": provider_options(provider_option),
        "conf_threshold": conf,
        "iou_threshold": iou,
        "classes": classes,
        "task": task,
        "input_size": input_size,
        "classify": classify,
        "classify_on": classify_on,
        "classify_every": classify_every,
        "max_detections": max_detections,
        "duration": duration,
        "jsonl": jsonl,
        "video": video,
        "pictures": pictures,
        "display": display,
        "on_sink_error": on_sink_error,
        "sink_timeout": sink_timeout,
        "metrics": metrics,
        "metrics_token_file": metrics_token_file,
        "metrics_without_token": metrics_without_token,
        "summary": summary,
        "batch": batch,
        "linger_ms": linger_ms,
        "isolate_sources": isolate_sources,
        "max_age_ms": max_age_ms,
        "target_age_ms": target_age_ms,
        "infer_workers": infer_workers,
        "infer_threads": infer_threads,
        "profile": profile,
        "rewrite": rewrite,
        "fuse": fuse,
        "quiet": quiet or None,
        "log_format": log_format,
    }
    with reporting():
        given_here = resolved_sources(sources or ())
        sources = [*given_here, *(sources_in(source_file) if source_file is not None else ())]
        read = partial(config_of, config, sources, name or [], given(per_stream), given(options))
        seen = stamp(config) if config is not None else None
        chosen = read()
        if watch_config and config is None:
            raise ConfigError("--watch-config: there is no file to watch; give one with --config")
        logs.set_up(chosen.log_format, quiet=chosen.quiet, debug=debug, console=console, behind=True)
        run_line(chosen, debug, config, read, watch_config, seen)
