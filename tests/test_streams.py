"""Streams come and go while the line runs; the others do not notice, and every frame is accounted for."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import re
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from pipeline import Pipeline, chaos
from pipeline.accounts import StreamAccount, told
from pipeline.config import make_config
from pipeline.errors import ConfigError, PipelineError, SinkOpenError, SourceOpenError
from pipeline.metrics import readiness
from pipeline.sinks import Null
from pipeline.sources import read_number
from pipeline.summary import summarize
from tests.clips import make_clip
from tests.servers import free_port
from tests.test_metrics import scrape
from tests.test_stages_classify import write_colour_classifier
from tests.test_supervision import OTHER, running

LINUX = sys.platform == "linux"
ENDLESS = "synthetic:64x48@100"


def count_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def whole(run, name: str) -> bool:
    """Whether the results of a stream are in order, once each, and none is missing that was not dropped."""
    numbers = [result.frame.seq for result in run.of(name)]
    counts = run.line.accounts.streams[name].counts()
    assert counts.captured == counts.emitted + counts.dropped_total + counts.in_flight
    assert counts.emitted == len(numbers)
    return all(a < b for a, b in pairwise(numbers))


def test_added_and_removed(cheap_model: str) -> None:
    with running(cheap_model, OTHER) as run:
        run.until_results("other", 5)
        assert run.line.add_stream(ENDLESS, name="new", live=True) == "new"
        run.until_results("new", 20)
        run.line.remove_stream("new")
        assert run.line.accounts.streams["new"].counts().in_flight == 0
        assert run.line.accounts.streams["new"].ending == "removed"
        seen = len(run.of("new"))
        run.until_results("other", 20)
        assert len(run.of("new")) == seen
        # Once more under the same name: its books are gone on with.
        run.line.add_stream(ENDLESS, name="new", live=True)
        run.until_results("new", 20)
        assert run.line.accounts.streams["new"].ending is None
        threads = threading.active_count()
        for _ in range(5):
            run.line.remove_stream("new")
            run.line.add_stream(ENDLESS, name="new", live=True)
        assert threading.active_count() <= threads
        assert len(run.line.flow.statistics()) < 10
    assert whole(run, "new") and whole(run, "other")


def test_the_rate_of_a_stream_is_that_of_its_time_on_the_line(cheap_model: str) -> None:
    with running(cheap_model, OTHER) as run:
        run.until_results("other", 30)
        run.line.add_stream("synthetic:64x48?frames=40", name="new", pace=100)
        run.until(lambda: run.line.accounts.streams["new"].ending == "end")
        run.until_results("other", len(run.of("other")) + 30)
    times = [result.frame.captured_at for result in run.of("new")]
    streams = summarize(run.line)["streams"]
    assert times[-1] - times[0] <= streams["new"]["seconds"] < streams["other"]["seconds"] - 0.4


def test_added_once_more_its_time_goes_on_and_its_waits_begin_anew(cheap_model: str) -> None:
    gone = f"rtsp://127.0.0.1:{free_port()}/gone"
    with running(cheap_model, OTHER) as run:
        run.line.add_stream(ENDLESS, name="new", live=True)
        run.until_results("new", 20)
        account = run.line.accounts.streams["new"]
        account.pts_repaired["jump"] += 3
        run.line.remove_stream("new")
        run.line.add_stream(gone, name="new", backoff=0.02)
        run.until(lambda: account.link.status().failures_in_a_row >= 4)
        run.line.remove_stream("new")
        before = sum(account.link.failures.values())
        run.line.add_stream(gone, name="new", backoff=30)
        run.until(lambda: sum(account.link.failures.values()) > before)
        assert account.link.status().failures_in_a_row == 1
        run.line.remove_stream("new")
        run.line.add_stream(ENDLESS, name="new", live=True)
        run.until_results("new", 20)
        assert account.pts_repaired["jump"] >= 3, "counters of metrics never fall"
    times = [result.frame.pts_seconds for result in run.of("new")]
    assert all(a < b for a, b in pairwise(times))


def test_a_stream_that_finds_no_thread_leaves_a_line_that_ends(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(cheap_model, OTHER) as run:
        run.until_results("other", 3)
        start = threading.Thread.start

        def short(thread: threading.Thread) -> None:
            if thread.name.startswith("capture:"):
                raise RuntimeError("can't start new thread")
            start(thread)

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", short)
            run.line.pause_stream("other")
            with pytest.raises(PipelineError, match="cannot start stream 'other'"):
                run.line.resume_stream("other")
            assert (run.state("other"), run.line.accounts.streams["other"].ending) == ("paused", "paused")
            patch.undo()
            run.line.resume_stream("other")
            patch.setattr(threading.Thread, "start", short)
            with pytest.raises(PipelineError, match="cannot start stream 'new': can't start new thread"):
                run.line.add_stream(ENDLESS, name="new", live=True)
            with pytest.raises(PipelineError, match="cannot start stream 'other'"):
                run.line.change_stream("other", source="synthetic:32x32@50", decode_threads=2)
        assert [(spec.address, stream.decode_threads) for spec, stream in run.line.sources.values()] == [
            ("32x32@50", 2)
        ], "what is tried at the next change"
        assert list(run.line.accounts.streams) == ["other"]
        assert run.line.accounts.streams["other"].ending == "stranded"
        assert not readiness(run.line)[0], "nobody wanted that pause"
        run.line.resume_stream("other")
        run.until_results("other", 3)
        assert run.line.add_stream(ENDLESS, name="new", live=True) == "new"
        run.until_results("new", 3)


def test_a_video_of_a_stream_that_comes_again_writes_over_nothing(cheap_model: str, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "gate-2.mp4", frames=40)
    before = clip.read_bytes()
    (tmp_path / "gate_-2.mp4").write_bytes(b"an earlier day's")
    with running(cheap_model, {"source": str(clip), "name": "reads", "loop": True},
                 video=str(tmp_path / "{stream}.mp4")) as run:  # fmt: skip
        for _ in range(2):
            run.line.add_stream(ENDLESS, name="gate", live=True)
            run.until_results("gate", 5)
            run.line.remove_stream("gate")
        run.line.add_stream(ENDLESS, name="gate+", live=True)
        run.line.add_stream(ENDLESS, name="gate@", live=True)  # gate_, too
        run.until_results("gate@", 5)
        run.until_results("gate+", 5)
    assert clip.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {
        "gate-2.mp4", "gate.mp4", "gate-3.mp4", "reads.mp4", "gate_.mp4", "gate_-3.mp4", "gate_-2.mp4"
    }  # fmt: skip


def test_the_video_of_a_removed_stream_is_finished(cheap_model: str, tmp_path: Path) -> None:
    """At once, and its file and encoder let go: cameras come and go for months."""
    with running(cheap_model, OTHER, video=str(tmp_path / "v-{stream}.mp4")) as run:
        run.until_results("other", 3)
        files, counts = len(os.listdir("/proc/self/fd")) if LINUX else 0, []
        for number in range(3):
            seen = len(run.of("new"))
            run.line.add_stream(ENDLESS, name="new", live=True)
            run.until_results("new", 10)
            run.line.remove_stream("new")
            path = tmp_path / ("v-new.mp4" if number == 0 else f"v-new-{number + 1}.mp4")
            run.until(path.exists)
            counts.append((path, len(run.of("new")) - seen))
        if LINUX:
            run.until(lambda: len(os.listdir("/proc/self/fd")) <= files)
        run.until_results("other", 3)
    written = run.line.outputs[0].written["new"]
    assert sum(count_frames(path) for path, _ in counts) == written >= 30
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "v-new-2.mp4", "v-new-3.mp4", "v-new.mp4", "v-other.mp4"
    ]  # fmt: skip


def test_max_frames_are_counted_from_the_adding_and_may_be_passed_already(cheap_model: str) -> None:
    with running(cheap_model, OTHER) as run:
        run.line.add_stream(ENDLESS, name="new", live=True)
        run.until_results("new", 20)
        account = run.line.accounts.streams["new"]
        run.line.change_stream("new", max_frames=10)
        run.until(lambda: account.ending == "end")
        captured = account.counts().captured
        run.line.change_stream("new", pace=50)  # opens it again, where that may be
        run.until(lambda: account.ending == "end")
        assert account.counts().captured == captured
        run.line.remove_stream("new")
        run.line.add_stream(ENDLESS, name="new", live=True, max_frames=30)
        run.until(lambda: account.ending == "end")
        assert account.counts().captured == captured + 30


def test_paused_and_resumed(cheap_model: str) -> None:
    """Also where it is the only one: the line waits for it."""
    with running(cheap_model, {"source": ENDLESS, "name": "cam", "live": True}) as run:
        run.until_results("cam", 10)
        run.line.pause_stream("cam")
        run.line.pause_stream("cam")  # twice is once
        seen = len(run.of("cam"))
        assert run.line.accounts.streams["cam"].ending == "paused"
        assert not run.line.accounts.streams["cam"].up
        assert run.state() == "paused"
        time.sleep(0.3)
        assert len(run.of("cam")) == seen
        run.line.resume_stream("cam")
        run.until_results("cam", 10)
        run.line.pause_stream("cam")
    assert whole(run, "cam")
    times = [result.frame.pts_seconds for result in run.of("cam")]
    assert all(a < b for a, b in pairwise(times))


def test_paused_from_the_beginning(cheap_model: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is not opened, and nobody waits for it; all may be, or one that is added, or added once more."""
    later = {"source": ENDLESS, "name": "later", "live": True}
    with caplog.at_level(logging.INFO), running(cheap_model, {**later, "paused": True}) as run:
        account = run.line.accounts.streams["later"]
        run.until(lambda: run.state("later") == "paused")
        assert readiness(run.line)[0]
        run.line.add_stream(ENDLESS, name="other", live=True, paused=True)
        time.sleep(0.3)
        assert account.counts().captured == 0 and account.description == ""
        run.line.change_stream("later", every_nth=2)
        assert run.state("later") == "paused", "which was not asked for"
        run.line.change_stream("later", paused=False)
        run.until_results("later", 10)
        assert account.counts().dropped["capture", "every_nth"] > 5
        run.line.remove_stream("later")
        assert run.line.add_stream(**{**later, "paused": True}) == "later"
        assert account.ending == "paused" and "later" in readiness(run.line)[1]["streams"]
        seen = account.counts().captured
        run.line.resume_stream("other")
        run.until_results("other", 10)
        assert account.counts().captured == seen
        run.line.resume_stream("later")
        run.until_results("later", 10)
    assert whole(run, "later") and whole(run, "other")
    told = [record.getMessage() for record in caplog.records]
    assert told.count("stream later: paused until it is resumed") == 2
    assert "stream later: resumed" in told and "stream later: changed: every_nth" in told


