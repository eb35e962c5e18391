"""``framerail models …``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from pipeline.cli.common import console, reporting, stdout

models_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="What models there are and how they are read."
)


@models_app.command("list")
def models_list(as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """List the models that are known by name."""
    with _models() as commands:
        commands.show_list(stdout(), as_json=as_json)


@models_app.command("info")
def models_info(
    model: Annotated[str, typer.Argument(metavar="NAME|FILE.onnx")],
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Say how a model is fed and read, and for each property why."""
    with _models() as commands:
        commands.show_info(model, stdout(), as_json=as_json)


@models_app.command("identify", short_help="Find out what a model is, and why.")
def models_identify(
    model: Annotated[str, typer.Argument(metavar="NAME|FILE.onnx")],
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Find out what a model is: its family and task, how it is fed, what each output holds, and why."""
    with _models():
        from pipeline.commands.identify import identify

        identify(model, stdout(), as_json=as_json)


@models_app.command("pull")
def models_pull(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...|all", help="Cards by name or path, or all that have an address."),
    ],
    directory: Annotated[
        str | None,
        typer.Option(
            "--dir", metavar="DIR", help="Where to. Default: FRAMERAIL_MODELS, else the user's cache."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Download models, verified against their cards."""
    with _models():
        from pipeline.commands.pull import pull

        pull(names, directory, stdout(), console, as_json=as_json)


@models_app.command("convert")
def models_convert(
    cfg: Annotated[str, typer.Argument(metavar="NET.cfg")],
    weights: Annotated[str, typer.Argument(metavar="NET.weights")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE.onnx", help="Where to write it.")],
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels", metavar="FILE.names", help="One label a line. Default for 80 classes: COCO's."
        ),
    ] = None,
    resize: Annotated[
        str,
        typer.Option("--resize", metavar="letterbox|stretch", help="How pictures are fed."),
    ] = "letterbox",
    tree: Annotated[
        str | None,
        typer.Option(
            "--tree", metavar="FILE.tree", help="A tree of classes (YOLO9000). Default: what tree= names."
        ),
    ] = None,
    tree_threshold: Annotated[
        float,
        typer.Option(
            "--tree-threshold", metavar="0..1", help="A box has the deepest class over it: Darknet's -hier."
        ),
    ] = 0.5,
    size: Annotated[
        str | None,
        typer.Option(
            "--size", metavar="N|WxH", help="Of the model's input, instead of the cfg's width and height."
        ),
    ] = None,
) -> None:
    """Convert a Darknet network (.cfg and .weights) to ONNX."""
    with _models():
        from pipeline.commands.convert import convert

        convert(
            cfg,
            weights,
            output,
            stdout(),
            labels=labels,
            resize=resize,
            size=size,
            tree=tree,
            tree_threshold=tree_threshold,
        )


@models_app.command("quantize", short_help="Make a smaller, faster copy that keeps its accuracy.")
def models_quantize(
    model: Annotated[str, typer.Argument(metavar="NAME|FILE.onnx", help="A float32 detector.")],
    calibrate: Annotated[
        list[str],
        typer.Option(
            "--calibrate",
            metavar="SOURCE",
            help="Footage like what it will see: a clip, a folder of pictures, a stream; may be repeated.",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE.onnx", help="Default: NAME-int8.onnx, here."),
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", metavar="int8|fp16", help="int8 is for CPUs, fp16 for GPUs.")
    ] = "int8",
    frames: Annotated[
        int, typer.Option("--frames", metavar="N", help="Frames to calibrate on, spread over the sources.")
    ] = 64,
    method: Annotated[
        str,
        typer.Option(
            "--method", metavar="minmax|percentile|entropy", help="How the ranges of activations are found."
        ),
    ] = "minmax",
    float_layers: Annotated[
        int | None,
        typer.Option(
            "--float-layers",
            metavar="N",
            help="Keep the N layers in float that lose most. Default: as few as the limit needs.",
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", help="What trying each layer may take, where that is needed.")
    ] = 300.0,
    images: Annotated[
        str | None, typer.Option("--images", metavar="DIR", help="Labelled pictures to measure the loss on.")
    ] = None,
    annotations: Annotated[
        str | None,
        typer.Option(
            "--annotations",
            metavar="FILE.json",
            help="Their labels, COCO's instances format.",
        ),
    ] = None,
    max_ap_loss: Annotated[
        float | None,
        typer.Option(
            "--max-ap-loss", help="Most AP (0..1) that may be lost. Default: 0.01 with labels, else 0.1."
        ),
    ] = None,
    input_size: Annotated[
        str | None,
        typer.Option("--input-size", metavar="N|WxH", help="Of the input, where the file leaves that open."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Make a smaller, faster copy of a detector, and refuse it if it has lost too much.

    int8: about twice as fast on CPUs with VNNI. Boxes are computed in float. If the loss is over the limit,
    the layers that hurt are found and kept in float: 2, 4, 8, … up to half of them.

    The loss is the fall in AP on labelled pictures (--images, --annotations). Without them it is 1 - AP of
    the copy, weighted by objects, and the model's own detections on other frames are the truth.

    Over the limit: exit code 4, the figures, and no file. The copy says in its metadata how it is fed and
    read, so that run --model needs nothing else. Needs: pip install 'framerail[convert,eval]'.

    framerail models quantize yolov8n.onnx --calibrate yard.mp4 --calibrate gate.mp4 -o yolov8n-int8.onnx
    """
    with _models():
        from pipeline.copies.loss import Options
        from pipeline.copies.quantize import quantize

        options = Options(
            model=model,
            calibrate=calibrate,
            output=output,
            precision=precision,
            frames=frames,
            method=method,
            float_layers=float_layers,
            seconds=seconds,
            images=images,
            annotations=annotations,
            max_ap_loss=max_ap_loss,
            input_size=input_size,
        )
        quantize(options, stdout(), console, as_json=as_json)


@models_app.command("verify", short_help="Check a model's hash and run it once.")
def models_verify(
    model: Annotated[str, typer.Argument(metavar="NAME|FILE.onnx")],
    provider: Annotated[str, typer.Option("--provider", "-p", help="Where to run it.")] = "auto",
) -> None:
    """Check a model's hash, load it, run it on a picture, and say what was found."""
    with _models() as commands:
        commands.verify(model, provider, stdout())


@contextmanager
def _models() -> Iterator[Any]:
    """Errors in one line; yields the module of the commands, which needs what the check looks for."""
    from pipeline import dependencies, logs

    logs.set_up("text", quiet=True, debug=False, console=console)
    with reporting(hint="please report this"):
        dependencies.check()
        from pipeline.commands import models as commands

        yield commands
