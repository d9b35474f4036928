import contextlib
import http.server
import os
import threading
import time

import pytest

from serving.torchserve.errors import DownloadArchiveException, InternalServerException, ModelNotFoundException
from serving.torchserve.registry.downloads import is_allowed, locate, remove_abandoned

ANYWHERE = ("file://.*", "http(s)?://.*")
CONTENT = bytes(range(256)) * 5000


class _Files(http.server.BaseHTTPRequestHandler):
    """`/a.mar` is a file, `/to.mar?URL` leads elsewhere, `/short.mar` ends too early, `/404.mar` is not there.

    `/trickle.mar` comes byte by byte, until nobody wants it any more.
    """

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path in {"/to.mar", "/dots.mar"}:
            self.send_response(302)
            self.send_header("Location", query or "/x/%2e%2e/a.mar")
            self.end_headers()
            return
        if path == "/404.mar":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        while path == "/trickle.mar":
            self.wfile.write(b"x")
            time.sleep(0.01)
        self.wfile.write(CONTENT[: 1000 if path == "/short.mar" else None])

    def handle(self):
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, format, *args):  # noqa: A002
        pass


@pytest.fixture(scope="module")
def files():
    """The address of a server of files."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def refused(error, url, store, allowed=ANYWHERE, **more):
    before = names(store)
    with pytest.raises(error) as found:
        locate(url, store, allowed, **more)
    assert names(store) == before
    return str(found.value)


def test_name_in_the_store(store):
    """A name is a file or a folder of the store; it was not fetched, and discarding leaves it."""
    (store / "a.mar").write_bytes(b"x")
    (store / "folder").mkdir()
    archive = locate("a.mar", store, ())
    assert archive.path == store / "a.mar"
    archive.discard()
    assert archive.path.exists()
    assert locate("folder", store, ()).path == store / "folder"


@pytest.mark.parametrize("url", ["/somewhere/else/a.mar", "folder/a.mar", "./a.mar", "a.mar/", "s3://bucket/a.mar"])
def test_only_the_last_part_counts(store, url):
    """Of a path only the last part is looked for, as in TorchServe: nothing outside the store can be named."""
    (store / "a.mar").write_bytes(b"x")
    assert locate(url, store, ()).path == store / "a.mar"


def test_link_in_the_store(store, tmp_path):
    """What the operator linked into the store is followed."""
    (tmp_path / "real.mar").write_bytes(b"x")
    (store / "a.mar").symlink_to(tmp_path / "real.mar")
    assert locate("a.mar", store, ()).path == store / "a.mar"


@pytest.mark.parametrize("url", ["nobody.mar", ".hidden", "/", ".", "x\0.mar", "x" * 5000, "/etc/passwd"])
def test_name_that_is_not_there(store, url):
    """What is not in the store, and what its name hides, is not found."""
    (store / ".hidden").write_bytes(b"x")
    assert refused(ModelNotFoundException, url, store) == f"Model not found at: {url}"


def test_no_name(store):
    """An empty address is told so."""
    assert refused(ModelNotFoundException, "", store) == "empty url"


@pytest.mark.parametrize(
    "url", ["../a.mar", "a/../b.mar", "http://host/a/../b.mar", "http://host/a/%2e%2e/b.mar", "%2e./b.mar", "file:///x/../a.mar"]
)
def test_dots(store, url):
    """Two dots are refused, written out or percent-encoded: they would lead out of what a pattern allows."""
    assert refused(ModelNotFoundException, url, store) == f"Relative path is not allowed in url: {url}"


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://host/a.mar", ()),
        ("http://host/a.mar", ("https://.*",)),
        ("http://host/a.mar", ("http://host/",)),
        ("http://host/a.mar?x=1", (r"http://host/.*\.mar",)),
        ("http://host@other/a.mar", ("http://host.*",)),
        ("http://host\\@other/a.mar", ("http://host.*",)),
        ("http://host/a b.mar", ANYWHERE),
        ("http://host/a\n.mar", ANYWHERE),
        ("file:///store/a.mar", ("http://.*",)),
    ],
)
def test_address_that_is_not_allowed(store, url, allowed):
    """A pattern has to match all of the address; without patterns nothing is fetched; names before the host are refused."""
    assert refused(ModelNotFoundException, url, store, allowed) == f"Given URL {url} does not match any allowed URL(s)"


def test_patterns_know_no_case():
    """Patterns match in any case, as in TorchServe."""
    assert is_allowed("HTTPS://Models.Example/A.mar", ("http://.*", r"https://models\.example/.*"))
    assert not is_allowed("https://models-example/a.mar", (r"https://models\.example/.*",))


def test_fetch(store, files):
    """What is fetched is in the store under the last part of its address, whole; the query is not part of its name."""
    archive = locate(f"{files}/a%20b.mar?key=1", store, ANYWHERE)
    assert archive.path == store / "a b.mar"
    assert archive.path.read_bytes() == CONTENT
    assert names(store) == ["a b.mar"]
    archive.discard()
    assert names(store) == []


def test_file_that_is_there(store, files):
    """A file is never written over."""
    (store / "a.mar").write_bytes(b"mine")
    assert refused(InternalServerException, f"{files}/a.mar", store) == "Model file already exists a.mar"
    assert (store / "a.mar").read_bytes() == b"mine"


@pytest.mark.parametrize(("place", "taken"), [("file", True), ("folder", False), ("nothing", False)])
def test_file_that_may_be_there(store, files, place, taken):
    """Where a file may be there it is taken, and left when it is discarded; a folder or a link to nowhere is not."""
    if place == "file":
        (store / "a.mar").write_bytes(b"mine")
    elif place == "folder":
        (store / "a.mar").mkdir()
    else:
        (store / "a.mar").symlink_to(store / "nowhere")
    if not taken:
        message = refused(InternalServerException, f"{files}/a.mar", store, may_be_there=True)
        assert message == "Model file already exists a.mar"
        return
    archive = locate(f"{files}/a.mar", store, ANYWHERE, may_be_there=True)
    archive.discard()
    assert archive.path.read_bytes() == b"mine"
    refused(ModelNotFoundException, f"{files}/a.mar", store, (), may_be_there=True)


def test_file_that_appears_meanwhile(store, files, monkeypatch):
    """A file that came into the store while another was fetched stays as it is."""
    link = os.link

    def link_late(source, target):
        target.write_bytes(b"mine")
        link(source, target)

    monkeypatch.setattr(os, "link", link_late)
    with pytest.raises(InternalServerException) as found:
        locate(f"{files}/a.mar", store, ANYWHERE)
    assert str(found.value) == "Model file already exists a.mar"
    assert (store / "a.mar").read_bytes() == b"mine"
    assert names(store) == ["a.mar"]


def test_link_to_nowhere_is_there(store, files):
    """A dangling link in the store is a name that is taken."""
    (store / "a.mar").symlink_to(store / "nowhere")
    assert refused(InternalServerException, f"{files}/a.mar", store) == "Model file already exists a.mar"


@pytest.mark.parametrize("path", ["/404.mar", "/short.mar"])
def test_fetch_that_fails(store, files, path):
    """What is not there, or comes cut off, leaves nothing in the store."""
    url = files + path
    assert refused(DownloadArchiveException, url, store) == f"Failed to download archive from: {url}"


def test_nobody_listens(store):
    """An address where nobody listens is told in TorchServe's words."""
    url = "http://127.0.0.1:1/a.mar"
    assert refused(DownloadArchiveException, url, store) == f"Failed to download archive from: {url}"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://127.0.0.1:1/", "http://127.0.0.1:1/x/", "http://127.0.0.1:1/.a"])
