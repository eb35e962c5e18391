"""A config file that is edited while the line runs: by a watched file, by SIGHUP, and what is refused."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import cv2
import pytest
import yaml

from benchmarks.cheap_model import write_cheap_model
from pipeline import Pipeline
from pipeline.config import make_config
from pipeline.configfile import load_config
from pipeline.cores import usable_cores
from pipeline.errors import ConfigError, PipelineError, SinkOpenError, SourceOpenError
from pipeline.metrics import Collector, readiness
from pipeline.reload import HalfDoneError, Reloader, apply, named, with_names
from pipeline.sinks import Null, VideoFile
from pipeline.smallfile import stamp
from tests.clips import make_clip
from tests.test_supervision import Running, running

A = {"source": "synthetic:64x48@50", "name": "a", "live": True}
B = {"source": "synthetic:32x32@50", "name": "b", "live": True}


def config_of(run: Running, **changes: Any) -> Any:
    given = run.line.config_as_given
    return type(given).model_validate({**given.model_dump(exclude_unset=True), **changes})


def test_streams_are_added_changed_and_removed(cheap_model: str) -> None:
    with running(cheap_model, A) as run:
        run.until_results("a", 5)
        opened = run.line.accounts.streams["a"].link.failures
        first = run.line.config_as_given
        second = config_of(run, streams=[{**A, "every_nth": 2}, B])
        assert apply(run.line, first, second) == ["stream a changed", "stream b added"]
        run.until_results("b", 5)
        run.until(
            lambda: run.line.accounts.streams["a"].counts().dropped.get(("capture", "every_nth"), 0) > 5
        )
        assert apply(run.line, second, second) == []
        third = config_of(run, streams=[B])
        assert apply(run.line, second, third) == ["stream a removed"]
        run.until_results("b", 5)
        # All at once, the last one too: the line has a stream at all times.
        assert apply(run.line, third, first) == ["stream a added", "stream b removed"]
        run.until_results("a", 5)
        assert opened == {}


def test_streams_are_paused_and_resumed(cheap_model: str) -> None:
    """And one that Python has paused stays so, whatever else is edited of it."""
    with running(cheap_model, A, B) as run:
        run.until_results("a", 5)
        first = run.line.config_as_given
        second = config_of(run, streams=[{**A, "paused": True}, B])
        assert apply(run.line, first, second) == ["stream a paused"]
        assert run.state("a") == "paused" and run.state("b") == "live"
        seen = len(run.of("b"))
        run.until_results("b", seen + 5)
        assert apply(run.line, second, first) == ["stream a resumed"]
        run.until(lambda: run.state("a") == "live")
        run.line.pause_stream("a")
        third = config_of(run, streams=[{**A, "every_nth": 2}, B])
        apply(run.line, first, third)
        assert run.state("a") == "paused"
        fourth = config_of(run, streams=[{**A, "paused": True}, B])
        apply(run.line, third, fourth)
        assert run.state("a") == "paused"
        apply(run.line, fourth, third)
        run.until(lambda: run.state("a") == "live")


def test_a_file_that_is_gone_is_no_matter_of_an_edit_that_does_not_ask_for_it(
    cheap_model: str, tmp_path: Path
) -> None:
    """Of other streams, or to have its own paused; nor is how a stream is called that got its name of it."""
    folder = tmp_path / "pictures.of the yard"
    folder.mkdir()
    picture = make_clip(tmp_path / "clip.mp4", frames=3).with_suffix(".png")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        cv2.imwrite(str(picture), next(container.decode(video=0)).to_ndarray(format="bgr24"))
    shutil.move(picture, folder)
    source = {"source": str(folder), "loop": True, "pace": 20}
    with running(cheap_model, source, B) as run:
        name = folder.name
        run.until_results(name, 5)
        first = run.line.config_as_given
        shutil.rmtree(folder)
        second = with_names(run.line, first, config_of(run, streams=[source, {**B, "every_nth": 2}]))
        assert apply(run.line, first, second) == ["stream b changed"]
        third = config_of(run, streams=[{**source, "paused": True, "name": name}, {**B, "every_nth": 2}])
        assert apply(run.line, second, third) == [f"stream {name} paused"]
        assert apply(run.line, third, config_of(run, streams=[*third.streams, A])) == ["stream a added"]
        run.until(lambda: run.state(name) == "paused")
        for refused in ([source, third.streams[1]], [*third.streams, {"source": str(folder)}]):
            with pytest.raises(SourceOpenError, match="no such file or folder"):
                apply(run.line, third, config_of(run, streams=refused))
        assert run.state(name) == "paused"


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda gone, b: [gone, b, {**gone, "name": "y"}], id="a further stream"),
        pytest.param(
            lambda gone, b: [gone, {**b, "source": gone["source"], "live": False}], id="another source"
        ),
        pytest.param(lambda gone, b: [{**gone, "name": "z"}, b], id="another name"),
        pytest.param(lambda gone, b: [{**gone, "pace": 30}, b], id="opened anew"),
        pytest.param(lambda gone, b: [gone, b, {"source": gone["source"], "name": "p"}], id="resumed"),
    ],
)
def test_an_edit_that_asks_for_a_file_that_is_gone_is_refused_whole(
    cheap_model: str, tmp_path: Path, edit: Callable[..., Any]
) -> None:
    """Also where a stream reads that file all the while."""
    clip = make_clip(tmp_path / "x.mp4", frames=200)
    gone = {"source": str(clip), "name": "x", "pace": 10, "loop": True}
    paused = {"source": str(clip), "name": "p", "paused": True}
    with running(cheap_model, gone, B, paused) as run:
        run.until_results("x", 2)
        clip.unlink()
        streams = edit(gone, B)
        if streams[-1].get("name") != "p":
            streams.append(paused)
        with pytest.raises(SourceOpenError, match=r"x\.mp4: no such file"):
            apply(run.line, run.line.config_as_given, config_of(run, streams=streams, conf_threshold=0.6))
        assert run.line.config.conf_threshold != 0.6
        assert {name: run.state(name) for name in run.line.sources} == {
            "x": "live",
            "b": "live",
            "p": "paused",
        }
        run.until_results("x", 2)


def test_what_ended_by_an_error_is_tried_again_when_the_file_has_it_resumed(
    cheap_model: str, tmp_path: Path
) -> None:
    broken = tmp_path / "later.mp4"
    broken.write_bytes(b"nothing to see")
    later = {"source": str(broken), "name": "later", "paused": True}
    with running(cheap_model, later, B) as run:
        first = run.line.config_as_given
        run.line.resume_stream("later")
        run.until(lambda: run.line.accounts.streams["later"].error is not None)
        make_clip(broken, frames=5)
        second = config_of(run, streams=[{**later, "paused": False}, B])
        assert apply(run.line, first, second) == ["stream later resumed"]
        run.until_results("later", 5)


def test_the_model_is_changed(cheap_model: str, tmp_path: Path) -> None:
    other = write_cheap_model(tmp_path / "other.onnx", scores=(0.7,))
    with running(cheap_model, A) as run:
        run.until_results("a", 5)
        second = config_of(run, model=str(other), conf_threshold=0.6)
        assert apply(run.line, run.line.config_as_given, second) == [
            "model changed",
            "conf_threshold changed",
        ]
        run.until(lambda: run.of("a")[-1].detections.confidence[0] == pytest.approx(0.7))


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"jsonl": "x.jsonl", "batch": 2, "quiet": True}, ConfigError, "jsonl, quiet: cannot be changed"),
        ({"streams": [A, B, {"source": "missing.mp4"}]}, SourceOpenError, "no such file"),
        ({"streams": [A, B], "model": "missing.onnx"}, PipelineError, "missing.onnx"),
        ({"streams": [A, B], "classes": ["unicorn"]}, ConfigError, "unicorn"),
    ],
)
def test_a_bad_edit_is_refused_whole(
    cheap_model: str, changes: dict[str, Any], error: type, said: str
) -> None:
    with running(cheap_model, A) as run:
        run.until_results("a", 5)
        model = run.line.model
        with pytest.raises(error, match=said):
            apply(run.line, run.line.config_as_given, config_of(run, **changes))
        assert run.line.model is model
        assert run.line.accounts.streams.keys() == {"a"}
        run.until_results("a", 5)


def test_an_output_that_cannot_take_another_stream_refuses(cheap_model: str, tmp_path: Path) -> None:
    with running(cheap_model, A, video=str(tmp_path / "v.mp4")) as run:
        run.until_results("a", 5)
        with pytest.raises(SinkOpenError, match="several streams"):
            apply(run.line, run.line.config_as_given, config_of(run, streams=[A, B], conf_threshold=0.1))
        assert run.line.config.conf_threshold is None


def test_a_model_that_is_moved_away_keeps_no_stream_out(cheap_model: str, tmp_path: Path) -> None:
    """It is loaded; and the output lies beside it, so that its file is asked whether it names that."""
    model = Path(shutil.copy(cheap_model, tmp_path / "m.onnx"))
    with running(str(model), A, jsonl=str(tmp_path / "out.jsonl")) as run:
        run.until_results("a", 3)
        model.rename(tmp_path / "away.onnx")
        run.line.add_stream("synthetic:64x48@50", name="b")
        run.line.change_stream("a", source="synthetic:64x48@60")
        run.until_results("b", 3)


def test_a_refusal_gives_all_reasons(cheap_model: str) -> None:
    with running(cheap_model, A) as run:
        run.until_results("a", 3)
        lost = [{"source": f"/nonexistent/{name}.mp4", "name": name} for name in ("x", "y")]
        new = config_of(run, streams=[A, *lost], model="/nonexistent/m.onnx", metrics="127.0.0.1:0")
        with pytest.raises(PipelineError) as raised:
            apply(run.line, run.line.config_as_given, new)
        for reason in ("metrics: cannot be changed", "x.mp4", "y.mp4", "m.onnx"):
            assert reason in str(raised.value)
        assert list(run.line.sources) == ["a"]


@pytest.mark.parametrize("watch", [True, False])
def test_an_edit_from_before_there_was_a_line_is_heard(cheap_model: str, tmp_path: Path, watch: bool) -> None:
    """While the libraries and the model are loaded the file may change, or SIGHUP come."""
    path = tmp_path / "f.yaml"

    def write(*streams: Any) -> None:
        path.write_text(yaml.safe_dump({"model": cheap_model, "streams": list(streams)}))

    write(A)
    seen = stamp(path)
    config = load_config(path)
    write(A, B)
    with Pipeline(config) as line:
        reader = Reloader(
            line, lambda: load_config(path), str(path), watch=watch, poll=0.05, seen=seen if watch else None
        )
        if not watch:
            reader.ask()
        with reader:
            time.sleep(0.2)  # it must not act on a line that is not there
            thread = threading.Thread(target=line.run)
            thread.start()
            until(lambda: list(line.sources) == ["a", "b"])
        assert reader.refused is None
        line.stop()
        thread.join()


@pytest.mark.parametrize("streams", [[A, B], [B]])
def test_an_edit_that_meets_the_end_of_the_line_is_no_error(
    cheap_model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, streams: list[Any]
) -> None:
    """Nobody reads the file again."""
    path = tmp_path / "f.yaml"
    path.write_text(yaml.safe_dump({"model": cheap_model, "streams": streams}))
    with running(cheap_model, A) as run:

        def read() -> Any:
            run.line.stop()
            return load_config(path)

        reader = Reloader(run.line, read, str(path), watch=False)
        with caplog.at_level(logging.INFO), reader:
            reader.ask()
            until(lambda: "the line ends" in caplog.text)
    assert reader.refused is None
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("how", ["added", "changed"])
def test_an_edit_never_writes_over_what_a_stream_reads(cheap_model: str, tmp_path: Path, how: str) -> None:
    clip = make_clip(tmp_path / "out-b.mp4", frames=20)
    before = clip.read_bytes()
    with running(cheap_model, A, pictures=str(tmp_path), conf_threshold=0.2) as run:
        run.until_results("a", 3)
        mine = {"source": str(clip), "name": "c" if how == "added" else "a", "live": True}
        streams = [A, mine] if how == "added" else [mine]
        new = config_of(run, streams=streams, conf_threshold=0.3)
        with pytest.raises(SinkOpenError, match="lies there; choose another folder"):
            apply(run.line, run.line.config_as_given, new)
        with pytest.raises(SinkOpenError, match="lies there"):
            if how == "added":
                run.line.add_stream(str(clip), name="c")
            else:
                run.line.change_stream("a", source=str(clip))
        assert run.line.config.conf_threshold == 0.2
    assert clip.read_bytes() == before


def test_a_stream_that_is_added_is_not_written_over_by_its_video(cheap_model: str, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "out-b.mp4", frames=20)
    before = clip.read_bytes()
    with running(cheap_model, A, video=str(tmp_path / "out-{stream}.mp4")) as run:
        run.until_results("a", 3)
        with pytest.raises(SinkOpenError, match="would overwrite"):
            run.line.add_stream(str(clip), name="b")
        assert run.line.add_stream(str(clip), name="c", loop=True) == "c"
        run.until_results("c", 3)
        with pytest.raises(SinkOpenError, match="would overwrite"):
            run.line.change_stream("a", source=str(tmp_path / "out-a.mp4.part"))
    assert clip.read_bytes() == before


def test_a_video_that_cannot_be_made_refuses_the_edit_and_ends_nothing(
    cheap_model: str, tmp_path: Path
) -> None:
    """Another run writes that of the last stream; what was opened for the others is let go."""
    c, d = ({**B, "name": name} for name in "cd")
    with VideoFile(tmp_path / "c.mp4"), running(cheap_model, A, video=str(tmp_path / "{stream}.mp4")) as run:
        run.until_results("a", 3)
        before = sorted(tmp_path.iterdir())
        first, new = run.line.config_as_given, config_of(run, streams=[A, B, c, d], conf_threshold=0.3)
        with pytest.raises(SinkOpenError, match=r"c\.mp4: another run is writing it"):
            apply(run.line, first, new)
        with pytest.raises(SinkOpenError, match="another run is writing it"):
            run.line.add_stream(B["source"], name="c")
        assert sorted(tmp_path.iterdir()) == before
        assert run.line.config.conf_threshold is None and list(run.line.sources) == ["a"]
        with pytest.raises(ConfigError, match="unicorn"):  # the outputs were ready by then
            apply(run.line, first, config_of(run, streams=[A, B], classes=["unicorn"]))
        assert sorted(tmp_path.iterdir()) == before
        apply(run.line, first, config_of(run, streams=[A, B]))
        run.until_results("b", 3)
        run.until_results("a", 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def told_of_reload(line: Pipeline) -> float:
    name = "framerail_config_last_reload_successful"
    (family,) = [each for each in Collector(line).collect() if each.name == name]
    return family.samples[0].value


def test_a_watched_file(cheap_model: str, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"

    def write(**config: Any) -> None:
        path.write_text(yaml.safe_dump({"model": cheap_model, **config}))

    write(streams=[A])
    with running(cheap_model, A) as run:
        run.until_results("a", 3)
        reader = Reloader(run.line, lambda: load_config(path), str(path), watch=True, poll=0.05)
        with reader:
            write(streams=[A, B])
            run.until_results("b", 3)
            path.write_text("streams: [")  # not even YAML
            run.until(lambda: reader.refused)
            assert "not valid YAML" in str(reader.refused)
            assert "not valid YAML" in readiness(run.line)[1]["config_refused"]
            assert told_of_reload(run.line) == 0
            run.until_results("b", 3)
            write(streams=[B])
            run.until(lambda: run.line.accounts.streams["a"].ending == "removed")
            run.until(lambda: reader.refused is None)
            assert readiness(run.line)[1]["config_refused"] is None
            assert told_of_reload(run.line) == 1
            replacement = tmp_path / "new.yaml"  # as editors do
            replacement.write_text(yaml.safe_dump({"model": cheap_model, "streams": [B, A]}))
            replacement.replace(path)
            run.until_results("a", 3)


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.timeout(60)
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
def test_the_command_goes_by_an_edit_at_sighup(cheap_model: str, tmp_path: Path) -> None:
    path, out = tmp_path / "f.yaml", tmp_path / "out.jsonl"
    config = {"model": cheap_model, "jsonl": str(out), "summary": str(tmp_path / "s.json"), "streams": [A]}
    path.write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "run", "--config", str(path)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # away from the terminal of whoever runs this
    )
    try:
        until(lambda: out.exists() and '"stream":"a"' in out.read_text())
        path.write_text(yaml.safe_dump({**config, "streams": [A, B]}))
        os.kill(process.pid, signal.SIGHUP)
        until(lambda: '"stream":"b"' in out.read_text())
        path.write_text(yaml.safe_dump({**config, "streams": [{**A, "every_nht": 2}]}))
        os.kill(process.pid, signal.SIGHUP)
        seen = len(out.read_text())
        until(lambda: len(out.read_text()) > seen + 2000)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert "stream b added" in said
    assert "the edit is refused, all stays as it is" in said and "every_nth" in said
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["conserved"] and summary["streams"].keys() == {"a", "b"}


_SLOW = """
import sys, threading
import pipeline.app, pipeline.reload
from pipeline.__main__ import main

