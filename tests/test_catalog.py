"""Where models are: cards that ship, the user's folder, and `framerail models list | pull`."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from rich.console import Console

from benchmarks.cheap_model import write_cheap_model
from pipeline.commands import models as model_commands
from pipeline.commands import pull as pull_command
from pipeline.decoders import DECODERS
from pipeline.errors import ModelError
from pipeline.redact import redact
from pipeline.runtime.card import embedded_card, read_card, sha256_of
from pipeline.runtime.catalog import cards, find_card, locate, models_dir, user_dir
from pipeline.runtime.download import download
from pipeline.runtime.model import open_model
from pipeline.runtime.partfile import FolderError
from tests.screen import Screen
from tests.test_download import Site, serving, status, whole

SHIPPED = sorted(models_dir().glob("*.toml"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of models: not there yet, and never this machine's own."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "user" / "models"
    monkeypatch.setenv("FRAMERAIL_MODELS", str(path))
    return path


def write_card(path: Path, url: str, content: bytes, **more: Any) -> Path:
    stated = {
        "name": path.stem, "file": f"{path.stem}.onnx", "family": "yolov8", "urls": [url],
        "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in (stated | more).items()))
    return path


# The cards that ship ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_card_that_ships_can_be_had_and_used(path: Path) -> None:
    card = read_card(path)
    assert card.name == path.stem
    assert card.license
    assert card.source
    assert card.labels
    assert isinstance(card.labels, list) or (models_dir() / "labels" / f"{card.labels}.txt").is_file()
    assert None not in (card.input.size, card.input.color, card.input.mean, card.input.std, card.input.resize)
    beside = path.parent / card.file
    if beside.is_file():
        assert (card.sha256, card.bytes) == (sha256_of(beside), beside.stat().st_size)
    else:
        assert card.sha256
        assert card.bytes
        assert card.urls
    for url in card.urls:
        assert url.startswith("https://")
        # An address that names a branch changes its file one day.
        assert "/releases/download/" in url or any(len(part) == 40 for part in url.split("/")), url
        assert redact(url) == url
    if card.family not in DECODERS:
        pytest.skip(f"the family {card.family} is not there yet")
    DECODERS[card.family].check_params(card.params)
    assert card.task in (None, DECODERS[card.family].task)


def test_no_two_cards_share_a_file() -> None:
    """They would replace each other's in the user's folder."""
    files = [read_card(path).file for path in SHIPPED]
    assert len(set(files)) == len(files)


@pytest.mark.assets
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_card_says_what_its_file_is_found_to_be(assets: Path, folder: Path, path: Path) -> None:
    """The real file, by its hash: with its card it is read as it is without one."""
    card = read_card(path)
    if card.family not in DECODERS:
        pytest.skip(f"the family {card.family} is not there yet")
    same = [file for file in (assets / "models").glob("*.onnx") if sha256_of(file) == card.sha256]
    if not same:
        pytest.skip("its file is not among the assets")
    folder.mkdir(parents=True)
    (folder / card.file).symlink_to(same[0])
    stated, found = open_model(path.stem), open_model(str(same[0]))
    assert (stated.name, stated.sha256) == (path.stem, card.sha256)
    assert stated.family is found.family
    assert stated.spec == found.spec
    assert stated.params == found.params
    assert len(stated.labels) == len(found.labels)


# The user's folder --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        ("/f", {"FRAMERAIL_MODELS": "/v", "XDG_CACHE_HOME": "/x"}, "/f"),
        (None, {"FRAMERAIL_MODELS": "/v", "XDG_CACHE_HOME": "/x"}, "/v"),
        (None, {"FRAMERAIL_MODELS": "~/v"}, "/home/u/v"),
        (None, {"FRAMERAIL_MODELS": "", "XDG_CACHE_HOME": "/x"}, "/x/framerail/models"),
        (None, {"XDG_CACHE_HOME": "relative"}, "/home/u/.cache/framerail/models"),
        (None, {}, "/home/u/.cache/framerail/models"),
    ],
)
def test_where_the_users_folder_is(
    monkeypatch: pytest.MonkeyPatch, given: str | None, environment: dict[str, str], expected: str
) -> None:
    if sys.platform in ("win32", "darwin"):
        pytest.skip("the XDG base directories are those of Linux and BSD")
    monkeypatch.delenv("FRAMERAIL_MODELS")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/u")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert user_dir(given) == Path(expected)


def test_without_a_home_what_ships_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRAMERAIL_MODELS")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert locate("nanodet-g").path.is_file()
    with pytest.raises(ModelError, match="no home folder for models; give one: --dir or FRAMERAIL_MODELS"):
        user_dir()


def test_a_model_that_is_not_here_says_how_to_get_it(folder: Path) -> None:
    with pytest.raises(ModelError) as raised:
        locate("yolox-nano")
    said = str(raised.value)
    assert "framerail models pull yolox-nano" in said
    assert f"copy yolox_nano.onnx to {folder}" in said


def test_a_file_that_was_copied_there_is_found_when_its_hash_is_right(folder: Path, tmp_path: Path) -> None:
    model = write_cheap_model(tmp_path / "source.onnx")
    card = write_card(tmp_path / "cards" / "mine.toml", "https://x.invalid/m.onnx", model.read_bytes())
    with pytest.raises(ModelError, match=f"models pull {card} downloads it"):
        locate(str(card))
    folder.mkdir(parents=True)
    shutil.copy(model, folder / "mine.onnx")
    assert locate(str(card)).path == folder / "mine.onnx"
    assert open_model(str(card)).name == "mine"
    (folder / "mine.onnx").write_bytes(b"another")
    with pytest.raises(ModelError, match=f"is not the file that its card names.*models pull {card} replaces"):
        locate(str(card))


def test_cards_in_the_users_folder_are_known_by_name_and_hide_those_that_ship(
    folder: Path, tmp_path: Path
) -> None:
    model = write_cheap_model(tmp_path / "source.onnx")
    for name in ("mine", "yolox-nano"):
        write_card(folder / f"{name}.toml", "https://x.invalid/m.onnx", model.read_bytes())
        assert cards()[name] == folder / f"{name}.toml"
        shutil.copy(model, folder / f"{name}.onnx")
        assert locate(name).card_path == folder / f"{name}.toml"
    assert list(cards()) == sorted(cards())
    assert "mine" in cards(str(folder))
    assert "mine" not in cards(str(tmp_path / "elsewhere"))
    with pytest.raises(ModelError, match="unknown model 'min'; did you mean 'mine'"):
        locate("min")


def test_a_card_does_not_reach_out_of_the_users_folder(folder: Path, tmp_path: Path) -> None:
    card = tmp_path / "cards" / "c.toml"
    card.parent.mkdir()
    card.write_text('name = "c"\nfile = "../../outside.onnx"\nfamily = "yolov8"\n')
    folder.mkdir(parents=True)
    write_cheap_model(folder.parent.parent / "outside.onnx")
    with pytest.raises(ModelError, match=r"its file .* is missing"):
        locate(str(card))


@pytest.mark.parametrize(
    ("states", "says"),
    [
        ({"bytes": 5}, "is not the file that its card names: .* bytes; expected 5 bytes$"),
        ({"task": "segment"}, "m.toml: it says task 'segment', but the family yolov8 is for 'detect'"),
        ({"family": "yolov88"}, "m.toml: unknown family 'yolov88'; did you mean 'yolov8'"),
    ],
)
def test_what_a_card_says_is_compared(tmp_path: Path, states: dict[str, Any], says: str) -> None:
    write_cheap_model(tmp_path / "m.onnx")
    stated = {"name": "m", "file": "m.onnx", "family": "yolov8"} | states
    (tmp_path / "m.toml").write_text(
        "".join(f"{key} = {json.dumps(value)}\n" for key, value in stated.items())
    )
    with pytest.raises(ModelError, match=says):
        open_model(str(tmp_path / "m.onnx"))


def test_a_size_that_a_right_hash_contradicts_is_not_mended_by_pulling(tmp_path: Path) -> None:
    content = write_cheap_model(tmp_path / "m.onnx").read_bytes()
    card = write_card(tmp_path / "m.toml", "https://x.invalid/m.onnx", content, bytes=5)
    with pytest.raises(ModelError, match=r"expected sha256 [0-9a-f]{12}…, 5 bytes$"):
        locate(str(card))


def test_a_card_beside_a_file_that_is_for_another_is_not_passed_over_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_cheap_model(tmp_path / "m.onnx")
    (tmp_path / "m.toml").write_text("name = 'm'\nfile = 'g.onnx'\nfamily = 'yolov8'\n")
    assert locate(str(tmp_path / "m.onnx")).card is None
    assert "m.toml is not used for m.onnx: it is for the file g.onnx" in caplog.text


def test_names_in_a_model_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    path = write_cheap_model(tmp_path / "m.onnx")
    model = onnx.load(path)
    (names,) = (entry for entry in model.metadata_props if entry.key == "names")
    names.value = names.value.replace("thing0", r"\ud800", 1)
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"its label '\\ud800' is no valid Unicode"):
        open_model(str(path))


HASH = "0" * 64


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("colour = 'BGR'", r"unknown key 'colour'; did you mean '.+'\? \(valid: name, file, urls"),
        ("sha265 = 'x'", "unknown key 'sha265'; did you mean 'sha256'"),
        ("pad = 3", r"unknown key 'pad': it belongs under \[input\]"),
        ("[input]\ncolour = 'BGR'", r"unknown key 'input.colour'; did you mean 'color'\? \(valid: size"),
        ("[input]\nfamily = 'x'", "unknown key 'input.family': it belongs above the tables"),
        ("[input]\nsize = [0, 4]", "input.size.0: .*greater than or equal to 1 .got 0"),
        ("[input]\nlayout = 'CHW'", "input.layout: .*'NCHW' or 'NHWC' .got 'CHW'"),
        ("[input]\nstd = [1e-300, 1, 1]", "input.std: expected three numbers other than 0"),
        ("[input]\nmean = [1e300, 0, 0]", "input.mean.0: .*less than or equal to 1000000"),
        ("[accuracy]\ndataset = 'd'\nap = 41.3", "accuracy.ap: .*less than or equal to 1 .got 41.3"),
        ("urls = ['https://h/m.onnx']", "'sha256' is missing: a card with urls"),
        (
            f"sha256 = '{HASH}'\nurls = ['ftp://h/m.onnx']",
            "urls: expected addresses that begin with https://",
        ),
        (f"sha256 = '{HASH}'\nurls = ['https:///m.onnx']", "urls: expected addresses"),
        ("sha256 = 'ABC'", "sha256: "),
        ("bytes = 0", "bytes: .*got 0"),
        ("task = 'detction'", "task: .*'detect'.*got 'detction'"),
        ("params = {a = " + "[" * 5000 + "]" * 5000 + "}", "m.toml: it is nested too deeply"),
        ("labels = '../../secret'", "labels: expected a list of labels, or the plain stem of a .txt file"),
        ("labels = '/etc/secret'", "labels: .*plain stem.* .got '/etc/secret'"),
        (r"labels = 'a\\b'", "labels: .*plain stem"),
        (r'labels = "a\u0000b"', "labels: .*plain stem"),
        (f"labels = '{'a' * 300}'", "labels: .*plain stem"),
        (
            f"urls = ['https://h/m.onnx']\nsha256 = '{HASH}'\nfile = '{'é' * 150}.onnx'",
            "file: expected a name of at most 200 bytes",
        ),
    ],
)
def test_what_is_wrong_in_a_card_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "m.toml"
    file = "" if "file" in text else "file = 'm.onnx'\n"
    path.write_text(f"name = 'm'\n{file}family = 'yolov8'\n{text}", encoding="utf-8")
    with pytest.raises(ModelError, match=says):
        read_card(path)


def test_a_byte_order_mark_is_no_part_of_a_card(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_bytes(b"\xef\xbb\xbfname = 'm'\r\nfile = 'm.onnx'\r\nfamily = 'yolov8'\r\n")
    assert read_card(path).name == "m"


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ("/etc/secret", "labels: .*plain stem of a .txt file"),
        ("../secret", "labels: .*plain stem of a .txt file"),
        ("a\0b", "labels: .*plain stem of a .txt file"),
        (["a", "\ud800"], r"labels: .*valid Unicode.*got '\\ud800'"),
    ],
)
def test_a_model_that_brings_a_card_along_reads_no_file_of_its_choice(labels: Any, says: str) -> None:
    """And its labels can be shown: JSON lets half a surrogate pair pass."""
    with pytest.raises(ModelError, match=f"the metadata of m.onnx: {says}"):
        embedded_card(
            "m", "m.onnx", {"framerail.family": "yolov8", "framerail.card": json.dumps({"labels": labels})}
        )


@pytest.mark.parametrize("file", ["../m.onnx", "/m.onnx", "a\\\\b.onnx", ".onnx", "x.toml", "c:m.onnx"])
def test_what_is_downloaded_has_a_plain_name(tmp_path: Path, file: str) -> None:
    path = write_card(tmp_path / "m.toml", "https://h/m.onnx", b"", file=file)
    path.write_text(path.read_text().replace("bytes = 0\n", ""))
    with pytest.raises(ModelError, match=r"file: expected the plain name of an \.onnx file"):
        read_card(path)


def test_no_password_is_in_a_cards_error(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text("name = 'm'\nurls = ['ftp://user:pass-w0rd@h/m.onnx']")
    with pytest.raises(ModelError, match="'file' is missing") as raised:
        read_card(path)
    assert "w0rd" not in str(raised.value)


# framerail models list | pull ---------------------------------------------------------------------


@pytest.fixture
def shown() -> Callable[..., tuple[str, str]]:
    """Run a command of model_commands; what it said on standard output and error."""

    def run(command: Callable[..., None], *arguments: Any, **options: Any) -> tuple[str, str]:
        with open(os.devnull, "w") as out, open(os.devnull, "w") as err:
            for_people, aside = (Console(record=True, width=300, file=file) for file in (out, err))
            given = (for_people,) if command is model_commands.show_list else (for_people, aside)
            try:
                command(*arguments, *given, **options)
            finally:
                said = for_people.export_text(), aside.export_text()
        return said

    return run


def test_list_says_what_is_here_and_where(
    folder: Path, shown: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    write_card(folder / "mine.toml", "https://user:pass-w0rd@x.invalid/m.onnx?token=s3cr3t", b"12")
    (folder / "mine.onnx").write_bytes(b"12")
    (folder / "bad.toml").write_text("nonsense")
    # A name that no file can have, a nesting that Python cannot follow: one bad card hides no other.
    (folder / "long.toml").write_text(f"name = 'm'\nfile = '{'a' * 300}'\nfamily = 'yolov8'\n")
    (folder / "nul.toml").write_text('name = "m"\nfile = "a\\u0000b"\nfamily = "yolov8"\n')
    (folder / "deep.toml").write_text("x = " + "[" * 5000)
    text, _ = shown(model_commands.show_list, as_json=False)
    here = {line.split()[0]: line.split()[-1] for line in text.splitlines() if line.strip()}
    assert (here["long"], here["nul"], here["deep"]) == ("no", "no", "no")
    assert (here["mine"], here["nanodet-g"], here["yolox-nano"], here["bad"]) == ("yes", "yes", "no", "no")
    assert "framerail models pull NAME" in text and str(folder) in text
    assert "is not valid TOML" in text
    table = text.split("\nframerail")[0].splitlines()
    assert "…" not in text and max(len(line.rstrip()) for line in table) <= 80, "too wide for a terminal"
    model_commands.show_list(Console(), as_json=True)
    listed = capsys.readouterr().out
    rows = {row["name"]: row for row in json.loads(listed)}
    assert (rows["mine"]["present"], rows["mine"]["path"]) == (True, str(folder / "mine.onnx"))
    assert (rows["yolox-nano"]["present"], rows["yolox-nano"]["path"]) == (False, None)
    assert "error" in rows["bad"]
    assert "w0rd" not in listed
    assert "s3cr3t" not in listed


@pytest.fixture
def offered(tmp_path: Path, folder: Path) -> Any:
    """A site with two models and a broken one, with cards in the user's folder that name them."""
    model = write_cheap_model(tmp_path / "source.onnx").read_bytes()
    with serving(Site()) as site:
        for name in ("one", "two"):
            site.answers[f"/{name}.onnx"] = lambda request: whole(request, model)
            write_card(folder / f"{name}.toml", site.url(f"/{name}.onnx"), model)
        site.answers["/gone.onnx"] = status(404)
        yield site, model


