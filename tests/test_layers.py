"""A room may import only from floors below its own (or from itself)."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pipeline"

FLOORS = {
    "__main__": 6,
    "cli": 5,
    "console": 4, "doctor": 4, "commands": 4, "copies": 4, "evaluation": 4,
    "app": 4, "decide": 4, "iteration": 4, "detector": 4, "summary": 4, "shutdown": 4, "bench": 4,
    "stages": 3, "profiles": 3, "streams": 4, "serving": 4, "line": 4, "monitor": 4, "notify": 0, "reload": 4,
    "changes": 4, "healing": 4,
    "sources": 2, "chaos": 2, "runtime": 2, "sinks": 2, "accounts": 2, "metrics": 2,
    "quantization": 2,
    "vision": 1, "decoders": 1, "flow": 1, "sample": 1, "convert": 1,
    "errors": 0, "redact": 0, "frame": 0, "detections": 0, "classification": 0, "config": 0, "configfile": 0,
    "wording": 0,
    "references": 0, "yamlfile": 0, "access": 0, "webserver": 0, "smallfile": 0, "printable": 0,
    "dependencies": 0, "logs": 0, "placing": 0, "caches": 0, "histogram": 0, "memory": 0, "link": 0,
    "progress": 0, "cores": 0,
    "adaptive": 2, "lane": 1, "freshness": 1, "health": 1,
}  # fmt: skip

# Within a floor: who may lean on whom, beyond itself.
NEIGHBOURS = {
    ("commands", "bench"), ("commands", "evaluation"), ("commands", "copies"), ("evaluation", "decide"),
    ("bench", "app"), ("bench", "decide"), ("bench", "doctor"), ("bench", "summary"), ("summary", "app"),
    ("summary", "decide"), ("console", "summary"),
    ("app", "changes"), ("changes", "streams"), ("changes", "line"), ("changes", "decide"),
    ("app", "decide"), ("app", "iteration"), ("app", "streams"), ("app", "line"), ("app", "monitor"),
    ("console", "app"), ("reload", "app"), ("reload", "decide"), ("line", "decide"), ("line", "streams"),
    ("line", "serving"), ("streams", "decide"), ("commands", "detector"), ("detector", "decide"),
    ("errors", "redact"), ("errors", "printable"), ("logs", "printable"), ("webserver", "printable"),
    ("classification", "printable"), ("progress", "printable"), ("frame", "detections"),
    ("frame", "classification"),
    ("detections", "classification"), ("config", "errors"), ("config", "redact"),
    ("configfile", "references"), ("configfile", "yamlfile"), ("configfile", "config"),
    ("configfile", "errors"), ("configfile", "redact"), ("configfile", "smallfile"), ("config", "wording"),
    ("wording", "redact"), ("references", "errors"), ("references", "redact"),
    ("yamlfile", "errors"), ("access", "config"), ("access", "errors"), ("access", "redact"),
    ("access", "smallfile"), ("references", "smallfile"),
    ("dependencies", "errors"), ("placing", "errors"), ("link", "errors"), ("quantization", "runtime"),
    ("copies", "evaluation"), ("copies", "decide"), ("logs", "redact"), ("metrics", "accounts"),
    ("metrics", "sinks"), ("metrics", "runtime"), ("line", "healing"), ("serving", "healing"),
}  # fmt: skip

ONLY_IMPORTERS = {
    # quantization takes ORT's quantiser and converter; sessions are opened in runtime alone.
    "onnxruntime": {"runtime", "doctor", "quantization"},
    "prometheus_client": {"metrics", "doctor"},
    "typer": {"cli", "__main__"},
    "onnx": {"convert", "quantization"},
    "matplotlib": {"bench"},
    "av": {"sources", "sinks", "doctor", "sample", "chaos"},
}


def room_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if "_models" not in path.parts]


def imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names.append(node.module)
            if node.module == "pipeline":
                names += [f"pipeline.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_upward_import(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        pytest.skip("the package's own front door imports lazily")
    assert room in FLOORS, (
        f"{path} is in no room: give {room!r} a floor here and a sentence in ARCHITECTURE.md"
    )
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "pipeline" or len(parts) == 1 or parts[1] in ("__version__", room):
            continue
        other = parts[1]
        assert other in FLOORS, f"{path} imports the unknown room {other!r}"
        below = FLOORS[other] < FLOORS[room]
        assert below or (room, other) in NEIGHBOURS, (
            f"{room} (floor {FLOORS[room]}) imports {name} from above"
        )


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_library_has_its_room(path: Path) -> None:
    for name in imports(path):
        allowed = ONLY_IMPORTERS.get(name.split(".")[0])
        assert allowed is None or room_of(path) in allowed, f"{path} imports {name}"


def test_quantisation_opens_no_session() -> None:
    for path in (PACKAGE / "quantization").glob("*.py"):
        for name in imports(path):
            tool = name.split(".")[:2] in (["onnxruntime", "quantization"], ["onnxruntime", "transformers"])
            assert tool or not name.startswith("onnxruntime"), f"{path} imports {name}"


def test_flow_needs_the_standard_library_only() -> None:
    for path in (PACKAGE / "flow").glob("*.py"):
        for name in imports(path):
            assert name.split(".")[0] in sys.stdlib_module_names or name.startswith("pipeline.flow"), (
                path,
                name,
            )


def test_rooms_are_in_the_architecture() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    missing = [room for room in FLOORS if f"`{room}" not in text and f" {room}" not in text]
    assert not missing, f"ARCHITECTURE.md has no sentence for {missing}"
