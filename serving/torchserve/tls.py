"""The certificate and key of https addresses: PEM files, a PKCS12 keystore, or a certificate that the server signs itself."""

import contextlib
import datetime as dt
import ipaddress
import logging
import os
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from serving.errors import SettingsError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
    from cryptography.x509 import Certificate, GeneralName

    from serving.settings import Settings

log = logging.getLogger("stateserve")

_SELF_SIGNED_DAYS = 365
_JKS = (b"\xfe\xed\xfe\xed", b"\xce\xce\xce\xce")
"""How keystores of Java's own formats begin: JKS and JCEKS."""


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """Two PEM files: certificates, the server's own first, and its private key."""

    certificate: Path
    key: Path


@contextlib.contextmanager
def key_files(settings: "Settings", hosts: frozenset[str]) -> Iterator[KeyFiles]:
    """What https addresses need, as `keystore`, else `certificate_file` and `private_key_file` say; else made for `hosts`.

    What is not in such files already is in a folder for this user alone, until the block ends.

    Raises:
        SettingsError: a file cannot be read, is none of these, or does not fit the other; a password is wrong.
    """
    if settings.keystore is None and (settings.certificate_file is not None or settings.private_key_file is not None):
        yield _pem_files(settings.certificate_file, settings.private_key_file)
        return
    if settings.keystore is None:
        log.warning("https with a certificate that the server made itself: clients cannot know that it is this server's")
        pem = _self_signed(hosts)
    else:
        pem = _from_keystore(settings.keystore, settings.keystore_pass, settings.keystore_type)
    with tempfile.TemporaryDirectory(prefix="stateserve-tls-") as folder:
        files = KeyFiles(Path(folder) / "certificate.pem", Path(folder) / "key.pem")
        for path, text in zip((files.certificate, files.key), pem, strict=True):
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(text)
        yield files


def _pem_files(certificate: Path | None, key: Path | None) -> KeyFiles:
    if certificate is None or key is None:
        missing = "certificate_file" if certificate is None else "private_key_file"
        raise SettingsError(f"https needs certificate_file and private_key_file: {missing} is not set")
    for name, path in (("certificate_file", certificate), ("private_key_file", key)):
        if not path.is_file():
            raise SettingsError(f"{name} is {path}, which is no file")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as cause:
        raise SettingsError(f"certificate_file {certificate} and private_key_file {key} cannot be used: {cause}") from cause
    return KeyFiles(certificate, key)


def _no_password() -> NoReturn:
    raise ValueError("the key is encrypted; openssl pkey -in KEY -out PLAIN_KEY writes it without a password")


def _from_keystore(path: Path, password: str, kind: str) -> tuple[bytes, bytes]:
    """The certificates and the key of a PKCS12 file, as PEM."""
    try:
        content = path.read_bytes()
    except OSError as cause:
        raise SettingsError(f"keystore {path} cannot be read: {cause.strerror}") from cause
    if content.startswith(_JKS) or kind.upper() not in {"PKCS12", "P12"}:
        raise SettingsError(
            f"keystore {path} is of the type {kind if kind.upper() != 'PKCS12' else 'JKS'}, which is not read here. Convert it: "
            f"keytool -importkeystore -srckeystore {path} -destkeystore {path}.p12 -deststoretype PKCS12"
        )
    _require_cryptography()
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

    try:
        found = load_pkcs12(content, password.encode())
    except ValueError as cause:
        raise SettingsError(f"keystore {path} cannot be opened with keystore_pass: {cause}") from cause
    if found.key is None or found.cert is None:
        raise SettingsError(f"keystore {path} holds no private key with a certificate")
    chain = [found.cert, *found.additional_certs]
    return b"".join(one.certificate.public_bytes(Encoding.PEM) for one in chain), _pem_of(found.key)


def _pem_of(key: "CertificateIssuerPrivateKeyTypes | object") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # pyright: ignore[reportAttributeAccessIssue]


def _self_signed(hosts: frozenset[str]) -> tuple[bytes, bytes]:
    """A certificate for these hosts and localhost, signed by its own key, as PEM."""
    _require_cryptography()
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate: Certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=_SELF_SIGNED_DAYS))
        .add_extension(
            x509.SubjectAlternativeName([_general_name(host) for host in sorted({"localhost", *hosts})]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM), _pem_of(key)


def _general_name(host: str) -> "GeneralName":
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401 - it is asked for, not used
    except ModuleNotFoundError as cause:
        raise SettingsError(
            "https needs certificate_file and private_key_file, or the package that reads keystores: "
            "pip install 'stateserve[torchserve]'"
        ) from cause
