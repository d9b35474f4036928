"""A picture by URL: real answers of a real server, fetched only from where it is allowed, and never without end."""

import asyncio
import ipaddress
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from foundation.errors import StateserveError
from serving.errors import BadRequest, BodyTooLarge, DeadlinePassed, NotAllowed
from serving.raw import fetched
from serving.raw.fetched import fetcher, is_private
from serving.settings import Settings
from tests.serving.raw.conftest import PICTURE

MOST = 3 * len(PICTURE) - 1


def url(source, path, host="127.0.0.1"):
    return f"http://{host}:{source.server_port}/{path}"


def fetch(*urls, patterns=(r"http://.*",), private=True):
    settings = Settings(input_urls=patterns, input_urls_private=private, max_body_bytes=MOST)
    return asyncio.run(asyncio.wait_for(fetcher(settings)(urls), 60))


def test_pictures(source):
    """Several come in the order in which they were asked for."""
    assert list(fetch(url(source, "picture.png"), url(source, "picture?size=2"))) == [PICTURE, PICTURE]


@pytest.mark.parametrize(
    ("path", "error", "says"),
    [
        ("moved", BadRequest, "status 302, and redirects are not followed"),
        ("nothing", BadRequest, "status 404"),
        ("short", BadRequest, "1 of its bytes did not arrive"),
        ("large", BodyTooLarge, f"more than {MOST} bytes together"),
    ],
)
def test_what_is_no_picture(source, path, error, says):
    """An answer that is another one, breaks off or is too large is the request's error, and tells which."""
    with pytest.raises(error, match=says):
        fetch(url(source, "picture.png"), url(source, path))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A file with a key, and a certificate of its own for 127.0.0.1."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now, day = datetime.now(UTC), timedelta(days=1)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
    made = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(private + made.public_bytes(Encoding.PEM))
    return path


def test_https(source, certificate, monkeypatch):
    """A certificate that nobody known signed is refused; one that is trusted is not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    source.socket = context.wrap_socket(source.socket, server_side=True)
    place = url(source, "picture").replace("http", "https")

    with pytest.raises(BadRequest, match="CERTIFICATE_VERIFY_FAILED"):
        fetch(place, patterns=("https://.*",))
    monkeypatch.setattr(fetched, "_tls", lambda: ssl.create_default_context(cafile=certificate))
    assert list(fetch(place, patterns=("https://.*",))) == [PICTURE]


def test_bytes_count_together(source):
    """Each of several is small enough, but not all of them."""
    with pytest.raises(BodyTooLarge):
        fetch(*[url(source, "picture.png")] * 3)


def test_one_that_never_answers(source, monkeypatch):
    """After a while it is given up, and its thread is let go."""
    monkeypatch.setattr(fetched, "FETCH_S", 0.2)

    with pytest.raises(DeadlinePassed, match=r"did not arrive within 0\.2 s"):
        fetch(url(source, "silent"))
    assert source.left.wait(60)


def test_a_client_that_leaves(source):
    """What is fetched for it is given up, too."""

    async def leave():
        settings = Settings(input_urls=("http://.*",), input_urls_private=True)
        fetching = asyncio.ensure_future(fetcher(settings)([url(source, "silent")]))
        assert await asyncio.to_thread(source.asked.wait, 60)
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        assert await asyncio.to_thread(source.left.wait, 60)

    asyncio.run(leave())


def test_a_handshake_that_never_ends():
    """A source that takes the connection and says nothing: whoever gives it up ends the thread that waits for it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        before = set(threading.enumerate())

        async def leave():
            settings = Settings(input_urls=("https://.*",), input_urls_private=True)
            fetching = asyncio.ensure_future(fetcher(settings)([f"https://127.0.0.1:{silent.getsockname()[1]}/a.png"]))
            connection, _ = await asyncio.to_thread(silent.accept)
            with connection:
                assert await asyncio.to_thread(connection.recv, 1)  # the handshake has begun
                fetching.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await fetching
                while chunk := await asyncio.to_thread(connection.recv, 1 << 16):
                    assert chunk

        asyncio.run(leave())
        assert {thread.name.partition("_")[0] for thread in set(threading.enumerate()) - before} <= {"fetch"}


def test_one_request_does_not_take_every_thread(source):
    """Of a request that names slow sources only some are asked at a time; the pictures of others arrive beside it."""

    async def ask():
        fetch = fetcher(Settings(input_urls=("http://.*",), input_urls_private=True))
        slow = asyncio.ensure_future(fetch([url(source, "silent")] * fetched.THREADS))
        assert await asyncio.to_thread(source.asked.wait, 60)
        found = await asyncio.wait_for(fetch([url(source, "picture.png")]), 5)
        assert not slow.done()
        slow.cancel()
        return found

    assert asyncio.run(ask()) == [PICTURE]


def test_a_long_url():
    """It is refused before any pattern is tried on it."""
    with pytest.raises(BadRequest, match="a URL has 2048 letters at most"):
        fetch("http://images.example/" + "a" * 2048)


@pytest.mark.parametrize(
    "asked",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://images.example@127.0.0.1/cat.png",
        "http://images.example.evil.example/cat.png",
        "http://images.example/cat.png\r\nX: y",
        "http://images.example/c at.png",
        "http:\\\\images.example/cat.png",
        "http://images.example:0/cat.png",
        "http://images.example:99999/cat.png",
        "https://images.example/cat.png",
        "file:///etc/passwd",
        "ftp://images.example/cat.png",
        "//images.example/cat.png",
        "images.example/cat.png",
        "http://[images.example/cat.png",
        "",
    ],
)
def test_what_no_pattern_matches(asked, monkeypatch):
    """Nothing is asked, not even a name server, unless a pattern matches the whole URL, and it is a plain one."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a name was looked up"))

    with pytest.raises(NotAllowed, match="input_urls"):
        fetch(asked, patterns=(r"http://images\.example(:\d+)?/.*",))


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "2130706433", "127.1", "localhost", "[::1]"])
def test_this_machine(host):
    """However its address is written, it is refused where a pattern alone allows it."""
    with pytest.raises(StateserveError, match=r"its address is private|cannot be fetched"):
        fetch(f"http://{host}/", private=False)


def test_a_name_that_leads_inside(source, monkeypatch):
    """The address that a name has counts, and is the one that is asked: a second answer of the name server changes nothing."""
    found = iter(["10.0.0.7"])
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(found), 80))])

    with pytest.raises(NotAllowed, match="its address is private"):
        fetch(url(source, "picture.png", "images.example"), private=False)


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("93.184.216.34", False),
        ("2606:2800:220:1:248:1893:25c8:1946", False),
        ("10.1.2.3", True),
        ("100.64.0.1", True),
        ("169.254.169.254", True),
        ("172.16.0.1", True),
        ("192.168.0.1", True),
        ("224.0.0.1", True),
        ("::1", True),
        ("fe80::1%eth0", True),
        ("fd00::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:93.184.216.34", False),
        ("64:ff9b::7f00:1", True),
        ("2002:7f00:1::", True),
        ("fec0::1", True),
        ("64:ff9b:1::7f00:1", True),
        ("64:ff9b::5db8:d822", False),
        ("::127.0.0.1", True),
        ("::ffff:0:127.0.0.1", True),
        ("168.63.129.16", True),
    ],
)
def test_private_addresses(address, private):
    """An IPv4 address within an IPv6 one counts as itself."""
    assert is_private(address) is private
