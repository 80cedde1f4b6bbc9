"""A campaign's students, prompts and teacher clips, as its folder and the store have them.

Read from the records of its rounds (runs/NAME/rounds/NNN.json) where it ran, from their DVC
pointers (NNN.dvc) in another clone, and from the manifests behind both. Imports no torch.
"""

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import ValidationError

from afd.artifacts import MANIFEST, Artifact, ArtifactRef, Manifest
from afd.config.families import FAMILY_NAMES, FamilyName
from afd.prompts import Prompt, read_jsonl
from afd.sampling.errors import SamplingError
from afd.store import Store
from afd.yaml_files import UnreadableYamlError, read_yaml

Round: TypeAlias = int | Literal["start", "last"]
RUNS = Path("runs")
SETTINGS = ("num_frames", "frame_size", "fps", "canonical")  # of a finished clip


@dataclass(frozen=True)
class RoundStudent:
    """The student that a round made; `round` None is the one before any round."""

    campaign: str
    round: int | None
    artifact: Artifact

    @property
    def label(self) -> str:
        """The name under its videos."""
        return "start" if self.round is None else f"round {self.round}"

    @property
    def family(self) -> FamilyName:
        """Its family, without its weights; raises SamplingError."""
        content = _json(self.artifact.path / "student.json").get("params", {})
        for name in FAMILY_NAMES:
            if content.get("family") == name:
                return name
        raise SamplingError(f"{self.artifact.path}: cannot be read as student weights")


class Campaign:
    """One campaign's folder, and the store that holds what it made."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder = folder
        self.name = folder.name
        self.store = store

    def student(self, chosen: Round = "last") -> RoundStudent:
        """Return the student of a round. Raises SamplingError naming the rounds that there are.

        `last` is the one of the final evaluation, else that of the newest finished round; never an
        older one because its weights are missing.
        """
        there = self._students
        if not there:
            raise SamplingError(
                f"campaign {self.name!r} has no student in {self.store.root}: "
                f"{self._cure('its first stages have not finished')}"
            )
        if chosen == "last":
            chosen = self._last
        index = None if chosen == "start" else chosen
        if index not in there:
            named = ", ".join(map(_named, sorted(there, key=_order)))
            raise SamplingError(
                f"--round {chosen}: campaign {self.name!r} has students of: {named}"
                f"{self._cure_of_round(chosen)}"
            )
        return RoundStudent(self.name, index, there[index])

    @property
    def prompts(self) -> list[Prompt]:
        """Its prompt set; [] where the store does not have it."""
        found = next((one for one in self._artifacts if one.manifest.kind == "prompt_set"), None)
        return [] if found is None else read_jsonl(found.file("prompts.jsonl"))

    @property
    def teacher_clips(self) -> list[Artifact]:
        """Its shards of teacher clips, those of held-out prompts first."""
        found = [one for one in self._artifacts if one.manifest.kind == "teacher_clips"]
        return sorted(found, key=lambda one: one.manifest.params.get("split") == "train")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Length, size, rate and canonical form of its clips."""
        params = _params(self.folder / "params.yaml")
        if params.keys() >= set(SETTINGS):
            return {name: params[name] for name in SETTINGS}
        return settings_of(self._artifacts, self.store)

    @cached_property
    def _records(self) -> dict[str, dict[str, ArtifactRef]]:
        """The artifacts of each round, by role; of a DVC pointer by their names in the store."""
        found = {file.stem: _read_record(file) for file in self._files(".json")}
        for file in self._files(".dvc"):
            found.setdefault(file.stem, dict(_read_pointer(file, self.store)))
        return found

    def _files(self, suffix: str) -> list[Path]:
        return sorted((self.folder / "rounds").glob(f"*{suffix}"))

    @cached_property
    def _artifacts(self) -> list[Artifact]:
        """All that its records name and everything behind it, as far as the store has it."""
        waiting = deque(ref for made in self._records.values() for ref in made.values())
        seen: dict[str, Artifact | None] = {}
        while waiting:
            ref = waiting.popleft()
            if ref.fingerprint in seen:
                continue
            seen[ref.fingerprint] = None
            if self.store.have(ref):
                artifact = self.store.load(ref)
                seen[ref.fingerprint] = artifact
                waiting += artifact.manifest.made_from.values()
        return [artifact for artifact in seen.values() if artifact is not None]

    @cached_property
    def _students(self) -> dict[int | None, Artifact]:
        found: dict[int | None, Artifact] = {}
        for artifact in self._artifacts:
            manifest = artifact.manifest
            if manifest.kind != "student_weights":
                continue
            if manifest.stage == "update":
                found[int(manifest.params["round_index"])] = artifact
            elif manifest.stage == "warmstart" and "start" not in manifest.made_from:
                found[None] = artifact  # the dmd arm's white box has a start
        return found

    @property
    def _last(self) -> Round:
        """The round whose student the final evaluation was of, else the newest finished round."""
        finished = {int(name): made for name, made in self._records.items() if name.isdecimal()}
        for ref in self._records.get("final", {}).values():
            if ref.kind == "evaluation" and self.store.have(ref):
                student = self.store.load(ref).manifest.made_from["student"]
                for index, made in finished.items():
                    if student in made.values():
                        return index
        return max(finished) if finished else "start"

    def _cure_of_round(self, chosen: Round) -> str:
        """Return the cure for a round without a student; empty for one the campaign never had."""
        if isinstance(chosen, int) and f"{chosen:03d}" in self._records:
            pulls = "`dvc pull` fetches them, " if self._is_tracked else ""
            return (
                f"; the weights of that round are not in the store: {pulls}"
                f"`afd resume {self.name}` makes them anew"
            )
        is_over = (self.folder / "summary.json").exists()
        return "" if is_over else f"; {self._cure('later rounds have not finished')}"

    def _cure(self, reason: str) -> str:
        """Return the cure for a student that is not in the store."""
        if self._is_tracked:
            return f"{reason}, or their files are fetched with `dvc pull`"
        return f"{reason}; `afd status` tells how far it is"

    @property
    def _is_tracked(self) -> bool:
        return any(self._files(".dvc")) and any((up / ".dvc").is_dir() for up in _ups(self.folder))