pipeline.reload.END_SECONDS = 0.2
first = pipeline.app.open_first

def never(config):
    print("opening", flush=True)
    threading.Event().wait()

def begun():
    pipeline.app.open_first = never

sys.argv = ["framerail", "run", "--config", sys.argv[1]]
real = pipeline.reload.Reloader.__enter__
pipeline.reload.Reloader.__enter__ = lambda self: (self._line.on_start(begun), real(self))[1]
main()
"""


@pytest.mark.timeout(60)
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
def test_a_model_that_is_being_opened_does_not_hold_up_the_end(cheap_model: str, tmp_path: Path) -> None:
    path, summary = tmp_path / "f.yaml", tmp_path / "s.json"
    config = {"model": cheap_model, "summary": str(summary), "streams": [A]}
    path.write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None and process.stdout is not None
        while "stream a" not in process.stderr.readline():
            pass
        path.write_text(yaml.safe_dump({**config, "conf_threshold": 0.5}))
        os.kill(process.pid, signal.SIGHUP)
        assert process.stdout.readline() == "opening\n"
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert "an edit is still being applied" in said
    assert json.loads(summary.read_text())["conserved"]


def test_an_edit_that_fails_half_way_is_told_and_made_up_for(
    cheap_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """An output that takes nothing holds up the frames of files, so that their streams cannot be changed."""
    go_on, held = threading.Event(), threading.Event()

    class Slow(Null):
        def write(self, result: Any, dropped_before: int) -> None:
            held.set()
            go_on.wait(20)

    path = tmp_path / "f.yaml"
    f, g, h = ({"source": "synthetic:64x48?frames=1000000", "name": name} for name in "fgh")

    def write(*streams: dict[str, Any], **more: Any) -> None:
        path.write_text(yaml.safe_dump({"model": cheap_model, "streams": [*streams], **more}))

    def goes_by() -> dict[str, Any]:
        return {name: stream.decode_threads for name, (_, stream) in line.sources.items()}

    write(f, g)
    with Pipeline(load_config(path), sinks=[Slow()]) as line, contextlib.ExitStack() as stack:
        thread = threading.Thread(target=line.run)
        thread.start()
        stack.callback(go_on.set)  # also where it fails, so that the line ends
        assert held.wait(10)
        until(lambda: all(line.accounts.streams[name].counts().in_flight for name in "fg"))
        with Reloader(line, lambda: load_config(path), str(path), watch=False) as reader:
            write({**f, "decode_threads": 3}, h, conf_threshold=0.4)  # f is changed, g removed, h is added
            with monkeypatch.context() as patch:
                patch.setattr("pipeline.streams.DRAIN_SECONDS", 0.3)
                reader.ask()
                until(lambda: reader.refused)
            assert "stream 'f' is paused, but its frames did not leave" in str(reader.refused)
            assert "stream 'g' is removed, but its frames did not leave" in str(reader.refused)
            assert "not all of the edit could be done (conf_threshold changed; stream h added)" in caplog.text
            assert "all stays as it is" not in caplog.text
            assert line.config.conf_threshold == 0.4 and set(line.sources) == {"f", "h"}
            go_on.set()
            until(lambda: line.accounts.streams["h"].counts().emitted > 5)
            assert line.accounts.streams["f"].ending == "stranded"
            until(lambda: not line.accounts.streams["f"].counts().in_flight)
            reader.ask()  # the same file
            until(lambda: reader.refused is None)
            before = line.accounts.streams["f"].counts().emitted
            until(lambda: line.accounts.streams["f"].counts().emitted > before)
            assert goes_by()["f"] == 3
            write(f, g)  # as at the beginning
            reader.ask()
            until(lambda: set(line.sources) == {"f", "g"})
            until(lambda: line.accounts.streams["g"].counts().emitted > before)
            assert reader.refused is None and line.config.conf_threshold is None
        line.stop()
        thread.join(10)
        assert not thread.is_alive()
    assert not line.accounts.violations(line.left_in_line())


def test_a_change_that_failed_is_made_up_for_also_when_it_is_taken_back(
    cheap_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f.yaml"

    def write(**more: Any) -> None:
        path.write_text(yaml.safe_dump({"model": cheap_model, "streams": [{**A, **more}, B]}))

    write()
    with running(cheap_model, A, B) as run:
        run.until_results("a", 3)
        with Reloader(run.line, lambda: load_config(path), str(path), watch=False) as reader:
            start = threading.Thread.start

            def short(thread: threading.Thread) -> None:
                if thread.name.startswith("capture:"):
                    raise RuntimeError("can't start new thread")
                start(thread)

            write(decode_threads=2)
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", short)
                reader.ask()
                run.until(lambda: reader.refused)
            assert "cannot start stream 'a': can't start new thread" in str(reader.refused)
            assert run.line.accounts.streams["a"].ending == "stranded"
            write()
            reader.ask()
            run.until_results("a", 3)
            run.until(lambda: reader.refused is None)


def test_a_resumption_that_fails_is_wanted_and_made_up_for(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then the stream is not there as it should be. And where Python pauses it in between, it stays so:
    what failed was another key."""

    def short(thread: threading.Thread) -> None:
        if thread.name.startswith("capture:"):
            raise RuntimeError("can't start new thread")
        start(thread)

    start = threading.Thread.start
    with running(cheap_model, {**A, "paused": True}, B) as run:
        run.until_results("b", 3)
        account = run.line.accounts.streams["a"]
        first, second = run.line.config_as_given, config_of(run, streams=[A, B])
        third = config_of(run, streams=[{**A, "decode_threads": 2}, B])
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", short)
            with pytest.raises(HalfDoneError, match="can't start new thread") as raised:
                apply(run.line, first, second)
            assert account.ending == "stranded" and not readiness(run.line)[0]
        apply(run.line, raised.value.now, second, raised.value.again)
        run.until_results("a", 3)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", short)
            with pytest.raises(HalfDoneError) as raised:
                apply(run.line, second, third)
        run.line.pause_stream("a")
        edit = config_of(run, streams=[{**A, "decode_threads": 2}, {**B, "every_nth": 2}])
        assert apply(run.line, raised.value.now, edit, raised.value.again) == [
            "stream a changed",
            "stream b changed",
        ]
        assert run.state("a") == "paused" and readiness(run.line)[0]


