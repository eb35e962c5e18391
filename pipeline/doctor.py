"""What this installation and this machine can do, found out by trying rather than by asking.

Works where packages are missing or cannot be loaded: then the report says so.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline import __version__, dependencies
from pipeline.redact import redact

PACKAGES = ("numpy", "av", "prometheus-client", "pydantic", "typer", "rich", "PyYAML")
VIDEO_DECODERS = ("h264", "hevc", "mpeg4", "mjpeg", "vp9", "av1", "mpeg2video", "vp8")
VIDEO_ENCODERS = ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "libaom-av1", "mjpeg")
CPU_FEATURES = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8",
                "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve")  # fmt: skip


def examine() -> dict[str, Any]:
    """The whole report, as data. Never raises for what is missing: that is what it reports."""
    warnings: list[str] = []
    report = {
        "framerail": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _packages(),
        "runtimes": dependencies.installed(dependencies.RUNTIMES),
        "opencv": dependencies.installed(dependencies.OPENCVS),
        "cpu": _cpu(),
        "providers": _part(_providers, warnings, {}),
        "video": _part(_video, warnings, {}),
        "windows": _part(_windows, warnings, None),
    }
    _warn(report, warnings)
    report["warnings"] = [redact(warning) for warning in warnings]
    return report


def _part(look: Callable[[], Any], warnings: list[str], nothing: Any) -> Any:
    """What ``look`` finds; where it cannot look, ``nothing`` and a warning."""
    try:
        return look()
    except (ImportError, OSError) as error:
        warnings.append(f"{error}")
        return nothing


def _packages() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _cpu() -> dict[str, Any]:
    model, flags = platform.processor() or platform.machine(), ""
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        info = ""
    for line in info.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            model = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags = value
            break
    have = set(flags.split())
    return {
        "model": model,
        "cores": os.cpu_count(),
        "features": [feature for feature in CPU_FEATURES if feature in have],
    }


def _providers() -> dict[str, dict[str, Any]]:
    """Every provider by name: compiled in, plugged in, and whether a one-node model really runs on it."""
    dependencies.check()
    import onnxruntime as ort

    from pipeline.runtime.provider_table import PROVIDERS
    from pipeline.runtime.providers import compiled_in, create_session, options_of, plugged_in

    compiled, plugged = compiled_in(), plugged_in()
    found: dict[str, dict[str, Any]] = {}
    for name, provider in PROVIDERS.items():
        entry: dict[str, Any] = {"compiled_in": name in compiled, "plugin": name in plugged, "proven": False}
        if name in compiled or name in plugged:
            options = ort.SessionOptions()
            options.log_severity_level = 4
            try:
                session, nodes = create_session(one_node_model(), name, 0, options)
                entry["proven"] = nodes.get(provider.ort_name, 0) > 0
                entry["options"] = options_of(session, name)
            except Exception as error:
                entry["error"] = redact(" ".join(str(error).split()))
        else:
            entry["remedy"] = provider.remedy
        found[name] = entry
    return found


def _video() -> dict[str, Any]:
    import av
    from av.codec.hwaccel import hwdevices_available

    from pipeline.sources.hardware import METHODS, unavailable

    def have(names: tuple[str, ...], mode: str) -> list[str]:
        found = []
        for name in names:
            try:
                av.codec.Codec(name, mode)  # type: ignore[arg-type]
            except av.codec.codec.UnknownCodecError:
                continue
            found.append(name)
        return found

    return {
        "ffmpeg": {name: ".".join(map(str, version)) for name, version in av.library_versions.items()},
        "decoders": have(VIDEO_DECODERS, "r"),
        "encoders": have(VIDEO_ENCODERS, "w"),
        "hardware_decoders": sorted(hwdevices_available()),
        "hwdecode": {method: unavailable(method) or "works" for method in METHODS},
    }


def _windows() -> bool:
    """Whether this OpenCV can open windows (``--display``)."""
    dependencies.check()
    import cv2

    for line in cv2.getBuildInformation().splitlines():
        if line.strip().startswith("GUI:"):
            return line.split(":", 1)[1].strip() not in ("NONE", "")
    return False


def _warn(report: dict[str, Any], warnings: list[str]) -> None:
    if len(report["opencv"]) > 1:
        warnings.append(
            f"{' and '.join(report['opencv'])} are installed together and overwrite each other; keep one"
        )
    video = report["video"]
    if video and "libx264" not in video["encoders"]:
        warnings.append("this av package has no libx264: --video cannot write MP4")
    for name, entry in report["providers"].items():
        if (entry["compiled_in"] or entry["plugin"]) and not entry["proven"]:
            warnings.append(
                f"provider {name!r} is installed but does not run: {entry.get('error', 'no node on it')}"
            )
    cores, plan = report["cpu"]["cores"], _inference_plan()
    report["cpu"] |= plan
    usable = plan["usable_cores"]
    if usable is not None and cores and usable < cores:
        warnings.append(f"this process may use {usable} of {cores} cores (affinity or container quota)")


def _inference_plan() -> dict[str, int | None]:
    """Cores that may be used, and the runs × threads that the CPU provider would get."""
    try:
        from pipeline.cores import usable_cores
        from pipeline.runtime.session import concurrency
    except ImportError:
        return {"usable_cores": None, "infer_workers": None, "infer_threads": None}
    cores = usable_cores()
    workers, threads = concurrency(cores, None, None)
    return {"usable_cores": cores, "infer_workers": workers, "infer_threads": threads}


def one_node_model() -> bytes:
    """An ONNX model of one Relu, float32 [1] to [1], encoded by hand (protobuf wire format).

    The field numbers are those of onnx.proto3: ModelProto 1 ir_version, 7 graph, 8 opset_import;
    GraphProto 1 node, 2 name, 11 input, 12 output; NodeProto 1 input, 2 output, 4 op_type;
    ValueInfoProto 1 name, 2 type.
    """

    def field(number: int, value: int | bytes | str) -> bytes:
        if isinstance(value, int):
            return bytes([number << 3, value])
        data = value.encode() if isinstance(value, str) else value
        return bytes([number << 3 | 2, len(data)]) + data

    def tensor(name: str) -> bytes:
        shape = field(1, field(1, 1))  # one dimension of size 1
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, shape)))

    node = field(1, "x") + field(2, "y") + field(4, "Relu")
    graph = field(1, node) + field(2, "one") + field(11, tensor("x")) + field(12, tensor("y"))
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 17))


def print_report(report: dict[str, Any], console: Console) -> None:
    """For people."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("framerail", f"{report['framerail']}, Python {report['python']}, {report['platform']}")
    packages = {**report["runtimes"], **report["opencv"], **report["packages"]}
    table.add_row(
        "packages", ", ".join(f"{name} {version or 'missing'}" for name, version in packages.items())
    )
    cpu = report["cpu"]
    table.add_row("cpu", f"{cpu['model']}, {cpu['usable_cores'] or cpu['cores']} usable cores")
    if cpu["features"]:
        table.add_row("", " ".join(cpu["features"]))
    if cpu["infer_workers"]:
        runs, threads = (
            f"{count} {what}{'s' if count > 1 else ''}"
            for count, what in ((cpu["infer_workers"], "run"), (cpu["infer_threads"], "thread"))
        )
        table.add_row("inference", f"{runs} at once, {threads} each")
    video = report["video"]
    if video:
        table.add_row("video decoders", " ".join(video["decoders"]))
        table.add_row("video encoders", " ".join(video["encoders"]))
        for number, (method, state) in enumerate(video["hwdecode"].items()):
            table.add_row("" if number else "hardware video", f"{method}: {state}")
    table.add_row("windows", {True: "yes", False: "no (headless OpenCV)", None: "unknown"}[report["windows"]])
    console.print(table)
    providers = Table(title="Execution providers", title_justify="left")
    for heading in ("provider", "here", "proven", "note"):
        providers.add_column(heading, overflow="fold")
    for name, entry in report["providers"].items():
        here = "compiled in" if entry["compiled_in"] else "plugin" if entry["plugin"] else "no"
        note = entry.get("error") or (f"to have it: {entry['remedy']}" if "remedy" in entry else "")
        providers.add_row(name, here, "yes" if entry["proven"] else "no", note)
    if report["providers"]:
        console.print(providers)
    for warning in report["warnings"]:
        console.print(f"warning: {warning}", style="yellow", markup=False)
    if not report["warnings"]:
        console.print("no warnings")
