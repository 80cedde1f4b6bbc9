"""Artifacts of stages: kind, fingerprint, manifest and provenance."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from afd.config import Frozen

ArtifactKind = Literal[
    "prompt_set",
    "teacher_clips",
    "rollouts",
    "discriminator_weights",
    "student_weights",
    "evaluation",
    "report",
]
ARTIFACT_KINDS: tuple[ArtifactKind, ...] = get_args(ArtifactKind)
MANIFEST = "manifest.json"


class ArtifactRef(Frozen):
    """Name of an artifact, made or not: its kind and its fingerprint.

    The fingerprint is that of the request that makes it (stage, params, inputs), so it is known
    before anything runs.
    """

    kind: ArtifactKind
    fingerprint: str

    @property
    def short(self) -> str:
        """First eight characters, for people."""
        return self.fingerprint[:8]


class FileEntry(Frozen):
    """Size and hash of one file of an artifact."""

    num_bytes: int
    sha256: str


class MadeBy(Frozen):
    """Code and machine that made an artifact: provenance, never identity."""

    revision: str
    is_dirty: bool
    versions: dict[str, str]
    host: str
    num_threads: int = 1  # compute threads; manifests without it are of one thread
    num_ranks: int = 1  # processes that shared every batch; manifests without it are of one
    no_revision: str = ""  # the reason, where `revision` is unknown


class Manifest(Frozen):
    """Manifest of an artifact, written last: a folder without one is no artifact."""

    schema_version: Literal[1]
    kind: ArtifactKind
    fingerprint: str
    stage: str
    params: dict[str, Any]
    made_from: dict[str, ArtifactRef]  # role -> artifact
    made_by: MadeBy
    files: dict[str, FileEntry]
    summary: dict[str, float | int | str | None]  # key numbers for people
    wall_s: float
    cpu_s: float
    created_at: str


@dataclass(frozen=True)
class Artifact:
    """Finished artifact on disk."""

    path: Path
    manifest: Manifest

    @property
    def ref(self) -> ArtifactRef:
        """Reference of this artifact."""
        return ArtifactRef(kind=self.manifest.kind, fingerprint=self.manifest.fingerprint)

    def file(self, name: str) -> Path:
        """Return the path of a file; raises KeyError for a name that the manifest lacks."""
        if name not in self.manifest.files:
            raise KeyError(f"{self.path} has no {name!r}; it has {sorted(self.manifest.files)}")
        return self.path / name
