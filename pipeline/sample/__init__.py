"""A short clip to try everything on: two persons, a cat and a cup come, move and go.

``SAMPLE`` is 10 s of 1280×720 H.264 at 25 frames a second, made by :mod:`pipeline.sample.make_sample`
from free photographs (``NOTICE.md`` beside it says whose). The first and last frames are empty. At
its card's threshold the default model is sure of the persons and the cat, in two minds about the cup.
"""

from pathlib import Path

SAMPLE: Path = Path(__file__).with_name("sample.mp4")
"""The clip's file."""

PHOTO: Path = Path(__file__).with_name("photo.jpg")
"""Frame 120 of it, with a person and the cat: what a model is tried on to find out how it answers."""
