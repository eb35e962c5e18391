"""What is drawn, where, and in which colours."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.classification import Labels
from pipeline.detections import Detections
from pipeline.vision.draw import color_of, draw, text_color
from pipeline.vision.glyphs import drawable


def detections(*rows, names=("person", "car", "bus")):
    """Rows of left, top, right, bottom, score, class."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int32), names)


def canvas(height=200, width=300):
    return np.full((height, width, 3), 128, np.uint8)


def where(image, color):
    """Rows and columns of the pixels of exactly this colour."""
    return np.nonzero((image == color).all(axis=2))


def test_nothing_is_drawn_for_nothing():
    image = canvas()
    draw(image, Detections.empty())
    assert np.array_equal(image, canvas())


def test_it_is_public_and_takes_nothing_but_a_picture_that_it_may_write_to():
    assert pipeline.draw is draw
    image = canvas()
    assert draw(image, detections([50, 80, 250, 180, 0.9, 1])) is image
    frozen = canvas()
    frozen.flags.writeable = False
    for wrong in (frozen, canvas().astype(np.float32), canvas()[:, :, 0]):
        with pytest.raises(ValueError, match="expected a BGR picture to draw on"):
            draw(wrong, Detections.empty())


def test_a_box_has_its_outline_in_its_colour_and_its_inside_untouched():
    image = canvas()
    draw(image, detections([50, 80, 250, 180, 0.9, 1]))
    for x, y in [(50, 130), (250, 130), (150, 180), (150, 80)]:
        assert tuple(image[y, x]) == color_of(1)
    assert (image[85:175, 55:245] == 128).all()
    rows, columns = where(image, color_of(1))
    assert rows.max() == 180 and columns.min() == 50 and columns.max() == 250
    assert 50 < rows.min() < 80  # the label stands above the box


def test_a_label_without_room_above_goes_into_the_box_and_stays_in_the_picture():
    image = canvas()
    draw(image, detections([250, 0, 299, 150, 0.9, 0]))
    _, columns = where(image, color_of(0))
    assert columns.min() < 240  # wider than the box: moved to the left, not cut
    label = image[1:15, columns.min() : 299]
    assert np.abs(label.astype(int) - color_of(0)).max() > 100  # there is text on it


def test_the_more_confident_label_is_on_top():
    image = canvas()
    draw(image, detections([50, 80, 250, 180, 0.9, 0], [50, 80, 250, 180, 0.5, 1]))
    rows, _ = where(image[:78], color_of(0))
    assert len(rows)
    assert not len(where(image[:78, 50:60], color_of(1))[0])


def test_labels_of_neighbours_stay_off_each_other():
    rows = [[20, 80, 120, 180, 0.9, 0], [40, 82, 140, 180, 0.8, 0], [60, 84, 160, 180, 0.7, 0]]
    alone = [canvas() for _ in rows]
    for image, row in zip(alone, rows, strict=True):
        draw(image, detections(row))
    image = canvas()
    draw(image, detections(*rows))
    above = slice(0, 79)
    # Only the surest stands above: those of one colour would have made one.
    assert np.array_equal(image[above], alone[0][above])
    crowd = canvas()
    draw(crowd, detections(*[[20, 80, 120, 180, 0.9, 0]] * 40))  # no room for all: drawn all the same
    assert len(where(crowd[above], color_of(0))[0])


def test_a_label_is_its_first_word_and_what_a_second_model_says_has_its_confidence():
    def drawn(name, second=None):
        image = canvas()
        found = detections([20, 80, 290, 180, 0.9, 0], names=(name,))
        draw(image, replace(found, second=second))
        return image

    assert np.array_equal(drawn("goldfish, Carassius auratus"), drawn("goldfish"))
    sure, unsure = (
        Labels(np.zeros(1, np.int32), np.array([score], np.float32), ("tabby, tabby cat",))
        for score in (0.9, 0.4)
    )
    assert not np.array_equal(drawn("cat", sure), drawn("cat", unsure))
    none = Labels(np.full(1, -1, np.int32), np.zeros(1, np.float32), ("tabby",))
    assert np.array_equal(drawn("cat", none), drawn("cat"))


