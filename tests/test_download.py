"""Downloads: resumed, checked, never half there. The server is ours, on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from eval import download, hub

DATA = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


class Server:
    """Serves DATA; `cuts` are the numbers of bytes after which answers break off, in turn."""

    def __init__(self, ranges=True, status=200):
        self.cuts: list[int] = []
        self.asked: list[str | None] = []
        self.ranges, self.status = ranges, status
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                wanted = self.headers.get("Range")
                outer.asked.append(wanted)
                if outer.status != 200:
                    self.send_error(outer.status)
                    return
                start = int(wanted[6:-1]) if wanted and outer.ranges else 0
                body = DATA[start:]
                self.send_response(206 if wanted and outer.ranges else 200)
                if wanted and outer.ranges:
                    end = len(DATA) - 1
                    self.send_header("Content-Range", f"bytes {start}-{end}/{len(DATA)}")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: outer.cuts.pop(0) if outer.cuts else None])

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/data.zip"

    def close(self):
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(hub, "offline", lambda: False)
    monkeypatch.setattr(download, "PAUSE", 0.0)
    server = Server()
    yield server
    server.close()


def fetch(server, path, size=None, sha256=SHA256):
    return download.fetch([server.url], path, size or len(DATA), sha256)


def test_a_cut_connection_is_resumed_by_range(server, tmp_path):
    server.cuts = [1_200_000, 700_000]
    path = fetch(server, tmp_path / "new" / "data.zip")
    assert path.read_bytes() == DATA and not list(path.parent.glob("*.part"))
    assert server.asked == [None, "bytes=1200000-", "bytes=1900000-"]
    fetch(server, path)
    assert len(server.asked) == 3  # what is there is not asked for again


def test_a_second_call_goes_on_where_the_first_stopped(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.cuts = [1_500_000, 0]
    with pytest.raises(OSError, match=r"stopped at 2 of 3 MB .*; the same command goes on"):
        fetch(server, tmp_path / "data.zip")
    assert (tmp_path / "data.zip.part").stat().st_size == 1_500_000
    assert fetch(server, tmp_path / "data.zip").read_bytes() == DATA
    assert server.asked[-1] == "bytes=1500000-"


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.ranges, server.cuts = False, [1_000_000]
    assert fetch(server, tmp_path / "data.zip").read_bytes() == DATA


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(OSError, match=r"wrong checksum .* was deleted; run the same command"):
        fetch(server, tmp_path / "data.zip", sha256="0" * 64)
    assert not list(tmp_path.iterdir())


def test_the_next_address_is_tried(server, tmp_path, monkeypatch):
    broken = Server(status=404)
    path = download.fetch([broken.url, server.url], tmp_path / "data.zip", len(DATA), SHA256)
    broken.close()
    assert path.read_bytes() == DATA and len(broken.asked) == 1


def test_errors_name_the_reason(server, tmp_path, monkeypatch):
    server.status = 503
    with pytest.raises(OSError, match="the server answers 503"):
        fetch(server, tmp_path / "data.zip")
    with pytest.raises(OSError, match="needs 1000000000000 MB"):
        fetch(server, tmp_path / "data.zip", size=10**18)
    monkeypatch.setattr(hub, "offline", lambda: True)
    with pytest.raises(OSError, match="HF_HUB_OFFLINE is set"):
        fetch(server, tmp_path / "data.zip")
