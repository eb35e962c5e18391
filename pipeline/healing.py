"""Models that are opened afresh where their provider fails, as often as a line allows it.

A run that a provider fails costs its own frames, and the model is opened afresh meanwhile; one that cannot be
opened is tried again as often as there are restarts left, unless another is put in its place. Then the fault
is raised, once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from pipeline.errors import PipelineError, ProviderFault
from pipeline.runtime.faults import is_provider_fault
from pipeline.runtime.model import Model

log = logging.getLogger(__name__)

RETRY_SECONDS, RETRY_FACTOR, MOST_RETRY_SECONDS = 1.0, 4.0, 30.0
"""Until a model that cannot be opened is tried again, how much longer each time, and the most: a device
that was reset needs some seconds, and frames wait meanwhile."""


class Restarts:
    """How often the models of a line may be opened afresh, all of them together: ``most`` times in ``within``
    seconds, and one at a time, lest two use up in a moment what a device needs to come back."""

    def __init__(self, most: int, within: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self.within = most, within
        self.made = 0
        """Times that a model was opened afresh."""
        self.healing = False
        """Whether one is being opened right now: frames wait meanwhile."""
        self.over = False
        """Nothing is opened any more: it was in vain, or the line was cancelled."""
        self.hurried = False
        """The line is to end: what cannot be opened is not waited for."""
        self.changed = threading.Condition()
        """Held wherever any of this changes, or which model serves."""
        self.times: deque[float] = deque()
        """Of the tries that count."""
        self._clock = clock

    def hurry(self) -> None:
        """The line is to end."""
        with self.changed:
            self.hurried = True
            self.changed.notify_all()

    def give_up(self) -> None:
        """The line was cancelled: no model is opened any more."""
        with self.changed:
            self.over = self.hurried = True
            self.changed.notify_all()

    def left(self) -> int:
        """Tries that are left now."""
        now = self._clock()
        while self.times and now - self.times[0] > self.within:
            self.times.popleft()
        return self.most - len(self.times)

    def count(self) -> None:
        """One is made now."""
        self.times.append(self._clock())


class Served(Protocol):
    """What a line has made of a model."""

    model: Model


T = TypeVar("T", bound=Served)


class Healed(Generic[T]):
    """What serves for one model of the line now, and how that is opened afresh."""

    def __init__(
        self, first: T, reopen: Callable[[], T], restarts: Restarts, called: str = "the model"
    ) -> None:
        """``called``: what the log calls the model."""
        self.current = first
        self._reopen = reopen
        self._restarts, self._called = restarts, called

    def replace(self, other: T, reopen: Callable[[], T]) -> None:
        """From now on ``other`` serves, which ``reopen`` opens afresh."""
        with self._restarts.changed:
            self.current, self._reopen = other, reopen
            self._restarts.changed.notify_all()

    def reopen_by(self, reopen: Callable[[], T]) -> None:
        """From now on ``reopen`` opens it afresh, also where that is being tried already."""
        with self._restarts.changed:
            self._reopen = reopen

    def attempt(
        self, served: T, call: Callable[[list[Any]], list[Any]], items: list[Any]
    ) -> list[Any] | None:
        """What ``call`` of ``served`` returns for ``items``. None: its provider failed, and the model was
        opened afresh, or need not be. Raises ProviderFault where that was in vain."""
        try:
            return call(items)
        except Exception as error:
            if not is_provider_fault(error):
                raise
            # What failed would stay for as long as the frames of the error do.
            fault = error.with_traceback(None)
        self._heal(served, fault)
        return None

    def _stands_in(self, failed: T, fresh: T) -> None:
        """``fresh`` serves from now on where ``failed`` did. Told before anybody else can look."""

    def _heal(self, failed: T, fault: Exception) -> None:
        restarts = self._restarts
        with restarts.changed:
            restarts.changed.wait_for(lambda: not restarts.healing or failed is not self.current)
            if failed is not self.current or restarts.over:  # opened for another worker, or replaced
                return
            left, restarts.healing = restarts.left(), True
        try:
            # Without the lock: meanwhile another model may take this one's place.
            self._open(failed, left, f"{failed.model.session.active} failed: {_said(fault)}")
        except ProviderFault:
            restarts.over = True
            raise
        finally:
            with restarts.changed:
                restarts.healing = False
                restarts.changed.notify_all()

    def _open(self, failed: T, left: int, told: str) -> None:
        """Open the model afresh, in ``left`` tries; none is made once another took its place, or the line is
        to end. Raises ProviderFault."""
        restarts = self._restarts
        pause, within = RETRY_SECONDS, f"within {restarts.within / 60:g} minutes"
        while left > 0:
            left -= 1
            restarts.count()
            log.error("%s; %s is opened afresh (restart %d of %d %s)",
                      told, self._called, len(restarts.times), restarts.most, within)  # fmt: skip
            try:
                fresh = self._reopen()
            except Exception as error:
                if not isinstance(error, PipelineError) and not is_provider_fault(error):
                    raise
                told = f"{self._called} cannot be opened after a fault of its provider: {_said(error)}"
            else:
                with restarts.changed:
                    if failed is not self.current:
                        return
                    self._stands_in(failed, fresh)
                    self.current = fresh
                    restarts.made += 1
                was, now = failed.model.session.active, fresh.model.session.active
                log.warning("%s runs again on %s%s", self._called, now, f", not {was}" * (now != was))
                return
            with restarts.changed:
                if left > 0:
                    restarts.changed.wait_for(lambda: restarts.hurried or failed is not self.current, pause)
                if restarts.over or failed is not self.current:
                    return
            if restarts.hurried:
                break
            pause = min(pause * RETRY_FACTOR, MOST_RETRY_SECONDS)
        many = f"{len(restarts.times)} restart{'s' * (len(restarts.times) != 1)}"
        raise ProviderFault(
            f"{told}; {many} {within} did not help; see framerail doctor, or choose another provider"
        )


def _said(error: Exception) -> str:
    """What an error says, in one line; ONNX Runtime's can be pages."""
    if isinstance(error, PipelineError):
        return str(error)
    return " ".join(str(error).split())[:300] or type(error).__name__
