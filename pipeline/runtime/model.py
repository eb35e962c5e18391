"""A detector ready to run: a verified session, and the answer to how it is fed and read, with reasons."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from numpy.typing import NDArray

from pipeline.decoders import Candidates, Family, Identification
from pipeline.decoders.contract import image_input
from pipeline.decoders.family import Task
from pipeline.errors import ModelError
from pipeline.memory import in_huge_pages
from pipeline.runtime.card import embedded_card, not_unicode
from pipeline.runtime.catalog import Located, known_for, locate
from pipeline.runtime.diagnosis import identified
from pipeline.runtime.fusion import Fusion
from pipeline.runtime.labels import card_labels, default_labels
from pipeline.runtime.providers import has_devices
from pipeline.runtime.session import Session
from pipeline.runtime.start import ProviderOptions
from pipeline.runtime.stated import stated_family, stated_input
from pipeline.runtime.trial import Trial
from pipeline.runtime.warm_up import warm_up
from pipeline.vision.letterbox import InputSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """``reasons`` says for each property where it came from: the card, the file's metadata or shapes,
    the family's default."""

    name: str
    sha256: str
    session: Session
    family: Family
    labels: Sequence[str]
    spec: InputSpec
    conf_threshold: float
    iou_threshold: float
    max_batch: int | None
    """Frames that one run may take; None: any number."""
    params: dict[str, Any]
    reasons: dict[str, str]
    license: str = ""
    stated: bool = False
    """Whether a card, beside the file or in it, names the family."""
    named: bool = True
    """Whether card, file or family name its classes; else its labels are what their number suggests."""
    found: Identification | None = None
    """What identification saw: what each output holds, the trial run's evidence, the runner-up."""
    others: tuple[Session, ...] = ()
    """Sessions on further devices, the same in all but that."""

    @property
    def sessions(self) -> tuple[Session, ...]:
        """One per device, in the order asked for."""
        return (self.session, *self.others)

    def decode(
        self, outputs: Sequence[NDArray[Any]], conf_threshold: float, input_hw: tuple[int, int] | None = None
    ) -> Candidates:
        """Raw outputs for one frame to candidates in model-input pixels. Raises ModelError.

        ``input_hw`` is the size of the blob that they answer; None for the model's own.
        """
        return self.family.decode(
            outputs, input_hw or (self.spec.height, self.spec.width), conf_threshold, self.params
        )


@in_huge_pages()
def open_model(
    model: str,
    provider: str = "auto",
    device: int | Sequence[int] = 0,
    threads: int = 1,
    *,
    task: Task | None = None,
    input_size: tuple[int, int] | None = None,
    options: ProviderOptions | None = None,
    spinning: bool = False,
    rewrite: bool = True,
    fuse: bool = False,
    runs: int = 1,
) -> Model:
    """Locate, open on a provider, identify and warm up a model; its memory then lies in huge pages.

    ``task`` is what it has to be for (None: whatever it is for), ``input_size`` the height and width
    of its input, where the file leaves that open; ``options`` are what each provider is given. With
    several devices there is a session on each, each verified by itself. ``spinning``, ``rewrite``:
    see Session. ``fuse``: the graph is given what it can do of preprocessing (see Fusion), and ``spec``
    says how it is fed then. Its file is identified on the CPU, since a provider may take minutes for a graph.
    ``runs``: as many will be under way at once.

    Raises ModelError (not found, not loadable, UnknownLayoutError), ProviderError, ConfigError.
    """
    located = locate(model)
    first, *further = [device] if isinstance(device, int) else device
    shape = "x".join(map(str, input_size or ()))
    start = partial(
        Session,
        located.path,
        threads=threads,
        options=options,
        shape=shape,
        spinning=spinning,
        rewrite=rewrite,
    )
    session = start(provider, first) if not fuse else start("cpu", 0, options={}, rewrite=False)
    opened = describe(located, session, input_size)
    if task is not None and opened.family.task != task:
        raise ModelError(
            f"model {opened.name!r} is for the task {opened.family.task} (family {opened.family.name}); "
            f"asked for was {task}: give such a model{known_for(task)}"
        )
    if fuse:
        fusion = fusion_for(opened)
        start = partial(start, fusion=fusion)
        told = dict.fromkeys(("dtype", "layout", "color", "mean", "std"), "its graph does the rest (fuse)")
        opened = replace(
            opened, session=start(provider, first), spec=fusion.fed, reasons=opened.reasons | told
        )
    opened = replace(opened, others=tuple(_on_further(opened.session, further, start)))
    for each in opened.sessions:
        warm_up(opened, each, runs)
    if opened.found is not None and opened.found.doubt is not None:
        log.warning("model %s: %s", opened.name, opened.found.doubt)
    if opened.found is not None and not opened.found.color_told:
        log.info(
            "model %s is fed %s: %s", opened.name, opened.found.input["color"], opened.found.reasons["color"]
        )
    for each in opened.sessions:
        log.info(
            "model %s (%s) runs on %s%s: %s",
            opened.name,
            opened.family.name,
            each.active,
            f", device {each.device}" if further else "",
            ", ".join(f"{count} nodes on {where}" for where, count in each.nodes.items()),
        )
    return opened


