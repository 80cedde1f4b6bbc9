"""Prefect artifacts and log lines of a campaign: progress, results, alarms, a link to MLflow.

An error here never fails a campaign, and a server that is away gets nothing.
"""

import contextvars
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from afd.artifacts import Artifact, Manifest
from afd.evaluation.intervals import Interval, interval_of
from afd.runtime.request import StageRequest
from afd.runtime.stage_specs import STAGES
from afd.store import Store
from flows import alarm_log
from flows.command_text import command
from flows.markdown import literal
from flows.mlflow_runs.client import without_password
from flows.mlflow_runs.run_ids import CAMPAIGN, RunIds
from flows.progress import stage_progress
from flows.record_files import SUMMARY, read_record

log = logging.getLogger(__name__)
LONG_S = 10.0  # a stage that takes longer shows its progress
EVERY_S = 5.0
LAST_S = 5.0  # for the last word of a progress artifact, which a busy SQLite may refuse at first
LAST_TRIES = 10
NUM_NUMBERS = 4
RUN_KNOWN_S = 15.0  # MLflow's run exists seconds after the start; a short campaign is quicker


def flow_run_name(campaign: str, runs: Path, teacher: str | None, index: int | None = None) -> str:
    """Return campaign, round (the next one where `index` is None) and teacher, joined by dashes."""
    if index is None:
        rounds = {int(file.stem) for file in (runs / campaign / "rounds").glob("[0-9]*.json")}
        index = next(number for number in range(len(rounds) + 1) if number not in rounds)
    name = f"{campaign}-round-{index:03d}"
    return name if teacher is None else f"{name}-{teacher}"


@contextmanager
def progress_artifact(campaign: str, store: Store, request: StageRequest) -> Iterator[None]:
    """Keep a progress artifact of a stage in a Prefect task, once it takes LONG_S."""
    from prefect.runtime import flow_run, task_run

    ended, is_done = threading.Event(), threading.Event()
    key = artifact_key(campaign, request.stage)
    ids = (_uuid(flow_run.id), _uuid(task_run.id))

    def report() -> None:
        artifact: UUID | None = None
        while not ended.wait(EVERY_S if artifact else LONG_S):
            steps = stage_progress(store, request)
            if steps is None or not steps[1]:
                continue
            share = round(100 * steps[0] / steps[1], 1)
            text = f"{request.stage} {request.output.short}: {steps[0]} of {steps[1]}"
            artifact = _send_progress(artifact, key, share, text, ids) or artifact
        if artifact is not None and is_done.is_set():
            done = f"{request.stage} {request.output.short}"
            for _ in range(LAST_TRIES):
                if _send_progress(artifact, key, 100.0, done, ids):
                    break
                time.sleep(1)

    context = contextvars.copy_context()  # which server: a thread begins without it
    thread = threading.Thread(
        target=context.run, args=(report,), name="prefect-progress", daemon=True
    )
    thread.start()
    try:
        yield
        is_done.set()
    finally:
        ended.set()
        thread.join(LAST_S)  # it tells its server once more where it has told it before


def log_stage(artifact: Artifact, *, was_there: bool) -> None:
    """Write a line of numbers about a finished stage into the log of its run."""
    from prefect import get_run_logger

    get_run_logger().info("%s", stage_line(artifact.manifest, was_there=was_there))


def stage_line(manifest: Manifest, *, was_there: bool) -> str:
    """Return the seconds that a stage took and its main numbers."""
    summary = manifest.summary
    names = [name for name in STAGES[manifest.stage].key_numbers if name in summary]
    chosen = (
        names
        or [name for name, value in summary.items() if isinstance(value, int | float)][:NUM_NUMBERS]
    )
    numbers = "".join(f"  {name} {_short(summary[name])}" for name in chosen)
    found = "  (found in the store)" if was_there else ""
    return f"{manifest.stage}  {manifest.wall_s:.1f} s{numbers}{found}"


def leave_round(folder: Path, index: int, summary: Mapping[str, Any]) -> None:
    """Leave a table of what one round's evaluation measured, and log a line of it."""
    from prefect import get_run_logger
    from prefect.artifacts import create_table_artifact

    rows = round_rows(summary)
    try:
        create_table_artifact(
            rows,
            key=artifact_key(folder.name, f"round-{index:03d}"),
            description=f"{folder.name}, round {index}: its student on held-out prompts",
        )
        numbers = "  ".join(f"{row['metric']} {row['student']}" for row in rows)
        get_run_logger().info("round %d  held out: %s", index, numbers)
    except Exception as error:  # noqa: BLE001  Prefect shows; it never fails a campaign
        log.warning("Prefect was not shown the results: %s", error)


