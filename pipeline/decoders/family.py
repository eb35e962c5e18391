"""What the project knows of an output layout: how to decode it, to recognise it, and to feed it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

from pipeline.decoders.candidates import Candidates
from pipeline.errors import ModelError

Shape = tuple[int | None, ...]
"""As declared in an ONNX file: None where a size is only known when the model runs."""

Decode = Callable[[Sequence[NDArray[Any]], tuple[int, int], float, Mapping[str, Any]], Candidates]
"""``decode(outputs, input_hw, conf_threshold, params)``.

The raw outputs for one image, each with a leading batch axis of 1 or none; the input's height and
width; the score that a candidate must exceed; and the family's parameters. Raises ModelError for
outputs that are not the family's.
"""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output as its model declares it; ``dtype`` as numpy names it, such as "float32"."""

    name: str
    shape: Shape
    dtype: str

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} {self.dtype} [{sizes}]"


@dataclass(frozen=True, slots=True)
class InputDefaults:
    """How a family's models are fed unless a card says otherwise: the fields of ``vision.InputSpec``.

    ``dataclasses.asdict`` of it, with height, width and dtype, are the arguments of an InputSpec.
    """

    color: Literal["RGB", "BGR"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Literal["letterbox", "stretch", "crop"]
    align: Literal["center", "top-left"]
    pad: int
    interpolation: Literal["linear", "area"] = "linear"


def flag(value: Any) -> bool:
    """Accept true or false."""
    if not isinstance(value, bool):
        raise TypeError("true or false")
    return value


def whole(value: Any) -> int:
    """Accept a whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise TypeError("a whole number from 1")
    return value


def whole_numbers(value: Any) -> tuple[int, ...]:
    """Accept a list of rising whole numbers from 1."""
    if not isinstance(value, (list, tuple)) or not value or list(value) != sorted(set(map(whole, value))):
        raise TypeError("a list of rising whole numbers, such as [8, 16, 32]")
    return tuple(value)


def fraction(value: Any) -> float:
    """Accept a number in 0..1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise TypeError("a number in 0..1")
    return float(value)


def one_of(choices: Iterable[str]) -> Callable[[Any], str]:
    """Return what accepts one of some words."""
    known = tuple(choices)

    def accept(value: Any) -> str:
        if value not in known:
            raise TypeError(f"one of {', '.join(known)}")
        return str(value)

    return accept


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter of a decoder. ``accept`` returns a value as the decoder takes it, or raises TypeError."""

    accept: Callable[[Any], Any]
    meaning: str


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What there is to see of a model when its family is looked for.

    ``outputs`` as declared, with sizes that the file leaves open filled in by the trial run.
    ``arrays`` are the raw outputs of that run, on a photograph fed in the family's own way; empty
    where the model could not be tried. ``num_classes`` is what the model's names or its card say,
    ``extra_inputs`` the names of the inputs beside the picture.
    """

    outputs: tuple[TensorInfo, ...]
    input_hw: tuple[int, int]
    num_classes: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    arrays: tuple[NDArray[Any], ...] = ()
    extra_inputs: tuple[str, ...] = ()
    stated: bool = False

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Of the outputs."""
        return tuple(output.shape for output in self.outputs)

    @property
    def tried(self) -> bool:
        """Whether ``arrays`` are there to look at."""
        return bool(self.arrays)


@dataclass(frozen=True, slots=True)
class Numbers:
    """Whose class numbers a model answers with, where its outputs' sizes do not say how many there are.

    ``counted``: whether ``count`` is their number; else it is a bound, because nothing tells.
    """

    count: int
    why: str
    counted: bool = True
    doubt: str | None = None
    """What is only likely of them: a warning, unless a card or the file names the classes."""


@dataclass(frozen=True, slots=True)
class Match:
    """A family's reading of a model's outputs.

    ``certain``: the number of classes is confirmed (by the model's own names, the card, or
    because it is COCO's 80), or nothing else looks like this. An uncertain reading counts only
    where it is the only one, or where the trial run speaks for it. ``holds`` says what each
    output holds, in the outputs' order.
    """

    num_classes: int
    params: Mapping[str, Any]
    reason: str
    certain: bool
    holds: tuple[str, ...] = ()
    batched: bool = True
    """Whether the outputs have a batch axis; without one a run takes one picture."""
    doubt: str | None = None
    """What is only likely: a warning, unless a card states one of the parameters ``settled_by``."""
    settled_by: tuple[str, ...] = ()
    usual: bool = True
    """False: exports of this family are usually told by their names; of equals another one is likelier."""
    numbers: Numbers | None = None
    """Of answers that give the number of a class instead of a score for each."""


Recognise = Callable[[View], Match | None]
"""A family's reading of what is seen; None where it is not its layout."""

Task = Literal["detect", "segment", "pose", "obb", "classify"]


@dataclass(frozen=True, slots=True)
class Family:
    """An output layout that a decoder understands.

    ``class_aware``: whether boxes of different classes leave each other alone in NMS. ``nms``:
    whether boxes still have to go through it; a model that answers each object once has none.
    ``input_hw``: the size where neither model nor card gives one. ``params``: the parameters that
    a card may give to ``decode``. ``labels``: the names of its classes where neither card nor
    metadata name them; empty for families that are trained on anything.
    """

    name: str
    layout: str
    decode: Decode
    recognise: Recognise
    class_aware: bool
    input: InputDefaults
    input_hw: tuple[int, int]
    conf_threshold: float
    iou_threshold: float
    params: Mapping[str, Param] = field(default_factory=dict)
    task: Task = "detect"
    nms: bool = True
    labels: tuple[str, ...] = ()

    def check_params(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of a card as ``decode`` takes them. Raises ModelError."""
        checked = {}
        for name, value in params.items():
            if name not in self.params:
                known = ", ".join(f"{known} ({param.meaning})" for known, param in self.params.items())
                known = f"known: {known}" if known else "it has none"
                raise ModelError(f"family {self.name}: unknown parameter {name!r}; {known}")
            try:
                checked[name] = self.params[name].accept(value)
            except TypeError as error:
                raise ModelError(f"family {self.name}: {name}: expected {error}; got {value!r}") from None
        return checked


def classes_text(count: int) -> str:
    """Return "1 class", "2 classes"."""
    return f"{count} class" if count == 1 else f"{count} classes"


COCO_CLASSES = 80
MULTI_LABEL = Param(
    flag, "true: each class of a box above the threshold is a candidate; false (default): its best class"
)


def confirmed(count: int, num_classes: int | None) -> bool | None:
    """Whether a reading with ``count`` classes is certain; None where it cannot be.

    Where the number of classes is not known from elsewhere, COCO's 80 is taken as no accident.
    """
    if count < 1 or (num_classes is not None and count != num_classes):
        return None
    return num_classes is not None or count == COCO_CLASSES
