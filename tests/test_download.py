"""Downloads from real HTTP servers on loopback, good ones and every kind of bad one."""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import hashlib
import http.server
import os
import re
import shutil
import socket
import socketserver
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ModelError
from pipeline.redact import redact
from pipeline.runtime import download as downloading
from pipeline.runtime.card import ModelCard
from pipeline.runtime.download import download, shown
from pipeline.runtime.partfile import FolderError, Part

ROOT = Path(__file__).resolve().parent.parent
CONTENT = np.random.default_rng(3).bytes(1_300_003)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Site:
    """A server: what it does with a request is ``answers`` by path; what it was asked is ``asked``."""

    base: str = ""
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    sent: int = 0
    answers: dict[str, Callable[[Any], None]] = field(default_factory=dict)

    def url(self, path: str) -> str:
        return self.base + path

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.asked]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, site: Site, *arguments: Any) -> None:
        self.site = site
        super().__init__(*arguments)

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.close_connection = True
        self.site.asked.append((self.path, dict(self.headers)))
        with contextlib.suppress(ConnectionError):
            self.site.answers[self.path.partition("?")[0]](self)

    def head(self, status: int, **headers: Any) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def body(self, data: bytes) -> None:
        for start in range(0, len(data), 65536):
            self.wfile.write(data[start : start + 65536])
            self.site.sent += len(data[start : start + 65536])

    def start(self) -> int:
        """First byte asked for."""
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))
        assert asked
        return int(asked[1])


def whole(request: Handler, content: bytes = CONTENT) -> None:
    """A server that knows no Range."""
    request.head(200, Content_Length=len(content))
    request.body(content)


def ranged(request: Handler, content: bytes = CONTENT) -> None:
    """A server that knows Range."""
    start = request.start()
    if start >= len(content):
        return request.head(416, Content_Length=0, Content_Range=f"bytes */{len(content)}")
    if "Range" not in request.headers:
        return whole(request, content)
    span = f"bytes {start}-{len(content) - 1}/{len(content)}"
    request.head(206, Content_Length=len(content) - start, Content_Range=span)
    return request.body(content[start:])


def broken(request: Handler, *, after: int = 400_000, resumes: bool = True) -> None:
    """A connection that ends ``after`` bytes."""
    start = request.start() if resumes else 0
    span = {"Content_Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"} if start else {}
    request.head(206 if start else 200, Content_Length=len(CONTENT) - start, **span)
    request.body(CONTENT[start : start + after])


def status(code: int, **headers: Any) -> Callable[[Handler], None]:
    return lambda request: request.head(code, Content_Length=0, **headers)


def unbounded(request: Handler) -> None:
    """Bytes without end and without a stated length."""
    request.head(200)
    for _ in range(1000):
        request.body(bytes(65536))


def short(request: Handler) -> None:
    """A whole answer, without a stated length, of half a file."""
    request.head(200)
    request.body(CONTENT[: len(CONTENT) // 2])


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    made = Site(
        answers={
            "/whole.onnx": whole,
            "/ranged.onnx": ranged,
            "/broken.onnx": broken,
            "/404.onnx": status(404),
            "/500.onnx": status(500),
            "/circle.onnx": status(302, Location="/circle.onnx"),
            "/ftp.onnx": status(302, Location="ftp://127.0.0.1/x.onnx"),
            "/file.onnx": status(302, Location="file:///etc/passwd"),
            "/moved.onnx": status(302, Location="/ranged.onnx"),
            "/other.onnx": functools.partial(whole, content=CONTENT[::-1]),
            "/small.onnx": functools.partial(whole, content=CONTENT[:1000]),
            "/large.onnx": functools.partial(whole, content=CONTENT + b"x"),
            "/unbounded.onnx": unbounded,
            "/short.onnx": short,
        }
    )
    with serving(made):
        yield made


@contextlib.contextmanager
def serving(site: Site, context: ssl.SSLContext | None = None) -> Iterator[Site]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, site))
    server.daemon_threads = False
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    site.base = f"{'http' if context is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=functools.partial(server.serve_forever, 0.02))
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def a_card(*urls: str, **changes: Any) -> ModelCard:
    stated = {"name": "m", "file": "m.onnx", "family": "yolov8", "sha256": SHA256, "bytes": len(CONTENT)}
    return ModelCard(urls=urls, **(stated | changes))


