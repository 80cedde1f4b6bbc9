"""SLURM's reasons for which a job waits, each with the field that helps, or that none is needed."""

import re

# First match counts. What is not here needs nothing: Resources, Priority, BeginTime ...
CURES = (
    (r"PartitionTimeLimit", "lower resources.{stage}.minutes, or choose another slurm.partition"),
    (r"PartitionNodeLimit", "lower resources.{stage}.nodes, or choose another slurm.partition"),
    (r"PartitionConfig|BadConstraints", "correct slurm.partition, slurm.constraint or exclude"),
    (r"DependencyNeverSatisfied", "it never starts: cancel it, and ask who gave it a dependency"),
    (r"JobHeldUser", "`scontrol release` lets it go"),
    (r"JobHeldAdmin", "an admin holds it: ask why"),
    (r"Reservation", "slurm.reservation has not begun, or is over"),
    (r"InvalidAccount|AccountNotAllowed", "correct slurm.account"),
    (r"InvalidQOS|QOSNotAllowed", "correct slurm.qos"),
    (r"Licenses", "licences are used up: it goes on by itself"),
    (r"(QOS|Assoc)\w*(Jobs|Submit)", "your jobs are at their limit: it goes on when others end"),
    (r"(QOS|Assoc)\w*Grp", "your group's share is used up: it goes on by itself, or ask for more"),
    (r"(QOS|Assoc)Max(Wall|Time)", "lower resources.{stage}.minutes, or choose another slurm.qos"),
    (r"(QOS|Assoc)Max\w*(GRES|Gres)", "lower resources.{stage}.gpus_per_task, or another qos"),
    (r"(QOS|Assoc)Max(Cpu|CPU)", "lower resources.{stage}.cpus_per_task, or another qos"),
    (r"(QOS|Assoc)Max(Mem)", "lower resources.{stage}.mem_gb, or choose another slurm.qos"),
    (r"(QOS|Assoc)Max(Node)", "lower resources.{stage}.nodes, or choose another slurm.qos"),
    (r"QOSMin", "raise resources.{stage} to the least that slurm.qos takes, or choose another"),
    (r"(QOS|Assoc)(Max|Usage)", "it is over a limit of slurm.qos or slurm.account: choose another"),
)


def cure(reason: str, stage: str) -> str:
    """Return what to do about a job that waits for this reason; "" where waiting is all."""
    found = (words for pattern, words in CURES if re.search(pattern, reason))
    return next(found, "").format(stage=stage)
