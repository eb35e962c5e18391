"""``framerail models convert``."""

from __future__ import annotations

import re
from pathlib import Path

from rich.console import Console

from pipeline.convert import Resize, convert_darknet
from pipeline.errors import ConfigError
from pipeline.placing import place, same_file
from pipeline.runtime.card import read_labels
from pipeline.runtime.catalog import models_dir

_SIDE = re.compile("[1-9][0-9]{0,4}")
RESIZES: tuple[Resize, ...] = ("letterbox", "stretch")


def convert(
    cfg: str,
    weights: str,
    output: str,
    console: Console,
    *,
    labels: str | None = None,
    resize: str = "letterbox",
    tree: str | None = None,
    tree_threshold: float = 0.5,
    size: str | None = None,
) -> None:
    """Convert a Darknet network to an ONNX file, and say what came of it.

    Raises ConfigError for arguments that cannot be meant, ModelError for files that cannot be
    converted, DependencyError without the package onnx, SinkOpenError for an output that cannot
    be written; then the output is what it was before.
    """
    given, target = (Path(cfg).expanduser(), Path(weights).expanduser()), Path(output).expanduser()
    how = next((known for known in RESIZES if known == resize), None)
    if how is None:
        raise ConfigError(f"--resize: expected {' or '.join(RESIZES)}; got {resize!r}")
    sides = None if size is None else size.lower().split("x")
    if sides is not None and not (len(sides) <= 2 and all(_SIDE.fullmatch(side) for side in sides)):
        raise ConfigError(
            f"--size: expected pixels such as 416, or WIDTHxHEIGHT such as 608x320; got {size!r}"
        )
    if target.suffix.lower() != ".onnx":
        raise ConfigError(f"--output: expected the name of an .onnx file; got {output!r}")
    if labels is not None and not Path(labels).expanduser().is_file():
        raise ConfigError(f"--labels: there is no file {labels}")
    if tree is not None and not Path(tree).expanduser().is_file():
        raise ConfigError(f"--tree: there is no file {tree}")
    for read in (*given, *((Path(labels).expanduser(),) if labels is not None else ())):
        _spare(target, read)
    named = read_labels(Path(labels).expanduser()) if labels is not None else ()
    if labels is not None and not named:
        raise ConfigError(f"--labels: expected one label a line; {labels} has none")
    of_classes = None if tree is None else Path(tree).expanduser()
    coco = read_labels(models_dir() / "labels" / "coco80.txt")
    input_hw = None if sides is None else (int(sides[-1]), int(sides[0]))
    done = convert_darknet(
        *given,
        labels=named,
        coco=coco,
        resize=how,
        tree=of_classes,
        tree_threshold=tree_threshold,
        input_hw=input_hw,
    )
    if done.tree is not None:
        _spare(target, done.tree.path)
    place(done.model, target)
    height, width = done.input_hw
    kind = "detector" if done.task == "detect" else "classifier"
    if done.labels:
        whose = "named by " + (Path(labels).name if labels is not None else "COCO's labels")
    elif done.tree is not None:
        whose = f"named as in {done.tree.path.name} (give --labels FILE)"
    else:
        whose = "named by numbers (give --labels FILE)"
    if done.tree is not None:
        whose += f", in a tree of {len(done.tree.levels)} levels"
        whose += f", of each box the deepest over {tree_threshold:g}" if done.task == "detect" else ""
    console.print(
        f"{target}: {kind}, input {width}x{height} ({how}), {done.classes} classes, {whose}; "
        f"{done.layers} layers, {done.weights:,} weights, {len(done.model) / 1e6:.1f} MB",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def _spare(target: Path, read: Path) -> None:
    """Raise ConfigError where the output would take the place of a file that is read."""
    if same_file(target, read):
        raise ConfigError(f"--output: it would overwrite {read}, which is read; give another name")
