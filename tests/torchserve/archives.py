"""The .mar files of the comparison: real handlers, packed by the real torch-model-archiver."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HANDLERS = Path(__file__).with_name("handlers")
CONFIGS = HANDLERS / "configs"
MANIFEST = "MAR-INF/MANIFEST.json"
PACKER = Path(sys.executable).with_name("torch-model-archiver")


@dataclass(frozen=True)
class Archive:
    """What one archive is packed of; files are those of `handlers`, or made beside the archives."""

    handler: str
    name: str = ""
    version: str = "1.0"
    config: str | None = None
    requirements: str | None = None
    model_file: str | None = None
    weights: str | None = None
    extra: tuple[str, ...] = ()
    form: str = "default"

    def arguments(self, file: str, made: Path, into: Path) -> list[str]:
        """The packer's arguments; an archive is named by its model, so each is packed in a folder of its own."""
        handler = self.handler if self.handler.endswith("_handler") else str(HANDLERS / self.handler)
        told = ["--model-name", self.name or file, "--handler", handler, "--version", self.version]
        told += ["--export-path", str(into), "--archive-format", self.form]
        told += ["--config-file", str(CONFIGS / self.config)] if self.config else []
        told += ["--model-file", str(HANDLERS / self.model_file)] if self.model_file else []
        told += ["--serialized-file", str(made / self.weights)] if self.weights else []
        told += ["--requirements-file", str(made / self.requirements / "requirements.txt")] if self.requirements else []
        found = [HANDLERS / name if (HANDLERS / name).exists() else made / name for name in self.extra]
        return told + (["--extra-files", ",".join(map(str, found))] if found else [])


ARCHIVES = {
    "echo": Archive("echo.py"),
    "echo_2": Archive("echo.py", name="echo", version="2.0"),
    "echo_tgz": Archive("echo.py", name="echo_tgz", form="tgz"),
    "echo_store": Archive("echo.py", name="echo_store", form="zip-store"),
    "echo_folder": Archive("echo.py", name="echo_folder", form="no-archive"),
    "function": Archive("function:answer"),
    "plain": Archive("plain.py"),
    "measured": Archive("measured.py"),
    "based": Archive("based.py", model_file="network.py", weights="network.pt", extra=("index_to_name.json",)),
    "scripted": Archive("base_handler", weights="scripted.pt"),
    "batches": Archive("batches.py", config="batches.yaml"),
    "values": Archive("plain.py", config="values.yaml"),
    "import_error": Archive("import_error.py", config="quits.yaml"),
    "init_error": Archive("init_error.py"),
    "two_classes": Archive("two_classes.py"),
    "out_of_memory": Archive("out_of_memory.py"),
    "hangs": Archive("slow.py", config="hangs.yaml"),
    "slow_start": Archive("slow.py", config="slow_start.yaml"),
    "too_slow": Archive("slow.py", config="too_slow.yaml"),
    "small_queue": Archive("slow.py", config="small_queue.yaml"),
    "impatient": Archive("slow.py", config="impatient.yaml"),
    "needs": Archive("needs.py", requirements="good", extra=("tiny_greeting-1.0-py3-none-any.whl",)),
    "needs_bad": Archive("needs.py", requirements="bad"),
    "rows": Archive("rows.py"),
    "describes": Archive("custom_describe.py"),
}
"""By file name, without .mar."""


def _made(model: dict[str, str], **more: str) -> dict[str, bytes | Path]:
    """The members of an archive with the echo handler and this manifest."""
    return {MANIFEST: json.dumps({**more, "model": model}).encode(), "echo.py": HANDLERS / "echo.py"}


_OLD = dict.fromkeys(("modelServerVersion", "implementationVersion", "specificationVersion"), "1.0")
BROKEN: dict[str, bytes | dict[str, bytes | Path]] = {
    "not_a_zip.mar": b"this is no archive",
    "no_manifest.mar": {"echo.py": HANDLERS / "echo.py"},
    "bad_manifest.mar": {MANIFEST: b"{", "echo.py": HANDLERS / "echo.py"},
    "no_model.mar": {MANIFEST: b'{"runtime": "python"}'},
    "no_handler.mar": _made({"modelName": "no_handler", "modelVersion": "1.0"}),
    "no_name.mar": _made({"handler": "echo.py", "modelVersion": "1.0"}),
    "no_version.mar": _made({"modelName": "no_version", "handler": "echo.py"}),
    "bad_runtime.mar": _made({"modelName": "bad_runtime", "modelVersion": "1.0", "handler": "echo.py"}, runtime="ruby"),
    "old_keys.mar": _made({"modelName": "old_keys", "modelVersion": "7", "handler": "echo.py"}, runtime="python", **_OLD),
    "bad_config.mar": {
        **_made(
            {"modelName": "bad_config", "modelVersion": "1.0", "handler": "echo.py", "configFile": "model-config.yaml"},
            runtime="python",
        ),
        "model-config.yaml": b"minWorkers: [",
    },
}
"""Archives that the packer would not make: their bytes, or their members."""


def pack_all(into: Path) -> Path:
    """Makes every archive in the folder `into/store`."""
    store, made = into / "store", into / "made"
    store.mkdir(parents=True)
    made.mkdir()
    subprocess.run([sys.executable, HANDLERS / "weights.py", made], check=True)
    _write_requirements(made)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda name: _pack(name, ARCHIVES[name], made, store), ARCHIVES))
    for name, content in BROKEN.items():
        _write_broken(store / name, content)
    return store


def _pack(file: str, archive: Archive, made: Path, store: Path) -> None:
    into, scratch = made / "packed" / file, made / "scratch" / file
    into.mkdir(parents=True)
    scratch.mkdir(parents=True)
    environment = {**os.environ, "TMPDIR": str(scratch)}
    subprocess.run([PACKER, *archive.arguments(file, made, into)], check=True, capture_output=True, env=environment)
    (packed,) = into.iterdir()
    packed.rename(store / packed.name.replace(archive.name or file, file, 1))


def _write_broken(path: Path, content: bytes | dict[str, bytes | Path]) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
        return
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in content.items():
            archive.writestr(name, member if isinstance(member, bytes) else member.read_bytes())


def _write_requirements(made: Path) -> None:
    """A wheel that stands nowhere else, and two requirements.txt: neither asks the network."""
    wheel = made / "tiny_greeting-1.0-py3-none-any.whl"
    files = {
        "tiny_greeting.py": b'HELLO = "hello from a requirement"\n',
        "tiny_greeting-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-greeting\nVersion: 1.0\n",
        "tiny_greeting-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        record = []
        for name, content in files.items():
            archive.writestr(name, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(content)}\n")
        record.append("tiny_greeting-1.0.dist-info/RECORD,,\n")
        archive.writestr("tiny_greeting-1.0.dist-info/RECORD", "".join(record))
    for name, lines in {"good": f"--no-index\n{wheel}\n", "bad": "--no-index\nno-such-package==1.0\n"}.items():
        (made / name).mkdir()
        (made / name / "requirements.txt").write_text(lines)


def copy_store(store: Path, names: tuple[str, ...], into: Path) -> Path:
    """A model store with these archives only, which a server may change."""
    into.mkdir()
    for name in names:
        (source,) = [found for found in store.iterdir() if found.name in {name, f"{name}.mar", f"{name}.tar.gz"}]
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, into / source.name)
    return into
