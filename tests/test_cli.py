"""The command as a user runs it: a process of its own, its exit code, what it says and leaves."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import av
import pytest
from rich.console import Console
from typer.main import get_group

from pipeline import doctor
from pipeline.cli.flags import flag
from pipeline.cli.main import app
from pipeline.config import CameraConfig, Config, StreamConfig
from pipeline.sample import SAMPLE
from pipeline.shutdown import SAME_SECONDS
from tests.command import framerail, fresh
from tests.test_catalog import write_card
from tests.test_download import Handler, Site, serving
from tests.test_stages_classify import write_colour_classifier

SAMPLE_FRAMES = 250


def assert_one_line(done: subprocess.CompletedProcess[str], code: int, *says: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if "ERROR" in line]
    assert len(errors) == 1, done.stderr
    for text in says:
        assert text in errors[0]


def test_a_run_leaves_everything_it_promises(cheap_model: str, tmp_path: Path) -> None:
    done = fresh(
        "run", "synthetic:64x48@25?frames=50", "--name", "one", "--model", cheap_model,
        "--jsonl", "-", "--video", "v.mp4", "--summary", "s.json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["frame"] for line in lines] == list(range(50))
    assert all(line["stream"] == "one" for line in lines)
    with av.open(tmp_path / "v.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == 50
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["streams"]["one"]["captured"] == 50
    assert summary["conserved"] is True
    assert "50 captured = 50 emitted + 0 dropped: every frame is accounted for" in done.stderr
    assert "running: CPUExecutionProvider" in done.stderr
    counts = Counter(found["label"] for line in lines for found in line["detections"])
    assert counts and summary["streams"]["one"]["detections"] == counts
    counted = ", ".join(f"{label} {count}" for label, count in counts.most_common())
    assert f"detections: {counted}\n" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "give a SOURCE, --source-file FILE or --config"),
        (["missing.mp4"], 2, "missing.mp4"),
        (["synthetic:64x48", "--provider", "cuda12"], 2, "unknown provider 'cuda12'"),
        (["synthetic:64x48", "--provider", "tensorrt"], 3, "this build (onnxruntime"),
        (["synthetic:64x48", "--model", "nanodet-gg"], 3, "did you mean 'nanodet-g'"),
        (["synthetic:64x48", "--model", "no/such.onnx"], 3, "no/such.onnx"),
        (["synthetic:64x48", "--classes", "unicorn"], 2, "no class 'unicorn'"),
        (["synthetic:64x48", "--jsonl", "no/such/dir.jsonl"], 2, "no/such"),
        (["synthetic:64x48", "--video", "v.xyz"], 2, ".mp4"),
        (["synthetic:64x48", "--summary", "no/such/s.json"], 2, "no/such"),
        (["synthetic:64x48", "--config", "none.yaml"], 2, "none.yaml"),
        (["synthetic:64x48", "--metrics", "nonsense"], 2, "HOST:PORT"),
        (["synthetic:64x48", "--name", "a", "--name", "b"], 2, "--name"),
        (["synthetic:64x48", "synthetic:64x48", "--video", "v.mp4"], 2, "{stream}"),
        (["rtps://cam/1"], 2, "rtsp"),
        (["synthetic:0x0"], 2, "synthetic"),
        (["synthetic:64x48", "--conf", "2"], 2, "--conf: "),
        (["synthetic:64x48", "--pace", "0"], 2, "--pace: "),
        (["synthetic:64x48", "--camera-size", "0x1"], 2, "--camera-size: "),
        (["synthetic:64x48", "--not-ready-when", "blue"], 2, "--not-ready-when: "),
    ],
)
def test_bad_usage_is_one_line_and_the_right_code(
    tmp_path: Path, arguments: list[str], code: int, says: str
) -> None:
    assert_one_line(framerail("run", *arguments, cwd=tmp_path), code, says)
    assert os.listdir(tmp_path) == []


def test_a_key_is_named_by_a_flag_that_there_is() -> None:
    """But for those that only a config file can give."""
    flags = {opt for param in get_group(app).commands["run"].params for opt in param.opts}
    keys = [key for model in (Config, StreamConfig, CameraConfig) for key in model.model_fields]
    assert {key for key in keys if flag((key,)) not in flags} == {
        "streams", "source", "camera", "isolate", "watchdog", "restarts", "restart_minutes",
        "infer_spinning", "preprocess_workers", "postprocess_workers", "decode_threads", "channel_capacity",
        "backoff", "backoff_max", "paused",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        (["--jsonl", "clip.mp4"], "it would overwrite clip.mp4"),
        (["--video", "./clip.mp4"], "it would overwrite clip.mp4"),
        (["--video", "link.mp4"], "it would overwrite clip.mp4"),
        (["--summary", "clip.mp4"], "it would overwrite clip.mp4"),
        (["--video", "{stream}.mp4"], "it would overwrite clip.mp4"),
        (["--jsonl", "m.onnx", "--model", "m.onnx"], "it would overwrite"),
        (["--jsonl", "v.mp4.part", "--video", "v.mp4"], "it would overwrite"),
        (["real.mp4.part.old", "--video", "real.mp4"], "it would overwrite real.mp4.part.old"),
        (["real.mp4.part", "--video", "to-real.mp4"], "it would overwrite real.mp4.part"),
        (["--jsonl", "c.yaml", "--config", "c.yaml"], "it would overwrite c.yaml"),
        (
            ["--jsonl", "second.onnx", "--classify", "second.onnx"],
            "it would overwrite second.onnx",
        ),
        (["--jsonl", "token", "--metrics-token-file", "token"], "it would overwrite token"),
        (["--jsonl", "sources", "--source-file", "sources"], "it would overwrite sources"),
        (["${file:FOLDER/sources}", "--jsonl", "sources"], "/sources, which is read"),
        (["--jsonl", "ca.pem", "--tls-ca-file", "ca.pem"], "it would overwrite ca.pem"),
        (["pictures", "--jsonl", "pictures/1.png"], "it would overwrite"),
        (["--jsonl", "a.mp4", "--video", "a.mp4"], "it would overwrite what --jsonl writes"),
        (["--jsonl", "a.json", "--summary", "a.json"], "it would overwrite what --jsonl writes"),
    ],
)
def test_nothing_is_written_over(cheap_model: str, tmp_path: Path, outputs: list[str], says: str) -> None:
    shutil.copy(SAMPLE, tmp_path / "clip.mp4")
    shutil.copy(cheap_model, tmp_path / "m.onnx")
    (tmp_path / "link.mp4").symlink_to("clip.mp4")
    (tmp_path / "to-real.mp4").symlink_to("real.mp4")
    for left in ("real.mp4.part", "real.mp4.part.old"):
        shutil.copy(SAMPLE, tmp_path / left)
    (tmp_path / "c.yaml").write_text("streams: [{source: clip.mp4}]")
    (tmp_path / "sources").write_text("link.mp4")
    (tmp_path / "token").write_text("a-token-of-some-length")
    (tmp_path / "ca.pem").write_text("")
    write_colour_classifier(tmp_path / "second.onnx")
    (tmp_path / "pictures").mkdir()
    shutil.copy(Path(__file__).parent.parent / "docs/images/annotated.jpg", tmp_path / "pictures/1.png")
    outputs = [each.replace("FOLDER", str(tmp_path)) for each in outputs]
    before = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert_one_line(framerail("run", "clip.mp4", "--max-frames", "3", *outputs, cwd=tmp_path), 2, says)
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["rtsp://user:s3cr-canary@cam/x"],
        ["doctor", "rtsp://user:s3cr-canary@cam/x"],
        ["run", "rtsp:/user:s3cr-canary@cam/x"],
        ["run", "user:s3cr-canary@cam/x"],
        ["run", "rtsp://user:s3cr-canary'@127.0.0.1:9/x", "--debug", "--no-reconnect"],
        ["run", "synthetic:64x48", "--jsonl", "rtsp://user:s3cr-canary@cam/x"],
        ["run", "synthetic:64x48", "--config", "rtsp://user:s3cr-canary@cam/x"],
        ["run", "synthetic:64x48", "--summary", "rtsp://user:s3cr-canary@cam/x"],
        ["run", "synthetic:64x48", "--camera-size", "rtsp://user:s3cr-canary@cam/x"],
        ["run", "--config", "c.yaml"],
    ],
)
def test_a_password_in_a_wrong_place_is_not_shown(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "c.yaml").write_text("streams: [{source: " + "x" * 70 + "rtsp://user:s3cr-canary@cam/x'}\n")
    done = framerail(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "s3cr" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["synthetic:" + "a" * 300], 2),
        (["synthetic:64x48", "--duration", "inf"], 2),
        (["synthetic:64x48", "--summary", "s" * 300], 2),
        (["synthetic:64x48", "--summary", "-"], 2),
        (["synthetic:64x48", "--model", "m" * 300 + ".onnx"], 3),
    ],
)
def test_odd_values_are_one_line(tmp_path: Path, arguments: list[str], code: int) -> None:
    assert_one_line(framerail("run", *arguments, cwd=tmp_path), code)


def test_a_device_is_not_replaced_by_a_summary(cheap_model: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        framerail(
            "run", "synthetic:64x48?frames=2", "--model", cheap_model, "--summary", "pipe", cwd=tmp_path
        )
        assert json.loads(os.read(reader, 100_000))["conserved"] is True
    finally:
        os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


def test_a_pipe_that_nobody_reads_is_an_error_not_a_wait(cheap_model: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    arguments = ["run", "synthetic:64x48?frames=2", "--model", cheap_model, "--jsonl", "pipe"]
    assert_one_line(framerail(*arguments, cwd=tmp_path), 2, "start the reader first")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert framerail(*arguments, cwd=tmp_path).returncode == 0
        assert len(os.read(reader, 100_000).splitlines()) == 2
    finally:
        os.close(reader)


def test_lines_do_not_go_into_another_file_where_standard_output_is_closed(
    cheap_model: str, tmp_path: Path
) -> None:
    run = f"{sys.executable} -m pipeline run 'synthetic:64x48?frames=5' --model {cheap_model}"
    command = f"{run} --video v.mp4 --jsonl - >&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, cwd=tmp_path)
    assert done.returncode == 2
    assert "standard output: it is closed" in done.stderr
    assert os.listdir(tmp_path) == []


BAD_SOURCES = {
    "empty.mp4": b"",
    "text.mp4": b"this is only text\n" * 50,
    "empty.png": b"",
    "text.jpg": b"this is only text",
}


@pytest.mark.parametrize("name", BAD_SOURCES)
def test_bad_files_are_one_line(cheap_model: str, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(BAD_SOURCES[name])
    done = framerail("run", name, "--model", cheap_model, "--video", "out.mp4", cwd=tmp_path)
    assert_one_line(done, 2, name)
    assert sorted(os.listdir(tmp_path)) == [name]


def test_a_truncated_video_keeps_what_it_had_and_says_so(cheap_model: str, tmp_path: Path) -> None:
    whole = SAMPLE.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    done = framerail(
        "run", "cut.mp4", "--model", cheap_model, "--video", "out.mp4", "--summary", "s.json", cwd=tmp_path
    )
    assert_one_line(done, 4, "cut.mp4")
    summary = json.loads((tmp_path / "s.json").read_text())
    stream = summary["streams"]["cut"]
    assert 0 < stream["emitted"] == stream["captured"] < SAMPLE_FRAMES
    assert stream["error"]
    with av.open(tmp_path / "out.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == stream["emitted"]


BAD_MODELS = {"truncated": None, "text": b"no protobuf", "empty": b""}


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_bad_models_are_one_line(cheap_model: str, tmp_path: Path, kind: str) -> None:
    data = BAD_MODELS[kind]
    path = tmp_path / "m.onnx"
    path.write_bytes(Path(cheap_model).read_bytes()[:2000] if data is None else data)
    assert_one_line(framerail("run", "synthetic:64x48", "--model", str(path)), 3, "m.onnx")


def test_a_full_disk_is_one_line_and_leaves_whole_lines(cheap_model: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    done = framerail("run", "synthetic:64x48?frames=20", "--model", cheap_model, "--jsonl", "/dev/full")
    assert_one_line(done, 4, "/dev/full")


def test_everything_from_a_config_file(cheap_model: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        f"streams:\n- {{source: 'synthetic:64x48?frames=9', name: a}}\n"
        f"- {{source: 'synthetic:64x48?frames=7', name: b}}\nmodel: {json.dumps(cheap_model)}\n"
        "jsonl: out.jsonl\nsummary: s.json\nquiet: true\n"
    )
    done = framerail("run", "--config", "c.yaml", "--max-frames", "8", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    streams = json.loads((tmp_path / "s.json").read_text())["streams"]
    assert {name: stream["emitted"] for name, stream in streams.items()} == {"a": 8, "b": 7}


def test_names_are_shown_as_they_are(cheap_model: str) -> None:
    done = framerail("run", "synthetic:64x48?frames=3", "--name", "gate[north]", "--model", cheap_model)
    assert "│ gate[north] │" in done.stderr


def test_a_summary_that_cannot_be_written_hides_nothing(cheap_model: str, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with Running(
        tmp_path, "synthetic:64x48@50", "--live", "--model", cheap_model, "--summary", "s/x.json"
    ) as run:
        (tmp_path / "s").rmdir()
        run.process.send_signal(signal.SIGINT)
        _, err = run.process.communicate(timeout=20)
    assert run.process.returncode == 4
    assert "every frame is accounted for" in err
    assert "cannot write summary s/x.json" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("after", [0.0, 0.1, 0.3])
def test_ctrl_c_while_it_starts(cheap_model: str, tmp_path: Path, after: float) -> None:
    # Said by Python itself when it is about to import the package: from there on it is heard.
    start = (
        "import sys; from pipeline import __main__; print('listening', flush=True); sys.exit(__main__.main())"
    )
    run = ["run", "synthetic:64x48@50", "--live", "--model", cheap_model, "--summary", "s.json"]
    process = subprocess.Popen(
        [sys.executable, "-c", start, *run],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        time.sleep(after)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "ERROR" not in err
    assert json.loads((tmp_path / "s.json").read_text())["conserved"] is True


def test_the_summary_is_written_though_nobody_reads_what_is_said(cheap_model: str, tmp_path: Path) -> None:
    run = ["run", "synthetic:64x48?frames=9", "--model", cheap_model, "--summary", "s.json"]
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "pipeline", *run], cwd=tmp_path, stderr=full, timeout=30)
    assert json.loads((tmp_path / "s.json").read_text())["streams"]["synthetic"]["emitted"] == 9
    assert done.returncode in (0, 4)


def test_the_weights_beside_a_model_are_not_written_over(tmp_path: Path) -> None:
    import onnx

    from benchmarks.cheap_model import write_cheap_model

    model = onnx.load(write_cheap_model(tmp_path / "m.onnx"))
    onnx.save_model(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=1024
    )
    before = (tmp_path / "weights.bin").read_bytes()
    done = framerail(
        "run", "synthetic:64x48?frames=3", "--model", "m.onnx", "--jsonl", "weights.bin", cwd=tmp_path
    )
    assert_one_line(done, 2, "weights.bin")
    assert (tmp_path / "weights.bin").read_bytes() == before


def test_two_signals_while_a_model_loads(tmp_path: Path) -> None:
    """Python runs no handler while the main thread is in a native call; ours are obeyed all the same."""
    slow = (
        "import hashlib; from pipeline import __main__; import pipeline.line as line\n"
        "def load(*_, **__): print('loading', flush=True); hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"
        "line.open_model = load; __main__.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow, "run", "synthetic:64x48?frames=3"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGTERM)
        time.sleep(2 * SAME_SECONDS)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        process.wait(timeout=20)
        took = time.monotonic() - started
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert took < 3


_ON_A_TERMINAL = """
import fcntl, os, sys, termios
terminal = os.open(sys.argv[1], os.O_RDWR)
fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
for number in (0, 1, 2):
    os.dup2(terminal, number)