@pytest.mark.parametrize(
    "isolate", [False, pytest.param(True, marks=pytest.mark.skipif(not LINUX, reason="Linux"))]
)
@pytest.mark.parametrize("by_change", [False, True])
def test_the_file_of_a_paused_stream_may_be_missing(
    cheap_model: str, tmp_path: Path, isolate: bool, by_change: bool
) -> None:
    """Until it is resumed: it is looked for then."""
    clip = tmp_path / "later.mp4"
    keys = {"source": str(clip), "paused": True, "isolate": isolate}
    with running(cheap_model, OTHER, keys) as run:
        assert run.line.add_stream(**keys) == "later-2"
        assert run.line.add_stream(**{**keys, "source": str(tmp_path / "yard" / "*.png")}) == "yard"
        with pytest.raises(SourceOpenError, match=r"later\.mp4: no such file or folder"):
            run.line.change_stream("later", paused=False)
        assert run.state("later") == "paused"
        assert run.line.accounts.streams["later"].link.status().episodes.keys() == {"paused"}
        make_clip(clip, frames=12)
        if by_change:
            run.line.change_stream("later", paused=False)
        else:
            run.line.resume_stream("later")
        run.until_results("later", 12)
        run.line.resume_stream("later-2")
        clip.unlink()
        with pytest.raises(SourceOpenError, match="nothing matches"):
            run.line.resume_stream("yard")
        assert run.state("yard") == "paused"
    assert whole(run, "later")


