"""What a source's text means: one pass over a table of schemes, then the file system."""

from __future__ import annotations

import glob
import os
import re
import stat
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import ConfigError, SourceOpenError
from pipeline.redact import MASK, protect, redact
from pipeline.sources.base import SourceSpec
from pipeline.sources.pictures import SUFFIXES, pictures_in, pictures_of
from pipeline.sources.synthetic import check_synthetic
from pipeline.wording import nearest

SAMPLE = Path(__file__).resolve().parent.parent / "sample" / "sample.mp4"

# Scheme of an address with :// → kind of source, and whether it is live (None: opening tells).
SCHEMES: dict[str, tuple[str, bool | None]] = {
    "rtsp": ("rtsp", True),
    "rtsps": ("rtsp", True),
    "http": ("http", None),
    "https": ("http", None),
    "rtmp": ("stream", True),
    "rtmps": ("stream", True),
    "srt": ("stream", True),
    "udp": ("stream", True),
    "tcp": ("stream", True),
    "rtp": ("stream", True),
}
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_NOT_IN_A_NAME = re.compile(r"[\x00-\x1f/\\{}]+")
_MAGIC = re.compile(r"[*?\[]")
_VIDEO_DEVICE = re.compile(r"/dev/video\d+")
_RECORDINGS = SUFFIXES | {
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".wmv", ".mpg", ".mpeg", ".3gp", ".ogv", ".gif",
}  # fmt: skip


def parse_source(text: str, *, may_be_missing: bool = False) -> SourceSpec:
    """Tell what ``text`` means, without opening it.

    An address (``rtsp://…``), ``camera:0``, ``camera:/dev/video0``, ``/dev/video0``,
    ``synthetic:WxH@FPS?frames=N``, ``sample:``, a file, a folder of pictures or a glob of them.

    Raises ConfigError for text that cannot be meant, SourceOpenError (cause ``not_found``) for a
    path that is not there, a folder without pictures and a glob that matches none; such a one that
    ``may_be_missing`` is of the kind ``missing``, which nothing opens: it is to be parsed again before.
    """
    protect(text)
    if not text.strip() or "\0" in text:
        raise ConfigError("expected a source: a file, a folder, an address, camera:0 or synthetic:640x480@25")
    if match := _URL.fullmatch(text):
        return _parse_url(text, match["scheme"].lower(), match["rest"])
    prefix, colon, rest = text.partition(":")
    if colon and prefix in _PREFIXES and not os.path.lexists(text):
        return _PREFIXES[prefix](rest)
    if _VIDEO_DEVICE.fullmatch(text):
        return _parse_camera(text)
    try:
        return _parse_path(text)
    except SourceOpenError:
        if not may_be_missing:
            raise
    named = os.path.dirname(text) if _MAGIC.search(os.path.basename(text)) else text
    return SourceSpec(
        "missing", text, _name(Path(_file_name(named, Path(named), "file")).stem, "file"), False
    )


# No @ in this text, up to which redaction would mask the message.
_ENCODE = "percent-encode what is no letter or digit in a password (%40 for an at sign, %2F for a slash)"


def _parse_url(text: str, scheme: str, rest: str) -> SourceSpec:
    if scheme == "file":
        raise ConfigError("a file is given by its path alone, without file://")
    if scheme not in SCHEMES:
        # Swapped letters are the likeliest slip, and rtps is nearer to rtp and rtmps otherwise.
        swapped = [known for known in SCHEMES if sorted(known) == sorted(scheme)]
        near = nearest(scheme, swapped or SCHEMES)
        raise ConfigError(
            f"unknown scheme '{scheme}://'; did you mean '{near}://'? (valid: {', '.join(SCHEMES)})"
        )
    kind, live = SCHEMES[scheme]
    if re.search(r"\s", rest):
        raise ConfigError(f"{text}: an address holds no space; write %20 for one")
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ConfigError(
            f"{text}: cannot understand host and port; expected {scheme}://host:port/path; {_ENCODE}"
        ) from None
    if "@" in parts.netloc and "@" in f"{parts.path}{parts.query}{parts.fragment}":
        raise ConfigError(f"{text}: an at sign stands on both sides of a slash; {_ENCODE}")
    # Multicast and listening addresses of udp, rtp and srt may leave the host out.
    if not host and scheme not in ("udp", "rtp", "srt"):
        raise ConfigError(f"{text}: the host is missing; expected {scheme}://host/path")
    # From the redacted address: a / in a password makes what stands before it look like the host.
    shown = urlsplit(redact(text)).hostname
    return SourceSpec(kind, text, _name(shown or "", scheme), live)


