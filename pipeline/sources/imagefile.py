"""An image file's bytes to a BGR picture, by OpenCV, without its exceptions or its chatter.

One leak is left: for a JPEG whose compressed data is damaged, libjpeg writes a line such as
"Corrupt JPEG data" to standard error by itself and OpenCV offers no way to stop or read it.
"""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np

from pipeline.frame import Image
from pipeline.sources.limits import too_large
from pipeline.sources.picturesize import picture_size
from pipeline.sources.quiet import no_opencv_log

_PNG = b"\x89PNG\r\n\x1a\n"
# OpenCV's own limits; libpng complains of them to standard error.
_MOST_SIDE, _MOST_PIXELS = 1_000_000, 1 << 30
_PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND"})


def decode_picture(data: bytes, max_picture: int = _MOST_PIXELS) -> Image:
    """Decode an image file's bytes to uint8 [height, width, 3], BGR, upright by its EXIF.

    One that claims more than ``max_picture`` pixels is refused before it is decoded, and so is one that
    does not say.

    Grey, palette and CMYK become BGR, an alpha channel is left out (not blended), 16 bits are
    scaled to 8 and not cut off. Raises ValueError.
    """
    if not data:
        raise ValueError("the file is empty")
    if data.startswith(_PNG):
        data = tidy_png(data)
    size = picture_size(data)
    if size is None:
        raise ValueError(
            "it is not a picture that OpenCV can read (JPEG, PNG, BMP, WebP, TIFF), or is damaged"
        )
    if large := too_large(*size, max_picture):
        raise ValueError(large)
    buffer = np.frombuffer(data, np.uint8)
    try:
        # Without ANYDEPTH OpenCV itself shifts 16 bits to 8 (/ 256); the scale here is 255/65535.
        with no_opencv_log():
            image = cv2.imdecode(buffer, cv2.IMREAD_COLOR_BGR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise ValueError(_first_line(error)) from None
    if image is None or image.size == 0:
        raise ValueError("it is not a picture that OpenCV can read, or is damaged")
    if large := too_large(image.shape[1], image.shape[0], max_picture):
        raise ValueError(large)  # it was not as large by its headers
    return _eight_bit(np.asarray(image))


def is_animation(data: bytes) -> bool:
    """Whether a PNG or WebP file holds more than the one picture that is read of it.

    Told by the chunk acTL before the pixels (the APNG specification), and by the animation flag of VP8X
    (the WebP container specification).
    """
    if data.startswith(_PNG):
        return b"acTL" in data[: max(data.find(b"IDAT"), 0)]
    return data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X" and bool(data[20:21] and data[20] & 2)


def tidy_png(data: bytes) -> bytes:
    """Check a PNG's chunks and leave out those that do not bear on its pixels.

    libpng writes its complaints about damage, and about odd colour profiles of good ones, to
    standard error itself; so damage is found here first, by length and CRC. Raises ValueError.
    """
    kept = [_PNG]
    at, kind = len(_PNG), b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise ValueError("the PNG file ends early")
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(data):
            raise ValueError("the PNG file ends early")
        if zlib.crc32(data[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise ValueError("the PNG file is damaged (a checksum is wrong)")
        if (kind == b"IHDR") != (at == len(_PNG)):
            raise ValueError("the PNG file is damaged (its header stands twice, or is not the first)")
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", data, at + 8)
            if 0 in (width, height):
                raise ValueError("the PNG file has no pixels")
            if max(width, height) > _MOST_SIDE or width * height > _MOST_PIXELS:
                raise ValueError(f"the PNG file claims {width}x{height} pixels, more than OpenCV reads")
        if kind in _PNG_PIXELS:
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _eight_bit(image: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Image:
    """uint8 [height, width, 3] of whatever depth OpenCV gave."""
    if image.dtype == np.uint16:
        # x · 255 / 65535 = x / 257, rounded.
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif image.dtype != np.uint8:
        raise ValueError(f"its samples are {image.dtype}; expected 8 or 16 bits")
    return np.ascontiguousarray(image, np.uint8)


def _first_line(error: cv2.error) -> str:
    """OpenCV's reason without its file names and macros."""
    text = str(getattr(error, "err", "") or error)
    return f"OpenCV refused it ({text.strip().splitlines()[0][:120]})"