def test_boxes_do_not_strike_through_labels():
    image, alone = canvas(), canvas()
    draw(alone, detections([50, 80, 250, 180, 0.5, 1]))
    # The other's own label is short, and so stays off this one.
    names = ("p", "car")
    draw(image, detections([0, 73, 290, 190, 0.9, 0], [50, 80, 250, 180, 0.5, 1], names=names))
    _, columns = where(alone[73:79], color_of(1))
    label = (slice(73, 79), slice(columns.min(), columns.max() + 1))  # where the other's upper edge runs
    assert np.array_equal(image[label], alone[label])


def test_caption_is_in_the_top_left_corner():
    image = canvas()
    draw(image, Detections.empty(), caption="cam-1")
    changed = np.nonzero((image != 128).any(axis=2))
    assert changed[0].min() == changed[1].min() == 0
    assert changed[0].max() < 40 and changed[1].max() < 120


def test_widths_follow_the_size_of_the_picture():
    heights = []
    for scale in (1, 4):
        image = canvas(270 * scale, 480 * scale)
        draw(image, Detections.empty(), caption="x")
        heights.append(np.nonzero((image != 128).any(axis=2))[0].max())
    assert heights[1] > 1.5 * heights[0]


@settings(max_examples=60)
@given(
    st.integers(1, 80),
    st.integers(1, 80),
    st.lists(st.tuples(*[st.floats(-300, 300, width=32)] * 4), max_size=4),
    st.text(max_size=12),
)
def test_any_box_and_any_text_on_any_picture(height, width, boxes, text):
    # The picture is the middle of a larger array: whatever is drawn outside of it would show.
    around = canvas(height + 40, width + 40)
    image = around[20:-20, 20:-20]
    rows = [[*sorted((a, c)), *sorted((b, d)), 0.5, 0] for a, b, c, d in boxes]
    rows = [[left, top, right, bottom, score, kind] for left, right, top, bottom, score, kind in rows]
    draw(image, detections(*rows, names=(text,)), caption=text)
    frame = around.copy()
    frame[20:-20, 20:-20] = 128
    assert (frame == 128).all()


class Rectangles:
    """Masks that are all of a rectangle, which stands at (left, top) in the picture."""

    def __init__(self, *places):
        self.places = places

    def __len__(self):
        return len(self.places)

    def crop(self, index):
        left, top, right, bottom = self.places[index]
        return left, top, np.ones((bottom - top, right - left), np.bool_)


def test_a_mask_is_a_tint_that_lets_the_picture_through():
    image = canvas()
    image[100] = 20
    found = detections([50, 80, 250, 180, 0.9, 1], [60, 90, 90, 120, 0.5, 0])
    draw(image, replace(found, masks=Rectangles((60, 95, 240, 170), (295, 195, 310, 210))))
    tinted, dark, plain = image[150, 150].astype(int), image[100, 150].astype(int), image[175, 150]
    assert np.abs(tinted - (0.6 * 128 + 0.4 * np.array(color_of(1)))).max() <= 1
    assert np.abs(dark - (0.6 * 20 + 0.4 * np.array(color_of(1)))).max() <= 1
    assert (plain == 128).all()
    assert np.abs(image[199, 299] - (0.6 * 128 + 0.4 * np.array(color_of(0)))).max() <= 1  # cut, not refused


def test_a_rotated_box_is_drawn_as_its_polygon():
    image = canvas()
    polygon = np.array([[[150, 60], [250, 110], [150, 160], [50, 110]]], np.float32)
    draw(image, replace(detections([50, 60, 250, 160, 0.9, 1]), polygons=polygon))
    for x, y in [(150, 160), (250, 110), (50, 110), (200, 135)]:
        assert tuple(image[y, x]) == color_of(1)
    assert (image[155:, 40:60] == 128).all() and (image[100:120, 100:200] == 128).all()
    rows, _ = where(image[:60], color_of(1))
    assert len(rows)  # its label, above the topmost corner