def test_pull_downloads_and_the_model_is_found(
    offered: tuple[Site, bytes], folder: Path, shown: Callable[..., Any]
) -> None:
    site, model = offered
    said, aside = shown(pull_command.pull, ["one"], None, as_json=False)
    assert said == f"one: downloaded: {folder / 'one.onnx'}\n"
    assert aside == ""
    assert (folder / "one.onnx").read_bytes() == model
    assert open_model("one").name == "one"
    said, _ = shown(pull_command.pull, ["one", "nanodet-g"], None, as_json=False)
    assert "one: was here already: " in said
    assert f"nanodet-g: was here already: {models_dir()}" in said
    assert len(site.asked) == 1
    # Of a second pull at the same time, which was killed after the first one had ended.
    (folder / f"one.onnx.{hashlib.sha256(model).hexdigest()[:12]}.00c0ffee.part").write_bytes(b"1")
    shown(pull_command.pull, ["one"], None, as_json=False)
    assert not list(folder.glob("*.part"))
    (folder / "one.onnx").write_bytes(b"spoilt")
    shown(pull_command.pull, ["one"], None, as_json=False)
    assert (folder / "one.onnx").read_bytes() == model


def test_pull_into_a_folder_says_how_it_is_found_there(
    offered: tuple[Site, bytes], folder: Path, tmp_path: Path, shown: Callable[..., Any]
) -> None:
    _, model = offered
    elsewhere = tmp_path / "elsewhere"
    _, aside = shown(pull_command.pull, [str(folder / "one.toml")], str(elsewhere), as_json=False)
    assert (elsewhere / "one.onnx").read_bytes() == model
    assert f"FRAMERAIL_MODELS={elsewhere}" in aside
    assert not (folder / "one.onnx").exists()


