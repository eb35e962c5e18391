"""What Darknet itself and OpenCV's importer answer, recorded for tests/test_convert_authors.py.

Debian's package ``darknet`` 0.0.0+git20180914 (pjreddie's Darknet, its libdarknet.so), and OpenCV
4.14 (``cv2.dnn.readNetFromDarknet``, which OpenCV 5 no longer has). Needs: apt-get install darknet; an
environment with numpy and opencv-python-headless<5. In it, from this folder:

    python darknet.py record MODELS     writes darknet.npz; MODELS is the folder with the real
                                        yolo-fastest-1.1.cfg and .weights
    python darknet.py full CFG... -o F  random weights for whole cfg files, and what libdarknet answers
                                        to a random picture, each as F/NAME.{cfg,weights,npz}

Darknet keeps its own licence; nothing of it is in this file but the names of its functions.
"""

from __future__ import annotations

import ctypes
import sys
import tempfile
from pathlib import Path

import numpy as np
from darknet_nets import KNOWN, NETS
from darknet_reference import Network, blocks, random_weights, weights_file

LIBRARY = "/usr/lib/darknet/libdarknet.so"
SEED = 11


class Box(ctypes.Structure):
    _fields_ = [(name, ctypes.c_float) for name in "xywh"]


class Detection(ctypes.Structure):
    _fields_ = [
        ("bbox", Box),
        ("classes", ctypes.c_int),
        ("prob", ctypes.POINTER(ctypes.c_float)),
        ("mask", ctypes.POINTER(ctypes.c_float)),
        ("objectness", ctypes.c_float),
        ("sort_class", ctypes.c_int),
    ]


def darknet(cfg: Path, weights: Path, picture: np.ndarray, classes: int | None) -> np.ndarray:
    """Rows (cx, cy, w, h as fractions, class scores) of every box with an objectness above 0.

    With ``classes`` None: as many values as the network's last layer has, of which the caller knows.
    """
    lib = ctypes.CDLL(LIBRARY)
    lib.load_network.restype = ctypes.c_void_p
    lib.load_network.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int]
    lib.network_predict.restype = ctypes.POINTER(ctypes.c_float)
    lib.network_predict.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    lib.get_network_boxes.restype = ctypes.POINTER(Detection)
    lib.get_network_boxes.argtypes = [
        ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_float, ctypes.c_float, ctypes.c_void_p,
        ctypes.c_int, ctypes.POINTER(ctypes.c_int),
    ]  # fmt: skip
    lib.network_outputs.argtypes = [ctypes.c_void_p]
    net = lib.load_network(str(cfg).encode(), str(weights).encode(), 0)
    lib.set_batch_network(ctypes.c_void_p(net), 1)
    blob = np.ascontiguousarray(picture, np.float32)
    answer = lib.network_predict(net, blob.ctypes.data)
    if classes is None:
        return np.ctypeslib.as_array(answer, (lib.network_outputs(net),)).copy()
    count = ctypes.c_int()
    # The input's own size leaves the boxes as they are.
    found = lib.get_network_boxes(
        net, picture.shape[2], picture.shape[1], 0.0, 0.0, None, 1, ctypes.byref(count)
    )
    rows = [
        [found[i].bbox.x, found[i].bbox.y, found[i].bbox.w, found[i].bbox.h, *found[i].prob[:classes]]
        for i in range(count.value)
    ]
    table = np.array(rows, np.float32)
    if "[detection]" in cfg.read_text():
        # YOLOv1's boxes come in pixels whatever is asked for.
        table[:, :4] /= np.array([picture.shape[2], picture.shape[1]] * 2, np.float32)
    return table


def opencv(cfg: Path, weights: Path, picture: np.ndarray) -> np.ndarray:
    """Rows (cx, cy, w, h as fractions, class scores); a score under OpenCV's own threshold is 0."""
    import cv2

    net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    net.setInput(np.ascontiguousarray(picture[None], np.float32))
    rows = np.concatenate(net.forward(net.getUnconnectedOutLayersNames()))
    return np.delete(rows, 4, axis=1)


def best(rows: np.ndarray) -> np.ndarray:
    """Every tenth box with its best score and that class: [N, 6]."""
    rows = rows[::10]
    kind = rows[:, 4:].argmax(axis=1)
    return np.column_stack([rows[:, :4], rows[np.arange(len(rows)), 4 + kind], kind]).astype(np.float32)


def record(models: Path) -> None:
    out = {}
    cfg, weights = models / "yolo-fastest-1.1.cfg", models / "yolo-fastest-1.1.weights"
    picture = blocks(320)
    out["yolo-fastest/opencv"] = best(opencv(cfg, weights, picture))
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / "n.cfg"
        alone.write_text(single(cfg.read_text()))
        out["yolo-fastest/darknet"] = best(darknet(alone, weights, picture, 80))
    for name, programs in KNOWN.items():
        text = NETS[name]
        network = Network(text)
        options = network.layers[-1][1]
        classes = int(options["classes"]) if "classes" in options else None
        picture = np.random.RandomState(SEED).uniform(0, 1, network.input_shape).astype(np.float32)
        with tempfile.TemporaryDirectory() as folder:
            cfg, weights = Path(folder) / "n.cfg", Path(folder) / "n.weights"
            cfg.write_text(text)
            weights.write_bytes(weights_file(random_weights(text, SEED)))
            for program in programs:
                if program == "darknet":
                    out[f"{name}/darknet"] = darknet(cfg, weights, picture, classes)
                else:
                    out[f"{name}/opencv"] = opencv(cfg, weights, picture)
                print(name, program, out[f"{name}/{program}"].shape)
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **out)


