"""https, rtsps and rtmps: nothing is said to a server whose certificate is not trusted."""

from __future__ import annotations

import shutil
import ssl
import threading
from pathlib import Path

import av
import pytest

from pipeline.config import StreamConfig, make_config
from pipeline.errors import SourceError, SourceOpenError
from pipeline.sources import open_source, parse_source
from pipeline.sources.address import SAMPLE
from tests.servers import gst_rtsp_server, missing_gst_tls
from tests.tls import Certificate, https_server, listening, make_certificate


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"), "127.0.0.1")


@pytest.fixture(scope="module")
def of_another(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"), "other.example")


def stream(address: str, **options: object) -> StreamConfig:
    return make_config({"streams": [{"source": address, "open_timeout": 5, **options}]}).streams[0]


def first(address: str, **options: object) -> tuple[int, int]:
    source = open_source(parse_source(address), stream(address, **options), threading.Event())
    with source:
        height, width = next(iter(source)).image.shape[:2]  # type: ignore[union-attr]
    return width, height


def try_to_open(address: str, **options: object) -> SourceOpenError:
    with pytest.raises(SourceOpenError) as raised:
        open_source(parse_source(address), stream(address, **options), threading.Event())
    return raised.value


@pytest.mark.parametrize("scheme", ["https", "rtsps", "rtmps"])
def test_who_is_not_trusted_hears_nothing(scheme: str, trusted: Certificate) -> None:
    with listening(trusted) as server:
        error = try_to_open(f"{scheme}://viewer:canary@127.0.0.1:{server.port}/x")
    assert server.met.is_set()
    assert server.requests == []
    assert error.cause == "certificate"
    assert "self-signed certificate" in str(error)
    assert "tls_ca_file" in str(error)
    assert "tls_verify: false" in str(error)


@pytest.mark.parametrize("scheme", ["https", "rtsps", "rtmps"])
def test_a_trusted_certificate_for_another_host_is_refused(scheme: str, of_another: Certificate) -> None:
    with listening(of_another) as server:
        error = try_to_open(f"{scheme}://127.0.0.1:{server.port}/x", tls_ca_file=str(of_another.certificate))
    assert server.requests == []
    assert error.cause == "certificate"
    assert "not valid for '127.0.0.1'" in str(error)


@pytest.mark.parametrize("scheme", ["https", "rtsps", "rtmps"])
@pytest.mark.parametrize("way", ["named", "any"])
def test_one_that_is_trusted_is_spoken_to(scheme: str, way: str, trusted: Certificate) -> None:
    options = {"tls_ca_file": str(trusted.certificate)} if way == "named" else {"tls_verify": False}
    with listening(trusted) as server:
        error = try_to_open(f"{scheme}://127.0.0.1:{server.port}/x", **options)
    assert server.requests
    assert error.cause != "certificate"


def test_the_systems_authorities_are_taken_by_default(
    trusted: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL's own variable stands for them, since nobody signs for 127.0.0.1."""
    monkeypatch.setenv(ssl.get_default_verify_paths().openssl_cafile_env, str(trusted.certificate))
    with listening(trusted) as server:
        try_to_open(f"https://127.0.0.1:{server.port}/x")
    assert server.requests


def test_pictures_come_over_https(tmp_path: Path, trusted: Certificate) -> None:
    shutil.copy(SAMPLE, tmp_path / "clip.mp4")
    with https_server(tmp_path, trusted) as address:
        assert first(f"{address}/clip.mp4", tls_ca_file=str(trusted.certificate)) == first(str(SAMPLE))


@pytest.mark.parametrize("transport", ["auto", "udp"])
def test_pictures_come_over_rtsps_which_is_over_tcp(trusted: Certificate, transport: str) -> None:
    if missing_gst_tls():
        pytest.skip("needs TLS for GLib (glib-networking)")
    certificate = str(trusted.certificate), str(trusted.key)
    with gst_rtsp_server(SAMPLE, certificate=certificate, transport="tcp") as server:
        asked = stream(server.url, tls_ca_file=certificate[0], rtsp_transport=transport)
        with open_source(parse_source(server.url), asked, threading.Event()) as source:
            assert "rtsps over TCP" in source.description
            assert next(iter(source)).image.shape == (720, 1280, 3)  # type: ignore[union-attr]


def test_a_file_of_authorities_that_is_none(tmp_path: Path, trusted: Certificate) -> None:
    (tmp_path / "none.pem").write_text("no certificate")
    with listening(trusted) as server:
        address = f"https://127.0.0.1:{server.port}/x"
        assert "No such file" in str(try_to_open(address, tls_ca_file=str(tmp_path / "gone.pem")))
        assert "none.pem" in str(try_to_open(address, tls_ca_file=str(tmp_path / "none.pem")))
    assert server.requests == []


def playlist(folder: Path, segment: str) -> None:
    with av.open(str(SAMPLE)) as clip, av.open(str(folder / "segment.ts"), "w", format="mpegts") as out:
        video = clip.streams.video[0]
        copy = out.add_stream_from_template(video)
        for packet in clip.demux(video):
            if packet.dts is not None:
                packet.stream = copy
                out.mux(packet)
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10.0,\n{segment}\n#EXT-X-ENDLIST\n"
    (folder / "list.m3u8").write_text(text)


def test_a_playlist_whose_segments_nobody_verifies_is_said_so(tmp_path: Path, trusted: Certificate) -> None:
    playlist(tmp_path, "segment.ts")
    with https_server(tmp_path, trusted) as address:
        error = try_to_open(f"{address}/list.m3u8", tls_ca_file=str(trusted.certificate))
        assert error.cause == "certificate"
        assert "segments" in str(error)
        assert first(f"{address}/list.m3u8", tls_verify=False) == first(str(SAMPLE))


def test_ffmpeg_still_verifies_no_segment(
    tmp_path: Path, trusted: Certificate, of_another: Certificate
) -> None:
    """Why playlists are refused: once this fails, they need be no longer."""
    with https_server(tmp_path, of_another) as elsewhere, https_server(tmp_path, trusted) as address:
        playlist(tmp_path, f"{elsewhere}/segment.ts")
        options = {"tls_verify": "1", "ca_file": str(trusted.certificate)}
        with av.open(f"{address}/list.m3u8", options=options, timeout=5) as container:
            assert container.streams.video


def test_a_redirection_from_http_is_verified_too(trusted: Certificate) -> None:
    import http.server

    with listening(trusted) as server:

        class Redirecting(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(302)
                self.send_header("Location", f"https://127.0.0.1:{server.port}/x")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as plain:
            thread = threading.Thread(target=plain.serve_forever, args=(0.02,), daemon=True)
            thread.start()
            with pytest.raises(SourceError):
                first(f"http://127.0.0.1:{plain.server_port}/x")
            plain.shutdown()
            thread.join(5)
    assert server.requests == []
