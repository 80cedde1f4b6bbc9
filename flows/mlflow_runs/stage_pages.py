"""Pages of stages in MLflow: what a stage's run shows, and its round's and campaign's of it."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial

from afd.artifacts import Artifact, ArtifactRef, Manifest
from afd.evaluation.readings import flatten
from afd.runtime.request import StageName, StageRequest
from afd.store import Store, StoreError
from flows import dvc_tracking
from flows.mlflow_runs import views
from flows.mlflow_runs.client import NOTE, Point
from flows.mlflow_runs.facts import BegunStage, StageFact
from flows.mlflow_runs.registry import Registry
from flows.mlflow_runs.run_ids import CAMPAIGN, round_key, stage_key
from flows.mlflow_runs.run_tree import RunTree, now_ms
from flows.mlflow_runs.views import GrowingCurve, Row

SERIES: frozenset[StageName] = frozenset({"fit", "update", "evaluate"})  # one value a round
SHEET = "sheet.png"  # the evaluated student's clips
STEP_MS = 1  # between two steps of a curve: nobody knows when a step was made


class StagePages:
    """Writes stages into the runs of one campaign."""

    def __init__(self, tree: RunTree, registry: Registry, store: Store) -> None:
        self._tree, self._registry, self._store = tree, registry, store
        self._digests: dict[str, str] = {}

    def begin(self, begun: BegunStage) -> None:
        """Show that a stage computes, and so does its round."""
        self._tree.stage_run(begun.stage, begun.ref, begun.round_index, begun.began_ms)
        keys = [stage_key(begun.ref)]
        if begun.round_index is not None:
            keys.append(round_key(begun.round_index))
        for key in keys:
            if self._tree.ids.read(key)["state"] != "running":
                self._tree.resume(key)

    def extend(self, key: str, curve: GrowingCurve) -> None:
        """Write the steps that a running stage has made since the last sync."""
        rows = curve.read()
        if points := self._points(key, rows):
            self._tree.log(key, points, {}, {})
        self._note_steps(key, rows)

    def _points(self, key: str, rows: Sequence[Row]) -> list[Point]:
        """Return the rows that MLflow has not; the time of one is its run's start and its step."""
        entry = self._tree.ids.read(key)
        if "start_ms" not in entry:  # of an earlier version, or found in MLflow
            run = self._tree.tracking.client.get_run(entry["run_id"])
            self._tree.ids.write(key, start_ms=run.info.start_time)
            entry = self._tree.ids.read(key)
        start, known = int(entry["start_ms"]), int(entry.get("step", -1))
        return [Point(n, v, step, start + step * STEP_MS) for n, v, step in rows if step > known]

    def _note_steps(self, key: str, rows: Sequence[Row]) -> None:
        if rows:
            self._tree.ids.write(key, step=max(step for _, _, step in rows))

    def fail(self, begun: BegunStage) -> None:
        """Show how an attempt ended that left no artifact."""
        key = stage_key(begun.ref)
        self._tree.stage_run(begun.stage, begun.ref, begun.round_index, begun.began_ms)
        self._tree.log(key, (), {}, {"afd.outcome": begun.outcome, NOTE: begun.message})
        self._tree.end(key, "FAILED", now_ms())
        self._tree.ids.write(key, failed_ms=begun.began_ms)

    def record(self, fact: StageFact) -> None:
        """Show an artifact, on its own page and wherever a person looks for it."""
        ref, index, key = fact.ref, fact.round_index, stage_key(fact.ref)
        artifact = self._store.load(ref)
        manifest = artifact.manifest
        ended = ended_ms(manifest)
        began = fact.begun.began_ms if fact.begun else ended - round(manifest.wall_s * 1000)
        run_id = self._tree.stage_run(manifest.stage, ref, index, began)
        if self._tree.ids.read(key).get("refused"):
            self._tree.ids.write(key, refused=[])
        rows = views.curves(artifact)
        summary, renamed = views.summary(manifest, frozenset(name for name, _, _ in rows))
        outside = views.outside(artifact)
        points = [Point(n, v, 0, ended) for n, v in (summary | outside.metrics).items()]
        digests = self._digests_of([ref, *manifest.made_from.values()])
        self._tree.log(
            key,
            [*points, *self._points(key, rows)],
            dict(flatten(manifest.params)),
            views.tags(manifest, digests) | outside.tags,
            None if index is None else self._model_of(manifest),
        )
        self._note_steps(key, rows)
        datasets = views.inputs(manifest.made_from, digests)
        if datasets:
            write = partial(self._tree.tracking.client.log_inputs, run_id, datasets=datasets)
            self._tree.part(key, "inputs", write)
        for name in views.files(artifact):
            write = partial(self._tree.tracking.show_files, run_id, artifact.path, [name])
            self._tree.part(key, f"file {name}", write)
        self._sum_up(fact, artifact, summary | outside.metrics | renamed, outside.tags)
        self._show_on_campaign(fact, artifact)
        if _request(manifest).makes_student:
            add = partial(self._registry.add, run_id, index, ref, manifest, digests)
            self._tree.part(key, "model", add)
        if manifest.stage == "evaluate" and index is not None:
            # Scores of one card only: those after a round, not the final one.
            crown = partial(self._registry.crown, manifest.made_from["student"], manifest)
            self._tree.part(key, "champion", crown)
        self._tree.end(key, "FINISHED", ended)

    def _model_of(self, manifest: Manifest) -> str | None:
        """Return the logged model that an evaluation is of."""
        student = manifest.made_from.get("student")
        if manifest.stage != "evaluate" or student is None:
            return None
        return self._tree.ids.read(stage_key(student)).get("model_id")

    def _sum_up(
        self,
        fact: StageFact,
        artifact: Artifact,
        summary: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> None:
        """Show a stage's numbers on its round's page and, against round, on the campaign's.

        `tags` say what the numbers are worth, so they are wherever those are.
        """
        manifest, index = artifact.manifest, fact.round_index
        ended = ended_ms(manifest)
        if index is not None:
            self._tree.round_run(index, ended)
            self._tree.log(
                round_key(index), [Point(n, v, 0, ended) for n, v in summary.items()], {}, {}
            )
        made_by = {
            "mlflow.source.git.commit": manifest.made_by.revision,
            "afd.dirty": str(manifest.made_by.is_dirty).lower(),
        }
        if index is not None and manifest.stage in SERIES:
            points = [Point(n, v, index, ended) for n, v in summary.items()]
            self._tree.log(CAMPAIGN, points, {}, {**made_by, **tags})
        elif tags or manifest.stage == "prompts":
            self._tree.log(CAMPAIGN, (), {}, {**made_by, **tags})

    def _show_on_campaign(self, fact: StageFact, artifact: Artifact) -> None:
        """Show what a person looks for first: pictures against round, and how it ended."""
        manifest, index = artifact.manifest, fact.round_index
        if manifest.stage not in ("evaluate", "report") or "horizon" in manifest.params:
            return
        run_id, show = self._tree.campaign_run(), self._tree.tracking
        if index is None:
            for name in views.files(artifact):
                write = partial(show.show_files, run_id, artifact.path, [name])
                self._tree.part(stage_key(fact.ref), f"file {name} of the campaign", write)
        elif SHEET in manifest.files:
            picture, at = artifact.file(SHEET), ended_ms(manifest)
            for target_run in (run_id, self._tree.round_run(index, at)):
                write = partial(show.show_picture, target_run, "students", index, picture, at)
                self._tree.part(stage_key(fact.ref), "picture of the round", write)

    def _digests_of(self, refs: Iterable[ArtifactRef]) -> dict[str, str]:
        """Return fingerprint -> DVC's md5, of the artifacts that are here."""
        for ref in refs:
            if ref.fingerprint not in self._digests and self._store.have(ref):
                with suppress(StoreError):  # damaged: reported where it is recorded itself
                    self._digests[ref.fingerprint] = dvc_tracking.digest(self._store.load(ref))
        return self._digests


def ended_ms(manifest: Manifest) -> int:
    """Return when an artifact was finished."""
    return round(datetime.fromisoformat(manifest.created_at).timestamp() * 1000)


def _request(manifest: Manifest) -> StageRequest:
    return StageRequest.model_validate(
        {"stage": manifest.stage, "params": manifest.params, "inputs": manifest.made_from}
    )