def part_path(folder: Path) -> Path:
    return folder / f"m.onnx.{SHA256[:12]}.part"


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_file_comes_whole_and_says_how_far_it_is(site: Site, tmp_path: Path, size: int | None) -> None:
    heard: list[tuple[int, int | None]] = []
    folder = tmp_path / "a" / "b"
    path = download(
        a_card(site.url("/whole.onnx"), bytes=size), folder, lambda *numbers: heard.append(numbers)
    )
    assert path == folder / "m.onnx"
    assert path.read_bytes() == CONTENT
    assert left(folder) == ["m.onnx"]
    assert heard[0] == (0, len(CONTENT))
    assert heard[-1] == (len(CONTENT), len(CONTENT))
    assert heard == sorted(heard)
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_file_that_is_there_and_right_is_not_fetched(site: Site, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(CONTENT)
    part_path(tmp_path).write_bytes(CONTENT[:5])
    download(a_card(site.url("/whole.onnx")), tmp_path)
    assert site.asked == []
    assert left(tmp_path) == ["m.onnx"]


def test_a_file_that_is_not_the_cards_is_replaced(site: Site, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"of an older card")
    download(a_card(site.url("/whole.onnx")), tmp_path)
    assert (tmp_path / "m.onnx").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/404.onnx", "HTTP 404 Not Found"),
        ("/500.onnx", "HTTP 500 Internal Server Error"),
        ("/circle.onnx", "redirects in a circle"),
        ("/ftp.onnx", "unknown url type: ftp"),
        ("/file.onnx", "redirects to what is no http address"),
        ("/other.onnx", "not the file that the card names: sha256 [0-9a-f]{12}…, 1,300,003 bytes"),
        ("/small.onnx", "it has a file of 1,000 bytes, and the card states 1,300,003"),
        ("/large.onnx", "it has a file of 1,300,004 bytes"),
        ("/unbounded.onnx", "sends more than the 1,300,003 bytes"),
        ("/short.onnx", "broke off after 650,001 of 1,300,003"),
    ],
)
def test_what_fails_is_named_and_leaves_nothing(site: Site, tmp_path: Path, path: str, says: str) -> None:
    """Neither a file, nor a part, nor the folders that were made for it; an older file stays as it was."""
    with pytest.raises(ModelError, match=says) as raised:
        download(a_card(site.url(path)), tmp_path / "new" / "folder")
    assert left(tmp_path) == []
    assert "\n" not in str(raised.value)
    assert f"{site.base}{path}: " in str(raised.value)
    (tmp_path / "m.onnx").write_bytes(b"older")
    with pytest.raises(ModelError):
        download(a_card(site.url(path)), tmp_path)
    assert left(tmp_path) == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == b"older"


