"""What a user can ask for, in one place: the flags, the YAML file and the Python API all end here.

Every value is checked once, here; an unknown key is an error that names the key, where it
stands and the nearest valid one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pipeline.errors import ConfigError
from pipeline.redact import redact
from pipeline.wording import Location, dotted, nearest, problem

ProviderName = Literal[
    "auto",
    "cpu",
    "cuda",
    "tensorrt",
    "openvino",
    "coreml",
    "directml",
    "migraphx",
    "rocm",
    "qnn",
    "xnnpack",
    "webgpu",
]
PROVIDER_NAMES: tuple[str, ...] = get_args(ProviderName)

RtspTransport = Literal["auto", "tcp", "udp"]
HardwareDecode = Literal["auto", "cuda", "vaapi", "qsv", "none"]
_STREAM_NAME = re.compile(r"[^\x00-\x1f/\\{}]+")


def _can_isolate(value: bool | None) -> bool | None:
    if value and not hasattr(os, "memfd_create"):
        raise ValueError("a source is read in a process of its own on Linux only; leave this out")
    return value


Isolate = Annotated[bool, AfterValidator(_can_isolate)]


def _can_be_named(value: str) -> str:
    if "\0" in value:
        raise ValueError("no file's name holds a null character")
    return value


FileName = Annotated[str, Field(min_length=1), AfterValidator(_can_be_named)]
MOST_DEVICES = 255
Side = Annotated[int, Field(ge=1, le=16384)]


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation is made of."""
    if parts := get_args(annotation):
        return set().union(*map(_kinds, parts))
    return {annotation} if isinstance(annotation, type) else set()


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false, which count as 1 and 0 in Python, where a number is expected."""
        given = value if isinstance(value, list | tuple) else [value]
        if info.field_name is not None and (switches := [each for each in given if isinstance(each, bool)]):
            kinds = _kinds(cls.model_fields[info.field_name].annotation)
            if bool not in kinds and kinds & {int, float}:
                raise ValueError(f"expected a number, not {str(switches[0]).lower()}")
        return value


class CameraConfig(_Strict):
    """What to ask of a local camera; it may give something else, which is then logged."""

    width: Annotated[int, Field(gt=0, le=16384)] | None = None
    height: Annotated[int, Field(gt=0, le=16384)] | None = None
    fps: Annotated[float, Field(gt=0, le=1000)] | None = None
    pixel_format: Annotated[str, Field(pattern=r"^[ -~]{4}$")] | None = None
    """Four characters, such as MJPG or YUYV."""


class StreamConfig(_Strict):
    """One source and how to treat it."""

    source: Annotated[str, Field(min_length=1, repr=False)]
    name: str | None = None
    live: bool | None = None
    """True: newest frames win (drop_oldest), and an HTTP address is a camera, unless it is looped or paced.
    False: every frame (block). None: by kind of source."""
    pace: Annotated[float, Field(gt=0, le=10_000)] | None = None
    """Frames per second at which what is no live source is delivered as if it were one; None: by its PTS."""
    loop: bool = False
    """Begin again at the end, as a stand-in for a camera; for sources that are not live."""
    decode_threads: Annotated[int, Field(ge=1, le=64)] | None = None
    """Threads of the video decoder; None: one file has what FFmpeg chooses (H.264 up to 1080p half of the
    cores), several share the cores, and live H.264 has one, other live video two."""
    every_nth: Annotated[int, Field(ge=1)] = 1
    max_frames: Annotated[int, Field(ge=1)] | None = None
    """Stop this stream after so many captured frames, counted from when it was added."""
    rtsp_transport: RtspTransport = "auto"
    open_timeout: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """Seconds that opening may take."""
    stall_timeout: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """Seconds without a picture after which a camera or network source counts as lost."""
    reconnect: bool | None = None
    """Open a lost source again; None: one that is live (a camera, RTSP, a live HTTP address, and before it
    is open one that does not look like a recording)."""
    backoff: Annotated[float, Field(gt=0, le=3600)] = 1.0
    """Seconds before the first new try, doubled with each failure, half of each wait at random."""
    backoff_max: Annotated[float, Field(gt=0, le=86400)] = 30.0
    """The longest such wait."""
    damaged: Literal["drop", "flag", "keep"] = "flag"
    """Pictures that lost or damaged data has spoilt: drop, flag in results, or neither; counted anyhow."""
    max_picture: Annotated[int, Field(ge=1, le=2**30)] = 2**26
    """Pixels of the largest picture (as coded) that is decoded; what claims more is refused beforehand."""
    tls_verify: bool = True
    """https, rtsps, rtmps: only from a server whose certificate is trusted."""
    tls_ca_file: FileName | None = None
    """Who is trusted to sign certificates (PEM); None: the system's authorities."""
    health: bool | None = None
    """Look at pictures now and then, whether a working camera can have taken them; None: of live streams."""
    frozen_seconds: Annotated[float, Field(gt=0, le=86400)] = 10.0
    """For so long the picture is the same before the stream is called frozen."""
    black_seconds: Annotated[float, Field(gt=0, le=86400)] = 10.0
    """For so long it is black, or has hardly any contrast, before the stream is called black, or covered."""
    not_ready_when: list[Literal["frozen", "black", "covered", "rate"]] = []
    """States of its pictures in which the stream is not ready (/readyz)."""
    hwdecode: HardwareDecode = "none"
    """On which device video is decoded; auto: on the first that is there, else on the CPU."""
    camera: CameraConfig = CameraConfig()
    isolate: Isolate | None = None
    """Read the source in a process of its own; None: as `isolate_sources` says."""
    paused: bool = False
    """Known to the line, which waits for it, but closed: not opened until it is resumed."""

    @model_validator(mode="after")
    def _paced_is_live(self) -> StreamConfig:
        if self.pace is not None and self.live is False:
            raise ValueError("pace: a source that is delivered at a rate is live; leave out live: false")
        return self

    @field_validator("not_ready_when", mode="before")
    @classmethod
    def _states(cls, value: Any) -> Any:
        """Accept "frozen,black" as well as a list."""
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _looked_at(self) -> StreamConfig:
        if self.not_ready_when and self.health is False:
            raise ValueError(
                "not_ready_when: nothing is looked at where health is false; leave out one of the two"
            )
        return self

    def asked_live(self, by_kind: bool | None) -> bool | None:
        """Whether newest frames win: as configured, else by the kind of source (None: opening it tells)."""
        if self.live is not None:
            return self.live
        return True if self.pace is not None else by_kind

    @field_validator("name")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        if value is not None and not _STREAM_NAME.fullmatch(value):
            raise ValueError("a stream's name is not empty and has no slash, brace or control character")
        return value


