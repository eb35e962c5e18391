"""One picture in, detections out: the stages of the line called one after the other."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from pipeline.classification import Classification
from pipeline.cores import usable_cores
from pipeline.decide import no_class
from pipeline.detections import Detections
from pipeline.errors import ConfigError
from pipeline.frame import Frame, Image, Result
from pipeline.runtime.model import open_model
from pipeline.stages.infer import Infer
from pipeline.stages.postprocess import TOP_CLASSES, Postprocess, Thresholds, class_ids_of
from pipeline.stages.preprocess import BlobPool, Preprocess


class Detector:
    """A model, loaded and warmed up: :meth:`detect` objects, or with a classifier :meth:`classify` pictures.

    ``model`` is a card's name or the path of an ONNX file; ``provider`` as in
    ``framerail run --provider``; ``threads`` the intra-op threads of a run (None: all cores);
    ``input_size`` the height and width of the model's input, where its file leaves that open.
    Not for several threads at once: make one Detector each.

    Raises ModelError, ProviderError or ConfigError.
    """

    def __init__(
        self,
        model: str = "nanodet-g",
        *,
        provider: str = "auto",
        device: int = 0,
        threads: int | None = None,
        input_size: tuple[int, int] | None = None,
    ) -> None:
        for name, value, least in (("device", device, 0), ("threads", threads, 1)):
            if value is not None and (not isinstance(value, int) or not least <= value <= 256):
                raise ConfigError(f"{name}: expected a whole number from {least} to 256, got {value!r}")
        self.model = open_model(model, provider, device, threads or usable_cores(), input_size=input_size)
        pool = BlobPool(self.model.spec.dtype)
        self._preprocess = Preprocess(self.model.spec, pool)
        self._infer = Infer(self.model.session, pool)

    @property
    def labels(self) -> Sequence[str]:
        """Class names by class_id."""
        return self.model.labels

    def detect(
        self,
        image: Image,
        *,
        conf: float | None = None,
        iou: float | None = None,
        classes: str | Sequence[str] | None = None,
        max_detections: int = 100,
    ) -> Detections:
        """Detect objects in ``image``: uint8 [H, W, 3], BGR (as ``cv2.imread`` gives it).

        ``conf`` and ``iou`` in 0..1, None for the model's own; ``classes`` are labels to keep.
        Returns boxes in pixels of ``image``, by falling confidence. Raises ValueError for
        another kind of array, ConfigError for a class that the model lacks, a number out of
        its range, or a classifier.
        """
        if self.model.family.task == "classify":
            raise ConfigError(f"model {self.model.name!r} finds no objects: it classifies; call classify()")
        return self._result(image, conf, iou, classes, max_detections).detections

    def classify(
        self, image: Image, *, classes: str | Sequence[str] | None = None, top: int = TOP_CLASSES
    ) -> Classification:
        """The most likely classes of the whole of ``image``: uint8 [H, W, 3], BGR.

        ``classes`` are labels to keep, ``top`` how many at most. Returns them by falling confidence. Raises
        as :meth:`detect`; ConfigError for a model that is no classifier.
        """
        if self.model.family.task != "classify":
            raise ConfigError(f"model {self.model.name!r} classifies no pictures: it detects; call detect()")
        classification = self._result(image, 0.0, None, classes, top).classification
        assert classification is not None
        return classification

    def _result(
        self,
        image: Image,
        conf: float | None,
        iou: float | None,
        classes: str | Sequence[str] | None,
        max_detections: int,
    ) -> Result:
        if not isinstance(image, np.ndarray):
            raise ValueError(
                f"expected a BGR picture, uint8 [height, width, 3]; got {type(image).__name__} "
                "(cv2.imread returns None for a file that it cannot read)"
            )
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise ValueError(
                f"expected a BGR picture, uint8 [height, width, 3]; got {image.dtype} {image.shape}"
            )
        for name, value in (("conf", conf), ("iou", iou)):
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"{name}: expected 0 to 1, got {value!r}")
        if not isinstance(max_detections, int) or max_detections < 1:
            raise ConfigError(f"max_detections: expected a whole number from 1, got {max_detections!r}")
        if isinstance(classes, str):
            classes = [part.strip() for part in classes.split(",")]
        try:
            class_ids = class_ids_of(self.model.labels, classes)
        except KeyError as error:
            raise ConfigError(f"classes: {no_class(self.model, error.args[0])}") from None
        thresholds = Thresholds(
            self.model.conf_threshold if conf is None else conf,
            self.model.iou_threshold if iou is None else iou,
            max_detections,
            class_ids,
            top_classes=max_detections,
        )
        frame = Frame("", 0, image, None, None, time.monotonic(), time.time())
        (result,) = Postprocess(self.model, thresholds)(self._infer(self._preprocess([frame])))
        return result
