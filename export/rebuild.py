"""Rebuilding an artifact from its checkpoint, to show that it comes from there: the content id must be the same."""

from pathlib import Path

from artifact import raw_cases
from artifact.artifact import read_operations, verified_files
from artifact.errors import DamagedArtifact
from artifact.manifest import CONFIG, RAW, Manifest, read_manifest
from export.run import ExportRequest, Progress, build, prepare
from export.samples import Sample


def rebuild(artifact: Path, checkpoint: Path, plugins: tuple[str, ...], progress: Progress) -> str:
    """Exports the checkpoint again under the artifact's own config, in memory, and returns the content id.

    Raises:
        DamagedArtifact: the content id differs; the message names what.
        StateserveError: the export fails.
    """
    stated = read_manifest(artifact)
    samples = _recorded_samples(artifact, stated)
    request = ExportRequest(checkpoint=checkpoint, config=artifact / CONFIG, plugins=plugins, samples=samples)
    made = build(prepare(request, progress), progress).packed.manifest
    if made.content_id == stated.content_id:
        return made.content_id
    then, now = stated.content, made.content
    differing = [key for key in ("config", "operations", "signature", "weights") if then.get(key) != now.get(key)]
    differing += [name for name in sorted({*then["files"], *now["files"]}) if then["files"].get(name) != now["files"].get(name)]
    raise DamagedArtifact(
        f"{checkpoint.name} does not rebuild {artifact}: {', '.join(differing)} differ; content id {made.content_id}, "
        f"the artifact has {stated.content_id}. It comes from another checkpoint or config, or other versions of PyTorch or ONNX "
        "(compare environment.json)"
    )


def _recorded_samples(artifact: Path, stated: Manifest) -> list[Sample]:
    """The artifact's raw cases: made-up ones may not pass its operations where it was exported with --samples."""
    files = verified_files(artifact, stated)
    declared = read_operations(stated, files, artifact)
    if declared is None:
        return []
    return [Sample(case.name, case.raw) for case in raw_cases.decode(files[RAW], declared) if case.raw]
