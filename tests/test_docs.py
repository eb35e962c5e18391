"""What the documents show and list is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import pytest
import yaml

from pipeline import Pipeline
from pipeline.config import CameraConfig, Config, StreamConfig
from pipeline.configfile import load_config
from pipeline.metrics import Collector
from pipeline.sources import parse_source
from tests.test_metrics import PROMISED, SUFFIX

ROOT = Path(__file__).parent.parent


def test_the_table_of_metrics_is_what_is_exported(cheap_model: str) -> None:
    families = Collector(Pipeline("synthetic:64x48", model=cheap_model)).collect()
    exported = [(each.name + SUFFIX.get(each.type, ""), each.type, each.documentation) for each in families]
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert [(name.strip("`"), kind, what) for name, kind, _, what in rows] == exported
    for name, _, labels, _ in rows:
        assert set(re.findall(r"\w+", labels)) == PROMISED[name.strip("`")]


def test_every_key_of_a_config_is_documented() -> None:
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    for kind in (Config, StreamConfig, CameraConfig):
        for key in kind.model_fields:
            assert re.search(rf"\b{key}\b[`:]", text), key


def test_the_camera_in_the_commented_config_can_be_uncommented(tmp_path: Path) -> None:
    lines = (ROOT / "deploy/framerail.yaml").read_text(encoding="utf-8").splitlines()
    block = [line.replace("# ", "", 1) if re.match("  # +(- )?[a-z]+: ", line) else line for line in lines]
    path = tmp_path / "c.yaml"
    path.write_text("\n".join(block))
    assert len(yaml.safe_load(path.read_text())["streams"]) == 2
    dock = load_config(path).streams[1]
    assert (parse_source(dock.source).kind, dock.camera.width) == ("camera", 1280)


def test_links_lead_to_files_of_the_project() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]
    links = [
        (page, link.partition("#"))
        for page in documents
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        if "://" not in link
    ]
    assert len(links) > 50
    for page, (path, _, heading) in links:
        leads_to = (page.parent / path) if path else page
        assert leads_to.exists(), f"{page.name}: {path}"
        assert not heading or heading in headings(leads_to), f"{page.name}: {path}#{heading}"


def headings(page: Path) -> set[str]:
    """What a link may name of a page, made as GitHub makes them: lower case, no punctuation, hyphens."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_the_recipe_for_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    section = (ROOT / "docs/api.md").read_text(encoding="utf-8").partition("## Crops and counts")[2]
    exec(section.partition("```python\n")[2].partition("```")[0], {})
    assert "{'person': 1}" in capsys.readouterr().out
    crops = [cv2.imread(str(path)) for path in (tmp_path / "crops").iterdir()]
    assert len(crops) > 5 and all(min(crop.shape[:2]) > 20 for crop in crops)


def test_the_causes_and_messages_that_have_a_remedy_are_those_that_are_said() -> None:
    page = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    causes = page.partition("## A stream is down")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \|", causes, re.MULTILINE)
    metrics = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    said = metrics.partition("- `cause` of a failure")[2].partition("\n- ")[0]
    assert sorted(listed) == sorted(re.findall(r"`(\w+)`", said))
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "pipeline").rglob("*.py"))
    code = re.sub(r'"\s+f?"', "", code)  # texts that go on in the next line
    for first in re.findall(r"^\| (.*?) \|", page, re.MULTILINE):
        for message in re.findall(r"`([a-z]+ [^`]*)`", first):
            parts = [part.strip() for part in message.replace("is frozen", "frozen").split("…")]
            assert all(part.removeprefix("is ") in code for part in parts), message