def open_campaign(campaign: str | Path, store: str | Path | None = None) -> Campaign:
    """Return the campaign of a folder ("runs/demo"), or of a name below runs/ ("demo").

    Its store is `store`, else the one that it was run with, else the folder beside its runs.
    Raises SamplingError naming the campaigns that there are.
    """
    given = Path(campaign)
    folder = given if given.is_dir() or len(given.parts) != 1 else RUNS / given
    if not (folder / "rounds").is_dir():
        runs = folder.parent
        there = sorted(at.parent.name for at in runs.glob("*/rounds") if at.is_dir())
        is_known = (folder / "params.yaml").exists()
        problem = "has finished nothing yet" if is_known else f"there is no such campaign in {runs}"
        raise SamplingError(
            f"{campaign}: {problem}; campaigns with a student there: {', '.join(there) or 'none'}"
            + ("" if there else "\n  afd campaign demo --params params/pocket.yaml    makes one")
        )
    return Campaign(folder, Store(_store_of(folder, store)))


def as_round(chosen: int | str | None) -> Round:
    """Return a round as people write it; raises SamplingError."""
    if chosen is None or chosen == "last":
        return "last"
    if chosen == "start":
        return "start"
    try:
        return int(chosen)
    except ValueError:
        raise SamplingError(
            f"--round {chosen}: write a number, start (before any round) or last"
        ) from None


def settings_of(artifacts: list[Artifact], store: Store) -> dict[str, Any]:
    """Length, size, rate and canonical form of clips: what the manifests of these artifacts say,
    else what was made from one of them. Raises SamplingError where nothing says it."""
    for artifact in artifacts:
        if artifact.manifest.params.keys() >= set(SETTINGS):
            return {name: artifact.manifest.params[name] for name in SETTINGS}
    known = {artifact.manifest.fingerprint for artifact in artifacts}
    for other in store.all():
        inputs = {ref.fingerprint for ref in other.manifest.made_from.values()}
        if inputs & known and other.manifest.params.keys() >= set(SETTINGS):
            return {name: other.manifest.params[name] for name in SETTINGS}
    raise SamplingError(
        f"{store.root}: nothing there says at what rate these clips play; name the campaign in "
        "place of the folder of its weights"
    )


def _store_of(folder: Path, chosen: str | Path | None) -> Path:
    if chosen is not None:
        return Path(chosen)
    places = [folder.resolve().parent.parent / "store", Path("store")]
    recorded = _json(folder / "asked.json").get("store")
    for place in [*([Path(str(recorded))] if recorded else []), *places]:
        if place.is_dir():
            return place
    raise SamplingError(f"{folder}: its store is not {places[0]}; name it with --store")


def _read_record(file: Path) -> dict[str, ArtifactRef]:
    try:
        return {role: ArtifactRef.model_validate(ref) for role, ref in _json(file).items()}
    except ValidationError:
        raise SamplingError(f"{file}: is no record of a round; run the campaign again") from None


def _read_pointer(file: Path, store: Store) -> Iterator[tuple[str, ArtifactRef]]:
    """Return the artifacts that a DVC pointer names, as far as the store has them."""
    content = _params(file)
    for out in content.get("outs", ()):
        path = Path(str(out.get("path", "")))
        try:
            raw = (store.root / path.parent.name / path.name / MANIFEST).read_bytes()
            manifest = Manifest.model_validate_json(raw)
        except (OSError, ValidationError):
            continue  # not pulled, or no artifact
        yield path.name, ArtifactRef(kind=manifest.kind, fingerprint=manifest.fingerprint)


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _params(file: Path) -> dict[str, Any]:
    try:
        content = read_yaml(file)
    except (FileNotFoundError, UnreadableYamlError):
        return {}
    return content if isinstance(content, dict) else {}


def _ups(folder: Path) -> list[Path]:
    at = folder.resolve()
    return [at, *at.parents]


def _order(index: int | None) -> int:
    return -1 if index is None else index


def _named(index: int | None) -> str:
    return "start" if index is None else str(index)