def _on_further(
    session: Session, devices: Sequence[int], start: Callable[[str, int], Session]
) -> Iterator[Session]:
    """A session on each of ``devices`` like ``session``, whose provider ``auto`` has found."""
    if devices and not has_devices(session.provider):
        log.warning(
            "provider %s has no devices to choose from: device %s is ignored",
            session.provider,
            ", ".join(map(str, devices)),
        )
        return
    for device in devices:
        yield start(session.provider, device)


def fusion_for(model: Model) -> Fusion:
    """What of preprocessing the graph of ``model`` can do, opened as it is. Raises ModelError: nothing."""
    image = image_input(model.session.inputs)
    assert image is not None  # or it would not have been identified
    return Fusion.of(model.session.path, image, model.spec)


def describe(located: Located, session: Session, input_size: tuple[int, int] | None = None) -> Model:
    """Put together what card, file and family say of a model; the card wins.

    Raises UnknownLayoutError when neither tells the layout, ModelError when they contradict.
    """
    card = located.card or embedded_card(located.name, located.path.name, session.metadata)
    whose = "model card" if located.card is not None else "the model's own metadata (framerail.*)"
    stated_labels = card_labels(card, located) if card is not None else ()
    trial = Trial(session)
    found = identified(
        located.name,
        trial,
        session.inputs,
        session.outputs,
        session.metadata,
        family=card.family if card is not None else None,
        labels=stated_labels,
        stated=stated_input(located.name, card, session, input_size),
        params=stated_family(card, located).check_params(card.params) if card is not None else None,
    )
    if not found.batched and session.batch not in (None, 1):
        raise ModelError(
            f"model {located.name!r} takes {session.batch} pictures a run and does not say which of them an "
            "answer belongs to; export it with a batch of 1"
        )
    reasons = dict(found.reasons)
    labels = stated_labels or found.labels
    if stated_labels:
        reasons["labels"] = whose
    elif not labels and len(found.family.labels) == found.num_classes:
        labels = found.family.labels
        reasons["labels"] = f"default of the family {found.family.name}"
    elif not labels:
        labels, unnamed = default_labels(found, reasons)
        if unnamed is not None:
            found = replace(found, doubt="; ".join(filter(None, [found.doubt, unnamed])))
    if (bad := not_unicode(labels)) is not None:
        raise ModelError(f"model {located.name!r}: its label {bad!a} is no valid Unicode; a card can name it")
    conf, iou = found.family.conf_threshold, found.family.iou_threshold
    reasons["thresholds"] = f"default of the family {found.family.name}"
    params = dict(found.params)
    if card is not None:
        reasons["family"] = f"{whose}; {reasons['family']}"
        conf = conf if card.conf_threshold is None else card.conf_threshold
        iou = iou if card.iou_threshold is None else card.iou_threshold
        if card.conf_threshold is not None or card.iou_threshold is not None:
            reasons["thresholds"] = whose
        reasons.update(dict.fromkeys(card.params, whose))
        reasons.update(dict.fromkeys(card.input.model_dump(exclude_none=True), whose))
    return Model(
        name=located.name,
        sha256=located.sha256,
        session=session,
        family=found.family,
        labels=labels,
        spec=_input_of(found, session),
        conf_threshold=conf,
        iou_threshold=iou,
        max_batch=session.batch if found.batched else 1,
        params=params,
        reasons=reasons,
        license=(card.license if card is not None else "") or session.metadata.get("license", ""),
        stated=card is not None,
        named=bool(stated_labels or found.labels or found.family.labels),
        found=found,
    )


def _input_of(found: Identification, session: Session) -> InputSpec:
    try:
        spec = InputSpec(**found.input)
    except ValueError as error:
        raise ModelError(f"model {session.path.name}: its input cannot be so: {error}") from None
    session.feed_size((spec.height, spec.width))
    return spec
