"""A canary password wherever one can be given, and every output of the process searched for it.

``python -m benchmarks.canary [--json FILE]``

``framerail run`` with cameras that need a password, are refused, or lead elsewhere: in addresses, variables,
files that a config or ``--source-file`` refers to, redirections and playlists; at log level debug, with the
log as text and as JSON. Searched are the log, standard output, every endpoint, every file that is written and
its name, and the command lines of all processes. The exit code is 1 where a secret is in one of them.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import verdicts
from benchmarks.cheap_model import write_cheap_model
from pipeline.access import TOKEN_VARIABLE
from pipeline.bench import machine
from pipeline.sample import SAMPLE
from tests.servers import free_port, http_server

CANARY = "c4naryPassw0rd"
"""In every secret below, each with an ending of its own, so that one that leaks is known by its name."""
ENDINGS = (
    "login", "file", "variable", "address", "t", "query", "list", "segment", "rtsp", "rtsps", "redirect",
    "nowhere", "key", "session", "metrics-token",
)  # fmt: skip
USER = "viewer"
WAYS, FORMATS = ("config", "source file"), ("text", "json")
LONGEST = 40.0


def main() -> None:
    """Run every way, print, and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as temporary:
        model = str(write_cheap_model(Path(temporary) / "cheap.onnx"))
        for number, (way, log_format) in enumerate(product(WAYS, FORMATS)):
            folder = Path(temporary) / str(number)
            folder.mkdir()
            outputs = run(folder, model, way, log_format)
            sizes = {name: len(text) for name, text in outputs.items()}
            runs.append({"way": way, "log": log_format, "characters": sizes, "leaks": leaks(outputs)})
    found = {"kind": "framerail canary", "machine": machine(), "secrets": list(ENDINGS), "runs": runs}
    verdicts.end(found, limits(found), options.json)


def limits(found: dict[str, Any]) -> list[verdicts.Row]:
    """What is promised: its name, what was measured, the limit, and whether it holds."""
    count = sum(len(run["characters"]) for run in found["runs"])
    size = sum(sum(run["characters"].values()) for run in found["runs"]) / 1e3
    seen = sum(len(run["leaks"]) for run in found["runs"])
    what = f"outputs with one of {len(found['secrets'])} secrets in them, of {count} ({size:.0f} kB)"
    return [(what, seen, 0, not seen)]


def leaks(outputs: dict[str, str]) -> list[str]:
    """Each output that a secret is in, with what stands around it."""
    return [
        f"{name}: {text[max(0, at - 150) : at + 60]}"
        for name, text in outputs.items()
        if (at := text.find(CANARY)) >= 0
    ]


def run(folder: Path, model: str, way: str, log_format: str) -> dict[str, str]:
    """What the command says and writes, by name, with the sources of :func:`cameras` given in this ``way``.

    Raises RuntimeError where it ends by itself, or a source has neither pictures nor a failure in time.
    """
    out = folder / "out"
    out.mkdir()
    port = free_port()
    with cameras(folder) as sources:
        arguments = ["--model", model, "--debug", "--log-format", log_format, "--open-timeout", "3"]
        arguments += ["--metrics", f"127.0.0.1:{port}", "--jsonl", "out/r.jsonl", "--summary", "out/s.json"]
        arguments += ["--video", "out/{stream}.mp4", "--max-frames", "100000"]
        if way == "config":
            lines = [f"- {{name: {name}, source: '{source}'}}" for name, source in sources]
            (folder / "line.yaml").write_text("\n".join(["streams:", *lines]))
            arguments += ["--config", "line.yaml"]
        else:
            (folder / "sources").write_text("\n".join(source for _, source in sources))
            arguments += ["--source-file", "sources"]
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "run", *arguments],
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            told = _await_verdicts(process, port, len(sources))
            found = {path: fetch(port, path) for path in ("/metrics", "/healthz", "/readyz", "/streams", "/")}
            found["command lines"] = command_lines()
            if f"run --model {model}" not in found["command lines"]:
                raise RuntimeError("the list of processes does not show the one that was started")
            process.send_signal(signal.SIGTERM)
            found["standard output"], found["log"] = process.communicate(timeout=LONGEST)
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
    if not told["live" if way == "config" else "127.0.0.1"]["emitted"]:
        raise RuntimeError(f"the camera that works gave nothing: {told}")
    if "***" not in found["log"]:
        raise RuntimeError("nothing in the log is masked: no address was told")
    found |= {f"file {path.name}": path.read_bytes().decode(errors="replace") for path in out.iterdir()}
    found["file names"] = "\n".join(path.name for path in out.iterdir())
    return found


