"""Where stages run. Nothing here enters a fingerprint."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from afd.config.values import Frozen, Listed, Positive


def _allowed(pattern: str, rule: str) -> AfterValidator:
    """Only what `pattern` matches as a whole reaches sbatch: no quote, newline or second flag."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value, re.ASCII):
            raise ValueError(f"{rule}, got {value!r}")
        return value

    return AfterValidator(check)


Name = Annotated[str, _allowed(r"[A-Za-z0-9][\w.-]{0,63}", "1-64 letters, digits, '_', '-', '.'")]
Names = Annotated[
    str, _allowed(r"[A-Za-z0-9][\w.,-]{0,255}", "names of letters, digits, '_', '-', '.', by comma")
]
Nodes = Annotated[
    str,
    _allowed(r"[A-Za-z0-9][\w.,\[\]-]{0,255}", "nodes as sinfo writes them: n[1-4],m7"),
]
Constraint = Annotated[
    str, _allowed(r"[\w.,:&|*()\[\]-]{1,255}", "names of features and any of & | * , : ( ) [ ]")
]
Argument = Annotated[
    str, _allowed(r"[\w./:=,+@%~-]{1,500}", "one word of letters, digits and _ . / : = , + @ % ~ -")
]
SetupLine = Annotated[
    str,
    _allowed(
        r"[A-Za-z_.~/$][\w./:=,+@%~$ -]{0,500}",
        "one plain command: letters, digits, blanks and _ . / : = , + @ % ~ $ - "
        "(what needs more goes into a script: `source setup.sh`)",
    ),
]
Folder = Annotated[str, _allowed(r"/[\w./+@%~$-]{0,500}", "an absolute path, $VARIABLES allowed")]
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|JWT|AUTH", re.IGNORECASE)


def _public(name: str) -> str:
    if _SECRET_NAME.search(name):
        raise ValueError(
            f"{name!r} names a secret: jobs compute from files and need none; leave it out"
        )
    return name


Variable = Annotated[
    str,
    _allowed(r"[A-Za-z_][A-Za-z0-9_]{0,127}", "the name of an environment variable"),
    AfterValidator(_public),
]


def _without_password(value: str) -> str:
    if not re.fullmatch(r"https?://[\w.:\[\]-]{1,255}(/[\w./~-]{0,255})?", value, re.ASCII):
        raise ValueError(  # and does not repeat it
            "an address as in http://host:5000, without a password: MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD hold those"
        )
    return value


Address = Annotated[str, AfterValidator(_without_password)]
Seconds = Annotated[int, Field(ge=1, le=86_400)]
Few = Annotated[int, Field(ge=1, le=1_000)]
Minutes = Annotated[int, Field(ge=1, le=100_000)]


class Resources(Frozen):
    """What one job of a stage is given."""

    num_parts: Annotated[int, Field(ge=1, le=100_000)]  # jobs of one array that share the stage
    nodes: Few
    tasks_per_node: Few  # ranks: fit and update compute with nodes * tasks_per_node of them
    gpus_per_task: Annotated[int, Field(ge=0, le=64)]
    cpus_per_task: Few
    mem_gb: Annotated[float, Field(gt=0, le=100_000)]  # a node
    minutes: Minutes

    @property
    def num_ranks(self) -> int:
        return self.nodes * self.tasks_per_node


class ResourcesOfStage(Frozen):
    """What differs for one stage from `every_stage`."""

    num_parts: Annotated[int, Field(ge=1, le=100_000)] | None = None
    nodes: Few | None = None
    tasks_per_node: Few | None = None
    gpus_per_task: Annotated[int, Field(ge=0, le=64)] | None = None
    cpus_per_task: Few | None = None
    mem_gb: Annotated[float, Field(gt=0, le=100_000)] | None = None
    minutes: Minutes | None = None


Resourced = Literal[
    "prompts", "harvest", "warmstart", "rollout", "fit", "critic", "update", "evaluate", "report",
    "worker",
]  # fmt: skip
SHARED: tuple[Resourced, ...] = ("fit", "update")  # what several ranks can compute together
NOTHING_ELSE = ResourcesOfStage()


