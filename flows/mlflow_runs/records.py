"""Records of a campaign for MLflow: runs that shall exist, their content and their states."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from afd.artifacts import ArtifactRef
from flows.mlflow_runs.client import Point
from flows.mlflow_runs.run_ids import CAMPAIGN

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

RunStatus = Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]
Row = tuple[str, float, int]  # of a curve: key, value, step


class Run(NamedTuple):
    """A run, as MLflow is to create it."""

    key: str
    name: str
    start_ms: int
    tags: Mapping[str, str]
    parent: str | None = CAMPAIGN


class Content(NamedTuple):
    """Content of a run."""

    key: str
    metrics: Sequence[Point] = ()
    params: Mapping[str, str] = {}
    tags: Mapping[str, str] = {}
    model_of: ArtifactRef | None = None  # the student whose logged model has the metrics too
    curve: Sequence[Row] = ()  # those rows included that MLflow may have
    inputs: Sequence["DatasetInput"] = ()
    files: Sequence[str] = ()  # copied at their relative paths below `folder`
    folder: Path = Path()
    picture: tuple[int, Path, int] | None = None  # step, file, time: for the slider of the UI


class Version(NamedTuple):
    """A student as a logged model and a version of the campaign's registered model."""

    student: ArtifactRef
    round_index: int | None
    family: str
    dvc: str  # digest


class Record(NamedTuple):
    """Contribution of one file of a campaign to its runs, written as a whole."""

    key: str  # of the run that it is noted with
    runs: Sequence[Run] = ()  # that shall exist, parents first
    contents: Sequence[Content] = ()
    states: Sequence[tuple[str, RunStatus, int]] = ()  # key, status, time in ms
    version: Version | None = None  # of a student
    evaluated: ArtifactRef | None = None  # the student whose summary this is, after a round
    summary: Mapping[str, float | int | str | None] = {}
    notes: Mapping[str, Any] = {}  # for the entry of `key` on disk
