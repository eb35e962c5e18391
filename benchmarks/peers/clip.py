"""Make a clip such as a camera sends of any video: ``python -m benchmarks.peers.clip VIDEO OUT.mp4``.

H.264 in yuv420p, four megabits a second unless asked otherwise, a key frame every two seconds; scaled
only where a size is asked for. A video that is too short is begun again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from fractions import Fraction

import av


def main() -> None:
    """Read the arguments, write the clip."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.clip",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("video")
    parser.add_argument("out")
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--size", metavar="WxH", help="such as 1920x1080; default: the video's own")
    parser.add_argument("--bitrate", type=float, default=4.0, metavar="MBIT", help="default: 4")
    asked = parser.parse_args()
    with av.open(asked.video) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate or Fraction(25)
        width, height = stream.codec_context.width, stream.codec_context.height
    if asked.size is not None:
        width, height = (int(side) for side in asked.size.split("x"))
    with av.open(asked.out, "w") as out:
        options = {"preset": "medium", "g": str(round(2 * rate))}
        encoded = out.add_stream("libx264", rate=rate, options=options)
        encoded.width, encoded.height, encoded.pix_fmt = width, height, "yuv420p"
        encoded.bit_rate = round(asked.bitrate * 1e6)
        for number, frame in zip(range(asked.frames), frames(asked.video), strict=False):
            scaled = frame.reformat(width, height, "yuv420p")
            scaled.pts, scaled.time_base = number, 1 / rate
            scaled.pict_type = av.video.frame.PictureType.NONE
            out.mux(encoded.encode(scaled))
        out.mux(encoded.encode())
    print(f"{asked.out}: {asked.frames} frames, {width}x{height}, {float(rate):g} fps")


def frames(video: str) -> Iterator[av.VideoFrame]:
    """The video's frames, without end."""
    while True:
        with av.open(video) as container:
            container.streams.video[0].thread_type = "AUTO"
            yield from container.decode(video=0)


if __name__ == "__main__":
    main()
