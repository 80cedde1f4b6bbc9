"""Batch script of a stage's job from a cluster's params: its flags and its lines before Python."""

import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afd.config import Cluster
from afd.config.cluster import Resourced, Resources, SlurmParams

if TYPE_CHECKING:
    from flows.jobs.sbatch import Sbatch

# What every program expects to find, and what tests say to the stages.
INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "SLURM_CONF")
OWN = ("AFD_CHECKPOINT_PERIOD_S", "AFD_FAILPOINT")
SETUP_FAILED = 97  # exit code of the script; no stage ends with it
FREE_PORT = "import socket; s = socket.socket(); s.bind(('', 0)); print(s.getsockname()[1])"


def sections(cluster: Cluster, resourced: Resourced) -> tuple[SlurmParams, Resources]:
    """Return the SLURM params and the resources of a stage."""
    if cluster.slurm is None or cluster.resources is None:
        raise TypeError("the cluster's params do not describe a SLURM cluster")
    return cluster.slurm, cluster.resources.of(resourced)


def batch(folder: Path, cluster: Cluster, resourced: Resourced, name: str, token: str) -> "Sbatch":
    """Return the executor whose script asks for what this stage's job needs."""
    from flows.jobs.sbatch import Sbatch

    slurm, resources = sections(cluster, resourced)
    executor = Sbatch(folder, _python(slurm), (*INHERITED, *OWN, *slurm.environment))
    executor.update_parameters(**_parameters(cluster, slurm, resources, name, token))
    return executor


def _parameters(
    cluster: Cluster, slurm: SlurmParams, resources: Resources, name: str, token: str
) -> dict[str, Any]:
    further: dict[str, Any] = {"requeue": True}
    for flag in slurm.sbatch_flags:
        word, _, value = flag.removeprefix("--").partition("=")
        further[word] = value or True
    if slurm.reservation is not None:
        further["reservation"] = slurm.reservation
    chosen: dict[str, Any] = {
        "job_name": name,
        "comment": token,
        "wckey": None,
        "time": resources.minutes,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.tasks_per_node,
        "cpus_per_task": resources.cpus_per_task,
        **_gpus(slurm, resources),
        "mem": None if resources.mem_gb is None else f"{math.ceil(resources.mem_gb * 1024)}MB",
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "exclude": slurm.exclude,
        "signal_delay_s": slurm.warn_s,
        "stderr_to_stdout": True,
        # The job's environment reaches the step whole, and a rank that fails ends the others.
        "srun_args": ["--export=ALL", "--kill-on-bad-exit=1", *slurm.srun_flags],
        "setup": _setup(cluster, slurm, resources),
        "additional_parameters": further,
    }
    return chosen


def _gpus(slurm: SlurmParams, resources: Resources) -> dict[str, str]:
    """Return the one flag that asks for GPUs; sites take one of the three and refuse the others."""
    if not resources.gpus_per_task:
        return {}
    kind = f"{slurm.gpu_type}:" if slurm.gpu_type else ""
    num_of_node = resources.gpus_per_task * resources.tasks_per_node
    match slurm.gpus_as:
        case "task":
            return {"gpus_per_task": f"{kind}{resources.gpus_per_task}"}
        case "node":
            return {"gpus_per_node": f"{kind}{num_of_node}"}
        case "gres":
            return {"gres": f"gpu:{kind}{num_of_node}"}


def _setup(cluster: Cluster, slurm: SlurmParams, resources: Resources) -> list[str]:
    threads = str(cluster.num_threads)
    lines = [
        f"export OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads}",
        # From 22.05 on srun does not take it over from sbatch.
        f"export SRUN_CPUS_PER_TASK={resources.cpus_per_task}",
    ]
    if slurm.scratch is not None:
        lines += [f'export TMPDIR="{slurm.scratch}"', 'mkdir -p "$TMPDIR"']
    for line in slurm.setup:
        message = shlex.quote(f"slurm.setup: `{line}` failed")
        lines += [f"{line} || {{ echo {message}; exit {SETUP_FAILED}; }}"]
    if resources.num_ranks > 1:  # this script runs on the node of rank 0
        port = f"$({_python(slurm)} -c {shlex.quote(FREE_PORT)})"
        lines += [f'export AFD_RENDEZVOUS="$(hostname):{port}"']
    return lines


def _python(slurm: SlurmParams) -> str:
    return " ".join(slurm.python) if slurm.python else shlex.quote(sys.executable)