def test_keypoints_are_dots_and_coco_s_have_bones():
    places = np.array([[20 + 15 * k, 60 + 35 * (k % 3)] for k in range(17)], np.float32)
    points = np.concatenate([places, np.ones((17, 1), np.float32)], axis=1)[None]
    points[0, 16, 2] = 0.1
    found = detections([5, 30, 295, 190, 0.9, 1])
    with_bones, without = canvas(), canvas()
    draw(with_bones, replace(found, keypoints=points))
    draw(without, replace(found, keypoints=points[:, :16]))
    for image in (with_bones, without):
        for x, y in places[:16].astype(int):
            assert tuple(image[y, x]) == color_of(1)
    hidden = places[16].astype(int)
    assert (with_bones[hidden[1] - 3 : hidden[1] + 4, hidden[0] - 3 : hidden[0] + 4] == 128).all()
    middle = ((places[13] + places[15]) / 2).round().astype(int)  # of the left shin
    assert (with_bones[middle[1], middle[0]] != 128).any() and (without[middle[1], middle[0]] == 128).all()


def test_keypoints_and_polygons_far_outside_are_no_error():
    image = canvas()
    far = np.array([[[1e30, -1e30], [-1e9, 5], [4, 1e12], [0, 0]]], np.float32)
    points = np.concatenate([far, np.ones((1, 4, 1), np.float32)], axis=2)
    draw(image, replace(detections([50, 80, 250, 180, 0.9, 1]), polygons=far, keypoints=points))
    assert tuple(image[0, 0]) == color_of(1), "the one point that lies in the picture is drawn"


def test_colours_are_stable_distinct_and_readable():
    colors = [color_of(i) for i in range(72)]
    assert len(set(colors)) == 72
    assert colors[0] == color_of(0) and all(0 <= level <= 255 for color in colors for level in color)
    first = np.array(colors[:12], int)
    apart = np.abs(first[:, None] - first).sum(axis=2) + 1000 * np.eye(12, dtype=int)
    assert apart.min() > 80
    for color in colors:
        assert contrast(color, text_color(color)) >= 4.5  # WCAG 2, level AA


def contrast(a, b):
    """WCAG 2: with the exact sRGB curve."""

    def luminance(color):
        linear = [
            level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4
            for level in (value / 255 for value in color)
        ]
        return 0.0722 * linear[0] + 0.7152 * linear[1] + 0.2126 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_ascii_is_drawable_as_it_is():
    text = "".join(map(chr, range(32, 127)))
    assert drawable(text) == text


@pytest.mark.parametrize(
    ("text", "spelt"),
    [("é", "e"), ("Füße", "Fusse"), ("行", "U+884C"), ("\U0001f697", "U+1F697"), ("a\nb", "aU+000Ab")],
)
def test_no_letter_becomes_a_question_mark(text, spelt):
    # OpenCV 4 knows ASCII only; OpenCV 5 has all of these but the car and the line break.
    assert drawable(text) in (text, spelt)
    canvases = []
    for shown in (drawable(text), "?" * len(text), "?" * len(text.encode())):
        image = np.zeros((48, 200), np.uint8)
        cv2.putText(image, shown, (8, 36), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (255,), 1)
        canvases.append(image)
    assert canvases[0].any()
    assert not np.array_equal(canvases[0], canvases[1]) and not np.array_equal(canvases[0], canvases[2])


def test_half_a_surrogate_pair_is_spelt_out():
    assert drawable("a\ud800b") == "aU+D800b"


def test_labels_and_captions_are_spelt_out():
    images = []
    for text in ("a\nb", "aU+000Ab"):
        images.append(canvas())
        draw(images[-1], detections([50, 80, 250, 180, 0.9, 0], names=(text,)), caption=text)
    assert np.array_equal(*images)
