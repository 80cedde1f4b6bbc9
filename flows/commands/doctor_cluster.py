"""SLURM checks of `afd doctor --cluster`, each fault with its cure."""

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
PROBE_S = 90.0  # a busy queue may take longer: no verdict on the disk then
SKEW_S = 5.0
WORDS_TIMEOUT_S = 30


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    what: str
    verdict: Verdict
    text: str


def slurm_findings(cluster: Cluster, runs: Path, store: Path) -> Iterator[Finding]:
    """Check programs, controller, signals, accounting, sbatch and the shared disk."""
    slurm = cluster.slurm
    if slurm is None:
        return
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        text = f"{', '.join(absent)} not found: log in to a login node, or add SLURM's bin to PATH"
        yield Finding("slurm", "missing", text)
        return
    code, output = _words("scontrol", "show", "config")
    if code:
        why = _last(output)
        text = f"the controller does not answer ({why}): ask its admin, or look at SLURM_CONF"
        yield Finding("slurm", "missing", text)
        return
    config = dict(re.findall(r"^(\w+)[ \t]*=[ \t]*(.*?)[ \t]*$", output, flags=re.MULTILINE))
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
            text = (
                "a preempted job is not told: it goes on from its last periodic checkpoint; ask "
                "the admin for SlurmctldParameters=preempt_send_user_signal"
            )
            yield Finding("preemption", "warning", text)
    number = re.match(r"\d+", config.get("KillWait", ""))
    wait = int(number.group()) if number else 30  # SLURM's own default
    verdict: Verdict = "ok" if wait >= KILL_WAIT_S else "warning"
    text = f"KillWait {wait} s; jobs are told {slurm.warn_s} s before their limit (slurm.warn_s)"
    if verdict == "warning":
        text += "; cancelled and preempted ones have too little time to save: ask the admin for "
        text += f"KillWait of {KILL_WAIT_S} s or more"
    yield Finding("signals", verdict, text)


def _accounting() -> Finding:
    code, output = _words("sacct", "-n", "-X", "-S", "now")
    if code == 0:
        return Finding("accounting", "ok", "sacct answers")
    text = (
        f"sacct does not answer ({_last(output)}): ends are read from exit codes on disk; for "
        "reasons that outlast squeue's memory ask the admin for slurmdbd "
        "(AccountingStorageType=accounting_storage/slurmdbd)"
    )
    return Finding("accounting", "warning", text)


def _accepted(slurm: SlurmParams) -> Finding:
    """Check that sbatch takes a job of these params; nothing is submitted."""
    code, output = _words("sbatch", "--test-only", *_chosen(slurm), "--wrap=true")
    if code:
        text = f"{_last(output)}: {_cure(output)}"
        return Finding("sbatch", "missing", text)
    return Finding("sbatch", "ok", _last(output).removeprefix("sbatch: ") or "takes a job")


def _cure(output: str) -> str:
    """Return the cure for a job that sbatch refuses."""
    change = "change slurm.partition, account, qos or reservation"
    if "node configuration is not available" not in output:
        return change
    return f"its nodes may be drained or down (`sinfo -R` says why): ask the admin, or {change}"


def _shared(what: str, folder: Path, slurm: SlurmParams) -> Iterator[Finding]:
    """Check with a probe job that node and head read each other's files, and compare clocks."""
    at = folder.resolve()
    made = not at.exists()
    at.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    question, answer = at / f".probe-{token}", at / f".probe-{token}.answer"
    question.write_text(token)
    script = (
        f"test \"$(cat '{question}')\" = {token} && "
        f'printf \'{{"node": "%s", "at": %s}}\' "$(hostname)" "$(date +%s.%N)" '
        f"> '{answer}.part' && mv '{answer}.part' '{answer}'"
    )
    command = ["sbatch", "--parsable", "--export=PATH", "--job-name=afd-probe", "--time=2"]
    before = time.time()
    code, output = _words(*command, *_chosen(slurm), "--output=/dev/null", f"--wrap={script}")
    job = _last(output).split(";")[0]
    try:
        if code:
            yield Finding(f"{what} shared", "missing", f"{_last(output)}: the probe was not taken")
            return
        yield from _answered(f"{what} shared", at, answer, job, before)
    finally:
        _words("scancel", "--quiet", job)
        for file in (question, answer, Path(f"{answer}.part")):
            file.unlink(missing_ok=True)
        if made:
            at.rmdir()


def _answered(what: str, at: Path, answer: Path, job: str, before: float) -> Iterator[Finding]:
    deadline = time.monotonic() + PROBE_S
    while not answer.exists():
        _, state = _words("squeue", "--noheader", "--jobs", job, "--format=%T %r")
        is_over = not state.strip() or "COMPLET" in state
        if "FAILED" in state or (is_over and not _comes(answer)):
            text = f"the probe job {job} ended and left nothing in {at}: choose a shared disk"
            yield Finding(what, "missing", text)
            return
        if time.monotonic() > deadline:
            yield Finding(what, "warning", f"the probe job {job} still waits ({state.strip()})")
            return
        time.sleep(0.3)
    after = time.time()
    probe = json.loads(answer.read_text())
    yield Finding(what, "ok", f"{at}: node {probe['node']} reads and writes what the head does")
    skew = max(before - float(probe["at"]), float(probe["at"]) - after, 0.0)
    if skew > SKEW_S:
        text = f"{probe['node']} is {skew:.0f} s off the head's clock: ask the admin for NTP"
        yield Finding("clock", "warning", text)
    else:
        yield Finding("clock", "ok", f"{probe['node']} and the head agree within {SKEW_S:.0f} s")


def _comes(answer: Path) -> bool:
    """Return whether a file that a node has written becomes visible here within LATE_S seconds."""
    deadline = time.monotonic() + LATE_S
    while not answer.exists() and time.monotonic() < deadline:
        look_anew(answer.parent)
        time.sleep(0.3)
    return answer.exists()


def _chosen(slurm: SlurmParams) -> list[str]:
    """Return the sbatch options on which acceptance of a job depends."""
    names = ("partition", "account", "qos", "reservation", "constraint", "exclude")
    values = [(name, getattr(slurm, name)) for name in names]
    return [f"--{name}={value}" for name, value in values if value is not None]


def _words(*command: str) -> tuple[int, str]:
    """Run a command; return its exit code and its output on both streams."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=WORDS_TIMEOUT_S
        )
    except FileNotFoundError:
        return 127, f"{command[0]}: not found"
    except subprocess.TimeoutExpired:
        return 124, f"{command[0]} did not answer within {WORDS_TIMEOUT_S} s"
    return done.returncode, done.stdout + done.stderr


def _last(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
