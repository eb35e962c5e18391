"""The child as a process: how it is started, heard and ended."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import Any

from pipeline.config import StreamConfig
from pipeline.errors import SourceOpenError
from pipeline.redact import redact
from pipeline.sources import fflog
from pipeline.sources.base import Remembered, SourceSpec
from pipeline.sources.isolated.slots import TAKEN

END_SECONDS = 1.0
"""How long a child may take to end by itself, which closes its connection as servers like it."""
_LONGEST = 1 << 17
"""Of a message: what is remembered of a playlist has 112 kB at most."""
_TURN_SECONDS = 0.1
# Ctrl-C and systemd's stop reach the whole group: what they mean is the parent's to say.
_NOT_FOR_IT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The address is in none of its arguments: any user of the machine can read those.
_BEGIN = """# framerail: one isolated source
import json, os, sys
files = [int(each) for each in sys.argv[1:]]
said = json.loads(os.read(files[1], 1 << 18))
sys.path[:] = said["path"]
from pipeline.sources.isolated.child import main
main(*files, said)
"""


__all__ = ["TAKEN", "EndedError", "Process"]


class EndedError(Exception):
    """The child has ended, without a word; the text says how."""


class Process:
    """One child. ``say`` may be called from any thread, all else from that which iterates."""

    def __init__(self, spec: SourceSpec, stream: StreamConfig, remembered: Remembered) -> None:
        """Start it. Raises SourceOpenError where the system has no process to give."""
        said = {
            "path": [each for each in sys.path if isinstance(each, str)],
            "spec": asdict(spec),
            "stream": stream.model_dump(mode="json", exclude={"isolate"}),
            "drops": stream.asked_live(True),
            "remembered": remembered.told(),
            "log_level": logging.getLogger("pipeline").getEffectiveLevel(),
            "ffmpeg_log": fflog.routed(),
        }
        # Reentrant: memory may be collected, and a slot given back, within any line of Python.
        self._lock = threading.RLock()
        with ExitStack() as opened:
            passed: list[int] = []
            self._commands: int | None = None
            try:
                self._messages, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                opened.enter_context(self._messages)
                passed.append(theirs.detach())
                commands, self._commands = os.pipe()
                opened.callback(self._mute)
                passed.insert(0, commands)
                life, self._life = os.pipe()
                opened.callback(os.close, self._life)
                passed.append(life)
                os.set_blocking(self._commands, False)
                self._popen = _start(passed)
            except OSError as error:
                raise SourceOpenError(
                    f"cannot open {spec.address}: no process can be started for it ({error.strerror}); raise "
                    "the limits of this user or container, or leave out isolate_sources"
                ) from None
            finally:
                for each in passed:
                    os.close(each)
            with suppress(BrokenPipeError):  # it died at once: the next to listen is told
                self._messages.send(json.dumps(said).encode())
            self._messages.settimeout(_TURN_SECONDS)
            self._open = opened.pop_all()
        self._ended = False

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._popen.pid

    def say(self, generation: int, slot: int) -> None:
        """Tell that a slot of the memory of that generation is free, or that a picture was TAKEN."""
        with self._lock:
            if self._commands is not None:
                with suppress(BrokenPipeError):  # whoever listens is told that it died
                    os.write(self._commands, bytes((generation & 0xFF, slot)))

    def hear(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next message and the files with it; None where none comes within a tenth of a second.

        Log records go to their loggers. Raises EndedError at the end, ValueError for what is no message.
        """
        try:
            data, files, _, _ = socket.recv_fds(self._messages, _LONGEST, 1, socket.MSG_CMSG_CLOEXEC)
        except TimeoutError:
            return None
        except ConnectionResetError:
            data, files = b"", []
        if not data:
            raise EndedError(self._last_words())
        message = json.loads(data)
        if not isinstance(message, dict):
            raise ValueError("expected a JSON object")
        if "log" in message:
            name, level, text, created = message["log"]
            logger = logging.getLogger(str(name))
            if logger.isEnabledFor(int(level)):
                record = {"name": name, "levelno": level, "levelname": logging.getLevelName(level)}
                logger.handle(logging.makeLogRecord({**record, "msg": redact(str(text)), "created": created}))
        return message, list(files)

    def stop(self) -> None:
        """Ask it to end."""
        self._mute()

    def close(self, grace: float = END_SECONDS) -> None:
        """End it, by force after ``grace`` seconds. Twice does no harm."""
        if self._ended:
            return
        self._ended = True
        self._mute()
        self._messages.close()
        try:
            self._popen.wait(grace)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        finally:
            self._open.close()

    def _mute(self) -> None:
        with self._lock:
            commands, self._commands = self._commands, None
            if commands is not None:
                os.close(commands)

    def _last_words(self) -> str:
        try:
            code = self._popen.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return "the process that reads it fell silent"
        if code >= 0:
            return f"the process that reads it ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        why = " (as the system does where memory is short)" if name == "SIGKILL" else ""
        return f"the process that reads it was ended by {name}{why}"


def _start(passed: list[int]) -> subprocess.Popen[bytes]:
    if not sys.executable:
        raise OSError(0, "no Python interpreter is known")
    # A child has its starting thread's mask, from its first instruction on.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_IT)
    try:
        return subprocess.Popen(
            [sys.executable, "-c", _BEGIN, *map(str, passed)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=passed,
            # It multiplies no matrices: NumPy's threads for that are a third of the CPU time of its start.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
