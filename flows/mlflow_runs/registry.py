"""Students in MLflow: logged models, registered versions, and the alias `champion`.

MLflow holds pointers (fingerprint, folder in the store, DVC digest); the bytes stay with the store.
"""

from collections.abc import Mapping

from afd.artifacts import ArtifactRef, Manifest
from flows.command_text import command
from flows.mlflow_runs.champion import choose_champion
from flows.mlflow_runs.client import Tracking
from flows.mlflow_runs.run_ids import CAMPAIGN, RunIds, stage_key
from flows.mlflow_runs.student_model import log_mlmodel

CHAMPION = "champion"


class Registry:
    """The registered model whose versions are one campaign's students."""

    def __init__(self, tracking: Tracking, campaign: str, ids: RunIds) -> None:
        self.name = f"{campaign}-student"
        self._campaign = campaign
        self._tracking = tracking
        self._ids = ids

    def add(
        self,
        run_id: str,
        round_index: int | None,
        student: ArtifactRef,
        manifest: Manifest,
        digests: Mapping[str, str],
    ) -> None:
        """Make a logged model and a version of it, or go on with those of an earlier attempt."""
        from mlflow.entities import LoggedModelOutput

        key = stage_key(student)
        if self._ids.read(key).get("version") is not None:
            return
        tags = {
            "afd.fingerprint": student.fingerprint,
            "afd.store": f"store/{student.kind}/{student.fingerprint[:16]}",
            "afd.dvc": digests.get(student.fingerprint, ""),
            "afd.round": "warmstart" if round_index is None else str(round_index),
        }
        client = self._tracking.client
        model_id = self._ids.read(key).get("model_id") or self._made(run_id, student)
        if model_id is None:
            family = manifest.params.get("student", {}).get("family", "student")
            model_id = client.create_logged_model(
                self._tracking.experiment,
                name=f"student-{student.short}",
                source_run_id=run_id,
                tags=tags,
                model_type=str(family),
            ).model_id
        self._ids.write(key, model_id=model_id)
        outputs = client.get_run(run_id).outputs
        if outputs is None or model_id not in {m.model_id for m in outputs.model_outputs}:
            client.log_outputs(run_id, [LoggedModelOutput(model_id, round_index or 0)])
        self._point(str(model_id), tags)
        client.finalize_logged_model(model_id, "READY")
        self._ids.write(key, version=self._version(run_id, str(model_id), tags))

    def crown(self, student: ArtifactRef, manifest: Manifest) -> None:
        """Remember the held-out score of `student` and move the alias to the best of them."""
        key = stage_key(student)
        if not self._ids.read(key):
            return
        self._ids.write(key, score=manifest.summary)
        scored = {
            int(entry["version"]): entry["score"]
            for entry in self._ids.entries().values()
            if entry.get("version") is not None and entry.get("score") is not None
        }
        best = choose_champion(scored)
        if best is not None and best != self._ids.read(CAMPAIGN).get("champion"):
            self._tracking.client.set_registered_model_alias(self.name, CHAMPION, str(best))
            self._ids.write(CAMPAIGN, champion=best)

    @property
    def _about(self) -> str:
        return (
            f"The students of campaign {self._campaign}, one version a round, version 1 the start. "
            "`champion` has the lowest held-out trajectory error. MLflow holds pointers; the "
            f"weights stand in the store: `{command('show', self._campaign)}`."
        )

    def _about_version(self, tags: Mapping[str, str]) -> str:
        at = tags["afd.round"]
        made = "before any round" if at == "warmstart" else f"after round {at}"
        return f"The student of {self._campaign} {made}; its weights: `{tags['afd.store']}`."

    def _made(self, run_id: str, student: ArtifactRef) -> str | None:
        """Return the model of an attempt that was killed before its id was on disk."""
        made = self._tracking.client.search_logged_models(
            [self._tracking.experiment],
            f"source_run_id = '{run_id}' AND tags.`afd.fingerprint` = '{student.fingerprint}'",
        )
        return str(made[0].model_id) if made else None

    def _point(self, model_id: str, tags: Mapping[str, str]) -> None:
        """Log the file that MLflow expects beside a model: it says where the bytes are."""
        log_mlmodel(self._tracking.client, model_id, tags, self._ids.folder.parent)

    def _version(self, run_id: str, model_id: str, tags: Mapping[str, str]) -> int:
        import mlflow
        from mlflow.exceptions import MlflowException

        client = self._tracking.client
        if made := client.search_model_versions(f"run_id = '{run_id}'"):
            return int(made[0].version)
        try:
            client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            client.create_registered_model(self.name, description=self._about)
        # MLflow 3 looks a source models:/<id> up through its global address, not this client's.
        mlflow.set_tracking_uri(self._tracking.uri)
        version = client.create_model_version(
            self.name,
            source=f"models:/{model_id}",
            run_id=run_id,
            tags=dict(tags),
            description=self._about_version(tags),
            model_id=model_id,
            await_creation_for=0,
        )
        return int(version.version)
