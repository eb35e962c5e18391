"""Make ``sample.mp4``: photographs that slide over a plain wall, as things pass before a camera.

::

    python -m pipeline.sample.make_sample --pictures FOLDER [--output FILE]

``FOLDER`` holds the pictures of scikit-image's wheel (``skimage/data``); without it they are taken
from an installed scikit-image, which nothing else here needs. They are checked by sha256, and the
clip is a function of them alone: the same versions of OpenCV and FFmpeg give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.frame import Image
from pipeline.sample import PHOTO, SAMPLE

WIDTH, HEIGHT, FPS, SECONDS = 1280, 720, 25, 10
GOP = 50
PHOTO_FRAME = 120
BT709, LIMITED_RANGE = 1, 1
"""Codes of ITU-T H.273: players take an untagged clip of this size for BT.709, so it is that."""

FloatImage = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Key:
    """Where a card is at a time: its centre and height in pixels, its tilt in degrees."""

    seconds: float
    x: float
    y: float
    height: float
    tilt: float


@dataclass(frozen=True, slots=True)
class Card:
    """One picture, its sha256, the COCO label of what it shows, and its path; later ones lie on top."""

    file: str
    sha256: str
    label: str
    keys: tuple[Key, ...]


CARDS = (
    Card(
        "astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        "person",
        (
            Key(0.2, -300, 400, 400, -3),
            Key(1.5, 250, 385, 420, -1),
            Key(3.5, 540, 365, 460, 1),
            Key(4.9, 960, 350, 430, 2),
            Key(6.0, 1560, 340, 400, 4),
        ),
    ),
    Card(
        "coffee.png",
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
        "cup",
        (
            Key(1.3, 1000, -200, 335, 4),
            Key(2.3, 990, 210, 340, 2),
            Key(3.4, 1000, 230, 345, 0),
            Key(4.5, 1060, -220, 335, -4),
        ),
    ),
    Card(
        "chelsea.png",
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
        "cat",
        (
            Key(3.6, 290, 920, 280, 4),
            Key(4.8, 290, 500, 300, 2),
            Key(6.6, 330, 470, 310, 0),
            Key(7.6, 300, 500, 290, -2),
            Key(8.5, 210, 930, 280, -5),
        ),
    ),
    Card(
        "camera.png",
        "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
        "person",
        (
            Key(5.5, 1560, 330, 400, 3),
            Key(6.7, 1020, 335, 430, 1),
            Key(8.1, 780, 345, 460, -1),
            Key(9.7, -300, 370, 420, -4),
        ),
    ),
)

BORDER, ROUNDING, SHADOW = 0.02, 0.05, 0.06
"""White rim, radius of the corners and blur of the shadow, in heights of the picture."""


def pose(card: Card, seconds: float) -> Key | None:
    """Where the card is: a cubic Hermite spline through its keys; None before and after them."""
    times = np.array([key.seconds for key in card.keys])
    if not times[0] <= seconds <= times[-1]:
        return None
    places = np.array([(key.x, key.y, key.height, key.tilt) for key in card.keys])
    speeds = np.gradient(places, times, axis=0)
    after = int(np.clip(np.searchsorted(times, seconds), 1, len(times) - 1))
    span = times[after] - times[after - 1]
    u = (seconds - times[after - 1]) / span
    weights = np.array([2 * u**3 - 3 * u**2 + 1, u**3 - 2 * u**2 + u, 3 * u**2 - 2 * u**3, u**3 - u**2])
    x, y, height, tilt = weights @ np.stack(
        [places[after - 1], speeds[after - 1] * span, places[after], speeds[after] * span]
    )
    return Key(seconds, float(x), float(y), float(height), float(tilt))


def load(folder: Path, card: Card) -> Image:
    """The card's picture, BGR. Raises ValueError where the file is another one."""
    data = (folder / card.file).read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != card.sha256:
        raise ValueError(f"{folder / card.file}: sha256 is {found}, expected {card.sha256}")
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError(f"{folder / card.file}: OpenCV cannot read it")
    return np.asarray(picture, np.uint8)


def rounded(height: int, width: int, inset: int, size: tuple[int, int], radius: int) -> FloatImage:
    """A mask [height, width] that is 1 in a rounded rectangle of ``size``, ``inset`` from the top left."""
    rows = np.abs(np.arange(height) - inset - (size[0] - 1) / 2) - size[0] / 2 + radius
    columns = np.abs(np.arange(width) - inset - (size[1] - 1) / 2) - size[1] / 2 + radius
    distance = np.hypot(rows.clip(0)[:, None], columns.clip(0)[None, :])
    return np.asarray(np.clip(radius - distance + 0.5, 0, 1), np.float32)


