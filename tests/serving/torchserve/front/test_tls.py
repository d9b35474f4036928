"""https addresses: whose certificate they show, and what keeps a server from starting."""

import datetime as dt
import ipaddress
import ssl

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat, pkcs12

from bench.processes import free_port
from serving.errors import SettingsError
from serving.settings import Settings
from serving.torchserve.tls import key_files

HOSTS = frozenset({"127.0.0.1"})
TRADITIONAL = PrivateFormat.TraditionalOpenSSL


def signed(key):
    """A certificate for 127.0.0.1 that its own key signs."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
    return builder.add_extension(address, critical=False).sign(key, hashes.SHA256())


@pytest.fixture(scope="module")
def key():
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def certificate(key):
    return signed(key)


@pytest.fixture
def files(key, certificate, tmp_path):
    """certificate.pem, key.pem of both forms, an encrypted one, another's, and a keystore with the password `secret`."""
    plain = NoEncryption()
    written = {
        "certificate.pem": certificate.public_bytes(Encoding.PEM),
        "key.pem": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, plain),
        "traditional.pem": key.private_bytes(Encoding.PEM, TRADITIONAL, plain),
        "encrypted.pem": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")),
        "other.pem": ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, plain),
        "store.p12": pkcs12.serialize_key_and_certificates(b"x", key, certificate, None, BestAvailableEncryption(b"secret")),
        "keyless.p12": pkcs12.serialize_key_and_certificates(b"x", None, certificate, None, BestAvailableEncryption(b"secret")),
        "store.jks": b"\xfe\xed\xfe\xed\x00\x00\x00\x02",
        "store.txt": b"nothing of the kind",
    }
    for name, content in written.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def asked_over_tls(port, certificate, **options):
    context = ssl.create_default_context(cadata=certificate.public_bytes(Encoding.PEM).decode())
    for name, value in options.items():
        setattr(context, name, value)
    return httpx.get(f"https://127.0.0.1:{port}/ping", verify=context, trust_env=False)


@pytest.mark.parametrize(
    "flags",
    [
        ("--certificate-file", "certificate.pem", "--private-key-file", "key.pem"),
        ("--certificate-file", "certificate.pem", "--private-key-file", "traditional.pem"),
        ("--keystore", "store.p12", "--keystore-pass", "secret"),
    ],
    ids=["pem", "traditional", "keystore"],
)
def test_a_certificate(start, empty_store, files, certificate, flags):
    """A server shows the certificate that it was given, from TLS 1.2 on; other addresses stay http."""
    flags = [str(files / flag) if "." in flag else flag for flag in flags]
    port = free_port()
    where = ("--management-address", f"https://127.0.0.1:{port}", "--disable-token-authorization")
    with start(empty_store, *where, *flags):
        url = f"https://127.0.0.1:{port}/models"
        context = ssl.create_default_context(cadata=certificate.public_bytes(Encoding.PEM).decode())
        assert httpx.get(url, verify=context, trust_env=False).json() == {"models": []}
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert httpx.get(url, verify=context, trust_env=False).status_code == 200
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(httpx.ConnectError):
            httpx.get(url, verify=old, trust_env=False)


def test_its_own_certificate(start, empty_store):
    """Without one, the server makes its own, says so, and leaves its key nowhere."""
    port = free_port()
    flags = ("--management-address", f"https://127.0.0.1:{port}", "--disable-token-authorization")
    with start(empty_store, *flags) as running:
        shown = ssl.get_server_certificate(("127.0.0.1", port))
        context = ssl.create_default_context(cadata=shown)
        assert httpx.get(f"https://127.0.0.1:{port}/models", verify=context, trust_env=False).status_code == 200
        (line,) = (line["message"] for line in running.log_lines() if line["level"] == "WARNING")
        assert line == "https with a certificate that the server made itself: clients cannot know that it is this server's"