def test_what_pull_says_of_a_card_without_a_name_works(
    offered: tuple[Site, bytes],
    folder: Path,
    tmp_path: Path,
    shown: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A card that lies elsewhere is not copied: its path leads to it, and no name."""
    card = write_card(tmp_path / "cards of mine" / "good.toml", offered[0].url("/one.onnx"), offered[1])
    elsewhere = tmp_path / "else where"
    _, aside = shown(pull_command.pull, [str(card)], str(elsewhere), as_json=False)
    variable, given = (shlex.split(line)[-1] for line in aside.splitlines())
    monkeypatch.setenv(*variable.split("=", 1))
    assert locate(given).path == elsewhere / "good.onnx"
    (elsewhere / "good.onnx").unlink()
    assert (
        shown(pull_command.pull, [str(card)], None, as_json=False)[1]
        == f"to use it, give its card: --model '{card}'\n"
    )


def test_two_cards_of_one_file_do_not_replace_each_others(
    offered: tuple[Site, bytes], folder: Path, shown: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    site, model = offered
    site.answers["/other.onnx"] = lambda request: whole(request, b"another")
    write_card(folder / "same.toml", site.url("/one.onnx"), model, file="one.onnx")
    write_card(folder / "other.toml", site.url("/other.onnx"), b"another", file="one.onnx")
    with pytest.raises(ModelError, match=r"'other': its file one.onnx is in .* already as that of 'same'"):
        shown(pull_command.pull, ["one", "same", "other"], None, as_json=True)
    rows = {row["name"]: row["status"] for row in json.loads(capsys.readouterr().out)}
    assert rows == {"one": "downloaded", "same": "present", "other": "failed"}
    assert (folder / "one.onnx").read_bytes() == model


def test_pull_all_tries_every_one_and_names_what_failed(
    offered: tuple[Site, bytes],
    folder: Path,
    shown: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    site, _ = offered
    own = {path.stem: path for path in folder.glob("*.toml")} | {"nanodet-g": find_card("nanodet-g")}
    own["gone"] = write_card(folder / "gone.toml", site.url("/gone.onnx"), b"1")
    own["bad"] = folder / "bad.toml"
    own["bad"].write_text("nonsense")
    # The cards that ship name addresses out there.
    monkeypatch.setattr(pull_command, "cards", lambda _: dict(sorted(own.items())))
    with pytest.raises(ExceptionGroup) as raised:
        shown(pull_command.pull, ["all"], None, as_json=True)
    assert ["is not valid TOML" in str(e) or "HTTP 404" in str(e) for e in raised.value.exceptions] == [
        True
    ] * 2
    rows = {row["name"]: row["status"] for row in json.loads(capsys.readouterr().out)}
    assert rows == {"bad": "failed", "gone": "failed", "one": "downloaded", "two": "downloaded"}


def test_pull_ends_at_a_folder_that_cannot_be_written(
    offered: tuple[Site, bytes], tmp_path: Path, folder: Path, shown: Callable[..., Any]
) -> None:
    site, _ = offered
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="cannot write to"):
        shown(
            pull_command.pull,
            [str(folder / "one.toml"), str(folder / "two.toml")],
            str(tmp_path / "file"),
            as_json=False,
        )
    assert site.asked == []


def test_pull_that_is_interrupted_says_what_is_kept(
    offered: tuple[Site, bytes], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = offered

    def interrupted(card: Any, where: Path, _: Any) -> Path:
        def heard(done: int, total: int | None) -> None:
            if done:
                raise KeyboardInterrupt

        return download(card, where, heard)

    monkeypatch.setattr(pull_command, "download", interrupted)
    with open(os.devnull, "w") as nowhere:
        aside = Console(record=True, file=nowhere)
        with pytest.raises(KeyboardInterrupt):
            pull_command.pull(["one"], None, aside, aside, as_json=False)
        assert "one: what has come of it is kept" in aside.export_text()
    part = f"one.onnx.{hashlib.sha256(model).hexdigest()[:12]}.part"
    assert [path.name for path in folder.glob("one.onnx*")] == [part]


def test_pull_refuses_what_it_does_not_know(shown: Callable[..., Any], tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ModelError, match="no model card 'yolox-nan'; did you mean 'yolox-nano'"):
        shown(pull_command.pull, ["yolox-nan"], None, as_json=False)
    card = tmp_path / "here.toml"
    card.write_text("name = 'here'\nfile = 'here.onnx'\nfamily = 'yolov8'\n")
    with pytest.raises(ModelError, match=f"states no address .* copy here.onnx to {folder}"):
        shown(pull_command.pull, [str(card)], None, as_json=False)
    wrong = write_card(tmp_path / "wrong.toml", "https://x.invalid/m.onnx", b"right")
    (tmp_path / "wrong.onnx").write_bytes(b"wrong")
    with pytest.raises(ModelError, match=r"beside its card, is not the file .* remove it first"):
        shown(pull_command.pull, [str(wrong)], None, as_json=False)
    assert (tmp_path / "wrong.onnx").read_bytes() == b"wrong"


def test_pull_shows_a_bar_on_a_terminal(offered: tuple[Site, bytes], folder: Path) -> None:
    screen = Screen()
    err = Console(file=screen, force_terminal=True, width=120)
    with open(os.devnull, "w") as out:
        pull_command.pull(["one"], None, Console(file=out), err, as_json=False)
    assert "one" in screen.getvalue()
    assert "kB" in screen.getvalue()


def test_pull_draws_no_bar_into_a_log_that_may_be_coloured(
    offered: tuple[Site, bytes], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    log = io.StringIO()
    with open(os.devnull, "w") as out:
        pull_command.pull(["one"], None, Console(file=out), Console(file=log, width=120), as_json=False)
    assert "kB" not in log.getvalue() and "\x1b[?25l" not in log.getvalue()