os.execv(sys.executable, [sys.executable, "-m", "pipeline", *sys.argv[2:]])
"""


@pytest.mark.parametrize("shown", ["(0, 1, 2)", "(0, 1)", "()"])
def test_a_terminal_that_is_closed_before_there_is_a_line_ends_it(
    cheap_model: str, tmp_path: Path, shown: str
) -> None:
    """By then nothing but the process's beginning tells that it was on one, wherever its log goes."""
    start = _ON_A_TERMINAL.replace("(0, 1, 2)", shown)
    os.mkfifo(tmp_path / "sources")
    ours, theirs = os.openpty()
    arguments = ["run", "--source-file", str(tmp_path / "sources"), "--model", cheap_model]
    with subprocess.Popen(
        [sys.executable, "-c", start, os.ttyname(theirs), *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            with (tmp_path / "sources").open("w") as sources:  # once it reads
                os.close(theirs)
                os.close(ours)
                sources.write("synthetic:64x48@50\n")
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_ctrl_c_on_a_terminal_while_a_model_is_pulled(tmp_path: Path) -> None:
    """A real terminal and a real key: the cursor comes back, and what has come is kept."""
    pty = pytest.importorskip("pty")
    content, more = bytes(1_000_000), threading.Event()

    def stuck(request: Handler) -> None:
        request.head(200, Content_Length=len(content))
        request.body(content[:1000])
        more.wait(30)

    with contextlib.ExitStack() as stack:
        site = stack.enter_context(serving(Site(answers={"/m.onnx": stuck})))
        stack.callback(more.set)
        write_card(tmp_path / "m.toml", site.url("/m.onnx"), content)
        keyboard, terminal = pty.openpty()
        stack.callback(os.close, keyboard)
        stack.callback(os.close, terminal)
        pull = ["models", "pull", "m.toml", "--dir", "d"]
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", _ON_A_TERMINAL, os.ttyname(terminal), *pull],
                cwd=tmp_path,
                env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "no_proxy": "127.0.0.1"},
                start_new_session=True,
            )
        )
        stack.callback(process.kill)
        shown, pressed = b"", False
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if select.select([keyboard], [], [], 0.02)[0]:
                shown += os.read(keyboard, 65536)
            elif process.poll() is not None:
                break
            if not pressed and any(path.stat().st_size for path in tmp_path.glob("d/*.part")):
                os.write(keyboard, b"\x03")
                pressed = True
    assert process.returncode == 130, shown
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h") > 0, "the cursor is hidden"
    assert b"m.toml: what has come of it is kept" in shown
    assert b"Traceback" not in shown
    assert [path.stat().st_size for path in (tmp_path / "d").iterdir()] == [1000]


