"""Cluster file: executor, resources and services of a run. Nothing here enters a fingerprint."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from afd.config.cluster_values import (
    Address,
    Argument,
    Constraint,
    Few,
    Folder,
    Memory,
    Minutes,
    Name,
    Names,
    Nodes,
    SbatchFlag,
    Seconds,
    SetupLine,
    SrunFlag,
    Variable,
)
from afd.config.values import Listed, Positive, Section


class Resources(Section):
    """Resources of one job of a stage."""

    num_parts: Annotated[int, Field(ge=1, le=100_000)]
    """Jobs of one array that share the stage, 1 to 100000; above 1: rollout, evaluate, harvest."""
    nodes: Few
    """Nodes of a job, 1 to 1000."""
    tasks_per_node: Few
    """Ranks on a node, 1 to 1000: fit and update compute with nodes * tasks_per_node of them."""
    gpus_per_task: Annotated[int, Field(ge=0, le=64)]
    """GPUs of a rank, 0 to 64."""
    cpus_per_task: Few
    """CPU cores of a rank, 1 to 1000."""
    mem_gb: Memory | None
    """Memory of a node in GB, above 0; null: no --mem, where a cluster forbids it."""
    minutes: Minutes
    """Time limit in minutes, 1 to 100000."""

    @property
    def num_ranks(self) -> int:
        return self.nodes * self.tasks_per_node

    @property
    def memory(self) -> str:
        """Memory in words."""
        return "memory" if self.mem_gb is None else f"{self.mem_gb:g} GB of memory"


class ResourcesOfStage(Section):
    """Differences of one stage from `every_stage`."""

    num_parts: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Jobs of one array that share the stage, 1 to 100000; null: as every_stage."""
    nodes: Few | None = None
    """Nodes of a job, 1 to 1000; null: as every_stage."""
    tasks_per_node: Few | None = None
    """Ranks on a node, 1 to 1000; null: as every_stage."""
    gpus_per_task: Annotated[int, Field(ge=0, le=64)] | None = None
    """GPUs of a rank, 0 to 64; null: as every_stage."""
    cpus_per_task: Few | None = None
    """CPU cores of a rank, 1 to 1000; null: as every_stage."""
    mem_gb: Memory | None = None
    """Memory of a node in GB, above 0; null: as every_stage."""
    minutes: Minutes | None = None
    """Time limit in minutes, 1 to 100000; null: as every_stage."""


Resourced = Literal[
    "prompts", "harvest", "warmstart", "rollout", "fit", "critic", "update", "evaluate", "report",
    "worker",
]  # fmt: skip
SHARED: tuple[Resourced, ...] = ("fit", "update")  # stages that several ranks compute together
SPLITTABLE: tuple[Resourced, ...] = ("rollout", "evaluate", "harvest")  # into parts
NOTHING_ELSE = ResourcesOfStage()


