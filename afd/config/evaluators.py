"""Who else measures: programs of their own environment that take a folder of videos."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from afd.config.values import Frozen, Listed

NAME = r"^[a-z][a-z0-9_]{0,39}$"
VARIABLE = r"^[A-Z][A-Z0-9_]{1,63}$"
CIRCUMSTANCE = ("command", "weights", "timeout_min", "variables")  # how it is run, not what it says


class OutsideMetric(Frozen):
    """One number a video. A value outside [low, high] is nonsense and counts as a failure."""

    name: Annotated[str, Field(pattern=NAME)]
    goal: Literal["high", "low", "none"]
    low: float
    high: float
    independent: bool  # false: the discriminator started from it, or learns by it

    @model_validator(mode="after")
    def _ordered(self) -> "OutsideMetric":
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


class OutsideEvaluator(Frozen):
    """A command that reads videos.json in a folder of mp4 and writes one JSON answer.

    Its version is identity: raise it when the command, its environment or its settings change.
    """

    name: Annotated[str, Field(pattern=NAME)]
    version: Annotated[str, Field(min_length=1, max_length=100)]
    # {videos} is the folder, {answer} the file to write, {weights} the place of the weights.
    command: Listed[tuple[Annotated[str, Field(min_length=1)], ...]]
    weights: str | None  # file or folder; its content is identity
    metrics: Listed[tuple[OutsideMetric, ...]]
    when: Literal["final", "every_round"]
    timeout_min: Annotated[float, Field(gt=0, le=7 * 24 * 60)]
    variables: Listed[tuple[Annotated[str, Field(pattern=VARIABLE)], ...]]  # of the environment

    @field_validator("command")
    @classmethod
    def _placed(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        told = " ".join(command)
        missing = [name for name in ("{videos}", "{answer}") if name not in told]
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
    """An evaluator's values (as dumped) without how it is run."""
    return {key: value for key, value in evaluator.items() if key not in CIRCUMSTANCE}
