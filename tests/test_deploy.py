"""Config, unit, install script and image in deploy/ fit the product and each other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from pipeline import errors, reload
from pipeline.config import make_config
from pipeline.configfile import load_config
from pipeline.sinks import handoff

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "framerail.service"


def run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a checker, or skip where it is not installed."""
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        check=False,
        text=True,
        timeout=50,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def unit_values(key: str) -> list[str]:
    """Every value of a key of the unit, in order."""
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)


def test_shipped_config_validates() -> None:
    config = load_config(DEPLOY / "framerail.yaml")
    assert config.streams[0].source.startswith("rtsp://")
    assert config.metrics == "127.0.0.1:9108"
    assert config.log_format == "json"


def test_config_keys_that_are_commented_out_validate_too() -> None:
    text = (DEPLOY / "framerail.yaml").read_text(encoding="utf-8")
    full, uncommented = re.subn(r"(?m)^(\s*)# (\s*(?:- )?[a-z_]+:(?: .*)?)$", r"\1\2", text)
    assert uncommented >= 5
    config = make_config(yaml.safe_load(full))
    assert len(config.streams) == 2
    assert config.streams[1].camera.pixel_format == "MJPG"
    assert config.classes and config.conf_threshold is not None


# The unit ---------------------------------------------------------------------------------------


@pytest.fixture
def startable_unit(tmp_path: Path) -> Path:
    """The unit with a program that exists: systemd looks for it, and /opt/framerail is the edge box's."""
    text, replaced = re.subn(
        r"(?m)^(ExecStart=)/opt/framerail/bin/framerail", r"\1/bin/true", UNIT.read_text()
    )
    assert replaced == 1
    path = tmp_path / UNIT.name
    path.write_text(text)
    return path


def test_systemd_finds_nothing_wrong_with_the_unit(startable_unit: Path) -> None:
    verified = run("systemd-analyze", "verify", startable_unit)
    assert (verified.returncode, verified.stdout) == (0, "")


def test_unit_reloads_by_the_signal_that_the_command_goes_by() -> None:
    assert "ExecReload=kill -HUP $MAINPID" in UNIT.read_text().splitlines()
    assert re.search(r"SIGHUP|--watch-config", (UNIT.parent.parent / "docs" / "reliability.md").read_text())


def test_unit_is_hardened(startable_unit: Path) -> None:
    # 10 is wide open, 2.0 was chosen just above what cameras, the network and a GPU drop-in leave.
    checked = run(
        "systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", startable_unit
    )
    assert checked.returncode == 0, checked.stdout


def test_unit_is_started_again_after_any_failure() -> None:
    """A lost GPU ends the run with 4, and each start with 3 until it is there again; a camera that boots ends
    it with 2. Codes don't tell what passes by itself from what needs a person."""
    codes = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.PipelineError)
    }
    assert codes == {2, 3, 4}
    kept = {int(code) for code in " ".join(unit_values("(?:RestartPrevent|Success)ExitStatus")).split()}
    assert not codes & kept
    assert unit_values("Restart") == ["on-failure"]
    assert unit_values("StartLimitIntervalSec") == ["0"]  # else systemd gives up after some starts
    # Importing, and trying a provider, takes some seconds of a small box.
    assert [int(seconds) >= 30 for seconds in unit_values("RestartSec")] == [True]
    assert unit_values("KillSignal") == ["SIGTERM"]


def test_unit_waits_for_as_long_as_the_end_may_take() -> None:
    (most,) = map(int, unit_values("TimeoutStopSec"))
    assert most > handoff.GRACE_SECONDS + reload.END_SECONDS


def test_unit_keeps_the_results_that_the_config_sends_to_standard_output() -> None:
    # The sink replaces a file that it opens by name: a restart would erase all results.
    assert load_config(DEPLOY / "framerail.yaml").jsonl == "-"
    (target,) = unit_values("StandardOutput")
    assert target.startswith("append:/var/lib/framerail/")
    assert unit_values("StateDirectory") == ["framerail"]
    results = target.removeprefix("append:")
    assert results in (DEPLOY / "framerail.logrotate").read_text()
    assert results in (DEPLOY / "install.sh").read_text()


def test_unit_looks_for_models_where_it_may_look() -> None:
    assert unit_values("ProtectHome") == ["yes"]
    assert "FRAMERAIL_MODELS=/var/lib/framerail/models" in unit_values("Environment")
    assert "--dir /var/lib/framerail/models" in (DEPLOY / "README.md").read_text()


