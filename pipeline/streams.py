"""The streams of a running line: each is started, stopped and changed by itself, while the others go on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipeline.accounts import Accounts
from pipeline.config import StreamConfig
from pipeline.decide import Depths
from pipeline.errors import ConfigError, PipelineError
from pipeline.flow import Cancelled, Channel, Dropped, Flow, Merge
from pipeline.frame import Frame
from pipeline.sinks import Outputs
from pipeline.sources import SourceSpec, Timestamps
from pipeline.stages.capture import Capture

log = logging.getLogger(__name__)

STOP_GRACE_SECONDS = 2.0
"""How long a source that was asked to stop may sit in a native call before the line goes on without it."""
DRAIN_SECONDS = 30.0
"""How long frames of a stream that was stopped may take to leave the line before something is wrong."""


@contextmanager
def in_turn(lock: threading.Lock | threading.RLock, flow: Flow) -> Iterator[None]:
    """Changes of streams one at a time. Raises PipelineError in the thread that takes the results, or writes
    them, where another one is under way: that may wait for frames, which nobody would take meanwhile."""
    if not lock.acquire(blocking=not flow.waits_for_this_thread):
        raise PipelineError(
            "another change of the line is under way, which may wait for results that this thread takes; "
            "try again at the next one, or in a thread of its own"
        )
    try:
        yield
    finally:
        lock.release()


@dataclass(slots=True)
class _Stream:
    spec: SourceSpec
    stream: StreamConfig
    capture: Capture
    channel: Channel[Any] | None = None
    thread: threading.Thread | None = None
    held: bool = False
    """Whether the line does not end for it, though nothing comes of it."""
    stranded: bool = False
    """Paused by a change that could not start it again: the next change does."""

    @property
    def paused(self) -> bool:
        return self.thread is None


class Streams:
    """Made with the line, before it starts. All methods may be called from any thread, one at a time."""

    def __init__(
        self,
        flow: Flow,
        frames: Merge[Any],
        accounts: Accounts,
        depths: Depths,
        first: Callable[[str], Channel[Any]],
        outputs: Outputs,
    ) -> None:
        """``frames`` is the merge of the first channels, ``first`` makes a stream's; files wait for room in
        the ``outputs``."""
        self._flow, self._frames, self._accounts, self._depths, self._first, self._outputs = (
            flow, frames, accounts, depths, first, outputs,
        )  # fmt: skip
        self._streams: dict[str, _Stream] = {}
        self._timestamps: dict[str, Timestamps] = {}
        """Of removed ones, too: one that is added once more goes on with its time, as with its books."""
        self._added: list[Callable[[str], None]] = []
        self._removed: list[Callable[[str], None]] = []
        self._left: list[Callable[[str], object]] = []
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._starting = threading.Lock()
        """Held while a thread is started, never by who waits: a stop reaches each that there is by then, and
        no other one is started."""

    def on_added(self, told: Callable[[str], None]) -> None:
        """Tell of each stream, those that are there already too, before its first frame."""
        self._added.append(told)
        for name in self._streams:
            told(name)

    def on_removed(self, told: Callable[[str], None]) -> None:
        """Tell of each stream that is removed, when its frames have left, or should have."""
        self._removed.append(told)

    def on_left(self, told: Callable[[str], object]) -> None:
        """Tell of each stream that is removed and has no frame in the line: its ways there may go, too."""
        self._left.append(told)

    @property
    def names(self) -> list[str]:
        """Of all that are there, paused ones too."""
        return list(self._streams)

    @property
    def sources(self) -> dict[str, tuple[SourceSpec, StreamConfig]]:
        """What each goes by, but for whether it is paused."""
        return {name: (each.spec, each.stream) for name, each in list(self._streams.items())}

    def config(self, name: str) -> StreamConfig:
        """What stream ``name`` goes by, and whether it is paused, however it came to be. Raises ConfigError
        for one that is not there."""
        known = self._known(name)
        return known.stream.model_copy(update={"paused": known.paused and not known.stranded})

    def add(self, name: str, spec: SourceSpec, stream: StreamConfig) -> None:
        """Start a stream, unless it is to be paused. Raises ConfigError for a name that is taken,
        PipelineError after the line's end, or where no thread is to be had; nothing is remembered of it then.
        """
        with self._alone():
            if name in self._streams:
                raise ConfigError(
                    f"there is a stream {name!r} already; remove it first, or choose another name"
                )
            with self._entering(name) as entrance:
                new = name not in self._accounts.streams
                try:
                    account = self._accounts.add(name)
                    for each in self._added:
                        each(name)
                    timestamps = self._timestamps.setdefault(name, Timestamps())
                    capture = Capture(spec, stream, account, timestamps=timestamps)
                    added = _Stream(spec, stream, capture)
                    if stream.paused:
                        self._wait_for(name, added, entrance)
                    else:
                        self._start(name, added, entrance)
                except BaseException:
                    self._forget(name)
                    if new:
                        self._timestamps.pop(name, None)
                        self._accounts.take_back(name)
                    raise

    def remove(self, name: str) -> None:
        """Stop a stream, and wait until its frames have left the line; they are emitted. Its books stay.

        Raises ConfigError for one that is not there, PipelineError where its frames do not leave; it is
        removed all the same.
        """
        with self._alone():
            known = self._known(name)
            self._check_who_waits("remove", name, known)
            try:
                self._halt(name, known, removed=True)
            finally:
                del self._streams[name]
                self._forget(name)
                self._let_go(known)

    def pause(self, name: str) -> None:
        """As :meth:`remove`, but it can be resumed, and the line does not end meanwhile. One that has ended
        keeps its ending, and the error, until it is tried anew."""
        with self._alone():
            known = self._known(name)
            if known.stranded:  # which is wanted now
                known.stranded = False
                self._accounts.streams[name].paused()
            if known.paused:
                return
            self._check_who_waits("pause", name, known)
            self._hold("pause", name, known)
            with self._accounts.streams[name].link.changing("paused"):
                self._halt(name, known)

    def resume(self, name: str, found: Callable[[StreamConfig], SourceSpec]) -> None:
        """Start a paused stream again; ``found`` says what its source means now, or raises PipelineError."""
        with self._alone():
            known = self._known(name)
            if known.paused:
                spec = found(known.stream)
                known.capture.change(spec, known.stream)
                known.spec = spec
                self._begin_again(name, known)

    def opens(self, name: str, stream: StreamConfig, paused: bool | None) -> bool:
        """Whether :meth:`change` to this opens the stream's source. Raises ConfigError for one that is not
        there."""
        known = self._known(name)
        if paused is None:
            paused = known.paused and not known.stranded
        elif not paused and self._accounts.streams[name].error is not None:
            return True
        if paused:
            return False
        failed = self._accounts.streams[name].error is not None
        return (
            known.paused
            or _reconnects(known.stream, stream)
            or (failed and _tries_again(known.stream, stream))
        )

    def change(
        self, name: str, spec: SourceSpec, stream: StreamConfig, *, paused: bool | None = None
    ) -> None:
        """Let a stream go by another config: at once where that needs no new connection. ``paused``: what it
        is to be, whatever the config says of that; None: as it is by then.

        Frames and their PTS count on. Raises ConfigError for one that is not there, PipelineError where its
        frames do not leave, or no thread is to be had; it is paused then, until it is changed or resumed.
        """
        with self._alone():
            known = self._known(name)
            account = self._accounts.streams[name]
            opens = self.opens(name, stream, paused)
            if paused is None:
                paused = known.paused and not known.stranded
            if not known.paused and (paused or opens):
                self._check_who_waits("change", name, known)
            known.spec, known.stream = spec, stream
            known.capture.change(spec, stream)
            if paused:
                self.pause(name)
                return
            if not opens:
                return
            if not known.paused:
                self._hold("change", name, known)
            known.stranded = True
            with account.link.changing("connecting"):
                try:
                    if not known.paused:
                        self._halt(name, known)
                    self._begin_again(name, known)
                except PipelineError as error:
                    if not self._stopped.is_set():  # nobody wanted that: it is not ready
                        account.ended("stranded", error)
                    raise

    def stop(self) -> None:
        """Ask every stream to end, also those that are paused. Does not wait, for a change that is under way
        neither: that may wait for frames which the caller has to take."""
        with self._starting:
            self._stopped.set()
        for known in list(self._streams.values()):
            known.capture.stop.set()
        self._outputs.look_again()
        self._frames.hold_no_more()

    def give_up(self) -> None:
        """The line is over: nothing counts any more of sources that have not answered to stop."""
        for known in list(self._streams.values()):
            known.capture.begin()

    def _forget(self, name: str) -> None:
        for each in self._removed:
            each(name)
        if self._accounts.streams[name].wait_idle(0.0):
            for tell in self._left:
                tell(name)

    def _begin_again(self, name: str, known: _Stream) -> None:
        with self._entering(name) as entrance:
            self._start(name, known, entrance)
        known.stranded = False
        self._let_go(known)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with in_turn(self._lock, self._flow):
            yield

    def _check_who_waits(self, to_do: str, name: str, known: _Stream) -> None:
        """Raise PipelineError where the frames that have to leave are taken by the thread that would wait."""
        if not self._flow.waits_for_this_thread:
            return
        account = self._accounts.streams[name]
        if account.ending is None or not account.wait_idle(0.0):
            raise PipelineError(
                f"cannot {to_do} stream {name!r} in the thread that takes the results, or writes them: its "
                "frames have to leave the line first; do it in a thread of its own"
            )

    def _hold(self, to_do: str, name: str, known: _Stream) -> None:
        """From now on the line does not end for want of this stream."""
        if self._stopped.is_set():
            raise PipelineError(f"cannot {to_do} stream {name!r}: the line is being stopped")
        if not self._frames.hold():
            raise PipelineError(f"cannot {to_do} stream {name!r}: the line has ended")
        known.held = True

    def _let_go(self, known: _Stream) -> None:
        if known.held:
            known.held = False
            self._frames.let_go()

    @contextmanager
    def _entering(self, name: str) -> Iterator[Channel[Any]]:
        """The first channel of a stream that is started within the block. It comes before all else: while it
        is open the line does not end, and every stage takes another stream.

        Where the stream is not started, it is closed when the rest has been taken back: the books are looked
        at as soon as the line has ended. Raises PipelineError after the line's end, or where it is cancelled.
        """
        self._check_not_stopped(name)
        account = self._accounts.streams.get(name)
        if account is not None and not account.wait_idle(0.0):
            raise PipelineError(
                f"cannot start stream {name!r}: frames of it from before are still in the line"
            )
        try:
            channel = self._first(name)
            try:
                yield channel
            except BaseException:
                channel.close()
                raise
        except Cancelled:
            raise PipelineError(f"cannot start stream {name!r}: the line has ended") from None

    def _check_not_stopped(self, name: str) -> None:
        if self._stopped.is_set():
            raise PipelineError(f"cannot start stream {name!r}: the line is being stopped")

    def _wait_for(self, name: str, each: _Stream, channel: Channel[Any]) -> None:
        """Have a stream there that is paused from the beginning."""
        self._hold("add", name, each)
        account = self._accounts.streams[name]
        account.begun(paused=True)
        account.paused()
        self._streams[name] = each
        channel.close()
        log.info("stream %s: paused until it is resumed", name)

    def _start(self, name: str, each: _Stream, channel: Channel[Any]) -> None:
        account = self._accounts.streams[name]
        # An event of its own for each run: one that answers late must not hear of the next.
        run = partial(self._frames_of, each.capture, channel, each.capture.begin())
        with self._starting:
            self._check_not_stopped(name)
            ending, failed = account.ending, account.error
            account.begun()
            self._depths.expect(channel)
            try:
                each.thread = self._flow.feed("capture", f"capture:{name}", run, channel)
            except RuntimeError as error:
                self._depths.forget(channel)
                account.ended(ending or "removed", failed)
                if each.held:
                    account.paused()
                raise PipelineError(
                    f"cannot start stream {name!r}: {error}; raise the limits of this user or container"
                ) from None
            each.channel = channel
            self._streams[name] = each

    def _frames_of(
        self, capture: Capture, channel: Channel[Any], stop: threading.Event
    ) -> Iterator[Frame | Dropped]:
        """One run of a stream; the others' channels go by it as long as it lasts. A file waits for room in
        the outputs before its first frame, and before it takes another picture: in its own thread, so that no
        other stream does, and no frame grows old by it."""

        def opened(live: bool, frame_bytes: int) -> None:
            self._depths.opened(channel, live, frame_bytes)
            if not live:
                self._outputs.wait_for_room(stop)

        try:
            with closing(capture(opened, stop)) as frames:
                for frame in frames:
                    yield frame
                    if channel.policy == "block" and type(frame) is not Dropped:
                        self._outputs.wait_for_room(stop)
        finally:
            self._depths.forget(channel)

    def _halt(self, name: str, each: _Stream, *, removed: bool = False) -> None:
        account, thread, channel = self._accounts.streams[name], each.thread, each.channel
        until = time.monotonic() + DRAIN_SECONDS
        account.leaving = removed
        if thread is not None and channel is not None:
            each.capture.stop.set()
            self._outputs.look_again()
            if not self._flow.await_feeder(thread, channel, STOP_GRACE_SECONDS, DRAIN_SECONDS):
                log.warning("stream %s did not answer to stop; it ends by its own time-out", name)
                each.capture.begin()
            self._depths.forget(channel)
        left = account.wait_idle(max(0.0, until - time.monotonic()))
        each.thread = each.channel = None
        if removed:
            account.ended("removed")
        else:
            account.paused()
        if not left and not self._flow.cancelled:
            now = "removed" if removed else "paused"
            raise PipelineError(
                f"stream {name!r} is {now}, but its frames did not leave the line within "
                f"{DRAIN_SECONDS:.0f} s: an output, or whoever takes results, holds them up"
            )

    def _known(self, name: str) -> _Stream:
        try:
            return self._streams[name]
        except KeyError:
            raise ConfigError(
                f"there is no stream {name!r}; there are: {', '.join(self._streams) or 'none'}"
            ) from None


def _tries_again(old: StreamConfig, new: StreamConfig) -> bool:
    """Whether a source that failed, and ended by it, is to be tried after all."""
    return new.reconnect is not False and new.reconnect != old.reconnect


def _reconnects(old: StreamConfig, new: StreamConfig) -> bool:
    """Whether the source has to be opened again to go from one config to the other."""
    light = {
        "every_nth", "max_frames", "damaged", "reconnect", "backoff", "backoff_max", "name",
        "health", "frozen_seconds", "black_seconds", "not_ready_when", "paused",
    }  # fmt: skip
    return old.model_dump(exclude=light) != new.model_dump(exclude=light)