class Config(_Strict):
    """Everything `framerail run` does."""

    streams: Annotated[list[StreamConfig], Field(min_length=1)]
    model: FileName = "nanodet-g"
    """A card's name, or the path of an ONNX file."""
    provider: ProviderName = "auto"
    device: tuple[int, ...] = (0,)
    """Indices of the provider's devices: a session on each."""
    provider_options: dict[str, dict[str, str]] = {}
    """What each provider is given, by its name: ONNX Runtime's own options and their values."""
    task: Literal["detect", "segment", "pose", "obb", "classify"] | None = None
    """What the model has to be for; None: whatever it is for."""
    input_size: tuple[Side, Side] | None = None
    """Height and width of the model's input, where its file leaves that open."""
    classify: FileName | None = None
    """A second model, which says of each object what it is."""
    classify_on: list[str] | None = None
    """Labels of the objects that it looks at; None: all."""
    classify_every: Annotated[int, Field(ge=1, le=100_000)] = 10
    """For how many frames its answer to an object holds."""
    conf_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """None: what the model's card says."""
    iou_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    classes: list[str] | None = None
    """Labels to keep; None keeps all."""
    max_detections: Annotated[int, Field(ge=1, le=10_000)] = 100
    duration: Annotated[float, Field(gt=0, le=1e9)] | None = None
    """Seconds after which all streams stop, as at a first Ctrl-C."""
    jsonl: FileName | None = None
    """A file, or - for standard output."""
    video: FileName | None = None
    """An annotated video; with several streams the name holds {stream}."""
    pictures: FileName | None = None
    """A folder for annotated pictures, one for each frame."""
    display: bool = False
    on_sink_error: Literal["end", "go_on"] = "end"
    """When an output is lost: end the run, or go on without it. Either way the exit code is 4."""
    sink_timeout: Annotated[float, Field(gt=0, le=1e6)] | None = 60.0
    """Seconds that a file, or the end of all streams, waits for one of several outputs that makes no
    progress; None: for ever."""
    metrics: str | None = None
    """HOST:PORT to serve /metrics, /healthz, /readyz and /streams on."""
    metrics_token_file: FileName | None = None
    """A file with the bearer token that readers of these send; else FRAMERAIL_METRICS_TOKEN has it."""
    metrics_without_token: bool = False
    """An address that others can reach needs no token, because something else keeps them out."""
    summary: FileName | None = None
    quiet: bool = False
    log_format: Literal["text", "json"] = "text"

    infer_workers: Annotated[int, Field(ge=1, le=256)] | None = None
    """Concurrent inference runs; None: chosen for the machine and the provider."""
    infer_threads: Annotated[int, Field(ge=1, le=256)] | None = None
    """Intra-op threads of each run; None: chosen for the machine."""
    infer_spinning: bool = False
    """Idle threads of a run wait busily for the next one: for runs of several, where cores are to spare."""
    rewrite: bool = True
    """The CPU may be given the model's graph in a form that computes the same faster."""
    fuse: bool = False
    """The model's graph does what it can of preprocessing: it takes bytes, casts, scales and transposes."""
    profile: bool = True
    """Go by what `framerail tune` found for this model on this machine, in all that is left open here."""
    preprocess_workers: Annotated[int, Field(ge=1, le=64)] = 1
    postprocess_workers: Annotated[int, Field(ge=1, le=64)] = 1
    batch: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Frames that one run may take together; None: 1, or as many as the model's file fixes."""
    linger_ms: Annotated[float, Field(ge=0, le=10_000)] = 0.0
    """How long a run may wait for its batch to fill."""
    watchdog: Annotated[float, Field(gt=0, le=86400)] = 60.0
    """Seconds after which one call of a stage counts as stuck: reported with all stacks, and not healthy."""
    restarts: Annotated[int, Field(ge=0, le=1000)] = 3
    """Times that the model is opened afresh after a fault of its provider, within ``restart_minutes``."""
    restart_minutes: Annotated[float, Field(gt=0, le=10_000)] = 10.0
    max_age_ms: Annotated[float, Field(gt=0, le=1e9)] | None = None
    """A result older than this is never emitted: its frame is dropped and counted, of files too."""
    target_age_ms: Annotated[float, Field(gt=0, le=1e9)] | None = None
    """Of live streams so many frames are left out that the p99 of ages stays within this."""
    channel_capacity: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Items that a channel holds; None: 2, and more for files of small pictures."""
    isolate_sources: Isolate = False
    """Each stream's source is read in a process of its own: a crash of its decoder ends that stream alone."""

    @field_validator("provider", mode="before")
    @classmethod
    def _provider(cls, value: Any) -> Any:
        if value not in PROVIDER_NAMES:
            # Most who write gpu have NVIDIA's; by its letters it would be webgpu.
            near = "cuda" if value == "gpu" else nearest(str(value).casefold(), PROVIDER_NAMES)
            raise ValueError(
                f"unknown provider {value!r}; did you mean {near!r}? Known: {', '.join(PROVIDER_NAMES)}"
            )
        return value

    @field_validator("provider_options", mode="before")
    @classmethod
    def _provider_options(cls, value: Any, info: ValidationInfo) -> Any:
        """Accept {option: value}, for the provider asked for, as well as {provider: {option: value}}."""
        if not isinstance(value, dict):
            return value
        if any(not isinstance(inner, dict) for inner in value.values()):
            if "provider" not in info.data:
                return {}  # it is wrong itself, and said so
            if info.data["provider"] == "auto":
                raise ValueError("for which provider? Say provider (--provider), or {cuda: {option: value}}")
            value = {info.data["provider"]: value}
        for name, options in value.items():
            if name not in PROVIDER_NAMES[1:]:
                near = nearest(str(name), PROVIDER_NAMES[1:])
                raise ValueError(f"unknown provider {name!r}; did you mean {near!r}?")
            if "device_id" in options:
                raise ValueError("device_id: the key device (--device) says it")
            if bad := [key for key, given in options.items() if not isinstance(given, str | int | float)]:
                raise ValueError(f"{name}.{bad[0]}: expected a text, a number, true or false")
        # ONNX Runtime takes text; True and False are spelt as all its providers read them.
        return {
            name: {str(key): str(given) for key, given in options.items()} for name, options in value.items()
        }

    @field_validator("device", mode="before")
    @classmethod
    def _device(cls, value: Any) -> Any:
        """Accept "0,1" as well as a number or a list of them."""
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
            value = [int(part) if part.isascii() and part.isdecimal() else part for part in value]
        if isinstance(value, int) and not isinstance(value, bool):
            value = [value]
        if not isinstance(value, list | tuple) or not value:
            raise ValueError("expected a device's index, or several: 0,1")
        for index in value:
            if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index <= MOST_DEVICES:
                raise ValueError(f"expected indices from 0 to {MOST_DEVICES}, such as 0,1; {index!r} is none")
            if value.count(index) > 1:
                raise ValueError(f"device {index} stands twice; a device has one session")
        return tuple(value)

    @field_validator("input_size", mode="before")
    @classmethod
    def _input_size(cls, value: Any) -> Any:
        """Accept 640 and "640x480" (width x height, as in all text) as well as a pair, as tensors have it."""
        if isinstance(value, str):
            sides = value.lower().split("x")
            if not all(side.isascii() and side.isdecimal() for side in sides) or len(sides) > 2:
                raise ValueError("expected a size such as 640, or WIDTHxHEIGHT such as 640x384")
            value = [int(side) for side in reversed(sides)]
        if isinstance(value, int) and not isinstance(value, bool):
            value = [value]
        return value * 2 if isinstance(value, list) and len(value) == 1 else value

    @field_validator("classes", "classify_on", mode="before")
    @classmethod
    def _classes(cls, value: Any) -> Any:
        """Accept "person,car" as well as a list."""
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        if isinstance(value, list) and not all(isinstance(part, str) and part for part in value):
            raise ValueError("expected class labels separated by commas, such as person,car")
        return value

    @field_validator("metrics")
    @classmethod
    def _metrics(cls, value: str | None) -> str | None:
        if value is not None:
            host_and_port(value)
        return value

    @model_validator(mode="after")
    def _ages(self) -> Config:
        target, most = self.target_age_ms, self.max_age_ms
        if target is not None and most is not None and target >= most:
            raise ValueError(
                f"target_age_ms: expected less than max_age_ms ({most:g}), got {target:g}: what is older is "
                "dropped, so that the target would always seem to be held"
            )
        return self

    @model_validator(mode="after")
    def _second_stage(self) -> Config:
        for key in ("classify_on", "classify_every"):
            if self.classify is None and key in self.model_fields_set:
                raise ValueError(f"{key}: nothing is classified; say with which model (classify)")
        return self

    @model_validator(mode="after")
    def _unique_names(self) -> Config:
        names = [stream.name for stream in self.streams if stream.name is not None]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two streams are called {name!r}; names must differ")
        return self


