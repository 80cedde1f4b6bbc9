"""The chain behind one artifact, back to the prompts: `afd show <fingerprint | run | version>`.

The chain comes from the manifests in the store alone. MLflow's run ids and DVC's digests are added
where files on disk have them, so it works on a machine without these services.
"""

import re
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from afd.artifacts import Artifact, ArtifactRef, Manifest
from afd.errors import UserError
from afd.runtime.stage_specs import STAGES
from afd.store import Store, StoreError
from flows.command_text import command
from flows.dvc_tracking import tracked_by
from flows.mlflow_runs.run_ids import CAMPAIGN, RunIds

MIN_PREFIX = 4
CHAMPION = "champion"  # MLflow's alias
# As MLflow writes it, models:/demo-student/3, or shorter; the champion by its alias.
_VERSION = re.compile(r"(models:/)?(?P<campaign>[\w.-]+)-student[/@](?P<version>\d+|champion)")
BEFORE = -1  # the round of an artifact that no round made
MAX_NUMBERS = 8  # of a summary


class ShowError(UserError):
    """No artifact, or more than one, fits the query; the text names those that there are."""


@dataclass(frozen=True)
class Known:
    """Ids of an artifact in MLflow and DVC."""

    run_id: str | None
    version: str | None  # of the registered model
    digest: str | None


def find(query: str, store: Store, runs_dir: Path) -> list[Artifact]:
    """Return the artifact of a fingerprint prefix, MLflow run id, registered version or campaign.

    A campaign's is its last student. Raises ShowError with the names of what there is.
    """
    if "/" not in query and (runs_dir / query).is_dir() and query not in ("", ".", ".."):
        return [_last_student(query, store, runs_dir)]
    if named := _VERSION.fullmatch(query):
        query = _key_of_version(named["campaign"], named["version"], runs_dir)
    elif of_run := _of_run(query, store, runs_dir):
        return [of_run]
    prefix = query.rpartition("/")[2].removeprefix("student-").lower()
    if len(prefix) < MIN_PREFIX or set(prefix) - set("0123456789abcdef"):
        raise ShowError(
            f"{query!r} is neither a campaign in {runs_dir} ({_campaigns(runs_dir)}), nor a "
            f"registered version like demo-student/3, nor an MLflow run id, nor the first "
            f"{MIN_PREFIX} or more characters of a fingerprint (0-9, a-f)"
        )
    kind = query.rpartition("/")[0]
    found = [a for a in store.find(prefix) if kind in ("", a.manifest.kind)]
    if not found:
        raise ShowError(
            f"no artifact in {store.root} begins with {prefix!r}; campaigns here: "
            f"{_campaigns(runs_dir)}{_pull('. Bytes that another clone tracks come with', store)}"
        )
    if len(found) > 1:
        several = "\n".join(f"  {a.manifest.kind}/{a.manifest.fingerprint[:16]}" for a in found)
        raise ShowError(f"{prefix!r} begins {len(found)} fingerprints; add characters:\n{several}")
    return found


def chain(artifact: Artifact, store: Store, runs_dir: Path) -> Tree:
    """Return the artifact, and everything it was made from, round by round back to the prompts.

    The tree is flat: each part names its own inputs, so forty rounds stay readable.
    """
    known = what_services_know(runs_dir)
    tree = Tree(describe(artifact.manifest, known, None), guide_style="dim")
    revision = artifact.manifest.made_by.revision
    groups: dict[int, list[RenderableType]] = {}
    for ref in ancestors(artifact, store).values():
        if ref == artifact.ref:
            continue
        try:
            manifest = store.load(ref).manifest
            groups.setdefault(round_of(manifest), []).append(describe(manifest, known, revision))
        except StoreError as error:
            missing = Text(f"{ref.kind} {ref.fingerprint[:16]}: {error}", style="red")
            groups.setdefault(BEFORE, []).append(missing)
    for index in sorted(groups, reverse=True):
        branch = tree.add(Text(round_name(index), style="bold"))
        for part in groups[index]:
            branch.add(part)
    return tree


def round_name(index: int) -> str:
    """Return the title of a round's part of a chain."""
    return "before the rounds" if index == BEFORE else f"round {index}"


def ancestors(artifact: Artifact, store: Store) -> dict[str, ArtifactRef]:
    """Return everything that `artifact` was made from, by fingerprint; itself, then the nearest."""
    found: dict[str, ArtifactRef] = {}
    waiting = deque([artifact.ref])
    while waiting:
        ref = waiting.popleft()
        if ref.fingerprint not in found:
            found[ref.fingerprint] = ref
            if store.have(ref):
                waiting += store.load(ref).manifest.made_from.values()
    return found


def what_services_know(runs_dir: Path) -> dict[str, Known]:
    """Return artifact key (fp16) -> MLflow run, version and DVC digest, from files on disk."""
    digests: dict[str, str] = {}
    for file in runs_dir.glob("*/rounds/*.dvc"):
        digests |= {path.name: digest for path, digest in tracked_by(file).items()}
    entries: dict[str, tuple[str, dict[str, Any]]] = {}
    for folder in sorted(runs_dir.glob("*/lineage")):
        ids = RunIds(folder.parent)
        for key, entry in ids.entries().items():
            entries[key] = (folder.parent.name, entry)
    return {
        key: Known(
            run_id=_entry(entries, key).get("run_id"),
            version=_version(entries, key),
            digest=digests.get(key),
        )
        for key in entries.keys() | digests.keys()
    }


def round_of(manifest: Manifest) -> int:
    """Return the round that made an artifact; BEFORE where none did."""
    index = manifest.params.get("round_index")
    held_out = manifest.params.get("split") in ("held_out", "tuning")
    return BEFORE if not isinstance(index, int) or held_out else index