def test_what_comes_where_an_output_writes_is_not_read(cheap_model: str, tmp_path: Path) -> None:
    """It would be written over: a file that was missing when its stream was paused, and came by a link."""
    written = tmp_path / "out"
    written.mkdir()
    clip = make_clip(written / "cam.mp4", frames=5)
    before = clip.read_bytes()
    keys = {"source": str(tmp_path / "in" / "cam.mp4"), "paused": True}
    with running(cheap_model, OTHER, keys, video=str(written / "{stream}.mp4")) as run:
        (tmp_path / "in").symlink_to(written)
        for resume in (run.line.resume_stream, lambda name: run.line.change_stream(name, paused=False)):
            with pytest.raises(SinkOpenError, match="would overwrite"):
                resume("cam")
        assert run.state("cam") == "paused"
    assert clip.read_bytes() == before
    with running(cheap_model, OTHER, video=str(written / "{stream}.mp4")) as run:
        (written / "n.mp4").write_text("a certificate")
        with pytest.raises(SinkOpenError, match=r"would overwrite .*n\.mp4"):
            run.line.add_stream(ENDLESS, name="n", live=True, tls_ca_file=str(written / "n.mp4"))
    folder = {"source": str(tmp_path / "shots"), "paused": True}
    with (
        pytest.raises(SinkOpenError, match=r"the source .*shots.* lies there"),
        running(cheap_model, OTHER, folder, pictures=str(tmp_path / "shots")),
    ):
        pass
    nested = {"source": str(tmp_path / "shots" / "yard"), "paused": True}
    with running(cheap_model, OTHER, nested, pictures=str(tmp_path / "shots")):
        pass


def test_a_file_that_begins_anew_as_asked_was_not_lost(cheap_model: str, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "round.mp4", frames=3)
    with running(cheap_model, {"source": str(clip), "name": "a", "loop": True, "pace": 50}) as run:
        run.until_results("a", 20)
        episodes = run.line.accounts.streams["a"].link.status().episodes
        assert {state: held.times for state, held in episodes.items()} == {"connecting": 1, "live": 1}
        clip.unlink()
        run.until(lambda: run.line.accounts.streams["a"].ending == "not_found")


