"""Boxes, masks, keypoints, labels and a caption onto a picture."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.classification import short
from pipeline.detections import Detections
from pipeline.frame import Image
from pipeline.vision.glyphs import FONT, drawable

# COCO's "skeleton" of a person, its keypoints counted from 0.
_LEGS = ((15, 13), (13, 11), (16, 14), (14, 12))
_TRUNK = ((11, 12), (5, 11), (6, 12), (5, 6))
_ARMS = ((5, 7), (6, 8), (7, 9), (8, 10))
_FACE = ((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6))
_SKELETON = (*_LEGS, *_TRUNK, *_ARMS, *_FACE)
_COCO_KEYPOINTS = 17
_LEAST_VISIBLE = 0.25
"""A keypoint is drawn from here on, as in Ultralytics' pictures."""
_TINT = 4
"""Tenths of the colour in a mask's pixels."""

Color = tuple[int, int, int]
"""Blue, green, red in 0..255."""

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_CAPTION_BACKGROUND = (32, 32, 32)
# Twelve hues around the circle, neighbours in the list far apart; then again, in other shades.
_HUES = (0, 6, 3, 9, 1, 7, 4, 10, 2, 8, 5, 11)
_SHADES = ((0.85, 0.95), (0.55, 1.0), (0.95, 0.75))