def describe(
    manifest: Manifest, known: Mapping[str, Known], listed: str | None, *, is_short: bool = False
) -> RenderableType:
    """Return a few lines about one artifact; the code's revision only where it is not `listed`."""
    head = Text()
    head.append(manifest.kind, style="bold cyan")
    head.append(f" {manifest.fingerprint[:16]}", style="yellow")
    head.append(f"  by {manifest.stage}, {manifest.wall_s:.1f} s, {manifest.created_at}")
    lines = [head]
    if params := _telling(manifest):
        lines.append(Text(f"params   {params}"))
    summary = {k: v for k, v in manifest.summary.items() if not (is_short and _is_hash(v))}
    if summary:
        lines.append(Text(f"summary  {_numbers(summary)}"))
    if manifest.made_from:
        parts = [f"{role} {ref.short}" for role, ref in sorted(manifest.made_from.items())]
        lines.append(Text("from     " + ", ".join(parts)))
    service = known.get(manifest.fingerprint[:16], Known(None, None, None))
    parts = [
        f"MLflow run {service.run_id}" if service.run_id else "",
        f"version {service.version}" if service.version else "",
        f"DVC {service.digest}" if service.digest else "",
    ]
    if any(parts):
        lines.append(Text("tracked  " + ", ".join(filter(None, parts)), style="dim"))
    made_by = manifest.made_by
    if made_by.revision != listed:
        is_known = made_by.revision != "unknown"
        dirty = " with uncommitted changes" if made_by.is_dirty and is_known else ""
        why = f" ({made_by.no_revision})" if made_by.no_revision else ""
        lines.append(Text(f"code     {made_by.revision[:12]}{dirty}{why}", style="dim"))
    return Group(*lines)


def _telling(manifest: Manifest) -> str:
    rows = []
    for name in STAGES[manifest.stage].key_params if manifest.stage in STAGES else ():
        value: Any = manifest.params
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            rows.append(f"{name}={value}")
    return ", ".join(rows)


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64


def _numbers(summary: Mapping[str, float | int | str | None]) -> str:
    rows = [f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in summary.items()]
    more = f", and {len(rows) - MAX_NUMBERS} more" if len(rows) > MAX_NUMBERS else ""
    return ", ".join(rows[:MAX_NUMBERS]) + more


def _of_run(run_id: str, store: Store, runs_dir: Path) -> Artifact | None:
    """Return the artifact of an MLflow run, a campaign's or round's student; None for others."""
    for folder in sorted(runs_dir.glob("*/lineage")):
        for key, entry in RunIds(folder.parent).entries().items():
            if entry.get("run_id") == run_id:
                if key == CAMPAIGN or key.startswith("round_"):
                    index = None if key == CAMPAIGN else int(key.removeprefix("round_"))
                    return _last_student(folder.parent.name, store, runs_dir, index)
                return next(iter(store.find(key)), None)
    return None


def _key_of_version(campaign: str, version: str, runs_dir: Path) -> str:
    """Return the fingerprint's first 16 characters of a registered version or alias."""
    entries = RunIds(runs_dir / campaign).entries()
    number = entries.get(CAMPAIGN, {}).get(CHAMPION) if version == CHAMPION else int(version)
    known = {entry["version"]: key for key, entry in entries.items() if entry.get("version")}
    if number not in known:
        versions = ", ".join(map(str, sorted(known))) or "none yet"
        raise ShowError(
            f"{campaign}-student has no version {version!r} known in {runs_dir} ({versions}); "
            f"campaigns here: {_campaigns(runs_dir)}"
        )
    return known[number]


def _students(store: Store, keys: Collection[str]) -> list[Artifact]:
    return [
        a
        for a in store.all()
        if a.manifest.kind == "student_weights" and a.manifest.fingerprint[:16] in keys
    ]


def _last_student(
    campaign: str, store: Store, runs_dir: Path, of_round: int | None = None
) -> Artifact:
    """Return the student of a round, by default the newest; the warm start before any round."""
    keys = set(RunIds(runs_dir / campaign).entries())
    for file in (runs_dir / campaign / "rounds").glob("*.dvc"):
        keys |= {path.name for path in tracked_by(file)}
    students = [a for a in _students(store, keys) if of_round in (None, round_of(a.manifest))]
    if not students:
        again = command("campaign", campaign, runs=runs_dir, store=store.root)
        raise ShowError(
            f"campaign {campaign!r} has left no student in {store.root} yet; "
            f"go on with `{again}`{_pull(', or fetch one with', store)}"
        )
    return max(students, key=lambda a: int(a.manifest.params.get("round_index", -1)))


def _pull(intro: str, store: Store) -> str:
    """Return `intro` with the command that fetches another clone's artifacts; empty without DVC."""
    is_tracked = any((folder / ".dvc").is_dir() for folder in store.root.resolve().parents)
    return f"{intro} `dvc pull`" if is_tracked else ""


def _campaigns(runs_dir: Path) -> str:
    names = sorted(p.name for p in runs_dir.glob("*") if p.is_dir() and p.name[:1] != ".")
    return ", ".join(names) or "none yet"


def _entry(entries: Mapping[str, tuple[str, dict[str, Any]]], key: str) -> dict[str, Any]:
    return entries[key][1] if key in entries else {}


def _version(entries: Mapping[str, tuple[str, dict[str, Any]]], key: str) -> str | None:
    number = _entry(entries, key).get("version")
    return f"{entries[key][0]}-student/{number}" if number is not None else None
