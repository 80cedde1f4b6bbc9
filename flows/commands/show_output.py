"""Output of `afd show`: one line a round, the whole chain, or JSON."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.text import Text
from rich.tree import Tree

from afd.artifacts import Artifact, Manifest
from afd.store import Store, StoreError
from flows.command_text import command
from flows.commands.consoles import console
from flows.commands.json_output import Document, print_document
from flows.commands.show import (
    ancestors,
    chain,
    describe,
    find,
    round_name,
    round_of,
    what_services_know,
)

ROUND_NUMBERS = ("mean_score", "pair_accuracy", "margin")  # of a round's line


def print_chains(
    query: str, runs_dir: Path, store_dir: Path, *, every: bool, as_json: bool
) -> None:
    """Print the chain behind each artifact found: short, whole (`every`) or as JSON."""
    store = Store(store_dir)
    found = find(query, store, runs_dir)
    if as_json:
        print_document(show_document(found, store, runs_dir))
        return
    out = console()
    for artifact in found:
        out.print((chain if every else short_chain)(artifact, store, runs_dir))
    if not every:
        whole = command("show", query, "--all", runs=runs_dir, store=store_dir)
        out.print(Text(f"{whole}    shows everything", style="dim"), soft_wrap=True)


def short_chain(artifact: Artifact, store: Store, runs_dir: Path) -> Tree:
    """Return the artifact with the parts of its own round, then one line for each earlier round."""
    known = what_services_know(runs_dir)
    own = round_of(artifact.manifest)
    tree = Tree(describe(artifact.manifest, known, None, is_short=True), guide_style="dim")
    groups: dict[int, list[Manifest]] = {}
    absent: list[str] = []
    for ref in ancestors(artifact, store).values():
        if ref == artifact.ref:
            continue
        try:
            manifest = store.load(ref).manifest
            groups.setdefault(round_of(manifest), []).append(manifest)
        except StoreError:
            absent.append(f"{ref.kind} {ref.short}")
    revision = artifact.manifest.made_by.revision
    for index in sorted(groups, reverse=True):
        if index == own:
            branch = tree.add(Text(round_name(index), style="bold"))
            for manifest in groups[index]:
                branch.add(describe(manifest, known, revision, is_short=True))
        else:
            tree.add(_round_line(index, groups[index]))
    if absent:
        tree.add(Text(f"not here: {', '.join(absent)}", style="red"))
    return tree


def _round_line(index: int, made: Sequence[Manifest]) -> Text:
    """Return one line: the student, what the discriminator made of it, seconds."""
    line = Text(round_name(index), style="bold")
    numbers: dict[str, str] = {}
    for manifest in made:
        if manifest.kind == "student_weights":
            line.append(f"  student {manifest.fingerprint[:8]}", style="yellow")
        for name in ROUND_NUMBERS:
            value = manifest.summary.get(name)
            if isinstance(value, float):
                numbers[name] = f"{name}={value:.4g}"
    line.append("".join(f"  {number}" for number in numbers.values()), style="not bold")
    kinds = f"{len(made)} artifacts, {sum(manifest.wall_s for manifest in made):.1f} s"
    line.append(f"  {kinds}", style="not bold dim")
    return line


def show_document(found: Iterable[Artifact], store: Store, runs: Path) -> Document:
    """Return `afd show --json`: each artifact with everything it was made from, nearest first."""
    known = what_services_know(runs)
    parts: dict[str, Document] = {}
    artifacts = list(found)
    for artifact in artifacts:
        for ref in ancestors(artifact, store).values():
            if ref.fingerprint in parts:
                continue
            part: Document = {"kind": ref.kind, "fingerprint": ref.fingerprint}
            try:
                manifest = store.load(ref).manifest
            except StoreError:
                parts[ref.fingerprint] = part | {"is_here": False}
                continue
            services = known.get(ref.fingerprint[:16])
            index = round_of(manifest)
            parts[ref.fingerprint] = part | {
                "is_here": True,
                "stage": manifest.stage,
                "round": index if index >= 0 else None,
                "created_at": manifest.created_at,
                "wall_s": manifest.wall_s,
                "summary": dict(manifest.summary),
                "made_from": {r: f.fingerprint for r, f in sorted(manifest.made_from.items())},
                "revision": manifest.made_by.revision,
                "is_dirty": manifest.made_by.is_dirty,
                "mlflow_run": services.run_id if services else None,
                "version": services.version if services else None,
                "dvc": services.digest if services else None,
            }
    return {
        "shown": [artifact.manifest.fingerprint for artifact in artifacts],
        "artifacts": list(parts.values()),
    }
