"""A name is one run's, from the begin to the end: what another one finds at the worst moments.

The other run is in this process: locks are those of open files, so they hold within one as between two.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pipeline.errors import SinkOpenError
from pipeline.sinks import JsonLines, VideoFile, files, index, video
from pipeline.sinks.files import open_alone, open_output
from pipeline.sinks.part import PartFile
from tests.test_sinks_common import in_child, make_result
from tests.test_sinks_video import decode, write

fcntl = pytest.importorskip("fcntl", reason="Windows replaces no file that is open")

REFUSED = "another run is writing it"


@pytest.fixture
def at(monkeypatch):
    """Have something done, once, right before (or after) a function is called."""

    def set_up(owner, name, action, *, after=False):
        real = getattr(owner, name)

        def called(*arguments, **options):
            monkeypatch.setattr(owner, name, real)
            if not after:
                action()
            result = real(*arguments, **options)
            if after:
                action()
            return result

        monkeypatch.setattr(owner, name, called)

    return set_up


def refusals(path: Path):
    """An action that begins another run on ``path``, and a list that gets how that was refused."""
    said: list[str] = []

    def begin() -> None:
        with pytest.raises(SinkOpenError) as refused:
            VideoFile(path)
        said.append(str(refused.value))

    return begin, said


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_no_run_begins_while_the_index_is_moved(tmp_path, at):
    path = tmp_path / "v.mp4"
    begin, said = refusals(path)
    at(index, "_write", begin)
    write(path)
    assert [REFUSED in each for each in said] == [True]
    assert len(decode(path)[0]) == 12 and path.read_bytes().find(b"moov") < 100
    assert names(tmp_path) == ["v.mp4"]
    write(path, 3)  # which is let in then
    assert len(decode(path)[0]) == 3


def test_the_finished_file_stays_locked_until_its_index_is_moved(tmp_path, at):
    """The JSON Lines of another run would empty it."""
    path, said = tmp_path / "v.mp4", []

    def begin():
        with pytest.raises(SinkOpenError, match=REFUSED) as refused:
            JsonLines(path)
        said.append(refused)

    at(video, "index_to_front", begin)
    write(path)
    assert len(said) == 1 and len(decode(path)[0]) == 12
    JsonLines(path).close()


@pytest.mark.parametrize(("room", "name"), [(video, "index_to_front"), (index, "open_alone")])
def test_no_run_begins_between_the_rename_and_the_copy(tmp_path, at, room, name):
    """The name of the part is free then, the finished file is not."""
    path = tmp_path / "v.mp4"
    begin, said = refusals(path)
    at(room, name, begin)
    write(path)
    assert [REFUSED in each for each in said] == [True]
    assert len(decode(path)[0]) == 12 and path.read_bytes().find(b"moov") < 100
    assert names(tmp_path) == ["v.mp4"]


@pytest.mark.parametrize("what", ["folder", "pipe", "link"])
def test_what_is_no_file_in_the_place_of_the_part_is_named(tmp_path, what):
    part = tmp_path / "v.mp4.part"
    make = {"folder": Path.mkdir, "pipe": os.mkfifo, "link": lambda path: path.symlink_to("/dev/null")}
    make[what](part)
    with pytest.raises(SinkOpenError, match=r"v\.mp4\.part is in its way, and no file; remove it"):
        VideoFile(tmp_path / "v.mp4")


def test_a_pipe_is_not_replaced_by_a_video(tmp_path):
    os.mkfifo(tmp_path / "v.mp4")
    (tmp_path / "to-pipe.mp4").symlink_to("v.mp4")
    before = names(tmp_path)
    for name in ("v.mp4", "to-pipe.mp4"):
        with pytest.raises(SinkOpenError, match=rf"cannot write \S*{name}: it is no file but a pipe"):
            VideoFile(tmp_path / name)
    assert names(tmp_path) == before and (tmp_path / "v.mp4").is_fifo()


def test_what_a_run_was_killed_over_is_no_room_for_the_copy(tmp_path, at, caplog):
    path, part = tmp_path / "v.mp4", tmp_path / "v.mp4.part"
    at(video, "index_to_front", lambda: part.write_bytes(b"two seconds"))
    write(path)
    assert "its index stays at its end" in caplog.text
    assert len(decode(path)[0]) == 12 and part.read_bytes() == b"two seconds"


@pytest.mark.parametrize("moment", ["cut_to_fragments", "_playable"])
@pytest.mark.parametrize("frames", [1, 120])
def test_what_is_given_up_is_cut_and_removed_before_another_run_begins(tmp_path, at, moment, frames):
    path = tmp_path / "v.mp4"
    begin, said = refusals(path)
    given_up = VideoFile(path)
    for n in range(frames):
        given_up.write(make_result(seq=n, pts=n * 40), 0)
    at(video, moment, begin)
    given_up.abort()
    assert [REFUSED in each for each in said] == [True]
    assert names(tmp_path) == (["v.mp4.part"] if frames > 1 else [])
    VideoFile(path).close()


@pytest.mark.parametrize(
    "end", [lambda a: (a.commit(), a.close()), PartFile.remove], ids=["named", "removed"]
)
def test_a_file_that_went_before_it_was_locked_is_left_alone(tmp_path, at, end):
    """Opened as ``NAME.part``, locked when that was the finished file, or no file at all."""
    target = tmp_path / "v.mkv"
    before = PartFile(target, "v.mkv")
    before.write(b"x" * 1000)
    at(files, "_open_at_once", lambda: end(before), after=True)
    late = PartFile(target, "v.mkv")
    late.write(b"y")
    assert not target.exists() or target.read_bytes() == b"x" * 1000
    assert (tmp_path / "v.mkv.part").read_bytes() == b"y"
    late.commit()
    late.close()
    assert target.read_bytes() == b"y" and names(tmp_path) == ["v.mkv"]


def test_what_was_replaced_before_it_was_locked_is_left_alone(tmp_path, at):
    path, new = tmp_path / "out.jsonl", tmp_path / "new"
    path.write_bytes(b"old")
    new.write_bytes(b"new")
    at(files, "_open_at_once", lambda: (os.link(path, tmp_path / "kept"), new.replace(path)), after=True)
    open_output(path, "out.jsonl").close()
    assert path.read_bytes() == b"" and (tmp_path / "kept").read_bytes() == b"old"


def test_no_run_begins_while_a_leftover_is_put_aside(tmp_path, at):
    target = tmp_path / "v.mkv"
    (tmp_path / "v.mkv.part").write_bytes(b"left")
    begin, said = refusals(target)
    at(os, "replace", begin)
    PartFile(target, "v.mkv").remove()
    assert [REFUSED in each for each in said] == [True]
    assert names(tmp_path) == ["v.mkv.part.old"]


def test_a_leftover_where_flock_is_a_posix_lock(tmp_path, monkeypatch):
    """As NFS has it: an exclusive lock takes a file that is open for writing (flock(2))."""
    monkeypatch.setattr(fcntl, "flock", fcntl.lockf)
    (tmp_path / "v.mp4.part").write_bytes(b"left")
    write(tmp_path / "v.mp4")
    assert len(decode(tmp_path / "v.mp4")[0]) == 12
    assert names(tmp_path) == ["v.mp4", "v.mp4.part.old"]
    assert (tmp_path / "v.mp4.part.old").read_bytes() == b"left"


@pytest.mark.parametrize("why", ["ENOLCK", "ENOSYS", "EOPNOTSUPP", "ENOTSUP", "EINVAL", "EBADF", "EIO"])
def test_a_file_system_without_locks_is_written_and_another_error_is_told(tmp_path, monkeypatch, why):
    def unsupported(*_):
        raise OSError(getattr(errno, why), os.strerror(getattr(errno, why)))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    (tmp_path / "v.mp4.part").write_bytes(b"left")
    if why == "EIO":
        with pytest.raises(SinkOpenError, match="input/output error"):
            VideoFile(tmp_path / "v.mp4")
        with pytest.raises(OSError, match="Input/output"):
            open_alone(tmp_path / "v.mp4.part")
        assert (tmp_path / "v.mp4.part").read_bytes() == b"left"
        return
    write(tmp_path / "v.mp4")
    assert len(decode(tmp_path / "v.mp4")[0]) == 12
    assert names(tmp_path) == ["v.mp4", "v.mp4.part.old"]


ANOTHER_USER = """
import os, sys
from pathlib import Path
from pipeline.errors import SinkOpenError
from pipeline.sinks.part import PartFile

os.chdir(sys.argv[1])
if os.getuid() == 0:
    os.setuid(65534)
try:
    PartFile(Path("v.mkv"), "v.mkv")
except SinkOpenError as error:
    print(error)
"""


def test_a_leftover_that_this_user_may_not_write_is_named_with_the_remedy(tmp_path):
    tmp_path.chmod(0o777)
    left = tmp_path / "v.mkv.part"
    left.write_bytes(b"left")
    left.chmod(0o444)
    child = in_child(ANOTHER_USER, tmp_path)
    assert child.stderr == ""
    assert "left v.mkv.part, which this one may not write; move that away" in child.stdout
    assert names(tmp_path) == ["v.mkv.part"]