def secret(ending: str) -> str:
    """A secret by its ending. Raises ValueError for one that is not in the list."""
    return f"{CANARY}-{ENDINGS[ENDINGS.index(ending)]}"


def environment() -> dict[str, str]:
    """This process's, with secrets in it."""
    address = f"http://{USER}:{secret('address')}@127.0.0.1:{free_port()}/x.mp4?t={secret('t')}"
    given = {
        "CANARY_VARIABLE": secret("variable"),
        "CANARY_ADDRESS": address,
        TOKEN_VARIABLE: secret("metrics-token"),
    }
    return os.environ | given


@contextlib.contextmanager
def cameras(folder: Path) -> Iterator[list[tuple[str, str]]]:
    """Sources by name, each with a password somewhere: such as work, are refused, or lead elsewhere."""
    served = folder / "served"
    served.mkdir()
    (served / "clip.mp4").write_bytes(SAMPLE.read_bytes())
    segment = f"http://127.0.0.1:{free_port()}/s.ts?token={secret('segment')}"
    (served / "list.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10.0,\n{segment}\n#EXT-X-ENDLIST\n"
    )
    (folder / "secret").write_text(f"{secret('file')}\n")
    nowhere = f"{USER}:{secret('nowhere')}@127.0.0.1:{free_port()}"
    with (
        http_server(served, user=USER, password=secret("login"), fps=100) as closed,
        http_server(served) as opened,
    ):
        inside = closed.with_login(USER, secret("login"))
        locations = {
            "/in": f"{inside}/clip.mp4",
            "/refused": f"{closed.with_login(USER, secret('redirect'))}/clip.mp4",
            "/nowhere": f"http://{nowhere}/x?key={secret('key')}",
            "/query": f"{opened.url}/none.mp4?sessionid={secret('session')}",
        }
        with redirecting(locations) as elsewhere:
            yield [
                ("live", f"{inside}/live.mjpeg"),
                ("variable", f"{closed.url.replace('://', f'://{USER}:${{CANARY_VARIABLE}}@')}/clip.mp4"),
                ("file", f"{closed.url.replace('://', f'://{USER}:${{file:{folder}/secret}}@')}/clip.mp4"),
                ("whole", "${CANARY_ADDRESS}"),
                ("query", f"{opened.url}/status/500?password={secret('query')}"),
                ("playlist", f"{opened.url}/list.m3u8?auth={secret('list')}"),
                ("rtsp", f"rtsp://{USER}:{secret('rtsp')}@127.0.0.1:{free_port()}/x"),
                ("rtsps", f"rtsps://{USER}:{secret('rtsps')}@127.0.0.1:{free_port()}/x"),
                *((path.strip("/"), elsewhere + path) for path in locations if path != "/query"),
                ("elsewhere", f"{elsewhere}/query"),
            ]


@contextlib.contextmanager
def redirecting(locations: dict[str, str]) -> Iterator[str]:
    """Send clients from each path to its location; the server's address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", locations[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(5)


def command_lines() -> str:
    """Those of all processes, as any user may read them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return "\n".join(found)


def fetch(port: int, path: str) -> str:
    """Headers and body of an endpoint, whatever its status."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    request.add_header("Authorization", f"Bearer {secret('metrics-token')}")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return str(answer.headers) + answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return str(error.headers) + error.read().decode()


def _await_verdicts(process: subprocess.Popen[str], port: int, count: int) -> dict[str, dict[str, Any]]:
    """Until each stream has had pictures or a failure."""
    deadline = time.monotonic() + LONGEST
    told: dict[str, dict[str, Any]] = {}
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            body = fetch(port, "/streams")
            told = json.loads(body[body.index("{") :])["streams"]
            if len(told) == count and all(each["emitted"] or each["failures"] for each in told.values()):
                return told
        time.sleep(0.05)
    raise RuntimeError(f"not all streams had a verdict: {told}, exit code {process.poll()}")


if __name__ == "__main__":
    main()
