"""Which characters OpenCV can draw, and what to write instead of the others."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import cv2
import numpy as np

from pipeline.frame import Image

FONT = cv2.FONT_HERSHEY_SIMPLEX
# Letters that Unicode does not decompose into a plain one and a mark.
_PLAIN = str.maketrans({"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l"})


@lru_cache(maxsize=4096)
def drawable(text: str) -> str:
    """Return ``text`` in characters that OpenCV's font has, so that none becomes a question mark.

    OpenCV 5 has Latin, Greek, Cyrillic, Arabic and Chinese; OpenCV 4 has ASCII. What is missing
    loses its accents (é to e) or is written by number (U+1F697).
    """
    return "".join(character if _has_glyph(character) else _spelt(character) for character in text)


def _spelt(character: str) -> str:
    plain = unicodedata.normalize("NFKD", character.translate(_PLAIN))
    plain = "".join(part for part in plain if not unicodedata.combining(part))
    if plain and all(map(_has_glyph, plain)):
        return plain
    return f"U+{ord(character):04X}"


@lru_cache(maxsize=4096)
def _has_glyph(character: str) -> bool:
    """Whether OpenCV draws ``character`` as something of its own.

    For what it lacks OpenCV 5 draws one question mark, OpenCV 4 one for each byte.
    """
    if character.isascii() or not character.isprintable():
        # Half a surrogate pair, which is not printable, crashes OpenCV 5.
        return character.isprintable()
    drawing = _drawing(character)
    marks = ("?", "?" * len(character.encode()))
    return bool(drawing.any()) and not any(np.array_equal(drawing, _drawing(text)) for text in marks)


def _drawing(text: str) -> Image:
    canvas = np.zeros((48, 96), np.uint8)
    cv2.putText(canvas, text, (8, 36), FONT, 1.0, (255,), 1)
    return canvas