def sheet(picture: Image) -> FloatImage:
    """The picture with its rim and shadow: premultiplied BGRA in 0..255 and 0..1, with a wide margin."""
    unit = picture.shape[0]
    rim, radius, blur = round(unit * BORDER), round(unit * ROUNDING), unit * SHADOW
    margin = 3 * round(blur)
    size = picture.shape[0] + 2 * rim, picture.shape[1] + 2 * rim
    height, width = size[0] + 2 * margin, size[1] + 2 * margin
    card = rounded(height, width, margin, size, radius)
    window = rounded(height, width, margin + rim, (picture.shape[0], picture.shape[1]), radius - rim)
    colour = np.full((height, width, 3), 250, np.float32)
    inside = slice(margin + rim, -margin - rim)
    colour[inside, inside] = picture
    colour = colour * window[..., None] + 250 * (1 - window[..., None])
    shadow = 0.45 * cv2.GaussianBlur(np.roll(card, round(blur / 2), axis=0), (0, 0), blur / 2)
    alpha = card + shadow * (1 - card)
    return np.dstack([colour * card[..., None], alpha]).astype(np.float32)


def wall() -> FloatImage:
    """The background: a wall lit from above and the edge of a floor, BGR in 0..255."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    light = np.exp(-(((x - WIDTH / 2) / 900) ** 2) - ((y - 180) / 620) ** 2)[..., None]
    colour = np.array([112, 100, 82], np.float32) + light * np.array([74, 74, 70], np.float32)
    floor = np.clip((y - 610) / 6, 0, 1)[..., None]
    return np.asarray(colour * (1 - 0.28 * floor), np.float32)


def compose(background: FloatImage, sheets: list[FloatImage], seconds: float) -> Image:
    """One frame of the clip, BGR."""
    canvas = background.copy()
    for card, picture in zip(CARDS, sheets, strict=True):
        at = pose(card, seconds)
        if at is None:
            continue
        rows, columns = picture.shape[:2]
        # The sheet's height is that of the picture and of what is drawn around it.
        scale = at.height * (1 + 2 * BORDER + 6 * SHADOW) / rows
        turn = cv2.getRotationMatrix2D((columns / 2, rows / 2), at.tilt, scale)
        turn[:, 2] += at.x - columns / 2, at.y - rows / 2
        layer = cv2.warpAffine(picture, turn, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
        canvas = canvas * (1 - layer[..., 3:]) + layer[..., :3]
    return np.asarray(np.clip(canvas + 0.5, 0, 255), np.uint8)


def frames(folder: Path) -> Iterator[Image]:
    """All frames of the clip, BGR."""
    background, sheets = wall(), [sheet(load(folder, card)) for card in CARDS]
    for index in range(FPS * SECONDS):
        yield compose(background, sheets, index / FPS)


def encode(pictures: Iterator[Image], output: Path) -> None:
    """H.264 in MP4 with the index first, so that a browser plays it at once."""
    # One thread and no version strings: the same bytes on every machine.
    options: dict[str, str] = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(output), "w", format="mp4", options=options) as container:
        stream: Any = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"crf": "25", "preset": "slow", "threads": "1", "flags": "+bitexact"}
        context = stream.codec_context
        context.gop_size = GOP
        context.color_range = LIMITED_RANGE
        context.colorspace = context.color_primaries = context.color_trc = BT709
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "bgr24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED_RANGE)
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def photo(clip: Path, output: Path) -> None:
    """Keep one picture of the clip, with a person and a cat in it, as a JPEG."""
    with av.open(str(clip)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index == PHOTO_FRAME:
                cv2.imwrite(str(output), frame.to_ndarray(format="bgr24"), [cv2.IMWRITE_JPEG_QUALITY, 85])


def installed_pictures() -> Path:
    """The pictures of an installed scikit-image. Raises ModuleNotFoundError."""
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("scikit-image is not installed; pass its skimage/data with --pictures")
    return Path(found.origin).parent / "data"


def main() -> None:
    """Write the clip, and the photograph that is a frame of it."""
    parser = argparse.ArgumentParser(description="Make the sample clip.")
    parser.add_argument(
        "--pictures", type=Path, help="scikit-image's skimage/data; default: the installed one"
    )
    parser.add_argument("--output", type=Path, default=SAMPLE)
    options = parser.parse_args()
    encode(frames(options.pictures or installed_pictures()), options.output)
    photo(options.output, options.output.with_name(PHOTO.name))
    print(f"{options.output}: {options.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
