"""``framerail bench``, ``plan`` and ``tune``."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.common import console, given, reporting, resolved_sources, stdout
from pipeline.config import PROVIDER_NAMES

Model = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="NAME|FILE.onnx", help="Default: nanodet-g."),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="N[,N...]", help="Index of the provider's device; of several: 0,1. Default: 0."
    ),
]
InputSize = Annotated[
    str | None,
    typer.Option(
        "--input-size", metavar="N|WxH", help="Of the model's input, where its file leaves that open."
    ),
]
Batch = Annotated[
    int | None, typer.Option("--batch", metavar="N", help="Frames that one run may take. Default: 1.")
]
LingerMs = Annotated[
    float | None,
    typer.Option("--linger-ms", metavar="MS", help="How long a run waits for its batch. Default: 0."),
]
Profile = Annotated[
    bool | None,
    typer.Option("--profile/--no-profile", help="Go by what tune found here, where it ran. Default: yes."),
]
Json = Annotated[bool, typer.Option("--json", help="For machines.")]
Debug = Annotated[bool, typer.Option("--debug", help="Log everything; tracebacks too.")]


def bench(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...", help="As for run, with references; files begin again at their end."
        ),
    ],
    model: Model = None,
    streams: Annotated[
        str | None,
        typer.Option("--streams", metavar="1,2,4", help="Measure with so many streams of the SOURCEs each."),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            metavar="AXIS[=A,B][,AXIS…]",
            help="Measure every combination of provider, batch, workers, threads, input-size, rewrite, "
            "fuse, precision; each with usual values unless some are given: --sweep workers=1,2,precision",
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare", metavar="OLD.json", help="Exit code 4 where something got slower beyond noise."
        ),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option("--plot", metavar="FILE.png|.html", help="Throughput and latency against load."),
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option("--provider", "-p", help=f"One of: {', '.join(PROVIDER_NAMES)}. Default: auto."),
    ] = None,
    device: Device = None,
    input_size: InputSize = None,
    batch: Batch = None,
    linger_ms: LingerMs = None,
    infer_workers: Annotated[
        int | None,
        typer.Option("--infer-workers", metavar="N", help="Concurrent runs. Default: for the machine."),
    ] = None,
    infer_threads: Annotated[
        int | None,
        typer.Option("--infer-threads", metavar="N", help="Threads of each run. Default: for the machine."),
    ] = None,
    profile: Profile = None,
    warm_up: Annotated[
        float, typer.Option("--warm-up", metavar="SECONDS", help="What is not counted.")
    ] = 2.0,
    window: Annotated[float, typer.Option("--window", metavar="SECONDS", help="One window.")] = 3.0,
    most: Annotated[
        float,
        typer.Option(
            "--most", metavar="SECONDS", help="When to give up waiting for three windows within 5 %."
        ),
    ] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="For machines, and for --compare.")] = False,
    debug: Debug = False,
) -> None:
    """Measure frames/s: each stage alone and in the line, the bottleneck, the bound and the ratio to it."""
    from pipeline import dependencies, logs

    logs.set_up("text", quiet=True, debug=debug, console=console)
    with reporting():
        dependencies.check()
        from pipeline.bench import Settings
        from pipeline.commands import bench as command

        options = command.Options(
            sources=resolved_sources(sources),
            sweep=sweep or (),
            streams=streams,
            plot=plot,
            compare=compare,
            settings=Settings(warm_up=warm_up, window=window, most=most),
            run=given(
                {
                    "model": model,
                    "provider": provider,
                    "device": device,
                    "input_size": input_size,
                    "batch": batch,
                    "linger_ms": linger_ms,
                    "infer_workers": infer_workers,
                    "infer_threads": infer_threads,
                    "profile": profile,
                }
            ),
        )
        command.bench(options, stdout(), console, as_json=as_json)


def plan(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]", help="A video of what the cameras will see, as for run. Default: sample:"
        ),
    ] = None,
    fps: Annotated[float, typer.Option("--fps", help="Of each camera.")] = 25.0,
    resolution: Annotated[
        str, typer.Option("--resolution", metavar="1080p|WxH", help="480p, 720p, 1080p, 1440p, 4k or WxH.")
    ] = "1080p",
    p99_age_ms: Annotated[
        float, typer.Option("--p99-age-ms", metavar="MS", help="From capture to result, 99 of 100 frames.")
    ] = 200.0,
    max_drop: Annotated[
        str, typer.Option("--max-drop", metavar="0.1%", help="Of the frames of any camera.")
    ] = "0.1%",
    model: Model = None,
    provider: Annotated[
        str | None,
        typer.Option("--provider", "-p", help=f"One of: {', '.join(PROVIDER_NAMES)}. Default: auto."),
    ] = None,
    device: Device = None,
    input_size: InputSize = None,
    batch: Batch = None,
    linger_ms: LingerMs = None,
    every_nth: Annotated[
        int | None, typer.Option("--every-nth", metavar="N", help="Detect in every Nth frame only.")
    ] = None,
    profile: Profile = None,
    most: Annotated[int, typer.Option("--most", metavar="N", help="Cameras to try at most.")] = 64,
    seconds: Annotated[float, typer.Option("--seconds", help="Length of a trial.")] = 10.0,
    confirm: Annotated[
        float, typer.Option("--confirm", metavar="SECONDS", help="Length of the trials that settle it.")
    ] = 60.0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find out how many cameras this machine carries, by running them, and what gives out first."""
    from pipeline import dependencies, logs

    logs.set_up("text", quiet=True, debug=debug, console=console)
    with reporting():
        dependencies.check()
        from pipeline.commands import plan as command

        options = command.Options(
            source=None if source is None else resolved_sources([source])[0],
            fps=fps,
            resolution=resolution,
            p99_age_ms=p99_age_ms,
            max_drop=max_drop,
            most=most,
            seconds=seconds,
            confirm=confirm,
            every_nth=every_nth,
            run=given(
                {
                    "model": model,
                    "provider": provider,
                    "device": device,
                    "input_size": input_size,
                    "batch": batch,
                    "linger_ms": linger_ms,
                    "profile": profile,
                }
            ),
        )
        command.plan(options, stdout(), console, as_json=as_json)