def test_key_files_are_private(files, monkeypatch):
    """What a keystore holds is written for this user alone, and gone when it has been read."""
    monkeypatch.setattr("tempfile.tempdir", str(files))
    settings = Settings(keystore=files / "store.p12", keystore_pass="secret")
    with key_files(settings, HOSTS) as found:
        assert [path.stat().st_mode & 0o777 for path in (found.certificate, found.key, found.key.parent)] == [0o600, 0o600, 0o700]
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(found.certificate, found.key)
    assert not found.key.parent.exists()
    assert Settings.model_validate({}).keystore_pass == "changeit"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"private_key_file": "key.pem"}, "https needs certificate_file and private_key_file: certificate_file is not set"),
        ({"certificate_file": "key.pem"}, "https needs certificate_file and private_key_file: private_key_file is not set"),
        (
            {"certificate_file": "certificate.pem", "private_key_file": "nothing.pem"},
            "private_key_file is {folder}/nothing.pem, which is no file",
        ),
        (
            {"certificate_file": "certificate.pem", "private_key_file": "encrypted.pem"},
            (
                "certificate_file {folder}/certificate.pem and private_key_file {folder}/encrypted.pem cannot be used: the key "
                "is encrypted; openssl pkey -in KEY -out PLAIN_KEY writes it without a password"
            ),
        ),
        ({"keystore": "nothing.p12"}, "keystore {folder}/nothing.p12 cannot be read: No such file or directory"),
        (
            {"keystore": "store.p12"},
            "keystore {folder}/store.p12 cannot be opened with keystore_pass: Invalid password or PKCS12 data",
        ),
        (
            {"keystore": "keyless.p12", "keystore_pass": "secret"},
            "keystore {folder}/keyless.p12 holds no private key with a certificate",
        ),
        (
            {"keystore": "store.jks"},
            (
                "keystore {folder}/store.jks is of the type JKS, which is not read here. Convert it: keytool -importkeystore "
                "-srckeystore {folder}/store.jks -destkeystore {folder}/store.jks.p12 -deststoretype PKCS12"
            ),
        ),
        (
            {"keystore": "store.p12", "keystore_type": "BKS"},
            (
                "keystore {folder}/store.p12 is of the type BKS, which is not read here. Convert it: keytool -importkeystore "
                "-srckeystore {folder}/store.p12 -destkeystore {folder}/store.p12.p12 -deststoretype PKCS12"
            ),
        ),
    ],
)
def test_keys_that_cannot_be_used(files, settings, message):
    """The server does not start, and says which file is wrong and what to do."""
    paths = {name: files / value if "." in value else value for name, value in settings.items()}
    with pytest.raises(SettingsError) as refused, key_files(Settings.model_validate(paths), HOSTS):
        pass
    assert str(refused.value) == message.format(folder=files)


@pytest.mark.parametrize(
    ("settings", "begins"),
    [
        ({"certificate_file": "certificate.pem", "private_key_file": "other.pem"}, "certificate_file .* cannot be used: "),
        ({"certificate_file": "store.txt", "private_key_file": "key.pem"}, "certificate_file .* cannot be used: "),
        ({"keystore": "store.txt"}, "keystore .* cannot be opened with keystore_pass: "),
    ],
)
def test_keys_that_are_none(files, settings, begins):
    """What is no certificate or key, or another's, is told before anything listens."""
    with (
        pytest.raises(SettingsError, match=f"^{begins}"),
        key_files(Settings.model_validate({name: files / value for name, value in settings.items()}), HOSTS),
    ):
        pass


def test_without_cryptography(files, monkeypatch):
    """Keystores, and certificates of the server's own, need a package: the message is the line that installs it."""
    import sys

    monkeypatch.setitem(sys.modules, "cryptography", None)
    for settings in (Settings(), Settings(keystore=files / "store.p12", keystore_pass="secret")):
        with pytest.raises(SettingsError) as refused, key_files(settings, HOSTS):
            pass
        assert str(refused.value) == (
            "https needs certificate_file and private_key_file, or the package that reads keystores: "
            "pip install 'stateserve[torchserve]'"
        )
