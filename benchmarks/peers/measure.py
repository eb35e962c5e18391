"""The whole measurement: who takes part, equal detections first, then the rounds."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av

from benchmarks.peers.agreement import Found, agreement
from benchmarks.peers.report import notes
from benchmarks.peers.rounds import PeerError, Task, figures, fps, rotated, run
from benchmarks.peers.table import OURS, PEERS, REFERENCE, TUNED, Peer
from pipeline.bench.machine import machine
from pipeline.runtime.model import open_model

SPARE = 32
"""Frames of the clip beyond those that are asked for: a peer that reads ahead never sees its end."""

Tell = Callable[[str], None]
Said = dict[str, list[dict[str, Any]]]
"""What each peer said in each round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """As on the command line."""

    model: str
    clip: str
    venvs: Path
    rounds: int = 7
    frames: int = 400
    warm_up: int = 50
    peers: tuple[str, ...] = tuple(PEERS)
    conf: float = 0.25
    iou: float = 0.7
    max_detections: int = 300
    options: Mapping[str, Any] = field(default_factory=dict)
    tuned: str | None = None
    """Another model for framerail to run as well; empty: what the model's profile says."""
    tuned_options: Mapping[str, Any] = field(default_factory=dict)


def measure(asked: Asked, tell: Tell) -> dict[str, Any]:
    """All of it, as data. Raises PipelineError for what cannot be measured at all."""
    peers = chosen(asked)
    clip = _clip(asked.clip, asked.warm_up + asked.frames + SPARE)
    spec = open_model(asked.model, "cpu").spec
    if spec.width != spec.height:
        raise PeerError(f"--model: expected a square input; {asked.model} takes {spec.width}x{spec.height}")
    settings = {key: getattr(asked, key) for key in ("frames", "warm_up", "conf", "iou", "max_detections")}
    files = {key: str(Path(getattr(asked, key)).resolve()) for key in ("model", "clip")}
    task = Task(**files, **settings, size=spec.width)
    report: dict[str, Any] = {
        "kind": "framerail peers",
        "machine": machine(),
        "model": {"name": Path(asked.model).name, "sha256": _sha256(asked.model)},
        "clip": clip,
        "settings": {**settings, "size": spec.width, "rounds": asked.rounds},
        "peers": {},
        "skipped": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        measurement = _Measurement(peers, task, asked.venvs, Path(folder), report["skipped"], tell)
        report["peers"] = measurement.compare()
        said = measurement.rounds(asked.rounds)
    report["peers"] = {name: report["peers"][name] | figures(name, said) for name in peers}
    report["notes"] = list(notes(report))
    return report


def chosen(asked: Asked) -> dict[str, Peer]:
    """Framerail and the plain loop always: without them there is nothing to compare with."""
    peers = {name: PEERS[name] for name in dict.fromkeys([OURS, REFERENCE, *asked.peers])}
    peers[OURS] = replace(peers[OURS], options=asked.options)
    if asked.tuned is not None:
        options: dict[str, Any] = {}
        if asked.tuned:
            what, model = f"framerail run, {Path(asked.tuned).name}", str(Path(asked.tuned).resolve())
        else:
            what, model = "framerail run after framerail tune", None
            options = {"provider": "auto", "profile": True}
        options |= asked.tuned_options
        peers[TUNED] = replace(peers[OURS], name=TUNED, what=what, model=model, options=options)
    return peers


def _clip(path: str, needed: int) -> dict[str, Any]:
    """What the clip is. Raises PeerError where it cannot be read or is too short."""
    try:
        with av.open(path) as container:
            stream = container.streams.video[0]
            codec = stream.codec_context
            count = sum(1 for packet in container.demux(stream) if packet.size)
            found = {"codec": codec.name, "width": codec.width, "height": codec.height, "frames": count}
    except (av.FFmpegError, IndexError) as error:
        raise PeerError(f"--clip: {path} cannot be read: {error}") from None
    if count < needed:
        raise PeerError(
            f"--clip: expected at least {needed} frames (--warm-up, --frames and {SPARE} more); {path} has "
            f"{count}; benchmarks.peers.clip makes longer ones"
        )
    return {"name": Path(path).name, **found, "sha256": _sha256(path)}


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class _Measurement:
    """``peers`` loses those that fail, and ``skipped`` gets the reasons."""

    peers: dict[str, Peer]
    task: Task
    venvs: Path
    scratch: Path
    skipped: dict[str, str]
    tell: Tell

    def compare(self) -> dict[str, dict[str, Any]]:
        """Run each once: what it is, and how far it detects the same."""
        found = {}
        for name in (REFERENCE, *(name for name in list(self.peers) if name != REFERENCE)):
            said = self._run(name)
            if said is None:
                continue
            peer, agreed = self.peers[name], None
            if name != TUNED:
                plain, mine = (Found.load(self.scratch / f"{each}.npz") for each in (REFERENCE, name))
                agreed = agreement(plain, mine)
                self.tell(
                    f"{name}: {agreed.share:.2%} of the detections are equal: {agreed.found} of "
                    f"{agreed.reference} found, {agreed.confirmed} of {agreed.other} confirmed"
                )
            found[name] = {
                "what": peer.what,
                "bound": peer.bound,
                "differs": peer.differs,
                "agreement": None if agreed is None else agreed.data(),
                "versions": said["versions"],
                "profile": said.get("profile"),
            }
        return found

    def rounds(self, count: int) -> Said:
        """Let all take turns; whoever fails on the way is out of all rounds."""
        said: Said = {name: [] for name in self.peers}
        for number in range(count):
            for name in rotated(list(self.peers), number):
                one = self._run(name)
                if one is None:
                    continue
                said[name].append(one)
                others = (
                    "" if one["others_cores"] is None else f", others used {one['others_cores']:.2f} cores"
                )
                self.tell(f"round {number + 1} of {count}: {name}: {fps(one):.1f} frames/s{others}")
        return said

    def _run(self, name: str) -> dict[str, Any] | None:
        """One run; None for a peer that fails. Raises PeerError for one without which nothing is known."""
        try:
            return run(self.peers[name], self.task, self.venvs, self.scratch)
        except PeerError as error:
            if name in (OURS, REFERENCE):
                raise
            self.tell(f"skipped: {error}")
            self.skipped[name] = str(error)
            del self.peers[name]
            return None