def tune(
    source: Annotated[
        str, typer.Argument(metavar="[SOURCE]", help="A video of what is to be detected, as for run.")
    ] = "sample:",
    model: Model = None,
    max_ap_loss: Annotated[
        float | None,
        typer.Option(
            "--max-ap-loss",
            help="AP (0..1) that a faster setting may cost. Default: 0.01 with labels, else 0.1.",
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            "--images", metavar="DIR", help="Labelled pictures to measure that on. Default: the SOURCE."
        ),
    ] = None,
    annotations: Annotated[
        str | None,
        typer.Option("--annotations", metavar="FILE.json", help="Their labels, in COCO's instances format."),
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option("--provider", "-p", help="Tune on this one alone. Default: try all that there are."),
    ] = None,
    input_size: Annotated[
        str | None, typer.Option("--input-size", metavar="N|WxH", help="Tune with this one alone.")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="Length of a trial.")] = 4.0,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Begin anew: no trial or copy of an earlier tuning counts."),
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the fastest settings for a model on this machine; run goes by them from then on."""
    from pipeline import dependencies, logs

    logs.set_up("text", quiet=True, debug=debug, console=console)
    with reporting():
        dependencies.check()
        from pipeline.commands import tune as command
        from pipeline.errors import ConfigError

        if (images is None) != (annotations is None):
            raise ConfigError("give --images DIR and --annotations FILE.json together")
        options = command.Options(
            source=resolved_sources([source])[0],
            max_ap_loss=max_ap_loss,
            images=images,
            annotations=annotations,
            seconds=seconds,
            fresh=fresh,
            run=given({"model": model, "provider": provider, "input_size": input_size}),
        )
        command.tune(options, stdout(), console, as_json=as_json)
