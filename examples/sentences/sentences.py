"""A corpus that is on this machine already: sentences out of the docstrings of Python's own modules, NumPy and scikit-learn.

The question is which of the three a sentence documents. Files are read, never imported.
"""

import ast
import importlib.util
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

LIBRARIES = ("python", "numpy", "scikit-learn")
"""The labels, in the order of the model's classes."""
HELD_OUT = 400
"""Sentences of each library for choosing the best epoch, and as many for the test; at most."""
OF_A_FILE = 20
"""Held-out sentences of one source file, at most: so that they come from many."""
TRAINING = 2400
"""Sentences of each library for training; at most."""
WORDS = range(6, 41)
"""How many words a sentence has."""

_NOT_DOCUMENTATION = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip", "externals", "_lib"}
_BETWEEN_SENTENCES = re.compile(r"(?<=[.])\s+(?=[A-Z])")
_NOT_PROSE = re.compile(r"\s*[-=.*:|>]|.*::$|\s{4,}")


class Sentences(NamedTuple):
    """Sentences, and the library of each (N,) int64, as its place in LIBRARIES."""

    texts: list[str]
    labels: np.ndarray


def sentences() -> tuple[Sentences, Sentences, Sentences]:
    """Sentences for training, for choosing the best epoch, and held out for the test.

    A source file belongs to one of the three as a whole, and no sentence is there twice.
    """
    parts: tuple[list[tuple[str, int]], ...] = ([], [], [])
    seen: set[str] = set()
    for label, library in enumerate(LIBRARIES):
        files = _by_file(library, seed=label)
        # held out first: what repeats is lost to training
        for part, most, of_a_file in ((2, HELD_OUT, OF_A_FILE), (1, HELD_OUT, OF_A_FILE), (0, TRAINING, TRAINING)):
            parts[part].extend((text, label) for text in _take(files, most, of_a_file, seen))
    training, validation, test = (Sentences([text for text, _ in part], np.array([label for _, label in part])) for part in parts)
    return training, validation, test


def _take(files: Iterator[list[str]], most: int, of_a_file: int, seen: set[str]) -> list[str]:
    """Sentences that were not seen before, file by file, until there are so many."""
    taken: list[str] = []
    while len(taken) < most and (texts := next(files, None)) is not None:
        new = [text for text in dict.fromkeys(texts) if text not in seen]
        seen.update(new)
        taken += new[:of_a_file]
    return taken[:most]


def _by_file(library: str, seed: int) -> Iterator[list[str]]:
    """The sentences of every source file of a library, in an order that the seed decides."""
    root = _root(library)
    paths = sorted(root.rglob("*.py"))
    for place in np.random.default_rng(seed).permutation(len(paths)):
        path = paths[place]
        if not _NOT_DOCUMENTATION.intersection(path.relative_to(root).parts):
            yield [text for docstring in _docstrings(path) for text in _prose(docstring)]


def _root(library: str) -> Path:
    if library == "python":
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec({"scikit-learn": "sklearn"}.get(library, library))
    if spec is None or spec.origin is None:
        raise SystemExit(f"{library} is not installed. Run: pip install scikit-learn")
    return Path(spec.origin).parent


def _docstrings(path: Path) -> Iterator[str]:
    with warnings.catch_warnings(action="ignore"):  # of other people's escapes
        try:
            tree = ast.parse(path.read_text("utf-8"))
        except (SyntaxError, UnicodeDecodeError):  # Python ships examples of both
            return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def _prose(docstring: str) -> Iterator[str]:
    """Its sentences, without code, lists, tables and headings."""
    for paragraph in re.split(r"\n\s*\n", docstring):
        lines = paragraph.splitlines()
        if any(_NOT_PROSE.match(line) for line in lines):
            continue
        for sentence in _BETWEEN_SENTENCES.split(" ".join(line.strip() for line in lines)):
            if len(sentence.split()) in WORDS and sentence[0].isupper() and sentence.endswith("."):
                yield sentence