def test_a_looped_folder_of_which_nothing_can_be_read_ends(
    cheap_model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And what is always skipped is told once, not in each round."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(cv2.imencode(".png", np.zeros((48, 64, 3), np.uint8))[1])
    (tmp_path / "c.png").write_bytes(b"no picture")
    source = {"source": str(tmp_path), "name": "a", "loop": True}
    with running(cheap_model, source, OTHER) as run:
        run.until_results("a", 20)
        assert caplog.text.count("skipped") == 1
        for name in ("a", "b"):
            (tmp_path / f"{name}.png").write_bytes(b"no picture")
        run.until(lambda: run.state("a") == "ended")
        account = run.line.accounts.streams["a"]
        assert account.ending == "format" and "not one of its pictures" in str(account.error)
        assert not readiness(run.line)[0]


def test_a_pause_is_no_time_on_the_line(cheap_model: str) -> None:
    with running(cheap_model, {"source": ENDLESS, "name": "a", "live": True}, OTHER) as run:
        run.until_results("a", 5)
        run.line.pause_stream("a")
        before = run.line.accounts.on_line("a")
        time.sleep(1)
        assert run.line.accounts.on_line("a") == pytest.approx(before)
        run.line.resume_stream("a")
        run.until_results("a", 5)
        run.line.remove_stream("a")
        time.sleep(1)
        run.line.add_stream(ENDLESS, name="a", live=True)
        run.until_results("a", 5)
        whole_time = run.line.accounts.elapsed()
        assert before < run.line.accounts.on_line("a") <= whole_time - 2


def test_a_change_pauses_and_resumes(cheap_model: str) -> None:
    """However it was paused; what else is changed with it holds from when it is resumed."""
    gone = f"rtsp://127.0.0.1:{free_port()}/gone"
    with running(cheap_model, {"source": ENDLESS, "name": "cam", "live": True}, OTHER) as run:
        run.until_results("cam", 5)
        account = run.line.accounts.streams["cam"]
        run.line.change_stream("cam", paused=True, source=gone)
        seen = account.counts().captured
        assert run.state() == "paused" and not account.link.failures
        run.line.change_stream("cam", source=ENDLESS)
        run.line.resume_stream("cam")
        run.until(lambda: account.counts().captured > seen)
        run.line.change_stream("cam", paused=False)
        run.line.change_stream("cam", paused=True)  # after Python resumed what a change had paused
        assert run.state() == "paused"
        run.line.change_stream("cam", paused=None)
        run.until(lambda: run.state() == "live")
        run.line.pause_stream("cam")
        run.line.change_stream("cam", paused=False)
        run.until(lambda: run.state() == "live")
        assert not account.link.failures
        assert account.link.status().episodes["paused"].times == 3
    assert whole(run, "cam") and whole(run, "other")


@pytest.mark.parametrize("do", ["pause_stream", "resume_stream"])
def test_a_change_beside_a_pause_does_not_undo_it(cheap_model: str, do: str) -> None:
    """Pausing waits for frames, and the change for that, with what it had seen of the stream before."""
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Null):
        def write(self, result, dropped_before) -> None:
            if result.stream == "a" and result.frame.seq >= 5:
                begun.set()
                go_on.wait(20)

    streams = [{"source": ENDLESS, "name": name, "live": True} for name in "ab"]
    with Pipeline(make_config({"model": cheap_model, "streams": streams}), sinks=[Slow()]) as line:
        thread = threading.Thread(target=line.run)
        thread.start()
        assert begun.wait(20)
        others = [threading.Thread(target=line.pause_stream, args=("a",))]
        if do == "resume_stream":
            others.append(threading.Thread(target=line.resume_stream, args=("a",)))
        others.append(threading.Thread(target=line.change_stream, args=("a",), kwargs={"every_nth": 2}))
        for each in others:
            each.start()
            time.sleep(0.2)  # each waits for the one before
        go_on.set()
        for each in others:
            each.join(20)
            assert not each.is_alive()
        assert (line.accounts.streams["a"].link.state == "paused") == (do == "pause_stream")
        line.stop()
        thread.join(20)
        assert not thread.is_alive()
    assert not line.accounts.violations(line.left_in_line())


def test_what_has_ended_may_be_paused_and_keeps_how_it_ended(cheap_model: str) -> None:
    """Its error stays in the books, and so in the exit code, until it is tried anew."""
    dead = {"source": "rtsp://127.0.0.1:9/x", "name": "dead", "reconnect": False}
    file = {"source": "synthetic:64x48?frames=3", "name": "file"}
    with running(cheap_model, OTHER, dead, file, metrics="127.0.0.1:0") as run:
        gone, read = (run.line.accounts.streams[name] for name in ("dead", "file"))
        run.until(lambda: gone.ending is not None and read.ending is not None)
        ending, error = gone.ending, gone.error
        assert error is not None and ending == error.cause
        assert not readiness(run.line)[0]
        for name in ("dead", "file"):
            run.line.pause_stream(name)
            found = scrape(run.line.metrics.port)
            assert found["framerail_stream_state"]["paused", name] == 1
            # The file has ended as it should: nobody waits for it.
            assert found["framerail_stream_up"].get((name,)) == (0 if name == "dead" else None)
        assert readiness(run.line)[0], "which is on purpose"
        assert (gone.ending, gone.error, read.ending) == (ending, error, "end")
        run.line.resume_stream("dead")
        run.until(lambda: gone.error not in (None, error))
        assert gone.ending == ending and gone.link.failures == {ending: 2}
        again = gone.error
        run.line.pause_stream("dead")
        run.line.resume_stream("file")
        run.until(lambda: read.counts().emitted == 6 and read.ending == "end")
    assert gone.error is again and summarize(run.line)["streams"]["dead"]["error"] == str(again)