def full(cfgs: list[Path], folder: Path) -> None:
    """Weights at random for whole networks: the shapes come from the cfg, the values from a seed."""
    for path in cfgs:
        text = path.read_text()
        network = SizesOnly(text)
        values = network.weights(SEED)
        weights = folder / f"{path.stem}.weights"
        weights.write_bytes(weights_file(values))
        (folder / path.name).write_text(single(text))
        picture = np.random.RandomState(SEED).uniform(0, 1, network.input_shape).astype(np.float32)
        answer = darknet(folder / path.name, weights, picture, network.classes)
        np.savez_compressed(folder / f"{path.stem}.npz", picture=picture, darknet=answer)
        print(path.stem, answer.shape, flush=True)


def single(text: str) -> str:
    """The cfg with a batch of 1, so that Darknet takes memory for one picture."""
    lines = []
    for line in text.splitlines():
        key = line.replace(" ", "").split("=")[0]
        lines.append(f"{key}=1" if key in ("batch", "subdivisions") else line)
    return "\n".join(lines) + "\n"


class SizesOnly(Network):
    """The walk of the reference without its arithmetic: empty maps of the right shape."""

    def weights(self, seed: int) -> np.ndarray:
        generator = np.random.RandomState(seed)
        drawn: list[np.ndarray] = []
        self.classes = None
        shape, shapes = self.input_shape, []
        # What shortcuts add up must not run away, or nothing is left to compare.
        gain = 1.3 if any(kind == "shortcut" for kind, _ in self.layers) else 2.2

        def take(what: str, *sizes: int) -> None:
            values = generator.uniform(-1, 1, sizes).astype(np.float32)
            if what == "weight":
                values *= gain / np.sqrt(np.prod(sizes) / sizes[0])
            elif what in ("scale", "variance"):
                values = 1 + 0.5 * values
            else:
                values *= 0.1
            drawn.append(values.ravel())

        for number, (kind, options) in enumerate(self.layers):
            get = lambda key, default, options=options: int(options.get(key, default))  # noqa: E731
            c, h, w = shape
            size, stride, n = get("size", 1), get("stride", 1), get("filters", 1)
            norm = ("scale", "mean", "variance") if get("batch_normalize", 0) else ()
            if kind == "convolutional":
                pad = size // 2 if get("pad", 0) else get("padding", 0)
                for what in ("bias", *norm):
                    take(what, n)
                take("weight", n, c // get("groups", 1), size, size)
                shape = (n, (h + 2 * pad - size) // stride + 1, (w + 2 * pad - size) // stride + 1)
            elif kind == "connected":
                take("bias", get("output", 1))
                take("weight", get("output", 1), c * h * w)
                for what in norm:
                    take(what, get("output", 1))
                shape = (get("output", 1), 1, 1)
            elif kind == "local":
                h, w = ((side - (1 if get("pad", 0) else size)) // stride + 1 for side in (h, w))
                take("bias", n, h, w)
                # The fan-in of each place.
                before = len(drawn)
                take("weight", h * w * n, c * size * size)
                assert len(drawn) == before + 1
                shape = (n, h, w)
            elif kind == "maxpool":
                size = get("size", stride)
                padding = get("padding", size - 1)
                shape = (c, (h + padding - size) // stride + 1, (w + padding - size) // stride + 1)
            elif kind == "avgpool":
                shape = (c, 1, 1)
            elif kind == "crop":
                shape = (c, get("crop_height", 1), get("crop_width", 1))
            elif kind == "upsample":
                shape = (c, h * get("stride", 2), w * get("stride", 2))
            elif kind == "reorg":
                shape = (c * stride * stride, h // stride, w // stride)
            elif kind == "route":
                taken = [
                    shapes[int(i) if int(i) >= 0 else number + int(i)] for i in options["layers"].split(",")
                ]
                shape = (sum(one[0] for one in taken), *taken[0][1:])
            elif kind in ("yolo", "region", "detection"):
                self.classes = get("classes", 20)
            elif kind not in ("shortcut", "softmax", "dropout", "cost"):
                raise SystemExit(f"{kind} is not known here")
            shapes.append(shape)
        return np.concatenate(drawn)


if __name__ == "__main__":
    if sys.argv[1:2] == ["record"] and len(sys.argv) == 3:
        record(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["full"] and sys.argv[-2:-1] == ["-o"]:
        full([Path(path) for path in sys.argv[2:-2]], Path(sys.argv[-1]))
    else:
        raise SystemExit(__doc__)