def test_too_much_is_cut_off_early(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        download(a_card(site.url("/unbounded.onnx")), tmp_path)
    assert site.sent < 40_000_000


def test_without_any_stated_size_there_is_a_limit(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "LARGEST", 1_000_000)
    with pytest.raises(ModelError, match="it sends more than 1,000,000 bytes"):
        download(a_card(site.url("/unbounded.onnx"), bytes=None), tmp_path)
    assert left(tmp_path) == []
    assert site.sent < 40_000_000


def test_an_address_that_drips_does_not_keep_from_the_next_one(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never silent for long, and never done. What came of it is gone on with elsewhere."""
    monkeypatch.setattr(downloading, "RATE_SECONDS", 0.2)
    done = threading.Event()

    def dripping(request: Handler) -> None:
        request.head(200, Content_Length=len(CONTENT))
        for start in range(500):
            request.body(CONTENT[start : start + 1])
            if done.wait(0.01):
                break

    site.answers["/dripping.onnx"] = dripping
    try:
        with pytest.raises(ModelError, match=r"slower than 1,000 bytes a second; \d+ bytes are kept"):
            download(a_card(site.url("/dripping.onnx")), tmp_path / "alone")
        download(a_card(site.url("/dripping.onnx"), site.url("/ranged.onnx")), tmp_path)
    finally:
        done.set()
    assert (tmp_path / "m.onnx").read_bytes() == CONTENT
    begun = site.ranges[-1]
    assert begun is not None
    assert 0 < int(begun.removeprefix("bytes=").removesuffix("-")) < 200


def test_a_wrong_hash_without_a_stated_size(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not the file that the card names"):
        download(a_card(site.url("/short.onnx"), bytes=None), tmp_path)
    assert left(tmp_path) == []


def test_addresses_are_tried_in_order_and_each_failure_is_named(site: Site, tmp_path: Path) -> None:
    urls = [site.url(path) for path in ("/404.onnx", "/other.onnx", "/moved.onnx", "/whole.onnx")]
    download(a_card(*urls), tmp_path)
    assert [path for path, _ in site.asked] == ["/404.onnx", "/other.onnx", "/moved.onnx", "/ranged.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == CONTENT
    with pytest.raises(ModelError, match=r"404\.onnx: HTTP 404 .*500\.onnx: HTTP 500 .* copy n\.onnx to"):
        download(a_card(*urls[:1], site.url("/500.onnx"), file="n.onnx"), tmp_path)


def test_hosts_that_do_not_answer(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as gone:
        refused = gone.getsockname()[1]
        gone.close()
        urls = [
            f"http://127.0.0.1:{silent.getsockname()[1]}/m.onnx",
            f"http://127.0.0.1:{refused}/m.onnx",
            "http://nowhere.invalid/m.onnx",
            "http://exa mple:99/m.onnx",
        ]
        said = "no answer for 0.2 s.*connection refused.*its host cannot be found.*mple:99/m.onnx: "
        with pytest.raises(ModelError, match=said):
            download(a_card(*urls), tmp_path / "folder")
    assert left(tmp_path) == []


def test_a_server_that_speaks_no_http(site: Site, tmp_path: Path) -> None:
    class Nonsense(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(b"220 ready\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Nonsense) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(ModelError, match="does not answer in HTTP"):
            download(a_card(f"http://127.0.0.1:{server.server_address[1]}/m.onnx"), tmp_path)
        thread.join()


# Resuming -----------------------------------------------------------------------------------------


def test_a_broken_connection_is_taken_up_where_it_broke(site: Site, tmp_path: Path) -> None:
    download(a_card(site.url("/broken.onnx")), tmp_path)
    assert site.ranges == [None, "bytes=400000-", "bytes=800000-", "bytes=1200000-"]
    assert (tmp_path / "m.onnx").read_bytes() == CONTENT
    assert left(tmp_path) == ["m.onnx"]


def test_another_address_takes_up_what_the_first_began(site: Site, tmp_path: Path) -> None:
    site.answers["/once.onnx"] = lambda request: (
        broken(request) if request.start() == 0 else request.head(503, Content_Length=0)
    )
    download(a_card(site.url("/once.onnx"), site.url("/ranged.onnx")), tmp_path)
    assert site.ranges == [None, "bytes=400000-", "bytes=400000-"]
    assert (tmp_path / "m.onnx").read_bytes() == CONTENT


def test_a_break_leaves_the_part_and_the_next_call_resumes(site: Site, tmp_path: Path) -> None:
    site.answers["/stuck.onnx"] = functools.partial(broken, resumes=False)
    with pytest.raises(
        ModelError, match=r"broke off after 400,000 of 1,300,003 bytes; 400,000 bytes are kept"
    ):
        download(a_card(site.url("/stuck.onnx")), tmp_path)
    assert left(tmp_path) == [part_path(tmp_path).name]
    heard: list[tuple[int, int | None]] = []
    download(a_card(site.url("/ranged.onnx")), tmp_path, lambda *numbers: heard.append(numbers))
    assert site.ranges[-1] == "bytes=400000-"
    assert heard[0] == (400_000, len(CONTENT))
    assert left(tmp_path) == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == CONTENT


def test_a_slow_server_is_left_and_its_bytes_are_kept(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "TIMEOUT_SECONDS", 2.0)  # a loaded machine's first answer may take one
    done = threading.Event()

    def stalling(request: Handler) -> None:
        request.head(200, Content_Length=len(CONTENT))
        request.body(CONTENT[:1000])
        done.wait(20)

    site.answers["/stalling.onnx"] = stalling
    with pytest.raises(ModelError, match=r"no answer for 2 s; 1,000 bytes are kept"):
        download(a_card(site.url("/stalling.onnx")), tmp_path)
    done.set()
    assert part_path(tmp_path).read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("path", ["/whole.onnx", "/ranged.onnx"])
@pytest.mark.parametrize(
    "begun",
    [CONTENT[:1000], CONTENT, b"not what it should be", CONTENT[:-1] + b"x", CONTENT + b"too much"],
    ids=["some", "all", "wrong", "all of it, wrong", "too much"],
)
def test_whatever_an_earlier_call_left(site: Site, tmp_path: Path, path: str, begun: bytes) -> None:
    part_path(tmp_path).write_bytes(begun)
    download(a_card(site.url(path)), tmp_path)
    assert (tmp_path / "m.onnx").read_bytes() == CONTENT
    assert left(tmp_path) == ["m.onnx"]


def test_a_part_longer_than_the_servers_file_starts_again(site: Site, tmp_path: Path) -> None:
    part_path(tmp_path).write_bytes(CONTENT + b"too much")
    download(a_card(site.url("/ranged.onnx"), bytes=None), tmp_path)
    assert site.ranges == [f"bytes={len(CONTENT) + 8}-", None]
    assert (tmp_path / "m.onnx").read_bytes() == CONTENT


def test_a_wrong_part_and_a_wrong_file_end_and_leave_nothing(site: Site, tmp_path: Path) -> None:
    part_path(tmp_path).write_bytes(b"wrong")
    site.answers["/wrong.onnx"] = functools.partial(ranged, content=CONTENT[::-1])
    with pytest.raises(ModelError, match="not the file that the card names"):
        download(a_card(site.url("/wrong.onnx")), tmp_path)
    assert left(tmp_path) == []


def test_another_range_than_asked_for_is_no_answer(site: Site, tmp_path: Path) -> None:
    def another(request: Handler) -> None:
        request.head(206, Content_Length=3, Content_Range=f"bytes 7-9/{len(CONTENT)}")
        request.body(b"abc")

    site.answers["/another.onnx"] = another
    part_path(tmp_path).write_bytes(CONTENT[:1000])
    with pytest.raises(ModelError, match="another part of the file"):
        download(a_card(site.url("/another.onnx")), tmp_path)
    assert part_path(tmp_path).read_bytes() == CONTENT[:1000]


def test_a_page_in_the_place_of_the_file_costs_nothing_of_the_part(site: Site, tmp_path: Path) -> None:
    """As a login page answers whatever is asked, with status 200."""
    part_path(tmp_path).write_bytes(CONTENT[:1000])
    with pytest.raises(ModelError, match=r"it has a file of 1,000 bytes.*; 1,000 bytes are kept"):
        download(a_card(site.url("/small.onnx")), tmp_path)
    assert part_path(tmp_path).read_bytes() == CONTENT[:1000]


def test_an_interruption_leaves_the_part(site: Site, tmp_path: Path) -> None:
    def interrupted(done: int, total: int | None) -> None:
        if done > 300_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(a_card(site.url("/ranged.onnx")), tmp_path, interrupted)
    begun = part_path(tmp_path).read_bytes()
    assert 300_000 < len(begun) < len(CONTENT)
    assert CONTENT.startswith(begun)
    download(a_card(site.url("/ranged.onnx")), tmp_path)
    assert site.ranges == [None, f"bytes={len(begun)}-"]
    assert left(tmp_path) == ["m.onnx"]


# The folder ---------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        FolderError, match=r"cannot write to .*file/models: it is no folder; choose another folder \(--dir\)"
    ):
        download(a_card(site.url("/whole.onnx")), tmp_path / "file" / "models")
    assert site.asked == []


def test_a_folder_that_may_not_be_written(site: Site, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o555)
    with pytest.raises(FolderError, match=r"cannot write to .*Permission denied"):
        download(a_card(site.url("/whole.onnx")), tmp_path)


def test_a_folder_in_the_place_of_the_file(site: Site, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").mkdir()
    with pytest.raises(FolderError, match=r"cannot write to .*: m.onnx in it is a folder"):
        download(a_card(site.url("/whole.onnx")), tmp_path)
    assert left(tmp_path) == ["m.onnx"]
    assert site.asked == []


def test_a_pipe_in_the_place_of_the_part(site: Site, tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(part_path(tmp_path))
    with pytest.raises(FolderError, match=r"cannot write to .*\.part in it is no plain file"):
        download(a_card(site.url("/whole.onnx")), tmp_path)
    assert site.asked == []


def test_a_full_disk_leaves_nothing(site: Site, tmp_path: Path) -> None:
    """A real one: a file system of 1 MB."""
    if not (sys.platform == "linux" and os.geteuid() == 0 and shutil.which("mount")):
        pytest.skip("mounting a small file system needs root on Linux")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"this root may not mount: {mounted.stderr.strip()}")
    try:
        with pytest.raises(FolderError, match=f"no space left in {tmp_path}: "):
            download(a_card(site.url("/404.onnx"), site.url("/whole.onnx")), tmp_path)
        assert left(tmp_path) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# Two at once --------------------------------------------------------------------------------------

_CHILD = """
import sys
from pathlib import Path
from pipeline.runtime.card import ModelCard
from pipeline.runtime.download import download
url, sha256, size, folder = sys.argv[1:]
card = ModelCard(name="m", file="m.onnx", family="yolov8", urls=[url], sha256=sha256, bytes=int(size))
sys.stdin.readline()
download(card, Path(folder))
"""


def test_two_processes_do_not_spoil_each_other(site: Site, tmp_path: Path) -> None:
    """Both are held in the middle of the file until both are there."""
    meeting = threading.Barrier(2)

    def slow(request: Handler) -> None:
        request.head(200, Content_Length=len(CONTENT))
        request.body(CONTENT[:500_000])
        meeting.wait(20)
        request.body(CONTENT[500_000:])

    site.answers["/slow.onnx"] = slow
    command = [sys.executable, "-c", _CHILD, site.url("/slow.onnx"), SHA256, str(len(CONTENT)), str(tmp_path)]
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            )
            for _ in range(2)
        ]
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        for child in children:
            _, problems = child.communicate(timeout=30)
            assert (child.returncode, problems) == (0, "")
    assert site.ranges == [None, None]
    assert (tmp_path / "m.onnx").read_bytes() == CONTENT
    assert left(tmp_path) == ["m.onnx"]


def test_a_second_one_that_fails_does_not_touch_the_firsts_part(site: Site, tmp_path: Path) -> None:
    first = Part(tmp_path / "m.onnx", SHA256)
    first.write(CONTENT[:1000])
    for path in ("/other.onnx", "/404.onnx"):
        with pytest.raises(ModelError):
            download(a_card(site.url(path)), tmp_path)
    site.answers["/stuck.onnx"] = functools.partial(broken, resumes=False)
    with pytest.raises(ModelError) as raised:
        download(a_card(site.url("/stuck.onnx")), tmp_path)
    assert "are kept" not in str(raised.value)
    assert left(tmp_path) == [part_path(tmp_path).name]
    first.close()
    assert part_path(tmp_path).read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("path", ["/whole.onnx", "/404.onnx"])
def test_what_killed_ones_left_is_removed_and_what_others_hold_is_not(
    site: Site, tmp_path: Path, path: str
) -> None:
    """Of a second puller, which cannot be resumed; the first one's is gone when the file has come."""
    first, second = (Part(tmp_path / "m.onnx", SHA256) for _ in range(2))
    abandoned = tmp_path / f"m.onnx.{SHA256[:12]}.00c0ffee.part"
    abandoned.write_bytes(CONTENT[:1000])
    others = [tmp_path / "m.onnx.part", tmp_path / f"n.onnx.{SHA256[:12]}.00c0ffee.part"]
    for other in others:
        other.write_bytes(b"not this file's")
    with contextlib.suppress(ModelError):
        download(a_card(site.url(path)), tmp_path)
    came = [tmp_path / "m.onnx"] if path == "/whole.onnx" else []
    assert left(tmp_path) == sorted(path.name for path in (*others, first.path, second.path, *came))
    first.write(CONTENT[:1000])
    first.close()
    second.restart()
    second.write(CONTENT)
    second.place()
    second.close()
    assert left(tmp_path) == sorted(path.name for path in (*others, tmp_path / "m.onnx"))


def test_a_file_system_without_locks(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some network file systems: the file comes, and whose the parts are is not guessed."""
    fcntl = pytest.importorskip("fcntl")

    def unsupported(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    other = tmp_path / f"m.onnx.{SHA256[:12]}.00c0ffee.part"
    other.write_bytes(CONTENT[:1000])
    monkeypatch.setattr(fcntl, "flock", unsupported)
    download(a_card(site.url("/whole.onnx")), tmp_path)
    assert (tmp_path / "m.onnx").read_bytes() == CONTENT
    assert left(tmp_path) == ["m.onnx", other.name]


def test_the_lock_ends_with_the_process(site: Site, tmp_path: Path) -> None:
    """One that was killed leaves a part that the next one goes on with."""
    waiting = threading.Event()

    def hanging(request: Handler) -> None:
        request.head(200, Content_Length=len(CONTENT))
        request.body(CONTENT[:500_000])
        waiting.wait(20)

    site.answers["/hanging.onnx"] = hanging
    url = site.url("/hanging.onnx")
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, url, SHA256, str(len(CONTENT)), str(tmp_path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    ) as child:  # fmt: skip
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
        deadline = time.monotonic() + 20
        while not (part_path(tmp_path).exists() and part_path(tmp_path).stat().st_size >= 400_000):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.kill()
    waiting.set()
    left_there = part_path(tmp_path).stat().st_size
    download(a_card(site.url("/ranged.onnx")), tmp_path)
    assert site.ranges[-1] == f"bytes={left_there}-"
    assert left(tmp_path) == ["m.onnx"]


# Secrets, proxies, certificates -------------------------------------------------------------------


def test_a_login_in_the_address_is_used_and_never_shown(site: Site, tmp_path: Path) -> None:
    with_login = site.url("/moved.onnx?token=s3cr3t-token").replace("://", "://us%40er:pa%2Fss w0rd@")
    site.answers["/401.onnx"] = status(401)
    download(a_card(with_login), tmp_path)
    (_, asked), (_, redirected) = site.asked
    assert base64.b64decode(asked["Authorization"].removeprefix("Basic ")) == b"us@er:pa/ss w0rd"
    assert "Authorization" not in redirected
    assert site.asked[0][0] == "/moved.onnx?token=s3cr3t-token"
    failing = with_login.replace("moved", "401"), site.url("/404.onnx")
    with pytest.raises(
        ModelError, match=r"401\.onnx: HTTP 401 Unauthorized; .*404\.onnx: HTTP 404"
    ) as raised:
        download(a_card(*failing, file="n.onnx"), tmp_path)
    for secret in ("s3cr3t", "w0rd", "us%40er", "us@er"):
        assert secret not in str(raised.value)


def test_an_address_is_shown_without_what_is_secret_and_with_the_rest() -> None:
    assert shown("https://a:b@host:8/p@1.2/m.onnx?key=x#y") == "https://host:8/p%401.2/m.onnx"
    assert redact(shown("https://h/p@1/m.onnx")) == "https://h/p%401/m.onnx"


def test_an_addresss_secrets_are_known_to_redaction_once_the_card_is_read() -> None:
    assert redact("pa55-of-a-card") == "pa55-of-a-card"
    a_card("https://user:pa55-of-a-card@h.invalid/m.onnx")
    assert redact("pa55-of-a-card") == "***"


def test_the_environments_proxy_is_asked(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", site.base)
    site.answers["http://models.invalid/m.onnx"] = whole
    download(a_card("http://models.invalid/m.onnx"), tmp_path)
    assert [path for path, _ in site.asked] == ["http://models.invalid/m.onnx"]


def test_a_certificate_that_nobody_vouches_for_is_refused(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("making a certificate needs openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        textwrap.dedent(f"""
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test
            -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}
        """).split(),
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(Site(answers={"/m.onnx": whole}), context) as safe:
        with pytest.raises(ModelError, match="its certificate is not trusted: self-signed certificate"):
            download(a_card(safe.url("/m.onnx")), tmp_path / "models")
        assert safe.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        download(a_card(safe.url("/m.onnx")), tmp_path / "models")
    assert left(tmp_path / "models") == ["m.onnx"]
