"""What Darknet itself makes of a tree of classes, recorded for tests/test_convert_tree.py.

Debian's package ``darknet`` 0.0.0+git20180914 (pjreddie's Darknet, its libdarknet.so). Needs: apt-get
install darknet; an environment with numpy. In it, from this folder:

    python darknet_tree.py record       writes darknet_tree.npz
    python darknet_tree.py full -o F    yolo9000.cfg and darknet9000.cfg with random weights and the real
                                        9k.tree, and what libdarknet answers to a random picture, each as
                                        F/NAME.{cfg,weights,npz}

Without a GPU, ``forward_region_layer`` divides by a temperature of 0 where there is a tree, so that its
answers are NaN, and mixes up the places of its values. So the network runs in the library up to the
[region]; each group of siblings goes through the library's own ``softmax_cpu`` as ``softmax_tree`` does it on
a GPU; that is put where the layer has its output, and ``get_network_boxes`` does the rest.

A classifier's forward pass has no such fault; ``hierarchy_predictions`` follows as in ``darknet
classifier predict``, for the leaves only.
"""

from __future__ import annotations

import ctypes
import sys
import tempfile
from pathlib import Path

import numpy as np
from darknet import LIBRARY, SEED, Detection, SizesOnly, single
from darknet_nets import TREE, TREE_NETS
from darknet_reference import Network, contrasts, parse, tree_weights, weights_file

SHARE = Path("/usr/share/darknet")
THRESHOLDS = (0.02, 0.2, 0.5)


class Tree(ctypes.Structure):
    """``tree`` of darknet.h, as far as it is read here."""

    _fields_ = [
        ("leaf", ctypes.POINTER(ctypes.c_int)),
        ("n", ctypes.c_int),
        ("parent", ctypes.POINTER(ctypes.c_int)),
        ("child", ctypes.POINTER(ctypes.c_int)),
        ("group", ctypes.POINTER(ctypes.c_int)),
        ("name", ctypes.c_void_p),
        ("groups", ctypes.c_int),
        ("group_size", ctypes.POINTER(ctypes.c_int)),
        ("group_offset", ctypes.POINTER(ctypes.c_int)),
    ]


def library() -> ctypes.CDLL:
    lib = ctypes.CDLL(LIBRARY)
    void, number = ctypes.c_void_p, ctypes.c_int
    lib.load_network.restype = void
    lib.load_network.argtypes = [ctypes.c_char_p, ctypes.c_char_p, number]
    lib.set_batch_network.argtypes = [void, number]
    lib.network_predict.restype = void
    lib.network_predict.argtypes = [void, void]
    lib.network_outputs.argtypes = [void]
    lib.read_tree.restype = ctypes.POINTER(Tree)
    lib.read_tree.argtypes = [ctypes.c_char_p]
    lib.hierarchy_predictions.argtypes = [void, number, ctypes.POINTER(Tree), number, number]
    lib.softmax_cpu.argtypes = [void, *[number] * 6, ctypes.c_float, void]
    lib.get_network_boxes.restype = ctypes.POINTER(Detection)
    lib.get_network_boxes.argtypes = [
        void, number, number, ctypes.c_float, ctypes.c_float, void, number, ctypes.POINTER(number),
    ]  # fmt: skip
    return lib


def load(lib: ctypes.CDLL, cfg: Path, weights: Path, picture: np.ndarray) -> tuple[int, np.ndarray]:
    """The network, and a view of what it answers, in its own memory."""
    net = lib.load_network(str(cfg).encode(), str(weights).encode(), 0)
    lib.set_batch_network(net, 1)
    answer = lib.network_predict(net, np.ascontiguousarray(picture, np.float32).ctypes.data)
    return net, np.ctypeslib.as_array(
        ctypes.cast(answer, ctypes.POINTER(ctypes.c_float)), (lib.network_outputs(net),)
    )