def test_a_key_that_is_taken_out_goes_back_to_its_default(cheap_model: str, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"

    def write(**more: Any) -> None:
        path.write_text(yaml.safe_dump({"model": cheap_model, "streams": [{**A, **more}, B]}))

    write()
    with running(cheap_model, A, B) as run:
        shared = max(1, usable_cores() // 2)
        with Reloader(run.line, lambda: load_config(path), str(path), watch=False) as reader:
            for more, threads, nth in (({"decode_threads": 5, "every_nth": 3}, 5, 3), ({}, shared, 1)):
                write(**more)
                reader.ask()
                run.until(lambda threads=threads: run.line.sources["a"][1].decode_threads == threads)
                assert run.line.sources["a"][1].every_nth == nth
            run.line.change_stream("a", every_nth=4)  # which no edit speaks of
            write(backoff=3)
            reader.ask()
            run.until(lambda: run.line.sources["a"][1].backoff == 3)
            assert run.line.sources["a"][1].every_nth == 4
            assert reader.refused is None


def test_a_stream_that_cannot_be_added_keeps_the_one_whose_place_it_takes(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renamed stream, the only one: the line goes on. And one that Python took off is added again."""
    with running(cheap_model, A) as run:
        run.until_results("a", 3)
        first = run.line.config_as_given
        renamed = config_of(run, streams=[{**A, "name": "z"}])
        start = threading.Thread.start

        def short(thread: threading.Thread) -> None:
            if thread.name.startswith("capture:"):
                raise RuntimeError("can't start new thread")
            start(thread)

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", short)
            with pytest.raises(HalfDoneError, match="a is not removed, since another could not") as raised:
                apply(run.line, first, renamed)
        run.until_results("a", 3)
        assert apply(run.line, raised.value.now, renamed) == ["stream z added", "stream a removed"]
        run.until_results("z", 3)
        both = config_of(run, streams=[{**A, "name": "z"}, B])
        run.line.add_stream(B["source"], name="b", live=True)
        run.line.remove_stream("b")  # its change had failed before that
        assert apply(run.line, both, both, {"b": frozenset()}) == ["stream b added"]


def test_watching_needs_a_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", "synthetic:8x8?frames=1", "--watch-config"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "there is no file to watch" in done.stderr


@pytest.mark.parametrize(
    ("streams", "said"),
    [
        ([{**A, "every_nth": 2}, B], "a: no longer a stream of the line"),
        ([B], "a: no longer a stream of the line"),
        ([A, B, {**B, "name": "z"}], "z: there is a stream of that name already"),
    ],
)
def test_what_python_changed_meanwhile_refuses_the_edit_before_the_model_is_changed(
    cheap_model: str, streams: list[dict[str, Any]], said: str
) -> None:
    with running(cheap_model, A, B) as run:
        run.until_results("a", 3)
        if "no longer" in said:
            run.line.remove_stream("a")
        run.line.add_stream("synthetic:32x32@50", name="z", live=True)
        new = config_of(run, streams=streams, conf_threshold=0.33)
        with pytest.raises(ConfigError, match=said):
            apply(run.line, run.line.config_as_given, new)
        assert run.line.config.conf_threshold is None


def unnamed(rate: int, **keys: Any) -> dict[str, Any]:
    """Each of these would be called synthetic."""
    return {"source": f"synthetic:64x48@{rate}", "live": True, **keys}


def test_a_stream_without_a_name_keeps_that_which_it_has(
    cheap_model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever comes and goes beside it: it is not opened anew, and its books are its own."""
    caplog.set_level(logging.INFO)
    path = tmp_path / "f.yaml"
    draw = random.Random(3)
    every = [unnamed(rate) for rate in range(41, 48)]
    there = every[:3]
    with running(cheap_model, *there) as run:
        threads: dict[str, threading.Thread] = {}

        def look() -> dict[str, str]:
            """The names of the streams that run, by source; each still in the thread that it began with."""
            names = {stream.source: name for name, (_, stream) in run.line.sources.items()}
            run.until(lambda: all(run.line.accounts.streams[name].up for name in names.values()))
            now = {each.name: each for each in threading.enumerate()}
            for source, name in names.items():
                thread = now[f"capture:{name}"]
                assert source not in known or (known[source], threads[source]) == (name, thread)
                threads[source] = thread
            return names

        known: dict[str, str] = {}
        known = look()
        assert list(known.values()) == ["synthetic", "synthetic-2", "synthetic-3"]
        with Reloader(run.line, lambda: load_config(path), str(path), watch=False) as reader:
            for edit in range(8):
                there = draw.sample(every, draw.randrange(1, 5))
                path.write_text(yaml.safe_dump({"model": cheap_model, "streams": there}))
                reader.ask()
                run.until(lambda edits=edit + 1: caplog.text.count(f"config {path}: ") == edits)
                wanted = {each["source"] for each in there}
                assert reader.refused is None
                known = {source: name for source, name in known.items() if source in wanted}
                known = look()


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ([unnamed(1), unnamed(2)], [unnamed(2)], ["synthetic-2"]),
        ([unnamed(1), unnamed(2)], [unnamed(3), unnamed(2)], ["synthetic", "synthetic-2"]),
        ([unnamed(1), unnamed(1, every_nth=5)], [unnamed(1, every_nth=5)], ["synthetic-2"]),
        ([unnamed(1), unnamed(1, every_nth=5)], [unnamed(1, every_nth=6)], ["synthetic"]),
        ([unnamed(1, name="door")], [unnamed(2), unnamed(1)], ["synthetic", "door"]),
        ([unnamed(1)], [unnamed(2, name="synthetic"), unnamed(1)], ["synthetic", "synthetic-2"]),
        ([unnamed(1), B], [unnamed(1), unnamed(2), B], ["synthetic", "synthetic-3", "b"]),
    ],
)
def test_names_that_streams_without_one_get(old: list[Any], new: list[Any], names: list[str]) -> None:
    """Python has added a stream synthetic-2 in the last case."""
    python = {"synthetic-2"} if B in old else set[str]()
    was, will = (make_config({"model": "m.onnx", "streams": each}) for each in (old, new))
    line = cast("Pipeline", SimpleNamespace(sources=dict.fromkeys(named(was).keys() | python)))
    config = with_names(line, was, will)
    assert [stream.name for stream in config.streams] == names
    assert with_names(line, config, config) == config


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_config_that_was_a_pipe_is_not_waited_for(cheap_model: str, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    os.mkfifo(path)
    with running(cheap_model, A) as run:
        run.until_results("a", 3)
        with Reloader(run.line, lambda: load_config(path), str(path), watch=False) as reader:
            reader.ask()
            run.until(lambda: reader.refused)
            assert "it is no file, which could be read again" in str(reader.refused)
