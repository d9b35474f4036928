import base64
import json
import stat

import pytest

from serving.errors import SettingsError
from serving.torchserve.errors import InternalServerException, InvalidKeyException
from serving.torchserve.tokens import Tokens

REFUSED = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
NOT_RENEWED = "Token Authentication failed. Token either incorrect, expired, or not provided correctly"


class Clock:
    def __init__(self):
        self.now_s = 1_700_000_000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "key_file.json"


@pytest.fixture
def tokens(path, clock):
    return Tokens(60, path, clock)


def keys(path):
    return {name: entry["key"] for name, entry in json.loads(path.read_text()).items()}


@pytest.mark.usefixtures("tokens")
def test_key_file(path):
    """The file has TorchServe's form: three keys, two of them with the time when they end."""
    written = json.loads(path.read_text())
    assert list(written) == ["management", "inference", "API"]
    assert written["management"].keys() == written["inference"].keys() == {"key", "expiration time"}
    assert written["management"]["expiration time"] == "2023-11-14T23:13:20.000000Z"
    assert written["API"].keys() == {"key"}


def test_key_file_is_its_owners_alone(tokens, path):
    """Nobody else can read the file, also after it was written again."""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    tokens.renew("inference", f"Bearer {keys(path)['API']}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.usefixtures("tokens")
def test_keys_are_long_and_different(path):
    """Every key is 32 random bytes, base64url."""
    found = set(keys(path).values())
    assert len(found) == 3
    assert {len(base64.urlsafe_b64decode(key + "=")) for key in found} == {32}


def test_key_of_its_connector_passes(tokens, path):
    """`Bearer KEY` with the connector's own key passes; the scheme is told apart by case, spaces do not count."""
    own = keys(path)
    tokens.require("management", f"Bearer {own['management']}")
    tokens.require("inference", f"Bearer   {own['inference']} ")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Bearer {inference}",
        "Bearer {API}",
        "Basic {management}",
        "bearer {management}",
        "{management}",
        "Bearer {management} x",
        "Bearer {management}x",
        "Bearer \udcff\xe9",
    ],
)
def test_other_header_is_refused(tokens, path, header):
    """A missing header, another scheme, another connector's key and the key that renews are all refused, in the same words."""
    with pytest.raises(InvalidKeyException) as refused:
        tokens.require("management", header and header.format(**keys(path)))
    assert str(refused.value) == REFUSED
    assert refused.value.status == 400


def test_old_key_is_refused(tokens, path, clock):
    """A key ends after `token_expiration_min` minutes; the one that renews does not."""
    own = keys(path)
    clock.now_s += 3599.9
    tokens.require("management", f"Bearer {own['management']}")
    clock.now_s += 0.1
    with pytest.raises(InvalidKeyException) as refused:
        tokens.require("management", f"Bearer {own['management']}")
    assert str(refused.value) == REFUSED
    clock.now_s += 1e6
    tokens.renew("management", f"Bearer {own['API']}")
    tokens.require("management", f"Bearer {keys(path)['management']}")


def test_renewal(tokens, path):
    """A new key takes the place of the connector's old one; the other two stay."""
    before = keys(path)
    tokens.renew("inference", f"Bearer {before['API']}")
    after = keys(path)
    assert (after["management"], after["API"]) == (before["management"], before["API"])
    assert after["inference"] != before["inference"]
    tokens.require("inference", f"Bearer {after['inference']}")
    with pytest.raises(InvalidKeyException):
        tokens.require("inference", f"Bearer {before['inference']}")


@pytest.mark.parametrize("kind", [None, "", "x", "API", "Management"])
def test_renewal_of_nothing(tokens, path, kind):
    """There is no key for another word, and no file is written."""
    before = path.read_bytes()
    with pytest.raises(InvalidKeyException) as refused:
        tokens.renew(kind, f"Bearer {keys(path)['API']}")
    assert str(refused.value) == NOT_RENEWED
    assert path.read_bytes() == before


@pytest.mark.parametrize("header", [None, "Bearer x", "Bearer {management}", "Bearer {inference}", "{API}"])
def test_renewal_needs_its_key(tokens, path, header):
    """Only the key that renews does so."""
    with pytest.raises(InvalidKeyException) as refused:
        tokens.renew("management", header and header.format(**keys(path)))
    assert str(refused.value) == NOT_RENEWED


def test_file_is_removed_at_the_end(tokens, path):
    """The server takes its file with it."""
    tokens.remove()
    assert not path.exists()
    tokens.remove()


def test_folder_that_cannot_be_written(tmp_path):
    """A server whose keys have no place does not start, and says what to do."""
    path = tmp_path / "nowhere" / "key_file.json"
    with pytest.raises(SettingsError) as refused:
        Tokens(60, path)
    assert str(refused.value) == (
        f"TorchServe's tokens cannot be written to {path}: No such file or directory. Start the server in a directory that it "
        "may write to, or set disable_token_authorization=true."
    )


def test_renewal_that_cannot_be_written(tokens, path):
    """A new key that nobody would know is none: the one before it holds on."""
    before = keys(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InternalServerException) as refused:
        tokens.renew("inference", f"Bearer {before['API']}")
    assert str(refused.value) == "The key file cannot be written: Is a directory. The key before holds on."
    tokens.require("inference", f"Bearer {before['inference']}")
    assert list(path.parent.iterdir()) == [path]


def test_file_of_another_server_stays(tokens, path, clock):
    """A server that started later in the same folder wrote its own keys: they stay."""
    later = Tokens(60, path, clock)
    tokens.remove()
    assert path.exists()
    later.remove()
    assert not path.exists()


def test_write_leaves_nothing_else(tokens, path):
    """The file is written beside its place and renamed, and nothing else is left there."""
    tokens.renew("inference", f"Bearer {keys(path)['API']}")
    assert list(path.parent.iterdir()) == [path]
