"""Values of a cluster's params that are safe on the command lines of sbatch and srun."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field


def _allowed(pattern: str, rule: str) -> AfterValidator:
    """Refuse a value that `pattern` does not match as a whole.

    So no quote, newline or second flag reaches sbatch.
    """

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
Memory = Annotated[float, Field(gt=0, le=100_000)]
FLAG = r"--[a-z][a-z0-9-]{0,63}(=[\w./:=,+@%~#&*()\[\]-]{1,500})?"
ONE_FLAG = "one flag in one word, --name or --name=value, of letters, digits and _ . / : , + @ # -"
# Flags that the cluster's params have a field for, and those on which the head relies.
FIELD_OF = {
    **{name: f"slurm.{name}" for name in ("account", "partition", "qos", "reservation")},
    **{name: f"slurm.{name}" for name in ("constraint", "exclude")},
    "array": "resources.<stage>.num_parts",
    "cpus-per-task": "resources.<stage>.cpus_per_task",
    "gpus": "resources.<stage>.gpus_per_task",
    "gpus-per-node": "resources.<stage>.gpus_per_task with slurm.gpus_as: node",
    "gpus-per-task": "resources.<stage>.gpus_per_task with slurm.gpus_as: task",
    "gres": "resources.<stage>.gpus_per_task with slurm.gpus_as: gres",
    "mem": "resources.<stage>.mem_gb",
    "nodes": "resources.<stage>.nodes",
    "ntasks": "resources.<stage>.tasks_per_node",
    "ntasks-per-node": "resources.<stage>.tasks_per_node",
    "signal": "slurm.warn_s",
    "time": "resources.<stage>.minutes",
}
OURS = frozenset(
    {
        *("begin", "chdir", "clusters", "comment", "dependency", "error", "export", "export-file"),
        *("help", "hold", "input", "job-name", "jobid", "kill-on-bad-exit", "label", "multi-prog"),
        *("no-kill", "no-requeue", "open-mode", "output", "parsable", "pty", "quiet", "requeue"),
        *("test-only", "unbuffered", "usage", "version", "wait", "wrap"),
    }
)


def _free(flag: str) -> str:
    name = flag.removeprefix("--").partition("=")[0]
    if name in FIELD_OF:
        raise ValueError(f"--{name} has a field: {FIELD_OF[name]}")
    if name in OURS:
        raise ValueError(f"--{name} is chosen by AFD, which finds its jobs and logs by it")
    return flag


SbatchFlag = Annotated[str, _allowed(FLAG, ONE_FLAG), AfterValidator(_free)]
SrunFlag = SbatchFlag
