"""Params of external evaluators: programs of their own environment that measure videos."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from afd.config.values import Listed, Section

NAME = r"^[a-z][a-z0-9_]{0,39}$"
VARIABLE = r"^[A-Z][A-Z0-9_]{1,63}$"
CIRCUMSTANCE = ("command", "weights", "timeout_min", "variables")  # of its run, not of its answer


class OutsideMetric(Section):
    """One number a video. A value outside [low, high] is nonsense and counts as a failure."""

    name: Annotated[str, Field(pattern=NAME)]
    """Name of the number: lower-case letters, digits and _, at most 40."""
    goal: Literal["high", "low", "none"]
    """The better direction; none: neither."""
    low: float
    """Least possible value."""
    high: float
    """Largest possible value; above low."""
    independent: bool
    """The discriminator neither started from this metric nor learns by it."""

    @model_validator(mode="after")
    def _ordered(self) -> "OutsideMetric":
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


class OutsideEvaluator(Section):
    """A command that reads videos.json in a folder of mp4 and writes one JSON answer.

    Its version is identity: raise it when the command, its environment or its settings change.
    """

    name: Annotated[str, Field(pattern=NAME)]
    """Name of the evaluator: lower-case letters, digits and _, at most 40."""
    version: Annotated[str, Field(min_length=1, max_length=100)]
    """Version of command, environment and settings: raise it when any of them changes."""
    command: Listed[tuple[Annotated[str, Field(min_length=1)], ...]]
    """Command and arguments; {videos} is the folder, {answer} the file to write, {weights} the
    place of the weights."""
    weights: str | None
    """File or folder of its weights, whose content is identity; null: none."""
    metrics: Listed[tuple[OutsideMetric, ...]]
    """Numbers of its answer, at least one."""
    when: Literal["final", "every_round"]
    """Evaluations that run it."""
    timeout_min: Annotated[float, Field(gt=0, le=7 * 24 * 60)]
    """Time limit in minutes, above 0 and at most a week."""
    variables: Listed[tuple[Annotated[str, Field(pattern=VARIABLE)], ...]]
    """Names of environment variables that it inherits."""

    @field_validator("command")
    @classmethod
    def _placed(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        text = " ".join(command)
        missing = [name for name in ("{videos}", "{answer}") if name not in text]
        if missing:
            raise ValueError(f"must hold {' and '.join(missing)}, where it reads and writes")
        return command

    @field_validator("metrics")
    @classmethod
    def _distinct(cls, metrics: tuple[OutsideMetric, ...]) -> tuple[OutsideMetric, ...]:
        names = [metric.name for metric in metrics]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"must be distinct and not empty, got {names}")
        return metrics


def semantic_evaluator(evaluator: dict[str, Any]) -> dict[str, Any]:
    """Return an evaluator's values (as dumped) without those that only change its run."""
    return {key: value for key, value in evaluator.items() if key not in CIRCUMSTANCE}