def test_ctrl_c_that_a_native_library_makes_an_error_of(tmp_path: Path) -> None:
    """As ONNX Runtime does while it is imported."""
    start = (
        "import signal; from pipeline import __main__, dependencies\n"
        "def check():\n"
        "    try: signal.raise_signal(signal.SIGINT)\n"
        "    except KeyboardInterrupt: raise ImportError('initialization failed') from None\n"
        "dependencies.check = check; __main__.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", start, "models", "list"], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_json_logs_are_json_to_the_last_line(cheap_model: str) -> None:
    done = framerail("run", "synthetic:64x48?frames=9", "--model", cheap_model, "--log-format", "json")
    records = [json.loads(line) for line in done.stderr.splitlines()]
    assert records[-1]["message"] == "summary"
    assert records[-1]["data"]["conserved"] is True
    assert done.stdout == ""


class Running:
    """A run in the background that has begun to emit; killed at the end whatever happens."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "run", *arguments, "--jsonl", "-"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        # Byte by byte: what a buffered reader takes beyond the line, communicate() never sees.
        first = b""
        while not first.endswith(b"\n") and (byte := os.read(self.process.stdout.fileno(), 1)):
            first += byte
        self.first = first.decode()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_drains_and_finalises(cheap_model: str, tmp_path: Path, number: int) -> None:
    with Running(
        tmp_path,
        "synthetic:320x240@100",
        "--live",
        "--model",
        cheap_model,
        "--video",
        "v.mp4",
        "--summary",
        "s.json",
    ) as run:
        assert json.loads(run.first)["stream"] == "synthetic"  # it runs
        time.sleep(0.5)
        run.process.send_signal(number)
        out, err = run.process.communicate(timeout=20)
    assert run.process.returncode == 0, err
    assert "Traceback" not in err
    summary = json.loads((tmp_path / "s.json").read_text())
    (stream,) = summary["streams"].values()
    assert summary["conserved"] is True
    assert stream["emitted"] == 1 + len(out.splitlines())
    with av.open(tmp_path / "v.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == stream["emitted"]


def test_the_second_signal_is_out_within_a_second(tmp_path: Path) -> None:
    # A real model and a backlog: there is something to give up.
    with Running(tmp_path, "sample:", "--video", "v.mp4") as run:
        run.process.send_signal(signal.SIGINT)
        run.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        _, err = run.process.communicate(timeout=20)
        took = time.monotonic() - started
    assert run.process.returncode in (0, 130), err
    assert "Traceback" not in err
    assert took < 3  # a second, and as much again and more for a busy machine to end a process
    if run.process.returncode == 130:
        assert not (tmp_path / "v.mp4").exists()


def test_metrics_are_served_while_it_runs(cheap_model: str, tmp_path: Path) -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with Running(
        tmp_path, "synthetic:64x48@50", "--live", "--name", "cam", "--model", cheap_model,
        "--metrics", f"127.0.0.1:{port}",
    ) as run:  # fmt: skip
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
        assert 'framerail_frames_captured_total{stream="cam"}' in text
        ready = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5))
        assert ready["ready"] is True
        taken = framerail("run", "synthetic:64x48", "--model", cheap_model, "--metrics", f"127.0.0.1:{port}")
        assert_one_line(taken, 2, "cannot serve metrics")
        run.process.send_signal(signal.SIGTERM)
        run.process.communicate(timeout=20)
    assert run.process.returncode == 0


def test_a_reader_that_goes_away_ends_the_run(cheap_model: str) -> None:
    command = (
        f"{sys.executable} -m pipeline run 'synthetic:64x48' --model {cheap_model} --jsonl - | head -n 1"
    )
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["models", "--help"], ["doctor", "--help"]]
)
def test_help(arguments: list[str]) -> None:
    done = framerail(*arguments)
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_version() -> None:
    from pipeline import __version__

    assert fresh("--version").stdout == f"framerail {__version__}\n"


def test_doctor() -> None:
    report = json.loads(fresh("doctor", "--json").stdout)
    assert report["providers"]["cpu"]["proven"] is True
    assert report["providers"]["cuda"]["proven"] is False
    assert "h264" in report["video"]["decoders"]
    assert "Execution providers" in framerail("doctor").stdout


@pytest.mark.parametrize(
    ("runs", "threads", "says"),
    [(1, 2, "1 run at once, 2 threads each"), (4, 1, "4 runs at once, 1 thread each")],
)
def test_doctor_says_what_the_processor_can_and_what_is_made_of_it(
    runs: int, threads: int, says: str
) -> None:
    report = doctor.examine()
    report["cpu"] |= {"infer_workers": runs, "infer_threads": threads, "features": ["avx", "fma"]}
    console = Console(record=True, width=200, file=io.StringIO())
    doctor.print_report(report, console)
    lines = [line.strip() for line in console.export_text().splitlines()]
    place = next(number for number, line in enumerate(lines) if line.startswith("cpu"))
    assert lines[place + 1] == "avx fma"
    assert lines[place + 2].split(maxsplit=1) == ["inference", says]


def test_help_says_a_default_once() -> None:
    said = framerail("models", "convert", "--help", env={**os.environ, "COLUMNS": "120"}).stdout
    assert said.count("letterbox|stretch") == 1
    assert said.lower().count("default: letterbox") == 1


def test_an_ap_of_a_sample_is_marked_apart_from_published_ones() -> None:
    lines = framerail("models", "list", env={**os.environ, "COLUMNS": "200"}).stdout.splitlines()
    (sampled,) = [line for line in lines if "yolox-nano" in line]
    (published,) = [line for line in lines if "yolox-tiny" in line]
    assert " .335* " in sampled and " .328 " in published
    assert any(line.startswith("* AP on COCO val2017, first 128 images") for line in lines)


def test_info_of_a_model_that_is_not_here_is_for_people(tmp_path: Path) -> None:
    said = framerail(
        "models", "info", "yolox-tiny", env={**os.environ, "FRAMERAIL_MODELS": str(tmp_path)}
    ).stdout
    assert "AP 0.328 on COCO val2017: as published" in said and "0.0, 0.0, 0.0" in said
    assert "{" not in said and "(0.0" not in said


def test_models_list_info_verify(cheap_model: str) -> None:
    listed = json.loads(framerail("models", "list", "--json").stdout)
    assert ("nanodet-g", True) in [(entry["name"], entry["present"]) for entry in listed]
    info = json.loads(framerail("models", "info", "nanodet-g", "--json").stdout)
    assert (info["family"], info["input"]["color"], info["input"]["pad"]) == ("nanodet", "BGR", 0)
    assert info["reasons"]["color"] == "model card"
    guessed = framerail("models", "info", cheap_model)
    assert "yolov8" in guessed.stdout
    assert guessed.returncode == 0
    verified = framerail("models", "verify", "nanodet-g")
    assert verified.returncode == 0
    assert "person" in verified.stdout
    assert_one_line(framerail("models", "info", "nothing"), 3, "unknown model")


def test_a_reader_that_has_had_enough_is_no_error() -> None:
    for arguments in ("models list --json", "models list", "models info nanodet-g"):
        command = f"{sys.executable} -m pipeline {arguments} | true; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=50)
        assert (done.stdout, done.stderr) == ("0\n", ""), arguments


def test_a_log_file_that_may_be_coloured_is_a_log_file(cheap_model: str) -> None:
    """No bars are drawn into it, five times a second."""
    run = ["run", "synthetic:64x48@50?frames=25", "--live", "--model", cheap_model]
    coloured = fresh(*run, env={**os.environ, "FORCE_COLOR": "1"})
    assert coloured.returncode == 0
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO +", coloured.stderr)
    assert not re.search(r"\x1b\[(\?25|\d*[A-K])", coloured.stderr)  # the cursor is hidden, moved


_MEASURES = """
import multiprocessing
from pipeline import __main__
from pipeline.cli import main
from pipeline.cli.common import console, reporting