def leave_results(folder: Path, tracking_uri: str, rows: list[dict[str, Any]]) -> None:
    """Leave the results table of a whole campaign, and a link to its MLflow run."""
    from prefect.artifacts import create_link_artifact, create_table_artifact

    text = f"{folder.name}: held-out prompts"
    try:
        create_table_artifact(rows, key=artifact_key(folder.name, "results"), description=text)
        link, words = mlflow_link(folder, tracking_uri)
        create_link_artifact(
            link,
            link_text=words,
            key=artifact_key(folder.name, "mlflow"),
            description=f"the MLflow run of {folder.name}: {words}",
        )
    except Exception as error:  # noqa: BLE001  Prefect shows; it never fails a campaign
        log.warning("Prefect was not shown the results: %s", error)


def leave_alarms(folder: Path) -> None:
    """Log the alarms of the last round as warnings, and leave a page of those of all rounds."""
    from prefect import get_run_logger
    from prefect.artifacts import create_markdown_artifact

    records = alarm_log.records(folder)
    alarms = [line for record in records for line in alarm_log.lines(record)]
    if not alarms:
        return
    page = "\n".join(f"- {literal(line)}" for line in alarms)
    try:
        for line in alarm_log.lines(records[-1]):
            get_run_logger().warning("%s", line)
        key = artifact_key(folder.name, "alarms")
        create_markdown_artifact(page, key=key, description=f"alarms of {folder.name}")
    except Exception as error:  # noqa: BLE001  Prefect shows; it never fails a campaign
        log.warning("Prefect was not shown the alarms: %s", error)


def mlflow_link(folder: Path, uri: str) -> tuple[str, str]:
    """Return the address of the campaign's MLflow run, and the text of the link."""
    base = without_password(uri).rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    ids = RunIds(folder)
    deadline = time.monotonic() + RUN_KNOWN_S
    while not (run := ids.read(CAMPAIGN)).get("experiment_id") and time.monotonic() < deadline:
        time.sleep(0.1)
    words = (
        "MLflow"
        if uri.startswith("http")
        else f"after `{command('ui', folder.name, runs=folder.parent)}`"
    )
    if "experiment_id" not in run:
        return f"{base}/#/experiments", words
    page = f"{base}/#/experiments/{run['experiment_id']}/runs/{run['run_id']}"
    return f"{page}?workflowType=machine_learning", words


def campaign_rows(summary: Path) -> list[dict[str, Any]]:
    """Return the results of a whole campaign, a row a metric."""
    content = read_record(summary, SUMMARY)
    columns = ("teacher", "base", "student", "difference")
    return [
        {"metric": name}
        | {column: _short(row.get(column)) for column in columns}
        | {"interval": " to ".join(_short(end) for end in _interval(row, content) or ("-",))}
        for name, row in content["metrics"].items()
    ]


def _interval(row: Mapping[str, Any], content: Mapping[str, Any]) -> Interval | None:
    return interval_of(row, content.get("num_prompts"))


def round_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the metrics of one round's evaluation, a row each."""
    return [{"metric": name, "student": _short(value)} for name, value in summary.items()]


def artifact_key(campaign: str, what: str) -> str:
    """Return a key of lower case, digits and dashes, the characters that Prefect allows."""
    return re.sub(r"[^a-z0-9]+", "-", f"{campaign}-{what}".lower()).strip("-")


def _send_progress(
    artifact: UUID | None, key: str, share: float, text: str, ids: tuple[UUID | None, UUID | None]
) -> UUID | None:
    """Create or update a progress artifact and return its id; None where the server refused."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

    try:
        with get_client(sync_client=True) as client:
            if artifact is not None:
                client.update_artifact(artifact, ArtifactUpdate(data=share, description=text))
                return artifact
            made = ArtifactCreate(
                key=key,
                type="progress",
                data=share,
                description=text,
                flow_run_id=ids[0],
                task_run_id=ids[1],
            )
            return client.create_artifact(made).id
    except Exception as error:  # noqa: BLE001  Prefect shows; it never fails a campaign
        log.info("Prefect was not shown progress: %s", error)
        return None


def _uuid(text: object) -> UUID | None:
    return None if text is None else UUID(str(text))


def _short(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