def host_and_port(text: str) -> tuple[str, int]:
    """Split ``HOST:PORT`` (``[::1]:9108`` for IPv6). Raises ValueError with what was expected."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or {"[", "]"} & set(host) or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ValueError(f"expected HOST:PORT, such as 127.0.0.1:9108; got {text!r}")
    return host, int(port)


MOST_PROBLEMS = 20
"""That are told of one config: a file that is no config at all has thousands."""


def make_config(
    data: dict[str, Any], where: str = "options", named: Callable[[Location], str] = dotted
) -> Config:
    """Check ``data`` and make a Config of it. Raises ConfigError, with keys as they are ``named``."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        entries = error.errors(include_url=False)
        below: dict[str, type[BaseModel]] = {"streams": StreamConfig, "camera": CameraConfig}
        problems = [problem(entry, named, Config, below) for entry in entries[:MOST_PROBLEMS]]
        if len(entries) > MOST_PROBLEMS:
            problems.append(f"and {len(entries) - MOST_PROBLEMS} more")
        # Not chained: pydantic's own text quotes the input, cut in the middle of a password. Each
        # problem by itself, lest the masking of one reach to an at sign in the next.
        raise ConfigError(f"{where}: " + "; ".join(dict.fromkeys(map(redact, problems)))) from None