def app(**_):
    with reporting():
        console.print("measuring")
        process = multiprocessing.get_context("fork").Process(target=int)  # which flushes standard error
        process.start()
        process.join()
        console.print("measured")
        print("result")

main.app = app
__main__.main()
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")
@pytest.mark.parametrize(("full", "coloured"), [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize(
    ("arguments", "code", "lines"),
    [
        (["-m", "pipeline", "run", "--frobnicate"], 2, 0),
        (["-m", "pipeline", "run", "synthetic:64x48?frames=9", "--jsonl", "-"], 0, 9),
        (["-c", _MEASURES], 0, 1),
    ],
)
def test_whoever_reads_standard_error_costs_nothing_else(
    cheap_model: str, arguments: list[str], code: int, lines: int, full: bool, coloured: bool
) -> None:
    """Neither a reader that has gone, nor a disk that is full: not the result, and not the exit code."""
    if "--jsonl" in arguments:
        arguments = [*arguments, "--model", cheap_model]
    # What is unbuffered has nothing left in a buffer, which fails whoever flushes it next.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    if coloured:  # rich takes a pipe for a terminal then
        env["FORCE_COLOR"] = "1"
    reader, gone = os.pipe()
    os.close(reader)
    with os.fdopen(gone, "wb"), open("/dev/full", "wb") as disk:
        done = subprocess.run(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=disk if full else gone,
            env=env,
            timeout=50,
        )
    assert (done.returncode, len(done.stdout.splitlines())) == (code, lines)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_standard_error_that_is_full_for_a_moment_is_waited_for() -> None:
    """Somebody who has the pipe, too, made it one that does not wait."""
    code = (
        "import sys; from pipeline import __main__; from pipeline.cli import main\n"
        "main.app = lambda **_: sys.stderr.write('x' * 300_000) and None\n"
        "__main__.main()"
    )
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with subprocess.Popen([sys.executable, "-c", code], stderr=writer) as process:
        os.close(writer)
        with os.fdopen(reader, "rb") as there:
            assert there.read() == b"x" * 300_000
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--task", "segmentation"], 2, "did you mean 'segment'?"),
        (["--provider", "gpu"], 2, "did you mean 'cuda'?"),
        (["--classes", "persn"], 2, "no class 'persn'; did you mean 'person'?"),
        (["--model", "net.weights"], 3, "no ONNX file: framerail models convert"),
        (["--model", "net.pt"], 3, "export it from PyTorch"),
    ],
)
def test_the_remedy_is_at_hand(arguments: list[str], code: int, says: str, tmp_path: Path) -> None:
    for name in ("net.weights", "net.pt"):
        (tmp_path / name).write_bytes(b"?")
    assert_one_line(framerail("run", "sample:", *arguments, cwd=tmp_path), code, says)