def detector(cfg: Path, weights: Path, tree: Path, picture: np.ndarray) -> np.ndarray:
    """Rows (cx, cy, w, h as fractions, objectness, class), a block for each of THRESHOLDS."""
    lib = library()
    hierarchy = lib.read_tree(str(tree).encode()).contents
    before = cfg.with_name(f"before-{cfg.name}")
    before.write_text(cfg.read_text().partition("[region]")[0])
    raw = load(lib, before, weights, picture)[1].copy()
    (_, options) = parse(cfg.read_text())[-1]
    count = int(options["num"])
    maps = raw.reshape(count, 5 + hierarchy.n, -1)
    cells = maps.shape[2]
    activated = maps.copy()
    for row in (0, 1, 4):
        activated[:, row] = 1 / (1 + np.exp(-maps[:, row].astype(np.float64)))
    for anchor in range(count):
        for group in range(hierarchy.groups):
            first = 5 + hierarchy.group_offset[group]
            lib.softmax_cpu(
                maps[anchor, first:].ctypes.data, hierarchy.group_size[group], 1, 0, cells, 1, cells, 1.0,
                activated[anchor, first:].ctypes.data,
            )  # fmt: skip
    net, output = load(lib, cfg, weights, picture)
    blocks = []
    for threshold in THRESHOLDS:
        # The call multiplies in place.
        output[:] = activated.ravel()
        found_count = ctypes.c_int()
        found = lib.get_network_boxes(
            net, picture.shape[2], picture.shape[1], 0.0, threshold, None, 1, ctypes.byref(found_count)
        )
        rows = []
        for i in range(found_count.value):
            box, scores = found[i].bbox, np.ctypeslib.as_array(found[i].prob, (hierarchy.n,))
            (kind,) = np.flatnonzero(scores)
            assert found[i].objectness == scores[kind]
            rows.append([box.x, box.y, box.w, box.h, scores[kind], kind])
        blocks.append(rows)
    return np.array(blocks, np.float32)


def classifier(cfg: Path, weights: Path, tree: Path, picture: np.ndarray) -> np.ndarray:
    """The probability of each leaf, 0 of what is above: [classes]."""
    lib = library()
    hierarchy = lib.read_tree(str(tree).encode())
    _, output = load(lib, cfg, weights, picture)
    lib.hierarchy_predictions(output.ctypes.data, output.size, hierarchy, 1, 1)
    return output.copy()


PROGRAMS = {"region": detector, "softmax": classifier}


def record() -> None:
    out = {}
    for name, program in PROGRAMS.items():
        with tempfile.TemporaryDirectory() as folder:
            cfg, weights, tree = (Path(folder) / part for part in ("n.cfg", "n.weights", "n.tree"))
            # Darknet opens the file of map=, though only training uses it.
            text = TREE_NETS[name].format(tree=tree).replace("map = ", "# ")
            tree.write_text(TREE)
            cfg.write_text(text)
            weights.write_bytes(weights_file(tree_weights(text, SEED)))
            out[name] = program(cfg, weights, tree, contrasts(Network(text).input_shape, SEED))
        print(name, out[name].shape)
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **out)


def full(folder: Path) -> None:
    for name, program in (("yolo9000", detector), ("darknet9000", classifier)):
        text = single((SHARE / "cfg" / f"{name}.cfg").read_text())
        cfg, weights = folder / f"{name}.cfg", folder / f"{name}.weights"
        cfg.write_text(text)
        network = SizesOnly(text)
        values = network.weights(SEED)
        # Of the last layer, such that classes differ from box to box.
        values[-1024 * 9418 :] *= 8
        weights.write_bytes(weights_file(values))
        picture = np.random.RandomState(SEED).uniform(0, 1, network.input_shape).astype(np.float32)
        answer = program(cfg, weights, SHARE / "data" / "9k.tree", picture)
        np.savez_compressed(folder / f"{name}.npz", picture=picture, darknet=answer)
        print(name, answer.shape, flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["record"]:
        record()
    elif sys.argv[1:3] == ["full", "-o"] and len(sys.argv) == 4:
        full(Path(sys.argv[3]))
    else:
        raise SystemExit(__doc__)
