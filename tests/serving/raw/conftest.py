"""Servers of models that take raw values: of one process, and of several."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.fuzz import raw_models
from tests.hostile.raw import png

NAMES = ("pictures", "words", "pairs", "rows")
PICTURE = png.many_colours(48, 48)
URLS = ("--input-urls", r"http://127\.0\.0\.1:\d+/.*", "--input-urls-private")
LIMITS = ("--decode-threads", "2", "--max-queue-rows", "64", "--max-text-bytes", "4KiB")
APART = json.dumps({"pictures": {"execution": "process"}})
PROCESSES = {"one": ("--frontends", "1"), "several": ("--frontends", "2", "--model-settings", APART)}


@pytest.fixture(scope="session")
def raw_repository(tmp_path_factory):
    """A picture's, two texts' and a table's model."""
    return raw_models.write_repository(tmp_path_factory.mktemp("raw"), NAMES)


@pytest.fixture(scope="module", params=PROCESSES)
def server(request, start_server, raw_repository):
    """A server of one process, and one whose front ends decode for engines in other processes."""
    with start_server(raw_repository, *LIMITS, *URLS, *PROCESSES[request.param]) as running:
        yield running


class Handler(BaseHTTPRequestHandler):
    """Answers by its path; `over` is set when the test is."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        with contextlib.suppress(OSError):
            getattr(self, self.path.strip("/").partition("?")[0].partition(".")[0], self.none)()

    def picture(self):
        self._head(200, len(PICTURE))
        self.wfile.write(PICTURE)

    def moved(self):
        self.send_response(302)
        self.send_header("Location", "/picture.png")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def large(self):
        self.send_response(200)
        self.end_headers()
        while not self.pictures.over.is_set():
            self.wfile.write(PICTURE)

    def short(self):
        self._head(200, len(PICTURE) + 1)
        self.wfile.write(PICTURE)
        self.close_connection = True

    def silent(self):
        self.pictures.asked.set()
        self.rfile.read(1)  # until the client leaves
        self.pictures.left.set()

    def none(self):
        self._head(404, 0)

    def _head(self, status, size):
        self.send_response(status)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def log_message(self, format, *args):  # noqa: A002 - the base class's name
        pass

    @property
    def pictures(self):
        assert isinstance(self.server, PictureServer)
        return self.server


class PictureServer(ThreadingHTTPServer):
    """Tells what was asked, and whether the client left; `over` ends what would have no end."""

    daemon_threads, block_on_close = True, False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.over, self.asked, self.left = threading.Event(), threading.Event(), threading.Event()


@pytest.fixture
def source():
    """A server of pictures on this machine."""
    server = PictureServer()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()
