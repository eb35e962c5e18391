"""Darknet's layers written apart, as plainly as they can be: a second implementation, for the tests.

Pictures are [c, h, w] float64, one at a time; weights come from a function that is asked for them in
the order of the file, so that random files are made by the same walk that reads them. It knows
nothing of ``pipeline.convert``. NumPy alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Take = Callable[..., np.ndarray]


def parse(text: str) -> list[tuple[str, dict[str, str]]]:
    sections: list[tuple[str, dict[str, str]]] = []
    for line in text.splitlines():
        line = line.split("#")[0].replace(" ", "")
        if line.startswith("["):
            sections.append((line[1:-1], {}))
        elif line:
            key, value = line.split("=")
            sections[-1][1].setdefault(key, value)
    return sections


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def plse(x):
    return np.where(x < -4, 0.01 * (x + 4), np.where(x > 4, 0.01 * (x - 4) + 1, 0.125 * x + 0.5))


ACTIVATIONS = {
    "linear": lambda x: x,
    "logistic": sigmoid,
    "loggy": lambda x: 2 / (1 + np.exp(-x)) - 1,
    "relu": lambda x: x * (x > 0),
    "relu6": lambda x: np.minimum(np.maximum(x, 0), 6),
    "elu": lambda x: np.where(x >= 0, x, np.exp(np.minimum(x, 0)) - 1),
    "selu": lambda x: np.where(x >= 0, 1.0507 * x, 1.0507 * 1.6732 * (np.exp(np.minimum(x, 0)) - 1)),
    "relie": lambda x: np.where(x > 0, x, 0.01 * x),
    "ramp": lambda x: x * (x > 0) + 0.1 * x,
    "leaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "tanh": np.tanh,
    "plse": plse,
    "hardtan": lambda x: np.clip(x, -1, 1),
    "lhtan": lambda x: np.where(x < 0, 0.001 * x, np.where(x > 1, 0.001 * (x - 1) + 1, x)),
    "swish": lambda x: x * sigmoid(x),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "hard_mish": lambda x: np.where(x > 0, x, np.where(x > -2, x * x / 2 + x, 0)),
}


def softmax(x):
    weights = np.exp(x - x.max())
    return weights / weights.sum()


class Network:
    """``heads`` after a run: rows (cx, cy, w, h as fractions of the input, objectness, class scores…)."""

    def __init__(self, cfg: str) -> None:
        (_, self.net), *self.layers = parse(cfg)
        self.input_shape = (3, int(self.net["height"]), int(self.net["width"]))

    def run(self, picture: np.ndarray, take: Take, transposed: bool = False) -> np.ndarray:
        self.heads: list[np.ndarray] = []
        self.outputs: list[np.ndarray] = []
        self.transposed = transposed
        x = picture.astype(np.float64)
        for number, (kind, options) in enumerate(self.layers):
            x = getattr(self, kind)(x, options, take, number)
            self.outputs.append(x)
        return x

    @staticmethod
    def _norm(options, take, count):
        """Scale, mean, variance as they come; a function of values and channel."""
        if not int(options.get("batch_normalize", 0)):
            return lambda value, _channel: value
        scale, mean, variance = take("scale", count), take("mean", count), take("variance", count)
        return lambda value, i: scale[i] * (value - mean[i]) / (math.sqrt(variance[i]) + 1e-6)

    def convolutional(self, x, options, take, number):
        get = lambda key, default: int(options.get(key, default))  # noqa: E731
        n, size, groups = get("filters", 1), get("size", 1), get("groups", 1)
        stride_y, stride_x = (get(f"stride_{axis}", get("stride", 1)) for axis in "yx")
        dilation = get("dilation", 1)
        pad = (size // 2 if get("pad", 0) else get("padding", 0)) * dilation
        c = x.shape[0] // groups
        bias = take("bias", n)
        norm = self._norm(options, take, n)
        if get("flipped", 0):
            kernel = take("weight", c * size * size, n).T.reshape(n, c, size, size)
        else:
            kernel = take("weight", n, c, size, size)
        padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
        reach = dilation * (size - 1) + 1
        rows = (padded.shape[1] - reach) // stride_y + 1
        columns = (padded.shape[2] - reach) // stride_x + 1
        out = np.zeros((n, rows, columns))
        for f in range(n):
            group = padded[f // (n // groups) * c :][:c]
            for i in range(rows):
                for j in range(columns):
                    top, left = i * stride_y, j * stride_x
                    window = group[:, top : top + reach : dilation, left : left + reach : dilation]
                    out[f, i, j] = norm((window * kernel[f]).sum(), f) + bias[f]
        return ACTIVATIONS[options.get("activation", "logistic")](out)

    def connected(self, x, options, take, number):
        n = int(options.get("output", 1))
        bias = take("bias", n)
        matrix = take("weight", x.size, n).T if self.transposed else take("weight", n, x.size)
        norm = self._norm(options, take, n)
        values = [norm(float(matrix[i] @ x.ravel()), i) + bias[i] for i in range(n)]
        return ACTIVATIONS[options.get("activation", "logistic")](np.array(values)).reshape(n, 1, 1)

    def local(self, x, options, take, number):
        n, size, stride = (int(options.get(key, 1)) for key in ("filters", "size", "stride"))
        pad = int(options.get("pad", 0))
        rows, columns = ((side - (1 if pad else size)) // stride + 1 for side in x.shape[1:])
        bias = take("bias", n, rows, columns)
        kernel = take("weight", rows, columns, n, x.shape[0], size, size)
        padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
        out = bias.astype(np.float64)
        for i in range(rows):
            for j in range(columns):
                window = padded[:, i * stride : i * stride + size, j * stride : j * stride + size]
                out[:, i, j] += (kernel[i, j] * window).sum(axis=(1, 2, 3))
        return ACTIVATIONS[options.get("activation", "logistic")](out)

    def batchnorm(self, x, options, take, number):
        norm = self._norm({"batch_normalize": "1"}, take, x.shape[0])
        return np.stack([norm(x[i], i) for i in range(x.shape[0])])

    def _pool(self, x, options, reduce):
        stride = int(options.get("stride", 1))
        stride_y, stride_x = (int(options.get(f"stride_{axis}", stride)) for axis in "yx")
        size = int(options.get("size", stride))
        padding = int(options.get("padding", size - 1))
        rows = (x.shape[1] + padding - size) // stride_y + 1
        columns = (x.shape[2] + padding - size) // stride_x + 1
        out = np.zeros((x.shape[0], rows, columns))
        for i in range(rows):
            for j in range(columns):
                top, left = i * stride_y - padding // 2, j * stride_x - padding // 2
                window = x[:, max(0, top) : top + size, max(0, left) : left + size]
                out[:, i, j] = reduce(window, axis=(1, 2))
        return out

    def maxpool(self, x, options, take, number):
        return self._pool(x, options, np.max)

    def local_avgpool(self, x, options, take, number):
        return self._pool(x, options, np.mean)

    def avgpool(self, x, options, take, number):
        return x.mean(axis=(1, 2)).reshape(-1, 1, 1)

    def _layers(self, text, number):
        return [self.outputs[int(i) if int(i) >= 0 else number + int(i)] for i in text.split(",")]

    def route(self, x, options, take, number):
        groups, group = int(options.get("groups", 1)), int(options.get("group_id", 0))
        return np.concatenate(
            [np.split(part, groups)[group] for part in self._layers(options["layers"], number)]
        )

    def shortcut(self, x, options, take, number):
        out = x.copy()
        for other in self._layers(options["from"], number):
            step = max(1, other.shape[2] // x.shape[2])
            for k in range(min(x.shape[0], other.shape[0])):
                out[k] += float(options.get("beta", 1)) * other[k, ::step, ::step]
        return ACTIVATIONS[options.get("activation", "linear")](out)

    def upsample(self, x, options, take, number):
        stride = int(options.get("stride", 2))
        return float(options.get("scale", 1)) * x.repeat(stride, axis=1).repeat(stride, axis=2)

    def reorg(self, x, options, take, number):
        """The loop of indices, over flat memory."""
        c, h, w = x.shape
        s = int(options.get("stride", 1))
        few, flat, out = c // (s * s), x.ravel(), np.zeros(x.size)
        for k in range(c):
            for j in range(h):
                for i in range(w):
                    inner = i + w * (j + h * k)
                    place, plane = divmod(k, few)
                    outer = (i * s + place % s) + w * s * ((j * s + place // s) + h * s * plane)
                    if int(options.get("reverse", 0)):
                        out[outer] = flat[inner]
                    else:
                        out[inner] = flat[outer]
        if int(options.get("reverse", 0)):
            return out.reshape(few, h * s, w * s)
        return out.reshape(c * s * s, h // s, w // s)

    def softmax(self, x, options, take, number):
        groups = np.split(x.ravel() / float(options.get("temperature", 1)), int(options.get("groups", 1)))
        return np.concatenate([softmax(group) for group in groups])

    def crop(self, x, options, take, number):
        h, w = int(options["crop_height"]), int(options["crop_width"])
        top, left = (x.shape[1] - h) // 2, (x.shape[2] - w) // 2
        middle = x[:, top : top + h, left : left + w]
        return middle if int(options.get("noadjust", 0)) else 2 * middle - 1

    def activation(self, x, options, take, number):
        return ACTIVATIONS[options["activation"]](x)

    def dropout(self, x, options, take, number):
        return x

    cost = dropout

    def sam(self, x, options, take, number):
        return ACTIVATIONS[options.get("activation", "linear")](x * self._layers(options["from"], number)[0])

    scale_channels = sam

    def _grid(self, x, options, anchors, activate):
        """Rows of a head whose map holds, for each anchor, x, y, w, h, objectness, classes."""
        rows, columns = x.shape[1:]
        count = 5 + int(options.get("classes", 20))
        for a, (pw, ph) in enumerate(anchors):
            for i in range(rows):
                for j in range(columns):
                    values = x[a * count : (a + 1) * count, i, j]
                    self._heads_now.append(activate(values, i, j, rows, columns, pw, ph))

    def yolo(self, x, options, take, number):
        numbers = np.array([float(t) for t in options["anchors"].split(",")]).reshape(-1, 2)
        mask = [int(t) for t in options["mask"].split(",")]
        scale, plain = float(options.get("scale_x_y", 1)), int(options.get("new_coords", 0))
        _, height, width = self.input_shape

        def row(values, i, j, rows, columns, pw, ph):
            at = values if plain else sigmoid(values)
            cx = (j + scale * at[0] - (scale - 1) / 2) / columns
            cy = (i + scale * at[1] - (scale - 1) / 2) / rows
            w, h = 4 * values[2:4] ** 2 if plain else np.exp(values[2:4])
            return np.array([cx, cy, w * pw / width, h * ph / height, at[4], *(at[4] * at[5:])])

        self._heads_now: list[np.ndarray] = []
        self._grid(x, options, numbers[mask], row)
        self.heads.append(np.array(self._heads_now))
        return x

    def Gaussian_yolo(self, x, options, take, number):
        numbers = [float(t) for t in options["anchors"].split(",")]
        scale, (_, height, width) = float(options.get("scale_x_y", 1)), self.input_shape
        _, rows, columns = x.shape
        found = []
        for k, anchor in enumerate(int(t) for t in options["mask"].split(",")):
            pw, ph = numbers[2 * anchor : 2 * anchor + 2]
            part = x[k * (9 + int(options["classes"])) :][: 9 + int(options["classes"])]
            for i in range(rows):
                for j in range(columns):
                    x0, dx, y0, dy, w, dw, h, dh, objectness, *kinds = part[:, i, j]
                    unsure = sum(sigmoid(spread) for spread in (dx, dy, dw, dh)) / 4
                    cx = (j + scale * sigmoid(x0) - (scale - 1) / 2) / columns
                    cy = (i + scale * sigmoid(y0) - (scale - 1) / 2) / rows
                    sure = sigmoid(objectness) * (1 - unsure)
                    box = [cx, cy, math.exp(w) * pw / width, math.exp(h) * ph / height]
                    found.append([*box, sigmoid(objectness), *(sure * sigmoid(kind) for kind in kinds)])
        self.heads.append(np.array(found))
        return x

    def region(self, x, options, take, number):
        numbers = np.array([float(t) for t in options["anchors"].split(",")]).reshape(-1, 2)

        def row(values, i, j, rows, columns, pw, ph):
            x0, y0, objectness = sigmoid(values[[0, 1, 4]])
            w, h = np.exp(values[2:4]) * (pw / columns, ph / rows)
            kinds = softmax(values[5:]) if int(options.get("softmax", 0)) else sigmoid(values[5:])
            return np.array([(j + x0) / columns, (i + y0) / rows, w, h, objectness, *(objectness * kinds)])

        self._heads_now = []
        self._grid(x, options, numbers[: int(options["num"])], row)
        self.heads.append(np.array(self._heads_now))
        return x

    def detection(self, x, options, take, number):
        side, n, classes = (int(options[key]) for key in ("side", "num", "classes"))
        flat, found = x.ravel(), []
        for k in range(n):
            for cell in range(side * side):
                kinds = flat[cell * classes : (cell + 1) * classes]
                if int(options.get("softmax", 0)):
                    kinds = softmax(kinds)
                objectness = flat[side * side * classes + cell * n + k]
                x0, y0, w, h = flat[side * side * (classes + n) + (cell * n + k) * 4 :][:4]
                if int(options.get("sqrt", 0)):
                    w, h = w * w, h * h
                box = [(x0 + cell % side) / side, (y0 + cell // side) / side, w, h]
                found.append(np.array([*box, objectness, *(objectness * kinds)]))
        self.heads.append(np.array(found))
        return x


def random_weights(cfg: str, seed: int) -> np.ndarray:
    """Values for a weights file, such that what a layer answers is about as large as what it is asked."""
    generator = np.random.RandomState(seed)
    drawn: list[np.ndarray] = []

    def take(what, *shape):
        values = generator.uniform(-1, 1, shape)
        if what == "weight":
            values *= 2.2 / math.sqrt(np.prod(shape) / shape[0])
        elif what == "scale":
            values = 1 + 0.5 * values
        elif what == "variance":
            values = 1 + 0.7 * values
        else:
            values *= 0.3
        drawn.append(values.astype(np.float32))
        return drawn[-1].astype(np.float64)

    network = Network(cfg)
    network.run(np.zeros(network.input_shape), take)
    return np.concatenate([values.ravel() for values in drawn])


def tree_weights(cfg: str, seed: int) -> np.ndarray:
    """The same for a network with a tree, whose last weights are such that classes differ from box to box."""
    values = random_weights(cfg.replace("tree=", "# "), seed)
    values[-300:] *= 3
    return values


def contrasts(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """A picture of noise that is no average grey to a convolution: float32."""
    return np.random.RandomState(seed).normal(0, 2, shape).astype(np.float32)


def reader(values: np.ndarray) -> Take:
    """Return a function that hands out ``values`` in their order."""
    place = 0

    def take(what, *shape):
        nonlocal place
        count = int(np.prod(shape))
        part = values[place : place + count].reshape(shape).astype(np.float64)
        place += count
        return part

    return take


def weights_file(values: np.ndarray, version: tuple[int, int, int] = (0, 2, 5), seen: int = 12345) -> bytes:
    """Return a weights file of a version: 64 bits of ``seen`` from 0.2 on, 32 before and above 1000."""
    wide = version[0] * 10 + version[1] >= 2 and max(version[:2]) < 1000
    header = np.array(version, "<i4").tobytes() + seen.to_bytes(8 if wide else 4, "little")
    return header + values.astype("<f4").tobytes()


def blocks(side: int) -> np.ndarray:
    """A picture [3, side, side] of 8 × 8 blocks of colours: something to look at that needs no file."""
    colours = np.random.RandomState(11).uniform(0, 1, (3, 8, 8)).astype(np.float32)
    return colours.repeat(side // 8, axis=1).repeat(side // 8, axis=2)