SERVING_KEYS = (
    "model", "provider", "device", "provider_options", "task", "input_size", "conf_threshold",
    "iou_threshold", "classes", "max_detections", "infer_threads", "infer_spinning", "rewrite", "fuse",
    "batch",
)  # fmt: skip
"""How the model is opened, and what is kept of its answers: what may change in a running line."""


def reloaded(config: Config, changes: dict[str, Any]) -> Config:
    """``config`` with other SERVING_KEYS. Raises ConfigError for others, and for what cannot be meant."""
    if fixed := [key for key in changes if key not in SERVING_KEYS]:
        raise ConfigError(f"{fixed[0]}: it is no key of the model's; these are: {', '.join(SERVING_KEYS)}")
    return make_config(changed(config, changes))


def changed(config: BaseModel, changes: dict[str, Any]) -> dict[str, Any]:
    """What ``config`` says, with ``changes``; None leaves a key out, which has its default then. One that
    there is not stays, to be complained of."""
    data = {**config.model_dump(exclude_unset=True), **changes}
    for key in changes.keys() & type(config).model_fields:
        if changes[key] is None:
            del data[key]
    return data


def make_stream(data: dict[str, Any]) -> StreamConfig:
    """Check ``data`` and make a stream of it. Raises ConfigError."""
    return make_config({"streams": [data]}, "stream").streams[0]