def draw(image: Image, detections: Detections, *, caption: str | None = None) -> Image:
    """Draw ``detections`` onto ``image`` (uint8 [h, w, 3], BGR, writable), in place.

    Each gets its box (a rotated one its polygon), its label and its confidence in the colour of its
    class, its mask as a tint and its keypoints as dots, joined to a skeleton where they are COCO's 17; of
    what overlaps the most confident one is on top. ``caption`` goes to the top left corner. Widths
    follow the size of the picture, labels stay inside it and, where there is room, off each other; of a label
    with commas the first part is written. Letters that the font lacks are spelt out (see ``drawable``).
    Returns ``image``. Raises ValueError for another kind of array.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.flags.writeable:
        raise ValueError(
            f"expected a BGR picture to draw on, uint8 [height, width, 3], writable; got {image.dtype} "
            f"{image.shape}{'' if image.flags.writeable else ', read-only: draw on a copy'}"
        )
    style = _Style(image)
    labelled = [(box.tolist(), score, class_id, label) for box, score, class_id, label in detections]
    if detections.masks is not None:
        for index in reversed(range(len(labelled))):
            _tint(image, *detections.masks.crop(index), color_of(labelled[index][2]))
    # All boxes, then all labels: no box may strike through a label. The best one last, on top.
    if detections.polygons is None:
        for box_xyxy, _, class_id, _ in reversed(labelled):
            style.box(image, box_xyxy, color_of(class_id))
    else:
        for polygon, (_, _, class_id, _) in zip(detections.polygons[::-1], reversed(labelled), strict=True):
            cv2.polylines(image, [_places(polygon)], True, color_of(class_id), style.line)
        # A label stands on the topmost corner, which the upright box's own corner may be far from.
        tops = detections.polygons[np.arange(len(labelled)), detections.polygons[:, :, 1].argmin(axis=1)]
        labelled = [(top * 2, *rest) for top, (_, *rest) in zip(tops.tolist(), labelled, strict=True)]
    if detections.keypoints is not None:
        for points, (_, _, class_id, _) in zip(detections.keypoints[::-1], reversed(labelled), strict=True):
            style.keypoints(image, points, color_of(class_id))
    places: list[_Tab] = []
    for (box_xyxy, score, class_id, label), more in zip(labelled, _second(detections), strict=True):
        text = f"{short(label)} {score:.2f}{more}"
        places.append(style.place(box_xyxy, text, color_of(class_id), places))
    for place in reversed(places):
        style.write(image, place)
    if caption:
        style.write(image, style.tab(caption, 0, 0, _CAPTION_BACKGROUND))
    return image


def _second(detections: Detections) -> list[str]:
    """What a second model took each for, as the end of its label."""
    second = detections.second
    if second is None:
        return [""] * len(detections)
    answers = zip(second.labels, second.confidence.tolist(), strict=True)
    return ["" if label is None else f": {short(label)} {sure:.2f}" for label, sure in answers]


def _tint(image: Image, left: int, top: int, mask: NDArray[np.bool_], color: Color) -> None:
    """Mix a colour into the pixels of a mask that stands at (``left``, ``top``)."""
    part = image[top : top + mask.shape[0], left : left + mask.shape[1]]
    mask = mask[: part.shape[0], : part.shape[1]]
    pixels = part[mask].astype(np.uint16)
    part[mask] = (pixels * (10 - _TINT) + np.array(color, np.uint16) * _TINT) // 10


def _places(points: NDArray[np.float32]) -> NDArray[np.int32]:
    """Whole pixels, as OpenCV takes them; far outside of any picture they may be anywhere."""
    return np.rint(np.clip(points, -30_000, 30_000)).astype(np.int32)


@lru_cache(maxsize=4096)
def color_of(class_id: int) -> Color:
    """Return the colour of a class: the same in every run, and far from those of its neighbours."""
    turn, place = divmod(class_id, len(_HUES))
    hue = (1 / 3 + (_HUES[place] + turn % 2 / 2) / len(_HUES)) % 1.0
    saturation, value = _SHADES[turn % len(_SHADES)]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * blue), round(255 * green), round(255 * red)


def text_color(background: Color) -> Color:
    """Return black or white, whichever has the higher contrast to ``background`` (as WCAG 2 defines it)."""
    blue, green, red = ((level / 255) ** 2.2 for level in background)
    luminance = 0.0722 * blue + 0.7152 * green + 0.2126 * red
    return _BLACK if luminance > 0.179 else _WHITE


@dataclass(frozen=True, slots=True)
class _Tab:
    """A text and the rectangle behind it, its last pixels included."""

    text: str
    left: int
    top: int
    right: int
    bottom: int
    background: Color

    def covers(self, other: _Tab) -> bool:
        """Whether they have a pixel in common."""
        beside = self.right < other.left or other.right < self.left
        return not beside and self.top <= other.bottom and other.top <= self.bottom


class _Style:
    """Widths and font size for a picture; positions in its pixels."""

    def __init__(self, image: Image) -> None:
        self.height, self.width = image.shape[:2]
        side = min(self.height, self.width)
        self.line = max(1, round(side / 400))
        self.scale = max(0.38, side / 1500)
        self.stroke = max(1, round(self.scale * 1.6))
        (_, capital), below = cv2.getTextSize("Hg", FONT, self.scale, self.stroke)
        self.pad = max(2, round(0.3 * capital))
        self.ascent, self.tab_height = capital, capital + below + 2 * self.pad

    def box(self, image: Image, box_xyxy: list[float], color: Color) -> None:
        """Draw a rectangle whose line lies inside the picture."""
        left, top, right, bottom = self._pixels(box_xyxy)
        cv2.rectangle(image, (left, top), (right, bottom), color, self.line)

    def keypoints(self, image: Image, points: NDArray[np.float32], color: Color) -> None:
        """Draw the dots of one object, [K, 3], and its bones below them."""
        places = _places(points[:, :2]).tolist()
        seen = (points[:, 2] >= _LEAST_VISIBLE).tolist()
        for start, end in _SKELETON if len(places) == _COCO_KEYPOINTS else ():
            if seen[start] and seen[end]:
                cv2.line(image, places[start], places[end], color, self.line, cv2.LINE_AA)
        for place, shown in zip(places, seen, strict=True):
            if shown:
                cv2.circle(image, place, 2 * self.line + 1, _WHITE, cv2.FILLED, cv2.LINE_AA)
                cv2.circle(image, place, 2 * self.line, color, cv2.FILLED, cv2.LINE_AA)

    def place(self, box_xyxy: list[float], text: str, color: Color, taken: Sequence[_Tab]) -> _Tab:
        """Return where a box's label goes: above it, or else where it covers none of those ``taken``.

        Neighbours of one class, whose labels have one colour, could not be told apart.
        """
        left, top, _, bottom = self._pixels(box_xyxy)
        overhang = self.line // 2
        above, inside, below = top - overhang - self.tab_height, top + self.line, bottom + overhang + 1
        first: _Tab | None = None
        for place in (above, inside, below, bottom - self.line - self.tab_height):
            tab = self.tab(text, left - overhang, place, color)
            if not any(tab.covers(other) for other in taken):
                return tab
            first = first or tab
        assert first is not None
        return first

    def tab(self, text: str, left: int, top: int, background: Color) -> _Tab:
        """Return a label moved (and its text cut, as a last resort) to be inside the picture."""
        text, width = self._fit(drawable(text))
        left = max(0, min(left, self.width - width - 2 * self.pad))
        top = max(0, min(top, self.height - self.tab_height))
        right = min(left + width + 2 * self.pad, self.width) - 1
        return _Tab(text, left, top, right, top + self.tab_height - 1, background)

    def write(self, image: Image, tab: _Tab) -> None:
        """Write text on a filled rectangle."""
        cv2.rectangle(image, (tab.left, tab.top), (tab.right, tab.bottom), tab.background, cv2.FILLED)
        origin = (tab.left + self.pad, tab.top + self.pad + self.ascent)
        ink = text_color(tab.background)
        cv2.putText(image, tab.text, origin, FONT, self.scale, ink, self.stroke, cv2.LINE_AA)

    def _fit(self, text: str) -> tuple[str, int]:
        """Return as much of ``text`` as the picture is wide, and its width."""
        room = self.width - 2 * self.pad
        width = self._width(text)
        while width > room and len(text) > 1:
            # In proportion, at least one character at a time.
            text = text[: max(1, min(len(text) - 1, len(text) * room // width))]
            width = self._width(text)
        return text, width

    def _width(self, text: str) -> int:
        return int(cv2.getTextSize(text, FONT, self.scale, self.stroke)[0][0])

    def _pixels(self, box_xyxy: list[float]) -> tuple[int, int, int, int]:
        left, top, right, bottom = (round(edge) for edge in box_xyxy)
        right, bottom = min(right, self.width - 1), min(bottom, self.height - 1)
        return max(0, min(left, right)), max(0, min(top, bottom)), right, bottom