def test_neither_box_nor_image_reports_its_use() -> None:
    assert "ORT_DISABLE_TELEMETRY=1" in unit_values("Environment")
    (environment,) = [line for line in dockerfile() if line.startswith("ENV")]
    assert "ORT_DISABLE_TELEMETRY=1" in environment.split()


def test_logrotate_accepts_its_file(tmp_path: Path) -> None:
    if not Path("/usr/sbin/logrotate").exists():
        pytest.skip("logrotate is not installed")
    text = (
        (DEPLOY / "framerail.logrotate").read_text().replace("su framerail framerail", "su root root")
    )  # who exists here
    (tmp_path / "conf").write_text(text)
    (tmp_path / "conf").chmod(0o644)
    checked = run("/usr/sbin/logrotate", "--debug", "--state", tmp_path / "state", tmp_path / "conf")
    assert checked.returncode == 0
    assert "error" not in checked.stdout


# The image --------------------------------------------------------------------------------------


def dockerfile() -> list[str]:
    """The Dockerfile's instructions, comments dropped and continued lines joined."""
    text = re.sub(r"(?m)^#.*\n", "", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def test_dockerfile_installs_with_the_shared_script_alone() -> None:
    steps = [line for line in dockerfile() if line.startswith("RUN")]
    assert [re.search(r"install\.sh (\w+)", step)[1] for step in steps] == ["venv", "user"]  # type: ignore[index]
    for step in steps:
        assert not re.search(r"\b(pip|apt-get|curl|wget|useradd)\b", re.sub(r"--mount=\S+", "", step)), step
    proof = (DEPLOY / "prove_in_debootstrap.sh").read_text()
    for command in ("install.sh venv /src /opt/framerail", "install.sh user 10001"):
        assert sum(command in step for step in steps) == 1
        assert command in proof


def test_image_runs_as_nobody_in_particular_and_stops_gracefully() -> None:
    lines = dockerfile()
    final = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM")) :]
    assert "USER 10001:10001" in final
    assert "STOPSIGNAL SIGTERM" in final
    assert 'ENTRYPOINT ["framerail"]' in final  # exec form: the signal reaches Python, not a shell


def test_build_context_holds_what_the_build_needs() -> None:
    allowed = re.findall(r"(?m)^!(.+)$", (ROOT / ".dockerignore").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {
        "pyproject.toml",
        "constraints.txt",
        "deploy/install.sh",
        project["project"]["readme"],
        *project["project"]["license-files"],
        *wheel["packages"],
        *wheel["force-include"],
    }
    missing = [name for name in needed if not any(name == a or name.startswith(f"{a}/") for a in allowed)]
    assert not missing


class _Answer(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        pass


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server on loopback whose /healthz has ``status``; yields its port."""
    handler = type("Handler", (_Answer,), {"status": status})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def health_check(port: int) -> int:
    """Exit status of the image's own HEALTHCHECK command, pointed at ``port``."""
    (line,) = [line for line in dockerfile() if line.startswith("HEALTHCHECK")]
    command = json.loads(line[line.index(" CMD ") + 5 :])
    assert command[0] == "/opt/framerail/bin/python"
    environment = {  # behind a proxy that answers nothing: the check must not ask it
        **os.environ,
        "FRAMERAIL_HEALTHZ": f"http://127.0.0.1:{port}/healthz",
        "http_proxy": "http://127.0.0.1:9",
    }
    environment.pop("no_proxy", None)
    return subprocess.run(
        [sys.executable, *command[1:]], env=environment, check=False, stderr=subprocess.DEVNULL, timeout=20
    ).returncode


def test_health_check_tells_alive_from_failed_and_gone() -> None:
    with answering(200) as port:
        assert health_check(port) == 0
    assert health_check(port) != 0, "nobody listens any more"
    with answering(503) as port:
        assert health_check(port) != 0


@pytest.mark.parametrize("script", sorted(DEPLOY.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_parse(script: Path) -> None:
    parsed = run("sh", "-n", script)
    assert (parsed.returncode, parsed.stdout) == (0, "")
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("arguments", [[], ["venv"], ["install"], ["user", "1", "2"]])
def test_install_script_refuses_what_it_does_not_know(arguments: list[str]) -> None:
    refused = run("sh", DEPLOY / "install.sh", *arguments)
    assert refused.returncode == 2
    assert refused.stdout.startswith("usage:")


def test_readme_names_every_file() -> None:
    readme = (DEPLOY / "README.md").read_text(encoding="utf-8")
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.name != "README.md":
            assert path.relative_to(DEPLOY).as_posix() in readme
