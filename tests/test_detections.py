"""Some of the detections: what is chosen, and all that belongs to each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Detections
from pipeline.classification import Labels


class Numbered:
    """Masks that are one pixel each, in the column of their number; and which were computed."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        self.asked.append(index)
        mask = np.zeros((1, self.count), np.bool_)
        mask[0, index] = True
        return mask

    def crop(self, index: int) -> tuple[int, int, np.ndarray]:
        return index, 0, np.ones((1, 1), np.bool_)

    def rle(self, index: int) -> Any:
        return {"size": [1, self.count], "counts": str(index)}


def numbered(count: int) -> Detections:
    """Detections that all say their number, in each of their parts."""
    numbers = np.arange(count, dtype=np.float32)
    return Detections(
        np.stack([numbers, numbers, numbers + 1, numbers + 1], axis=1),
        1 - numbers / 100,
        np.arange(count, dtype=np.int32),
        [f"thing {index}" for index in range(count)],
        second=Labels(np.arange(count, dtype=np.int32), numbers / 100, [f"kind {i}" for i in range(count)]),
        keypoints=np.tile(numbers[:, None, None], (1, 2, 3)),
        polygons=np.tile(numbers[:, None, None], (1, 4, 2)),
        rotated=np.tile(numbers[:, None], (1, 5)),
        masks=Numbered(count),
    )


def said(found: Detections) -> list[int]:
    """The numbers that they say, after a look that all parts say the same."""
    numbers = found.class_id.tolist()
    assert found.xyxy[:, 0].tolist() == numbers
    assert found.labels == [f"thing {index}" for index in numbers]
    assert found.second is not None and found.second.labels == [f"kind {index}" for index in numbers]
    for part in (found.keypoints, found.polygons, found.rotated):
        assert part is not None and len(part) == len(numbers)
        assert [float(each.flat[0]) for each in part] == numbers
    assert found.masks is not None and len(found.masks) == len(numbers)
    for index, number in enumerate(numbers):
        assert found.masks[index].nonzero()[1].tolist() == [number]
        assert found.masks.crop(index)[0] == number and found.masks.rle(index)["counts"] == str(number)
    return numbers


@given(
    st.integers(0, 6).flatmap(
        lambda count: st.tuples(
            st.just(count),
            st.one_of(
                st.slices(count),
                st.lists(st.booleans(), min_size=count, max_size=count).map(lambda b: np.array(b, np.bool_)),
                st.lists(st.integers(-count, count - 1), max_size=9) if count else st.just([]),
                st.lists(st.integers(-count, count - 1), max_size=9).map(lambda n: np.array(n, np.int64))
                if count
                else st.just(slice(None)),
            ),
        )
    )
)
def test_what_is_chosen_keeps_all_that_belongs_to_it(drawn: tuple[int, Any]) -> None:
    count, choice = drawn
    expected = np.arange(count)[choice].tolist()
    assert said(numbered(count)[choice]) == expected


def test_a_number_gives_the_detections_of_one_and_a_choice_may_be_chosen_from() -> None:
    found = numbered(5)
    assert said(found[2]) == [2] and said(found[-1]) == [4] and said(found[np.int64(3)]) == [3]
    assert said(found[found.confidence > 0.975]) == [0, 1, 2]
    assert said(found[1:][::-1][[0, 2]]) == [4, 2]
    assert [label for *_, label in found[:2]] == ["thing 0", "thing 1"], "iterating is as it was"
    plain = Detections(found.xyxy, found.confidence, found.class_id, found.names)[1:3]
    assert plain.masks is plain.second is plain.keypoints is plain.polygons is plain.rotated is None


def test_no_mask_is_computed_for_being_chosen() -> None:
    found = numbered(5)
    assert found[[3, 1]][1].masks is not None
    assert isinstance(found.masks, Numbered) and found.masks.asked == []


@pytest.mark.parametrize("choice", [5, -6, [0, 9], np.ones(4, np.bool_), "thing 0", 0.5, None, (0, 1), True])
def test_what_chooses_none_of_them_is_an_error(choice: Any) -> None:
    with pytest.raises(IndexError):
        numbered(5)[choice]
