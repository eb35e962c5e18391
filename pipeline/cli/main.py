"""The ``framerail`` command: arguments, exit codes, output for people.

Exit codes: 0 done, or (run, chaos) stopped by the first Ctrl-C or SIGTERM; 2 bad usage or config, a source or
output that cannot be opened; 3 a model or provider that cannot be had; 4 failed while running, or not
accepted (below ``--min-ap``, a loss over the limit, slower than before); 130 cancelled by a second Ctrl-C,
or by the first where nothing drains (bench, tune, plan, eval, models). Standard output belongs to data
(``--jsonl -``, ``--json``); everything for people goes to standard error.
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pipeline import __version__
from pipeline.cli.bench import bench, plan, tune
from pipeline.cli.chaos import chaos_app
from pipeline.cli.common import console, reporting, stdout
from pipeline.cli.eval import evaluate
from pipeline.cli.models import models_app
from pipeline.cli.run import run

app = typer.Typer(
    name="framerail",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Real-time object detection on video, streams and cameras that accounts for every frame.",
    epilog="Example: framerail run sample: --video out.mp4. Exit codes: 0 done, or (run, chaos) stopped "
    "gracefully; 2 bad usage, or a source or output that cannot be opened; 3 a model or provider that cannot "
    "be had; 4 failed while running, or not accepted (eval's --min-ap, a loss over the limit, slower than "
    "--compare's, not one camera); 130 cancelled: run by a second Ctrl-C, bench, tune, plan, eval and models "
    "by the first.",
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"framerail {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Real-time object detection on video, streams and cameras that accounts for every frame."""


app.command(
    "run", epilog="Example: framerail run rtsp://user:secret@camera/stream --classes person,car --jsonl -"
)(run)


app.add_typer(models_app, name="models", short_help="List, identify, convert and quantize models.")


@app.command(short_help="Check this installation and prove its providers.")
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks too.")] = False,
) -> None:
    """Say what this installation and machine can do: versions, providers proven, codecs, warnings."""
    from pipeline import logs
    from pipeline.doctor import examine, print_report

    logs.set_up("text", quiet=True, debug=debug, console=console)
    with reporting():
        report = examine()
        if as_json:
            typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
        else:
            print_report(report, stdout())


app.command(
    "bench",
    short_help="Measure frames/s, the bottleneck, and the ratio to the bound.",
    epilog="Examples: framerail bench sample:; framerail bench clip.mp4 --model m.onnx --streams 1,2,4,8 "
    "--plot load.html; framerail bench clip.mp4 --json > old.json, and later --compare old.json",
)(bench)
app.command(
    "tune",
    short_help="Find the fastest settings for a model on this machine.",
    epilog="Examples: framerail tune; framerail tune clip.mp4 --model m.onnx --max-ap-loss 0.005",
)(tune)
app.command(
    "plan",
    short_help="Find out how many cameras this machine carries.",
    epilog="Examples: framerail plan --fps 15 --resolution 1080p; framerail plan gate.mp4 --fps 10 "
    "--model m.onnx --p99-age-ms 300 --max-drop 1% --json",
)(plan)
app.command(
    "eval",
    short_help="Measure a detector's AP and speed.",
    epilog="Examples: framerail eval --model m.onnx --images val2017 --annotations instances_val2017.json; "
    "framerail eval --model m-int8.onnx --reference m.onnx clip.mp4 --every-nth 10 --min-ap 0.95",
)(evaluate)
app.add_typer(chaos_app, name="chaos", short_help="Servers and proxies that misbehave, for tests.")