def test_address_without_a_name(store, url):
    """An address whose path ends with no file's name cannot be fetched."""
    message = f"Failed to download archive from: {url}: its path ends with no file's name"
    assert refused(DownloadArchiveException, url, store) == message


def test_too_large(store, files):
    """More bytes than are allowed are not kept."""
    message = f"Failed to download archive from: {files}/a.mar: it is larger than 1000 bytes"
    assert refused(DownloadArchiveException, f"{files}/a.mar", store, most_bytes=1000) == message


def test_trickle(store, files, monkeypatch):
    """What comes byte by byte is given up when all of it takes too long, and not when a chunk is full."""
    monkeypatch.setattr("serving.torchserve.registry.downloads._WHOLE_S", 0.2)
    message = refused(DownloadArchiveException, f"{files}/trickle.mar", store)
    assert message == f"Failed to download archive from: {files}/trickle.mar: it took longer than 0.2 s"


def test_redirect(store, files):
    """A redirect is followed where the patterns allow its end; the name is that of the beginning."""
    assert locate(f"{files}/to.mar?/a.mar", store, ANYWHERE).path.read_bytes() == CONTENT
    assert names(store) == ["to.mar"]


@pytest.mark.parametrize("to", ["http://localhost:1/a.mar", "ftp://127.0.0.1/a.mar", "file:///etc/passwd"])
def test_redirect_that_is_not_allowed(store, files, to):
    """A redirect to where models may not be fetched from is not followed."""
    url, pattern = f"{files}/to.mar?{to}", files + ".*"
    with pytest.raises((ModelNotFoundException, DownloadArchiveException)) as found:
        locate(url, store, (pattern,))
    told = {f"Given URL {to} does not match any allowed URL(s)", f"Failed to download archive from: {url}"}
    assert str(found.value) in told
    assert names(store) == []


