"""Students in MLflow: logged models, registered versions, and the alias `champion`.

MLflow holds pointers (fingerprint, folder in the store, DVC digest); the bytes stay with the store.
"""

import logging
import math
from collections.abc import Mapping

from afd.artifacts import ArtifactRef
from flows.command_text import command
from flows.mlflow_runs.client import Tracking
from flows.mlflow_runs.records import Version
from flows.mlflow_runs.run_ids import CAMPAIGN, RunIds, stage_key
from flows.mlflow_runs.student_model import log_mlmodel

log = logging.getLogger(__name__)
CHAMPION = "champion"
DECIDING = "trajectory_error_px"  # the lowest decides
Summary = Mapping[str, float | int | str | None]


class Registry:
    """The registered model whose versions are one campaign's students."""

    def __init__(self, tracking: Tracking, campaign: str, ids: RunIds) -> None:
        self._campaign, self._tracking, self._ids = campaign, tracking, ids

    @property
    def name(self) -> str:
        """The name of the registered model."""
        return model_name(self._campaign, self._ids)

    def add(self, run_id: str, made: Version) -> None:
        """Make a logged model and a version of it, or go on with those of an earlier attempt."""
        from mlflow.entities import LoggedModelOutput

        student, index, key = made.student, made.round_index, stage_key(made.student)
        if self._ids.read(key).get("version") is not None:
            return
        tags = {
            "afd.fingerprint": student.fingerprint,
            "afd.store": f"store/{student.kind}/{student.fingerprint[:16]}",
            "afd.dvc": made.dvc,
            "afd.round": "warmstart" if index is None else str(index),
        }
        client, experiment = self._tracking.client, self._tracking.experiment
        model_id = self._ids.read(key).get("model_id")
        if model_id is None:  # not made, or killed before its id was on disk
            mine = (
                f"source_run_id = '{run_id}' AND tags.`afd.fingerprint` = '{student.fingerprint}'"
            )
            found = client.search_logged_models([experiment], mine)
            name = f"student-{student.short}"
            model = found[0] if found else client.create_logged_model(
                experiment, name=name, source_run_id=run_id, tags=tags, model_type=made.family
            )  # fmt: skip
            model_id = str(model.model_id)
            self._ids.write(key, model_id=model_id)
        outputs = client.get_run(run_id).outputs
        if outputs is None or model_id not in {m.model_id for m in outputs.model_outputs}:
            client.log_outputs(run_id, [LoggedModelOutput(model_id, index or 0)])
        log_mlmodel(client, model_id, tags, self._ids.folder.parent)
        client.finalize_logged_model(model_id, "READY")
        self._ids.write(key, version=self._version(run_id, model_id, tags))

    def crown(self, student: ArtifactRef, summary: Summary) -> None:
        """Note the held-out score of a student and move the alias to the best of them."""
        key = stage_key(student)
        if not self._ids.read(key):
            return
        self._ids.write(key, score=summary)
        scored = {
            int(entry["version"]): entry["score"]
            for entry in self._ids.entries().values()
            if entry.get("version") is not None and entry.get("score") is not None
        }
        best = choose_champion(scored)
        if best is not None and best != self._ids.read(CAMPAIGN).get("champion"):
            self._tracking.client.set_registered_model_alias(self.name, CHAMPION, str(best))
            self._ids.write(CAMPAIGN, champion=best)

    def _version(self, run_id: str, model_id: str, tags: Mapping[str, str]) -> int:
        import mlflow

        client = self._tracking.client
        if found := client.search_model_versions(f"run_id = '{run_id}'"):
            return int(found[0].version)
        self._have_model()
        # MLflow 3 looks a source models:/<id> up through its global address, not this client's.
        mlflow.set_tracking_uri(self._tracking.uri)
        at = tags["afd.round"]
        made = "before any round" if at == "warmstart" else f"after round {at}"
        about = f"The student of {self._campaign} {made}; its weights: `{tags['afd.store']}`."
        version = client.create_model_version(
            self.name,
            source=f"models:/{model_id}",
            run_id=run_id,
            tags=dict(tags),
            description=about,
            model_id=model_id,
            await_creation_for=0,
        )
        return int(version.version)

    def _have_model(self) -> None:
        """Find or make the registered model; one of its name that is not ours is left alone."""
        names = [self.name, f"{self.name}-{self._ids.campaign_id(None)[:8]}"]
        for name in dict.fromkeys(names):
            if self._is_ours(name):
                if name != self.name:
                    log.warning(
                        "MLflow: students of %s are versions of %s, for %s is another project's",
                        self._campaign, name, self.name,
                    )  # fmt: skip
                    self._ids.write(CAMPAIGN, model=name)
                return
        raise RuntimeError(f"the registered models {' and '.join(names)} are another project's")

    def _is_ours(self, name: str) -> bool:
        """Return whether a registered model has students of this project; make one that lacks."""
        from mlflow.exceptions import MlflowException

        client = self._tracking.client
        about = f"The students of campaign {self._campaign}, "
        try:
            model = client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            text = (
                f"{about}one version a round, version 1 the start. `champion` has the lowest "
                "held-out trajectory error. MLflow holds pointers; the weights stand in the store: "
                f"`{command('show', self._campaign)}`."
            )
            client.create_registered_model(name, description=text)
            return True
        versions = client.search_model_versions(f"name = '{name}'", max_results=1000)
        are_students = any("afd.fingerprint" in one.tags for one in versions)
        return are_students or (not versions and str(model.description).startswith(about))


def model_name(campaign: str, ids: RunIds) -> str:
    """Return the name of the registered model of a campaign's students."""
    return str(ids.read(CAMPAIGN).get("model") or f"{campaign}-student")


def choose_champion(scores: Mapping[int, Summary]) -> int | None:
    """Return the version with the lowest held-out trajectory error; of equals, the earliest.

    `scores`: version -> summary of its evaluation. A student without a finite value is no
    candidate; None when nobody is.
    """
    values = {
        version: float(value)
        for version, summary in scores.items()
        if isinstance(value := summary.get(DECIDING), int | float) and math.isfinite(value)
    }
    return min(values, key=lambda version: (values[version], version), default=None)