def _parse_camera(rest: str) -> SourceSpec:
    device = rest.removeprefix("/dev/video")
    if not (rest.isdecimal() or _VIDEO_DEVICE.fullmatch(rest)):
        raise ConfigError(f"'camera:{rest}': expected camera:NUMBER or camera:/dev/videoN, such as camera:0")
    return SourceSpec("camera", rest, f"camera{int(device)}", True)


def _parse_synthetic(rest: str) -> SourceSpec:
    check_synthetic(rest)
    return SourceSpec("synthetic", rest, "synthetic", False)


def _parse_sample(rest: str) -> SourceSpec:
    if rest:
        raise ConfigError(f"'sample:{rest}': expected 'sample:' alone")
    if not SAMPLE.is_file():
        raise SourceOpenError(f"this installation has no sample clip ({SAMPLE.name})", "not_found")
    return SourceSpec("file", str(SAMPLE), "sample", False)


def _parse_path(text: str) -> SourceSpec:
    path = Path(os.path.expanduser(text))
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if _MAGIC.search(text):
            return _parse_glob(text)
        raise SourceOpenError(f"{text}: no such file or folder{_hint(text)}", cause="not_found") from None
    except OSError as error:
        cause = "permission" if isinstance(error, PermissionError) else "error"
        raise SourceOpenError(f"{text}: {error.strerror}", cause=cause) from None
    if stat.S_ISDIR(mode):
        pictures = pictures_in(path)
        if not pictures:
            wanted = ", ".join(sorted(SUFFIXES))
            raise SourceOpenError(f"{text}: no picture in this folder ({wanted})", cause="not_found")
        return SourceSpec("pictures", str(path), _file_name(text, path.resolve(), "pictures"), False)
    if path.suffix.lower() in (".yaml", ".yml"):
        raise ConfigError(f"{text}: expected a video or picture; a config is given as --config {text}")
    kind = "pictures" if path.suffix.lower() in SUFFIXES else "file"
    return SourceSpec(kind, str(path), _name(Path(_file_name(text, path, kind)).stem, kind), False)


def _parse_glob(pattern: str) -> SourceSpec:
    matches = [Path(name) for name in glob.glob(os.path.expanduser(pattern), recursive=True)]
    pictures = [path for path in matches if path.suffix.lower() in SUFFIXES]
    if not matches:
        raise SourceOpenError(f"{pattern}: nothing matches this pattern", cause="not_found")
    if not pictures:
        wanted = ", ".join(sorted(SUFFIXES))
        raise SourceOpenError(
            f"{pattern}: none of the {len(matches)} matches is a picture ({wanted}); give videos one by one",
            cause="not_found",
        )
    folder, shown = pictures[0].resolve().parent, redact(pattern)
    return SourceSpec(
        "pictures", pattern, _file_name(os.path.dirname(shown) or shown, folder, "pictures"), False
    )


_PREFIXES = {"camera": _parse_camera, "synthetic": _parse_synthetic, "sample": _parse_sample}


def _hint(text: str) -> str:
    """A guess at what was meant by a path that is not there."""
    if text.isdecimal():
        return f"; a camera is given as camera:{text}"
    prefix, colon, rest = text.partition(":")
    known = [*_PREFIXES, *SCHEMES]
    if colon and "." in prefix and rest[:1].isdecimal():  # a host and a port
        return "; an address begins with its scheme, such as rtsp:// or http://"
    if colon and len(prefix) > 1 and "/" not in prefix:
        near = nearest(prefix, known)
        return f"; did you mean '{near}:'?" if near in _PREFIXES else f"; did you mean '{near}://'?"
    return ""


def _name(text: str, otherwise: str) -> str:
    """``text``, which is redacted, as a stream's name (see StreamConfig.name), which files may have too."""
    if MASK in text:  # of which no shell and no file system makes something else
        text = text.replace(MASK, "_")
        text = text if text.strip("_. ") else ""
    return _NOT_IN_A_NAME.sub("_", text).strip() or otherwise


def _file_name(text: str, path: Path, otherwise: str) -> str:
    """The name of a file or folder that ``text`` leads to; of both redacted whole, as a secret may be a path
    with its slashes."""
    said = Path(redact(text)).name
    return _name(said if MASK in said else Path(redact(str(path))).name, otherwise)


def names_recording(address: str) -> bool:
    """Whether a web address ends as those of recordings and pictures do; cameras and gateways have others."""
    return os.path.splitext(urlsplit(address).path)[1].lower() in _RECORDINGS


def local_files(spec: SourceSpec) -> list[str]:
    """The files that a source reads: none for streams and cameras."""
    if spec.kind == "file":
        return [spec.address]
    if spec.kind == "missing":
        path = os.path.expanduser(spec.address)
        return [path if os.path.splitext(path)[1] else os.path.join(path, "*")]  # a folder, more likely
    return [str(path) for path in pictures_of(spec)] if spec.kind == "pictures" else []