def test_changed(cheap_model: str, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "b.mp4", frames=200, size=(128, 96), fps=50)
    with running(cheap_model, {"source": ENDLESS, "name": "cam", "live": True}, OTHER) as run:
        run.until_results("cam", 10)
        opened = run.line.accounts.streams["cam"].description
        run.line.change_stream("cam", every_nth=5)  # at once, with no new connection
        assert run.line.accounts.streams["cam"].description is opened
        before = len(run.of("cam"))
        run.until_results("cam", 10)
        assert all(result.frame.seq % 5 == 0 for result in run.of("cam")[before + 3 :])
        assert run.line.accounts.streams["cam"].counts().dropped["capture", "every_nth"] > 20
        run.line.change_stream("cam", every_nth=None, source=clip)
        run.until(lambda: run.of("cam")[-1].frame.width == 128)
        run.until_results("other", 10)
    assert whole(run, "cam") and whole(run, "other")


def test_a_file_that_is_added_loses_nothing(cheap_model: str, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "c.mp4", frames=60, size=(128, 96))
    with running(cheap_model, OTHER) as run:
        name = run.line.add_stream(clip)
        run.until(lambda: run.line.accounts.streams[name].ending == "end")
        run.until(lambda: run.line.accounts.streams[name].counts().in_flight == 0)
        assert [read_number(result.frame.image) for result in run.of(name)] == list(range(60))
        assert run.line.add_stream(clip) != name