def test_redirect_with_dots(store, files):
    """A redirect cannot bring in the dots that an address cannot have."""
    message = f"Relative path is not allowed in url: {files}/x/%2e%2e/a.mar"
    assert refused(ModelNotFoundException, f"{files}/dots.mar", store) == message


def test_file_below_the_store(store):
    """A file: address is copied from a folder of the store; the copy leaves with its model, the file stays."""
    (store / "new").mkdir()
    (store / "new" / "a.mar").write_bytes(b"x")
    archive = locate(f"file://{store}/new/a.mar", store, ANYWHERE)
    assert archive.path == store / "a.mar"
    archive.discard()
    assert (store / "new" / "a.mar").read_bytes() == b"x"


def test_file_of_the_store_itself(store):
    """A file: address of a file that lies in the store already is one that exists."""
    (store / "a.mar").write_bytes(b"x")
    assert refused(InternalServerException, f"file://{store}/a.mar", store) == "Model file already exists a.mar"


@pytest.mark.parametrize("place", ["outside.mar", "store/link.mar", "store"])
def test_file_outside_the_store(store, tmp_path, place):
    """A file: address leads to files of the store only, whatever links say; allowing the address does not change that."""
    (tmp_path / "outside.mar").write_bytes(b"x")
    (store / "sub" / "folder").mkdir(parents=True)
    (store / "link.mar").symlink_to(tmp_path / "outside.mar")
    (store / "sub" / "other.mar").symlink_to(tmp_path / "outside.mar")
    urls = {"store/link.mar": f"file://{store}/sub/other.mar", "store": f"file://{store}/sub/folder"}
    url = urls.get(place, f"file://{tmp_path}/{place}")
    assert refused(ModelNotFoundException, url, store) == f"Given URL {url} is not a file in the model store"


def test_file_that_is_not_there(store):
    """A file: address of nothing is told as TorchServe tells it."""
    url = f"file://{store}/sub/nobody.mar"
    assert refused(DownloadArchiveException, url, store) == f"Failed to download archive from: {url}"


def test_abandoned_downloads(store):
    """What a killed download left is removed at the next start; nothing else is."""
    (store / ".tmp-0123").write_bytes(b"x")
    (store / "a.mar").write_bytes(b"x")
    remove_abandoned(store)
    assert names(store) == ["a.mar"]
