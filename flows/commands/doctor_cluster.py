"""What `afd doctor --cluster` looks at on a SLURM cluster, each with what to change."""

import json
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from afd.config import Cluster
from afd.config.cluster import SlurmParams
from flows.jobs.site import LATE_S, look_anew

Verdict = Literal["ok", "warning", "missing"]
PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol")
KILL_WAIT_S = 10  # to write a checkpoint; SLURM's default is 30
PROBE_S = 90.0  # in a busy queue the probe may wait longer: then nothing is said against the disk
SKEW_S = 5.0
WORDS_TIMEOUT_S = 30


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    verdict: Verdict
    told: str


def slurm_findings(cluster: Cluster, runs: Path, store: Path) -> Iterator[Finding]:
    """From the programs to a job that really writes where the head reads."""
    slurm = cluster.slurm
    if slurm is None:
        return
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        told = f"{', '.join(absent)} not found: log in to a login node, or add SLURM's bin to PATH"
        yield Finding("slurm", "missing", told)
        return
    code, said = _words("scontrol", "show", "config")
    if code:
        told = (
            f"the controller does not answer ({_last(said)}): ask its admin, or look at SLURM_CONF"
        )
        yield Finding("slurm", "missing", told)
        return
    config = dict(re.findall(r"^(\w+)[ \t]*=[ \t]*(.*?)[ \t]*$", said, flags=re.MULTILINE))
    yield Finding("slurm", "ok", f"SLURM {config.get('SLURM_VERSION', '?')} answers")
    yield from _signals(config, slurm)
    yield _accounting()
    taken = _accepted(slurm)
    yield taken
    if taken.verdict == "ok":
        for what, folder in (("runs", runs), ("store", store)):
            yield from _shared(what, folder, slurm)


def _signals(config: dict[str, str], slurm: SlurmParams) -> Iterator[Finding]:
    if "OFF" not in config.get("PreemptMode", "OFF"):
        if "preempt_send_user_signal" in config.get("SlurmctldParameters", ""):
            yield Finding("preemption", "ok", "a preempted job is told to save its checkpoint")
        else:
            told = (
                "a preempted job is not told: it goes on from its last periodic checkpoint; ask "
                "the admin for SlurmctldParameters=preempt_send_user_signal"
            )
            yield Finding("preemption", "warning", told)
    number = re.match(r"\d+", config.get("KillWait", ""))
    wait = int(number.group()) if number else 30  # SLURM's own default
    verdict: Verdict = "ok" if wait >= KILL_WAIT_S else "warning"
    told = f"KillWait {wait} s; jobs are told {slurm.warn_s} s before their limit (slurm.warn_s)"
    if verdict == "warning":
        told += "; cancelled and preempted ones have too little time to save: ask the admin for "
        told += f"KillWait of {KILL_WAIT_S} s or more"
    yield Finding("signals", verdict, told)


def _accounting() -> Finding:
    code, said = _words("sacct", "-n", "-X", "-S", "now")
    if code == 0:
        return Finding("accounting", "ok", "sacct answers")
    told = (
        f"sacct does not answer ({_last(said)}): ends are read from exit codes on disk; for "
        "reasons that outlast squeue's memory ask the admin for slurmdbd "
        "(AccountingStorageType=accounting_storage/slurmdbd)"
    )
    return Finding("accounting", "warning", told)


def _accepted(slurm: SlurmParams) -> Finding:
    """Whether sbatch would take a job of these params: nothing is submitted."""
    code, said = _words("sbatch", "--test-only", *_chosen(slurm), "--wrap=true")
    if code:
        told = f"{_last(said)}: {_cure(said)}"
        return Finding("sbatch", "missing", told)
    return Finding("sbatch", "ok", _last(said).removeprefix("sbatch: ") or "takes a job")


def _cure(said: str) -> str:
    """Of a job that sbatch would not take."""
    change = "change slurm.partition, account, qos or reservation"
    if "node configuration is not available" not in said:
        return change
    return f"its nodes may be drained or down (`sinfo -R` says why): ask the admin, or {change}"


def _shared(what: str, folder: Path, slurm: SlurmParams) -> Iterator[Finding]:
    """A probe job reads what the head wrote, and the head what the job wrote; and their clocks."""
    at = folder.resolve()
    made = not at.exists()
    at.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    asked, answer = at / f".probe-{token}", at / f".probe-{token}.answer"
    asked.write_text(token)
    script = (
        f"test \"$(cat '{asked}')\" = {token} && "
        f'printf \'{{"node": "%s", "at": %s}}\' "$(hostname)" "$(date +%s.%N)" '
        f"> '{answer}.part' && mv '{answer}.part' '{answer}'"
    )
    command = ["sbatch", "--parsable", "--export=PATH", "--job-name=afd-probe", "--time=2"]
    before = time.time()
    code, said = _words(*command, *_chosen(slurm), "--output=/dev/null", f"--wrap={script}")
    job = _last(said).split(";")[0]
    try:
        if code:
            yield Finding(f"{what} shared", "missing", f"{_last(said)}: the probe was not taken")
            return
        yield from _answered(f"{what} shared", at, answer, job, before)
    finally:
        _words("scancel", "--quiet", job)
        for file in (asked, answer, Path(f"{answer}.part")):
            file.unlink(missing_ok=True)
        if made:
            at.rmdir()


def _answered(what: str, at: Path, answer: Path, job: str, before: float) -> Iterator[Finding]:
    deadline = time.monotonic() + PROBE_S
    while not answer.exists():
        _, state = _words("squeue", "--noheader", "--jobs", job, "--format=%T %r")
        is_over = not state.strip() or "COMPLET" in state
        if "FAILED" in state or (is_over and not _comes(answer)):
            told = f"the probe job {job} ended and left nothing in {at}: choose a shared disk"
            yield Finding(what, "missing", told)
            return
        if time.monotonic() > deadline:
            yield Finding(what, "warning", f"the probe job {job} still waits ({state.strip()})")
            return
        time.sleep(0.3)
    after = time.time()
    told = json.loads(answer.read_text())
    yield Finding(what, "ok", f"{at}: node {told['node']} reads and writes what the head does")
    skew = max(before - float(told["at"]), float(told["at"]) - after, 0.0)
    if skew > SKEW_S:
        said = f"{told['node']} is {skew:.0f} s off the head's clock: ask the admin for NTP"
        yield Finding("clock", "warning", said)
    else:
        yield Finding("clock", "ok", f"{told['node']} and the head agree within {SKEW_S:.0f} s")


def _comes(answer: Path) -> bool:
    """Whether a file that a node has written shows itself here."""
    deadline = time.monotonic() + LATE_S
    while not answer.exists() and time.monotonic() < deadline:
        look_anew(answer.parent)
        time.sleep(0.3)
    return answer.exists()


def _chosen(slurm: SlurmParams) -> list[str]:
    """The options that decide whether a job is taken."""
    names = ("partition", "account", "qos", "reservation", "constraint", "exclude")
    values = [(name, getattr(slurm, name)) for name in names]
    return [f"--{name}={value}" for name, value in values if value is not None]


def _words(*command: str) -> tuple[int, str]:
    """Exit code and everything it said."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=WORDS_TIMEOUT_S
        )
    except FileNotFoundError:
        return 127, f"{command[0]}: not found"
    except subprocess.TimeoutExpired:
        return 124, f"{command[0]} did not answer within {WORDS_TIMEOUT_S} s"
    return done.returncode, done.stdout + done.stderr


def _last(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
