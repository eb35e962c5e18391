"""Image classifiers: one score for each class of a whole picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.candidates import Candidates, malformed
from pipeline.decoders.family import Family, InputDefaults, Match, Param, View, flag

_EXPECTED = "one output [1, classes]"
_LEAST_CLASSES = 2
_IMAGENET = (1000, 1001)
_SEEN = 0.02
_NONE = (
    "its 1001 classes are taken to be ImageNet's 1000 behind one for none, but the trial run does not show "
    "it: where that one comes last, a card says it under [params]: background = false, background_last = true"
)


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],
    conf_threshold: float,
    params: Mapping[str, Any],
) -> Candidates:
    """Decode [1, classes], or [1, classes, 1, 1], to a candidate for each class above the threshold.

    Each covers the whole input. Logits become probabilities by their softmax, exp(x) / Σ exp(x).
    ``params``: ``softmax`` true where the output holds logits; ``background`` true where class 0
    stands for none and is left out, ``background_last`` where the last one does.
    Raises ModelError for other shapes and for what is no number.
    """
    if len(outputs) != 1 or outputs[0].size < _LEAST_CLASSES or outputs[0].size != max(outputs[0].shape):
        raise malformed("classifier", _EXPECTED, outputs)
    if not np.issubdtype(outputs[0].dtype, np.floating):
        raise malformed("classifier", _EXPECTED, outputs)
    with np.errstate(over="ignore"):
        scores = outputs[0].reshape(-1).astype(np.float32)
    if params.get("softmax"):
        scores = softmax(scores)
    scores = _classes(scores, params)
    class_id = np.flatnonzero(scores > conf_threshold)
    height, width = input_hw
    whole = np.tile(np.array([0, 0, width, height], np.float32), (len(class_id), 1))
    return Candidates.checked(whole, scores[class_id], class_id)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities of logits, over the last axis; none where one of them is no number."""
    with np.errstate(invalid="ignore", over="ignore"):
        # What is no number makes no number; that is no warning's business.
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=-1, keepdims=True), np.float32)


def _classes(scores: NDArray[np.float32], params: Mapping[str, Any]) -> NDArray[np.float32]:
    """Return scores [..., classes] without the one that stands for none."""
    if params.get("background"):
        return scores[..., 1:]
    return scores[..., :-1] if params.get("background_last") else scores


def best(output: NDArray[Any], params: Mapping[str, Any]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the best class and its probability for each picture of a batch, from [B, classes]: [B] each.

    The class is -1, its probability 0, where an answer is not all numbers.
    """
    scores = output.reshape(len(output), -1).astype(np.float32)
    if params.get("softmax"):
        scores = softmax(scores)
    scores = _classes(scores, params)
    sound = np.isfinite(scores).all(axis=1)
    scores[~sound] = 0
    class_id = scores.argmax(axis=1)
    return np.where(sound, class_id, -1), scores[np.arange(len(scores)), class_id]


def recognise(view: View) -> Match | None:
    """One output [N, classes] (or with two axes of 1 behind), and nothing else."""
    if len(view.outputs) != 1:
        return None
    shape = view.shapes[0]
    if len(shape) not in (2, 4) or (len(shape) == 4 and shape[2:] != (1, 1)):
        return None
    classes = shape[1]
    # [boxes, 6] has two axes as well: an end-to-end detector, whose first is no batch.
    if classes is None or classes < _LEAST_CLASSES or (view.tried and view.arrays[0].shape[0] != 1):
        return None
    background = classes == 1001 and view.num_classes in (None, 1000)
    counted = classes - 1 if background else classes
    if view.num_classes not in (None, counted):
        return None
    params: dict[str, Any] = {"background": True} if background else {}
    unsure = False
    said = "a score for each class"
    if view.tried:
        told = _activation(view.arrays[0].reshape(-1).astype(np.float64))
        if told is None and not view.stated:
            return None
        params["softmax"], said = told or (False, "scores of a kind that the trial run does not show")
        if background:
            last = _background_last(view.arrays[0].reshape(-1), params["softmax"])
            params = {**params, "background_last": True} if last else params
            params["background"], unsure = not last, last is None
    certain = view.metadata.get("task") == "classify" or classes in _IMAGENET or view.num_classes is not None
    doubt = (
        f"nothing says that the {classes} numbers of its answer are scores of classes: embeddings and "
        "measurements look alike; name the classes in a card"
    )
    return Match(
        counted,
        params,
        f"{view.outputs[0]} = {counted} classes",
        certain,
        holds=(said,),
        doubt=_NONE if unsure else None if certain or view.stated else doubt,
        settled_by=("background", "background_last") if unsure else (),
    )


def _background_last(scores: NDArray[Any], logits: bool) -> bool | None:
    """Whether of 1001 scores for a picture of a cat the last one is the background; None: nothing tells.

    Counted from 0, ImageNet's cats are 281 (tabby) to 285 (Egyptian); behind a background one more.
    """
    likely = scores.astype(np.float32)
    likely = softmax(likely) if logits else likely
    tabby, egyptian = float(likely[281]), float(likely[286])
    return None if max(tabby, egyptian) < _SEEN else tabby > egyptian


def _activation(scores: NDArray[np.float64]) -> tuple[bool, str] | None:
    """Return whether scores still need their softmax, and why; None for what are no scores of classes."""
    if not np.isfinite(scores).all():
        return True, "logits, as far as the trial run shows: not all its answers are numbers"
    total, least, most = float(scores.sum()), float(scores.min()), float(scores.max())
    if least >= 0 and abs(total - 1) < 0.02:
        return False, "probabilities: in the trial run they sum to 1"
    if least >= 0 and abs(total - 100) < 2 and most > 1:
        return None  # percentages
    if least < 0 and abs(float(np.square(scores).sum()) - 1) < 0.01 and len(scores) > 16:
        return None  # a direction of length 1: an embedding
    if least >= 0 and most <= 1:
        return False, f"probabilities, each by itself: in the trial run in 0..1, their sum {total:.3g}"
    return True, f"logits: in the trial run they sum to {total:.3g}"


def _family(
    name: str, mean: tuple[float, float, float], std: tuple[float, float, float], whose: str
) -> Family:
    return Family(
        name=name,
        layout=f"[1, classes], fed as {whose}",
        decode=decode,
        recognise=recognise,
        class_aware=True,
        input=InputDefaults("RGB", mean, std, "crop", "center", 0, "area"),
        input_hw=(224, 224),
        conf_threshold=0.0,
        iou_threshold=1.0,
        params={
            "softmax": Param(flag, "true: the output holds logits; false (default): probabilities"),
            "background": Param(flag, "true: class 0 stands for none"),
            "background_last": Param(flag, "true: the last class stands for none"),
        },
        task="classify",
        nms=False,
    )


FAMILY = _family(
    "classifier", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "torchvision's ResNet and its kin are"
)
HALF = _family(
    "classifier-half",
    (127.5, 127.5, 127.5),
    (127.5, 127.5, 127.5),
    "TensorFlow's MobileNet and Inception are (-1..1)",
)
UNIT = _family("classifier-unit", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "YOLO's classifiers are (0..1)")
PIXELS = _family(
    "classifier-pixels",
    (0.0, 0.0, 0.0),
    (1.0, 1.0, 1.0),
    "Keras' EfficientNet is, which scales pixels itself (0..255)",
)
