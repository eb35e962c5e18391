"""``framerail eval``."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.common import console, given, reporting, resolved_sources, stdout
from pipeline.config import PROVIDER_NAMES


def evaluate(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE...", help="With --reference: video or pictures, as for run, with references."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="NAME|FILE.onnx", help="Default: nanodet-g."),
    ] = None,
    images: Annotated[
        str | None, typer.Option("--images", metavar="DIR", help="The labelled pictures.")
    ] = None,
    annotations: Annotated[
        str | None,
        typer.Option("--annotations", metavar="FILE.json", help="Their labels, in COCO's instances format."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference", metavar="NAME|FILE.onnx", help="The model whose detections are the truth."
        ),
    ] = None,
    reference_provider: Annotated[
        str | None,
        typer.Option(
            "--reference-provider", help="Where it runs. Default: cpu. Without --reference: the same model."
        ),
    ] = None,
    reference_conf: Annotated[
        float | None,
        typer.Option("--reference-conf", help="Its detections above this are the truth. Default: 0.25."),
    ] = None,
    min_ap: Annotated[
        float | None,
        typer.Option("--min-ap", help="Exit code 4 where an AP (0..1) is below: of boxes, masks, keypoints."),
    ] = None,
    original: Annotated[
        str | None,
        typer.Option(
            "--original",
            metavar="NAME|FILE.onnx",
            help="Of a quantised model: the float one.",
        ),
    ] = None,
    max_ap_loss: Annotated[
        float | None,
        typer.Option(
            "--max-ap-loss",
            help="Exit code 4 where it has lost more than this. Default: 0.01.",
        ),
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option(
            "--provider",
            "-p",
            help=f"One of: {', '.join(PROVIDER_NAMES)}. Default: auto, the best that works.",
        ),
    ] = None,
    device: Annotated[int | None, typer.Option("--device", help="Index of the provider's device.")] = None,
    conf: Annotated[
        float | None, typer.Option("--conf", help="Least confidence that is ranked. Default: 0.01.")
    ] = None,
    iou: Annotated[
        float | None,
        typer.Option("--iou", help="Overlap from which NMS removes a box. Default: the model's own."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option("--classes", metavar="person,car", help="Labels to measure. Default: all."),
    ] = None,
    max_detections: Annotated[
        int | None, typer.Option("--max-detections", help="Most detections of one picture. Default: 100.")
    ] = None,
    input_size: Annotated[
        str | None,
        typer.Option(
            "--input-size", metavar="N|WxH", help="Of the model's input, where its file leaves that open."
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", help="The first N pictures only, of each SOURCE."),
    ] = None,
    every_nth: Annotated[
        int | None, typer.Option("--every-nth", metavar="N", help="Every Nth frame of a SOURCE only.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Log everything; tracebacks too.")] = False,
) -> None:
    """Measure a detector's AP and speed: on labelled pictures, or against another detector."""
    from pipeline import dependencies, logs

    logs.set_up("text", quiet=True, debug=debug, console=console)
    run_options = {
        "model": model,
        "provider": provider,
        "device": device,
        "conf_threshold": conf,
        "iou_threshold": iou,
        "classes": classes,
        "max_detections": max_detections,
        "input_size": input_size,
    }
    with reporting():
        dependencies.check()
        from pipeline.commands import eval as command

        options = command.Options(
            images=images,
            annotations=annotations,
            sources=resolved_sources(sources or ()),
            reference=reference,
            reference_provider=reference_provider,
            reference_conf=reference_conf,
            every_nth=every_nth,
            limit=limit,
            min_ap=min_ap,
            original=original,
            max_ap_loss=max_ap_loss,
            run=given(run_options),
        )
        command.evaluate(options, stdout(), console, as_json=as_json)
