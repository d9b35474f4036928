"""What the tests of several rooms share: real artifacts, made once, and made by hand."""

import dataclasses
import functools
import json
import secrets

import numpy as np
import pytest


@pytest.fixture(scope="session")
def mlp_artifact(tmp_path_factory):
    """An artifact in all three formats, by the real export; a test that changes it copies it first."""
    from make_mlp import make_mlp

    return make_mlp(tmp_path_factory.mktemp("mlp"))


@pytest.fixture(scope="session")
def write_artifact():
    """A function that writes an artifact by hand: whole, hashed, and with the engine's own answers as golden outputs."""
    from artifact import golden, manifest
    from artifact.engines import MODEL_FILES, load_engine
    from artifact.golden import GoldenCase
    from artifact.manifest import FileEntry, Manifest
    from foundation.storage import canonical_json, write_directory

    def write(directory, signature, models, inputs, *, budget=1e-6, labels=None):
        files = {MODEL_FILES[name]: data for name, data in models.items()}
        files |= {"labels.txt": labels.encode()} if labels else {}
        answers = {name: load_engine(name, data, signature).run(inputs) for name, data in models.items()}
        reference = {name: array.astype(np.float64) for name, array in next(iter(answers.values())).items()}
        budgets = {"outputs": {spec.name: {"budget": budget} for spec in signature.outputs}}
        evidence = {
            manifest.GOLDEN: golden.encode([GoldenCase("00-made", inputs, answers, reference)]),
            manifest.PARITY: canonical_json({"engines": dict.fromkeys(models, budgets)}),
        }
        made = Manifest(
            signature=signature,
            config={},
            weights_sha256="0" * 64,
            files={name: FileEntry.of(data) for name, data in files.items()},
            evidence={name: FileEntry.of(data) for name, data in evidence.items()},
        )
        write_directory(directory, {manifest.MANIFEST: made.encode(), **files, **evidence})
        return directory

    return write


@pytest.fixture(scope="session")
def rehash():
    """A function that makes a changed artifact's hashes and content id right again, as one who wants to deceive would."""
    from artifact import manifest
    from artifact.manifest import FileEntry

    def again(directory):
        stated = manifest.read_manifest(directory)

        def entries(names):
            return {name: FileEntry.of((directory / name).read_bytes()) for name in names}

        made = dataclasses.replace(
            stated, files=entries(stated.files), evidence=entries(stated.evidence), unstable=entries(stated.unstable)
        )
        (directory / manifest.MANIFEST).write_bytes(made.encode())

    return again


@pytest.fixture(scope="session")
def rewrite_manifest():
    """A function that passes the manifest's JSON through another, and makes the content id right again."""
    from foundation.storage import canonical_json, sha256_bytes

    def rewrite(directory, change):
        path = directory / "manifest.json"
        value = json.loads(path.read_bytes())
        change(value)
        value["content_id"] = sha256_bytes(canonical_json(value["content"]))
        path.write_bytes(canonical_json(value))

    return rewrite


@pytest.fixture(scope="session")
def s3():
    """A real S3 server in a process of its own.

    Every client of it is a new one, but botocore reads its description of S3 (1 MB of JSON, half of a client's time) only once.
    """
    import botocore.loaders
    import botocore.session
    from s3_server import s3_server

    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.loaders.create_loader))
        yield server


@pytest.fixture
def s3_bucket(s3):
    """An empty bucket of the S3 server, which is this process's S3 while the test runs; its name."""
    with s3.environment():
        yield s3.make_bucket(f"test-{secrets.token_hex(6)}")