class ResourcesTable(Frozen):
    """Resources by stage; `worker` is the job that computes many (allocation round, campaign)."""

    every_stage: Resources
    prompts: ResourcesOfStage = NOTHING_ELSE
    harvest: ResourcesOfStage = NOTHING_ELSE
    warmstart: ResourcesOfStage = NOTHING_ELSE
    rollout: ResourcesOfStage = NOTHING_ELSE
    fit: ResourcesOfStage = NOTHING_ELSE
    critic: ResourcesOfStage = NOTHING_ELSE
    update: ResourcesOfStage = NOTHING_ELSE
    evaluate: ResourcesOfStage = NOTHING_ELSE
    report: ResourcesOfStage = NOTHING_ELSE
    worker: ResourcesOfStage = NOTHING_ELSE

    def of(self, stage: Resourced) -> Resources:
        """`every_stage`, and over it what is said of this one."""
        own: ResourcesOfStage = getattr(self, stage)
        return self.every_stage.model_copy(update=own.model_dump(exclude_none=True))

    @model_validator(mode="after")
    def _possible(self) -> "ResourcesTable":
        problems: list[str] = []
        if self.every_stage.num_parts > 1 or self.every_stage.num_ranks > 1:
            problems.append("every_stage: one part and one task; say more for single stages")
        for stage in (
            "prompts",
            "harvest",
            "warmstart",
            "rollout",
            "critic",
            "evaluate",
            "report",
            "worker",
        ):
            if self.of(stage).num_ranks > 1:
                problems.append(f"{stage}: nodes and tasks_per_node are 1 but for fit and update")
        for stage in ("prompts", "warmstart", "fit", "critic", "update", "report", "worker"):
            if self.of(stage).num_parts > 1:
                problems.append(f"{stage}: num_parts is 1 but for rollout, evaluate and harvest")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class SlurmParams(Frozen):
    """How jobs reach a SLURM cluster; every value is matched against what sbatch may be given."""

    partition: Names | None
    account: Name | None
    qos: Name | None
    reservation: Name | None
    constraint: Constraint | None
    exclude: Nodes | None  # nodes that shall not be used
    gpu_type: Name | None
    python: Listed[tuple[Argument, ...]]  # the command that is Python on a node; [] the head's own
    setup: Listed[tuple[SetupLine, ...]]  # shell lines before it
    scratch: Folder | None  # TMPDIR of the jobs
    environment: Listed[tuple[Variable, ...]]  # the head's variables that jobs see, by name
    max_jobs: Annotated[int, Field(ge=1, le=10_000)]  # jobs of one array that run at once
    poll_s: Annotated[float, Field(ge=0.1, le=600)]  # between two questions to the scheduler
    warn_s: Seconds  # before its time limit, and at preemption, a job is told to save and end
    silent_s: Seconds  # a worker that says nothing for that long is dead
    max_idle_attempts: Few  # attempts at a stage that end early without a newer checkpoint or part


class Cluster(Frozen):
    """Where stages run. Nothing here enters a fingerprint."""

    executor: Literal["local", "in_process", "slurm"]
    allocation: Literal["stage", "round", "campaign"]  # how long one worker lives
    # Circumstance, as the device is: sums in another order differ in the last bits, so manifests
    # record it. A second thread gives 0.7-1.25x on a busy two-core machine for 3-7x the CPU time.
    num_threads: Annotated[int, Field(ge=1, le=256)]
    num_children: Annotated[int, Field(ge=1, le=64)]  # stages computed side by side
    timeout_min: Annotated[int, Field(ge=1)]
    hang_min: Positive | None = None  # a stage without progress for that long is ended; None: never
    mlflow: Address | None = None  # None: MLFLOW_TRACKING_URI, else a database beside the runs
    slurm: SlurmParams | None = None
    resources: ResourcesTable | None = None

    @property
    def hang_s(self) -> float | None:
        return None if self.hang_min is None else 60 * self.hang_min

    @model_validator(mode="after")
    def _whole(self) -> "Cluster":
        wanted = {"slurm": self.slurm, "resources": self.resources}
        lacking = [name for name, section in wanted.items() if section is None]
        if self.executor == "slurm" and lacking:
            raise ValueError(
                f"executor is slurm, but {' and '.join(lacking)} say nothing; "
                "params/cluster/slurm.yaml has every value with its meaning"
            )
        if self.executor == "slurm" and self.resources and self.allocation != "stage":
            shared: list[Resourced] = [
                name for name in SHARED if self.resources.of(name).num_ranks > 1
            ]
            if shared:
                raise ValueError(
                    f"resources.{shared[0]}.nodes * tasks_per_node is "
                    f"{self.resources.of(shared[0]).num_ranks}, and must be 1 with allocation "
                    f"{self.allocation}: a worker's children share one node; choose allocation: "
                    f"stage, or 1 for {' and '.join(shared)}"
                )
        return self
