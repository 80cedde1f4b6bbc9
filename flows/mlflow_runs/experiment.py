"""Experiment of MLflow that campaigns are recorded in: found, restored or made.

Ours is one that has runs of this project, or none of anybody; others are never written to.
"""

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

log = logging.getLogger(__name__)
EXPERIMENT = "afd"
NAMES = (EXPERIMENT, *(f"{EXPERIMENT}-{number}" for number in range(2, 10)))
NOTE = "mlflow.note.content"  # the tag that MLflow's UI renders as a description, in Markdown
TITLE = "On-Policy Adversarial Flow Distillation"
ABOUT = f"""\
{TITLE}. A run is a campaign; its children are rounds, and theirs
stages.

| metrics of a campaign | |
|---|---|
| `final/`, `base/`, `teacher/` | held-out result of the student, of the student before any round, \
of the teacher |
| `difference/`, `difference_low/`, `difference_high/` | student minus base, and its interval |
| `target/` | 1 where a target is met, 0 where not |
| `evaluate/`, `fit/`, `update/` | one value a round; `evaluate/` on fewer prompts than `final/` |
| `z_alarm/` | 1 in the rounds in which that alarm was raised |

What the metrics mean, and what to do about an alarm: docs/alarms.md in the project's folder.
"""


def usable_experiment(client: "MlflowClient", run_id: str | None, location: str | None) -> str:
    """Return the id of the experiment that has run `run_id`, whatever its name; else of "afd".

    A deleted one is restored. One that cannot be restored, or that is another project's, is left
    alone, and the next of NAMES is taken.
    """
    run = None if run_id is None else find_run(client, run_id)
    if run is not None and restore(client, run.info.experiment_id):
        return str(run.info.experiment_id)
    left: list[str] = []
    for name in NAMES:
        found = client.get_experiment_by_name(name)
        if found is None:
            if left:
                log.warning("MLflow: recorded in experiment %s, for %s", name, "; ".join(left))
            # The kind opens the UI on its model-training view; without it MLflow 3 guesses "GenAI".
            tags = {"mlflow.experimentKind": "custom_model_development", NOTE: ABOUT}
            return str(client.create_experiment(name, location, tags))
        if not _is_ours(client, found):
            left.append(f"{name} is another project's")
        elif not restore(client, found.experiment_id):
            left.append(f"{name} is deleted")
        else:
            if NOTE not in found.tags:  # made by an earlier version; a person's own words stay
                client.set_experiment_tag(found.experiment_id, NOTE, ABOUT)
            return str(found.experiment_id)
    raise RuntimeError(f"no experiment of MLflow can be used: {'; '.join(left)}")


def restore(client: "MlflowClient", experiment_id: str) -> bool:
    """Restore an experiment if it is deleted; return False where MLflow refuses that."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment(experiment_id)
    if found.lifecycle_stage == "active":
        return True
    try:
        client.restore_experiment(experiment_id)
    except MlflowException as error:
        log.debug("MLflow does not restore experiment %s: %s", found.name, error)
        return False
    log.warning("MLflow: experiment %s was deleted; it is restored, with its runs", found.name)
    return True


def find_run(client: "MlflowClient", run_id: str) -> "Run | None":
    """Return a run, a deleted one too; None where MLflow has none of this id."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _is_ours(client: "MlflowClient", found: "Experiment") -> bool:
    from mlflow.entities import ViewType

    if found.tags.get(NOTE, "").startswith(TITLE):
        return True
    for words in ("tags.`afd.campaign_id` != ''", ""):
        if client.search_runs([found.experiment_id], words, ViewType.ALL, max_results=1):
            return bool(words)
    return True  # empty: made for us
