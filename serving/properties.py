"""config.properties: its format, which is that of Java's properties."""

import re
from pathlib import Path

from serving.errors import SettingsError

_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.|$)")
_CONTROL = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def read_properties(path: Path) -> dict[str, tuple[str, int]]:
    r"""The keys of a Java properties file, each with its value and line.

    `key=value` lines, # and ! comments; a backslash that ends a line goes on with the next, without what that is indented by.
    Any other backslash is Java's: `\\` is one, `\n` a line's end, `\u00e9` a character, and before others it means nothing.

    Raises:
        SettingsError: the file cannot be read, a line is no `key=value`, or a key stands twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as cause:
        raise SettingsError(f"{path} cannot be read: {cause}") from cause
    found: dict[str, tuple[str, int]] = {}
    for number, text in _logical_lines(lines):
        key, separator, value = (part.strip() for part in text.partition("="))
        if not separator or not key:
            raise SettingsError(f"{path}:{number}: {text!r} is not key=value")
        if key in found:
            raise SettingsError(f"{path}:{number}: {key} stands twice, first on line {found[key][1]}")
        found[key] = (unescaped(value), number)
    return found


def unescaped(value: str) -> str:
    """A value as Java reads it."""
    return _ESCAPE.sub(_character, value)


def escaped(value: str) -> str:
    """A value as Java, and `read_properties`, read it back."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _character(found: re.Match[str]) -> str:
    said = found[1]
    return chr(int(said[1:], 16)) if len(said) == 5 else _CONTROL.get(said, said)


def _logical_lines(lines: list[str]) -> list[tuple[int, str]]:
    """What stands in the file without comments and empty lines, continued lines joined; with the line where each begins."""
    logical: list[tuple[int, str]] = []
    goes_on = False
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not goes_on and (not text or text[0] in "#!"):
            continue
        begun, before = logical.pop() if goes_on else (number, "")
        goes_on = (len(text) - len(text.rstrip("\\"))) % 2 == 1  # an even number of backslashes is a value's own
        logical.append((begun, before + (text[:-1] if goes_on else text)))
    return logical