def test_what_is_done_with_a_stream_is_logged(cheap_model: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with running(cheap_model, OTHER) as run:
        run.line.add_stream(ENDLESS, name="a", live=True)
        run.line.pause_stream("a")
        run.line.resume_stream("a")
        run.line.change_stream("a", every_nth=2, open_timeout=3)
        run.line.remove_stream("a")
    told = [
        each
        for each in caplog.messages
        if re.match(r"stream a: (added|paused|resumed|changed|removed)", each)
    ]
    assert told == [
        f"stream a: {what}"
        for what in ("added", "paused", "resumed", "changed: every_nth, open_timeout", "removed")
    ]


def test_what_means_nothing_to_a_source_is_said(
    cheap_model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = make_clip(tmp_path / "a.mp4", frames=50, fps=25, size=(64, 48))
    size = {"camera": {"width": 640, "height": 480}}
    with chaos.serve([clip]) as kit:
        streams = [
            {"source": kit.rtsp, "name": "both", "pace": 5, "loop": True, **size},
            {"source": kit.mjpeg, "name": "one", "pace": 5},
            {"source": str(clip), "name": "file", "pace": 50, "loop": True},
        ]
        with running(cheap_model, *streams) as run:
            for each in streams:
                run.until_results(each["name"], 3)
    assert [each for each in caplog.messages if "nothing to it" in each and "stream file" in each] == []
    said = sorted(each for each in caplog.messages if "nothing to it" in each)
    assert said == [
        "stream both: camera settings mean nothing to it: it is no local camera (camera:0)",
        "stream both: pace and loop mean nothing to it: it is live by itself; every_nth takes fewer",
        "stream one: pace means nothing to it: it is live by itself; every_nth takes fewer",
    ]


def test_a_change_is_no_end_and_no_pause(cheap_model: str) -> None:
    with running(cheap_model, {"source": ENDLESS, "name": "a", "live": True}, OTHER) as run:
        for number in range(3):
            run.until_results("a", 3)
            run.line.change_stream("a", open_timeout=3.0 + number)
        run.until(lambda: run.line.accounts.streams["a"].up)
        episodes = told(run.line.accounts.streams["a"])["state_episodes"]
        assert {state: held["times"] for state, held in episodes.items()} == {"connecting": 4, "live": 4}
        run.line.pause_stream("a")
        episodes = told(run.line.accounts.streams["a"])["state_episodes"]
        assert {state: held["times"] for state, held in episodes.items()} == {
            "connecting": 4,
            "live": 4,
            "paused": 1,
        }


def test_a_source_that_failed_is_tried_after_all_where_that_is_wanted_now(cheap_model: str) -> None:
    off = {"source": f"rtsp://127.0.0.1:{free_port()}/x", "name": "off", "reconnect": False, "backoff": 0.1}
    with running(cheap_model, off, OTHER) as run:
        account = run.line.accounts.streams["off"]
        run.until(lambda: account.ending == "refused")
        run.line.change_stream("off", every_nth=2)
        assert account.ending == "refused"
        run.line.change_stream("off", reconnect=None)
        run.until(lambda: account.link.failures["refused"] >= 3)
        assert account.ending is None


def test_a_camera_that_the_line_holds_up_is_live(cheap_model: str, tmp_path: Path) -> None:
    """Of one that is read as a file each picture counts, so it waits for the outputs."""
    clip = make_clip(tmp_path / "a.mp4", frames=100, fps=25, size=(64, 48))
    held, go_on = threading.Event(), threading.Event()

    class Slow(Null):
        def write(self, result, dropped_before) -> None:
            held.set()
            go_on.wait(20)

    with chaos.serve([clip]) as kit, contextlib.ExitStack() as stack:
        config = make_config(
            {"streams": [{"source": kit.mjpeg, "name": "a", "live": False}], "model": cheap_model}
        )
        line = stack.enter_context(Pipeline(config, sinks=[Slow()]))
        thread = threading.Thread(target=line.run)
        thread.start()
        stack.callback(thread.join)
        stack.callback(line.stop)
        stack.callback(go_on.set)
        assert held.wait(10)
        account = line.accounts.streams["a"]
        deadline = time.monotonic() + 15
        while (account.link.status().since_picture or 0) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert account.link.status().since_picture >= 3
        assert account.link.state == "live" and readiness(line)[0]
        before = account.counts().emitted
        go_on.set()
        while account.counts().emitted < before + 100 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "stalled" not in account.link.status().episodes


def test_what_cannot_be_is_refused_and_changes_nothing(cheap_model: str, tmp_path: Path) -> None:
    with running(cheap_model, OTHER, video=str(tmp_path / "v.mp4")) as run:
        run.until_results("other", 3)
        line = run.line
        with pytest.raises(SinkOpenError, match=r"several streams to one video.*\{stream\}"):
            line.add_stream(ENDLESS, name="new")
        with pytest.raises(ConfigError, match=r"unknown key.*every_nht.*every_nth"):
            line.add_stream(ENDLESS, every_nht=2)
        with pytest.raises(ConfigError, match="already"):
            line.add_stream(ENDLESS, name="other")
        with pytest.raises(SourceOpenError, match="no such file"):
            line.add_stream(tmp_path / "missing.mp4")
        for call in (line.remove_stream, line.pause_stream, line.resume_stream, line.change_stream):
            with pytest.raises(ConfigError, match="no stream 'cam'; there are: other"):
                call("cam")
        with pytest.raises(ConfigError, match="every_nth"):
            line.change_stream("other", every_nth=0)
        with pytest.raises(ConfigError, match="name: stream 'other' keeps its name"):
            line.change_stream("other", name="q")
        for call in (line.add_stream, lambda source: line.change_stream("other", source=source)):
            with pytest.raises(ConfigError, match=r"source: Input should be a valid string \(got 5\)"):
                call(5)
        assert line.accounts.streams.keys() == {"other"}
        run.until_results("other", 3)
    with pytest.raises(PipelineError, match="the line does not run"):
        run.line.add_stream(ENDLESS)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", range(3))
def test_changes_in_any_order_lose_no_frame(cheap_model: str, seed: int) -> None:
    """Whatever is done to streams, from two threads: what is there at the end still runs, books in order."""
    draw = random.Random(seed)
    with running(cheap_model, OTHER) as run:
        line = run.line

        def change(names: list[str], draws: random.Random) -> None:
            there: dict[str, bool] = {}
            for _ in range(25):
                name = draws.choice(names)
                if name not in there:
                    line.add_stream(ENDLESS, name=name, live=draws.random() < 0.5)
                    there[name] = True
                elif draws.random() < 0.3:
                    line.remove_stream(name)
                    del there[name]
                elif draws.random() < 0.5:
                    (line.pause_stream if there[name] else line.resume_stream)(name)
                    there[name] = not there[name]
                else:
                    line.change_stream(name, decode_threads=1 + draws.randrange(2), every_nth=3)
                time.sleep(draws.random() * 0.01)

        threads = [
            threading.Thread(target=change, args=(names, random.Random(draw.random())))
            for names in (["a", "b"], ["c", "d", "e"])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        run.until_results("other", 20)
    for name in line.accounts.streams:
        assert whole(run, name)


def test_a_stop_between_stopping_and_starting_a_stream(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = [{"source": ENDLESS, "name": name, "live": True} for name in ("a", "b")]
    with running(cheap_model, *streams) as run:
        run.until_results("a", 3)
        assert run.line._line is not None
        these, stopper = run.line._line.streams, threading.Thread(target=run.line.stop)
        halt = these._halt

        def halt_and_be_stopped(*arguments) -> None:
            halt(*arguments)
            stopper.start()
            run.until(these._stopped.is_set)

        monkeypatch.setattr(these, "_halt", halt_and_be_stopped)
        with pytest.raises(PipelineError, match="the line is being stopped"):
            run.line.change_stream("a", decode_threads=2)
        with pytest.raises(PipelineError, match="the line is being stopped"):
            these.pause("b")  # had waited for the other meanwhile
        run.end()  # fails where it does not
        stopper.join()


@pytest.mark.parametrize("seed", range(2))
def test_a_line_that_is_stopped_while_its_streams_are_changed_ends(cheap_model: str, seed: int) -> None:
    """Whoever is between stopping and starting a stream, or waits to pause one."""
    names, over = ("a", "b"), threading.Event()

    def change(line: Pipeline, draws: random.Random) -> None:
        while not over.is_set():
            name, todo = draws.choice(names), draws.choice(["change", "pause", "resume"])
            with contextlib.suppress(PipelineError):  # the line is being stopped
                if todo == "change":
                    line.change_stream(name, decode_threads=1 + draws.randrange(3))
                else:
                    getattr(line, f"{todo}_stream")(name)

    streams = [{"source": ENDLESS, "name": name, "live": True} for name in names]
    with running(cheap_model, *streams) as run:
        run.until_results("a", 3)
        threads = [
            threading.Thread(target=change, args=(run.line, random.Random(f"{seed}/{number}")))
            for number in range(3)
        ]
        for thread in threads:
            thread.start()
        time.sleep(random.Random(seed).random() * 0.4)
        run.line.stop()
        try:
            run.end()  # fails where it does not
        finally:
            over.set()
            for thread in threads:
                thread.join()


def test_a_stream_whose_frames_do_not_leave_is_paused_all_the_same(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that of a file, which waits for space: nothing waits for ever, and the line can be stopped."""
    monkeypatch.setattr("pipeline.streams.DRAIN_SECONDS", 0.5)
    held, go_on = threading.Event(), threading.Event()

    class Slow(Null):
        def write(self, result, dropped_before) -> None:
            held.set()
            go_on.wait(20)

    streams = [{"source": "synthetic:64x48?frames=100000", "name": name} for name in ("a", "b")]
    line = Pipeline(make_config({"model": cheap_model, "streams": streams}), sinks=[Slow()])
    with line:
        thread = threading.Thread(target=line.run)
        thread.start()
        assert held.wait(10)
        with pytest.raises(PipelineError, match="is paused, but its frames did not leave"):
            line.pause_stream("a")
        with pytest.raises(PipelineError, match="frames of it from before are still in the line"):
            line.resume_stream("a")
        with pytest.raises(PipelineError, match="is paused, but its frames did not leave"):
            line.pause_stream("b")
        with pytest.raises(PipelineError, match="is removed, but its frames did not leave"):
            line.remove_stream("b")  # waits for them, too
        assert list(line.sources) == ["a"]
        with pytest.raises(PipelineError, match="there is no stream 'b'"):
            line.remove_stream("b")
        go_on.set()
        account = line.accounts.streams["a"]
        assert account.wait_idle(10)
        before = account.counts().emitted
        line.resume_stream("a")
        deadline = time.monotonic() + 10
        while account.counts().emitted == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert account.counts().emitted > before
        line.stop()
        thread.join(10)
        assert not thread.is_alive()
    assert not line.accounts.violations(line.left_in_line())


def test_a_stream_that_a_change_stranded_may_be_paused(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    class Slow(Null):
        def write(self, result, dropped_before) -> None:
            go_on.wait(20)

    streams = [{"source": ENDLESS, "name": name, "live": True} for name in ("a", "b")]
    with Pipeline(make_config({"model": cheap_model, "streams": streams}), sinks=[Slow()]) as line:
        thread = threading.Thread(target=line.run)
        thread.start()
        while line.accounts.streams["a"].counts().in_flight < 3:
            time.sleep(0.01)
        with monkeypatch.context() as patch, pytest.raises(PipelineError, match="its frames did not leave"):
            patch.setattr("pipeline.streams.DRAIN_SECONDS", 0.3)
            line.change_stream("a", open_timeout=5)
        assert line.accounts.streams["a"].ending == "stranded"
        go_on.set()
        line.pause_stream("a")
        account = line.accounts.streams["a"]
        assert (account.ending, account.error) == ("paused", None)
        while line.accounts.streams["b"].counts().emitted < 20:
            time.sleep(0.01)
        assert readiness(line)[0]
        line.stop()
        thread.join()


def test_a_camera_that_joins_files_is_as_fresh_as_one_that_was_there(cheap_model: str) -> None:
    """Files of small pictures have deep channels, which a live stream's frames must not wait in."""
    ages: list[float] = []
    with Pipeline(
        make_config({"model": cheap_model, "streams": [{"source": "synthetic:64x48?frames=100000"}]})
    ) as line:
        for number, result in enumerate(line):
            if number == 200:
                assert line.flow is not None
                assert max(channel.capacity for channel in line.flow.statistics()) > 8
                line.add_stream(ENDLESS, name="cam", live=True, max_frames=300)
            if result.stream == "cam":
                ages.append(time.monotonic() - result.frame.captured_at)
                if len(ages) == 1:
                    assert {channel.capacity for channel in line.flow.statistics()} == {2}
            # A stream has ended a moment before its channels are let go.
            ended = len(ages) > 20 and line.accounts.streams["cam"].ending is not None
            if ended and max(channel.capacity for channel in line.flow.statistics()) > 8:
                break
            time.sleep(0.002)
        assert line.accounts.streams["cam"].ending == "end"
    # Some ten results of 2 ms wait behind one another; with channels of 64 it is two hundred.
    assert np.median(ages[-20:]) < 0.2


def test_a_paced_file_that_was_paused_catches_up_with_nothing(cheap_model: str) -> None:
    with running(cheap_model, {"source": "synthetic:64x48", "name": "a", "live": True, "pace": 25}) as run:
        run.until_results("a", 5)
        run.line.pause_stream("a")
        before = len(run.of("a"))
        time.sleep(0.6)  # fifteen pictures' time
        run.line.resume_stream("a")
        run.until_results("a", before + 12)
        times = [result.frame.captured_at for result in run.of("a")[before:]]
    assert times[-1] - times[0] > 6 / 25


def test_of_a_removed_stream_nothing_is_remembered_but_its_books(cheap_model: str) -> None:
    """Streams may come and go for months, each under a name of its own."""
    with running(cheap_model, OTHER, target_age_ms=1000) as run:
        run.line.add_stream(ENDLESS, name="new", live=True)
        run.until_results("new", 5)
        lane = run.line.accounts.streams["new"].lane
        assert lane.tick is not None
        run.line.remove_stream("new")
        assert lane.tick is None


def test_streams_that_came_and_went_leave_no_channels(
    cheap_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do those that could not be added. What comes again finds its way anew."""
    classifier = str(write_colour_classifier(tmp_path / "colours.onnx"))
    with running(cheap_model, OTHER, classify=classifier, classify_every=1) as run:
        for name in ("a", "b", "a"):
            run.line.add_stream(ENDLESS, name=name, live=True)
            run.until_results(name, 5)
            run.line.remove_stream(name)

        def no_thread(*_) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch, pytest.raises(PipelineError, match="can't start new thread"):
            patch.setattr(run.line.flow, "feed", no_thread)
            run.line.add_stream(ENDLESS, name="refused")
        run.line.add_stream(ENDLESS, name="last", live=True)  # closed ones are swept out when another comes
        run.until_results("last", 5)
        of_streams = {each.name for each in run.line.flow.statistics() if ":" in each.name}
        assert of_streams == {
            f"{kind}:{name}" for kind in ("frames", "objects") for name in ("other", "last")
        }
    assert whole(run, "a") and whole(run, "b") and whole(run, "last")


def test_a_light_change_opens_nothing_anew_though_there_are_more_streams_now(
    cheap_model: str, tmp_path: Path
) -> None:
    """Each would have fewer of the cores for its decoder, had it begun with the others there."""
    clip = make_clip(tmp_path / "c.mp4", frames=400)
    with running(cheap_model, {"source": str(clip), "name": "a", "pace": 50, "loop": True}) as run:
        run.until_results("a", 20)
        run.line.add_stream(ENDLESS, name="b", pace=100)
        run.until_results("b", 3)
        thread = next(each for each in threading.enumerate() if each.name == "capture:a")
        run.line.change_stream("a", every_nth=2)
        assert run.line.sources["a"][1].decode_threads is None
        assert thread.is_alive()
        assert thread in threading.enumerate()


@pytest.mark.parametrize("slow", [False, True])
def test_a_line_of_which_no_stream_opened_fails_also_when_others_were_removed(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch, slow: bool
) -> None:
    """Also where the line ends before the last of them is."""
    wait_idle = StreamAccount.wait_idle

    def waits(account: StreamAccount, seconds: float) -> bool:
        time.sleep(0.5 * slow)
        return wait_idle(account, seconds)

    monkeypatch.setattr(StreamAccount, "wait_idle", waits)
    gone = {"source": "rtsp://127.0.0.1:9/x", "reconnect": False, "name": "gone"}
    tries = {"source": "rtsp://127.0.0.1:9/y", "backoff": 20, "name": "tries"}
    with Pipeline(make_config({"model": cheap_model, "streams": [gone, tries]})) as line:

        def remove() -> None:
            while line.accounts.streams["gone"].ending is None:
                time.sleep(0.01)
            line.remove_stream("tries")

        thread = threading.Thread(target=remove)
        line.on_start(thread.start)
        with pytest.raises(ExceptionGroup, match="no stream could be opened") as raised:
            line.run()
        thread.join()
    assert isinstance(raised.value.exceptions[0], SourceOpenError)


def test_what_is_told_of_a_stream_is_of_its_source_of_now(cheap_model: str) -> None:
    """Not the error of another one, nor the rate at which pictures came before it was paused."""
    with running(cheap_model, OTHER, {"source": "rtsp://127.0.0.1:9/x", "name": "a"}) as run:
        account = run.line.accounts.streams["a"]
        run.until(lambda: "127.0.0.1:9" in (told(account)["last_error"] or ""))
        run.line.change_stream("a", source=ENDLESS, live=True)
        run.until(lambda: told(account)["fps"])
        assert told(account)["last_error"] is None
        run.line.pause_stream("a")
        assert told(account)["fps"] is None
