"""``framerail chaos …``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.common import console, reporting, resolved_sources

if TYPE_CHECKING:
    from pipeline.chaos import Fault, Proxy, Server

chaos_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Servers and connections that misbehave by a script, to try what a receiver makes of it.",
)

_Faults = Annotated[
    list[str] | None,
    typer.Option(
        "--fault",
        metavar="KIND@WHEN:KEY=VALUE,...",
        help="What goes wrong and when, such as stall@2:for=3; may be repeated. Kinds: framerail chaos list.",
    ),
]
_Script = Annotated[
    str | None, typer.Option("--script", metavar="FILE.yaml", help="More faults, and a seed.")
]
_Seed = Annotated[
    int | None, typer.Option("--seed", help="Of all that is left to chance. Default: the script's, or 0.")
]
_Listen = Annotated[
    str, typer.Option("--listen", metavar="HOST:PORT", help="Where to listen; port 0: any free one.")
]
_AnyAddress = Annotated[
    bool, typer.Option("--any-address", help="Let --listen be an address that others can reach.")
]
_Duration = Annotated[
    float | None, typer.Option("--duration", metavar="SECONDS", help="End after so long. Default: by Ctrl-C.")
]
_Json = Annotated[
    bool, typer.Option("--json", help="Say on standard output what was injected, for machines.")
]
_Debug = Annotated[bool, typer.Option("--debug", help="Log each injection and connection; tracebacks too.")]


@chaos_app.command(
    short_help="Play a clip over RTSP and HTTP, with faults.",
    epilog="Example: framerail chaos serve clip.mp4 --listen 127.0.0.1:8554 --fault stall@5:for=3 "
    "--fault drop@10:rate=0.05,for=5",
)
def serve(
    clips: Annotated[
        list[str],
        typer.Argument(metavar="CLIP...", help="Video files; all but the first are for the fault switch."),
    ],
    fault: _Faults = None,
    script: _Script = None,
    seed: _Seed = None,
    listen: _Listen = "127.0.0.1:0",
    any_address: _AnyAddress = False,
    user: Annotated[str | None, typer.Option("--user", help="Demand this user name.")] = None,
    password: Annotated[
        str | None, typer.Option("--password", metavar="TEXT|${NAME}", help="And this password.")
    ] = None,
    scheme: Annotated[
        str, typer.Option("--scheme", help="How they are demanded: digest or basic.")
    ] = "digest",
    once: Annotated[bool, typer.Option("--once", help="Play to the clip's end, then hang up.")] = False,
    duration: _Duration = None,
    as_json: _Json = False,
    debug: _Debug = False,
) -> None:
    """Play a clip over RTSP, MPEG-TS over HTTP and MJPEG over HTTP, and misbehave by the script."""
    _log(debug)
    with reporting():
        from pipeline import chaos

        faults, number = _faults(fault, script, seed)
        kit = chaos.serve(
            clips,
            faults,
            seed=number,
            listen=listen,
            any_address=any_address,
            user=user,
            password=None if password is None else chaos.secret(password),
            scheme=scheme,
            loop=not once,
        )
        _run(kit, duration, as_json)


@chaos_app.command(
    short_help="Stand before a real server, with faults.",
    epilog="Example: framerail chaos proxy rtsp://127.0.0.1:8554/stream --listen 127.0.0.1:9000 "
    "--fault reset@5:of=connection",
)
def proxy(
    target: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS", help="A real server's: rtsp:// http:// rtmp:// tcp://; ${NAME} as for run."
        ),
    ],
    fault: _Faults = None,
    script: _Script = None,
    seed: _Seed = None,
    listen: _Listen = "127.0.0.1:0",
    any_address: _AnyAddress = False,
    duration: _Duration = None,
    as_json: _Json = False,
    debug: _Debug = False,
) -> None:
    """Stand between a receiver and a real server, over TCP, and misbehave by the script."""
    _log(debug)
    with reporting():
        from pipeline import chaos

        faults, number = _faults(fault, script, seed)
        kit = chaos.proxy(
            resolved_sources([target])[0], faults, seed=number, listen=listen, any_address=any_address
        )
        _run(kit, duration, as_json)


@chaos_app.command("list")
def kinds(as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """List the faults and their keys."""
    with reporting():
        from pipeline.chaos.kinds import described

        rows = described()
        if as_json:
            typer.echo(json.dumps(rows, indent=2))
        else:
            for row in rows:
                typer.echo(f"{row['kind']:<10} {row['does']}\n{'':<10} {row['written']}")


def _log(debug: bool) -> None:
    from pipeline import logs

    logs.set_up("text", quiet=False, debug=debug, console=console)


def _faults(texts: list[str] | None, script: str | None, seed: int | None) -> tuple[list[Fault], int]:
    from pipeline.chaos import load_script, parse_fault

    scripted, number = load_script(script) if script is not None else ((), None)
    given = [parse_fault(text) for text in texts or ()]
    return [*scripted, *given], seed if seed is not None else number or 0


def _run(kit: Server | Proxy, duration: float | None, as_json: bool) -> None:
    """Run it until its time is over or the first Ctrl-C; say what was injected."""
    from pipeline.redact import redact
    from pipeline.shutdown import signals

    with kit:
        for address in kit.addresses:
            console.print(redact(address), soft_wrap=True)
        with signals(first=kit.stop, second=kit.stop):
            kit.wait(duration)
    injected = dict(kit.injected)
    if as_json:
        typer.echo(json.dumps({"connections": kit.connections, "injected": injected}))
        return
    said = ", ".join(f"{kind} {count}" for kind, count in injected.items()) or "nothing"
    console.print(f"{kit.connections} connections; injected: {said}", soft_wrap=True)
