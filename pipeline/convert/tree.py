"""Darknet's trees of classes, as YOLO9000 has one: a class's name and its parent's number in each line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.convert.cfg import Section
from pipeline.errors import ConfigError, ModelError

_MOST_BYTES = 1 << 24
_MOST_LEVELS = 64
"""The graph has a few nodes for each."""


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """n classes, of which siblings stand together and behind their parent.

    ``parent`` int64 [n], -1 of a root. Group 0 are the roots, every other one the children of a class:
    ``offset`` and ``size`` int64 [groups] say where it begins and how many they are, ``child`` int64 [n]
    is the group of a class's children, -1 of a leaf. ``levels`` are the classes of each depth.
    """

    path: Path
    names: tuple[str, ...]
    parent: NDArray[np.int64]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    child: NDArray[np.int64]
    levels: tuple[NDArray[np.int64], ...]


def tree_of(cfg: Path, sections: Sequence[Section], given: Path | None) -> Tree | None:
    """Return the tree that layers name with ``tree=``; None where no layer does.

    ``given`` counts instead of what they say. Else it is looked for in the folder of the cfg, then in
    that folder's parent, where Darknet's own ``data/9k.tree`` lies beside ``cfg/``. Raises ModelError
    where it is not there or is none, ConfigError for a ``given`` one that no layer asks for.
    """
    asking = [section for section in sections if "tree" in section.options]
    if not asking:
        if given is not None:
            raise ConfigError(f"--tree: {cfg.name} has no layer with tree=, so that it needs none")
        return None
    first, name = asking[0], asking[0].text("tree", "")
    for other in asking:
        if other.kind not in ("region", "softmax"):
            raise other.unsupported("a tree of classes (tree=)", "tree")
        if other.text("tree", "") != name:
            raise other.unsupported(f"a tree of its own, where {first} has {name},", "tree")
    if given is not None:
        return read_tree(given)
    # Of a path from the root both are the same.
    places = dict.fromkeys((cfg.parent / name, cfg.absolute().parent.parent / name))
    found = next((place for place in places if os.path.isfile(place)), None)
    if found is None:
        looked = " nor at ".join(map(str, places))
        raise first.error(
            f"expected its tree of classes; it is not at {looked}: "
            "give it with --tree FILE (Darknet has YOLO9000's as data/9k.tree)",
            "tree",
        )
    return read_tree(found)


def read_tree(path: Path) -> Tree:
    """Read a tree as ``read_tree`` of Darknet's tree.c does. Raises ModelError, with the line."""
    try:
        if not path.is_file():
            raise ModelError(f"cannot read tree {path}: expected a file")
        if path.stat().st_size > _MOST_BYTES:
            raise ModelError(f"cannot read tree {path}: it is over {_MOST_BYTES >> 20} MiB")
        lines = path.read_bytes().decode("utf-8-sig", errors="replace").rstrip().split("\n")
    except OSError as error:
        raise ModelError(f"cannot read tree {path}: {error.strerror}") from None
    names: list[str] = []
    parents: list[int] = []
    depths: list[int] = []
    offsets: list[int] = []
    child = np.full(len(lines), -1, np.int64)
    for index, line in enumerate(lines):
        where = f"{path.name} line {index + 1}"
        name, _, number = line.strip().rpartition(" ")
        try:
            parent = int(number)
        except ValueError:
            name = ""
            parent = -1
        if not name.strip():
            raise ModelError(
                f"{where}: expected a class and its parent's number, -1 for none; got {line.strip()[:60]!r}"
            )
        if not -1 <= parent < index:
            raise ModelError(f"{where}: expected a parent before it, of number -1..{index - 1}; got {parent}")
        if index == 0 or parent != parents[-1]:
            if parent in parents:
                raise ModelError(f"{where}: expected it beside the other children of {parent}")
            if parent >= 0:
                child[parent] = len(offsets)
            offsets.append(index)
        depth = 0 if parent < 0 else depths[parent] + 1
        if depth >= _MOST_LEVELS:
            raise ModelError(f"{where}: expected at most {_MOST_LEVELS} levels of classes")
        names.append(name.strip())
        parents.append(parent)
        depths.append(depth)
    levels = tuple(np.flatnonzero(np.array(depths) == depth) for depth in range(max(depths) + 1))
    offset = np.array(offsets, np.int64)
    size = np.diff(offset, append=len(lines))
    return Tree(path, tuple(names), np.array(parents, np.int64), offset, size, child, levels)