def test_that_none_came_of_streams_that_are_paused_is_no_error(cheap_model: str, tmp_path: Path) -> None:
    streams = [{"source": "rtsp://127.0.0.1:9/x", "name": "gate", "paused": True}]
    config = {"model": cheap_model, "duration": 0.5, "streams": streams}
    (tmp_path / "c.yaml").write_text(json.dumps(config))
    done = framerail("run", "--config", "c.yaml", cwd=tmp_path)
    assert done.returncode == 0 and "gave" not in done.stderr, done.stderr


def test_a_run_that_saw_no_picture_says_so(cheap_model: str, tmp_path: Path) -> None:
    done = framerail(
        "run",
        "rtsp://127.0.0.1:9/x",
        "--name",
        "gate",
        "--model",
        cheap_model,
        "--duration",
        "0.5",
        cwd=tmp_path,
    )
    assert_one_line(done, 2, "no source gave a picture in the 0.5 s that were given")
    assert "gate gave no picture: cannot open rtsp://127.0.0.1:9/x: connection refused" in done.stderr
    assert "0 captured = 0 emitted + 0 dropped" in done.stderr


def test_what_is_taken_as_live_is_said_to_be(cheap_model: str, tmp_path: Path) -> None:
    for options, said in (
        (["--pace", "100"], "taken as live"),
        (["--live"], "taken as live"),
        ([], "not live"),
    ):
        done = framerail("run", "synthetic:64x48?frames=3", "--model", cheap_model, *options, cwd=tmp_path)
        assert f"64x48, 25 fps, 3 frames, {said}\n" in done.stderr, done.stderr


def test_without_arguments_the_help_is_shown_once(tmp_path: Path) -> None:
    done = framerail(cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("Usage:") == 1 and "Error" not in done.stderr
    # None of the commands is described by half a sentence.
    for arguments in ([], ["models"], ["chaos"]):
        assert "..." not in framerail(*arguments, "--help", cwd=tmp_path).stdout.partition("Commands:")[2]