class ResourcesTable(Section):
    """Resources by stage; `worker` is the job that computes many (allocation round, campaign)."""

    every_stage: Resources
    """Resources of a job of any stage: one part, one task."""
    prompts: ResourcesOfStage = NOTHING_ELSE
    """Differences for prompts."""
    harvest: ResourcesOfStage = NOTHING_ELSE
    """Differences for harvest."""
    warmstart: ResourcesOfStage = NOTHING_ELSE
    """Differences for warmstart."""
    rollout: ResourcesOfStage = NOTHING_ELSE
    """Differences for rollout."""
    fit: ResourcesOfStage = NOTHING_ELSE
    """Differences for fit."""
    critic: ResourcesOfStage = NOTHING_ELSE
    """Differences for critic."""
    update: ResourcesOfStage = NOTHING_ELSE
    """Differences for update."""
    evaluate: ResourcesOfStage = NOTHING_ELSE
    """Differences for evaluate."""
    report: ResourcesOfStage = NOTHING_ELSE
    """Differences for report."""
    worker: ResourcesOfStage = NOTHING_ELSE
    """Differences for the job of a worker (allocation round or campaign)."""

    def of(self, stage: Resourced) -> Resources:
        """Return the resources of `every_stage` with the differences of this one."""
        own: ResourcesOfStage = getattr(self, stage)
        return self.every_stage.model_copy(update=own.model_dump(exclude_none=True))

    @model_validator(mode="after")
    def _possible(self) -> "ResourcesTable":
        problems: list[str] = []
        if self.every_stage.num_parts > 1 or self.every_stage.num_ranks > 1:
            problems.append("every_stage: one part and one task; write more for single stages")
        for stage in get_args(Resourced):
            if stage not in SHARED and self.of(stage).num_ranks > 1:
                problems.append(f"{stage}: nodes and tasks_per_node are 1 but for fit and update")
            if stage not in SPLITTABLE and self.of(stage).num_parts > 1:
                problems.append(f"{stage}: num_parts is 1 but for rollout, evaluate and harvest")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class SlurmParams(Section):
    """Access to a SLURM cluster; only values that are safe on sbatch's command line pass."""

    partition: Names | None
    """Partition (sbatch -p); null: the cluster's default. `sinfo -s` lists them."""
    account: Name | None
    """Account (sbatch -A); null: your default. `sacctmgr show assoc user=$USER` lists yours."""
    qos: Name | None
    """Quality of service; null: the default."""
    reservation: Name | None
    """Reservation; null: none."""
    constraint: Constraint | None
    """Features of nodes, e.g. a100&nvlink; null: any."""
    exclude: Nodes | None
    """Nodes that are not used, e.g. n[3-4]; null: none."""
    gpu_type: Name | None
    """GPU type as in gres, e.g. a100; null: any."""
    python: Listed[tuple[Argument, ...]]
    """Command that is Python on a node; []: the head's own, on a shared disk."""
    setup: Listed[tuple[SetupLine, ...]]
    """Shell lines before it, e.g. "module load cuda/12.4"."""
    scratch: Folder | None
    """TMPDIR of the jobs, e.g. /scratch/$USER; null: the node's own."""
    environment: Listed[tuple[Variable, ...]]
    """Names of the head's variables that jobs inherit; names of secrets are refused."""
    max_jobs: Annotated[int, Field(ge=1, le=10_000)]
    """Jobs of one array that run at once, 1 to 10000."""
    poll_s: Annotated[float, Field(ge=0.1, le=600)]
    """Seconds between two queries of the scheduler, 0.1 to 600; one query is about all jobs."""
    warn_s: Seconds
    """Seconds before its time limit at which a job saves and ends, 1 to 86400."""
    silent_s: Seconds
    """Seconds without a sign after which a worker counts as lost, 1 to 86400."""
    max_idle_attempts: Few
    """Attempts at a stage that end early without a newer checkpoint or part, 1 to 1000."""
    gpus_as: Literal["task", "node", "gres"] = "task"
    """Flag that asks for GPUs: --gpus-per-task, --gpus-per-node or --gres=gpu:N."""
    sbatch_flags: Listed[tuple[SbatchFlag, ...]] = ()
    """Further flags of sbatch, each one word: --exclusive, --wckey=video, --licenses=x."""
    srun_flags: Listed[tuple[SrunFlag, ...]] = ()
    """Further flags of srun, e.g. --container-image=/shared/afd.sqsh, --gpu-bind=none."""


class Cluster(Section):
    """Circumstance of a run: executor, threads, services. Nothing here enters a fingerprint."""

    executor: Literal["local", "in_process", "slurm"]
    """Place of the stages: a worker process here, this very process, or SLURM jobs."""
    allocation: Literal["stage", "round", "campaign"]
    """Lifetime of one worker; stage: every stage is a process or job of its own."""
    num_threads: Annotated[int, Field(ge=1, le=256)]
    """Compute threads of a stage, 1 to 256.

    Circumstance, as the device is: sums in another order differ in the last bits, so manifests
    record it. A second thread gives 0.7-1.25x on a busy two-core machine for 3-7x the CPU time.
    """
    num_children: Annotated[int, Field(ge=1, le=64)]
    """Stages that a worker computes side by side, 1 to 64."""
    timeout_min: Annotated[int, Field(ge=1)]
    """Minutes to wait for a stage that another process makes, 1 or more."""
    hang_min: Positive | None = None
    """Minutes without progress after which a stage is ended, above 0; null: never."""
    mlflow: Address | None = None
    """MLflow's server: http://host:5000; null: MLFLOW_TRACKING_URI, else a database in runs/."""
    slurm: SlurmParams | None = None
    """Access to a SLURM cluster; needed where executor is slurm."""
    resources: ResourcesTable | None = None
    """Resources of jobs; needed where executor is slurm."""

    @property
    def hang_s(self) -> float | None:
        return None if self.hang_min is None else 60 * self.hang_min

    @model_validator(mode="after")
    def _whole(self) -> "Cluster":
        required = {"slurm": self.slurm, "resources": self.resources}
        missing = [name for name, section in required.items() if section is None]
        if self.executor == "slurm" and missing:
            raise ValueError(
                f"executor is slurm, but {' and '.join(missing)} say nothing; "
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
